"""The definition of table-coded trellis levels in plain Python; compiled kernels equal it bit for bit.

Every value has a class, and every class two tables of frequencies, one for each union of the trellis. A level is split
into a symbol, coded by range asymmetric numeral systems with the table of its class and union, and the low bits that
its class keeps as they are. A level whose symbol has no frequency is coded as the nearest smaller one of its parity, so
that the trellis goes on as it should, and its value is patched after decoding.

Source: Duda 2013 (range asymmetric numeral systems); Giesen 2014 (interleaved entropy coders); FORMAT.md, trellis.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trafficzip.kernels.reference_trellis import NUM_LANES, multiple, next_state

TABLE_BITS = 11
TABLE_SIZE = 1 << TABLE_BITS
LOWEST_STATE = 1 << 16  # a state is in [2**16, 2**32)
ZERO = 128  # index of symbol 0 in a table of frequencies
NUM_SYMBOLS = 256

Encoded = tuple[list[int], list[int], list[tuple[int, int]], list[tuple[int, int]]]


def encode(
    levels: Sequence[int],
    classes: Sequence[int],
    frequencies: NDArray[np.uint16],
    low_bits: Sequence[int],
    num_states: int,
) -> Encoded:
    """Give the lanes' states, the words, the low bits as (value, width) and the patches as (position, multiple).

    levels: int [n].  classes: int [n].  frequencies: uint16 [classes, 2, 256], each table sums to 2048; symbols 0 and
    -1 have one, and 1 where the class keeps no low bits.  low_bits: int [classes].
    """
    states = [0] * NUM_LANES
    coded, lows, patches = [], [], []
    for i, (level, kind) in enumerate(zip(levels, classes, strict=True)):
        width = low_bits[kind]
        union = states[i % NUM_LANES] & 1
        table = frequencies[kind, union]
        stand_in = _stand_in(level, width, table)
        if stand_in != level:
            patches.append((i, multiple(level, union)))
        coded.append((table, (stand_in >> width) + ZERO))
        if width:
            lows.append((stand_in & ((1 << width) - 1), width))
        states[i % NUM_LANES] = next_state(states[i % NUM_LANES], level, num_states)
    lanes = [LOWEST_STATE] * NUM_LANES
    words: list[int] = []
    for i in reversed(range(len(coded))):
        table, symbol = coded[i]
        frequency, x = int(table[symbol]), lanes[i % NUM_LANES]
        if x >= frequency << (32 - TABLE_BITS):
            words.append(x & 0xFFFF)
            x >>= 16
        lanes[i % NUM_LANES] = (x // frequency << TABLE_BITS) + int(table[:symbol].sum()) + x % frequency
    return lanes, words[::-1], lows, patches


def _stand_in(level: int, width: int, table: NDArray[np.uint16]) -> int:
    """Give the level itself where its symbol has a frequency, else the nearest smaller one of its parity that has."""
    sign = -1 if level < 0 else 1
    while not -ZERO <= level >> width < ZERO or table[(level >> width) + ZERO] == 0:
        level -= 2 * sign
    return level


def decode(
    lanes: Sequence[int],
    words: Sequence[int],
    lows: Sequence[int],
    classes: Sequence[int],
    frequencies: NDArray[np.uint16],
    low_bits: Sequence[int],
    num_states: int,
) -> list[int] | None:
    """Give the multiples of the step, before patches; None if the words are not one encoding."""
    x, states = list(lanes), [0] * NUM_LANES
    remaining, low = list(words), iter(lows)
    multiples = []
    for i, kind in enumerate(classes):
        lane = i % NUM_LANES
        union = states[lane] & 1
        table = frequencies[kind, union]
        slot = x[lane] % TABLE_SIZE
        symbol = int(np.searchsorted(np.cumsum(table), slot, side="right"))
        x[lane] = int(table[symbol]) * (x[lane] >> TABLE_BITS) + slot - int(table[:symbol].sum())
        if x[lane] < LOWEST_STATE:
            if not remaining:
                return None
            x[lane] = x[lane] << 16 | remaining.pop(0)
        level = symbol - ZERO
        if low_bits[kind]:
            level = level << low_bits[kind] | next(low)
        multiples.append(multiple(level, union))
        states[lane] = next_state(states[lane], level, num_states)
    return multiples if not remaining and x == [LOWEST_STATE] * NUM_LANES else None
