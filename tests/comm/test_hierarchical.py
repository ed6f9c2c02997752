"""The hierarchical exchange against two phases between nodes, with the means of nodes computed plainly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.comm.test_exchange import SIZES, Rank, Simulation, in_threads, make_gradients, residuals
from trafficzip.comm.exchange import Codecs
from trafficzip.comm.layout import Parameter
from trafficzip.comm.local import local_transports
from trafficzip.comm.nodes import Nodes
from trafficzip.errors import CollectiveError, CorruptPayloadError
from trafficzip.presets import BFLOAT16, QUARTIC, THREE_LC, THREE_LC_RANS, with_multiplier

MAPS = [
    [0, 0, 1, 1],
    [0, 1, 0, 1],
    [0, 1, 1, 2, 2, 2],
    [2, 0, 2, 1, 2, 0],
    [0, 0, 0],
    [0, 1, 2],
    [5, 5, 9, 9, 9],
]
CODECS = Codecs(push=THREE_LC_RANS, pull=THREE_LC_RANS, small=BFLOAT16)
PARAMETERS = [Parameter("a", 700, False), Parameter("b", 140_000, False), Parameter("c", 9, True)]


def make_ranks(of_rank, parameters=PARAMETERS, *, codecs=CODECS, timeout_s=30.0):
    transports = local_transports(len(of_rank), timeout_s=timeout_s)
    nodes = Nodes(of_rank)
    return [Rank(t, parameters, codecs=codecs, kind="hierarchical", nodes=nodes) for t in transports]


def run(members, gradients, buckets):
    found = in_threads([lambda r=r, m=m: m.step(gradients[r], buckets) for r, m in enumerate(members)])
    for result in found:
        assert not isinstance(result, Exception), result
    return found


def node_means(gradients, nodes):
    """Add up each node's gradients in rank order; divide by the average number of ranks on a node."""
    share = np.float32(len(gradients) / len(nodes.members))
    means = []
    for ranks in nodes.members:
        total = {name: value.copy() for name, value in gradients[ranks[0]].items()}
        for rank in ranks[1:]:
            for name in total:
                total[name] += gradients[rank][name]
        means.append({name: value / share for name, value in total.items()})
    return means


@st.composite
def problems(draw):
    of_rank = draw(st.one_of(st.sampled_from(MAPS), st.lists(st.integers(0, 2), min_size=1, max_size=6)))
    sizes = draw(st.lists(st.tuples(SIZES, st.booleans()), min_size=1, max_size=4))
    parameters = [Parameter(f"p{k}", size, small) for k, (size, small) in enumerate(sizes)]
    names = [p.name for p in parameters]
    cut = draw(st.integers(0, len(names)))
    buckets = [bucket for bucket in (names[cut:], names[:cut]) if bucket]
    multipliers = draw(st.sampled_from([(1.0, 1.0), (1.75, 1.0), (0.5, 1.9)]))
    return of_rank, parameters, buckets, multipliers, draw(st.integers(0, 2**32 - 1))


@settings(max_examples=60, deadline=None)
@given(problems(), st.sampled_from([QUARTIC, THREE_LC, THREE_LC_RANS]))
def test_equals_two_phases_over_node_means_in_plain_numpy(problem, compressor):
    of_rank, parameters, buckets, (push, pull), seed = problem
    codecs = Codecs(push=with_multiplier(compressor, push), pull=with_multiplier(compressor, pull), small=BFLOAT16)
    members = make_ranks(of_rank, parameters, codecs=codecs)
    nodes = members[0].exchange.nodes
    expected = Simulation(members[0].pieces, len(nodes.members), push=push, pull=pull, two_phase=True)
    rng = np.random.default_rng(seed)
    held = {p.name: np.zeros(p.size, int) for p in parameters}
    for _ in range(3):
        gradients = make_gradients(rng, parameters, len(of_rank))
        means = expected.step(node_means(gradients, nodes))
        found = run(members, gradients, buckets)
        for rank, member in enumerate(members):
            for p in parameters:
                assert found[rank][p.name].tobytes() == means[p.name].tobytes()
            for piece in member.layout.worker:
                kept = expected.worker[nodes.of_rank[rank]][piece.parameter.name][piece.start :][: piece.size]
                assert member.exchange.worker[piece.parameter.name].tobytes() == kept.tobytes()
                held[piece.parameter.name][piece.start :][: piece.size] += 1
            for piece in member.layout.owner:
                kept = expected.owner[piece.parameter.name][piece.start :][: piece.size]
                assert member.exchange.owner[piece.parameter.name].tobytes() == kept.tobytes()
                held[piece.parameter.name][piece.start :][: piece.size] += 100
    assert all((count == 3 * (len(nodes.members) + 100)).all() for count in held.values())  # nothing is kept elsewhere


