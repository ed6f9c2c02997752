"""The same function in plain torch, written to be fast: what one gets without kernels of one's own.

Generous to it: indexes are made beforehand, and small tensors, headers, checksums and checks are left out. Groups are
cut into rows, so that peaks are row reductions and few atomics.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from trafficzip.gpu.layout import FramePlan

WIDTH = 1280  # elements of a row, a multiple of 5


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """Where the elements of all groups lie, in rows that belong to one group each; the last element fills a row.

    value_of, residual_of: int32 [rows * WIDTH].  kept_at: int64, the same as residual_of, for writing.
    padding: bool [rows, WIDTH], beyond the end of a group.
    group_of_row: int64 [rows].  group_of_symbol: int32 [symbols].
    symbol_of: int32 [symbols], which of the rows' symbols are sent.
    code_of_value: int32 [elements], which code is an element's; 0 for elements of small tensors.
    digits: float32 [243, 5], what each byte stands for.
    """

    num_groups: int
    value_of: torch.Tensor = field(repr=False)
    residual_of: torch.Tensor = field(repr=False)
    kept_at: torch.Tensor = field(repr=False)
    padding: torch.Tensor = field(repr=False)
    group_of_row: torch.Tensor = field(repr=False)
    group_of_symbol: torch.Tensor = field(repr=False)
    symbol_of: torch.Tensor = field(repr=False)
    code_of_value: torch.Tensor = field(repr=False)
    digits: torch.Tensor = field(repr=False)


def tables_of(frames: Sequence[FramePlan], num_elements: int, device: torch.device) -> Tables:
    """Make the tables for all groups of some frames, in order."""
    sizes, value_starts, residual_starts = (
        np.array([n for frame in frames for n in getattr(frame.groups, name)], np.int64)
        for name in ("sizes", "value_starts", "residual_starts")
    )
    counts = -(-sizes // WIDTH)
    group_of_row = np.repeat(np.arange(len(sizes)), counts)
    first = (np.arange(len(group_of_row)) - np.repeat(np.cumsum(counts) - counts, counts)) * WIDTH
    within = first[:, None] + np.arange(WIDTH)
    padding = within >= sizes[group_of_row][:, None]
    within = np.minimum(within, sizes[group_of_row][:, None] - 1)
    value_of, residual_of = (within + starts[group_of_row][:, None] for starts in (value_starts, residual_starts))
    symbols = -(-sizes // 5)
    group_of_symbol = np.repeat(np.arange(len(sizes)), symbols)
    place = np.arange(len(group_of_symbol)) - np.repeat(np.cumsum(symbols) - symbols, symbols)
    symbol_of = ((np.cumsum(counts) - counts) * (WIDTH // 5))[group_of_symbol] + place
    code_of_value = np.zeros(num_elements, np.int64)
    ends = (np.cumsum(symbols) - symbols) * 5
    for size, start, code in zip(sizes.tolist(), value_starts.tolist(), ends.tolist(), strict=True):
        code_of_value[start : start + size] = np.arange(code, code + size)
    bytes_ = np.arange(243)[:, None]
    digits = bytes_ // np.array([81, 27, 9, 3, 1]) % 3 - 1

    def put(table: np.ndarray, dtype: type = np.int32) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(table.astype(dtype))).to(device)

    return Tables(
        num_groups=len(sizes),
        value_of=put(value_of.reshape(-1)),
        residual_of=put(residual_of.reshape(-1)),
        kept_at=put(residual_of.reshape(-1), np.int64),
        padding=put(padding, np.bool_),
        group_of_row=put(group_of_row, np.int64),
        group_of_symbol=put(group_of_symbol),
        symbol_of=put(symbol_of),
        code_of_value=put(code_of_value),
        digits=put(digits, np.float32),
    )


def encode(
    values: torch.Tensor, residual: torch.Tensor, tables: Tables, multiplier: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give quartic bytes, uint8 [symbols], and scales, float32 [groups]; the residual is updated in place."""
    total = values.index_select(0, tables.value_of) + residual.index_select(0, tables.residual_of)
    rows = total.view(-1, WIDTH)
    peaks = torch.zeros(tables.num_groups, device=values.device)
    scales = peaks.scatter_reduce(0, tables.group_of_row, rows.abs().amax(1), "amax") * multiplier
    scale = scales.index_select(0, tables.group_of_row)[:, None]
    half = scale * 0.5
    codes = (rows > half).to(torch.int8) - (rows < -half).to(torch.int8)
    lost = rows - codes * scale
    residual.index_copy_(0, tables.kept_at, lost.view(-1))
    d = torch.where(tables.padding, 1, codes + 1).to(torch.uint8).view(-1, 5)
    symbols = (((d[:, 0] * 3 + d[:, 1]) * 3 + d[:, 2]) * 3 + d[:, 3]) * 3 + d[:, 4]
    return symbols.index_select(0, tables.symbol_of), scales


def decode(symbols: torch.Tensor, scales: torch.Tensor, tables: Tables) -> torch.Tensor:
    """Give the mean of several ranks' values, float32 [elements]; small tensors' places hold anything.

    symbols: uint8 [ranks, symbols].  scales: float32 [ranks, groups].
    """
    total = torch.zeros((symbols.shape[1], 5), device=symbols.device)
    for rank in range(symbols.shape[0]):
        digits = tables.digits.index_select(0, symbols[rank].to(torch.int32))
        total = total + digits * scales[rank].index_select(0, tables.group_of_symbol)[:, None]
    return total.view(-1).index_select(0, tables.code_of_value) / symbols.shape[0]
