"""Loss against bytes with AdamW: a character transformer on tinyshakespeare, 4 workers, dense, compressed and local.

python -m benchmarks.bench_local_steps --recipes dense_lr2e-3 h16_s0.7 --seeds 0 1
python -m benchmarks.bench_local_steps --plot

The workers live in this process and train one after the other; what they exchange goes through the real exchange and
is counted where it meets the in-process transport, 8 bytes of length included. Dense is float32, its bytes those of a
ring all-reduce. Every run is a row, and a run that has its row is not repeated.
"""

import argparse
import csv
import json
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.bench_convergence import Cluster, learning_rate
from benchmarks.harness import RESULTS, write_rows
from trafficzip.comm.exchange import Codecs
from trafficzip.comm.local import local_transports
from trafficzip.compressor import Compressor
from trafficzip.local_sgd import LocalSteps
from trafficzip.presets import BFLOAT16, FLOAT32, INT8, ONE_BIT, THREE_LC_RANS, with_multiplier

WORKERS = 4
BATCH = 4
CONTEXT = 64
WARMUP = 0.1
EARLY_EVERY = 4
POINTS = 10  # of the curve of a run
DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "tinyshakespeare.txt"
BAR_SEEDS = 3
HELD_OUT = 0.1  # share of the text, its end, on which the loss is measured


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a run is trained: AdamW's settings, and what is exchanged when.

    kind: "dense", "gradients" (compressed in every step) or "local".
    every: inner steps between two rounds of local steps.
    momentum_share: share of the run over which the outer momentum rises from 0.
    early_share: share of the run, from its begin, with a round every EARLY_EVERY steps.
    dense_share: share of the run, from its begin, in which gradients travel dense.
    batch: sequences per worker and step.
    """

    kind: Literal["dense", "gradients", "local"]
    every: int = 0
    compressor: Compressor = FLOAT32
    small: Compressor = INT8
    outer_lr: float = 0.7
    outer_momentum: float = 0.9
    momentum_share: float = 0.0
    lr: float = 4e-3
    beta1: float = 0.9
    beta2: float = 0.99
    early_share: float = 0.0
    dense_share: float = 0.0
    batch: int = BATCH


SHOWN = {  # whose curves are drawn, of 1,600 steps
    "dense_lr2e-3": "dense",
    "h4_s0.7_outer1.0_m0.8_rise1.0_lr2e-3": "local steps, every = 4, momentum rising to 0.8",
    "h16_s0.65_outer1.0_m0.8_rise1.0_lr2e-3": "every = 16, the same",
    "h16_s0.7_outer1.0_m0_lr2e-3": "every = 16, plain average",
    "h16_s0.7_outer1.0_m0.5_lr2e-3": "every = 16, momentum 0.5 throughout",
}
LONG = {  # the same of 6,400 steps
    "dense_lr2e-3": "dense",
    "h16_s0.65_outer1.0_m0.8_rise1.0_lr2e-3": "local steps, every = 16, momentum rising to 0.8",
}
COMPRESSORS = {"float32": FLOAT32, "bfloat16": BFLOAT16, "int8": INT8, "sign": ONE_BIT}
NUMBERS = {
    "outer": "outer_lr",
    "m": "outer_momentum",
    "rise": "momentum_share",
    "lr": "lr",
    "beta1-": "beta1",
    "beta2-": "beta2",
    "early": "early_share",
    "dense": "dense_share",
    "batch": "batch",
}


def recipe_of(name: str) -> Recipe:
    """Read a recipe's name: words joined by underscores, such as h16_s0.7_outer1.0_m0.5_lr4e-3.

    The first word is dense, gradients, or h<steps between rounds>; s<multiplier>, sign, int8, bfloat16 and float32 say
    what is exchanged, small-<one of these> what small tensors go through, and NUMBERS lists the others.
    """
    first, *words = name.split("_")
    settings: dict[str, Any] = {"kind": first}
    if first not in ("dense", "gradients"):
        settings = {"kind": "local", "every": int(first.removeprefix("h"))}
    for word in words:
        if word in COMPRESSORS:
            settings["compressor"] = COMPRESSORS[word]
        elif word.startswith("small-"):
            settings["small"] = COMPRESSORS[word.removeprefix("small-")]
        elif word[0] == "s":
            settings["compressor"] = with_multiplier(THREE_LC_RANS, float(word[1:]))
        else:
            key = next(key for key in NUMBERS if word.startswith(key) and (word[len(key)].isdigit()))
            number = float(word[len(key) :])
            settings[NUMBERS[key]] = int(number) if key == "batch" else number
    return Recipe(**settings)


class Block(nn.Module):
    """Attention and a feed-forward layer, normalized first."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        parts = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).reshape(3, batch * self.heads, length, -1).unbind(0)
        future = torch.full((length, length), -math.inf).triu(1)
        # written out: torch's fused attention is ten times slower with products of bfloat16 inputs on small heads
        weights = torch.baddbmm(future, q, k.transpose(1, 2), alpha=(width // self.heads) ** -0.5).softmax(-1)
        heads = torch.bmm(weights, v).view(batch, self.heads, length, -1)
        x = x + self.out(heads.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """A character model of about 0.42 million parameters: width 128, 2 blocks, 4 heads."""

    def __init__(self, symbols: int, *, width: int = 128, blocks: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.characters = nn.Embedding(symbols, width)
        self.positions = nn.Embedding(CONTEXT, width)
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(blocks)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, symbols, bias=False)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02 if parameter.shape[0] in (symbols, CONTEXT) else width**-0.5 / 2)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.characters(text) + self.positions.weight)))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Text:
    """The characters as numbers: int64 [n], and how many kinds there are."""

    train: torch.Tensor
    valid: torch.Tensor
    symbols: int

    def batch(self, generator: torch.Generator, size: int = BATCH) -> torch.Tensor:
        starts = torch.randint(0, len(self.train) - CONTEXT, (size, 1), generator=generator)
        return self.train[starts + torch.arange(CONTEXT + 1)]


