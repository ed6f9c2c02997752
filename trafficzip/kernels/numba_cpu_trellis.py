"""Compiled trellis-coded quantization: eight trellises side by side, one in each lane of a vector.

The search keeps costs as [state, lane], so that every operation on a lane is one on a whole vector, for any trellis.
`reference_trellis` is the definition.
"""

import numpy as np
from numpy.typing import NDArray

from trafficzip.kernels.numba_cpu_jit import jit
from trafficzip.kernels.reference_trellis import NORMAL_STEPS, NUM_LANES, UNREACHED

_QUARTER = np.float32(0.25)
START = np.zeros(NUM_LANES, np.int64)  # where the lanes of a record start


@jit
def quantize(
    values: NDArray[np.float32],
    classes: NDArray[np.uint8],
    inverse_step: np.float32,
    slope: np.float32,
    rates: NDArray[np.float32],
    before: NDArray[np.int64],
    starts: NDArray[np.int64],
) -> NDArray[np.int16]:
    """Find the levels of the lowest cost.

    values: float32 [n], finite, below 2**15 steps.  classes: uint8 [n].  rates: float32 [classes, 2, levels].
    before: int64 [states, 2, 2], per state the two states before it and the parities that lead here.
    starts: int64 [8], the state in which each lane starts.  Returns: int16 [n].
    """
    num_states = before.shape[0]
    num_steps = (values.size + NUM_LANES - 1) // NUM_LANES
    chosen = np.empty((num_steps, 4, NUM_LANES), np.int16)  # per subset: the better of its two levels
    taken = np.empty((num_steps, num_states, NUM_LANES), np.uint8)  # per state: which of the two states before it
    costs = np.full((num_states, NUM_LANES), UNREACHED, np.float32)
    for lane in range(NUM_LANES):
        costs[starts[lane], lane] = 0
    now = np.empty_like(costs)
    gaps = np.empty((4, NUM_LANES), np.float32)
    for t in range(num_steps):
        for lane in range(min(NUM_LANES, values.size - t * NUM_LANES)):
            i = t * NUM_LANES + lane
            magnitude = abs(values[i] * inverse_step)
            for subset in range(4):
                gaps[subset, lane], chosen[t, subset, lane] = _nearer(magnitude, subset, slope, rates[classes[i]])
        for state in range(num_states):
            first, second = before[state, 0, 0], before[state, 1, 0]
            one = 2 * (first & 1) + before[state, 0, 1]
            two = 2 * (second & 1) + before[state, 1, 1]
            for lane in range(NUM_LANES):
                a = gaps[one, lane] + costs[first, lane]
                b = gaps[two, lane] + costs[second, lane]
                now[state, lane] = min(a, b)
                taken[t, state, lane] = b < a
        if t % NORMAL_STEPS == NORMAL_STEPS - 1:
            for lane in range(NUM_LANES):
                lowest = now[:, lane].min()
                for state in range(num_states):
                    now[state, lane] -= lowest
        costs, now = now, costs
        if (t + 1) * NUM_LANES > values.size:  # lanes that have ended keep their costs
            for lane in range(values.size - t * NUM_LANES, NUM_LANES):
                costs[:, lane] = now[:, lane]
    return _trace(values, chosen, taken, costs, before)


@jit
def _nearer(
    magnitude: np.float32, subset: int, slope: np.float32, rates: NDArray[np.float32]
) -> tuple[np.float32, np.int16]:
    """Give the cost of the better of the two levels of a subset around a magnitude, and that level."""
    union, parity = subset >> 1, subset & 1
    shift = np.float32(2 * parity - union)  # subsets are 4 m + shift, but 0 in place of -1
    step = np.int64((magnitude - shift) * _QUARTER) if magnitude > shift else 0
    lower = np.float32(4 * step) + shift
    if lower < 0:
        lower = np.float32(0)
    upper = np.float32(4 * step + 4) + shift
    level = 2 * step + parity
    last = rates.shape[1] - 1
    below, above = magnitude - lower, magnitude - upper
    low_cost = below * below + slope * rates[union, min(level, last)]
    high_cost = above * above + slope * rates[union, min(level + 2, last)]
    if high_cost < low_cost:
        return high_cost, np.int16(level + 2)
    return low_cost, np.int16(level)


@jit
def _trace(
    values: NDArray[np.float32],
    chosen: NDArray[np.int16],
    taken: NDArray[np.uint8],
    costs: NDArray[np.float32],
    before: NDArray[np.int64],
) -> NDArray[np.int16]:
    levels = np.zeros(values.size, np.int16)
    for lane in range(min(NUM_LANES, values.size)):
        state = np.int64(costs[:, lane].argmin())
        for t in range((values.size - lane - 1) // NUM_LANES, -1, -1):
            which = np.int64(taken[t, state, lane])
            earlier, parity = before[state, which, 0], before[state, which, 1]
            level = chosen[t, 2 * (earlier & 1) + parity, lane]
            levels[t * NUM_LANES + lane] = -level if values[t * NUM_LANES + lane] < 0 else level
            state = earlier
    return levels


@jit
def dequantize(levels: NDArray[np.int16], step: np.float32, check0: int, check1: int) -> NDArray[np.float32]:
    """Give the values of levels; check0 and check1 are the parity check polynomials.

    levels: int16 [n].  Returns: float32 [n].
    """
    values = np.empty(levels.size, np.float32)
    states = np.zeros(NUM_LANES, np.int64)
    for i in range(levels.size):
        state, level = states[i % NUM_LANES], np.int64(levels[i])
        union = state & 1
        values[i] = np.float32(2 * level - union * (np.int64(level > 0) - np.int64(level < 0))) * step
        states[i % NUM_LANES] = (state >> 1) ^ (union * (check0 >> 1)) ^ ((level & 1) * (check1 >> 1))
    return values
