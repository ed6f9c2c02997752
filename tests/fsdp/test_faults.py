"""A rank that fails, dies or freezes in backward: every other rank raises soon, and says why."""

import pytest
import torch

from tests.distributed import die, freeze, run_fresh
from tests.fsdp.training import Training
from trafficzip.errors import CollectiveError

SOON_S = 45.0  # start of the processes, a few steps and the failure, on a busy machine


def _break(rank, world_size, how):
    training = Training(rank, register={"timeout_s": 5.0 if how is freeze else 120.0})
    training.steps(0, 2)
    if rank == 1:
        if how in (die, freeze):  # in backward, when the others wait for this rank's frames
            training.handle.exchange.start = lambda values, shards, codecs: how()
        elif how == "raise":
            training.handle.exchange.finish = _fail
        else:
            transport = training.handle.transport
            plain = transport.all_to_all

            def damaged(payloads, *, limit):
                received = plain(payloads, limit=limit)
                received[0][-1] ^= 4
                return received

            transport.all_to_all = damaged
    training.steps(2, 5)
    return "finished"


def _fail(pending):
    raise MemoryError("no room")


@pytest.mark.parametrize(
    ("how", "own", "reason"),
    [
        ("raise", "MemoryError: no room", "rank 1 failed: MemoryError: no room"),
        ("damage", "CorruptPayloadError: message from rank 0", "rank 1 failed: message from rank 0"),
        (die, None, "CollectiveError"),
        (freeze, None, "silent for 5 s"),
    ],
)
def test_failure_reaches_every_rank(how, own, reason):
    outcomes = run_fresh(3, _break, how, silent=1 if how is freeze else None)
    if own:
        assert own in outcomes[1].error
    for rank in (0, 2):
        assert "CollectiveError" in outcomes[rank].error
        assert outcomes[rank].seconds < SOON_S
    assert any(reason in outcomes[rank].error for rank in (0, 2))


def _go_on(rank, world_size):
    training = Training(rank)
    training.steps(0, 2)
    if rank == 1:
        training.handle.exchange.finish = _fail
    with pytest.raises((CollectiveError, MemoryError)):
        training.steps(2, 3)
    for gradients in (True, False):  # both gather weights
        with (
            pytest.raises(CollectiveError, match=r"earlier exchange failed.*no room"),
            torch.set_grad_enabled(gradients),
        ):
            training.net(torch.zeros(1, 37))
    return True


def test_going_on_after_a_failure_raises_its_reason():
    outcomes = run_fresh(2, _go_on)
    assert [outcome.value for outcome in outcomes] == [True, True], [outcome.error for outcome in outcomes]
