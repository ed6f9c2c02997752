"""Compiled context coder: one pass over the levels, all states in one array.

`reference_context` is the definition; `numba_cpu_context_coder` has the layout of a state.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficzip.kernels import reference_context as reference
from trafficzip.kernels.context_priors import EXPECTED, NUM_FLAGS, NUM_SPREADS, SCALES
from trafficzip.kernels.numba_cpu_context_coder import (
    FULL,
    RENORMAL,
    carry,
    get,
    get_even,
    put,
    put_even,
)
from trafficzip.kernels.numba_cpu_jit import jit
from trafficzip.kernels.reference_context import (
    FIRST_COUNT,
    LARGEST,
    MAX_EXPONENT,
    MEANINGS,
    PRECISION_BITS,
    STRONG,
)
from trafficzip.kernels.reference_trellis import NUM_LANES

_EXPECTED = np.array(EXPECTED, np.int64)
_SCALES = np.array(SCALES, np.int64)
_M0, _M1, _M2, _M3 = reference.MAGNITUDE_FACTORS
_SIGN_FACTORS = np.array(reference.SIGN_FACTORS, np.int64)
_KIND = 16  # states of one kind of forecast, NUM_FLAGS of them used
_MEANING = 4 * _KIND
_UNION = MEANINGS * _MEANING
_LENGTHS = 32  # states of the Exp-Golomb prefix, and as many of the leading bits
_RING = 32  # values behind that a neighbour can be: 15 + 15
_ROOM = 128  # bytes, more than any level takes: 46 adaptive flags of at most 12 bits, and 28 bits


@jit
def _states(spreads: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Set up all states: flags by context, union, neighbours and forecast; signs; then the rest of large levels."""
    num_contexts = spreads.size
    signs = num_contexts * 2 * _UNION
    rests = signs + _SIGN_FACTORS.size + num_contexts
    states = np.empty((rests + 2 * _LENGTHS * num_contexts, 2), np.uint32)
    for context in range(num_contexts):
        for union in range(2):
            for flag in range(NUM_FLAGS):
                slow = _EXPECTED[spreads[context], union, flag] << (PRECISION_BITS - 12)
                first = (2 * context + union) * _UNION + flag
                for at in range(first, first + _UNION, _KIND):
                    states[at, 0] = slow
                    states[at, 1] = slow << 10 | FIRST_COUNT
    states[signs:, 0] = 1 << (PRECISION_BITS - 1)
    states[signs:rests, 1] = 1 << 31 | FIRST_COUNT
    states[rests:, 1] = 1 << 31
    return states


@jit
def _fit(
    num_levels: int, contexts: NDArray[np.uint8], neighbours: NDArray[np.uint8], spreads: NDArray[np.uint8]
) -> bool:
    """Tell whether no context and no spread is beyond its table."""
    if contexts.size != num_levels or neighbours.size != num_levels:
        return False
    if num_levels == 0:
        return True
    return spreads.size > 0 and contexts.max() < spreads.size and spreads.max() < NUM_SPREADS


@jit
def _look_around(ring: NDArray[np.int64], i: int, distances: int, scale: int) -> tuple[int, int]:
    left, above = distances & 15, distances >> 4
    a = ring[(i - left) % _RING] if 0 < left <= i else 0
    b = ring[(i - above) % _RING] if 0 < above <= i else 0
    corner = ring[(i - left - above) % _RING] if left > 0 and above > 0 and left + above <= i else 0
    total = abs(a) + abs(b)
    if left == 0 or above == 0:
        total *= 2
    meaning = 1 + (_M0 * total > scale) + (_M1 * total > scale) + (_M2 * total > scale) + (_M3 * total > scale)
    return meaning, 2 * (a + b) - corner


@jit
def _sign_state(forecast: int, scale: int, context: int, num_contexts: int) -> int:
    signs = num_contexts * 2 * _UNION
    if forecast == 0:
        return signs + context
    passed = 0
    for j in range(1, _SIGN_FACTORS.size):
        passed += np.int64(128 * abs(forecast) > _SIGN_FACTORS[j] * scale)
    return signs + num_contexts + passed


