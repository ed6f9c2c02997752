"""Compiled byte planes: splitting numbers into planes, and rANS coding of one plane with up to eight states.

The eight states are local variables, which the compiler keeps in registers; an array of states is three times slower.
Indices are unsigned: signed ones cost a test for negative values at every access.
`reference_planes` is the definition; FORMAT.md, planes, has the bytes.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficzip.kernels.numba_cpu_jit import jit
from trafficzip.kernels.reference_planes import LOW, PRECISION_BITS, TABLE_SIZE

_LOW = np.uint64(LOW)
_LOW32 = np.uint32(LOW)
_BITS = np.uint64(PRECISION_BITS)
_BITS32 = np.uint32(PRECISION_BITS)
_SLOTS = np.uint32(TABLE_SIZE - 1)
_ZERO, _ONE, _TWO, _EIGHT, _SIXTEEN = np.uint64(0), np.uint64(1), np.uint64(2), np.uint64(8), np.uint64(16)
_BLOCK = 2048  # elements; a block of each plane and of the values stays in the first cache


def rotation(dtype: np.dtype[Any], *, top: int, by: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Give masks and shifts, of this unsigned type, that rotate its highest `top` bits left by `by` < top.

    Masks: of the bits that stay, that moved left, that moved right.
    """
    rest = 8 * dtype.itemsize - top
    moved = ((1 << top) - 1) << rest
    wrapped = ((1 << by) - 1) << rest
    keep = (1 << rest) - 1
    return np.array([keep, moved - wrapped, wrapped], dtype), np.array([by, top - by], dtype)


@jit
def split(values: NDArray[Any], masks: NDArray[Any], shifts: NDArray[Any], planes: NDArray[np.uint8]) -> None:
    """Rotate the highest bits of each value and write its bytes by place.

    values: uint16, uint32 or uint64 [n].  masks, shifts: as `rotation` gives them, of that dtype.
    planes: uint8 [itemsize, n], written.
    """
    rotated = np.empty(_BLOCK, values.dtype)
    for start in range(0, values.size, _BLOCK):
        part = values[start : start + _BLOCK]
        _rotate(part, masks, shifts, rotated[: part.size])
        for place in range(planes.shape[0]):
            plane = planes[place, start : start + _BLOCK]
            shift = values.dtype.type(8 * place)
            for i in range(part.size):
                plane[i] = np.uint8(rotated[i] >> shift)


@jit
def merge(
    planes: tuple[NDArray[np.uint8], ...], masks: NDArray[Any], shifts: NDArray[Any], values: NDArray[Any]
) -> None:
    """Undo `split`; masks and shifts are those of the opposite rotation; planes are read-only, uint8 [n] each."""
    eight = values.dtype.type(8)
    joined = np.empty(_BLOCK, values.dtype)  # an array of its own: loops over one array twice are not vectorized
    for start in range(0, values.size, _BLOCK):
        part = values[start : start + _BLOCK]
        for place in range(0, len(planes), 2):
            lower, upper = planes[place][start : start + _BLOCK], planes[place + 1][start : start + _BLOCK]
            shift = values.dtype.type(8 * place)
            if place == 0:
                for i in range(part.size):
                    joined[i] = values.dtype.type(lower[i]) | values.dtype.type(upper[i]) << eight
            else:
                for i in range(part.size):
                    joined[i] |= (values.dtype.type(lower[i]) | values.dtype.type(upper[i]) << eight) << shift
        _rotate(joined, masks, shifts, part)


@jit
def _rotate(values: NDArray[Any], masks: NDArray[Any], shifts: NDArray[Any], rotated: NDArray[Any]) -> None:
    """Rotate the first values, as many as `rotated` has room for; the two arrays do not overlap."""
    keep, up, down = masks[0], masks[1], masks[2]
    limit = values.dtype.type(8 * values.itemsize - 1)  # shifts are below the width: the compiler needs no wider type
    left, right = shifts[0] & limit, shifts[1] & limit
    for i in range(rotated.size):
        rotated[i] = values[i] & keep | values[i] << left & up | values[i] >> right & down


@jit
def encode_symbols(symbols: NDArray[np.uint8], table: NDArray[np.uint64], num_lanes: int) -> NDArray[np.uint8]:
    """Encode one plane: final states, words.

    symbols: uint8 [n], all with a frequency.  table: as `numba_cpu_rans.encoder_tables` gives it.
    Returns: uint8 [4 * num_lanes + 2 * words].
    Source: FORMAT.md, planes, coded planes.
    """
    size = symbols.size
    words = np.empty(size + 1, np.uint16)  # filled from the end; a store that is not kept may fall on element 0
    states = np.full(8, _LOW, np.uint64)
    at = np.uint64(size)
    body = size & ~7 if num_lanes == 8 else 0
    for i in range(size - 1, body - 1, -1):
        lane = i & (num_lanes - 1)
        states[lane], at = _push(states[lane], table, symbols[i], words, at)
    s0, s1, s2, s3, s4, s5, s6, s7 = (
        states[0], states[1], states[2], states[3], states[4], states[5], states[6], states[7],
    )  # fmt: skip
    for i in range(body - 8, -1, -8):
        s7, at = _push(s7, table, symbols[i + 7], words, at)
        s6, at = _push(s6, table, symbols[i + 6], words, at)
        s5, at = _push(s5, table, symbols[i + 5], words, at)
        s4, at = _push(s4, table, symbols[i + 4], words, at)
        s3, at = _push(s3, table, symbols[i + 3], words, at)
        s2, at = _push(s2, table, symbols[i + 2], words, at)
        s1, at = _push(s1, table, symbols[i + 1], words, at)
        s0, at = _push(s0, table, symbols[i], words, at)
    states[0], states[1], states[2], states[3] = s0, s1, s2, s3
    states[4], states[5], states[6], states[7] = s4, s5, s6, s7
    kept = words[int(at) + 1 :]
    data = np.empty(4 * num_lanes + 2 * kept.size, np.uint8)
    for lane in range(num_lanes):
        for place in range(4):
            data[4 * lane + place] = np.uint8(states[lane] >> np.uint64(8 * place))
    tail = data[4 * num_lanes :]
    for i in range(kept.size):
        tail[2 * i] = np.uint8(kept[i])
        tail[2 * i + 1] = np.uint8(kept[i] >> np.uint16(8))
    return data


