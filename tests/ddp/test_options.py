"""Every way to use DDP: ranks stay bit-identical, results are finite, and training works."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.distributed.algorithms.join import Join

from tests.ddp.training import FEATURES, MANY_BUCKETS_MB, TARGETS, Training, all_equal, batch, mlp

EXCHANGES = ["all_gather", "two_phase"]


def report(training):
    gradients = [p.grad for p in training.net.parameters() if p.grad is not None]
    return {
        "digest": training.digest(),
        "losses": [training.first_loss, training.test_loss()],
        "finite": all(bool(g.isfinite().all()) for g in gradients),
        "compressed": training.hook.stats().compressed_steps,
    }


def check(results, *, compressed):
    assert all_equal(r["digest"] for r in results)
    for r in results:
        assert r["finite"]
        assert r["losses"][1] < r["losses"][0]
        assert r["compressed"] == compressed


def _train(rank, world_size, exchange, network, options):
    training = Training(rank, exchange=exchange, network=network, ddp=options)
    training.steps(0, 30)
    return report(training)


def bfloat16_mlp():
    return mlp().to(torch.bfloat16)


def float16_mlp():
    return mlp().to(torch.float16)


class MixedMlp(nn.Module):
    """Layers of three dtypes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.first = nn.Linear(FEATURES, 96)
        self.float16_layer = nn.Linear(96, 96).to(torch.float16)
        self.bfloat16_layer = nn.Linear(96, 96).to(torch.bfloat16)
        self.last = nn.Linear(96, TARGETS)

    def forward(self, inputs):
        hidden = torch.tanh(self.first(inputs))
        hidden = torch.tanh(self.float16_layer(hidden.to(torch.float16)))
        hidden = torch.tanh(self.bfloat16_layer(hidden.to(torch.bfloat16)))
        return self.last(hidden.float())


class OddMlp(nn.Module):
    """A scalar, an empty tensor, a parameter used twice under two names, and a frozen layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.gain = nn.Parameter(torch.tensor(1.0))
        self.nothing = nn.Parameter(torch.zeros(0, 3))
        self.first = nn.Linear(FEATURES, FEATURES)
        self.again = nn.Linear(FEATURES, FEATURES)
        self.again.weight = self.first.weight
        self.frozen = nn.Linear(FEATURES, FEATURES).requires_grad_(False)
        self.last = nn.Linear(FEATURES, TARGETS)

    def forward(self, inputs):
        hidden = torch.tanh(self.again(torch.tanh(self.first(inputs))))
        return self.last(self.gain * (self.frozen(hidden))) + self.nothing.sum()


class Convolutions(nn.Module):
    """Convolutions in channels-last memory, with batch normalization."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU()
        )
        self.last = nn.Linear(16 * 36, TARGETS)
        self.to(memory_format=torch.channels_last)

    def forward(self, inputs):
        images = inputs.reshape(-1, 1, 8, 8).contiguous(memory_format=torch.channels_last)
        return self.last(self.layers(images).flatten(1))


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"static_graph": True},
        {"gradient_as_bucket_view": True},
        {"find_unused_parameters": True},
        {"static_graph": True, "gradient_as_bucket_view": True},
        {"find_unused_parameters": True, "gradient_as_bucket_view": True},
    ],
    ids=lambda options: "+".join(options) or "default",
)
def test_ddp_option(ranks, exchange, options):
    check(ranks(2, _train, exchange, mlp, options), compressed=30)


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("network", [bfloat16_mlp, float16_mlp, MixedMlp, OddMlp, Convolutions])
def test_parameters_of_every_kind(ranks, exchange, network):
    check(ranks(3, _train, exchange, network, {}), compressed=30)


def _train_alone(rank, world_size):
    training = Training(rank, exchange="auto")
    losses = training.steps(0, 30)
    plain = Training(rank, exchange=None)
    assert plain.steps(0, 30) == losses
    assert training.hook.stats().bytes_sent == 0
    return [training.digest(), plain.digest(), losses[-1] < losses[0]]


def test_one_rank_exchanges_nothing(ranks):
    ((digest, plain, learned),) = ranks(1, _train_alone)
    assert digest == plain
    assert learned


