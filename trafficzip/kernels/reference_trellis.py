"""The definition of trellis-coded quantization in plain Python; compiled kernels equal it bit for bit.

Levels are small integers. A level k means k times two steps, moved one step towards zero where the trellis is in an odd
state: the even states use the union of even multiples of the step, the odd ones zero and the odd multiples. The parity
of the level moves the trellis on, so that decoding is one lookup a value, for any number of states.

Source: Ungerboeck 1982 (codes of table I, amplitude modulation); Marcellin and Fischer 1990; ISO/IEC 15938-17,
dependent quantization (unions with zero in both).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_LANES = 8  # value i belongs to lane i mod 8; every lane is a trellis of its own, from state 0
NORMAL_STEPS = 16  # after so many steps of the search, the lowest cost of a lane is taken off all of its costs
UNREACHED = np.float32(1e30)

# parity check polynomials h0, h1 of rate-1/2 codes, by number of states; bit i is the coefficient of D**i
POLYNOMIALS = {4: (0o5, 0o2), 8: (0o13, 0o4), 16: (0o23, 0o4), 32: (0o45, 0o10), 64: (0o103, 0o24), 256: (0o515, 0o362)}


def next_state(state: int, level: int, num_states: int) -> int:
    """Give the state after a level."""
    h0, h1 = POLYNOMIALS[num_states]
    return (state >> 1) ^ (state & 1) * (h0 >> 1) ^ (level & 1) * (h1 >> 1)


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
) -> NDArray[np.int16]:
    """Find the levels of the lowest cost: squared error in steps, plus `slope` times the bits that `rates` gives.

    values: float32 [n].  classes: uint8 [n].  rates: float32 [classes, 2, levels], bits of a magnitude in each union;
    larger ones cost what the last one does.  Returns: int16 [n].  All arithmetic is float32, in this order.
    """
    levels = np.zeros(values.size, np.int16)
    for lane in range(min(NUM_LANES, values.size)):
        levels[lane::NUM_LANES] = _search(
            values[lane::NUM_LANES], classes[lane::NUM_LANES], inverse_step, slope, rates, num_states
        )
    return levels


def predecessors(num_states: int) -> list[list[tuple[int, int]]]:
    """Give, per state, the two states before it, lower one first, and the parity that leads from each."""
    before: list[list[tuple[int, int]]] = [[] for _ in range(num_states)]
    for state in range(num_states):
        for parity in (0, 1):
            before[next_state(state, parity, num_states)].append((state, parity))
    return before


def _search(
    values: NDArray[np.float32],
    classes: NDArray[np.uint8],
    inverse_step: np.float32,
    slope: np.float32,
    rates: NDArray[np.float32],
    num_states: int,
) -> list[int]:
    before = predecessors(num_states)
    costs: list[Any] = [np.float32(0)] + [UNREACHED] * (num_states - 1)
    taken = []  # per step, per state: the state before, and the magnitude
    for i, (value, kind) in enumerate(zip(values, classes, strict=True)):
        best = []
        magnitude = abs(value * inverse_step)
        for subset, pair in enumerate(candidates(magnitude)):
            union = subset >> 1
            scored = []
            for level in pair:
                gap = magnitude - np.float32(multiple(level, union))
                scored.append(gap * gap + slope * rates[kind, union, min(level, rates.shape[2] - 1)])
            best.append((scored[1], pair[1]) if scored[1] < scored[0] else (scored[0], pair[0]))
        now, choice = [], []
        for first, second in before:
            paths = []
            for state, parity in (first, second):
                cost, level = best[2 * (state & 1) + parity]
                paths.append((costs[state] + cost, state, level))
            winner = paths[1] if paths[1][0] < paths[0][0] else paths[0]
            now.append(winner[0])
            choice.append(winner[1:])
        lowest = min(now) if i % NORMAL_STEPS == NORMAL_STEPS - 1 else np.float32(0)
        costs = [cost - lowest for cost in now]
        taken.append(choice)
    state = costs.index(min(costs))
    levels = []
    for value, choice in zip(values[::-1], taken[::-1], strict=True):
        state, level = choice[state]
        levels.append(-level if value < 0 else level)
    return levels[::-1]
