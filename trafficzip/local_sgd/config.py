"""What local steps were told to do; equal on every rank, which is checked once."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trafficzip.comm.layout import Parameter
from trafficzip.compressor import Compressor
from trafficzip.errors import ConfigError
from trafficzip.version import __version__

ExchangeName = Literal["auto", "all_gather", "two_phase"]
BufferRule = Literal["average", "keep"]
_ALL_GATHER_UP_TO = 3  # ranks: beyond, gathering every rank's frames costs more bytes than two phases


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration of local steps.

    every: inner steps between two rounds.
    outer_lr, outer_momentum, nesterov: the outer SGD step on the mean difference.
    momentum_rounds: rounds over which the outer momentum rises from 0; 0 has it whole from the first.
    compressor, small, small_elements: what large and small parameters' differences go through.
    buffers: whether floating-point buffers are averaged in each round, or each rank keeps its own.

    Raises:
        ConfigError: a value is out of range.
    """

    every: int
    outer_lr: float
    outer_momentum: float
    momentum_rounds: int
    nesterov: bool
    compressor: Compressor
    small: Compressor
    small_elements: int
    exchange: ExchangeName
    buffers: BufferRule

    def __post_init__(self) -> None:
        if not isinstance(self.every, int) or self.every < 1:
            raise ConfigError(f"every must be an integer >= 1, got {self.every!r}")
        if not 0 < self.outer_lr < float("inf"):
            raise ConfigError(f"outer_lr must be > 0 and finite, got {self.outer_lr}")
        if not 0 <= self.outer_momentum < 1:
            raise ConfigError(f"outer_momentum must be in [0, 1), got {self.outer_momentum}")
        if not isinstance(self.momentum_rounds, int) or self.momentum_rounds < 0:
            raise ConfigError(f"momentum_rounds must be an integer >= 0, got {self.momentum_rounds!r}")
        if self.small_elements < 0:
            raise ConfigError(f"small_elements must be >= 0, got {self.small_elements}")
        if self.exchange not in ("auto", "all_gather", "two_phase"):
            raise ConfigError(f'exchange must be "auto", "all_gather" or "two_phase", got {self.exchange!r}')
        if self.buffers not in ("average", "keep"):
            raise ConfigError(f'buffers must be "average" or "keep", got {self.buffers!r}')

    def exchange_for(self, world_size: int) -> Literal["all_gather", "two_phase"]:
        """Choose the exchange for a world size."""
        if self.exchange == "auto":
            return "all_gather" if world_size <= _ALL_GATHER_UP_TO else "two_phase"
        return self.exchange

    def describe(self, parameters: Sequence[Parameter], others: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Give everything that must be equal on all ranks, as plain data.

        others: name, and dtype and shape, of every tensor of the model, trained or not.
        """
        return {
            "version": __version__,
            "every": self.every,
            "outer_lr": self.outer_lr,
            "outer_momentum": self.outer_momentum,
            "momentum_rounds": self.momentum_rounds,
            "nesterov": self.nesterov,
            "compressor": self.compressor.to_dict(),
            "small": self.small.to_dict(),
            "small_elements": self.small_elements,
            "exchange": self.exchange,
            "buffers": self.buffers,
            "parameters": _digest([[p.name, p.size, p.small] for p in parameters]),
            "tensors": _digest([list(entry) for entry in others]),
        }


def _digest(entries: list[list[Any]]) -> str:
    return f"{len(entries)} ({hashlib.sha256(json.dumps(entries).encode()).hexdigest()[:16]})"
