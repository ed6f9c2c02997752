"""Compiled table coding of trellis levels: eight interleaved states, kept in local variables.

An entry of a decoding table is one uint32: bit 0 the parity of the level, bits 1 to 11 the slot less the start of its
symbol, bits 12 to 22 the frequency, bits 23 to 31 a signed number: the multiple of the step, or the symbol where
classes keep low bits. `following`, uint8 [2 * states], gives the state after a state and a parity.
`reference_tables` is the definition.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficzip.kernels.numba_cpu_jit import jit
from trafficzip.kernels.reference_tables import LOWEST_STATE, NUM_SYMBOLS, TABLE_BITS, TABLE_SIZE, ZERO
from trafficzip.kernels.reference_trellis import NUM_LANES

_MASK = np.uint32(TABLE_SIZE - 1)
_ONE = np.uint32(1)
_U0, _U1 = np.uint64(0), np.uint64(1)  # unsigned places need no check for negative ones
_UNION = np.uint32(TABLE_SIZE)  # the bit of a turn that chooses the table
_PLACE = np.uint32(TABLE_SIZE - 1) & ~_ONE


@jit
def count(
    levels: NDArray[np.int16],
    classes: NDArray[np.uint8],
    low_bits: NDArray[np.uint8],
    following: NDArray[np.uint8],
    counts: NDArray[np.int64],
) -> None:
    """Add how often each symbol occurs to counts, int64 [classes, 2, 256]; symbols beyond the table are not counted."""
    states = np.zeros(NUM_LANES, np.int64)
    for i in range(levels.size):
        state, level = states[i % NUM_LANES], np.int64(levels[i])
        symbol = (level >> low_bits[classes[i]]) + ZERO
        if 0 <= symbol < NUM_SYMBOLS:
            counts[classes[i], state & 1, symbol] += 1
        states[i % NUM_LANES] = following[2 * state + (level & 1)]


@jit
def encode(
    levels: NDArray[np.int16],
    classes: NDArray[np.uint8],
    frequencies: NDArray[np.uint16],
    low_bits: NDArray[np.uint8],
    following: NDArray[np.uint8],
) -> tuple[NDArray[np.uint32], NDArray[np.uint16], NDArray[np.uint16], NDArray[np.int32]]:
    """Give the states uint32 [8], the words uint16 [m], the low bits as uint16 [k], the patches int32 [p, 2]."""
    n = levels.size
    tables = np.empty(n, np.uint8)
    symbols = np.empty(n, np.uint8)
    lows = np.zeros(n + 1, np.uint16) if low_bits.any() else np.zeros(1, np.uint16)
    patches = np.empty((n, 2), np.int32)
    num_patches, num_bits = 0, np.int64(0)
    states = np.zeros(NUM_LANES, np.int64)
    for i in range(n):
        state, level = states[i % NUM_LANES], np.int64(levels[i])
        union, sign = state & 1, np.int64(level > 0) - np.int64(level < 0)
        width = np.int64(low_bits[classes[i]])
        tables[i] = 2 * classes[i] + union
        used = level
        symbol = (used >> width) + ZERO
        while symbol < 0 or symbol >= NUM_SYMBOLS or frequencies[classes[i], union, symbol] == 0:
            used -= 2 * sign
            symbol = (used >> width) + ZERO
        if used != level:
            patches[num_patches, 0] = i
            patches[num_patches, 1] = 2 * level - union * sign
            num_patches += 1
        symbols[i] = symbol
        if width:
            low = np.uint32(used & ((1 << width) - 1)) << np.uint32(num_bits & 15)
            lows[num_bits >> 4] |= np.uint16(low & np.uint32(0xFFFF))
            lows[(num_bits >> 4) + 1] |= np.uint16(low >> np.uint32(16))
            num_bits += width
        states[i % NUM_LANES] = following[2 * state + (level & 1)]
    lanes, words = _encode_symbols(tables, symbols, frequencies.reshape(-1, NUM_SYMBOLS))
    return lanes, words, lows[: (num_bits + 15) >> 4].copy(), patches[:num_patches].copy()


@jit
def _encode_symbols(
    tables: NDArray[np.uint8], symbols: NDArray[np.uint8], frequencies: NDArray[np.uint16]
) -> tuple[NDArray[np.uint32], NDArray[np.uint16]]:
    starts = np.zeros(frequencies.shape, np.uint32)
    for table in range(frequencies.shape[0]):
        for symbol in range(1, NUM_SYMBOLS):
            starts[table, symbol] = starts[table, symbol - 1] + frequencies[table, symbol - 1]
    lanes = np.full(NUM_LANES, LOWEST_STATE, np.uint32)
    words = np.empty(symbols.size, np.uint16)
    at = symbols.size
    for i in range(symbols.size - 1, -1, -1):
        x = np.uint64(lanes[i & (NUM_LANES - 1)])
        frequency = np.uint64(frequencies[tables[i], symbols[i]])
        if x >= frequency << np.uint64(32 - TABLE_BITS):
            at -= 1
            words[at] = np.uint16(x & np.uint64(0xFFFF))
            x >>= np.uint64(16)
        small, divisor = np.uint32(x), np.uint32(frequency)  # x is below 2**32 here
        quotient = small // divisor
        lanes[i & (NUM_LANES - 1)] = (
            (quotient << np.uint32(TABLE_BITS)) + starts[tables[i], symbols[i]] + (small - quotient * divisor)
        )
    return lanes, words[at:].copy()


@jit
def decoding_tables(frequencies: NDArray[np.uint16], low_bits: NDArray[np.uint8], wide: bool) -> NDArray[np.uint32]:
    """Give entries uint32 [classes * 2 * 2048]; each table sums to 2048.  wide: classes keep low bits."""
    num_classes = frequencies.shape[0]
    entries = np.zeros(num_classes * 2 * TABLE_SIZE, np.uint32)
    for kind in range(num_classes):
        for union in range(2):
            at = (2 * kind + union) * TABLE_SIZE
            for symbol in range(NUM_SYMBOLS):
                level = np.int64(symbol) - ZERO
                number = level if wide else 2 * level - union * (np.int64(level > 0) - np.int64(level < 0))
                frequency = np.int64(frequencies[kind, union, symbol])
                for slot in range(frequency):
                    entries[at + slot] = np.uint32(
                        ((number & 511) << 23) | (frequency << 12) | (slot << 1) | (level & 1)
                    )
                at += frequency
    return entries


@jit
def _advance(entry: Any, x: Any, words: NDArray[np.uint16], at: Any) -> tuple[Any, Any]:
    """Give the next state of a lane and the next place in the words."""
    x = ((entry >> np.uint32(12)) & _MASK) * (x >> np.uint32(TABLE_BITS)) + ((entry >> _ONE) & _MASK)
    word = np.uint32(words[at])  # read in any case: a load that depends on `low` would be a branch
    low = x < np.uint32(LOWEST_STATE)
    x = (x << np.uint32(16)) | word if low else x
    return x, at + (_U1 if low else _U0)


@jit
def _one(
    words: Any, at: Any, entries: Any, kind: Any, x: Any, turn: Any, turns: Any, step: Any
) -> tuple[Any, Any, Any, Any]:
    """Decode one value; turn is an entry of `_turns`."""
    entry = entries[(np.uint32(kind) << np.uint32(TABLE_BITS + 1)) | (turn & _UNION) | (x & _MASK)]
    x, at = _advance(entry, x, words, at)
    turn = turns[(turn & _PLACE) | (entry & _ONE)]
    return x, turn, at, np.float32(np.int32(entry) >> np.int32(23)) * step


@jit
def _turns(following: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Give, for a state and a parity, twice the next state, with its union where it chooses a table."""
    turns = np.empty(following.size, np.uint32)
    for i in range(following.size):
        turns[i] = np.uint32(2 * following[i]) | (np.uint32(following[i] & 1) << np.uint32(TABLE_BITS))
    return turns


