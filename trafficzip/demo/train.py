"""One training run in one process of a group, dense or compressed, with everything about it measured."""

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from trafficzip import ddp
from trafficzip.compressor import Compressor
from trafficzip.ddp.config import ExchangeName
from trafficzip.demo.data import Dataset, crop_and_flip
from trafficzip.demo.measure import all_reduce_bytes, loopback_bytes, parameter_digest
from trafficzip.demo.settings import Recipe

_TEST_BATCH = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """How a run's gradients are compressed; the arguments of `trafficzip.ddp.register`."""

    compressor: Compressor | ddp.Schedule
    exchange: str = "auto"
    timeout_s: float = 120.0

    def register(self, model: DistributedDataParallel) -> ddp.GradientCompression:
        """Register the hook on a model."""
        exchange = cast(ExchangeName, self.exchange)
        return ddp.register(model, self.compressor, exchange=exchange, timeout_s=self.timeout_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What one run gave; equal on every rank.

    accuracy: share of the test images classified correctly.
    losses: training loss per step, the mean over ranks.  step_s: seconds per step, of rank 0.
    wire_bytes: loopback bytes from the first step to the end of each, by all local ranks; None where not counted.
    counted_bytes: what the library counted at its transport, over all ranks; None for a dense run.
    expected_bytes: what the loopback interface should have seen, without TCP/IP's own bytes.
    codec_s, exchange_s: as the library counted, mean over ranks; None for a dense run.
    identical: every rank ended with the same bits in all parameters.
    """

    world_size: int
    num_elements: int
    accuracy: float
    losses: list[float]
    step_s: list[float]
    wire_bytes: list[int] | None
    counted_bytes: int | None
    expected_bytes: int
    codec_s: float | None
    exchange_s: float | None
    identical: bool
    digests: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Give the result as plain data."""
        return asdict(self)


def train(
    network: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    *,
    num_steps: int,
    seed: int,
    compression: Compression | None = None,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> RunResult:
    """Train `network` over the default process group: with plain DDP, or with compressed gradients.

    A collective call. The network's initial weights are taken from rank 0; `on_step(steps done, loss of this rank)`
    is called after every step.
    """
    model = _wrap(network)
    handle = compression.register(model) if compression else None
    optimizer = torch.optim.SGD(
        model.parameters(), lr=recipe.peak_lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    batches = rank_batches(dataset, recipe.batch_size, seed=seed)
    losses, step_s, counters = [], [], []
    dist.barrier()
    before = loopback_bytes()
    dist.barrier()  # no rank sends gradients before every rank has read the counter
    for step in range(num_steps):
        begin = perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = recipe.peak_lr * learning_rate_share(step, num_steps, warmup=recipe.warmup)
        images, labels = next(batches)
        loss = functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
        step_s.append(perf_counter() - begin)
        counters.append(loopback_bytes())
        on_step(step + 1, losses[-1])
    dist.barrier()
    counters[-1] = loopback_bytes()  # the other ranks' last messages included
    wire = [now - before for now in counters if now is not None and before is not None]
    return _result(network, dataset, handle, losses=losses, step_s=step_s, wire=wire)


def _wrap(network: nn.Module) -> DistributedDataParallel:
    """Batch-norm statistics stay local while training, so that nothing but gradients is on the wire."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch 2.13 has another name for it, 2.9 has not
        return DistributedDataParallel(network, broadcast_buffers=False)


def _result(
    network: nn.Module,
    dataset: Dataset,
    handle: ddp.GradientCompression | None,
    *,
    losses: list[float],
    step_s: list[float],
    wire: list[int],
) -> RunResult:
    stats = handle.stats() if handle else None
    own: dict[str, Any] = {
        "losses": losses,
        "step_s": step_s,
        "wire": wire,
        "sent": stats.bytes_sent if stats else 0,
        "codec_s": stats.codec_s if stats else 0.0,
        "exchange_s": stats.exchange_s if stats else 0.0,
        "dense_steps": stats.steps - stats.compressed_steps - stats.nonfinite_steps if stats else len(losses),
        "digest": parameter_digest(network),
    }
    ranks: list[dict[str, Any]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(ranks, own)
    num_elements = sum(p.numel() for p in network.parameters() if p.requires_grad)
    sent = sum(rank["sent"] for rank in ranks)
    dense_bytes = own["dense_steps"] * all_reduce_bytes(num_elements, world_size=len(ranks))
    return RunResult(
        world_size=len(ranks),
        num_elements=num_elements,
        accuracy=test_accuracy(network, dataset),
        losses=[sum(step) / len(ranks) for step in zip(*(rank["losses"] for rank in ranks), strict=True)],
        step_s=ranks[0]["step_s"],
        wire_bytes=ranks[0]["wire"] or None,
        counted_bytes=sent if stats else None,
        expected_bytes=sent + dense_bytes,
        codec_s=sum(rank["codec_s"] for rank in ranks) / len(ranks) if stats else None,
        exchange_s=sum(rank["exchange_s"] for rank in ranks) / len(ranks) if stats else None,
        identical=len({rank["digest"] for rank in ranks}) == 1,
        digests=[rank["digest"] for rank in ranks],
    )


def learning_rate_share(step: int, num_steps: int, *, warmup: float) -> float:
    """Give the share of the peak learning rate: up in a line over the share `warmup`, then down a cosine to 0."""
    done = (step + 1) / (num_steps + 1)
    return done / warmup if done < warmup else (1 + math.cos(math.pi * (done - warmup) / (1 - warmup))) / 2


def rank_batches(dataset: Dataset, batch_size: int, *, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield this rank's part of every batch, for ever; all ranks shuffle alike, each pass anew."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    shuffle = torch.Generator().manual_seed(seed)
    augment = torch.Generator().manual_seed(seed * 1000 + rank + 1)
    whole = min(batch_size * world_size, len(dataset.train_labels) // world_size * world_size)
    while True:
        order = torch.randperm(len(dataset.train_labels), generator=shuffle)
        for start in range(0, len(order) - whole + 1, whole):
            chosen = order[start : start + whole][rank::world_size]
            images = dataset.train_images[chosen]
            images = crop_and_flip(images, augment) if dataset.augment else images
            yield dataset.normalize(images), dataset.train_labels[chosen]


@torch.no_grad()
def test_accuracy(network: nn.Module, dataset: Dataset) -> float:
    """Classify the test images, each rank its share, with the mean of the ranks' batch-norm statistics."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    for buffer in network.buffers():
        if buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer /= world_size
    network.eval()
    own = torch.arange(rank, len(dataset.test_labels), world_size)
    correct = torch.zeros(1, dtype=torch.int64)
    for chosen in torch.split(own, _TEST_BATCH):
        found = network(dataset.normalize(dataset.test_images[chosen])).argmax(1)
        correct += (found == dataset.test_labels[chosen]).sum()
    network.train()
    dist.all_reduce(correct)
    return int(correct) / len(dataset.test_labels)
