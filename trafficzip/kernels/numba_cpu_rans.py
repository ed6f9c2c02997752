"""Compiled rANS: counting, tables, and the coding of one chunk of symbols with up to eight interleaved states.

The eight states are local variables, which the compiler keeps in registers; an array of states is three times slower.
`reference_rans` is the definition; FORMAT.md, rANS, has the bytes.
"""

import numpy as np
from numpy.typing import NDArray

from trafficzip.kernels.numba_cpu_jit import jit

_LOW = np.uint64(1 << 16)  # every state is at least this between two symbols
_WORD = np.uint64(16)
_LOW32 = np.uint32(1 << 16)
_WORD32 = np.uint32(16)
_HALF32 = np.uint32(0xFFFF)


@jit
def count_symbols(symbols: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count each byte value: int64 [256].

    Four tables, so that runs of one symbol do not wait for their own last store.
    """
    counts = np.zeros((4, 256), np.int64)
    whole = symbols.size - symbols.size % 4
    for i in range(0, whole, 4):
        counts[0, symbols[i]] += 1
        counts[1, symbols[i + 1]] += 1
        counts[2, symbols[i + 2]] += 1
        counts[3, symbols[i + 3]] += 1
    for i in range(whole, symbols.size):
        counts[0, symbols[i]] += 1
    return counts.sum(axis=0)


@jit
def encoder_tables(frequencies: NDArray[np.int64], precision_bits: int) -> NDArray[np.uint64]:
    """Give, per symbol, its frequency, the start of its interval, and ceil(2**(32 + precision_bits) / frequency).

    With that reciprocal r, (state * r) >> (32 + precision_bits) is state // frequency exactly, and the product stays
    below 2**64: state < frequency << (32 - precision_bits) and r * frequency - 2**(32 + precision_bits) < frequency.

    frequencies: int64 [n], sum 2**precision_bits.  Returns: uint64 [n, 3].
    """
    table = np.zeros((frequencies.size, 3), np.uint64)
    start = 0
    one = np.int64(1) << np.int64(32 + precision_bits)
    for symbol in range(frequencies.size):
        frequency = frequencies[symbol]
        if frequency > 0:
            table[symbol, 0] = np.uint64(frequency)
            table[symbol, 1] = np.uint64(start)
            table[symbol, 2] = np.uint64((one + frequency - 1) // frequency)
            start += frequency
    return table


@jit
def decoder_tables(frequencies: NDArray[np.int64], precision_bits: int) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """Give the symbol of each slot, uint8 [2**precision_bits], and start << 16 | frequency per symbol, uint32 [243]."""
    slots = np.empty(1 << precision_bits, np.uint8)
    spans = np.zeros(243, np.uint32)
    start = 0
    for symbol in range(243):
        frequency = frequencies[symbol]
        if frequency > 0:
            slots[start : start + frequency] = symbol
            spans[symbol] = np.uint32(start << 16 | frequency)
            start += frequency
    return slots, spans


@jit
def encode_chunk(
    symbols: NDArray[np.uint8], table: NDArray[np.uint64], precision_bits: int, num_lanes: int, max_tail_blocks: int
) -> NDArray[np.uint8]:
    """Encode one chunk: tail length, final states, words.

    symbols: uint8 [n], n > 0, all with a frequency.  table: as `encoder_tables` gives it.
    max_tail_blocks: as `reference_rans.max_tail_blocks` gives it; only for eight lanes.  Returns: uint8 [m].
    Source: FORMAT.md, rANS, chunks.
    """
    size = symbols.size
    words = np.empty(size + 1, np.uint16)  # filled from the end; a store that is not kept may fall on element 0
    states = np.full(8, _LOW, np.uint64)
    bits = np.uint64(precision_bits)
    if num_lanes == 1:
        states[0], at = _push_all(_LOW, table, symbols, bits, words, size)
        return _join(-1, states[:1], words[at + 1 :])
    body = size & ~7
    s0, at = _push_all(_LOW, table, symbols[body:], bits, words, size)
    blocks = 0
    while size - at < 7 and blocks < max_tail_blocks:
        blocks += 1
        body -= 8
        s0, at = _push_all(s0, table, symbols[body : body + 8], bits, words, at)
    moved = min(7, size - at)
    end = size + 1 - moved
    for lane in range(1, moved + 1):
        states[lane] += words[end - 1 + lane]
    s1, s2, s3, s4, s5, s6, s7 = states[1], states[2], states[3], states[4], states[5], states[6], states[7]
    for i in range(body - 8, -1, -8):
        s7, at = _push(s7, table, symbols[i + 7], bits, words, at)
        s6, at = _push(s6, table, symbols[i + 6], bits, words, at)
        s5, at = _push(s5, table, symbols[i + 5], bits, words, at)
        s4, at = _push(s4, table, symbols[i + 4], bits, words, at)
        s3, at = _push(s3, table, symbols[i + 3], bits, words, at)
        s2, at = _push(s2, table, symbols[i + 2], bits, words, at)
        s1, at = _push(s1, table, symbols[i + 1], bits, words, at)
        s0, at = _push(s0, table, symbols[i], bits, words, at)
    states[0], states[1], states[2], states[3] = s0, s1, s2, s3
    states[4], states[5], states[6], states[7] = s4, s5, s6, s7
    return _join(blocks, states, words[at + 1 : end])


@jit
def decode_chunk(
    data: NDArray[np.uint8],
    slots: NDArray[np.uint8],
    spans: NDArray[np.uint32],
    precision_bits: int,
    num_lanes: int,
    symbols: NDArray[np.uint8],
) -> bool:
    """Decode one chunk into `symbols`, uint8 [n]; False where `data` is not an encoding of n symbols.

    data: uint8 [m].  slots, spans: as `decoder_tables` gives them.
    Source: FORMAT.md, rANS, chunks.
    """
    blocks = -1
    body = 0
    if num_lanes == 8:
        if data.size == 0:
            return False
        blocks = np.int64(data[0])
        body = (symbols.size & ~7) - 8 * blocks
        data = data[1:]
    states = np.empty(8, np.uint32)
    at = _read_states(data, states, num_lanes)
    if body < 0 or at < 0 or (data.size - at) % 2:
        return False
    count = (data.size - at) // 2
    words = np.zeros(count + 8, np.uint16)  # room for what `_pop` reads and does not use
    for i in range(count):
        words[i] = np.uint16(data[at + 2 * i]) | np.uint16(data[at + 2 * i + 1]) << np.uint16(8)
    bits = np.uint32(precision_bits)
    at = 0
    if num_lanes == 8:
        i = 0
        s0, s1, s2, s3, s4, s5, s6, s7 = (
            states[0], states[1], states[2], states[3], states[4], states[5], states[6], states[7],
        )  # fmt: skip
        while i < body and at <= count:  # eight symbols read at most eight words: not past `words`, checked below
            s0, at = _pop(s0, slots, spans, bits, words, at, symbols, i)
            s1, at = _pop(s1, slots, spans, bits, words, at, symbols, i + 1)
            s2, at = _pop(s2, slots, spans, bits, words, at, symbols, i + 2)
            s3, at = _pop(s3, slots, spans, bits, words, at, symbols, i + 3)
            s4, at = _pop(s4, slots, spans, bits, words, at, symbols, i + 4)
            s5, at = _pop(s5, slots, spans, bits, words, at, symbols, i + 5)
            s6, at = _pop(s6, slots, spans, bits, words, at, symbols, i + 6)
            s7, at = _pop(s7, slots, spans, bits, words, at, symbols, i + 7)
            i += 8
        if at > count:
            return False
        states[0], states[1], states[2], states[3] = s0, s1, s2, s3
        states[4], states[5], states[6], states[7] = s4, s5, s6, s7
        for lane in range(1, 8):
            if states[lane] >> _WORD32 != 1:
                return False
            words[count - 1 + lane] = np.uint16(states[lane] & _HALF32)
    state = states[0]
    last = count + num_lanes - 1
    for i in range(body, symbols.size):
        if at > last:
            return False
        state, at = _pop(state, slots, spans, bits, words, at, symbols, i)
    return count <= at <= last and state == _LOW32 and not np.any(words[at:last])


@jit
def _push_all(
    state: np.uint64,
    table: NDArray[np.uint64],
    symbols: NDArray[np.uint8],
    bits: np.uint64,
    words: NDArray[np.uint16],
    at: int,
) -> tuple[np.uint64, int]:
    """Add symbols to one state, the last one first."""
    for i in range(symbols.size - 1, -1, -1):
        state, at = _push(state, table, symbols[i], bits, words, at)
    return state, at


@jit
def _push(
    state: np.uint64, table: NDArray[np.uint64], symbol: int, bits: np.uint64, words: NDArray[np.uint16], at: int
) -> tuple[np.uint64, int]:
    """Add a symbol to a state; the low word goes to words[at] first where there is no room for the symbol."""
    frequency = table[symbol, 0]
    full = state >= frequency << (np.uint64(32) - bits)
    words[at] = np.uint16(state)  # kept only where `at` moves on: a store costs less than a jump
    if full:
        state = state >> _WORD
        at -= 1
    quotient = (state * table[symbol, 2]) >> (np.uint64(32) + bits)
    return state + table[symbol, 1] + quotient * ((np.uint64(1) << bits) - frequency), at


@jit
def _pop(
    state: np.uint32,
    slots: NDArray[np.uint8],
    spans: NDArray[np.uint32],
    bits: np.uint32,
    words: NDArray[np.uint16],
    at: int,
    symbols: NDArray[np.uint8],
    i: int,
) -> tuple[np.uint32, int]:
    """Take symbol i from a state and refill the state from words[at]; without a jump."""
    slot = state & ((np.uint32(1) << bits) - np.uint32(1))
    symbol = slots[slot]
    symbols[i] = symbol
    span = spans[symbol]
    state = (span & _HALF32) * (state >> bits) + slot - (span >> _WORD32)
    refilled = state << _WORD32 | np.uint32(words[at])
    low = state < _LOW32
    return (refilled if low else state), at + (1 if low else 0)


@jit
def _join(blocks: int, states: NDArray[np.uint64], words: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Lay out a chunk: tail blocks, per state 4 bits of e and 16 + e bits of mantissa, lowest bit first, the words.

    blocks: -1 where the chunk has one lane, and no such byte.
    """
    packed = np.empty(36, np.uint8)
    size = 0
    if blocks >= 0:
        packed[0] = blocks
        size = 1
    pending = np.uint64(0)
    used = 0
    for state in states:
        extra = 0
        while state >> np.uint64(17 + extra):
            extra += 1
        mantissa = state - (_LOW << np.uint64(extra))
        pending |= (np.uint64(extra) | mantissa << np.uint64(4)) << np.uint64(used)
        used += 20 + extra
        while used >= 8:
            packed[size] = np.uint8(pending & np.uint64(0xFF))
            size += 1
            pending >>= np.uint64(8)
            used -= 8
    if used:
        packed[size] = np.uint8(pending)
        size += 1
    data = np.empty(size + 2 * words.size, np.uint8)
    data[:size] = packed[:size]
    for i in range(words.size):
        data[size + 2 * i] = np.uint8(words[i] & np.uint16(0xFF))
        data[size + 2 * i + 1] = np.uint8(words[i] >> np.uint16(8))
    return data


@jit
def _read_states(data: NDArray[np.uint8], states: NDArray[np.uint32], num_lanes: int) -> int:
    """Read the states `_join` wrote; give their number of bytes, or -1 where they do not fit or the padding is set."""
    at = 0
    pending = np.uint64(0)
    used = 0
    for lane in range(num_lanes):
        extra = 0
        for needed in (4, 16):
            needed += extra  # 4, then 16 + extra
            while used < needed:
                if at == data.size:
                    return -1
                pending |= np.uint64(data[at]) << np.uint64(used)
                at += 1
                used += 8
            value = pending & ((np.uint64(1) << np.uint64(needed)) - np.uint64(1))
            pending >>= np.uint64(needed)
            used -= needed
            if needed == 4:
                extra = np.int64(value)
        states[lane] = np.uint32(value | _LOW << np.uint64(extra))
    return -1 if pending else at
