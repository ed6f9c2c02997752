"""Saved residuals: plain tensors and numbers by rank, which torch.distributed.checkpoint and torch.save take."""

from collections.abc import Mapping
from typing import Any

import torch

from trafficzip.error_feedback import ErrorFeedback
from trafficzip.errors import ConfigError

STATE_VERSION = 1
_KEYS = {"version", "kind", "world_size", "worker", "owner"}


def rank_key(rank: int) -> str:
    """Give the key of a rank's part. Checkpoints store equal keys of several ranks once, so keys must differ."""
    return f"rank{rank}"


def make_state(kind: str, world_size: int, worker: ErrorFeedback, owner: ErrorFeedback) -> dict[str, Any]:
    """Give one rank's part: copies of its residuals."""
    return {
        "version": STATE_VERSION,
        "kind": kind,
        "world_size": world_size,
        "worker": _tensors(worker),
        "owner": _tensors(owner),
    }


def check_state(state: Mapping[str, Any], *, kind: str, world_size: int, rank: int) -> Mapping[str, Any]:
    """Give this rank's part of a state.

    Raises:
        ConfigError: it is something else, of another version, kind or world size, or another rank's.
    """
    if not isinstance(state, Mapping) or not state:
        raise ConfigError(f"not a trafficzip FSDP2 state: expected a mapping with the key {rank_key(rank)}")
    for key, part in state.items():
        if not isinstance(part, Mapping):
            raise ConfigError(f"not a trafficzip FSDP2 state: {key} must be a mapping, got {type(part).__name__}")
        if part.get("world_size") != world_size:
            raise ConfigError(
                f"residuals of {key} were saved with {part.get('world_size')} ranks, this run has {world_size}: "
                "residuals belong to ranks; go on at the saved world size, or without them"
            )
    if rank_key(rank) not in state:
        raise ConfigError(f"state holds {sorted(state)}, this is {rank_key(rank)}: each rank loads its own")
    mine: Mapping[str, Any] = state[rank_key(rank)]
    if mine.keys() - {"owner"} != _KEYS - {"owner"}:  # checkpoints drop empty mappings
        raise ConfigError(f"not a trafficzip FSDP2 state: keys {sorted(mine)}, expected {sorted(_KEYS)}")
    if mine["version"] != STATE_VERSION:
        raise ConfigError(f"FSDP2 state has version {mine['version']}, this release reads {STATE_VERSION}")
    if mine["kind"] != kind:
        raise ConfigError(f"FSDP2 state is of {mine['kind']}, expected {kind}")
    for side in ("worker", "owner"):
        _check_residuals(side, mine.get(side, {}))
    return {"owner": {}, **mine}


def check_metadata(metadata: Any, *, kind: str, world_size: int) -> None:
    """Check by its list of keys that a checkpoint was saved by `world_size` ranks.

    Raises:
        ConfigError: it was not, or holds no residuals.
    """
    suffix = ".kind"
    found = set()
    for key in metadata.state_dict_metadata:
        *_, rank = key.removesuffix(suffix).rpartition(".")
        if key.endswith(suffix) and rank.startswith("rank") and rank[4:].isdigit():
            found.add(int(rank[4:]))
    if found != set(range(world_size)):
        raise ConfigError(
            f"checkpoint holds {kind} residuals of {len(found)} ranks, this run has {world_size}: residuals belong to "
            "ranks; go on at the saved world size, or leave them out of what is loaded"
        )


def _tensors(residuals: ErrorFeedback) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(part) for name, part in residuals.state_dict().items()}


def _check_residuals(side: str, residuals: Any) -> None:
    if not isinstance(residuals, Mapping):
        raise ConfigError(f"FSDP2 state: {side} must be a mapping, got {type(residuals).__name__}")
    for name, part in residuals.items():
        if not isinstance(part, torch.Tensor) or part.dtype != torch.float32 or part.dim() != 1:
            raise ConfigError(f"FSDP2 state: {side} {name} must be a flat float32 tensor, got {part!r:.100}")
