"""Local steps on real processes."""

import math
import warnings
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import trafficzip.ddp
from tests.ddp.training import TARGETS, all_equal, batch, digest, mlp
from trafficzip.errors import CollectiveError, ConfigError
from trafficzip.local_sgd import LocalSteps, merge_state_dicts
from trafficzip.presets import BFLOAT16, FLOAT32, THREE_LC_RANS, with_multiplier

PLAIN = {"every": 1, "outer_lr": 1.0, "outer_momentum": 0.0}


class Worker:
    """A model, local steps and an inner optimizer on one rank."""

    def __init__(self, rank, network=mlp, *, optimizer=torch.optim.AdamW, lr=2e-3, **options):
        self.rank = rank
        self.net = network()
        outer = {"outer_momentum": 0.8, "momentum_rounds": 3}
        self.local = LocalSteps(self.net, **({"timeout_s": 30.0, "every": 4} | outer | options))
        self.optimizer = optimizer(self.net.parameters(), lr=lr)

    def step(self, step):
        inputs, targets = batch(self.rank, step)
        self.optimizer.zero_grad()
        loss = (self.net(inputs) - targets).square().mean()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach()), self.local.step()

    def steps(self, begin, end):
        return [self.step(k)[0] for k in range(begin, end)]

    def digest(self):
        return digest(self.net.parameters())


def _train(rank, world_size, exchange):
    worker = Worker(rank, exchange=exchange, outer_momentum=0.5)
    losses = worker.steps(0, 80)
    agreed = worker.digest()
    worker.steps(80, 81)
    return {"losses": losses, "agreed": agreed, "alone": worker.digest(), "stats": worker.local.stats()}


@pytest.mark.parametrize(("world_size", "exchange"), [(2, "all_gather"), (3, "two_phase"), (4, "auto")])
def test_ranks_agree_bit_for_bit_and_learn(ranks, world_size, exchange):
    results = ranks(world_size, _train, exchange)
    assert all_equal(r["agreed"] for r in results)
    assert len({r["alone"] for r in results}) == world_size  # between rounds every rank has its own model
    for r in results:
        assert sum(r["losses"][-5:]) < 0.7 * sum(r["losses"][:5])
        stats = r["stats"]
        assert (stats.steps, stats.rounds, stats.skipped_rounds) == (81, 20, 0)
        assert 0 < stats.bits_per_element_sent < 6
        assert stats.last_round.bytes_sent < stats.bytes_sent
        assert stats.residual_norm > 0


def _first_model(rank, world_size):
    torch.manual_seed(rank)
    net = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4)).to(torch.bfloat16)
    net[1].running_mean.fill_(rank + 1.0)
    net[1].num_batches_tracked.fill_(rank + 5)
    LocalSteps(net, timeout_s=30.0)
    return digest(net.state_dict().values()), float(net[1].running_mean[0]), int(net[1].num_batches_tracked)


def test_all_ranks_begin_with_rank_0s_model(ranks):
    results = ranks(3, _first_model)
    assert all_equal(results)
    assert results[0][1:] == (1.0, 5)


