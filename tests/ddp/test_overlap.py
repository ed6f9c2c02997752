"""Overlapped exchanges: the same bits, the same failures."""

import logging
import threading

import numpy as np
import pytest
import torch

from tests.ddp.test_options import Branches, bfloat16_mlp, float16_mlp
from tests.ddp.training import Training, all_equal, mlp
from tests.distributed import die, run_fresh
from trafficzip.ddp.trials import MOST_ROUNDS, TIMED_STEPS, UNTIMED_STEPS

EXCHANGES = ["all_gather", "two_phase"]
SOON_S = 45.0
STEPS = 6 + MOST_ROUNDS * 2 * (UNTIMED_STEPS + TIMED_STEPS)  # enough for any trial


def watch_threads(training):
    """Note on which threads buckets are exchanged."""
    exchange, found = training.hook.exchange, []
    plain = exchange.start

    def start(values, shards, codecs):
        found.append(threading.current_thread() is threading.main_thread())
        return plain(values, shards, codecs)

    exchange.start = start
    return found


def _train(rank, world_size, exchange, network, options, overlap):
    """Train with a step that is not finite on one rank, accumulation and a loss scaler."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=3, enabled=network is not float16_mlp)
    training = Training(
        rank, exchange=exchange, network=network, ddp=options, register={"overlap": overlap, "grad_scaler": scaler}
    )
    inline = watch_threads(training)
    for step in range(14):
        training.optimizer.zero_grad()
        if "static_graph" not in options:  # DDP refuses both together
            with training.model.no_sync():
                scaler.scale(training.loss(2 * step) / 2).backward()
        factor = 1e38 if (step, rank) == (6, 1) else 1.0
        scaler.scale(factor * training.loss(2 * step + 1) / 2).backward()
        if scaler.is_enabled() or all(bool(p.grad.isfinite().all()) for p in training.net.parameters()):
            scaler.step(training.optimizer)
        scaler.update()
    return {
        "digest": training.digest(),
        "residuals": training.residuals(),
        "inline": inline,
        "buckets": len(training.hook._last),
        "skipped": training.hook.stats().nonfinite_steps,
    }


@pytest.mark.parametrize(
    ("exchange", "network", "options"),
    [
        ("all_gather", mlp, {}),
        ("two_phase", mlp, {"static_graph": True}),
        ("hierarchical", mlp, {"gradient_as_bucket_view": True}),
        ("two_phase", Branches, {"find_unused_parameters": True}),
        ("two_phase", bfloat16_mlp, {}),
        ("all_gather", float16_mlp, {}),
    ],
)
def test_overlap_changes_no_bit(ranks, exchange, network, options):
    off, on = (ranks(3, _train, exchange, network, options, overlap) for overlap in (False, True))
    assert all_equal(r["digest"] for r in off + on)
    for without, overlapped in zip(off, on, strict=True):
        assert without["residuals"] == overlapped["residuals"]
        assert all(without["inline"])
        buckets = overlapped["buckets"]
        assert buckets > 1
        assert overlapped["inline"][-buckets:] == [False] * (buckets - 1) + [True]
        assert without["skipped"] == overlapped["skipped"] == 1


def _measured(rank, world_size):
    logging.getLogger("trafficzip").setLevel(logging.INFO)
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logging.getLogger("trafficzip").addHandler(handler)
    training = Training(rank, exchange="two_phase")
    inline = watch_threads(training)
    training.steps(0, 3)
    first = list(inline)
    training.steps(3, STEPS)
    logging.getLogger("trafficzip").removeHandler(handler)
    buckets = len(training.hook._last)
    return {
        "digest": training.digest(),
        "first": first,
        "tried": {True, False} == set(inline[len(first) : -buckets]),
        "on": inline[-buckets] is False,
        "messages": messages,
    }


def test_measured_choice_is_the_same_on_every_rank(ranks):
    results = ranks(2, _measured)
    fixed = ranks(2, _fixed, STEPS)
    assert all_equal([r["digest"] for r in results] + fixed)
    assert all_equal(r["on"] for r in results)
    for r in results:
        assert all(r["first"])
        assert r["tried"]
    (message,) = results[0]["messages"]
    assert message.startswith(f"overlap {'on' if results[0]['on'] else 'off'}, because steps took two_phase schedule: ")
    assert not results[1]["messages"]


def _fixed(rank, world_size, steps):
    training = Training(rank, exchange="two_phase", register={"overlap": False})
    training.steps(0, steps)
    return training.digest()


def _raise_on_the_thread(rank, world_size):
    training = Training(rank, exchange="two_phase", register={"overlap": True, "timeout_s": 120.0})
    training.steps(0, 3)
    if rank == 1:
        calls = iter(range(100))
        plain = training.hook.exchange._compress_worker

        def failing(values, shards, codecs):
            if next(calls) == 1:
                assert threading.current_thread() is not threading.main_thread()
                raise MemoryError("no room for the residuals")
            return plain(values, shards, codecs)

        training.hook.exchange._compress_worker = failing
    training.steps(3, 6)


def test_error_on_the_thread_leaves_backward_and_reaches_every_rank():
    outcomes = run_fresh(3, _raise_on_the_thread)
    assert "loss.backward()" in outcomes[1].error
    assert "MemoryError: no room for the residuals" in outcomes[1].error
    for rank in (0, 2):
        assert "rank 1 failed: MemoryError: no room for the residuals" in outcomes[rank].error
        assert outcomes[rank].seconds < SOON_S


def _die_on_the_thread(rank, world_size):
    training = Training(rank, exchange="all_gather", register={"overlap": True, "timeout_s": 120.0})
    training.steps(0, 3)
    if rank == 1:
        training.hook.transport._wait = lambda work, peer: die()
    training.steps(3, 6)


def test_rank_killed_while_its_thread_exchanges_is_noticed():
    outcomes = run_fresh(3, _die_on_the_thread)
    assert not outcomes[1].answered
    for rank in (0, 2):
        assert "CollectiveError" in outcomes[rank].error
        assert outcomes[rank].seconds < SOON_S


def _broken_backward(rank, world_size):
    """A backward pass breaks off on every rank once its first buckets are exchanged; the next one starts anew."""
    training = Training(rank, exchange="two_phase", register={"overlap": True})
    training.steps(0, 5)
    before = training.residuals()

    def stop(gradient):
        raise ZeroDivisionError("stop")

    handle = training.net[0][0].weight.register_hook(stop)
    with pytest.raises(ZeroDivisionError):
        training.loss(5).backward()
    handle.remove()
    kept = before == training.residuals()
    pending = training.hook.take_pending()
    return kept, bool(np.isfinite([float(part.sum()) for part in pending.values()]).all())


def test_broken_backward_pass_leaves_residuals(ranks):
    assert ranks(2, _broken_backward) == [(True, True)] * 2
