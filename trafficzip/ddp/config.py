"""What a registered hook was told to do; equal on every rank, which is checked once."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trafficzip.comm.assembly import ExchangeKind
from trafficzip.comm.layout import Parameter
from trafficzip.comm.nodes import Nodes
from trafficzip.compressor import Compressor
from trafficzip.ddp.schedule import DEFAULT_SCHEDULE, Schedule
from trafficzip.errors import ConfigError
from trafficzip.version import __version__

Overlap = bool | Literal["auto"]
ExchangeName = Literal["auto", "all_gather", "two_phase", "hierarchical"]
_EXCHANGES = ("auto", "all_gather", "two_phase", "hierarchical")
_ALL_GATHER_UP_TO = 3  # ranks: beyond, gathering every rank's frames costs more bytes than two phases


@dataclass(frozen=True, slots=True, kw_only=True)
class Auto:
    """Let measurements choose how gradients travel; what "auto" stands for as a compressor.

    A choice depends on the time that steps take, so two runs may differ; all ranks of a run choose alike.

    schedule: sparsity multipliers, and dense phases, over the run.
    recheck_steps: steps between two checks.
    allow_dense: whether uncompressed gradients, float32 or bfloat16, may be chosen.

    Raises:
        ConfigError: recheck_steps is below 100, which would leave little besides checks.
    """

    schedule: Schedule = DEFAULT_SCHEDULE
    recheck_steps: int = 1000
    allow_dense: bool = True

    def __post_init__(self) -> None:
        if self.recheck_steps < 100:
            raise ConfigError(f"recheck_steps must be >= 100, got {self.recheck_steps}")

    def to_dict(self) -> dict[str, Any]:
        """Give what the schedule does not say, as plain data."""
        return {"recheck_steps": self.recheck_steps, "allow_dense": self.allow_dense}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration of a hook.

    schedule: compressor and sparsity multiplier over the run.
    small: compressor of small tensors.
    small_elements: a parameter with fewer elements, or with one dimension, is small.
    exchange: "all_gather", "two_phase", "hierarchical", or "auto": hierarchical where several of several nodes' ranks
        share a node, else all-gather up to 3 ranks and two-phase beyond.
    nodes: the nodes of the ranks, if known; else each rank has its own.
    auto: how to choose by measurement; None follows the schedule and the exchange.
    overlap: whether early buckets are exchanged during the backward pass; "auto" measures both.
    """

    schedule: Schedule
    small: Compressor
    small_elements: int
    exchange: ExchangeName
    nodes: Nodes | None = None
    overlap: Overlap = "auto"
    auto: Auto | None = None

    def __post_init__(self) -> None:
        if self.exchange not in _EXCHANGES:
            raise ConfigError(f"exchange must be one of {_EXCHANGES}, got {self.exchange!r}")
        if self.overlap not in (True, False, "auto"):
            raise ConfigError(f'overlap must be True, False or "auto", got {self.overlap!r}')
        if self.small_elements < 0:
            raise ConfigError(f"small_elements must be >= 0, got {self.small_elements}")

    def exchange_for(self, world_size: int) -> ExchangeKind:
        """Choose the exchange for a world size.

        Raises:
            ConfigError: `nodes` are those of another number of ranks.
        """
        if self.nodes and len(self.nodes.of_rank) != world_size:
            raise ConfigError(f"nodes of {len(self.nodes.of_rank)} ranks are given, expected {world_size}")
        if self.exchange == "auto":
            if self.nodes and self.nodes.are_worth_it:
                return "hierarchical"
            few = world_size <= _ALL_GATHER_UP_TO and not self.auto
            return "all_gather" if few else "two_phase"
        return self.exchange

    def other_exchanges(self, kind: ExchangeKind) -> Sequence[ExchangeKind]:
        """Give what buckets may go through besides the exchange for this world size."""
        return ("all_gather",) if self.auto and self.exchange == "auto" and kind == "two_phase" else ()

    def describe(self, parameters: Sequence[Parameter]) -> dict[str, Any]:
        """Give everything that must be equal on all ranks, as plain data."""
        sizes = json.dumps([[p.name, p.size, p.small] for p in parameters])
        return {
            "version": __version__,
            "schedule": self.schedule.to_dict(),
            "small": self.small.to_dict(),
            "small_elements": self.small_elements,
            "exchange": self.exchange,
            "overlap": self.overlap,
            "auto": self.auto.to_dict() if self.auto else None,
            "nodes": list(self.nodes.of_rank) if self.nodes else None,
            "parameters": f"{len(parameters)} ({hashlib.sha256(sizes.encode()).hexdigest()[:16]})",
        }
