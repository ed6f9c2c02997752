"""Named ways to train: learning rate, and what gradients go through over the run."""

from dataclasses import dataclass

from trafficzip.compressor import Compressor
from trafficzip.ddp.schedule import DEFAULT_SCHEDULE, Phase, Schedule
from trafficzip.presets import BFLOAT16, INT8, THREE_LC_RANS


@dataclass(frozen=True)
class Recipe:
    """How a run is trained: peak learning rate, share of the run over which it rises, compression, momentum."""

    description: str
    lr: float
    lr_warmup: float = 0.15
    phases: tuple[Phase, ...] = ()
    small: Compressor = BFLOAT16
    momentum: float = 0.9

    def schedule(self, steps: int) -> Schedule | None:
        """Give the schedule of a run, None for a dense one."""
        return Schedule(phases=self.phases, total_steps=steps) if self.phases else None


def _ramp(push: tuple[float, float], pull: tuple[float, float] | None = None) -> tuple[Phase, ...]:
    return (Phase(compressor=THREE_LC_RANS, multiplier=push, pull_multiplier=pull),)


RECIPES = {
    "dense_lr0.1": Recipe("float32", 0.1),
    "dense_lr0.2": Recipe("float32", 0.2),
    "dense_lr0.4": Recipe("float32", 0.4),
    "dense_lr0.4_momentum0.8": Recipe("float32, momentum 0.8", 0.4, momentum=0.8),
    "dense_lr1.0_momentum0.5": Recipe("float32, momentum 0.5", 1.0, momentum=0.5),
    "s1.0_no_lr_warmup": Recipe("s = 1.0, learning rate without warm-up", 0.1, 0.0, _ramp((1.0, 1.0))),
    "s1.0_lr0.2": Recipe("s = 1.0, learning rate as dense", 0.2, 0.15, _ramp((1.0, 1.0))),
    "s1.0_lr0.14": Recipe("s = 1.0, smaller learning rate", 0.14, 0.15, _ramp((1.0, 1.0))),
    "s1.0_lr0.4_momentum0.8": Recipe("s = 1.0, momentum 0.8", 0.4, 0.15, _ramp((1.0, 1.0)), momentum=0.8),
    "s1.0_lr1.0_momentum0.5": Recipe("s = 1.0, momentum 0.5", 1.0, 0.15, _ramp((1.0, 1.0)), momentum=0.5),
    "default": Recipe(
        "register's defaults (push s = 1.0, pull s = 0.9, small tensors 8-bit), momentum 0.5",
        1.0,
        0.15,
        DEFAULT_SCHEDULE.phases,
        INT8,
        momentum=0.5,
    ),
    "s1.0_pull0.85_int8_lr0.2": Recipe(
        "push s = 1.0, pull s = 0.85, small tensors 8-bit", 0.2, 0.15, _ramp((1.0, 1.0), (0.85, 0.85)), INT8
    ),
}
