"""Saved state of a hook: plain tensors and numbers, which torch.load(weights_only=True) reads."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from trafficzip.errors import ConfigError

STATE_VERSION = 1
_KEYS = {"version", "step", "world_size", "rank", "exchange", "loss_scale", "worker", "owner"}


def check_state(state: Mapping[str, Any]) -> None:
    """Check that `state` is what a hook's state_dict gave.

    Raises:
        ConfigError: it is something else, or of another version.
    """
    if not isinstance(state, Mapping) or state.keys() != _KEYS:
        raise ConfigError(f"not a trafficzip hook state: expected the keys {sorted(_KEYS)}")
    if state["version"] != STATE_VERSION:
        raise ConfigError(f"hook state has version {state['version']}, this release reads {STATE_VERSION}")
    step, loss_scale = state["step"], state["loss_scale"]
    if not isinstance(step, int) or step < 0:
        raise ConfigError(f"hook state: step must be an integer >= 0, got {step!r}")
    if not isinstance(loss_scale, float) or not 0 < loss_scale < math.inf:
        raise ConfigError(f"hook state: loss_scale must be a positive number, got {loss_scale!r}")
    _check_residuals("worker", state["worker"])
    if not isinstance(state["owner"], Mapping):
        raise ConfigError(f"hook state: owner must be a mapping, got {type(state['owner']).__name__}")
    for name, parts in state["owner"].items():
        if not isinstance(parts, Mapping) or len(parts) != 1:
            raise ConfigError(f"hook state: the owner's {name} must be one residual by its start, got {parts!r:.100}")
        _check_residuals(f"owner {name}", parts)


def _check_residuals(where: str, residuals: Any) -> None:
    if not isinstance(residuals, Mapping):
        raise ConfigError(f"hook state: {where} must be a mapping, got {type(residuals).__name__}")
    for key, part in residuals.items():
        if not isinstance(part, torch.Tensor) or part.dtype != torch.float32 or part.dim() != 1:
            raise ConfigError(f"hook state: {where} {key} must be a flat float32 tensor, got {part!r:.100}")


def merge_state_dicts(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge the states of all ranks of one run into one that every rank of a run of any size loads.

    What was pending is mean_r(worker residual of rank r) + owner residual. It is kept exactly up to float32 rounding:
    every new rank takes that mean as its own worker residual, so the new mean is the same.

    states: one per rank, in any order.
    Raises:
        ConfigError: a rank is missing or twice, or the states are of different steps or models.
    """
    for state in states:
        check_state(state)
    if not states:
        raise ConfigError("no states to merge")
    first = states[0]
    found = sorted(int(state["rank"]) for state in states)
    if found != list(range(int(first["world_size"]))):
        raise ConfigError(f"states of ranks {found}, expected each of 0..{int(first['world_size']) - 1} once")
    for state in states:
        for key in ("step", "world_size", "loss_scale", "exchange"):
            if state[key] != first[key]:
                raise ConfigError(
                    f"state of rank {state['rank']}: {key} {state[key]}, rank {first['rank']} {first[key]}"
                )
        sizes = {name: part.numel() for name, part in state["worker"].items()}
        if sizes != {name: part.numel() for name, part in first["worker"].items()}:
            raise ConfigError(f"state of rank {state['rank']} is of another model")
    merged = {name: torch.zeros_like(part) for name, part in first["worker"].items()}
    for name, total in merged.items():
        for state in sorted(states, key=lambda state: int(state["rank"])):
            total += state["worker"][name]
        total /= len(states)
        for state in states:
            for start, part in state["owner"].get(name, {}).items():
                total[int(start) : int(start) + part.numel()] += part
    return {**first, "rank": 0, "world_size": 0, "worker": merged, "owner": {}}
