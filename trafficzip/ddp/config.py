"""What a registered hook was told to do; equal on every rank, which is checked once."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trafficzip.comm.layout import Parameter
from trafficzip.compressor import Compressor
from trafficzip.ddp.schedule import Schedule
from trafficzip.errors import ConfigError
from trafficzip.version import __version__

ExchangeName = Literal["auto", "all_gather", "two_phase"]
_ALL_GATHER_UP_TO = 3  # ranks: beyond, gathering every rank's frames costs more bytes than two phases


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration of a hook.

    schedule: compressor and sparsity multiplier over the run.
    small: compressor of small tensors.
    small_elements: a parameter with fewer elements, or with one dimension, is small.
    exchange: "all_gather", "two_phase", or "auto": all-gather up to 3 ranks.
    """

    schedule: Schedule
    small: Compressor
    small_elements: int
    exchange: ExchangeName

    def __post_init__(self) -> None:
        if self.exchange not in ("auto", "all_gather", "two_phase"):
            raise ConfigError(f'exchange must be "auto", "all_gather" or "two_phase", got {self.exchange!r}')
        if self.small_elements < 0:
            raise ConfigError(f"small_elements must be >= 0, got {self.small_elements}")

    def exchange_for(self, world_size: int) -> Literal["all_gather", "two_phase"]:
        """Choose the exchange for a world size."""
        if self.exchange == "auto":
            return "all_gather" if world_size <= _ALL_GATHER_UP_TO else "two_phase"
        return self.exchange

    def describe(self, parameters: Sequence[Parameter]) -> dict[str, Any]:
        """Give everything that must be equal on all ranks, as plain data."""
        sizes = json.dumps([[p.name, p.size, p.small] for p in parameters])
        return {
            "version": __version__,
            "schedule": self.schedule.to_dict(),
            "small": self.small.to_dict(),
            "small_elements": self.small_elements,
            "exchange": self.exchange,
            "parameters": f"{len(parameters)} ({hashlib.sha256(sizes.encode()).hexdigest()[:16]})",
        }