@jit
def decode(
    words: NDArray[np.uint16],
    lanes: NDArray[np.uint32],
    entries: NDArray[np.uint32],
    classes: NDArray[np.uint8],
    ends: NDArray[np.int64],
    steps: NDArray[np.float32],
    following: NDArray[np.uint8],
    values: NDArray[np.float32],
) -> bool:
    """Decode segments of values where no class keeps low bits; give whether the words are one encoding.

    words: uint16 [m + 8], the last eight are not part of the encoding.  classes: uint8 [n], n a multiple of 8.
    ends: int64 [segments], where segments end, multiples of 8, the last is n.  steps: float32 [segments].
    values: float32 [n], written.
    """
    x0, x1, x2, x3, x4, x5, x6, x7 = lanes[0], lanes[1], lanes[2], lanes[3], lanes[4], lanes[5], lanes[6], lanes[7]
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = np.uint32(0)
    at, last, i, turns = _U0, np.uint64(words.size - 8), _U0, _turns(following)
    for segment in range(ends.size):
        step, end = steps[segment], np.uint64(ends[segment])
        while i < end:
            if at > last:
                return False
            x0, s0, at, values[i] = _one(words, at, entries, classes[i], x0, s0, turns, step)
            x1, s1, at, values[i + np.uint64(1)] = _one(
                words, at, entries, classes[i + np.uint64(1)], x1, s1, turns, step
            )
            x2, s2, at, values[i + np.uint64(2)] = _one(
                words, at, entries, classes[i + np.uint64(2)], x2, s2, turns, step
            )
            x3, s3, at, values[i + np.uint64(3)] = _one(
                words, at, entries, classes[i + np.uint64(3)], x3, s3, turns, step
            )
            x4, s4, at, values[i + np.uint64(4)] = _one(
                words, at, entries, classes[i + np.uint64(4)], x4, s4, turns, step
            )
            x5, s5, at, values[i + np.uint64(5)] = _one(
                words, at, entries, classes[i + np.uint64(5)], x5, s5, turns, step
            )
            x6, s6, at, values[i + np.uint64(6)] = _one(
                words, at, entries, classes[i + np.uint64(6)], x6, s6, turns, step
            )
            x7, s7, at, values[i + np.uint64(7)] = _one(
                words, at, entries, classes[i + np.uint64(7)], x7, s7, turns, step
            )
            i += np.uint64(8)
    low = np.uint32(LOWEST_STATE)
    ended = x0 == low and x1 == low and x2 == low and x3 == low and x4 == low and x5 == low and x6 == low and x7 == low
    return at == last and ended