def load_text(path: Path = DATA) -> Text:
    """Read the text; its last tenth is held out."""
    data = np.frombuffer(path.read_bytes(), np.uint8)
    kinds, numbers = np.unique(data, return_inverse=True)
    cut = int(len(data) * (1 - HELD_OUT))
    return Text(torch.from_numpy(numbers[:cut]), torch.from_numpy(numbers[cut:]), len(kinds))


def loss_of(network: nn.Module, windows: torch.Tensor) -> torch.Tensor:
    """Give the mean loss in nats per character; windows: int64 [batch, CONTEXT + 1]."""
    logits = network(windows[:, :-1])
    return functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


def validation_loss(text: Text, network: nn.Module, windows: int = 768) -> float:
    """Give the loss on `windows` windows spread evenly over the held-out text."""
    starts = torch.linspace(0, len(text.valid) - CONTEXT - 1, windows).long()[:, None]
    every = text.valid[starts + torch.arange(CONTEXT + 1)]
    with torch.no_grad():
        return sum(loss_of(network, part).item() * len(part) for part in every.split(64)) / windows


def _adamw(network: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    betas = (recipe.beta1, recipe.beta2)
    return torch.optim.AdamW(network.parameters(), lr=recipe.lr, betas=betas, weight_decay=0.1, fused=True)


def _set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


Report = Callable[[int, float], None]  # told the steps done and the bytes that one worker has sent


def train_gradients(text: Text, recipe: Recipe, network: nn.Module, *, seed: int, steps: int, report: Report) -> float:
    """Train with the workers' gradients averaged in every step; give the bytes that one worker sent."""
    cluster = Cluster(network, WORKERS)
    codecs = Codecs(push=recipe.compressor, pull=recipe.compressor, small=recipe.small)
    generators = [torch.Generator().manual_seed(1000 * seed + rank) for rank in range(WORKERS)]
    optimizer = _adamw(network, recipe)
    dense_steps = steps if recipe.kind == "dense" else round(recipe.dense_share * steps)
    for step in range(steps):
        _set_lr(optimizer, learning_rate(step, steps, recipe.lr, WARMUP))
        batches = [text.batch(generator, recipe.batch) for generator in generators]
        optimizer.zero_grad()
        if step < dense_steps:
            loss_of(network, torch.cat(batches)).backward()  # equal batches: the mean of the workers' gradients
        else:
            gradients = []
            for batch in batches:
                parts = torch.autograd.grad(loss_of(network, batch), cluster.tensors)
                gradients.append(torch.cat([part.reshape(-1) for part in parts]).numpy())
            mean, _ = cluster.mean(gradients, codecs)
            at = 0
            for tensor in cluster.tensors:
                tensor.grad = torch.from_numpy(mean[at : at + tensor.numel()]).view(tensor.shape)
                at += tensor.numel()
        optimizer.step()
        report(step + 1, cluster.dense_bytes(min(step + 1, dense_steps)) + cluster.sent_bytes())
    cluster.pool.shutdown()
    return cluster.dense_bytes(dense_steps) + cluster.sent_bytes()


def train_local(text: Text, recipe: Recipe, network: nn.Module, *, seed: int, steps: int, report: Report) -> float:
    """Train with local steps, and leave in `network` what the workers agreed on; give the bytes that one sent."""
    replicas = [network] + [deepcopy(network) for _ in range(WORKERS - 1)]
    optimizers = [_adamw(replica, recipe) for replica in replicas]
    generators = [torch.Generator().manual_seed(1000 * seed + rank) for rank in range(WORKERS)]
    transports = local_transports(WORKERS, timeout_s=300)

    def register(rank: int) -> LocalSteps:
        return LocalSteps(
            replicas[rank],
            recipe.compressor,
            every=recipe.every,
            outer_lr=recipe.outer_lr,
            outer_momentum=recipe.outer_momentum,
            momentum_rounds=round(recipe.momentum_share * steps / recipe.every),
            small=recipe.small,
            transport=transports[rank],
        )

    def sent() -> float:
        return (sum(t.meter.bytes_sent for t in transports) - begin) / WORKERS

    with ThreadPoolExecutor(WORKERS) as pool:
        workers = list(pool.map(register, range(WORKERS)))
        begin = sum(t.meter.bytes_sent for t in transports)  # sharing the first model is no part of a step
        for step in range(steps):
            for replica, optimizer, generator in zip(replicas, optimizers, generators, strict=True):
                _set_lr(optimizer, learning_rate(step, steps, recipe.lr, WARMUP))
                optimizer.zero_grad()
                loss_of(replica, text.batch(generator, recipe.batch)).backward()
                optimizer.step()
            early = step < recipe.early_share * steps
            if early or (step + 1) % recipe.every:  # nothing is exchanged: no need for a thread per worker
                for worker in workers:
                    worker.step()
                if early and (step + 1) % EARLY_EVERY == 0:
                    list(pool.map(LocalSteps.agree, workers))
            else:
                list(pool.map(LocalSteps.step, workers))
            report(step + 1, sent())
        if steps % recipe.every:
            list(pool.map(LocalSteps.agree, workers))
    return sent()


def run(text: Text, name: str, *, seed: int, steps: int, matmul: str = "bfloat16") -> dict[str, Any]:
    """Train once and measure: one row."""
    recipe = recipe_of(name)
    torch.manual_seed(seed)
    network = Transformer(text.symbols)
    elements = sum(p.numel() for p in network.parameters())
    begin = perf_counter()
    curve: list[tuple[int, float, int]] = []

    def report(done: int, sent: float) -> None:
        if done % (steps // POINTS) == 0 and done < steps:
            curve.append((done, round(validation_loss(text, network), 4), round(sent)))

    train = train_local if recipe.kind == "local" else train_gradients
    sent = train(text, recipe, network, seed=seed, steps=steps, report=report)
    curve.append((steps, round(validation_loss(text, network), 4), round(sent)))
    dense = steps * 2 * (WORKERS - 1) / WORKERS * 4 * elements
    return {
        "recipe": name,
        "seed": seed,
        "steps": steps,
        "workers": WORKERS,
        "batch_per_worker": recipe.batch,
        "parameters": elements,
        "every": recipe.every,
        "lr": recipe.lr,
        "outer_lr": recipe.outer_lr if recipe.every else "",
        "outer_momentum": recipe.outer_momentum if recipe.every else "",
        "validation_loss": curve[-1][1],
        "bytes_sent_per_worker": round(sent),
        "ratio": round(dense / sent, 1),
        "seconds": round(perf_counter() - begin),
        "matmul": matmul,
        "curve": json.dumps(curve),
    }


def read_rows() -> list[dict[str, str]]:
    """Give all rows measured so far."""
    rows = []
    for path in sorted(RESULTS.glob("local_steps_*.csv")):
        with path.open(newline="") as file:
            rows += list(csv.DictReader(file))
    return rows


def rows_of(steps: int) -> dict[str, list[dict[str, str]]]:
    """Give the rows of runs of `steps` steps by recipe; those of bfloat16 products only, so that rows compare."""
    found: dict[str, list[dict[str, str]]] = {}
    for row in read_rows():
        if int(row["steps"]) == steps and row.get("matmul") == "bfloat16":
            found.setdefault(row["recipe"], []).append(row)
    return found


def summary(steps: int, *, seeds: int = 1) -> dict[str, dict[str, float]]:
    """Give, per recipe run for `steps` steps with `seeds` seeds or more, mean loss and ratio, and how many seeds."""
    return {
        name: {
            "loss": float(np.mean([float(row["validation_loss"]) for row in rows])),
            "ratio": float(np.mean([float(row["ratio"]) for row in rows])),
            "seeds": len({row["seed"] for row in rows}),
        }
        for name, rows in rows_of(steps).items()
        if len({row["seed"] for row in rows}) >= seeds
    }


def local_bar(*, seeds: int = BAR_SEEDS) -> dict[str, float]:
    """Read bar 7 from the rows: the best H = 16 recipe of >= 500 x fewer bytes, against dense at its best rate.

    Both are means over `seeds` seeds or more, of the longest runs of which there are so many.
    """
    for steps in sorted({int(row["steps"]) for row in read_rows()}, reverse=True):
        found = {name: f for name, f in summary(steps, seeds=seeds).items() if recipe_of(name).batch == BATCH}
        dense = [f for name, f in found.items() if recipe_of(name).kind == "dense"]
        local = [f for name, f in found.items() if recipe_of(name).every == 16 and f["ratio"] >= 500]
        if dense and local:
            first, best = (min(group, key=lambda f: f["loss"]) for group in (dense, local))
            return {
                "steps": steps,
                "gap_nats": best["loss"] - first["loss"],
                "ratio": best["ratio"],
                "seeds": min(best["seeds"], first["seeds"]),
            }
    return {"steps": 0, "gap_nats": math.nan, "ratio": 0.0, "seeds": 0}


def save_curves(path: Path, *, steps: int = 1600, shown: Mapping[str, str] = SHOWN) -> None:
    """Draw, as a PNG file, loss against steps, against bytes, and at the end of every recipe's run, all of seed 0.

    shown: what to call the recipes whose curves are drawn; the others are dots in the last picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 5.2), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    by_steps, by_bytes, ends = figure.subplots(1, 3)
    rows = {name: row for name, group in rows_of(steps).items() for row in group if row["seed"] == "0"}
    colors = dict(zip(shown, ("#24292f", "#2e7d9a", "#8e5ea2", "#7a9e3f", "#d1495b", "#c98b2b"), strict=False))
    for name, label in shown.items():
        if name not in rows:
            continue
        curve = np.array(json.loads(rows[name]["curve"]))  # [points, (step, loss, bytes)]
        by_steps.plot(curve[:, 0], curve[:, 1], "o-", color=colors[name], markersize=3, label=label)
        by_bytes.plot(curve[:, 2] / 1e6, curve[:, 1], "o-", color=colors[name], markersize=3, label=label)
    for name, row in rows.items():
        point = float(row["ratio"]), float(row["validation_loss"])
        ends.plot(*point, "o", color=colors.get(name, "#b9c0c6"), markersize=8 if name in shown else 4)
    best = min(float(row["validation_loss"]) for name, row in rows.items() if name.startswith("dense"))
    ends.axhspan(best, best + 0.03, color="#e3e6e8", label="within 0.03 nats of dense")
    ends.axvline(500, color="#5b6770", linewidth=0.8, linestyle="--", label="500 x fewer bytes")
    for axes, label in ((by_steps, "steps"), (by_bytes, "MB that one worker has sent"), (ends, "times fewer bytes")):
        axes.set_xlabel(label)
        axes.set_ylabel("validation loss, nats per character")
        axes.spines[["top", "right"]].set_visible(False)
    by_bytes.set_xscale("log")
    ends.set_xscale("log")
    by_steps.set_title(f"tinyshakespeare, {WORKERS} workers, AdamW, {steps} steps", loc="left")
    by_bytes.set_title("the same against bytes", loc="left")
    ends.set_title("end of every run", loc="left")
    by_steps.set_ylim(top=by_steps.get_ylim()[1] + 0.35)  # room for the legend
    by_steps.legend(frameon=False, loc="upper right")
    ends.legend(frameon=False)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=[], help=recipe_of.__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--plot", action="store_true", help="draw results/local_steps*.png from the rows")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("medium")  # matrix products of bfloat16 inputs, where the processor has them
    text = load_text()
    for seed in arguments.seeds:
        for name in arguments.recipes:
            key = (name, str(seed), str(arguments.steps), "bfloat16")
            if any((r["recipe"], r["seed"], r["steps"], r.get("matmul")) == key for r in read_rows()):
                continue
            row = run(text, name, seed=seed, steps=arguments.steps)
            print(row, flush=True)
            write_rows("local_steps", [row])
    if arguments.plot:
        save_curves(RESULTS / "local_steps.png")
        save_curves(RESULTS / "local_steps_6400.png", steps=6400, shown=LONG)


if __name__ == "__main__":
    main()