@jit
def decode_symbols(
    data: NDArray[np.uint8], table: NDArray[np.uint32], num_lanes: int, symbols: NDArray[np.uint8]
) -> bool:
    """Decode one plane into `symbols`, uint8 [n]; False where `data` is not an encoding of n symbols.

    data: uint8 [m].  table: uint32 [4096], as `numba_cpu_planes_model.decoder_table` gives it.
    Source: FORMAT.md, planes, coded planes.
    """
    if data.size < 4 * num_lanes or data.size % 2:
        return False
    states = np.empty(8, np.uint32)
    for lane in range(num_lanes):
        state = np.uint32(0)
        for place in range(4):
            state |= np.uint32(data[4 * lane + place]) << np.uint32(8 * place)
        if state < _LOW32:
            return False
        states[lane] = state
    size, end = np.uint64(symbols.size), np.uint64(data.size)
    at, i = np.uint64(4 * num_lanes), _ZERO
    if num_lanes == 8:
        body = size - size % _EIGHT
        s0, s1, s2, s3, s4, s5, s6, s7 = (
            states[0], states[1], states[2], states[3], states[4], states[5], states[6], states[7],
        )  # fmt: skip
        while i < body and at + _SIXTEEN <= end:  # eight symbols read at most eight words
            s0, at = _pop(s0, table, data, at, symbols, i)
            s1, at = _pop(s1, table, data, at, symbols, i + np.uint64(1))
            s2, at = _pop(s2, table, data, at, symbols, i + np.uint64(2))
            s3, at = _pop(s3, table, data, at, symbols, i + np.uint64(3))
            s4, at = _pop(s4, table, data, at, symbols, i + np.uint64(4))
            s5, at = _pop(s5, table, data, at, symbols, i + np.uint64(5))
            s6, at = _pop(s6, table, data, at, symbols, i + np.uint64(6))
            s7, at = _pop(s7, table, data, at, symbols, i + np.uint64(7))
            i += _EIGHT
        states[0], states[1], states[2], states[3] = s0, s1, s2, s3
        states[4], states[5], states[6], states[7] = s4, s5, s6, s7
    lanes = np.uint64(num_lanes - 1)
    while i < size:  # the last words, one by one
        lane = i & lanes
        entry = table[states[lane] & _SLOTS]
        state = (entry & _SLOTS) * (states[lane] >> _BITS32) + (entry >> _BITS32 & _SLOTS)
        symbols[i] = np.uint8(entry >> np.uint32(24))
        if state < _LOW32:
            if at == end:
                return False
            state = state << np.uint32(16) | np.uint32(data[at]) | np.uint32(data[at + _ONE]) << np.uint32(8)
            at += _TWO
        states[lane] = state
        i += _ONE
    for lane in range(num_lanes):
        if states[lane] != _LOW32:
            return False
    return bool(at == end)


@jit
def _push(
    state: np.uint64, table: NDArray[np.uint64], symbol: np.uint8, words: NDArray[np.uint16], at: np.uint64
) -> tuple[np.uint64, np.uint64]:
    """Add a symbol to a state; the low word goes to words[at] first where there is no room for the symbol."""
    frequency = table[symbol, 0]
    words[at] = np.uint16(state)  # kept only where `at` moves on: a store costs less than a jump
    full = state >= frequency << (np.uint64(32) - _BITS)
    state = state >> np.uint64(16) if full else state
    at -= np.uint64(full)
    quotient = (state * table[symbol, 2]) >> (np.uint64(32) + _BITS)
    return state + table[symbol, 1] + quotient * (np.uint64(TABLE_SIZE) - frequency), at


@jit
def _pop(
    state: np.uint32,
    table: NDArray[np.uint32],
    data: NDArray[np.uint8],
    at: np.uint64,
    symbols: NDArray[np.uint8],
    i: np.uint64,
) -> tuple[np.uint32, np.uint64]:
    """Take symbol i from a state and refill the state from data[at : at + 2]; without a jump."""
    entry = table[state & _SLOTS]
    symbols[i] = np.uint8(entry >> np.uint32(24))
    state = (entry & _SLOTS) * (state >> _BITS32) + (entry >> _BITS32 & _SLOTS)
    word = np.uint32(data[at]) | np.uint32(data[at + _ONE]) << np.uint32(8)
    refilled = state << np.uint32(16) | word
    low = state < _LOW32
    return (refilled if low else state), at + (np.uint64(low) << _ONE)
