"""FSDP2 with compressed reduce-scatter against dense FSDP2: loss curves over seeds, and bytes.

A small character transformer, one FSDP2 module per block, on 2 and 4 processes of this machine. Reads
../shared/data/tinyshakespeare.txt beside the repository, or else the licence text that comes with Python.

python -m benchmarks.bench_fsdp              # about ten minutes on two cores
"""

import argparse
import json
import math
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import trafficzip.fsdp
from benchmarks.harness import write_rows
from benchmarks.processes import run_ranks
from trafficzip.compressor import Compressor
from trafficzip.presets import THREE_LC_RANS, with_multiplier

TEXT = Path(__file__).parents[2] / "shared" / "data" / "tinyshakespeare.txt"
CONTEXT, WIDTH, LAYERS, HEADS = 64, 96, 2, 4
BATCH = 32  # of all ranks together, so that curves of different world sizes compare
EVERY = 20  # steps between points of the curve
LEARNING_RATES = {"sgd": 1.0, "adamw": 3e-3}
MOMENTUM = 0.5
WARMUP = 0.15  # share of the run over which the learning rate rises


@dataclass(frozen=True)
class Method:
    """What gradients go through, and after which share of the run; dense before."""

    compressor: Compressor
    begin: float = 0.0


METHODS = {
    "s1.0": Method(THREE_LC_RANS),
    "s0.7": Method(with_multiplier(THREE_LC_RANS, 0.7)),
    "s0.5": Method(with_multiplier(THREE_LC_RANS, 0.5)),
    "s0.7_after_warmup": Method(with_multiplier(THREE_LC_RANS, 0.7), WARMUP),
}


@dataclass(frozen=True)
class Run:
    """One training run."""

    optimizer: str
    seed: int
    method: str
    steps: int


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mix = nn.Linear(WIDTH, 3 * WIDTH)
        self.project = nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = self.mix(self.first(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.project(attended.transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.second(x))))


class Transformer(nn.Module):
    def __init__(self, symbols: int) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(symbols, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, symbols)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens) + self.place.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def text() -> tuple[str, torch.Tensor]:
    """Give where the text comes from, and its characters as numbers, int64 [n]."""
    path = TEXT
    if not path.exists():
        path = Path(sysconfig.get_path("stdlib")) / "LICENSE.txt"
    data = path.read_text(encoding="utf-8", errors="replace")
    numbers = {c: k for k, c in enumerate(sorted(set(data)))}
    return path.name, torch.tensor([numbers[c] for c in data])


