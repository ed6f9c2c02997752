"""Schedules: which compressor, if any, and which sparsity multiplier at which share of a run."""

from dataclasses import dataclass
from typing import Any

from trafficzip.compressor import Compressor
from trafficzip.errors import ConfigError
from trafficzip.presets import THREE_LC_RANS, with_multiplier
from trafficzip.quantizers import Ternary


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A part of a run.

    until: share of the run, in (0, 1], at which the phase ends.
    compressor: what gradients go through; None sends them dense.
    multiplier: sparsity multiplier at the phase's begin and end, changed linearly; None keeps the compressor's.
    pull_multiplier: the same for the owners' means in the two-phase exchange; None follows `multiplier`.

    Raises:
        ConfigError: a value is out of range, or a multiplier is given without a ternary compressor.
    """

    until: float = 1.0
    compressor: Compressor | None = None
    multiplier: tuple[float, float] | None = None
    pull_multiplier: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.until <= 1:
            raise ConfigError(f"a phase ends at a share of the run in (0, 1], got {self.until}")
        for span in (self.multiplier, self.pull_multiplier):
            if span is None:
                continue
            if self.compressor is None:
                raise ConfigError("a dense phase has no sparsity multiplier")
            for value in span:
                with_multiplier(self.compressor, value)  # raises where it does not fit

    def to_dict(self) -> dict[str, Any]:
        """Give the configuration as plain data."""
        return {
            "until": self.until,
            "compressor": self.compressor.to_dict() if self.compressor else None,
            "multiplier": self.multiplier,
            "pull_multiplier": self.pull_multiplier,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Phases over a run of `total_steps` steps; beyond it, the last phase's end goes on.

    A step is one synchronised backward pass.

    Raises:
        ConfigError: no phase, ends that do not rise to 1, or no total where something changes over the run.
    """

    phases: tuple[Phase, ...]
    total_steps: int | None = None

    def __post_init__(self) -> None:
        ends = [phase.until for phase in self.phases]
        if not ends or ends != sorted(set(ends)) or ends[-1] != 1:
            raise ConfigError(f"phases must end at rising shares of the run, the last at 1, got {ends}")
        if self.total_steps is not None and self.total_steps < 1:
            raise ConfigError(f"total_steps must be >= 1, got {self.total_steps}")
        spans = [span for phase in self.phases for span in (phase.multiplier, phase.pull_multiplier) if span]
        if self.total_steps is None and (len(ends) > 1 or any(first != last for first, last in spans)):
            raise ConfigError("total_steps is needed: the schedule changes over the run")

    def at(self, step: int) -> tuple[Compressor, Compressor] | None:
        """Give the compressors for pushes (workers) and pulls (owners) in step `step`, from 0; None for dense."""
        share = min(step / self.total_steps, 1.0) if self.total_steps else 1.0
        begin = 0.0
        for phase in self.phases:
            if share < phase.until or phase.until == 1:
                break
            begin = phase.until
        if phase.compressor is None:
            return None
        within = min((share - begin) / (phase.until - begin), 1.0)
        push = _at(phase.compressor, phase.multiplier, within)
        pull = _at(phase.compressor, phase.pull_multiplier, within) if phase.pull_multiplier else push
        return push, pull

    def to_dict(self) -> dict[str, Any]:
        """Give the configuration as plain data."""
        return {"phases": [phase.to_dict() for phase in self.phases], "total_steps": self.total_steps}


DEFAULT_SCHEDULE = Schedule(
    phases=(Phase(compressor=THREE_LC_RANS, multiplier=(1.0, 1.0), pull_multiplier=(0.9, 0.9)),)
)


def constant(compressor: Compressor) -> Schedule:
    """Give the schedule that never changes."""
    return Schedule(phases=(Phase(compressor=compressor),))


def _at(compressor: Compressor, span: tuple[float, float] | None, within: float) -> Compressor:
    if span is None or not isinstance(compressor.quantizer, Ternary):
        return compressor
    return with_multiplier(compressor, span[0] + (span[1] - span[0]) * within)
