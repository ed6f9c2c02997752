"""What the demo runs: checked before any worker starts, and handed to the workers as JSON. Imports no torch."""

from dataclasses import asdict, dataclass
from typing import Any

from trafficzip.compressor import Compressor
from trafficzip.errors import ConfigError
from trafficzip.presets import THREE_LC, THREE_LC_RANS, with_multiplier

COMPRESSORS = {"three_lc": THREE_LC, "three_lc_rans": THREE_LC_RANS}
EXCHANGES = ("auto", "all_gather", "two_phase")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one data set is trained: SGD with momentum, the learning rate warmed up linearly, then along a cosine.

    steps: the demo's default.  batch_size: images of one worker in one step.  warmup: share of the steps.
    """

    steps: int
    batch_size: int
    peak_lr: float
    weight_decay: float
    momentum: float = 0.9
    warmup: float = 0.1


RECIPES = {
    "digits": Recipe(steps=400, batch_size=32, peak_lr=0.05, weight_decay=1e-4),
    "cifar10": Recipe(steps=200, batch_size=32, peak_lr=0.1, weight_decay=1e-4),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One demo: the same training twice, dense and compressed.

    path: folder with the images of CIFAR-10; None for digits.
    steps: of each training; None takes the recipe's.
    multiplier: sparsity multiplier; None keeps the compressor's.
    timeout_s: bound of every wait of a worker for another.

    Raises:
        ConfigError: a value is out of range, or values do not fit together.
    """

    data: str = "digits"
    path: str | None = None
    workers: int = 2
    steps: int | None = None
    seed: int = 0
    compressor: str = "three_lc_rans"
    multiplier: float | None = None
    exchange: str = "auto"
    timeout_s: float = 180.0

    def __post_init__(self) -> None:
        _check_name("--data", self.data, RECIPES)
        _check_name("--compressor", self.compressor, COMPRESSORS)
        _check_name("--exchange", self.exchange, EXCHANGES)
        if self.data == "cifar10" and self.path is None:
            raise ConfigError("--data cifar10 needs --path, the folder that holds the images")
        if self.data == "digits" and self.path is not None:
            raise ConfigError("--path is for --data cifar10; the digits come with scikit-learn")
        if not 2 <= self.workers <= 64:
            raise ConfigError(f"--workers must be in [2, 64], got {self.workers}")
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"--steps must be >= 1, got {self.steps}")
        if not 0 <= self.seed < 2**31:
            raise ConfigError(f"--seed must be in [0, 2**31), got {self.seed}")
        self.make_compressor()

    @property
    def recipe(self) -> Recipe:
        """The data set's recipe."""
        return RECIPES[self.data]

    @property
    def num_steps(self) -> int:
        """Steps of each training."""
        return self.recipe.steps if self.steps is None else self.steps

    def make_compressor(self) -> Compressor:
        """Give the named preset with the multiplier asked for."""
        preset = COMPRESSORS[self.compressor]
        return preset if self.multiplier is None else with_multiplier(preset, self.multiplier)

    def to_dict(self) -> dict[str, Any]:
        """Give the settings as plain data; `Settings(**data)` is the inverse."""
        return asdict(self)


def _check_name(option: str, name: str, known: Any) -> None:
    if name not in known:
        raise ConfigError(f"{option} must be one of {', '.join(known)}, got {name!r}")
