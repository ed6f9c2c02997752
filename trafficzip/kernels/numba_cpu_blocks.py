"""Compiled kernels of simple quantizers: codes of a few bits in bytes, and ternary codes by least squares."""

import numpy as np
from numpy.typing import NDArray

from trafficzip.kernels.numba_cpu_jit import jit

_MAX_PASSES = 32


@jit
def pack_bits(codes: NDArray[np.uint8], bits: int, data: NDArray[np.uint8]) -> None:
    """Write codes below 2**bits, uint8 [n], from the lowest bit of the first byte on; padded with zero bits.

    data: uint8 [ceil(n * bits / 8)], written.
    """
    pending, used, at = np.uint32(0), 0, 0
    for i in range(codes.size):
        pending |= np.uint32(codes[i]) << np.uint32(used)
        used += bits
        if used >= 8:
            data[at] = np.uint8(pending & np.uint32(255))
            pending >>= np.uint32(8)
            used -= 8
            at += 1
    if used:
        data[at] = np.uint8(pending)


@jit
def unpack_bits(data: NDArray[np.uint8], bits: int, codes: NDArray[np.uint8]) -> None:
    """Read what `pack_bits` wrote, into uint8 [n]; data: uint8 [ceil(n * bits / 8)]."""
    mask = np.uint32((1 << bits) - 1)
    pending, used, at = np.uint32(0), 0, 0
    for i in range(codes.size):
        if used < bits:
            pending |= np.uint32(data[at]) << np.uint32(used)
            used += 8
            at += 1
        codes[i] = np.uint8(pending & mask)
        pending >>= np.uint32(bits)
        used -= bits


@jit
def ternarize_blocks(
    values: NDArray[np.float64], sizes: NDArray[np.int64], threshold: float, codes: NDArray[np.int8]
) -> NDArray[np.float64]:
    """Give each block the codes sign(x) where |x| > threshold * s, else 0, and their least-squares scale s.

    s is a fixed point of this, sought from the largest and from the mean magnitude; of two, the one of the smaller
    squared error. Sums run in a fixed order: the bytes are the same everywhere.

    values: float64 [n], finite.  sizes: int64 [blocks], > 0, sum n.  threshold: 0 <= threshold < 1.
    codes: int8 [n], written.  Returns: float64 [blocks], >= 0.
    """
    scales = np.zeros(sizes.size, np.float64)
    start = 0
    for block in range(sizes.size):
        x = values[start : start + sizes[block]]
        of_block = codes[start : start + sizes[block]]
        start += sizes[block]
        peak = 0.0
        for i in range(x.size):
            peak = max(peak, abs(x[i]))
        if peak == 0.0:
            of_block[:] = 0
            continue
        total, _ = _sum_above(x, -1.0)
        best_limit, best_gain = 0.0, -1.0
        for first in (peak, total / x.size):
            limit = threshold * first
            count = 0
            for _ in range(_MAX_PASSES):
                total, kept = _sum_above(x, limit)
                if kept == count:
                    break
                count = kept
                limit = threshold * (total / kept)
            total, kept = _sum_above(x, limit)
            gain = total / kept * total  # by so much these codes lower the squared error
            if gain > best_gain:
                best_limit, best_gain = limit, gain
        scales[block] = _apply(x, best_limit, of_block)
    return scales


@jit
def _sum_above(x: NDArray[np.float64], limit: float) -> tuple[float, int]:
    """Sum the magnitudes above a limit and count them; four sums, so that none waits for its last addition."""
    s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
    count = 0
    body = x.size & ~3
    for i in range(0, body, 4):
        a, b, c, d = abs(x[i]), abs(x[i + 1]), abs(x[i + 2]), abs(x[i + 3])
        s0 += a if a > limit else 0.0
        s1 += b if b > limit else 0.0
        s2 += c if c > limit else 0.0
        s3 += d if d > limit else 0.0
        count += (a > limit) + (b > limit) + (c > limit) + (d > limit)
    for i in range(body, x.size):
        a = abs(x[i])
        s0 += a if a > limit else 0.0
        count += a > limit
    return (s0 + s1) + (s2 + s3), count


@jit
def _apply(x: NDArray[np.float64], limit: float, codes: NDArray[np.int8]) -> float:
    """Write codes and give their scale, exactly that of magnitudes which are all equal."""
    total, kept = _sum_above(x, limit)
    low, high = np.inf, 0.0
    for i in range(x.size):
        a = abs(x[i])
        above = a > limit
        codes[i] = (1 if x[i] > 0 else -1) if above else 0
        if above:
            low, high = min(low, a), max(high, a)
    return high if low == high else min(max(total / kept, low), high)
