"""The automatic policy against every fixed choice, over shaped links between network namespaces (root, Linux).

python -m benchmarks.bench_auto [--rates 10mbit 100mbit 1gbit none] [--widths 16 78] [--budget 20]

Each rank trains one model per method in one process and the methods take turns, so that all see the same machine: first
the automatic one until it has decided, then all of them, a few steps each in every round. What is timed is whole
training steps of ResNet-20 on digits. A method that would take many times as long as the best so far gets fewer steps.
"""

import argparse
import os
import tempfile
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import trafficzip
from benchmarks.harness import ratios, write_rows
from trafficzip import BFLOAT16, QUARTIC, THREE_LC, THREE_LC_RANS, with_multiplier
from trafficzip.cluster.hosts import INTERFACE, Hosts, enter
from trafficzip.cluster.links import Link, parse_rate
from trafficzip.ddp import Phase, Schedule
from trafficzip.demo.data import load_digits
from trafficzip.demo.networks import ResNet20

RATES = ("10mbit", "100mbit", "1gbit", "none")
FAST = ("none",)  # links on which dense gradients may be best; what is promised there is not to be slower than they are
WIDTHS = {16: 0.27, 78: 6.4}  # of the first stage; millions of parameters
HOSTS = 4
BATCH = 16
TOTAL_STEPS = 1000  # over which a run's total time is reckoned, decisions and checks included
_SETTLED_STEPS = 300  # of each method before it is timed, where a third of the budget allows
_SAME_AGE = 1.5  # times the fastest step: such methods train as long as the policy before they are timed
_HOPELESS = 2.0  # times the fastest method's step: such a method is timed once


def _default(compressor: trafficzip.Compressor) -> Schedule:
    """Give a codec with the multipliers that `register` takes by default."""
    phase = Phase(compressor=with_multiplier(compressor, 1.0), multiplier=(1.0, 1.0), pull_multiplier=(0.9, 0.9))
    return Schedule(phases=(phase,))


FIXED: dict[str, dict[str, Any] | None] = {
    "dense": None,
    **{
        f"{exchange} {name}": {"compressor": compressor, "exchange": exchange, "small": small}
        for exchange in ("all_gather", "two_phase")
        for name, compressor, small in (
            ("bfloat16", BFLOAT16, BFLOAT16),
            ("quartic", _default(QUARTIC), trafficzip.INT8),
            ("zero_run", _default(THREE_LC), trafficzip.INT8),
            ("rans", _default(THREE_LC_RANS), trafficzip.INT8),
        )
    },
}


class _Run:
    """A model, its method and its data on one rank."""

    def __init__(self, options: dict[str, Any] | None, width: int) -> None:
        torch.manual_seed(0)
        self.model = DistributedDataParallel(ResNet20(width=width, in_channels=1), broadcast_buffers=False)
        self.hook = trafficzip.ddp.register(self.model, **options) if options else None
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.02, momentum=0.5)
        self.generator = torch.Generator().manual_seed(1 + dist.get_rank())
        self.data = load_digits()
        self.taken = 0

    def steps(self, count: int) -> float:
        """Take steps; give the seconds of each on average."""
        self.taken += count
        dist.barrier()
        begin = perf_counter()
        for _ in range(count):
            chosen = torch.randint(0, len(self.data.train_labels), (BATCH,), generator=self.generator)
            images = self.data.normalize(self.data.train_images[chosen])
            self.optimizer.zero_grad()
            cross_entropy(self.model(images), self.data.train_labels[chosen]).backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        return (perf_counter() - begin) / max(count, 1)


def _agreed(value: float) -> float:
    """Give rank 0's value, so that all ranks take as many steps."""
    found = torch.tensor([value], dtype=torch.float64)
    dist.broadcast(found, 0)
    return float(found)


def _compare(width: int, budget_s: float) -> dict[str, Any]:
    auto = _Run({"compressor": "auto"}, width)
    assert auto.hook is not None
    begin = perf_counter()
    steps = _decide(auto)
    settling = max(1, min(_SETTLED_STEPS, int(budget_s / 3 / _agreed(auto.steps(1)))))
    auto.steps(settling)
    steps += 1 + settling + _decide(auto)
    begun_s = _agreed(perf_counter() - begin)
    runs = {"auto": auto} | {name: _Run(options, width) for name, options in FIXED.items()}
    first = {name: _agreed(run.steps(1)) for name, run in runs.items()}
    for name, run in runs.items():  # payloads grow while residuals fill, and what overlap does is measured
        if name != "auto" and first[name] < 2 * _HOPELESS * min(first.values()):
            first[name] = _agreed(min(run.steps(1) for _ in range(3)))
            run.steps(max(1, min(_SETTLED_STEPS, int(budget_s / 3 / first[name]))))
    for name in [name for name in runs if name != "auto" and first[name] < _SAME_AGE * min(first.values())]:
        runs[name].steps(max(0, steps - runs[name].taken))  # as old as the automatic one: young payloads are smaller
        first[name] = _agreed(runs[name].steps(1))
    timed = [name for name in runs if name == "auto" or first[name] < _HOPELESS * min(first.values())]
    seconds: dict[str, list[float]] = {name: [_agreed(runs[name].steps(1))] for name in runs if name not in timed}
    seconds |= {name: [] for name in timed}
    rounds = 0
    begin = perf_counter()
    while rounds < 4 or _agreed(perf_counter() - begin) < budget_s:
        for name in timed if rounds % 2 == 0 else timed[::-1]:
            count = max(1, min(5, int(1.0 / first[name])))
            seconds[name].append(_agreed(runs[name].steps(count)))
        rounds += 1
    return {
        "seconds": seconds,
        "plan": str(auto.hook.plan()),
        "decisions": auto.hook.stats().decisions,
        "begun_steps": steps,
        "begun_s": begun_s,
    }


