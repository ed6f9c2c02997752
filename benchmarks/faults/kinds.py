"""Cases of everything else that is exchanged: hierarchical and overlapped DDP, FSDP2, local steps."""

from typing import Any

from benchmarks.faults.cases import CONTINUES, ERROR, Case
from benchmarks.faults.injections import CodecFails, Damage, NonFinite, Options, Strike
from trafficzip.presets import THREE_LC_RANS, with_multiplier

_KILLED = Strike(action="kill", at="exchange")
_FROZEN = Strike(action="freeze", at="exchange")
_FROZEN_5_S = Strike(action="freeze", at="exchange", seconds=5.0)
_CUT_5_S = Strike(action="cut", seconds=5.0)
_OTHER_MULTIPLIER = Options(options={"compressor": with_multiplier(THREE_LC_RANS, 1.5)})
_CAUGHT: dict[str, Any] = {"fault": Damage(how="flip"), "catches": 2, "steps": 12, "says": r"earlier.*rank \d"}


def kinds() -> list[Case]:
    """Give all of them."""
    return [*hierarchical(), *overlapped(), *sharded(), *local_steps()]


def hierarchical() -> list[Case]:
    """Two nodes of two ranks; a bucket's first exchange is inside nodes, the second between them."""

    def case(name: str, expected: str, **options: Any) -> Case:
        options = {"timeout_s": 8.0} | options
        name = f"{name}, hierarchical"
        return Case(name=name, expected=expected, exchange="hierarchical", world_size=4, nodes=(0, 0, 1, 1), **options)

    between = Strike(action="kill", at="exchange", call=1)
    return [
        case("killed inside a node", ERROR, fault=_KILLED, fallen=(1,)),
        case("killed between nodes", ERROR, fault=between, fallen=(1,)),
        # Ranks 2 and 3 may wait for rank 0, which waits for rank 1. All waits end at once, so only rank 0 is sure to
        # know which rank it was; a Gloo wait that has timed out closes the connections by which it could tell.
        case(
            "frozen inside a node",
            ERROR,
            fault=_FROZEN,
            fallen=(1,),
            says=r"rank 1\b|silent for 8 s, perhaps because it waits for another rank",
        ),
        case("frozen for 5 s inside a node", CONTINUES, fault=_FROZEN_5_S, timeout_s=30.0),
        case("a bit flipped between nodes", ERROR, fault=Damage(how="flip"), struck=(2,), says=r"rank 2\b"),
        case("other nodes", ERROR, fault=Options(options={"nodes": (0, 1, 0, 1)}), says="disagree about nodes"),
        case("not finite in one step", CONTINUES, fault=NonFinite(), exact=False, nonfinite_steps=1),
        case("link cut for 5 s", CONTINUES, fault=_CUT_5_S, timeout_s=40.0, network=True),
        case("link cut for good", ERROR, fault=Strike(action="cut"), says=r"rank \d", network=True),
    ]


def overlapped() -> list[Case]:
    """Buckets travel on a thread while the backward pass goes on."""

    def case(name: str, expected: str, **options: Any) -> Case:
        options = {"timeout_s": 8.0} | options
        return Case(name=f"{name}, overlapped", expected=expected, exchange="two_phase", overlap=True, **options)

    return [
        case("killed within an exchange", ERROR, fault=_KILLED, fallen=(1,)),
        case("frozen within an exchange", ERROR, fault=_FROZEN, fallen=(1,)),
        case("frozen for 5 s within an exchange", CONTINUES, fault=_FROZEN_5_S, timeout_s=30.0),
        case("a bit flipped", ERROR, fault=Damage(how="flip"), says=r"rank \d"),
        case("an error is caught and training goes on", ERROR, **_CAUGHT),
        case("memory error in the codec", ERROR, fault=CodecFails(), fallen=(1,)),
        case("not finite in one step", CONTINUES, fault=NonFinite(), exact=False, nonfinite_steps=1),
    ]


def sharded() -> list[Case]:
    """FSDP2, compressed reduce-scatters."""

    def case(name: str, expected: str, **options: Any) -> Case:
        options = {"timeout_s": 8.0} | options
        return Case(name=f"{name}, FSDP2", expected=expected, kind="fsdp", exchange="reduce_scatter", **options)

    return [
        case("killed within a reduce-scatter", ERROR, fault=_KILLED, fallen=(1,)),
        case("frozen within a reduce-scatter", ERROR, fault=_FROZEN, fallen=(1,)),
        case("frozen for 5 s within a reduce-scatter", CONTINUES, fault=_FROZEN_5_S, timeout_s=30.0),
        case(
            "killed between steps",
            ERROR,
            fault=Strike(action="kill"),
            fallen=(1,),
            raises="RuntimeError",  # torch's: what comes first is its all-gather of weights
            says=r"Connection (closed|reset) by peer|[Tt]imed? ?out",
        ),
        case("a bit flipped", ERROR, fault=Damage(how="flip"), says=r"rank \d"),
        case("an error is caught and training goes on", ERROR, **_CAUGHT),
        case("another multiplier", ERROR, fault=_OTHER_MULTIPLIER, says=r"disagree about compressor.*1\.5"),
        case("not finite in one step", CONTINUES, fault=NonFinite(), exact=False, nonfinite_steps=1),
        case("link cut for 5 s", CONTINUES, fault=_CUT_5_S, timeout_s=40.0, network=True),
    ]


def local_steps() -> list[Case]:
    """Local steps, a round after every second step."""

    def case(name: str, expected: str, **options: Any) -> Case:
        options = {"timeout_s": 8.0} | options
        return Case(name=f"{name}, local steps", expected=expected, kind="local", **options)

    return [
        case("killed between rounds", ERROR, fault=Strike(action="kill"), fallen=(1,)),
        case("killed within a round", ERROR, fault=_KILLED, fallen=(1,)),
        case("killed within a round of two phases", ERROR, exchange="two_phase", fault=_KILLED, fallen=(1,)),
        case("frozen within a round", ERROR, fault=_FROZEN, fallen=(1,)),
        case("frozen for 5 s between rounds", CONTINUES, fault=Strike(action="freeze", seconds=5.0), timeout_s=30.0),
        case("a bit flipped", ERROR, fault=Damage(how="flip"), says=r"rank \d"),
        case("an error is caught and training goes on", ERROR, **_CAUGHT),
        case(
            "another number of steps in a round",
            ERROR,
            fault=Options(options={"every": 4}),
            says="disagree about every",
        ),
        case("another outer rate", ERROR, fault=Options(options={"outer_lr": 0.5}), says="disagree about outer_lr"),
        case("a model that is not finite", CONTINUES, fault=NonFinite(), exact=False, nonfinite_steps=1),
        case("link cut for 5 s", CONTINUES, fault=_CUT_5_S, timeout_s=40.0, network=True),
        case("5 % of packets lost", CONTINUES, loss=0.05, steps=16, timeout_s=60.0, network=True),
    ]