@pytest.mark.parametrize("of_rank", MAPS)
def test_equals_two_phase_over_node_means_bit_for_bit(of_rank):
    """Parameters that are not cut: which rank owns them changes no bit."""
    parameters = [Parameter(f"p{k}", size, size < 256) for k, size in enumerate([700, 9, 90_000, 130_000, 31, 4096])]
    members = make_ranks(of_rank, parameters)
    nodes = members[0].exchange.nodes
    flat = [Rank(t, parameters, codecs=CODECS, kind="two_phase") for t in local_transports(len(nodes.members))]
    buckets = [["p5", "p0", "p1"], ["p2", "p4", "p3"]]
    rng = np.random.default_rng(7)
    for _ in range(5):
        gradients = make_gradients(rng, parameters, len(of_rank))
        found = run(members, gradients, buckets)
        means = run(flat, node_means(gradients, nodes), buckets)
        for result in found:
            assert all(result[name].tobytes() == value.tobytes() for name, value in means[0].items())


def test_one_rank_per_node_has_the_bits_of_two_phase():
    parameters = [Parameter("a", 700, False), Parameter("b", 400_000, False), Parameter("c", 9, True)]
    members = make_ranks([2, 0, 1], parameters)
    flat = [Rank(t, parameters, codecs=CODECS, kind="two_phase") for t in local_transports(3)]
    rng = np.random.default_rng(8)
    for _ in range(3):
        gradients = make_gradients(rng, parameters, 3)
        for rank, (found, expected) in enumerate(
            zip(run(members, gradients, [["c"], ["b", "a"]]), run(flat, gradients, [["c"], ["b", "a"]]), strict=True)
        ):
            assert all(found[name].tobytes() == value.tobytes() for name, value in expected.items())
            assert residuals(members[rank]) == residuals(flat[rank])
    for member, other in zip(members, flat, strict=True):
        assert member.transport.meter.bytes_sent == other.transport.meter.bytes_sent
        assert member.exchange.inside.meter.bytes_sent == 0


@pytest.mark.parametrize("of_rank", [[0, 1, 0, 1], [0, 1, 1, 2, 2, 2], [0, 0]])
@pytest.mark.parametrize("name", ["a", "b", "c"])
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_nonfinite_input_is_known_to_every_rank_and_start_keeps_residuals(of_rank, name, value):
    members = make_ranks(of_rank)
    rng = np.random.default_rng(0)
    run(members, make_gradients(rng, PARAMETERS, len(of_rank)), [["a", "b", "c"]])
    before = [residuals(member) for member in members]
    assert sum(bool(kept.strip(b"\0")) for kept in before) >= 2
    for rank in range(len(of_rank)):
        gradients = make_gradients(rng, PARAMETERS, len(of_rank))
        gradients[rank][name][-1] = value
        found = in_threads(
            [lambda r=r, m=m, g=gradients: m.start(g[r], ["a", "b", "c"])[1] for r, m in enumerate(members)]
        )
        assert [pending.nonfinite for pending in found] == [True] * len(of_rank)
        assert [residuals(member) for member in members] == before


def test_sum_of_a_node_that_overflows_is_nonfinite_on_every_rank():
    members = make_ranks([0, 0, 1])
    gradients = [{p.name: np.full(p.size, 3e38, np.float32) for p in PARAMETERS} for _ in range(3)]
    found = in_threads([lambda r=r, m=m: m.start(gradients[r], ["a", "b", "c"])[1] for r, m in enumerate(members)])
    assert [pending.nonfinite for pending in found] == [True] * 3


