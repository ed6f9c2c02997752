"""Trials: which plan is fastest, found by running them in turn and agreed upon by all ranks."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

from trafficzip.comm.agreement import gather_plain
from trafficzip.comm.transport import Transport
from trafficzip.ddp.plan import Plan
from trafficzip.errors import CollectiveError

ROUNDS = 3
TIMED_STEPS = 4  # of each plan in each round, after one step that still feels the plan before
DROP_BEYOND = 1.1  # times the best: such a plan is not in the next round
NOISE = 0.03  # plans within this share of the best are equal, and the first of them is taken


@dataclass(slots=True)
class StepLog:
    """What this rank knows of the last step.

    period_s: seconds from the end of the step before it to its own end.
    bucket_sizes: elements of each of its buckets, in order.
    committed: whether it was compressed, and finite on all ranks, so that residuals took what it lost.
    """

    period_s: float = 0.0
    bucket_sizes: tuple[int, ...] = ()
    committed: bool = False
    _end: float = 0.0

    def end_step(self, bucket_sizes: Sequence[int], *, committed: bool) -> None:
        """Note that a step has ended."""
        now = perf_counter()
        self.period_s, self._end = now - self._end, now
        self.bucket_sizes = tuple(bucket_sizes)
        self.committed = committed


@dataclass(frozen=True, slots=True)
class Result:
    """What trials found. step_s: by plan, the median step of the slowest rank, in seconds."""

    best: Plan
    step_s: dict[Plan, float]

    def __str__(self) -> str:
        return ", ".join(f"{plan}: {1000 * step_s:.3g} ms" for plan, step_s in self.step_s.items())


def try_plans(
    candidates: Sequence[Plan], log: StepLog, control: Transport, *, rounds: int = ROUNDS
) -> Generator[Plan, None, Result]:
    """Yield the plan of each step to come; return the result, the same on every rank.

    Every rank advances it before each of the same steps. Plans run in short blocks in turn, so that all see the same
    machine and network. After each round ranks share their medians; the slowest rank's counts.

    candidates: the first of equally fast ones is taken.
    log: told of the end of each step.
    Raises:
        CollectiveError: a rank failed, or tries other plans.
    """
    samples: dict[Plan, list[float]] = {plan: [] for plan in candidates}
    step_s: dict[Plan, float] = {}
    left = list(candidates)
    for round_index in range(rounds):
        for plan in left if round_index % 2 == 0 else left[::-1]:
            yield plan
            for _ in range(TIMED_STEPS):
                yield plan
                samples[plan].append(log.period_s)
        step_s |= _slowest({plan: median(samples[plan]) for plan in left}, control)
        fastest = min(step_s.values())
        left = [plan for plan in left if step_s[plan] <= DROP_BEYOND * fastest]
        if len(left) == 1:
            break
    fastest = min(step_s.values())
    best = next(plan for plan in candidates if step_s[plan] <= (1 + NOISE) * fastest)
    return Result(best, step_s)


def _slowest(own: dict[Plan, float], control: Transport) -> dict[Plan, float]:
    """Share seconds by plan, and give the largest of any rank."""
    found = gather_plain(control, {"step_s": [[str(plan), seconds] for plan, seconds in own.items()]})
    rows = [answer["step_s"] for answer in found]
    for rank, row in enumerate(rows):
        if [name for name, _ in row] != [str(plan) for plan in own]:
            raise CollectiveError(f"rank {rank} tried {[name for name, _ in row]}, expected {[*map(str, own)]}")
    return {plan: max(row[index][1] for row in rows) for index, plan in enumerate(own)}
