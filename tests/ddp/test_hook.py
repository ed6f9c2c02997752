import numpy as np
import pytest
import torch
import torch.distributed as dist

from tests.ddp.training import MANY_BUCKETS_MB, ONE_BUCKET_MB, TARGETS, Training, all_equal

EXCHANGES = ["all_gather", "two_phase", "hierarchical"]


def _train_and_account(rank, world_size, exchange, steps):
    """Train; next to it sum up the dense means, the means that the hook gave, and the largest number on the way."""
    training = Training(rank, exchange=exchange)
    parameters = list(training.net.parameters())
    own, given = (torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64) for _ in range(2))
    losses, peak = [], 0.0
    for step in range(steps):
        gradients = torch.autograd.grad(training.loss(step, forward=training.net), parameters)
        own += _flat(gradients)
        losses.append(training.step(step))
        given += _flat([p.grad for p in parameters])
        worker, owner = training.hook.exchange.worker.residual, training.hook.exchange.owner.residual
        peak = max(
            peak, *(float(np.abs(kept).max(initial=0)) for kept in (*map(torch.Tensor.numpy, gradients), worker, owner))
        )
    peak = torch.tensor(peak)
    dist.all_reduce(peak, op=dist.ReduceOp.MAX)
    dist.all_reduce(own)
    pending = training.hook.take_pending()
    pending = _flat([pending[name] for name, _ in training.net.named_parameters()])
    return {
        "digest": training.digest(),
        "losses": losses,
        "buckets": len(training.hook._last),
        "error": float((own / world_size - given - pending).abs().max()),
        "pending": float(pending.abs().max()),
        "peak": float(peak),
    }


def _flat(tensors):
    return torch.cat([tensor.detach().reshape(-1).double() for tensor in tensors])


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("exchange", EXCHANGES)
def test_ranks_stay_bit_identical_and_no_gradient_is_lost(ranks, exchange, world_size):
    steps = 200
    results = ranks(world_size, _train_and_account, exchange, steps)
    assert all_equal(r["digest"] for r in results)
    for r in results:
        assert r["buckets"] >= 4
        assert np.mean(r["losses"][-20:]) < 0.5 * np.mean(r["losses"][:5])
        # x = value + residual is rounded once, on a rank and on an owner; a mean of n ranks is rounded n times, twice
        # over. Every number is below 2n peaks before the division by n, so each step is off by at most
        # (2n + 4) * 2 peaks * 2**-24; what compression loses is exact.
        bound = steps * (2 * world_size + 4) * 2 * r["peak"] * 2**-24
        assert r["error"] <= bound
        assert r["pending"] > 10 * bound  # else nothing would be shown


def _train_with_buckets(rank, world_size, exchange, bucket_cap_mb, steps):
    training = Training(rank, exchange=exchange, bucket_cap_mb=bucket_cap_mb)
    layouts = []
    for step in range(steps):
        training.step(step)
        layouts.append([sum(s.num_elements for s in p.decoded or p.shards) for p in training.hook._last])
    return {"digest": training.digest(), "residuals": training.residuals(), "layouts": layouts}


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_parameters_do_not_depend_on_buckets_or_their_rebuild(ranks, exchange):
    many, some, one = (
        ranks(3, _train_with_buckets, exchange, cap, 20) for cap in (MANY_BUCKETS_MB, 0.1, ONE_BUCKET_MB)
    )
    assert len(many[0]["layouts"][-1]) > len(some[0]["layouts"][-1]) > len(one[0]["layouts"][-1]) == 1
    assert many[0]["layouts"][0] != many[0]["layouts"][-1]  # DDP has rebuilt its buckets
    assert all_equal(r["digest"] for r in many + some + one)
    for rank in range(3):
        assert many[rank]["residuals"] == some[rank]["residuals"] == one[rank]["residuals"]


def _flush(rank, world_size, exchange):
    training = Training(rank, exchange=exchange, momentum=0.0, lr=0.1)
    training.steps(0, 10)
    before = {name: p.detach().clone() for name, p in training.net.named_parameters()}
    pending = {name: np.zeros(p.numel()) for name, p in training.net.named_parameters()}
    layout = training.hook.layout
    for kept, pieces, share in (
        (training.hook.exchange.worker, layout.worker, world_size / layout.num_workers),
        (training.hook.exchange.owner, layout.owner, world_size),
    ):
        for piece in pieces:
            pending[piece.parameter.name][piece.start :][: piece.size] += share * kept[piece.parameter.name]
    largest = 0.0
    training.hook.flush(training.optimizer)
    wrong = 0.0
    for name, parameter in training.net.named_parameters():
        mean = torch.from_numpy(pending[name])
        dist.all_reduce(mean)
        moved = 0.1 * mean.reshape(parameter.shape) / world_size
        largest = max(largest, float(moved.abs().max()))
        # a float32 sum of n ranks, a division, a product and a subtraction of numbers below 1
        wrong = max(wrong, float((before[name].double() - moved - parameter).abs().max()))
    exchange_state = training.hook.exchange
    empty = not exchange_state.worker.residual.any() and not exchange_state.owner.residual.any()
    cleared = all(p.grad is None for p in training.net.parameters())
    training.steps(10, 12)
    return {"digest": training.digest(), "wrong": wrong, "empty": empty, "largest": largest, "cleared": cleared}


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("world_size", [2, 3])
def test_flush_applies_all_that_is_pending(ranks, exchange, world_size):
    results = ranks(world_size, _flush, exchange)
    assert all_equal(r["digest"] for r in results)
    for r in results:
        assert r["empty"]
        assert r["cleared"]
        assert r["largest"] > 1e-4
        assert r["wrong"] <= (world_size + 3) * 2**-24


def _flush_adam(rank, world_size):
    training = Training(rank)
    training.steps(0, 2)
    with pytest.warns(UserWarning, match="AdamW on compressed gradients .*local_sgd fits it better"):
        training.hook.flush(torch.optim.AdamW(training.net.parameters()))


def test_flush_warns_of_adam(ranks):
    ranks(2, _flush_adam)


def channels_last():
    torch.manual_seed(1)
    unflatten = torch.nn.Unflatten(1, (4, 4, 4))
    net = torch.nn.Sequential(unflatten, torch.nn.Conv2d(4, 8, 3), torch.nn.Flatten(), torch.nn.Linear(32, TARGETS))
    return net.to(memory_format=torch.channels_last)


def _take_pending_shapes(rank, world_size):
    training = Training(rank, network=channels_last, exchange="two_phase")
    weight = training.net[1].weight
    assert not weight.is_contiguous()
    (dense,) = torch.autograd.grad(training.loss(0, forward=training.net), weight)
    dist.all_reduce(dense)
    training.loss(0).backward()
    pending = training.hook.take_pending()["1.weight"]
    error = float((weight.grad + pending - dense / world_size).abs().max() / dense.abs().max())
    return {"error": error, "strides": (pending.stride(), weight.stride())}


def test_pending_gradients_lie_like_their_parameters(ranks):
    for r in ranks(2, _take_pending_shapes):
        assert r["strides"][0] == r["strides"][1]
        assert r["error"] < 16 * 2**-24  # a dozen roundings of numbers below the largest gradient