@jit
def decode_wide(
    words: NDArray[np.uint16],
    lanes: NDArray[np.uint32],
    lows: NDArray[np.uint16],
    entries: NDArray[np.uint32],
    classes: NDArray[np.uint8],
    low_bits: NDArray[np.uint8],
    ends: NDArray[np.int64],
    steps: NDArray[np.float32],
    following: NDArray[np.uint8],
    values: NDArray[np.float32],
) -> bool:
    """Decode as `decode` does, where classes keep low bits; lows: uint16 [k + 2], with all bits that they keep."""
    x0, x1, x2, x3, x4, x5, x6, x7 = lanes[0], lanes[1], lanes[2], lanes[3], lanes[4], lanes[5], lanes[6], lanes[7]
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = np.uint32(0)
    at, last, i, bit, turns = _U0, np.uint64(words.size - 8), _U0, _U0, _turns(following)
    for segment in range(ends.size):
        step, end = steps[segment], np.uint64(ends[segment])
        while i < end:
            if at > last:
                return False
            x0, s0, at, bit, values[i] = _one_wide(
                words, at, entries, classes[i], x0, s0, turns, step, lows, bit, low_bits
            )
            x1, s1, at, bit, values[i + np.uint64(1)] = _one_wide(
                words, at, entries, classes[i + np.uint64(1)], x1, s1, turns, step, lows, bit, low_bits
            )
            x2, s2, at, bit, values[i + np.uint64(2)] = _one_wide(
                words, at, entries, classes[i + np.uint64(2)], x2, s2, turns, step, lows, bit, low_bits
            )
            x3, s3, at, bit, values[i + np.uint64(3)] = _one_wide(
                words, at, entries, classes[i + np.uint64(3)], x3, s3, turns, step, lows, bit, low_bits
            )
            x4, s4, at, bit, values[i + np.uint64(4)] = _one_wide(
                words, at, entries, classes[i + np.uint64(4)], x4, s4, turns, step, lows, bit, low_bits
            )
            x5, s5, at, bit, values[i + np.uint64(5)] = _one_wide(
                words, at, entries, classes[i + np.uint64(5)], x5, s5, turns, step, lows, bit, low_bits
            )
            x6, s6, at, bit, values[i + np.uint64(6)] = _one_wide(
                words, at, entries, classes[i + np.uint64(6)], x6, s6, turns, step, lows, bit, low_bits
            )
            x7, s7, at, bit, values[i + np.uint64(7)] = _one_wide(
                words, at, entries, classes[i + np.uint64(7)], x7, s7, turns, step, lows, bit, low_bits
            )
            i += np.uint64(8)
    low = np.uint32(LOWEST_STATE)
    ended = x0 == low and x1 == low and x2 == low and x3 == low and x4 == low and x5 == low and x6 == low and x7 == low
    return at == last and ended


