import time

import numpy as np
import pytest

from tests.comm.test_exchange import in_threads
from tests.distributed import die, run_fresh
from trafficzip.comm.local import local_transports
from trafficzip.comm.transport import GlooTransport
from trafficzip.errors import CollectiveError
from trafficzip.metrics import TrafficMeter

LENGTH_BYTES = 8
FIRST = (1 << 18) - LENGTH_BYTES  # bytes that go with the length
SIZES = [0, 1, 7, 1000, 1 << 20]
_alive = []  # a model keeps its transport after an error; so do these cases


def payload(sender, receiver, size):
    return np.random.default_rng([sender, receiver]).integers(0, 256, size, dtype=np.uint8)


def size_of(sender, receiver, kind):
    """Give the size of a message: all the same, or all different, some empty."""
    return kind if kind >= 0 else SIZES[(3 * sender + receiver) % len(SIZES)]


def swap(transport, kind):
    """Run both collectives and check every byte and the meter."""
    rank, world_size = transport.rank, transport.world_size
    others = [peer for peer in range(world_size) if peer != rank]
    before = transport.meter.copy()
    sent = [payload(rank, peer, size_of(rank, peer, kind)) for peer in range(world_size)]
    received = transport.all_to_all(sent, limit=1 << 20)
    for peer in range(world_size):
        assert received[peer].tobytes() == payload(peer, rank, size_of(peer, rank, kind)).tobytes()
    moved = transport.meter.minus(before)
    assert moved.bytes_sent == sum(LENGTH_BYTES + size_of(rank, peer, kind) for peer in others)
    assert moved.bytes_received == sum(LENGTH_BYTES + size_of(peer, rank, kind) for peer in others)
    before = transport.meter.copy()
    received = transport.all_gather(payload(rank, 99, size_of(rank, 0, kind)), limit=1 << 20)
    for peer in range(world_size):
        assert received[peer].tobytes() == payload(peer, 99, size_of(peer, 0, kind)).tobytes()
    moved = transport.meter.minus(before)
    assert moved.bytes_sent == len(others) * (LENGTH_BYTES + size_of(rank, 0, kind))
    assert moved.bytes_received == sum(LENGTH_BYTES + size_of(peer, 0, kind) for peer in others)
    return transport.meter.bytes_sent, transport.meter.bytes_received


def _swap_over_gloo(rank, world_size):
    transport = GlooTransport(timeout_s=30.0)
    for kind in (*SIZES, -1, 0, FIRST - 1, FIRST, FIRST + 1, -1):
        counts = swap(transport, kind)
    return counts


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_gloo_moves_any_size_and_counts_every_byte(ranks, world_size):
    counts = ranks(world_size, _swap_over_gloo)
    assert sum(sent for sent, _ in counts) == sum(received for _, received in counts)
    assert (counts[0][0] > 0) == (world_size > 1)


def _count_pieces(rank, world_size):
    transport = GlooTransport(timeout_s=30.0)
    pieces = []
    plain = transport._send

    def send(tensor, peer, *, tag):
        pieces.append(tensor.numel())
        return plain(tensor, peer, tag=tag)

    transport._send = send
    for size in (0, 1, FIRST, FIRST + 1):
        shared = payload(rank, 99, size)
        shared.flags.writeable = False
        received = transport.all_gather(shared, limit=1 << 20)
        assert received[1 - rank].tobytes() == payload(1 - rank, 99, size).tobytes()
    return pieces


def test_gloo_message_is_one_piece_up_to_256_kib(ranks):
    expected = [LENGTH_BYTES, LENGTH_BYTES + 1, 1 << 18, 1 << 18, 1]
    assert ranks(2, _count_pieces) == [expected] * 2


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("kind", [*SIZES, -1])
def test_local_transport_moves_any_size_and_counts_every_byte(world_size, kind):
    counts = in_threads([lambda t=t: swap(t, kind) for t in local_transports(world_size)])
    assert sum(sent for sent, _ in counts) == sum(received for _, received in counts)


