"""The scripted cases, in the order in which they are run."""

from benchmarks.faults.cases import CONTINUES, ERROR, Case
from benchmarks.faults.injections import CodecFails, Damage, NonFinite, Options, Strike
from benchmarks.faults.kinds import kinds
from trafficzip.ddp import Phase, Schedule
from trafficzip.presets import THREE_LC, THREE_LC_RANS, with_multiplier

EXCHANGES = {"all_gather": 3, "two_phase": 4}  # ranks of the cases that run both


def _both(name: str, expected: str, **options: object) -> list[Case]:
    return [
        Case(**({"world_size": ranks} | options), name=f"{name}, {exchange}", expected=expected, exchange=exchange)  # type: ignore[arg-type]
        for exchange, ranks in EXCHANGES.items()
    ]


def deaths() -> list[Case]:
    """A rank is killed, raises or leaves."""
    fallen = (1,)
    cases = [
        *_both("killed before the first step", ERROR, fault=Strike(action="kill", step=0), fallen=fallen),
        *_both("killed between the first two steps", ERROR, fault=Strike(action="kill", step=1), fallen=fallen),
        *_both("killed between steps", ERROR, fault=Strike(action="kill"), fallen=fallen),
        *_both("killed within an exchange", ERROR, fault=Strike(action="kill", at="exchange"), fallen=fallen),
        *_both("raises in user code", ERROR, fault=Strike(action="raise"), fallen=fallen),
        *_both("leaves early", ERROR, fault=Strike(action="leave"), fallen=fallen),
    ]
    cases.append(
        Case(
            name="killed between push and pull, two_phase",
            expected=ERROR,
            exchange="two_phase",
            world_size=4,
            fault=Strike(action="kill", at="exchange", call=3),
            fallen=fallen,
        )
    )
    cases.append(
        Case(name="killed, two ranks", expected=ERROR, world_size=2, fault=Strike(action="kill"), fallen=fallen)
    )
    cases.append(
        Case(
            name="killed before the model is wrapped",
            expected=ERROR,
            fault=Strike(action="kill", at="model"),
            fallen=fallen,
            timeout_s=8.0,
            raises="RuntimeError",  # torch's, in DistributedDataParallel's constructor: nothing of ours runs yet
            says=r"Connection (closed|reset) by peer|[Tt]imed? ?out",
        )
    )
    cases += [
        Case(
            name=f"killed {where}",
            expected=ERROR,
            fault=Strike(action="kill", at=at),
            fallen=fallen,
            timeout_s=8.0,
        )
        for at, where in {
            "register": "before register",
            "groups": "while groups are made",
            "agreement": "before settings are compared",
        }.items()
    ]
    return cases


def freezes() -> list[Case]:
    """A rank is stopped, for good or for some seconds."""
    return [
        *_both("frozen for good", ERROR, fault=Strike(action="freeze"), fallen=(1,), timeout_s=6.0),
        Case(
            name="frozen for good in register",
            expected=ERROR,
            fault=Strike(action="freeze", at="register"),
            fallen=(1,),
            timeout_s=6.0,
        ),
        Case(
            name="frozen longer than the timeout, then continued, two_phase",
            expected=ERROR,
            exchange="two_phase",
            fault=Strike(action="freeze", seconds=14.0),
            timeout_s=5.0,
            says=r"rank \d",
        ),
        *_both("frozen for 5 s", CONTINUES, fault=Strike(action="freeze", seconds=5.0), timeout_s=30.0),
        Case(
            name="frozen for 5 s within an exchange, two_phase",
            expected=CONTINUES,
            exchange="two_phase",
            fault=Strike(action="freeze", seconds=5.0, at="exchange"),
            timeout_s=30.0,
        ),
    ]