class Branches(nn.Module):
    """A layer that nobody uses, and one that is used where it is told."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.first = nn.Linear(FEATURES, 64)
        self.unused = nn.Linear(64, 64)
        self.sometimes = nn.Linear(64, 64)
        self.last = nn.Linear(64, TARGETS)
        self.branch = True

    def forward(self, inputs):
        hidden = torch.tanh(self.first(inputs))
        return self.last(self.sometimes(hidden) if self.branch else hidden)


def _unused(rank, world_size, exchange):
    training = Training(rank, network=Branches, exchange=exchange, ddp={"find_unused_parameters": True})
    training.steps(0, 3)
    kept = [training.hook.exchange.worker, training.hook.exchange.owner]
    before = [feedback.state_dict() for feedback in kept]
    training.net.branch = False  # the branch gets no gradient on any rank
    training.step(3)
    untouched = all(
        (feedback[name] == was[name]).all()
        for feedback, was in zip(kept, before, strict=True)
        for name in was
        if "some" in name
    )
    skipped = training.net.sometimes.weight.grad is None
    pending = float(abs(training.hook.exchange.worker["sometimes.weight"]).max())
    training.net.branch = rank == 0  # only rank 0 has a gradient for it
    before = training.hook.exchange.worker.state_dict()
    training.step(4)
    one_sided = training.net.sometimes.weight.grad is not None
    still = bool((training.hook.exchange.worker["sometimes.weight"] == before["sometimes.weight"]).all())
    training.net.branch = True
    training.steps(5, 25)
    never = training.net.unused.weight.grad is None and not training.hook.exchange.worker["unused.weight"].any()
    return report(training) | {
        "untouched": untouched,
        "skipped": skipped,
        "pending": pending,
        "one_sided": one_sided,
        "still": still,
        "never": never,
    }


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_unused_parameters_keep_their_residuals(ranks, exchange):
    results = ranks(2, _unused, exchange)
    check(results, compressed=25)
    assert all(r["untouched"] and r["skipped"] and r["pending"] > 0 and r["one_sided"] and r["never"] for r in results)
    assert [r["still"] for r in results] == [False, True]


def _accumulate(rank, world_size, exchange, as_view):
    """Four passes per step under no_sync; the last one synchronises what has been accumulated."""
    training = Training(rank, exchange=exchange, ddp={"gradient_as_bucket_view": as_view})
    for step in range(20):
        training.optimizer.zero_grad()
        with training.model.no_sync():
            for part in range(3):
                (training.loss(4 * step + part) / 4).backward()
        (training.loss(4 * step + 3) / 4).backward()
        training.optimizer.step()
    return report(training)


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("as_view", [False, True])
def test_accumulation_without_sync(ranks, exchange, as_view):
    check(ranks(2, _accumulate, exchange, as_view), compressed=20)


def _backward_twice(rank, world_size, exchange, as_view):
    training = Training(rank, exchange=exchange, lr=0.02, ddp={"gradient_as_bucket_view": as_view})
    for step in range(15):
        training.optimizer.zero_grad()
        training.loss(2 * step).backward()
        training.loss(2 * step + 1).backward()
        training.optimizer.step()
    return report(training)


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("as_view", [False, True])
def test_backward_twice_before_a_step(ranks, exchange, as_view):
    check(ranks(2, _backward_twice, exchange, as_view), compressed=30)


def _join(rank, world_size, exchange):
    """Ranks have 10, 13 and 16 batches."""
    training = Training(rank, exchange=exchange)
    with Join([training.model]):
        training.steps(0, 10 + 3 * rank)
    dist.barrier()
    return report(training)


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_join_with_uneven_inputs(ranks, exchange):
    check(ranks(3, _join, exchange), compressed=16)


class OwnForward(nn.Module):
    """torch.compile skips torch's own containers inside DDP, and compiles this."""

    def __init__(self):
        super().__init__()
        self.layers = mlp()

    def forward(self, inputs):
        return self.layers(inputs)


def _compiled(rank, world_size, exchange, inside):
    torch._dynamo.reset()
    backend = CompileCounterWithBackend("aot_eager")
    options = {"bucket_cap_mb": 2.0}  # torch's splitting of graphs wants buckets above its first one, of 1 MB
    if inside:
        training = Training(rank, network=torch.compile(OwnForward(), backend=backend), exchange=exchange, **options)
    else:
        training = Training(rank, network=OwnForward, exchange=exchange, **options)
        compiled = torch.compile(training.model, backend=backend)
        plain_loss = training.loss
        training.loss = lambda step: plain_loss(step, forward=compiled)
    losses = training.steps(0, 12)
    assert backend.frame_count > 0
    eager = Training(rank, network=OwnForward, exchange=exchange, **options)
    return report(training) | {"eager": eager.steps(0, 12), "all": losses}


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("inside", [False, True])
def test_compiled_model(ranks, exchange, inside):
    results = ranks(2, _compiled, exchange, inside)
    check(results, compressed=12)
    for r in results:
        assert r["all"] == pytest.approx(r["eager"], rel=1e-4)  # aot_eager may reorder float32 sums


def _buffers(rank, world_size, exchange):
    """Batch normalization's running statistics come from rank 0 at every forward pass."""
    training = Training(rank, network=Convolutions, exchange=exchange)
    training.steps(0, 20)
    training.model(batch(rank, 99)[0])
    own = training.net.layers[1].running_mean.clone()
    training.model.eval()
    training.model(batch(rank, 100)[0])
    synced = training.net.layers[1].running_mean
    return report(training) | {"own": own.tolist(), "synced": synced.tolist()}


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_batch_norm_buffers_are_broadcast(ranks, exchange):
    results = ranks(2, _buffers, exchange)
    check(results, compressed=20)
    assert results[0]["own"] != results[1]["own"]  # each rank has seen other images since the last broadcast
    assert results[0]["synced"] == results[1]["synced"] == results[0]["own"]


class ManyLayers(nn.Module):
    """Thirty layers side by side."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.ModuleList(nn.Linear(FEATURES, TARGETS) for _ in range(30))

    def forward(self, inputs):
        return sum(torch.tanh(layer(inputs)) for layer in self.layers) / 30


def _many_buckets(rank, world_size, exchange):
    training = Training(rank, network=ManyLayers, exchange=exchange, bucket_cap_mb=MANY_BUCKETS_MB)
    training.steps(0, 20)
    return report(training) | {"buckets": len(training.hook._last)}


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_many_buckets(ranks, exchange):
    results = ranks(3, _many_buckets, exchange)
    check(results, compressed=20)
    assert all(r["buckets"] >= 30 for r in results)