def _transport_of_a_subgroup(rank, world_size):
    import torch.distributed as dist

    members = [1, 3]
    group = dist.new_group(members)
    if rank not in members:
        return None
    return swap(GlooTransport(group, timeout_s=30.0), -1)


def test_gloo_works_in_a_subgroup(ranks):
    results = ranks(4, _transport_of_a_subgroup)
    assert results[0] is results[2] is None
    assert results[1][0] == results[3][1] > 0


def _part(rank, world_size, members):
    """Swap among some ranks, in any order, between two swaps among all; give what the part's own meter counted."""
    transport = GlooTransport(timeout_s=30.0)
    meter = TrafficMeter()
    swap(transport, -1)
    part = transport.among(members if rank in members else [rank], meter=meter)
    before = transport.meter.copy()
    assert swap(part, -1) == (meter.bytes_sent, meter.bytes_received)
    assert transport.meter == before
    swap(transport, -1)
    return part.rank, list(part.ranks), meter.bytes_sent


def test_gloo_works_among_some_ranks(ranks):
    results = ranks(4, _part, [3, 0, 1])
    assert [(rank, members) for rank, members, _ in results] == [
        (1, [3, 0, 1]),
        (2, [3, 0, 1]),
        (0, [2]),
        (0, [3, 0, 1]),
    ]
    assert [sent > 0 for _, _, sent in results] == [True, True, False, True]


def _fail_beside_a_part(rank, world_size):
    transport = GlooTransport(timeout_s=60.0)
    _alive.append(transport)
    part = transport.among([2, 1], meter=TrafficMeter()) if rank in (1, 2) else transport
    if rank == 1:
        transport.fail("out of cheese")
        raise ValueError("the failing rank's own error")
    try:
        swap(part, 1000)
    except CollectiveError as error:
        transport.fail(str(error))  # rank 0 may wait for rank 2, which is told in its part
        raise


def test_gloo_failure_reaches_ranks_that_wait_in_a_part():
    outcomes = run_fresh(3, _fail_beside_a_part)
    for rank in (0, 2):
        assert "CollectiveError: rank " in outcomes[rank].error
        assert "rank 1 failed: out of cheese" in outcomes[rank].error
        assert outcomes[rank].seconds < 30


def test_local_transport_works_among_some_ranks():
    transports = local_transports(4)
    members = {0: [3, 0], 3: [3, 0], 1: [1, 2], 2: [1, 2]}
    parts = [t.among(members[t.rank], meter=TrafficMeter()) for t in transports]
    found = in_threads([lambda p=p: swap(p, -1) for p in parts])
    assert not any(isinstance(result, Exception) for result in found), found
    assert [list(part.ranks) for part in parts] == [[3, 0], [1, 2], [1, 2], [3, 0]]


def _send_too_much(rank, world_size, size):
    transport = GlooTransport(timeout_s=4.0)
    _alive.append(transport)
    try:
        transport.all_gather(payload(rank, 0, size if rank == 1 else 100), limit=size - 1)
        transport.all_gather(payload(rank, 0, 100), limit=size - 1)
    except CollectiveError as error:
        transport.fail(str(error))
        raise


@pytest.mark.parametrize("size", [101, FIRST + 1])
def test_gloo_message_above_the_limit_raises(size):
    outcomes = run_fresh(3, _send_too_much, size)
    told = f"rank 1 announced {size} bytes, expected at most {size - 1}"
    for rank in (0, 2):
        assert f"CollectiveError: {told}" in outcomes[rank].error
    # A message of one piece has been taken when it turns out too long, so its sender hears of it in the next exchange;
    # nobody takes the second piece of a longer one.
    assert "CollectiveError" in outcomes[1].error
    assert size > FIRST or f"rank 0 failed: {told}" in outcomes[1].error


