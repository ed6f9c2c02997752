"""Jobs: what a sweep runs, one method on one workload over one kind of link each."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from trafficzip.cluster.links import Link, parse_rate
from trafficzip.errors import ConfigError

Workload = Literal["exchange", "training", "accuracy"]
WORKLOADS: dict[str, Workload] = {"exchange": "exchange", "training": "training", "accuracy": "accuracy"}
METHOD_NAMES = (
    *("dense", "fp16", "powersgd_r1", "powersgd_r2", "powersgd_r4", "top_k", "one_bit", "int8"),
    *("three_lc_s1.0", "three_lc_s1.5", "three_lc_s1.75", "three_lc_s1.9", "three_lc_rans_s1.0", "default"),
    *("two_phase", "auto", "local_h16"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is trained, or whose gradients are exchanged: ResNet-20, wider or narrower, on small images.

    data: "digits" (scikit-learn's, 8 x 8 pixels) or "cifar10" (from `path`).
    width: channels of the first stage; even.  patch: pixels' side that the first layer takes at once.
    batch: images per worker.  lr, momentum: of SGD; peak_lr after a warm-up, then a cosine.
    """

    data: str = "digits"
    path: str | None = None
    width: int = 40
    patch: int = 1
    batch: int = 16
    peak_lr: float = 0.5
    momentum: float = 0.5

    def __post_init__(self) -> None:
        if self.data not in ("digits", "cifar10"):
            raise ConfigError(f"data must be digits or cifar10, got {self.data!r}")
        if (self.data == "cifar10") != (self.path is not None):
            raise ConfigError("cifar10 needs a path, the folder that holds the images; digits come with scikit-learn")
        if self.width < 2 or self.width % 2:
            raise ConfigError(f"width must be even and >= 2, got {self.width}")
        if self.batch < 1 or self.patch < 1:
            raise ConfigError(f"batch and patch must be >= 1, got {self.batch} and {self.patch}")
        if self.peak_lr <= 0 or not 0 <= self.momentum < 1:
            raise ConfigError(f"peak_lr must be > 0 and momentum in [0, 1), got {self.peak_lr} and {self.momentum}")

    @property
    def network(self) -> str:
        """Name the network and how it is trained."""
        return f"resnet20 width {self.width} patch {self.patch}"

    @property
    def key(self) -> str:
        """Give what tells this training from others, as a row's columns hold it."""
        return f"{self.network} {self.data} {self.batch} {self.peak_lr} {self.momentum}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One row to be.

    rate: of every link, as tc writes it; "none" is unshaped.
    megabytes: 10^6 bytes of float32 gradient in one exchange; 0 where training decides.
    steps: of an accuracy run.
    target: percent of test images at which an accuracy run may end before its steps; 0 for none.
    min_rounds, budget_s: timed rounds go on for budget_s, but for min_rounds at least.
    """

    workload: Workload
    method: str
    rate: str
    task: Task
    megabytes: float = 0.0
    steps: int = 0
    target: float = 0.0
    seed: int = 0
    min_rounds: int = 5
    budget_s: float = 10.0

    def key(self) -> tuple[str, ...]:
        """Give what tells this job's row from others of the same hosts, as a row's columns hold it."""
        return (
            self.workload,
            self.method,
            self.rate,
            f"{self.megabytes:g} {self.task.data}" if self.workload == "exchange" else "",
            "" if self.workload == "exchange" else self.task.key,
            f"{self.steps} {self.target:g} {self.seed}" if self.workload == "accuracy" else "",
        )

    def to_dict(self) -> dict[str, Any]:
        """Give the job as plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Job":
        """Build what `to_dict` described."""
        return cls(**{**data, "task": Task(**data["task"])})


def plan(
    *,
    workloads: Sequence[str],
    methods: Sequence[str],
    rates: Sequence[str],
    megabytes: Sequence[float],
    task: Task,
    steps: int,
    seeds: Sequence[int],
    budget_s: float,
    target: float = 0.0,
) -> list[Job]:
    """List a sweep's jobs: rate after rate, so that links change seldom; accuracy last, over unshaped links.

    Raises:
        ConfigError: a workload, a method or a rate is none.
    """
    for workload in workloads:
        if workload not in WORKLOADS:
            raise ConfigError(f"workload must be one of {', '.join(WORKLOADS)}, got {workload!r}")
    for method in methods:
        if method not in METHOD_NAMES:
            raise ConfigError(f"method must be one of {', '.join(METHOD_NAMES)}, got {method!r}")
    for rate in rates:
        Link(rate_bits_per_s=parse_rate(rate))
    jobs = []
    for rate in rates:
        for size in megabytes if "exchange" in workloads else ():
            jobs += [
                Job(workload="exchange", method=m, rate=rate, task=task, megabytes=size, budget_s=budget_s)
                for m in methods
                if m != "local_h16"  # it exchanges models now and then: no single exchange to compare
            ]
        if "training" in workloads:
            jobs += [Job(workload="training", method=m, rate=rate, task=task, budget_s=budget_s) for m in methods]
    if "accuracy" in workloads:
        jobs += [
            Job(workload="accuracy", method=m, rate="none", task=task, steps=steps, target=target, seed=seed)
            for seed in seeds
            for m in methods
        ]
    return jobs
