"""What the ops of the baseline quantizers mean, in plain array code. Compiled backends equal this bit for bit.

Blocks of 8-bit quantization are groups of their own, so `reference.quantize_int8` defines them. Arguments as there.
"""

import numpy as np
from numpy.typing import NDArray

from trafficzip.kernels.groups import Groups
from trafficzip.kernels.reference import _out, _sum

F32 = NDArray[np.float32]


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
    """Choose the counts[g] elements of group g with the largest |x|, lower positions first where they are equal.

    peaks: float32 [groups], from group_peaks; a group whose peak is 0 sends zeros and keeps its residual.
    counts: int64 [groups], 1..size.  out: receives x less what is sent, exact in float32.
    Returns: bfloat16 bits, uint16 [sum of counts], and positions counted through all groups, int64 [sum of counts].
    Source: Aji, Heafield 2017; Stich, Cordonnier, Jaggi 2018.
    """
    codes, positions = [np.zeros(0, np.uint16)], [np.zeros(0, np.int64)]
    begin = 0
    for group, size in enumerate(groups.sizes):
        x = _sum(values, residual, groups, group)
        chosen = np.sort(np.argsort(-np.abs(x), kind="stable")[: counts[group]])
        if peaks[group] == 0:
            chosen = np.arange(counts[group])
        bits = np.ascontiguousarray(x[chosen]).view(np.uint32).astype(np.uint64)
        code = (bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype(np.uint16) * np.uint16(peaks[group] > 0)
        lost = x.copy()
        lost[chosen] -= (code.astype(np.uint32) << 16).view(np.float32)
        if out is not None:
            _out(out, groups, group, like_residual=out_like_residual)[:] = lost
        codes.append(code)
        positions.append(chosen + begin)
        begin += size
    return np.concatenate(codes), np.concatenate(positions)


def mean_magnitudes(values: F32, residual: F32 | None, groups: Groups, peaks: F32) -> F32:
    """Give the mean |x| of each group, float32 [groups]; 0 where its peak is 0.

    Magnitudes are summed as integers, in units of 2^-30 of the power of two above the peak: in any order, the same sum.
    """
    means = np.zeros(len(groups.sizes), np.float32)
    for group, size in enumerate(groups.sizes):
        exponent = int(np.frexp(peaks[group])[1])
        if peaks[group] > 0:
            x = np.abs(_sum(values, residual, groups, group)).astype(np.float64)
            total = int(np.floor(np.ldexp(x, 30 - exponent)).astype(np.int64).sum())
            means[group] = np.ldexp(np.float64(total) / np.float64(size), exponent - 30)
    return means


def sign_pack(
    values: F32, residual: F32 | None, out: F32 | None, groups: Groups, scales: F32, *, out_like_residual: bool
) -> NDArray[np.uint8]:
    """Send one bit of each x: 1, which means -scale, where x < 0, else 0, which means scale.

    scales: float32 [groups]; a group whose scale is 0 sends zero bits and keeps its residual.
    out: receives x less what is sent, rounded to float32.  Returns: uint8, each group padded to whole bytes.
    Source: Seide et al. 2014; Karimireddy et al. 2019 (EF-SignSGD).
    """
    parts = [np.zeros(0, np.uint8)]
    for group in range(len(groups.sizes)):
        x = _sum(values, residual, groups, group)
        negative = (x < 0) & (scales[group] > 0)
        if out is not None:
            lost = np.where(negative, x + scales[group], x - scales[group])
            _out(out, groups, group, like_residual=out_like_residual)[:] = lost
        parts.append(np.packbits(negative, bitorder="little"))
    return np.concatenate(parts)


def sign_accumulate(bits: NDArray[np.uint8], scales: F32, out: F32, groups: Groups, *, like_residual: bool) -> None:
    """Add scale, or -scale where the bit is 1, to `out`."""
    at = 0
    for group, size in enumerate(groups.sizes):
        part = np.unpackbits(bits[at : at - (-size // 8)], bitorder="little")[:size]
        _out(out, groups, group, like_residual=like_residual)[:] += np.where(part, -scales[group], scales[group])
        at -= -size // 8
