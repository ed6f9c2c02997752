"""Compiled fitting of codebooks: one-dimensional k-means on a histogram of numbers by their upper 18 bits."""

import numpy as np
from numpy.typing import NDArray

from trafficzip.kernels.numba_cpu_jit import float_bits, jit

_SHIFT = 14  # bits that do not count: bins are 2**-9 of their numbers wide; at 2**-7 cells stop 0.04 dB too early
NUM_BINS = 1 << (32 - _SHIFT)
_HALF = NUM_BINS >> 1


@jit
def add_distinct(values: NDArray[np.float32], found: NDArray[np.float32], count: int) -> int:
    """Add numbers to the sorted ones in found[:count]; give the new count, or -1 where there is no room for all.

    values: float32 [n], finite.  found: float32 [at most wanted], written.
    """
    for i in range(values.size):
        low, high = 0, count
        while low < high:
            middle = (low + high) >> 1
            if found[middle] < values[i]:
                low = middle + 1
            else:
                high = middle
        if low < count and found[low] == values[i]:
            continue
        if count == found.size:
            return -1
        for place in range(count, low, -1):
            found[place] = found[place - 1]
        found[low] = values[i] + np.float32(0)  # +0, not -0
        count += 1
    return count


@jit
def add_histogram(values: NDArray[np.float32], counts: NDArray[np.int64], sums: NDArray[np.float64]) -> None:
    """Count numbers, and add them up, by the upper 18 bits of their representation, in order of size.

    values: float32 [n], finite.  counts: int64 [NUM_BINS], sums: float64 [NUM_BINS], added to.
    """
    for i in range(values.size):
        bits = np.int64(float_bits(values[i]))
        place = (bits >> _SHIFT) + _HALF if bits >= 0 else _HALF - 1 - ((bits & 0x7FFFFFFF) >> _SHIFT)
        counts[place] += 1
        sums[place] += values[i]


@jit
def fit_centers(counts: NDArray[np.int64], sums: NDArray[np.float64], size: int, passes: int) -> NDArray[np.float64]:
    """Give at most `size` centers, rising, by Lloyd's algorithm from quantiles of the cube root of the density.

    The best cells of many have such sizes. Sums run in a fixed order: the centers are the same everywhere.

    counts: int64 [NUM_BINS], sums: float64 [NUM_BINS], as `add_histogram` gives them.  Returns: float64 [m].
    """
    places = np.flatnonzero(counts)
    weights = counts[places].astype(np.float64)
    means = sums[places] / weights
    bins = means.size
    size = min(size, bins)
    centers = _first_centers(weights, means, size)
    totals, members = np.empty(size), np.empty(size)
    for _ in range(passes):
        totals[:], members[:] = 0, 0
        cell = 0
        for i in range(bins):
            while cell + 1 < size and means[i] - centers[cell] > centers[cell + 1] - means[i]:
                cell += 1
            totals[cell] += sums[places[i]]
            members[cell] += weights[i]
        changed = False
        for cell in range(size):
            if members[cell] > 0:
                center = totals[cell] / members[cell]
                changed |= center != centers[cell]
                centers[cell] = center
        if not changed:
            break
    return centers


@jit
def _first_centers(weights: NDArray[np.float64], means: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Give different bins, in order, with about equal shares of the integral of the cube root of the density."""
    bins = means.size
    mass = np.empty(bins)
    for i in range(bins):
        width = means[min(i + 1, bins - 1)] - means[max(i - 1, 0)]
        mass[i] = _cube_root(weights[i] * width * width)
    total = 0.0
    for i in range(bins):
        total += mass[i]
    chosen = np.zeros(size, np.int64)
    at, passed = 0, mass[0]
    for k in range(size):
        while at < bins - 1 and passed * size < total * (k + 0.5):
            at += 1
            passed += mass[at]
        chosen[k] = at
    for k in range(1, size):
        chosen[k] = max(chosen[k], chosen[k - 1] + 1)
    for k in range(size):
        chosen[size - 1 - k] = min(chosen[size - 1 - k], bins - 1 - k)
    return means[chosen]


@jit
def _cube_root(x: float) -> float:
    """Give the cube root of x >= 0 by Newton's method from the fourth root: only operations that IEEE 754 defines."""
    if x == 0.0:
        return 0.0
    y = np.sqrt(np.sqrt(x))
    for _ in range(48):
        y = (2.0 * y + x / (y * y)) / 3.0
    return y
