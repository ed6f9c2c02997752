"""A rank that fails, dies, freezes or sends damaged bytes: every other rank raises soon, and says why."""

import pytest
import torch

from tests.ddp.training import Training
from tests.distributed import die, freeze, run_fresh
from trafficzip.errors import CollectiveError

EXCHANGES = ["all_gather", "two_phase"]
LONG_S = 120.0  # the hook's own bound; failures must be known much earlier
SOON_S = 45.0  # start of the processes, a few steps and the failure, on a busy machine


def train(rank, exchange, *, timeout_s=LONG_S, before_step=None, steps=8):
    training = Training(rank, exchange=exchange, register={"timeout_s": timeout_s})
    for step in range(steps):
        if before_step:
            before_step(training, step)
        training.step(step)
    return "finished"


def _raise_in_hook(rank, world_size, exchange, bucket):
    def before_step(training, step):
        if rank == 1 and step == 3:
            calls = iter(range(100))
            plain = training.hook.exchange._compress_worker

            def failing(values, shards, codecs):
                if next(calls) == bucket:
                    raise MemoryError("no room for the residuals")
                return plain(values, shards, codecs)

            training.hook.exchange._compress_worker = failing

    return train(rank, exchange, before_step=before_step)


@pytest.mark.parametrize(("exchange", "bucket"), [("all_gather", 0), ("two_phase", 2)])
def test_error_on_one_rank_reaches_every_rank(exchange, bucket):
    outcomes = run_fresh(3, _raise_in_hook, exchange, bucket)
    assert "MemoryError: no room for the residuals" in outcomes[1].error
    for rank in (0, 2):
        assert "CollectiveError: rank " in outcomes[rank].error
        assert "rank 1 failed: MemoryError: no room for the residuals" in outcomes[rank].error
        assert outcomes[rank].seconds < SOON_S


def _die(rank, world_size, exchange):
    return train(rank, exchange, before_step=lambda training, step: die() if (rank, step) == (1, 3) else None)


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_killed_rank_is_noticed(exchange):
    outcomes = run_fresh(3, _die, exchange)
    assert not outcomes[1].answered
    for rank in (0, 2):
        assert "CollectiveError" in outcomes[rank].error
        assert outcomes[rank].seconds < SOON_S


def _die_in_exchange(rank, world_size, exchange):
    def before_step(training, step):
        if rank == 1 and step == 3:
            training.hook.transport._wait = lambda work, peer: die()  # its own messages are already on their way

    return train(rank, exchange, before_step=before_step)


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_rank_killed_in_the_middle_of_an_exchange_is_noticed(exchange):
    outcomes = run_fresh(3, _die_in_exchange, exchange)
    assert not outcomes[1].answered
    for rank in (0, 2):
        assert "CollectiveError" in outcomes[rank].error
        assert outcomes[rank].seconds < SOON_S


def _freeze(rank, world_size, exchange):
    def before_step(training, step):
        if (rank, step) == (1, 3):
            freeze()

    return train(rank, exchange, timeout_s=5.0, before_step=before_step)


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_frozen_rank_is_given_up(exchange):
    outcomes = run_fresh(3, _freeze, exchange, silent=1)
    for rank in (0, 2):
        assert "CollectiveError" in outcomes[rank].error
        assert "silent for 5 s" in outcomes[rank].error
        assert outcomes[rank].seconds < SOON_S


def _damage(rank, world_size, exchange, at):
    """Flip a bit of what rank 0 receives from rank 2, in a step's first exchange."""

    def before_step(training, step):
        if (rank, step) == (0, 3):
            transport = training.hook.transport
            plain = transport.all_to_all

            def damaged(payloads, *, limit):
                received = plain(payloads, limit=limit)
                transport.all_to_all = plain
                assert received[2].size
                received[2][at] ^= 4
                return received

            transport.all_to_all = damaged

    return train(rank, exchange, before_step=before_step)


@pytest.mark.parametrize(("exchange", "at"), [("all_gather", -1), ("two_phase", 9)])
def test_damaged_message_is_reported_by_every_rank(exchange, at):
    outcomes = run_fresh(3, _damage, exchange, at)
    assert "CorruptPayloadError: message from rank 2" in outcomes[0].error
    for rank in (1, 2):
        assert "CollectiveError: rank " in outcomes[rank].error
        assert "rank 0 failed: message from rank 2" in outcomes[rank].error
        assert outcomes[rank].seconds < SOON_S


def _die_before_rebuild(rank, world_size, static_graph):
    """DDP rebuilds its buckets in the forward pass after the first step, of a static graph after the second."""
    training = Training(rank, exchange="two_phase", ddp={"static_graph": static_graph}, register={"timeout_s": LONG_S})
    for step in range(4):
        if (rank, step) == (1, 2 if static_graph else 1):
            die()
        training.step(step)


@pytest.mark.parametrize("static_graph", [False, True])
def test_rank_killed_before_buckets_are_rebuilt_is_named(static_graph):
    outcomes = run_fresh(3, _die_before_rebuild, static_graph)
    for rank in (0, 2):
        assert "CollectiveError" in outcomes[rank].error
        assert "rank 1" in outcomes[rank].error
        assert outcomes[rank].seconds < SOON_S


def _go_on_after_failure(rank, world_size):
    training = Training(rank, exchange="two_phase")
    training.steps(0, 3)
    if rank == 1:
        training.hook.exchange._compress_worker = lambda *_: [][0]
    with pytest.raises((CollectiveError, IndexError)):
        training.step(3)
    before = training.net[0][0].weight.clone()
    with pytest.raises(CollectiveError, match=r"earlier exchange failed.*list index out of range"):
        training.step(4)
    with torch.no_grad():
        assert bool(training.loss(5).isfinite())  # evaluation goes on
    return torch.equal(before, training.net[0][0].weight)


def test_training_on_after_a_failure_raises_its_reason():
    outcomes = run_fresh(2, _go_on_after_failure)
    assert [outcome.value for outcome in outcomes] == [True, True], [outcome.error for outcome in outcomes]
