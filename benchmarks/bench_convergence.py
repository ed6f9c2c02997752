"""Accuracy against bytes: ResNet-20 on CIFAR-10, 4 workers of batch 32, through the real two-phase exchange.

python -m benchmarks.bench_convergence --data DIR --recipes dense default --seeds 0 1 2

The workers are threads of this process: they share the exchange, the frames and the residuals with real ranks, but
bytes cross memory instead of a link; they are counted where they meet the transport, 8 bytes of length included.
Every run is a row, and a run that has its row is not repeated; --rerun repeats it.
"""

import argparse
import csv
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.harness import RESULTS, write_rows
from benchmarks.recipes import RECIPES, Recipe
from trafficzip.comm.exchange import Codecs, Exchange, Pending, TwoPhase
from trafficzip.comm.layout import Parameter, Shard, bucket_shards, own_pieces, owned_sizes
from trafficzip.comm.local import local_transports
from trafficzip.demo.data import Dataset, crop_and_flip, load_cifar10
from trafficzip.demo.networks import ResNet20
from trafficzip.error_feedback import ErrorFeedback, starts_of
from trafficzip.presets import THREE_LC, THREE_LC_RANS

WORKERS = 4
BATCH = 32
SMALL_ELEMENTS = 256


class Cluster:
    """Workers in threads, one bucket with all parameters in model order, the two-phase exchange between them."""

    def __init__(self, network: nn.Module, workers: int = WORKERS) -> None:
        self.tensors = list(network.parameters())
        named = [(name, p) for name, p in network.named_parameters()]
        self.parameters = [Parameter(n, p.numel(), p.dim() <= 1 or p.numel() < SMALL_ELEMENTS) for n, p in named]
        pieces = own_pieces(self.parameters, workers)
        owned = owned_sizes(pieces, workers)
        starts = starts_of({p.name: p.size for p in self.parameters})
        self.shards: list[Shard] = bucket_shards(
            pieces,
            bucket_starts=starts,
            residual_starts=starts,
            owner_starts=[starts_of(sizes) for sizes in owned],
        )
        self.exchanges: list[Exchange] = [
            TwoPhase(transport, ErrorFeedback({p.name: p.size for p in self.parameters}), ErrorFeedback(owned[rank]))
            for rank, transport in enumerate(local_transports(workers, timeout_s=300))
        ]
        self.pool = ThreadPoolExecutor(workers)
        self.num_elements = sum(p.size for p in self.parameters)

    def mean(self, gradients: Sequence[np.ndarray], codecs: Codecs) -> tuple[np.ndarray, list[Pending]]:
        """Exchange one flat gradient per worker; give the mean that every worker receives."""

        def work(rank: int) -> Pending:
            pending = self.exchanges[rank].start(gradients[rank], self.shards, codecs)
            assert not pending.nonfinite
            self.exchanges[rank].finish(pending)
            return pending

        done = list(self.pool.map(work, range(len(self.exchanges))))
        assert all(pending.values.tobytes() == done[0].values.tobytes() for pending in done[1:])
        return done[0].values, done

    def sent_bytes(self) -> float:
        """Give what one worker has sent so far, on average."""
        return sum(e.transport.meter.bytes_sent for e in self.exchanges) / len(self.exchanges)

    def dense_bytes(self, steps: int) -> float:
        """Give what one worker sends in float32 ring all-reduces."""
        n = len(self.exchanges)
        return steps * 2 * (n - 1) / n * 4 * self.num_elements


@dataclass(frozen=True)
class Step:
    """One step of a run, before the optimizer's."""

    index: int
    loss: float
    pending: list[Pending]


def learning_rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """Rise linearly over the share `warmup` of the run, then fall along a cosine to 0."""
    share = step / steps
    if share < warmup:
        return peak * (step + 1) / (warmup * steps)
    return peak * 0.5 * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup)))