class Grid(nn.Module):
    """Parameters whose gradients are given: the loss is linear in them."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(40, 30))
        self.bias = nn.Parameter(torch.zeros(7))

    def forward(self, coefficients):
        weight, bias = coefficients
        return (self.weight * weight).sum() + (self.bias * bias).sum()


def _coefficients(rank, step):
    generator = torch.Generator().manual_seed(1000 * step + rank)
    return torch.randint(-8, 9, (40, 30), generator=generator).float(), torch.randint(-8, 9, (7,), generator=generator)


def _hook_and_local(rank, world_size, compressor, exchange):
    """Every number is a multiple of 2**-9 below 2**10, so that float32 holds all of them exactly."""
    lr = 2.0**-5
    dense = DistributedDataParallel(Grid())
    trafficzip.ddp.register(dense, compressor, small=BFLOAT16, exchange=exchange, timeout_s=30.0)
    alone = Grid()
    local = LocalSteps(alone, compressor, small=BFLOAT16, exchange=exchange, timeout_s=30.0, **PLAIN)
    optimizers = [torch.optim.SGD(net.parameters(), lr=lr) for net in (dense, alone)]
    for step in range(12):
        for net, optimizer in zip((dense, alone), optimizers, strict=True):
            optimizer.zero_grad()
            net(_coefficients(rank, step)).backward()
            optimizer.step()
        local.step()
    moved = sum(float(p.detach().abs().sum()) for p in alone.parameters())
    return digest(dense.module.parameters()), digest(alone.parameters()), moved


@pytest.mark.parametrize("compressor", [FLOAT32, THREE_LC_RANS], ids=["float32", "ternary"])
@pytest.mark.parametrize("exchange", ["all_gather", "two_phase"])
def test_one_step_and_plain_averaging_equal_the_hook_bit_for_bit(ranks, compressor, exchange):
    results = ranks(2, _hook_and_local, compressor, exchange)
    assert all_equal(value for r in results for value in r[:2])
    assert results[0][2] > 1


def _nesterov(rank, world_size):
    net = Grid()
    local = LocalSteps(net, FLOAT32, small=FLOAT32, every=2, outer_lr=0.5, outer_momentum=0.75, timeout_s=30.0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    expected, velocity = torch.zeros(40, 30, dtype=torch.float64), torch.zeros(40, 30, dtype=torch.float64)
    for step in range(8):
        optimizer.zero_grad()
        net(_coefficients(rank, step)).backward()
        optimizer.step()
        local.step()
        if step % 2:
            mean = sum(_coefficients(r, s)[0].double() * 0.01 / 2 for r in range(2) for s in (step - 1, step))
            velocity = 0.75 * velocity + mean
            expected -= 0.5 * (mean + 0.75 * velocity)
    return float((net.weight.detach().double() - expected).abs().max())


def test_outer_step_is_nesterov_sgd(ranks):
    for error in ranks(2, _nesterov):
        assert error < 100 * 2**-24  # 8 steps of a dozen roundings of numbers below 1


def _average(rank, world_size):
    net = Grid()
    local = LocalSteps(net, FLOAT32, small=FLOAT32, every=2, timeout_s=30.0)
    with torch.no_grad():
        for _ in range(2):
            net.bias += rank + 1.0
            local.step()
    return net.bias.tolist()


def test_by_default_a_round_averages_the_models(ranks):
    assert ranks(3, _average) == 3 * [7 * [4.0]]


def _rising(rank, world_size):
    net = Grid()
    local = LocalSteps(
        net, FLOAT32, small=FLOAT32, every=1, outer_momentum=0.5, momentum_rounds=4, nesterov=False, timeout_s=30.0
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=2.0**-5)
    expected, velocity = torch.zeros(7, dtype=torch.float64), torch.zeros(7, dtype=torch.float64)
    for step in range(6):
        if step == 3:  # the momentum goes on where it was
            local.load_state_dict(local.state_dict())
        optimizer.zero_grad()
        net(_coefficients(rank, step)).backward()
        optimizer.step()
        local.step()
        mean = sum(_coefficients(r, step)[1].double() * 2.0**-5 / 2 for r in range(2))
        velocity = 0.5 * min(step / 4, 1) * velocity + mean
        expected -= velocity
    return float((net.bias.detach().double() - expected).abs().max())


def test_outer_momentum_rises_over_the_rounds_asked_for(ranks):
    for error in ranks(2, _rising):
        assert error < 100 * 2**-24  # 6 steps of a few roundings of numbers below 4


def _warned(rank, world_size, options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        LocalSteps(mlp(), timeout_s=30.0, **options)
    return [str(w.message) for w in caught if "outer momentum" in str(w.message)]


@pytest.mark.parametrize(
    ("options", "number"),
    [({}, 0), ({"outer_momentum": 0.9}, 1), ({"outer_momentum": 0.9, "momentum_rounds": 100}, 0)],
)
def test_large_momentum_from_the_first_round_on_warns(ranks, options, number):
    assert [len(messages) for messages in ranks(2, _warned, options)] == [number, number]


def _nonfinite(rank, world_size, value, where):
    worker = Worker(rank, lambda: nn.Sequential(mlp(), nn.BatchNorm1d(TARGETS)), optimizer=torch.optim.SGD)
    worker.steps(0, 8)
    before = worker.digest(), worker.local.state_dict()
    worker.steps(8, 11)
    if rank == 1:
        with torch.no_grad():
            (worker.net[0][0][0].weight[0, :1] if where == "parameter" else worker.net[1].running_var).fill_(value)
    _, done = worker.step(11) if where == "parameter" else (None, worker.local.agree())
    state = worker.local.state_dict()
    same = [torch.equal(state["agreed"], before[1]["agreed"]), torch.equal(state["velocity"], before[1]["velocity"])]
    same += [torch.equal(state["worker"][name], part) for name, part in before[1]["worker"].items()]
    back = worker.digest() == before[0]
    worker.steps(12, 20)
    return {"done": done, "same": all(same), "back": back, "digest": worker.digest(), "stats": worker.local.stats()}


@pytest.mark.parametrize(("where", "value"), [("parameter", math.nan), ("parameter", math.inf), ("buffer", math.nan)])
def test_nonfinite_model_skips_the_round_on_every_rank(ranks, where, value):
    results = ranks(3, _nonfinite, value, where)
    assert all_equal(r["digest"] for r in results)
    for r in results:
        assert r["done"].skipped
        assert r["done"].index == 3
        assert r["same"]
        assert r["back"]
        assert (r["stats"].rounds, r["stats"].skipped_rounds) == (4, 1)


def _buffers(rank, world_size, rule):
    net = nn.BatchNorm1d(4)
    local = LocalSteps(net, every=1, buffers=rule, timeout_s=30.0)
    net.running_mean.fill_(rank)
    local.step()
    return float(net.running_mean[0])


@pytest.mark.parametrize(("rule", "expected"), [("average", [1.0, 1.0, 1.0]), ("keep", [0.0, 1.0, 2.0])])
def test_buffers_are_averaged_or_kept(ranks, rule, expected):
    assert ranks(3, _buffers, rule) == expected


def _resume(rank, world_size, exchange):
    worker = Worker(rank, exchange=exchange)
    worker.steps(0, 10)  # in the middle of a round
    saved = deepcopy([worker.local.state_dict(), worker.net.state_dict(), worker.optimizer.state_dict()])
    worker.steps(10, 20)
    other = Worker(rank, exchange=exchange)
    other.steps(50, 53)
    other.local.load_state_dict(saved[0])
    other.net.load_state_dict(saved[1])
    other.optimizer.load_state_dict(saved[2])
    other.steps(10, 20)
    return worker.digest(), other.digest(), worker.local.stats().rounds, other.local.stats().rounds


@pytest.mark.parametrize("exchange", ["all_gather", "two_phase"])
def test_resumed_run_is_bit_identical(ranks, exchange):
    results = ranks(3, _resume, exchange)
    assert all_equal(digest for r in results for digest in r[:2])
    assert all(r[2:] == (5, 5) for r in results)


def _save(rank, world_size, steps):
    worker = Worker(rank, exchange="two_phase")
    worker.steps(0, steps)
    return worker.local.state_dict(), worker.digest()


def _load(rank, world_size, merged):
    worker = Worker(rank, exchange="two_phase")
    worker.local.load_state_dict(merged)
    first = worker.digest()
    pending = worker.local.state_dict()["worker"]
    worker.steps(8, 16)
    return first, worker.digest(), pending


def test_ranks_join_and_leave_between_rounds(ranks):
    saved = ranks(3, _save, 8)
    states = [state for state, _ in saved]
    merged = merge_state_dicts(states)
    for world_size in (2, 4):
        results = ranks(world_size, _load, merged)
        assert all(first == saved[0][1] for first, _, _ in results)
        assert all_equal(last for _, last, _ in results)
    for name, part in results[0][2].items():  # what was pending is pending still
        expected = torch.stack([state["worker"][name].double() for state in states]).mean(0)
        for state in states:
            for start, owned in state["owner"].get(name, {}).items():
                expected[start : start + owned.numel()] += owned
        assert float((part - expected).abs().max()) <= 8 * 2**-24 * max(1.0, float(expected.abs().max()))
    with pytest.raises(ConfigError, match=r"expected each of 0\.\.2"):
        merge_state_dicts(states[:2])
    left = merge_state_dicts(states[:2], allow_missing=True)
    assert torch.equal(left["agreed"], merged["agreed"])
    changed = {**states[1], "agreed": states[1]["agreed"] + 1}
    with pytest.raises(ConfigError, match="agreed differs"):
        merge_state_dicts([states[0], changed, states[2]])


def test_merging_inside_a_round_is_refused(ranks):
    states = [state for state, _ in ranks(2, _save, 6)]
    with pytest.raises(ConfigError, match="between two rounds only"):
        merge_state_dicts(states)


def _load_wrong(rank, world_size, states):
    worker = Worker(rank, exchange="two_phase")
    before = worker.digest()
    messages = []
    for state in (states[1 - rank], {**states[rank], "agreed": torch.zeros(3)}, {"worker": {}}):
        with pytest.raises(ConfigError) as caught:
            worker.local.load_state_dict(state)
        messages.append(str(caught.value))
    return messages, before == worker.digest() and worker.local.steps == 0


def test_states_that_do_not_fit_are_refused(ranks):
    states = [state for state, _ in ranks(2, _save, 4)]
    for messages, unchanged in ranks(2, _load_wrong, states):
        assert unchanged
        for message, expected in zip(
            messages, ("merge_state_dicts", "agreed has 3 elements", "not a state"), strict=True
        ):
            assert expected in message


def _load_apart(rank, world_size, early, late, wrong):
    worker = Worker(rank, exchange="two_phase")
    worker.local.load_state_dict(early[rank])
    before = worker.local.state_dict()
    messages = []
    for state in ((late if rank else early)[rank], wrong if rank else early[rank]):
        try:
            worker.local.load_state_dict(state)
        except (CollectiveError, ConfigError) as error:
            messages.append(f"{type(error).__name__}: {error}")
    after = worker.local.state_dict()
    same = all(torch.equal(before["worker"][name], part) for name, part in after["worker"].items())
    same &= torch.equal(before["agreed"], after["agreed"]) and before["rounds"] == after["rounds"]
    worker.local.load_state_dict(late[rank])  # and the next load works
    return messages, same, worker.local.stats().rounds


def test_states_of_different_rounds_are_refused_on_every_rank(ranks):
    """Ranks that stopped while they saved: going on from two rounds would train two models."""
    early, late = ([state for state, _ in ranks(2, _save, steps)] for steps in (4, 8))
    results = ranks(2, _load_apart, early, late, {**early[1], "velocity": torch.zeros(3)})
    for messages, same, rounds in results:
        assert "ranks disagree about agreed" in messages[0] or "ranks disagree about rounds" in messages[0]
        assert same
        assert rounds == 2
    assert results[0][0][1].startswith("CollectiveError: rank 1 refused")
    assert results[1][0][1].startswith("ConfigError: state of local steps: velocity has 3 elements")


def _disagree(rank, world_size, options):
    try:
        LocalSteps(mlp(), timeout_s=30.0, **(options if rank == 1 else {}))
    except CollectiveError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("every", {"every": 8}),
        ("outer_lr", {"outer_lr": 0.5}),
        ("outer_momentum", {"outer_momentum": 0.5}),
        ("momentum_rounds", {"momentum_rounds": 9}),
        ("nesterov", {"nesterov": False}),
        ("compressor", {"compressor": with_multiplier(THREE_LC_RANS, 1.5)}),
        ("small", {"small": BFLOAT16}),
        ("buffers", {"buffers": "keep"}),
        ("exchange", {"exchange": "two_phase"}),
    ],
)
def test_ranks_that_disagree_are_told_on_what(ranks, key, options):
    for message in ranks(2, _disagree, options):
        assert f"ranks disagree about {key}" in message


def _refuse(rank, world_size):
    net = mlp()
    if rank == 1:
        net[0][0].weight.data = net[0][0].weight.data.double()
    try:
        LocalSteps(net, timeout_s=30.0)
    except (ConfigError, CollectiveError) as error:
        return type(error).__name__, str(error)
    return None


def test_refusal_reaches_every_rank(ranks):
    (first, told), (second, reason) = ranks(2, _refuse)
    assert (first, second) == ("CollectiveError", "ConfigError")
    assert "float64" in told
    assert "float64" in reason


def _refuse_ddp(rank, world_size):
    with pytest.raises(ConfigError, match=r"give model\.module"):
        LocalSteps(DistributedDataParallel(mlp()), timeout_s=30.0)


def test_ddp_model_is_refused(ranks):
    ranks(2, _refuse_ddp)
