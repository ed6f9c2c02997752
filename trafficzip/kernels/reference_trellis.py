"""The definition of trellis-coded quantization in plain Python; compiled kernels equal it bit for bit.

Levels are small integers. A level k means k times two steps, moved one step towards zero where the trellis is in an odd
state: the even states use the union of even multiples of the step, the odd ones zero and the odd multiples. The parity
of the level moves the trellis on, so that decoding is one lookup a value, for any number of states.

Source: Ungerboeck 1982 (codes of table I, amplitude modulation); Marcellin and Fischer 1990; ISO/IEC 15938-17,
dependent quantization (unions with zero in both).
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_LANES = 8  # value i belongs to lane i mod 8; every lane is a trellis of its own, from state 0
NORMAL_STEPS = 16  # after so many steps of the search, the lowest cost of a lane is taken off all of its costs
UNREACHED = np.float32(1e30)

# parity check polynomials h0, h1 of rate-1/2 codes, by number of states; bit i is the coefficient of D**i. One state is
# no trellis at all: union 0 alone, uniform quantization by two steps
POLYNOMIALS = {
    1: (0, 0),
    4: (0o5, 0o2),
    8: (0o13, 0o4),
    16: (0o23, 0o4),
    32: (0o45, 0o10),
    64: (0o103, 0o24),
    256: (0o515, 0o362),
}


def next_state(state: int, level: int, num_states: int) -> int:
    """Give the state after a level."""
    h0, h1 = POLYNOMIALS[num_states]
    return (state >> 1) ^ (state & 1) * (h0 >> 1) ^ (level & 1) * (h1 >> 1)


@cache
def following(num_states: int) -> NDArray[np.uint8]:
    """Give the state after state s and a level of parity p, as entry 2 s + p; uint8 [2 * states]."""
    return np.array([next_state(s, p, num_states) for s in range(num_states) for p in (0, 1)], np.uint8)


def multiple(level: int, union: int) -> int:
    """Give the multiple of the step that a level means in union 0 or 1."""
    return 2 * level - union * ((level > 0) - (level < 0))


def dequantize(levels: Sequence[int], step: np.float32, num_states: int) -> NDArray[np.float32]:
    """Give the values of levels: the exact multiple, times the step, rounded once."""
    states = [0] * NUM_LANES
    values = np.empty(len(levels), np.float32)
    for i, level in enumerate(levels):
        state = states[i % NUM_LANES]
        values[i] = np.float32(multiple(level, state & 1)) * step
        states[i % NUM_LANES] = next_state(state, level, num_states)
    return values


def candidates(magnitude: np.float32) -> list[tuple[int, int]]:
    """Give, per subset, the two levels around a magnitude in steps; subset 2 * union + parity of the level.

    A subset without a level at or below the magnitude has its two lowest ones.
    """
    pairs = []
    for union, parity in ((0, 0), (0, 1), (1, 0), (1, 1)):
        lower = parity
        while multiple(lower + 2, union) <= magnitude:
            lower += 2
        pairs.append((lower, lower + 2))
    return pairs


def quantize(
    values: NDArray[np.float32],
    classes: NDArray[np.uint8],
    inverse_step: np.float32,
    slope: np.float32,
    rates: NDArray[np.float32],
    num_states: int,
    starts: Sequence[int] = (0,) * NUM_LANES,
) -> NDArray[np.int16]:
    """Find the levels of the lowest cost: squared error in steps, plus `slope` times the bits that `rates` gives.

    values: float32 [n].  classes: uint8 [n].  rates: float32 [classes, 2, levels], bits of a magnitude in each union;
    larger ones cost what the last one does.  starts: the state in which each lane starts.  Returns: int16 [n].
    All arithmetic is float32, in this order.
    """
    branches = [
        _branches(abs(value * inverse_step), slope, rates[kind]) for value, kind in zip(values, classes, strict=True)
    ]
    magnitudes = np.zeros(values.size, np.int16)
    for lane in range(min(NUM_LANES, values.size)):
        magnitudes[lane::NUM_LANES] = _search(branches[lane::NUM_LANES], num_states, starts[lane])
    return np.where(values < 0, -magnitudes, magnitudes)


def predecessors(num_states: int) -> list[list[tuple[int, int]]]:
    """Give, per state, the two states before it, lower one first, and the parity that leads from each."""
    before: list[list[tuple[int, int]]] = [[] for _ in range(num_states)]
    for state in range(num_states):
        for parity in (0, 1):
            before[next_state(state, parity, num_states)].append((state, parity))
    return before


def _branches(magnitude: np.float32, slope: np.float32, rates: NDArray[np.float32]) -> list[tuple[Any, int]]:
    """Give, per subset, the cost of the better of its two candidates, and that level; at equal cost the lower one."""
    best = []
    for subset, pair in enumerate(candidates(magnitude)):
        scored = []
        for level in pair:
            gap = magnitude - np.float32(multiple(level, subset >> 1))
            scored.append((gap * gap + slope * rates[subset >> 1, min(level, rates.shape[1] - 1)], level))
        best.append(min(scored, key=lambda option: option[0]))
    return best


def _search(branches: Sequence[Sequence[tuple[Any, int]]], num_states: int, start: int) -> list[int]:
    """Give the magnitudes of the levels along the path of the lowest cost through one lane."""
    before = predecessors(num_states)
    costs: list[Any] = [UNREACHED] * num_states
    costs[start] = np.float32(0)
    taken = []  # per step, per state: the state before, and the level
    for i, best in enumerate(branches):
        ways = []
        for pair in before:
            paths = []
            for state, parity in pair:
                cost, level = best[2 * (state & 1) + parity]
                paths.append((costs[state] + cost, state, level))
            ways.append(min(paths, key=lambda path: path[0]))
        costs = [cost for cost, _, _ in ways]
        if i % NORMAL_STEPS == NORMAL_STEPS - 1:
            costs = [cost - min(costs) for cost in costs]
        taken.append(ways)
    state = costs.index(min(costs))
    levels = []
    for ways in taken[::-1]:
        _, state, level = ways[state]
        levels.append(level)
    return levels[::-1]
