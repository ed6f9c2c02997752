"""Compiled trellis-coded quantization: eight trellises side by side, one in each lane of a vector.

The search keeps costs as [state, lane], flat, so that every operation on a lane is one on a vector, for any trellis.
`reference_trellis` is the definition.
"""

import numpy as np
from numpy.typing import NDArray

from trafficzip.kernels.numba_cpu_jit import add_compare_select, jit
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
    taken = np.empty((num_steps, num_states), np.uint8)  # per state, a bit per lane: which of the two states before it
    costs = np.full(num_states * NUM_LANES, UNREACHED, np.float32)
    for lane in range(NUM_LANES):
        costs[starts[lane] * NUM_LANES + lane] = 0
    now = np.empty_like(costs)
    gaps = np.empty(4 * NUM_LANES, np.float32)
    first, second = before[:, 0, 0] * NUM_LANES, before[:, 1, 0] * NUM_LANES
    one = (2 * (before[:, 0, 0] & 1) + before[:, 0, 1]) * NUM_LANES
    two = (2 * (before[:, 1, 0] & 1) + before[:, 1, 1]) * NUM_LANES
    flat, num_levels, num_rates = rates.ravel(), np.uint64(rates.shape[2]), np.uint64(2 * rates.shape[2])
    for t in range(num_steps):
        for lane in range(min(NUM_LANES, values.size - t * NUM_LANES)):
            i = t * NUM_LANES + lane
            magnitude, own = abs(values[i] * inverse_step), np.uint64(classes[i]) * num_rates
            for subset in range(4):
                place = subset * NUM_LANES + lane
                gaps[place], chosen[t, subset, lane] = _nearer(magnitude, subset, slope, flat, own, num_levels)
        for state in range(num_states):
            taken[t, state] = add_compare_select(
                costs, first[state], second[state], gaps, one[state], two[state], now, state * NUM_LANES
            )
        if t % NORMAL_STEPS == NORMAL_STEPS - 1:
            _normalize(now)
        costs, now = now, costs
        if (t + 1) * NUM_LANES > values.size:  # lanes that have ended keep their costs
            for lane in range(values.size - t * NUM_LANES, NUM_LANES):
                costs[lane::NUM_LANES] = now[lane::NUM_LANES]
    return _trace(values, chosen, taken, costs, before)


@jit
def _normalize(costs: NDArray[np.float32]) -> None:
    """Take the lowest cost of each lane off all of its costs."""
    for lane in range(NUM_LANES):
        lowest = costs[lane]
        for place in range(lane, costs.size, NUM_LANES):
            lowest = min(lowest, costs[place])
        for place in range(lane, costs.size, NUM_LANES):
            costs[place] -= lowest


@jit
def _nearer(
    magnitude: np.float32,
    subset: int,
    slope: np.float32,
    rates: NDArray[np.float32],
    own: np.uint64,
    num_levels: np.uint64,
) -> tuple[np.float32, np.int16]:
    """Give the cost of the better of the two levels of a subset around a magnitude, and that level.

    rates: float32 [classes * 2 * levels], of which those of the class begin at `own`; unsigned places are not checked.
    """
    union, parity = subset >> 1, subset & 1
    shift = np.float32(2 * parity - union)  # subsets are 4 m + shift, but 0 in place of -1
    step = np.int32((magnitude - shift) * _QUARTER) if magnitude > shift else np.int32(0)
    lower = np.float32(4 * step) + shift
    if lower < 0:
        lower = np.float32(0)
    upper = np.float32(4 * step + 4) + shift
    level = np.uint64(2 * step + parity)
    place, last = own + np.uint64(union) * num_levels, num_levels - np.uint64(1)
    below, above = magnitude - lower, magnitude - upper
    low_cost = below * below + slope * rates[place + min(level, last)]
    high_cost = above * above + slope * rates[place + min(level + np.uint64(2), last)]
    if high_cost < low_cost:
        return high_cost, np.int16(level + np.uint64(2))
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
        state = np.int64(costs[lane::NUM_LANES].argmin())
        for t in range((values.size - lane - 1) // NUM_LANES, -1, -1):
            which = np.int64(taken[t, state] >> lane) & 1
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