@jit
def patch(
    patches: NDArray[np.int32],
    ends: NDArray[np.int64],
    steps: NDArray[np.float32],
    largest: int,
    values: NDArray[np.float32],
) -> bool:
    """Write patched values; False where a patch is out of order or range.

    patches: int32 [p, 2], places and multiples.  ends, steps: as for `decode`.  values: float32 [n].
    """
    last, segment = np.int64(-1), 0
    for i in range(patches.shape[0]):
        place, multiple = np.int64(patches[i, 0]), np.int64(patches[i, 1])
        if place <= last or place >= values.size or abs(multiple) > largest:
            return False
        while place >= ends[segment]:
            segment += 1
        values[place] = np.float32(multiple) * steps[segment]
        last = place
    return True


@jit
def count_low_bits(classes: NDArray[np.uint8], low_bits: NDArray[np.uint8]) -> int:
    """Give how many low bits all values keep."""
    total = 0
    for i in range(classes.size):
        total += low_bits[classes[i]]
    return total


@jit
def _one_wide(
    words: Any,
    at: Any,
    entries: Any,
    kind: Any,
    x: Any,
    turn: Any,
    turns: Any,
    step: Any,
    lows: Any,
    bit: Any,
    low_bits: Any,
) -> tuple[Any, Any, Any, Any, Any]:
    entry = entries[(np.uint32(kind) << np.uint32(TABLE_BITS + 1)) | (turn & _UNION) | (x & _MASK)]
    x, at = _advance(entry, x, words, at)
    width = np.int32(low_bits[kind])
    pair = np.uint32(lows[bit >> np.uint64(4)]) | (np.uint32(lows[(bit >> np.uint64(4)) + _U1]) << np.uint32(16))
    low = (pair >> np.uint32(bit & np.uint64(15))) & ((_ONE << np.uint32(width)) - _ONE)
    level = ((np.int32(entry) >> np.int32(23)) << width) | np.int32(low)
    union = np.int32(turn >> np.uint32(TABLE_BITS))
    turn = turns[(turn & _PLACE) | np.uint32(level & np.int32(1))]
    sign = np.int32(level > 0) - np.int32(level < 0)
    return x, turn, at, bit + np.uint64(width), np.float32(2 * level - sign * union) * step
