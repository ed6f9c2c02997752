"""The exchange over Gloo on this machine: time against all_reduce, memory, overhead when off, bit-identical ranks.

python -m benchmarks.bench_exchange [--ranks 2 3 4] [--mebibytes 1 10 25 100]
"""

import argparse
import hashlib
import tracemalloc
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import trafficzip
from benchmarks.harness import ratios, write_rows
from benchmarks.processes import run_ranks
from trafficzip.presets import THREE_LC, THREE_LC_RANS


def perceptron(width: int, depth: int) -> nn.Sequential:
    """Give `depth` square layers of `width`, with biases."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers)


# ---- time ----


def _time_exchange(mebibytes: int, rounds: int) -> dict[str, Any]:
    """Time one bucket-sized gradient through DDP's own all-reduce and the exchanges; 4 ranks also as 2 nodes of 2."""
    rank = dist.get_rank()
    rng = np.random.default_rng(rank)
    n = mebibytes * 2**18
    vector = torch.zeros(n)
    seconds: dict[str, list[float]] = {"all_reduce": []}
    for _ in range(rounds):
        dist.barrier()
        begin = perf_counter()
        dist.all_reduce(vector)
        seconds["all_reduce"].append(perf_counter() - begin)
    rows: dict[str, Any] = {}
    for name in ("all_gather", "two_phase", *(["hierarchical"] if dist.get_world_size() == 4 else [])):
        nodes = [0, 0, 1, 1] if name == "hierarchical" else None
        for preset, compressor in (("THREE_LC", THREE_LC), ("THREE_LC_RANS", THREE_LC_RANS)):
            weight = nn.Parameter(torch.zeros(n // 64, 64))
            model = DistributedDataParallel(_Weight(weight), bucket_cap_mb=2 * mebibytes)
            state = trafficzip.ddp.register(model, compressor, exchange=name, nodes=nodes)
            times = []
            for _ in range(rounds + 10):  # the first ones build up the residual
                gradient = torch.from_numpy(rng.standard_normal((n // 64, 64), dtype=np.float32))
                loss = model(gradient)
                dist.barrier()
                before = state.transport.meter.copy()
                loss.backward()
                meter = state.transport.meter.minus(before)
                times.append((meter.codec_s + meter.exchange_s, meter.codec_s, meter.bytes_sent))
            kept = times[10:]
            rows[f"{name} {preset}"] = {
                "seconds": median(t[0] for t in kept),
                "codec_s": median(t[1] for t in kept),
                "bits_per_element_sent": 8 * median(t[2] for t in kept) / n,
                "inside_bits_per_element_sent": 8 * state.stats().inside_bytes_sent / len(times) / n,
                **ratios([t[0] for t in kept], seconds["all_reduce"]),
            }
    rows["all_reduce"] = {"seconds": median(seconds["all_reduce"]), "ratio": 1.0}
    return rows


class _Weight(nn.Module):
    """A model whose gradient is its input."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, gradient: torch.Tensor) -> torch.Tensor:
        return (self.weight * gradient).sum()


# ---- memory ----


def _memory(width: int, depth: int) -> dict[str, float]:
    """Trace what this process allocates beyond DDP's own; DDP and autograd allocate in torch, which is not traced."""
    warm = DistributedDataParallel(perceptron(300, 2))  # loads kernels, which have a size of their own
    trafficzip.ddp.register(warm, exchange="two_phase")
    warm(torch.randn(4, 300)).square().mean().backward()
    model = DistributedDataParallel(perceptron(width, depth), gradient_as_bucket_view=True)
    gradient_bytes = sum(4 * p.numel() for p in model.parameters())
    batch = torch.randn(4, width)
    model(batch).square().mean().backward()  # before tracing: imports and DDP's first buckets
    tracemalloc.start()
    state = trafficzip.ddp.register(model, exchange="two_phase")
    for _ in range(4):
        model(batch).square().mean().backward()
    tracemalloc.reset_peak()
    for _ in range(3):
        model(torch.randn(4, width)).square().mean().backward()
    steady, peak = tracemalloc.get_traced_memory()
    residuals = state.exchange.worker.residual.nbytes + state.exchange.owner.residual.nbytes
    return {
        "gradient_bytes": gradient_bytes,
        "residuals": residuals / gradient_bytes,
        "steady": steady / gradient_bytes,
        "peak": peak / gradient_bytes,
    }


def memory() -> dict[str, float]:
    """Measure bar 7: 4 ranks, 101 MB of gradients in DDP's default buckets; the worst rank."""
    found = run_ranks(_memory, 4, 1536, 11)
    return {key: max(result[key] for result in found) for key in found[0]}


# ---- overhead when off ----


def _overhead_off(pairs: int, steps: int) -> dict[str, float]:
    torch.manual_seed(0)
    models = {}
    for name in ("plain", "off"):
        models[name] = DistributedDataParallel(perceptron(512, 6))
        if name == "off":
            trafficzip.ddp.register(models[name]).disable()
    batch = torch.randn(256, 512)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for pair in range(pairs + 1):  # the first pair warms up
        for name in sorted(models, reverse=bool(pair % 2)):
            model = models[name]
            dist.barrier()
            times = []
            for _ in range(steps):
                begin = perf_counter()
                model(batch).square().mean().backward()
                model.zero_grad(set_to_none=True)
                times.append(perf_counter() - begin)
            if pair:
                seconds[name].append(median(times))
    return {**ratios(seconds["off"], seconds["plain"]), "seconds": median(seconds["plain"])}


def overhead_off() -> dict[str, float]:
    """Measure bar 8: 2 ranks, 5 paired runs; rank 0's figures."""
    found: dict[str, float] = run_ranks(_overhead_off, 2, 5, 60)[0]
    return found


# ---- bit-identical ranks ----


def _train(exchange: str, steps: int) -> str:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(64, 300), nn.BatchNorm1d(300), nn.ReLU(), nn.Linear(300, 300), nn.ReLU(), nn.Linear(300, 8)
    )
    model = DistributedDataParallel(net, bucket_cap_mb=0.2)
    trafficzip.ddp.register(model, exchange=exchange)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    torch.manual_seed(1 + dist.get_rank())
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(torch.randn(32, 64)), torch.randint(0, 8, (32,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()


def identical_ranks(steps: int = 200) -> dict[tuple[str, int], int]:
    """Measure bar 10: how many ranks end with other parameters than rank 0."""
    found = {}
    for exchange in ("all_gather", "two_phase"):
        for ranks in (2, 3, 4):
            digests = run_ranks(_train, ranks, exchange, steps)
            found[exchange, ranks] = sum(digest != digests[0] for digest in digests)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--mebibytes", type=int, nargs="+", default=[1, 10, 25, 100])
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for ranks in arguments.ranks:
        for mebibytes in arguments.mebibytes:
            found = run_ranks(_time_exchange, ranks, mebibytes, arguments.rounds)[0]
            for method, row in found.items():
                rows.append({"what": "exchange", "ranks": ranks, "mebibytes": mebibytes, "method": method, **row})
                print(rows[-1])
    rows.append({"what": "memory", "ranks": 4, **memory()})
    print(rows[-1])
    rows.append({"what": "hook off", "ranks": 2, **overhead_off()})
    print(rows[-1])
    print(write_rows("exchange", rows))


if __name__ == "__main__":
    main()