def windows(data: torch.Tensor, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    starts = torch.randint(len(data) - CONTEXT - 1, (count,), generator=generator)
    rows = torch.stack([data[start : start + CONTEXT + 1] for start in starts.tolist()])
    return rows[:, :-1], rows[:, 1:]


def train_all(runs: list[Run]) -> list[dict[str, Any]]:
    """Train on this rank; a result per run, the same on every rank but for the bytes."""
    return [train(run) for run in runs]


def train(run: Run) -> dict[str, Any]:
    rank, world_size = dist.get_rank(), dist.get_world_size()
    _, data = text()
    split = len(data) * 9 // 10
    torch.manual_seed(run.seed)
    model = Transformer(int(data.max()) + 1)
    mesh = init_device_mesh("cpu", (world_size,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    method = METHODS.get(run.method)
    handle = trafficzip.fsdp.register(model, method.compressor) if method else None
    peak = LEARNING_RATES[run.optimizer]
    optimizer = (
        torch.optim.SGD(model.parameters(), lr=peak, momentum=MOMENTUM)
        if run.optimizer == "sgd"
        else torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=0.01)
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _learning_rate(run.steps))
    generator = torch.Generator().manual_seed(10_000 * run.seed + rank)
    curve = []
    begin = perf_counter()
    for step in range(1, run.steps + 1):
        if handle and method:
            handle.enable() if step > method.begin * run.steps else handle.disable()
        optimizer.zero_grad()
        _loss(model, *windows(data[:split], BATCH // world_size, generator)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % EVERY == 0:
            curve.append(_evaluate(model, data[split:]))
    seconds = perf_counter() - begin
    stats = asdict(handle.stats()) if handle else {}
    elements = sum(p.numel() for p in model.parameters())
    return {"curve": curve, "seconds": seconds, "elements": elements, **stats}


def _learning_rate(steps: int) -> Callable[[int], float]:
    warm = max(1, int(WARMUP * steps))
    return lambda step: min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * max(0, step - warm) / (steps - warm))))


def _loss(model: nn.Module, tokens: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(model(tokens).flatten(0, 1), following.flatten())


def _evaluate(model: nn.Module, data: torch.Tensor) -> float:
    """Give the loss, in nats per character, on 128 windows that are the same in every run."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    tokens, following = windows(data, 128, torch.Generator().manual_seed(99))
    with torch.no_grad():
        loss = _loss(model, tokens[rank::world_size], following[rank::world_size])
    dist.all_reduce(loss)
    return float(loss / world_size)


def fsdp_bar(
    *,
    steps: int = 240,
    seeds: int = 3,
    ranks: tuple[int, ...] = (2, 4),
    optimizers: tuple[str, ...] = ("sgd",),
    methods: tuple[str, ...] = ("s1.0", "s0.7"),
) -> dict[tuple[str, int, str], dict[str, Any]]:
    """Compare curves with those of dense runs, by optimizer, world size and method.

    gap: largest distance between the mean of the compressed runs and the mean of the dense runs, over the curve, nats.
    spread: largest minus smallest loss of the dense seeds, at its largest over the curve, nats.
    gap_over_spread: at the worst point of the curve, the distance there over the spread there.
    end_gap, end_spread: compressed minus dense mean, and the spread, at the end of the run, nats.
    bytes_ratio: uncompressed over actual bytes of reduce-scatters, all ranks, dense part of the run included.
    """
    runs = [Run(o, seed, m, steps) for o in optimizers for seed in range(seeds) for m in ("dense", *methods)]
    found = {}
    for world_size in ranks:
        results = run_ranks(train_all, world_size, runs)
        for optimizer in optimizers:
            for method in methods:
                chosen = {
                    name: [k for k, run in enumerate(runs) if (run.optimizer, run.method) == (optimizer, name)]
                    for name in ("dense", method)
                }
                found[optimizer, world_size, method] = _compare(results, chosen["dense"], chosen[method], steps)
    return found


def _compare(results: list[list[dict[str, Any]]], dense: list[int], ours: list[int], steps: int) -> dict[str, Any]:
    first = results[0]
    plain = list(zip(*(first[k]["curve"] for k in dense), strict=True))
    curve = list(zip(*(first[k]["curve"] for k in ours), strict=True))
    gaps = [mean(c) - mean(d) for c, d in zip(curve, plain, strict=True)]
    spreads = [max(d) - min(d) for d in plain]
    each = [result[k] for result in results for k in ours]
    sent = sum(one["bytes_sent"] for one in each)
    saved = sum(one["dense_bytes_sent"] - one["bytes_sent"] for one in each)
    per_call = each[0]["dense_bytes_sent"] / each[0]["compressed_calls"]
    uncompressed = sum(one["dense_calls"] for one in each) * per_call
    return {
        "steps": steps,
        "seeds": len(ours),
        "elements": first[ours[0]]["elements"],
        "gap": max(abs(gap) for gap in gaps),
        "spread": max(spreads),
        "gap_over_spread": max(abs(gap) / spread for gap, spread in zip(gaps, spreads, strict=True)),
        "end_gap": gaps[-1],
        "end_spread": spreads[-1],
        "dense_end": mean(plain[-1]),
        "compressed_end": mean(curve[-1]),
        "bytes_sent_per_rank_step": (sent + uncompressed) / len(each) / steps,
        "bytes_ratio": (sent + saved + uncompressed) / (sent + uncompressed),
        "seconds_dense": mean(first[k]["seconds"] for k in dense),
        "seconds_compressed": mean(first[k]["seconds"] for k in ours),
        "dense_curve": json.dumps([round(mean(d), 4) for d in plain]),
        "compressed_curve": json.dumps([round(mean(c), 4) for c in curve]),
        "spread_curve": json.dumps([round(spread, 4) for spread in spreads]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--optimizers", nargs="+", default=["sgd", "adamw"], choices=sorted(LEARNING_RATES))
    parser.add_argument("--methods", nargs="+", default=["s1.0", "s0.7", "s0.7_after_warmup"], choices=sorted(METHODS))
    parser.add_argument("--dry", action="store_true", help="print only")
    arguments = parser.parse_args()
    found = fsdp_bar(
        steps=arguments.steps,
        seeds=arguments.seeds,
        ranks=tuple(arguments.ranks),
        optimizers=tuple(arguments.optimizers),
        methods=tuple(arguments.methods),
    )
    rows = []
    for (optimizer, ranks, method), figures in found.items():
        rate = {"lr": LEARNING_RATES[optimizer], "momentum": MOMENTUM if optimizer == "sgd" else ""}
        rows.append({"text": text()[0], "optimizer": optimizer, **rate, "ranks": ranks, "method": method, **figures})
        json.dump(rows[-1], sys.stdout, indent=1)
        print()
    if not arguments.dry:
        print(write_rows("fsdp", rows))


if __name__ == "__main__":
    main()
