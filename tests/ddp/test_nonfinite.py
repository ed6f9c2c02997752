"""Gradients that are not finite, and loss scaling."""

import math

import pytest
import torch

from tests.ddp.training import Training, all_equal, mlp

EXCHANGES = ["all_gather", "two_phase"]
FIRST_BUCKET, MIDDLE_BUCKET, LAST_BUCKET = "4.0.bias", "2.0.weight", "0.0.weight"  # DDP begins with the last layers


def _poison(rank, world_size, exchange, name, value):
    """In step 5 one gradient of rank 1 is not finite; the optimizer skips such steps, as a GradScaler does."""
    training = Training(rank, exchange=exchange)
    training.steps(0, 5)
    parameter = dict(training.net.named_parameters())[name]
    buckets = [
        {piece.parameter.name for shard in pending.shards for section in shard.sections for piece in section.pieces}
        for pending in training.hook._last
    ]
    (bucket,) = [k for k, names in enumerate(buckets) if name in names]
    before = training.residuals(), training.digest()
    handle = parameter.register_hook(lambda grad: grad.index_fill(0, torch.tensor([0]), value if rank == 1 else 0.5))
    training.optimizer.zero_grad()
    training.loss(5).backward()
    handle.remove()
    result = {
        "bucket": (bucket, len(buckets)),
        "nonfinite": [not bool(p.grad.isfinite().any()) for p in training.net.parameters()],
        "kept": before == (training.residuals(), training.digest()),
        "skipped": training.hook.stats().nonfinite_steps,
    }
    training.steps(6, 12)
    result["finite"] = all(bool(p.isfinite().all()) for p in training.net.parameters())
    result["digest"] = training.digest()
    result["steps"] = training.hook.stats().steps
    return result


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize(
    ("name", "value"), [(FIRST_BUCKET, math.inf), (MIDDLE_BUCKET, -math.inf), (LAST_BUCKET, math.nan)]
)
def test_nonfinite_gradient_reaches_every_rank_and_leaves_no_trace(ranks, exchange, name, value):
    results = ranks(3, _poison, exchange, name, value)
    assert all_equal(r["digest"] for r in results)
    for r in results:
        bucket, num_buckets = r["bucket"]
        assert num_buckets >= 4
        assert bucket == {FIRST_BUCKET: 0, LAST_BUCKET: num_buckets - 1}.get(name, bucket)
        assert name != MIDDLE_BUCKET or 0 < bucket < num_buckets - 1
        assert all(r["nonfinite"])
        assert r["kept"]
        assert r["skipped"] == 1
        assert r["finite"]
        assert r["steps"] == 12


def _scaled(rank, world_size, exchange, scaled):
    """Train with or without a loss scaler, whose scale doubles every 3 steps."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3, enabled=scaled)
    training = Training(rank, exchange=exchange, register={"grad_scaler": scaler})
    scales = []
    for step in range(20):
        training.optimizer.zero_grad()
        scaler.scale(training.loss(step)).backward()
        scaler.step(training.optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    unscaled = training.hook.take_pending()
    pending = torch.cat([part.reshape(-1) for part in unscaled.values()])
    return {"digest": training.digest(), "scales": scales, "pending": pending}


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_run_with_a_loss_scaler_equals_the_run_without(ranks, exchange):
    scaled, plain = (ranks(2, _scaled, exchange, flag) for flag in (True, False))
    assert scaled[0]["scales"][-1] > scaled[0]["scales"][0]
    assert all_equal(r["digest"] for r in scaled + plain)
    assert torch.equal(scaled[0]["pending"], plain[0]["pending"])
    assert plain[0]["pending"].any()


def _scaler_overflow(rank, world_size, exchange):
    """In step 0 rank 0 alone overflows, in step 20 rank 1."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=4)
    training = Training(rank, exchange=exchange, register={"grad_scaler": scaler})
    skipped, scales, residuals_follow = [], [], []
    for step in range(30):
        training.optimizer.zero_grad()
        before, scale = training.digest(), training.hook._loss_scale
        kept = training.hook.exchange.worker.residual.copy()
        factor = 1e38 if (step, rank) in ((0, 0), (20, 1)) else 1.0
        scaler.scale(factor * training.loss(step)).backward()
        scaler.step(training.optimizer)
        scales.append(scaler.get_scale())
        scaler.update()
        skipped.append(training.digest() == before)
        if skipped[-1]:
            ratio = training.hook._loss_scale / scale
            residuals_follow.append(bool((training.hook.exchange.worker.residual == kept * ratio).all()))
    return {
        "digest": training.digest(),
        "skipped": skipped,
        "scales": scales,
        "follow": residuals_follow,
        "counted": training.hook.stats().nonfinite_steps,
        "losses": (training.first_loss, training.test_loss()),
    }


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_overflow_is_skipped_on_all_ranks_alike(ranks, exchange):
    results = ranks(3, _scaler_overflow, exchange)
    assert all_equal(r["digest"] for r in results)
    assert all_equal(r["scales"] for r in results)
    assert all_equal(r["skipped"] for r in results)
    for r in results:
        assert [step for step, skipped in enumerate(r["skipped"]) if skipped] == [0, 20]
        assert sum(r["skipped"]) == r["counted"] == len(r["follow"])
        assert all(r["follow"])
        assert r["losses"][1] < r["losses"][0]


def _mean_overflow(rank, world_size, exchange):
    """Every rank's gradient is finite in float16, and what is pending makes their mean larger than float16 holds."""
    training = Training(rank, network=mlp().to(torch.float16), exchange=exchange)
    training.steps(0, 2)
    worker = training.hook.exchange.worker
    worker["0.0.weight"][:] = 60_000.0
    before = training.residuals()
    handle = training.net[0][0].weight.register_hook(lambda grad: torch.full_like(grad, 60_000.0))
    training.optimizer.zero_grad()
    training.loss(2).backward()
    handle.remove()
    kept = before == training.residuals()
    return {"nonfinite": [not bool(p.grad.isfinite().any()) for p in training.net.parameters()], "kept": kept}


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_mean_beyond_float16_is_nonfinite_on_every_rank(ranks, exchange):
    for r in ranks(2, _mean_overflow, exchange):
        assert all(r["nonfinite"])
        assert r["kept"]