def encode_integers(
    integers: NDArray[Any], contexts: NDArray[np.uint8], spreads: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Code integers without neighbours or a trellis; one integer is two steps of its spread."""
    return encode_levels(integers, contexts, np.zeros(integers.size, np.uint8), spreads, 0, 0)


def decode_integers(
    data: NDArray[np.uint8], contexts: NDArray[np.uint8], spreads: NDArray[np.uint8], integers: NDArray[Any]
) -> bool:
    """Fill integers, int16 or int32 [n]; False if the bytes are not one encoding of n such integers."""
    return decode_levels(data, contexts, np.zeros(integers.size, np.uint8), spreads, 0, 0, integers)


@jit
def encode_levels(
    levels: NDArray[Any],
    contexts: NDArray[np.uint8],
    neighbours: NDArray[np.uint8],
    spreads: NDArray[np.uint8],
    check0: int,
    check1: int,
) -> NDArray[np.uint8]:
    """Code levels.

    levels: int16 or int32 [n], magnitudes at most LARGEST.  contexts: uint8 [n], below the number of spreads.
    neighbours: uint8 [n], distances back to the left in bits 0 to 3 and above in bits 4 to 7, 0 for none.  spreads:
    uint8 [1..256], each below NUM_SPREADS.  check0, check1: parity checks of the trellis, or 0.  Returns: uint8 [m].
    """
    assert _fit(levels.size, contexts, neighbours, spreads)
    out = np.empty(max(levels.size // 4, 1024), np.uint8)
    if levels.size == 0:
        return out[:0]
    states, num_contexts = _states(spreads), spreads.size
    rests = num_contexts * (2 * _UNION + 1) + _SIGN_FACTORS.size
    lanes, ring = np.zeros(NUM_LANES, np.int64), np.zeros(_RING, np.int64)
    low, width, end = np.int64(0), np.int64(FULL), 0
    for i in range(levels.size):
        if end + _ROOM > out.size:
            longer = np.empty(2 * out.size, np.uint8)
            longer[:end] = out[:end]
            out = longer
        level, context, lane = np.int64(levels[i]), np.int64(contexts[i]), i % NUM_LANES
        size, state, scale = abs(level), lanes[lane], _SCALES[spreads[context]]
        union, meaning, forecast = state & 1, np.int64(0), np.int64(0)
        if neighbours[i]:
            meaning, forecast = _look_around(ring, i, np.int64(neighbours[i]), scale)
        at = (2 * context + union) * _UNION + meaning * _MEANING
        if 128 * abs(forecast) > STRONG * scale:
            at += 2 * _KIND
        low, width, end = put(states, at, size > 0, low, width, out, end)
        if size > 0:
            against = np.int64(level < 0) ^ np.int64(forecast < 0)
            sign = _sign_state(forecast, scale, context, num_contexts)
            low, width, end = put(states, sign, against, low, width, out, end)
            if forecast != 0:
                at += against * _KIND
            flag = 1
            while flag < NUM_FLAGS:
                low, width, end = put(states, at + flag, size > flag, low, width, out, end)
                if size <= flag:
                    break
                flag += 1
            if flag == NUM_FLAGS:
                rest = size - NUM_FLAGS + 1
                low, width, end = _put_rest(states, rests + 2 * _LENGTHS * context, rest, low, width, out, end)
        ring[i % _RING] = 2 * level - union * (np.int64(level > 0) - np.int64(level < 0))
        lanes[lane] = (state >> 1) ^ (union * (check0 >> 1)) ^ ((level & 1) * (check1 >> 1))
    last = (low + RENORMAL - 1) >> reference.RENORMAL_BITS
    if last > 255:
        carry(out, end)
    out[end] = last & 255
    return out[: end + 1].copy()


@jit
def _put_rest(
    states: NDArray[np.uint32], at: int, rest: int, low: int, width: int, out: NDArray[np.uint8], end: int
) -> tuple[int, int, int]:
    length = 0
    while length < MAX_EXPONENT:
        more = rest >> (length + 1) != 0
        low, width, end = put(states, at + length, more, low, width, out, end)
        if not more:
            break
        length += 1
    for place in range(length - 1, -1, -1):
        bit = (rest >> place) & 1
        if place == length - 1:
            low, width, end = put(states, at + _LENGTHS + length, bit, low, width, out, end)
        else:
            low, width, end = put_even(bit, low, width, out, end)
    return low, width, end


@jit
def decode_levels(
    data: NDArray[np.uint8],
    contexts: NDArray[np.uint8],
    neighbours: NDArray[np.uint8],
    spreads: NDArray[np.uint8],
    check0: int,
    check1: int,
    levels: NDArray[Any],
) -> bool:
    """Fill levels, int16 or int32 [n]; False if the bytes are not one encoding of n levels of that type.

    data: uint8 [m].  The other arguments are those of the encoder.
    """
    if not _fit(levels.size, contexts, neighbours, spreads):
        return False
    if levels.size == 0 or data.size == 0:
        return levels.size == data.size
    largest = min(np.int64(np.iinfo(levels.dtype).max), LARGEST)
    states, num_contexts = _states(spreads), spreads.size
    rests = num_contexts * (2 * _UNION + 1) + _SIGN_FACTORS.size
    lanes, ring = np.zeros(NUM_LANES, np.int64), np.zeros(_RING, np.int64)
    code, width, end = np.int64(0), np.int64(FULL), 0
    for _ in range(4):
        code = code << 8 | (np.int64(data[end]) if end < data.size else 0)
        end += 1
    if code >= width:
        return False
    for i in range(levels.size):
        if end > data.size + 3:
            return False
        context, lane = np.int64(contexts[i]), i % NUM_LANES
        state, scale = lanes[lane], _SCALES[spreads[context]]
        union, meaning, forecast = state & 1, np.int64(0), np.int64(0)
        if neighbours[i]:
            meaning, forecast = _look_around(ring, i, np.int64(neighbours[i]), scale)
        at = (2 * context + union) * _UNION + meaning * _MEANING
        if 128 * abs(forecast) > STRONG * scale:
            at += 2 * _KIND
        level = np.int64(0)
        more, code, width, end = get(states, at, code, width, data, end)
        if more:
            sign = _sign_state(forecast, scale, context, num_contexts)
            against, code, width, end = get(states, sign, code, width, data, end)
            if forecast != 0:
                at += against * _KIND
            level = np.int64(1)
            while level < NUM_FLAGS:
                more, code, width, end = get(states, at + level, code, width, data, end)
                if not more:
                    break
                level += 1
            if level == NUM_FLAGS:
                rest, code, width, end = _get_rest(states, rests + 2 * _LENGTHS * context, code, width, data, end)
                level += rest - 1
                if level > largest:
                    return False
            if against ^ np.int64(forecast < 0):
                level = -level
        levels[i] = level
        ring[i % _RING] = 2 * level - union * (np.int64(level > 0) - np.int64(level < 0))
        lanes[lane] = (state >> 1) ^ (union * (check0 >> 1)) ^ ((level & 1) * (check1 >> 1))
    return end == data.size + 3 and code < RENORMAL


@jit
def _get_rest(
    states: NDArray[np.uint32], at: int, code: int, width: int, data: NDArray[np.uint8], end: int
) -> tuple[int, int, int, int]:
    length = 0
    while length < MAX_EXPONENT:
        more, code, width, end = get(states, at + length, code, width, data, end)
        if not more:
            break
        length += 1
    rest = np.int64(1)
    for place in range(length - 1, -1, -1):
        if place == length - 1:
            bit, code, width, end = get(states, at + _LENGTHS + length, code, width, data, end)
        else:
            bit, code, width, end = get_even(code, width, data, end)
        rest = 2 * rest + bit
    return rest, code, width, end