@pytest.mark.parametrize("local_ranks", [2, 4])
def test_bytes_between_nodes_are_shared_by_local_ranks(local_ranks):
    """Of flat two-phase's bytes to other nodes, a rank sends the share of its part: one of `local_ranks`.

    Quartic bytes, whose number does not depend on the values.
    """
    codecs = Codecs(push=QUARTIC, pull=QUARTIC, small=BFLOAT16)
    parameters = [Parameter(f"p{k}", 100_000, False) for k in range(16)]
    names = [p.name for p in parameters]
    of_rank = [node for node in range(2) for _ in range(local_ranks)]
    rng = np.random.default_rng(3)
    gradients = [{name: rng.standard_normal(100_000, dtype=np.float32) for name in names} for _ in of_rank]
    members = make_ranks(of_rank, parameters, codecs=codecs)
    run(members, gradients, [names])
    crossing = []
    for transport in local_transports(len(of_rank)):
        flat = Rank(transport, parameters, codecs=codecs, kind="two_phase")
        crossing.append((transport, flat, count_between(transport, of_rank)))
    run([flat for _, flat, _ in crossing], gradients, [names])
    flat_bytes = sum(count["sent"] for _, _, count in crossing) / len(of_rank)
    for member in members:
        share = member.transport.meter.bytes_sent / flat_bytes
        # A flat rank sends 1 / (2 L) of its frames to each of L ranks of the other node, and as owner its final frames
        # to L ranks; a hierarchical one sends half of its part's frames to one rank, and its final frames to it.
        assert share == pytest.approx(1 / local_ranks, rel=0.02)
        inside = member.exchange.inside.meter.bytes_sent
        dense = 4 * sum(p.size for p in parameters) * (local_ranks - 1) / local_ranks
        assert dense <= inside <= 1.1 * dense


def count_between(transport, of_rank):
    """Count what a flat exchange sends to other nodes."""
    count = {"sent": 0}
    plain = transport.all_to_all

    def counting(payloads, *, limit):
        for peer, payload in enumerate(payloads):
            if of_rank[peer] != of_rank[transport.rank]:
                count["sent"] += 8 + payload.size
        return plain(payloads, limit=limit)

    transport.all_to_all = counting
    return count


@pytest.mark.parametrize(("collective", "at"), [("all_to_all", 0), ("all_gather", 0), ("all_gather", -1)])
def test_damaged_message_inside_a_node_names_its_sender(collective, at):
    members = make_ranks([1, 0, 0, 1], timeout_s=2.0)
    gradients = make_gradients(np.random.default_rng(1), PARAMETERS, 4)
    inside = members[2].exchange.inside
    plain = getattr(inside, collective)

    def damaged(*args, **kwargs):
        received = [message.copy() for message in plain(*args, **kwargs)]
        if collective == "all_to_all":
            received[0] = received[0][:-4]
        else:
            received[0][at] ^= 1
        return received

    setattr(inside, collective, damaged)
    found = in_threads([lambda r=r, m=m: m.start(gradients[r], ["a", "b", "c"]) for r, m in enumerate(members)])
    assert isinstance(found[2], CorruptPayloadError)
    assert "message from rank 1: " in str(found[2])
    if collective == "all_to_all":  # it is missed between nodes, and there in turn inside the other node
        assert isinstance(found[3], CollectiveError)


def test_nodes_are_numbered_by_their_first_ranks():
    nodes = Nodes(["b", "a", "b", "c", "a", "b"])
    assert nodes.of_rank == (0, 1, 0, 2, 1, 0)
    assert nodes.members == ((0, 2, 5), (1, 4), (3,))
    assert nodes == Nodes([7, 1, 7, 3, 1, 7])
    assert nodes.num_parts == 1
    assert [nodes.local_rank(rank) for rank in range(6)] == [0, 0, 1, 0, 1, 2]
    assert nodes.between(3) == (0, 1, 3)
    assert nodes.between(5) == (5,)
    assert nodes.inside(2) == (0, 2, 5)


@pytest.mark.parametrize(
    ("of_rank", "worth_it"), [([0], False), ([0, 0], False), ([0, 1], False), ([0, 0, 1], True), ([0, 1, 0, 1], True)]
)
def test_hierarchy_is_worth_it_where_there_are_two_kinds_of_links(of_rank, worth_it):
    assert Nodes(of_rank).are_worth_it == worth_it