def disagreements() -> list[Case]:
    """A rank has another configuration, model, version or view of the group."""
    schedule = Schedule(phases=(Phase(until=0.5), Phase(compressor=THREE_LC_RANS)), total_steps=8)
    different = {
        "multiplier": (Options(options={"compressor": with_multiplier(THREE_LC_RANS, 1.5)}), "schedule.*1.5"),
        "codec": (Options(options={"compressor": THREE_LC}), "schedule"),
        "exchange": (Options(options={"exchange": "two_phase"}), "exchange.*two_phase"),
        "small_elements": (Options(options={"small_elements": 512}), "small_elements.*512"),
        "schedule": (Options(options={"compressor": schedule}), "schedule.*until"),
        "version": (Options(version="9.9.9"), "version.*9.9.9"),
    }
    cases = [
        Case(name=f"another {what}", expected=ERROR, fault=fault, says=rf"disagree about {says}.*|rank 1\b.*{says}")
        for what, (fault, says) in different.items()
    ]
    cases.append(
        Case(
            name="an option that is refused on one rank",
            expected=ERROR,
            fault=Options(options={"small_elements": -1}),
            says=r"rank 1 refused.*small_elements|small_elements must be",
        )
    )
    cases.append(
        Case(
            name="another view of the group",
            expected=ERROR,
            fault=Options(ranks=(1, 2)),
            struck=(1, 2),
            apart=(1, 2),
            timeout_s=6.0,
            raises="RuntimeError",  # torch's: rank 0 waits for the others in DistributedDataParallel's constructor
            says=r"Connection (closed|reset) by peer|[Tt]imed? ?out",
        )
    )
    cases.append(
        Case(
            name="another model",
            expected=ERROR,
            fault=Options(hidden=120),
            timeout_s=8.0,
            raises="RuntimeError",  # torch's: its constructor compares shapes; the odd rank says which, and leaves
            says=r"params\[0\] in this process with sizes|Connection (closed|reset) by peer|rank 1\b",
        )
    )
    cases.append(
        Case(
            name="the same shapes under other names",
            expected=ERROR,
            fault=Options(renames=True),
            says="disagree about parameters",
        )
    )
    cases.append(
        Case(
            name="one rank does not register",
            expected=ERROR,
            fault=Options(registers=False),
            fallen=(1,),
            timeout_s=8.0,
        )
    )
    return cases


def damages() -> list[Case]:
    """A message arrives otherwise than it was sent."""
    says = r"rank \d"
    cases = []
    for how, what in {
        "flip": "a bit flipped",
        "truncate": "truncated",
        "announce": "another length announced",
        "twice": "a message sent twice",
        "zero": "its head zeroed",
    }.items():
        cases += _both(what, ERROR, fault=Damage(how=how), says=says)
    cases.append(
        Case(
            name="a bit flipped between owners, two_phase",
            expected=ERROR,
            exchange="two_phase",
            fault=Damage(how="flip", call=1),
            says=says,
        )
    )
    cases.append(
        Case(name="a bit flipped in the settings", expected=ERROR, fault=Damage(how="flip", step=-1), says=says)
    )
    cases.append(
        Case(
            name="an error is caught and training goes on",
            expected=ERROR,
            fault=Damage(how="flip"),
            catches=2,
            steps=12,
            says=r"earlier.*rank \d",
        )
    )
    return cases


def values() -> list[Case]:
    """A rank's gradients are not finite, or its codec has no memory."""
    return [
        *_both("not finite in one step", CONTINUES, fault=NonFinite(), exact=False, nonfinite_steps=1),
        *_both("not finite, GradScaler", CONTINUES, fault=NonFinite(), exact=False, nonfinite_steps=1, scaler=True),
        *_both("memory error in the codec", ERROR, fault=CodecFails(), says=r"rank 1\b|MemoryError", fallen=(1,)),
        Case(
            name="memory error in an owner's codec, two_phase",
            expected=ERROR,
            exchange="two_phase",
            fault=CodecFails(method="_compress_mean"),
            fallen=(1,),
        ),
    ]


def links() -> list[Case]:
    """A link is cut, slow, or drops packets; needs network namespaces."""
    cut, late = Strike(action="cut", seconds=5.0), Strike(action="cut", seconds=5.0, at="exchange")
    return [
        *_both("link cut for 5 s", CONTINUES, fault=cut, timeout_s=40.0, network=True),
        Case(
            name="link cut for 5 s within an exchange, two_phase",
            expected=CONTINUES,
            exchange="two_phase",
            fault=late,
            timeout_s=40.0,
            network=True,
        ),
        *_both("link cut for good", ERROR, fault=Strike(action="cut"), says=r"rank \d", timeout_s=8.0, network=True),
        *_both("1 % of packets lost", CONTINUES, loss=0.01, steps=30, timeout_s=60.0, network=True),
        *_both("5 % of packets lost", CONTINUES, loss=0.05, steps=16, timeout_s=60.0, network=True),
        *_both("20 ms of delay on every link", CONTINUES, delay_ms=20.0, timeout_s=60.0, network=True),
    ]


def all_cases() -> list[Case]:
    """Give every case that one set of processes runs; restarts are in `elastic`."""
    return [*deaths(), *freezes(), *disagreements(), *damages(), *values(), *links(), *kinds()]
