"""One function per op of the baseline quantizers, as in the package's `__init__`: here the backend is picked.

`kernels.reference_baselines` says what each op means; blocks of 8-bit quantization are groups of their own.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficzip.errors import CorruptPayloadError
from trafficzip.kernels.groups import Groups

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]


@lru_cache(maxsize=1)
def _baselines() -> Any:
    from trafficzip.kernels import numba_cpu_baselines

    return numba_cpu_baselines


@lru_cache(maxsize=1)
def _ternary() -> Any:
    from trafficzip.kernels import numba_cpu_ternary

    return numba_cpu_ternary


@lru_cache(maxsize=1)
def _cast() -> Any:
    from trafficzip.kernels import numba_cpu_cast

    return numba_cpu_cast


def top_k(
    values: F32,
    residual: F32 | None,
    out: F32 | None,
    groups: Groups,
    peaks: F32,
    counts: NDArray[np.int64],
    *,
    out_like_residual: bool,
) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """Choose the counts[g] largest elements of group g; bfloat16 bits and positions, both [sum of counts]."""
    codes: NDArray[np.uint16] = np.empty(int(counts.sum()), np.uint16)
    positions: NDArray[np.int64] = np.empty(codes.size, np.int64)
    spans = np.array([groups.value_starts, groups.residual_starts, groups.sizes], np.int64).T.copy()
    column = 1 if out_like_residual else 0
    _baselines().top_k(values, residual, out, column, spans, peaks, counts, codes, positions)
    return codes, positions


def mean_magnitudes(values: F32, residual: F32 | None, groups: Groups, peaks: F32) -> F32:
    """Give the mean |value + residual| of each group, float32 [groups]; 0 where its peak is 0."""
    exponents = np.frexp(peaks)[1].astype(np.int64)
    factors = np.where(peaks > 0, np.ldexp(1.0, 30 - exponents), 0.0)
    totals = np.zeros(peaks.size, np.int64)
    _baselines().magnitude_sums(values, residual, groups.blocks, factors, totals)
    means = totals / np.array(groups.sizes, np.float64)
    return np.ldexp(means, exponents - 30).astype(np.float32)


def sign_pack(
    values: F32, residual: F32 | None, out: F32 | None, groups: Groups, scales: F32, *, out_like_residual: bool
) -> U8:
    """Pack the signs of value + residual, eight in a byte, each group padded to whole bytes."""
    bits: U8 = np.empty(sum(-(-size // 8) for size in groups.sizes), np.uint8)
    column = 1 if out_like_residual else 0
    _baselines().sign_pack(values, residual, out, column, groups.blocks, scales, bits)
    return bits


def sign_accumulate(bits: U8, scales: F32, out: F32, groups: Groups, *, out_like_residual: bool) -> None:
    """Add scale, or -scale where the bit is 1, to `out`.

    Raises:
        CorruptPayloadError: a padding bit is not 0; nothing was added.
    """
    sizes = np.array(groups.sizes, np.int64)
    used = sizes % 8
    last = bits[np.cumsum(-(-sizes // 8)) - 1]
    if ((used > 0) & (last >> used.astype(np.uint8) > 0)).any():
        raise CorruptPayloadError("signs: a padding bit is not 0")
    _baselines().sign_accumulate(bits, scales, out, 1 if out_like_residual else 0, groups.blocks)


def block_peaks(values: F32, residual: F32 | None, groups: Groups, *, block: int) -> F32:
    """Give max |value + residual| of each block, float32 [blocks]; 0 where all values of a block are zero."""
    rows = groups.cut(block)
    bits = np.empty(len(rows), np.int32)
    _ternary().block_peaks(values, residual, rows, bits)
    return np.maximum(bits, 0).view(np.float32)  # a block with its sign bit set is all zero


def quantize_int8_blocks(
    values: F32,
    residual: F32 | None,
    out: F32 | None,
    groups: Groups,
    scales: F32,
    *,
    block: int,
    out_like_residual: bool,
) -> NDArray[np.int8]:
    """Round (value + residual) / scale of its block to -127..127; int8 [groups.num_elements]."""
    codes: NDArray[np.int8] = np.empty(groups.num_elements, np.int8)
    _cast().quantize_int8(values, residual, out, 1 if out_like_residual else 0, groups.cut(block), scales, codes)
    return codes


def int8_blocks_accumulate(
    codes: NDArray[np.int8], scales: F32, out: F32, groups: Groups, *, block: int, out_like_residual: bool
) -> None:
    """Add scale * code to `out`, as two roundings.

    Raises:
        CorruptPayloadError: a code is -128, which no encoder writes; nothing was added.
    """
    if codes.size and int(codes.min()) < -127:
        raise CorruptPayloadError("8-bit codes: -128 found, expected -127..127")
    _cast().int8_accumulate(codes, scales, out, 1 if out_like_residual else 0, groups.cut(block))
