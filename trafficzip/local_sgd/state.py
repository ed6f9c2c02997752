"""Saved state of local steps: plain tensors and numbers, which torch.load(weights_only=True) reads."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from trafficzip.errors import ConfigError

STATE_VERSION = 1
_NUMBERS = ("version", "steps", "steps_in_round", "rounds", "skipped_rounds", "world_size", "rank")
_TENSORS = ("agreed", "velocity", "buffers")
_KEYS = {*_NUMBERS, *_TENSORS, "exchange", "worker", "owner"}


def check_state(state: Mapping[str, Any]) -> None:
    """Check that `state` is what LocalSteps.state_dict gave.

    Raises:
        ConfigError: it is something else, or of another version.
    """
    if not isinstance(state, Mapping) or state.keys() != _KEYS:
        raise ConfigError(f"not a state of local steps: expected the keys {sorted(_KEYS)}")
    for key in _NUMBERS:
        if not isinstance(state[key], int) or state[key] < 0:
            raise ConfigError(f"state of local steps: {key} must be an integer >= 0, got {state[key]!r}")
    if state["version"] != STATE_VERSION:
        raise ConfigError(f"state of local steps has version {state['version']}, this release reads {STATE_VERSION}")
    for key in _TENSORS:
        _check_flat(key, state[key])
    for key in ("worker", "owner"):
        if not isinstance(state[key], Mapping):
            raise ConfigError(f"state of local steps: {key} must be a mapping, got {type(state[key]).__name__}")
        for name, part in state[key].items():
            if key == "owner":
                if not isinstance(part, Mapping) or len(part) != 1:
                    raise ConfigError(f"state of local steps: owner {name} must be one residual by its start")
                (part,) = part.values()
            _check_flat(f"{key} {name}", part)


def digest(part: torch.Tensor) -> str:
    """Give a short digest of a flat float32 tensor, by which ranks compare what must be equal."""
    return hashlib.sha256(part.contiguous().numpy().data).hexdigest()[:16]


def _check_flat(where: str, part: Any) -> None:
    if not isinstance(part, torch.Tensor) or part.dtype != torch.float32 or part.dim() != 1:
        raise ConfigError(f"state of local steps: {where} must be a flat float32 tensor, got {part!r:.100}")
    if not bool(part.isfinite().all()):
        raise ConfigError(f"state of local steps: {where} is not finite")


def merge_state_dicts(states: Sequence[Mapping[str, Any]], *, allow_missing: bool = False) -> dict[str, Any]:
    """Merge the states of all ranks, saved between two rounds, into one that a run of any size loads on every rank.

    Agreed model, velocity and buffers are the same in all states. What was pending, mean_r(worker residual of rank r)
    + owner residual, is kept up to float32 rounding: every new rank takes that mean as its own worker residual.

    states: one per rank, in any order.
    allow_missing: go on without the states of ranks that were lost; what was pending there is lost, and the mean is
        taken over the states that are there.
    Raises:
        ConfigError: a rank is missing or twice, the states are of different rounds or models, or were not saved
            between two rounds: then ranks hold models of their own, which cannot be merged.
    """
    for state in states:
        check_state(state)
    if not states:
        raise ConfigError("no states to merge")
    first = min(states, key=lambda state: int(state["rank"]))
    ordered = sorted(states, key=lambda state: int(state["rank"]))
    found = [int(state["rank"]) for state in ordered]
    size = int(first["world_size"])
    if len(set(found)) != len(found) or not set(found) <= set(range(size)):
        raise ConfigError(f"states of ranks {found}, expected each of 0..{size - 1} at most once")
    if len(found) != size and not allow_missing:
        raise ConfigError(f"states of ranks {found}, expected each of 0..{size - 1}; allow_missing goes on without")
    for state in ordered:
        if state["steps_in_round"]:
            raise ConfigError(
                f"state of rank {state['rank']} was saved {state['steps_in_round']} steps after a round: "
                "ranks can join or leave between two rounds only"
            )
        for key in ("rounds", "skipped_rounds", "steps", "world_size", "exchange"):
            if state[key] != first[key]:
                raise ConfigError(
                    f"state of rank {state['rank']}: {key} {state[key]}, rank {first['rank']} {first[key]}"
                )
        sizes = {name: part.numel() for name, part in state["worker"].items()}
        if sizes != {name: part.numel() for name, part in first["worker"].items()}:
            raise ConfigError(f"state of rank {state['rank']} is of another model")
        for key in _TENSORS:
            if not torch.equal(state[key], first[key]):
                raise ConfigError(f"state of rank {state['rank']}: {key} differs from that of rank {first['rank']}")
    merged = {name: torch.zeros_like(part) for name, part in first["worker"].items()}
    for name, total in merged.items():
        for state in ordered:
            total += state["worker"][name]
        total /= len(ordered)
        for state in ordered:
            for start, part in state["owner"].get(name, {}).items():
                total[int(start) : int(start) + part.numel()] += part
    return {**first, "rank": 0, "world_size": 0, "worker": merged, "owner": {}}
