"""Saved state of a hook: plain tensors and numbers, which torch.load(weights_only=True) reads.

Residuals are saved by parameter and by where their piece of it begins, whatever the exchange. What is pending on
average is the mean of all workers' residuals plus the owners'; that is what `flush` applies and what merging keeps.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trafficzip.comm.exchange import Exchange
from trafficzip.comm.layout import Layout, Parameter, Piece
from trafficzip.error_feedback import ErrorFeedback
from trafficzip.errors import ConfigError

F32 = NDArray[np.float32]
Saved = dict[str, dict[int, torch.Tensor]]

STATE_VERSION = 2
_SAME = ("step", "world_size", "loss_scale", "exchange", "nodes", "num_workers")  # in all states of a run
_KEYS = {"version", "rank", "worker", "owner", *_SAME}


def sum_pending(exchange: Exchange, layout: Layout, starts: Mapping[str, int], size: int) -> F32:
    """Give what this rank adds to num_workers times the mean of what is pending, float32 [size].

    starts: where each parameter begins in the result.
    """
    total = np.zeros(size, np.float32)
    for piece in layout.worker:
        total[starts[piece.parameter.name] + piece.start :][: piece.size] += exchange.worker[piece.parameter.name]
    for piece in layout.owner:
        share = exchange.owner[piece.parameter.name] * np.float32(layout.num_workers)
        total[starts[piece.parameter.name] + piece.start :][: piece.size] += share
    return total


def fold_owner(exchange: Exchange, layout: Layout) -> None:
    """Move what this rank keeps as an owner to its worker's residual; the mean of what is pending stays the same."""
    for piece in layout.owner:
        kept = exchange.owner[piece.parameter.name]
        whole = exchange.worker[piece.parameter.name]
        whole[piece.start : piece.start + piece.size] += kept * np.float32(layout.num_workers)
        kept[:] = 0


def save_residuals(kept: ErrorFeedback, pieces: Sequence[Piece]) -> Saved:
    """Give a copy of every piece's residual by parameter and start."""
    return {p.parameter.name: {p.start: torch.from_numpy(kept[p.parameter.name].copy())} for p in pieces}


def load_residuals(exchange: Exchange, layout: Layout, state: Mapping[str, Any]) -> None:
    """Restore both residuals from a checked state of a rank with the same layout; nothing changes if one does not fit.

    Raises:
        ConfigError: the state's pieces are others.
    """
    for side, pieces in (("worker", layout.worker), ("owner", layout.owner)):
        found = {(name, start, part.numel()) for name, parts in state[side].items() for start, part in parts.items()}
        expected = {(piece.parameter.name, piece.start, piece.size) for piece in pieces}
        if found != expected:
            missing, extra = sorted(expected - found)[:3], sorted(found - expected, key=str)[:3]
            raise ConfigError(
                f"hook state is of another model: {side} residuals (name, start, size): missing {missing}, "
                f"unexpected {extra}"
            )
    _load(exchange, _arrays(state["worker"]), _arrays(state["owner"]))


def load_merged(exchange: Exchange, layout: Layout, state: Mapping[str, Any], parameters: Sequence[Parameter]) -> None:
    """Give this worker its pieces of a checked, merged state, and the owner nothing; or change nothing.

    Raises:
        ConfigError: the state's parameters are others.
    """
    found = {name: {start: part.numel() for start, part in parts.items()} for name, parts in state["worker"].items()}
    expected = {p.name: {0: p.size} for p in parameters if p.size}
    if found != expected or state["owner"]:
        names = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise ConfigError(f"merged hook state is of another model: it differs in {names[:5]}")
    whole = _arrays(state["worker"])
    pieces = {p.parameter.name: whole[p.parameter.name][p.start : p.start + p.size] for p in layout.worker}
    _load(exchange, pieces, {name: np.zeros(size, np.float32) for name, size in exchange.owner.sizes.items()})


def _load(exchange: Exchange, worker: Mapping[str, F32], owner: Mapping[str, F32]) -> None:
    kept = exchange.owner.state_dict()
    exchange.owner.load_state_dict(owner)
    try:
        exchange.worker.load_state_dict(worker)
    except ConfigError:
        exchange.owner.load_state_dict(kept)
        raise


def _arrays(saved: Mapping[str, Mapping[int, torch.Tensor]]) -> dict[str, F32]:
    return {name: next(iter(parts.values())).numpy() for name, parts in saved.items()}