def _decide(auto: _Run) -> int:
    """Train until the automatic policy has decided; give the steps."""
    assert auto.hook is not None
    steps = 0
    while not auto.hook.decided:
        auto.steps(1)
        steps += 1
    return steps


def _main(host: int, namespaces: list[Path], folder: str, function: Callable[..., Any], arguments: Any) -> None:
    warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)  # 2.9 has no other name
    enter(namespaces[host])
    os.environ["GLOO_SOCKET_IFNAME"] = INTERFACE
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", len(namespaces))
    dist.init_process_group("gloo", store=store, rank=host, world_size=len(namespaces), timeout=timedelta(minutes=10))
    torch.save(function(*arguments), f"{folder}/{host}.pt")
    dist.barrier()
    dist.destroy_process_group()


def compare(rate: str, width: int, *, budget_s: float) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Measure one link and one model: a row for each method, and rank 0's ratios of the automatic policy."""
    link = Link(rate_bits_per_s=parse_rate(rate))
    with Hosts(HOSTS, link) as hosts, tempfile.TemporaryDirectory() as folder:
        namespaces = [hosts.namespace(host) for host in range(HOSTS)]
        mp.spawn(_main, (namespaces, folder, _compare, (width, budget_s)), nprocs=HOSTS)
        found = torch.load(f"{folder}/0.pt", weights_only=False)
    seconds = found["seconds"]
    step_s = {name: median(times) for name, times in seconds.items()}
    auto = step_s.pop("auto")
    best = min(step_s, key=step_s.__getitem__)
    total_s = found["begun_s"] + max(0, TOTAL_STEPS - found["begun_steps"]) * auto
    figures = {
        "over_dense": _ratio(seconds["auto"], seconds["dense"]),
        "over_best": _ratio(seconds["auto"], seconds[best]),
        "total_over_dense": total_s / (TOTAL_STEPS * step_s["dense"]),
        "total_over_best": total_s / (TOTAL_STEPS * step_s[best]),
    }
    common = {"rate": rate, "ranks": HOSTS, "million_parameters": WIDTHS.get(width, width)}
    rows = [
        {**common, "method": name, "step_s": value, "rounds": len(seconds[name]), "best": name == best}
        for name, value in step_s.items()
    ]
    chosen = {"method": "auto", "step_s": auto, "rounds": len(seconds["auto"]), "plan": found["plan"]}
    decision = {"begun_steps": found["begun_steps"], "begun_s": found["begun_s"], "total_steps": TOTAL_STEPS}
    rows.append({**common, **chosen, **figures, **decision, "decisions": " | ".join(found["decisions"])})
    return rows, figures


def _ratio(ours: list[float], theirs: list[float]) -> float:
    """Compare paired rounds where there are as many, else medians."""
    return ratios(ours, theirs)["ratio"] if len(ours) == len(theirs) else median(ours) / median(theirs)


def auto_bar(*, budget_s: float = 20.0) -> dict[tuple[str, float], dict[str, float]]:
    """Measure all links and models; give the figures by rate and millions of parameters, and keep the rows."""
    found = {}
    for width, millions in WIDTHS.items():
        for rate in RATES:
            rows, found[rate, millions] = compare(rate, width, budget_s=budget_s)
            print(f"{rate}, {millions} M parameters: {rows[-1]['plan']}")
            write_rows("auto", rows)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", nargs="+", default=RATES)
    parser.add_argument("--widths", nargs="+", type=int, default=list(WIDTHS))
    parser.add_argument("--budget", type=float, default=20.0, help="seconds of alternating rounds")
    arguments = parser.parse_args()
    for width in arguments.widths:
        for rate in arguments.rates:
            rows, figures = compare(rate, width, budget_s=arguments.budget)
            for row in rows:
                print({key: row[key] for key in ("rate", "million_parameters", "method", "step_s", "rounds")})
            print(rows[-1]["plan"], figures, rows[-1]["decisions"].replace(" | ", "\n"), sep="\n")
            print(write_rows("auto", rows))


if __name__ == "__main__":
    main()
