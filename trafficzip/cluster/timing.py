"""Timing on all ranks together: a round takes as long as it takes the slowest rank."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import torch
import torch.distributed as dist

from trafficzip.cluster.hosts import interface_bytes
from trafficzip.metrics import TrafficMeter

MAX_ROUNDS = 200


@dataclass(frozen=True, slots=True)
class Timed:
    """What a number of rounds took and moved.

    seconds: of each round, on the slowest rank.
    wire_bytes: sent at this host's interface per round, mean over hosts; None where nothing counts them.
    meter: what the method counted per round, mean over ranks; None where it counts nothing.
    """

    seconds: list[float]
    wire_bytes: float | None
    meter: TrafficMeter | None

    @property
    def median_s(self) -> float:
        """Seconds of one round."""
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """Interquartile range over the median."""
        ordered = sorted(self.seconds)
        quarter = len(ordered) // 4
        return (ordered[-1 - quarter] - ordered[quarter]) / self.median_s


def rounds_for(budget_s: float, one_round_s: float, *, at_least: int) -> int:
    """Agree on how many rounds fill a budget: the slowest rank's answer, on every rank. A collective call."""
    slowest = _over_ranks([one_round_s], dist.ReduceOp.MAX)[0]
    return max(at_least, min(MAX_ROUNDS, int(budget_s / max(slowest, 1e-6))))


def time_rounds(
    work: Callable[[], object],
    rounds: int,
    *,
    interface: str | None,
    meter: Callable[[], TrafficMeter | None] = lambda: None,
) -> Timed:
    """Call `work` on every rank `rounds` times and time each call. A collective call.

    interface: whose bytes are counted; nothing but the work's own traffic crosses it meanwhile.
    """
    dist.barrier()
    before, wire = meter(), interface_bytes(interface) if interface else None
    seconds = []
    for _ in range(rounds):
        begin = perf_counter()
        work()
        seconds.append(perf_counter() - begin)
    after, wired = meter(), interface_bytes(interface) if interface else None
    counted = after.minus(before) if after is not None and before is not None else None
    local_ranks = _ranks_on_host()
    sums = _over_ranks(
        [
            (wired[1] - wire[1]) / local_ranks if wire and wired else 0.0,
            float(wire is not None and wired is not None),
            float(counted.bytes_sent) if counted else 0.0,
            float(counted.bytes_received) if counted else 0.0,
            counted.codec_s if counted else 0.0,
            counted.exchange_s if counted else 0.0,
        ],
        dist.ReduceOp.SUM,
    )
    ranks = dist.get_world_size()
    sent, received, codec_s, exchange_s = (value / ranks / rounds for value in sums[2:])
    return Timed(
        seconds=_over_ranks(seconds, dist.ReduceOp.MAX),
        wire_bytes=sums[0] / ranks * local_ranks / rounds if sums[1] == ranks else None,
        meter=TrafficMeter(round(sent), round(received), codec_s, exchange_s) if counted else None,
    )


def _over_ranks(values: list[float], operation: dist.ReduceOp.RedOpType) -> list[float]:
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else None
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor, operation)
    found: list[float] = tensor.tolist()
    return found


def _ranks_on_host() -> int:
    import os

    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