def _fail_on_one(rank, world_size, failing):
    transport = GlooTransport(timeout_s=60.0)
    _alive.append(transport)
    swap(transport, 1000)
    if rank == 1 != failing:
        time.sleep(1.0)  # the others have heard of the failure when this rank begins: it must still hear from them
    if rank == failing:
        transport.fail("out of cheese: ä")
        raise ValueError("the failing rank's own error")
    swap(transport, 1000)


@pytest.mark.parametrize(("world_size", "failing"), [(2, 0), (2, 1), (4, 2)])
def test_gloo_failure_reaches_every_rank(world_size, failing):
    outcomes = run_fresh(world_size, _fail_on_one, failing)
    for rank, outcome in enumerate(outcomes):
        if rank == failing:
            assert "ValueError: the failing rank's own error" in outcome.error
        else:
            assert f"CollectiveError: rank {failing} failed: out of cheese: ä" in outcome.error
        assert outcome.answered
        assert outcome.seconds < 30


def _other_rank_fails_and_leaves(rank, world_size):
    transport = GlooTransport(timeout_s=20.0)
    transport.all_gather(payload(rank, 0, 100), limit=100)
    if rank == 1:
        transport.fail("no more paper")
        die()
    time.sleep(3.0)
    transport.all_gather(payload(rank, 0, 100), limit=100)


def test_gloo_reason_of_a_rank_that_has_left_is_told():
    first, _ = run_fresh(2, _other_rank_fails_and_leaves, silent=1)
    assert "rank 1 failed: no more paper" in first.error


def _other_rank_leaves(rank, world_size):
    transport = GlooTransport(timeout_s=20.0)
    if rank == 0:
        announced = transport._announced

        def late(*arguments):
            time.sleep(3.0)  # the other rank has sent its last message, and ends meanwhile
            return announced(*arguments)

        transport._announced = late
    received = transport.all_gather(payload(rank, 0, 100), limit=100)
    assert received[1].tobytes() == payload(1, 0, 100).tobytes()
    if rank == 1:
        die()
    raise RuntimeError("all was received")  # and nothing more can be, so the case cannot end in another way


def test_gloo_rank_may_leave_after_its_last_message():
    first, _ = run_fresh(2, _other_rank_leaves, silent=1)
    assert "RuntimeError: all was received" in first.error


@pytest.mark.parametrize("failing", [0, 2])
def test_local_failure_reaches_every_rank(failing):
    def work(transport):
        swap(transport, 10)
        if transport.rank == failing:
            return transport.fail("out of cheese")
        return swap(transport, 10)

    found = in_threads([lambda t=t: work(t) for t in local_transports(3)])
    for rank, result in enumerate(found):
        if rank != failing:
            assert isinstance(result, CollectiveError)
            assert f"rank {failing} failed: out of cheese" in str(result)


def test_local_message_above_the_limit_raises():
    found = in_threads(
        [lambda t=t: t.all_gather(payload(0, 0, 11 if t.rank else 10), limit=10) for t in local_transports(2)]
    )
    assert all(isinstance(result, CollectiveError) for result in found)
    assert "rank 1 announced 11 bytes, expected at most 10" in str(found[0])


def test_local_transport_does_not_wait_for_ever():
    first, _ = local_transports(2, timeout_s=0.2)
    with pytest.raises(CollectiveError, match="silent too long"):
        first.all_gather(payload(0, 0, 1), limit=10)


def _silent(rank, world_size, silent):
    """Rank 0 waits for rank 2 first, then for rank 1."""
    transport = GlooTransport(timeout_s=2.0)
    _alive.append(transport)
    if rank in silent:
        time.sleep(5)  # connected, alive, and stuck
        return ""
    with pytest.raises(CollectiveError) as found:
        transport.all_gather(payload(rank, 0, 100), limit=100)
    time.sleep(2)
    return str(found.value)


@pytest.mark.parametrize(("silent", "named"), [((1, 2), (1, 2)), ((1,), (1,))])
def test_gloo_names_all_silent_ranks_and_no_other(silent, named):
    said = run_fresh(3, _silent, silent)[0].value
    for rank in (1, 2):
        assert (f"rank {rank}" in said) == (rank in named), said