def check_state(state: Mapping[str, Any]) -> None:
    """Check that `state` is what a hook's state_dict gave.

    Raises:
        ConfigError: it is something else, or of another version.
    """
    if not isinstance(state, Mapping) or "version" not in state:
        raise ConfigError(f"not a trafficzip hook state: expected the keys {sorted(_KEYS)}")
    if state["version"] != STATE_VERSION:
        raise ConfigError(f"hook state has version {state['version']}, this release reads {STATE_VERSION}")
    if state.keys() != _KEYS:
        raise ConfigError(
            f"not a trafficzip hook state: expected the keys {sorted(_KEYS)}, got {sorted(state, key=str)}"
        )
    loss_scale = state["loss_scale"]
    for key, least in (("step", 0), ("world_size", 0), ("rank", 0), ("num_workers", 1)):
        if not isinstance(state[key], int) or state[key] < least:
            raise ConfigError(f"hook state: {key} must be an integer >= {least}, got {state[key]!r}")
    if not isinstance(loss_scale, float) or not 0 < loss_scale < math.inf:
        raise ConfigError(f"hook state: loss_scale must be a positive number, got {loss_scale!r}")
    for side in ("worker", "owner"):
        if not isinstance(state[side], Mapping):
            raise ConfigError(f"hook state: {side} must be a mapping, got {type(state[side]).__name__}")
        for name, parts in state[side].items():
            _check_residuals(f"{side} {name}", parts)


def _check_residuals(where: str, parts: Any) -> None:
    if not isinstance(parts, Mapping) or len(parts) != 1:
        raise ConfigError(f"hook state: {where} must be one residual by its start, got {parts!r:.100}")
    for start, part in parts.items():
        if not isinstance(start, int) or start < 0:
            raise ConfigError(f"hook state: {where} must begin at an integer >= 0, got {start!r:.100}")
        if not isinstance(part, torch.Tensor) or part.dtype != torch.float32 or part.dim() != 1:
            raise ConfigError(f"hook state: {where} must be a flat float32 tensor, got {part!r:.100}")


def merge_state_dicts(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge the states of all ranks of one run into one that every rank of a run of any size loads.

    What was pending is the mean of the workers' residuals plus the owners' residuals. It is kept exactly up to float32
    rounding: every new worker takes that mean as its own residual, so the new mean is the same. The number of ranks,
    the exchange and the nodes may all change.

    states: one per rank, in any order.
    Raises:
        ConfigError: a rank is missing or twice, or the states are of different steps or models.
    """
    for state in states:
        check_state(state)
    if not states:
        raise ConfigError("no states to merge")
    states = sorted(states, key=lambda state: int(state["rank"]))
    first = states[0]
    found = [int(state["rank"]) for state in states]
    if found != list(range(int(first["world_size"]))):
        raise ConfigError(f"states of ranks {found}, expected each of 0..{int(first['world_size']) - 1} once")
    for state in states:
        for key in _SAME:
            if state[key] != first[key]:
                raise ConfigError(
                    f"state of rank {state['rank']}: {key} {state[key]}, rank {first['rank']} {first[key]}"
                )
    merged = _sum_workers(states, int(first["num_workers"]))
    for name, total in merged.items():
        total /= int(first["num_workers"])
        for state in states:
            for start, part in state["owner"].get(name, {}).items():
                total[start : start + part.numel()] += part
    worker = {name: {0: total} for name, total in merged.items()}
    return {**first, "rank": 0, "world_size": 0, "nodes": [], "num_workers": 1, "worker": worker, "owner": {}}


def _sum_workers(states: Sequence[Mapping[str, Any]], num_workers: int) -> dict[str, torch.Tensor]:
    """Add up the workers' residuals; check that each element has as many as there are workers."""
    pieces = [
        (state["rank"], name, start, part)
        for state in states
        for name, parts in state["worker"].items()
        for start, part in parts.items()
    ]
    sizes: dict[str, int] = {}
    for _, name, start, part in pieces:
        sizes[name] = max(sizes.get(name, 0), start + part.numel())
    sums = {name: torch.zeros(size) for name, size in sizes.items()}
    held = {name: np.zeros(size, np.int32) for name, size in sizes.items()}
    for _, name, start, part in pieces:
        sums[name][start : start + part.numel()] += part
        held[name][start : start + part.numel()] += 1
    for name, count in held.items():
        if (count != num_workers).any():
            raise ConfigError(f"states are of different models: {name} has other workers at different elements")
    for state in states:
        for name, parts in state["owner"].items():
            if any(start + part.numel() > sizes.get(name, 0) for start, part in parts.items()):
                raise ConfigError(f"state of rank {state['rank']} is of another model: its owner's {name} is too long")
    return sums