def train(
    dataset: Dataset, recipe: Recipe, *, seed: int, steps: int, network: nn.Module, cluster: Cluster
) -> Iterator[Step]:
    """Train `network` on all workers' batches, compressed as `recipe` says; compute in bfloat16 autocast."""
    optimizer = torch.optim.SGD(cluster.tensors, lr=recipe.lr, momentum=recipe.momentum, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(1000 + seed)
    schedule = recipe.schedule(steps)
    for index in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(index, steps, recipe.lr, recipe.lr_warmup)
        gradients, losses = [], []
        for _ in range(WORKERS):
            chosen = torch.randint(0, len(dataset.train_labels), (BATCH,), generator=generator)
            images = dataset.normalize(crop_and_flip(dataset.train_images[chosen], generator))
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(images.contiguous(memory_format=torch.channels_last))
            loss = nn.functional.cross_entropy(logits.float(), dataset.train_labels[chosen])
            parts = torch.autograd.grad(loss, cluster.tensors)
            gradients.append(torch.cat([part.reshape(-1) for part in parts]).numpy())
            losses.append(loss.item())
        pair = schedule.at(index) if schedule else None
        pending: list[Pending] = []
        if pair is None:
            mean = sum(gradients[1:], gradients[0]) / np.float32(WORKERS)
        else:
            mean, pending = cluster.mean(gradients, Codecs(push=pair[0], pull=pair[1], small=recipe.small))
        at = 0
        for tensor in cluster.tensors:
            tensor.grad = torch.from_numpy(mean[at : at + tensor.numel()]).view(tensor.shape)
            at += tensor.numel()
        optimizer.step()
        yield Step(index, sum(losses) / WORKERS, pending)


def accuracy(dataset: Dataset, network: nn.Module) -> float:
    """Give the share of test images classified rightly, in percent."""
    network.eval()
    right = 0
    with torch.no_grad():
        for start in range(0, len(dataset.test_labels), 500):
            logits = network(dataset.normalize(dataset.test_images[start : start + 500]))
            right += int((logits.argmax(1) == dataset.test_labels[start : start + 500]).sum())
    return 100 * right / len(dataset.test_labels)


def run(dataset: Dataset, name: str, *, seed: int, steps: int) -> dict[str, Any]:
    """Train once and measure: one row."""
    torch.manual_seed(seed)
    recipe = RECIPES[name]
    network = ResNet20().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    cluster = Cluster(network)
    begin = perf_counter()
    losses = []
    for step in train(dataset, recipe, seed=seed, steps=steps, network=network, cluster=cluster):
        losses.append(step.loss)
        if len(losses) % 500 == 0:
            print(f"{name}, seed {seed}, step {len(losses)}: loss {np.mean(losses[-100:]):.4f}", flush=True)
    compressed = recipe.schedule(steps) is not None
    return {
        "recipe": name,
        "seed": seed,
        "steps": steps,
        "workers": WORKERS,
        "lr": recipe.lr,
        "lr_warmup": recipe.lr_warmup,
        "momentum": recipe.momentum,
        "test_accuracy": round(accuracy(dataset, network), 2),
        "final_loss": round(float(np.mean(losses[-50:])), 4),
        "bytes_sent_per_worker": round(cluster.sent_bytes()) if compressed else round(cluster.dense_bytes(steps)),
        "ratio": round(cluster.dense_bytes(steps) / cluster.sent_bytes(), 2) if compressed else 1.0,
        "seconds": round(perf_counter() - begin),
        "description": recipe.description,
    }


def gradient_sizes(steps: int = 400) -> dict[str, float]:
    """Measure bar 6: both presets' sizes for the same values, push and pull together, over a run at s = 1."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    dataset = load_cifar10(_data())
    network = ResNet20().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    cluster = Cluster(network)
    compressors = {"three_lc": THREE_LC, "three_lc_rans": THREE_LC_RANS}
    totals = {f"{name}_{what}": 0 for name in compressors for what in ("ternary", "whole")}
    elements = {"ternary": 0, "whole": 0}
    recipe = RECIPES["s1.0_no_lr_warmup"]
    for step in train(dataset, recipe, seed=0, steps=steps, network=network, cluster=cluster):
        for pending in step.pending:
            for frames, shards in ((pending.sent, pending.shards), ([pending.owned], [_own(pending, step.pending)])):
                for parts, shard in zip(frames, shards, strict=True):
                    for frame, section in zip(parts, shard.sections, strict=True):
                        n = section.groups.num_elements
                        elements["whole"] += n
                        elements["ternary"] += 0 if section.small else n
                        for name, compressor in compressors.items():
                            same = frame
                            if not section.small:
                                made_by = pending.codecs.of(section)
                                symbols = made_by.codecs[0].encode(made_by.codes(frame, section.groups))
                                payload = compressor.codecs[1].encode(symbols)
                                size = 4 * frame.scales.size + min(payload.size, symbols.size)
                                totals[f"{name}_ternary"] += size
                                totals[f"{name}_whole"] += 24 + size
                            else:
                                totals[f"{name}_whole"] += same.pack().size
    return {key: 4 * elements[key.rsplit("_", 1)[1]] / size for key, size in totals.items()}


def _own(pending: Pending, everyone: list[Pending]) -> Shard:
    return pending.shards[next(rank for rank, other in enumerate(everyone) if other is pending)]


def accuracy_at_bytes(steps: int = 1500) -> dict[str, float]:
    """Read bar 9 from the rows: the default recipe against dense at its own best learning rate, seeds of both."""
    rows = [row for row in _rows() if int(row["steps"]) >= steps]
    longest = max((int(row["steps"]) for row in rows if row["recipe"] == "default"), default=0)
    rows = [row for row in rows if int(row["steps"]) == longest]
    by_recipe: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        by_recipe.setdefault(row["recipe"], []).append(row)
    mean = {name: float(np.mean([float(r["test_accuracy"]) for r in found])) for name, found in by_recipe.items()}
    dense = {name: value for name, value in mean.items() if name.startswith("dense")}
    if not dense or "default" not in mean:
        return {"gap": math.nan, "ratio": 0.0, "seeds": 0}
    best = max(dense, key=lambda name: (len(by_recipe[name]) >= 3, dense[name]))
    for name in sorted(by_recipe):
        found = sorted(float(r["test_accuracy"]) for r in by_recipe[name])
        print(f"{name}: {mean[name]:.2f} % in {found}, {np.mean([float(r['ratio']) for r in by_recipe[name]]):.1f} x")
    seeds = min(len({row["seed"] for row in by_recipe[name]}) for name in (best, "default"))
    ratio = float(np.mean([float(row["ratio"]) for row in by_recipe["default"]]))
    return {"gap": mean[best] - mean["default"], "ratio": ratio, "seeds": seeds}


def _rows() -> list[dict[str, str]]:
    rows = []
    for path in sorted(RESULTS.glob("convergence_*.csv")):
        with path.open(newline="") as file:
            rows += list(csv.DictReader(file))
    return rows


def _data() -> Path:
    here = Path(__file__).resolve().parents[1]
    return Path(os.environ.get("TRAFFICZIP_CIFAR10", here.parent / "shared" / "data"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=_data(), help="folder with CIFAR-10 arrays")
    parser.add_argument("--recipes", nargs="+", choices=sorted(RECIPES), default=["dense_lr0.2", "default"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--rerun", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dataset = load_cifar10(arguments.data)
    for seed in arguments.seeds:
        for name in arguments.recipes:
            key = (name, str(seed), str(arguments.steps))
            if not arguments.rerun and any((r["recipe"], r["seed"], r["steps"]) == key for r in _rows()):
                continue
            row = run(dataset, name, seed=seed, steps=arguments.steps)
            print(row, flush=True)
            print(write_rows("convergence", [row]), flush=True)


if __name__ == "__main__":
    main()
