"""Trials: which plan is fastest, found by running them in turn and agreed upon by all ranks."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol

from trafficzip.comm.agreement import gather_plain
from trafficzip.comm.transport import Transport
from trafficzip.compressor import Compressor
from trafficzip.ddp.plan import Plan
from trafficzip.ddp.step import Bucket
from trafficzip.errors import CollectiveError

UNTIMED_STEPS, TIMED_STEPS = 2, 5  # of each plan in each round; the first feel the plan before, and a link's burst
LEAST_ROUNDS, MOST_ROUNDS = 3, 8
LEAST_S = 4.0  # rounds go on for so long: other load on a machine comes in bursts
DROP_BEYOND = (3.0, 1.5, 1.25, 1.15, 1.1)  # times the best after each round, and after later ones: such a plan is out
NOISE = 0.03  # plans within this share of the best are equal, and the first of them is taken


class Probe(Protocol):
    """What looks at buckets before they are exchanged."""

    def look(self, bucket: Bucket, pair: tuple[Compressor, Compressor]) -> None:
        """See a bucket, and what the schedule says for workers and owners."""


@dataclass(slots=True)
class StepLog:
    """What this rank knows of the last step.

    period_s: seconds from the end of the step before it to its own end.
    bucket_sizes: elements of each of its buckets, in order.
    committed: whether it was compressed, and finite on all ranks, so that residuals took what it lost.
    exchange_s: seconds of its exchanges, codecs included.
    unsettled: residuals have come from elsewhere since plans were chosen.
    probe: what looks at buckets before they are exchanged.
    decided: whether steps follow a plan that was chosen, and no trial or warm-up.
    decisions: what was measured and chosen, and why.
    """

    period_s: float = 0.0
    exchange_s: float = 0.0
    bucket_sizes: tuple[int, ...] = ()
    committed: bool = False
    unsettled: bool = False
    probe: Probe | None = None
    decided: bool = False
    decisions: list[str] = field(default_factory=list)
    _end: float = 0.0

    def end_step(self, bucket_sizes: Sequence[int], *, exchange_s: float, committed: bool) -> None:
        """Note that a step has ended."""
        now = perf_counter()
        self.period_s, self._end = now - self._end, now
        self.bucket_sizes = tuple(bucket_sizes)
        self.exchange_s = exchange_s
        self.committed = committed


@dataclass(frozen=True, slots=True)
class Result:
    """What trials found. step_s: by plan, the lower quartile of the slowest rank's rounds, in seconds of a step."""

    best: Plan
    step_s: dict[Plan, float]

    def __str__(self) -> str:
        return ", ".join(f"{plan}: {1000 * step_s:.3g} ms" for plan, step_s in self.step_s.items())


def try_plans(candidates: Sequence[Plan], log: StepLog, control: Transport) -> Generator[Plan, None, Result]:
    """Yield the plan of each step to come; return the result, the same on every rank.

    Every rank advances it before each of the same steps. Plans run in short blocks in turn, so that all see the same
    machine and network. After each round ranks share their lower quartiles, which other load disturbs least, and the
    slowest rank's counts. A round's sample is the mean of its steps: on a link that lets bursts pass, some of a heavy
    plan's steps are faster than it can go on.

    candidates: the first of equally fast ones is taken.
    log: told of the end of each step.
    Raises:
        CollectiveError: a rank failed, or tries other plans.
    """
    samples: dict[Plan, list[float]] = {plan: [] for plan in candidates}
    step_s: dict[Plan, float] = {}
    left = list(candidates)
    begin = perf_counter()
    for round_index in range(MOST_ROUNDS):
        for plan in left if round_index % 2 == 0 else left[::-1]:
            for _ in range(UNTIMED_STEPS):
                yield plan
            total_s = 0.0
            for _ in range(TIMED_STEPS):
                yield plan
                total_s += log.period_s
            samples[plan].append(total_s / TIMED_STEPS)
        found, elapsed_s = _slowest({plan: _lower_quartile(samples[plan]) for plan in left}, begin, control)
        step_s |= found
        fastest = min(step_s.values())
        bound = DROP_BEYOND[min(round_index, len(DROP_BEYOND) - 1)] * fastest
        left = [plan for plan in left if step_s[plan] <= bound]
        if len(left) == 1 or (round_index + 1 >= LEAST_ROUNDS and elapsed_s > LEAST_S):
            break
    best = next(plan for plan in left if step_s[plan] <= (1 + NOISE) * fastest)
    return Result(best, step_s)


def _lower_quartile(values: Sequence[float]) -> float:
    return sorted(values)[(len(values) - 1) // 4]


def _slowest(own: dict[Plan, float], begin: float, control: Transport) -> tuple[dict[Plan, float], float]:
    """Share seconds by plan and since `begin`, and give the largest of any rank."""
    mine = {"step_s": [[str(plan), seconds] for plan, seconds in own.items()], "elapsed_s": perf_counter() - begin}
    answers = gather_plain(control, mine)
    for rank, answer in enumerate(answers):
        names = [name for name, _ in answer["step_s"]]
        if names != [str(plan) for plan in own]:
            raise CollectiveError(f"rank {rank} tried {names}, expected {[*map(str, own)]}")
    largest = {plan: max(answer["step_s"][index][1] for answer in answers) for index, plan in enumerate(own)}
    return largest, max(answer["elapsed_s"] for answer in answers)
