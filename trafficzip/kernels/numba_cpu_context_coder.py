"""Compiled binary arithmetic coder with adaptive probabilities: 32 bits of range, one byte at a time.

A state is two uint32: the fast estimate, and the slow one in bits 10 to 31 with the count of flags in bits 0 to 9. Low,
width, code and end are local variables of the caller, which the compiler keeps in registers.
"""

import numpy as np
from numpy.typing import NDArray

from trafficzip.kernels import reference_context as reference
from trafficzip.kernels.numba_cpu_jit import jit
from trafficzip.kernels.reference_context import LEAST, PRECISION_BITS, SLOW_WINDOW

_FAST, _SLOW = (
    np.array([reference.rate(count, window) for count in range(SLOW_WINDOW + 1)], np.int64)
    for window in (reference.FAST_WINDOW, SLOW_WINDOW)
)
_MOST = (1 << 16) - LEAST
RENORMAL = 1 << reference.RENORMAL_BITS  # the range is at least this between two flags
FULL = (1 << reference.RANGE_BITS) - 1


@jit
def _learn(states: NDArray[np.uint32], at: int, fast: int, slow: int, count: int, flag: int) -> None:
    goal = np.int64(flag) << PRECISION_BITS
    fast += ((goal - fast) * _FAST[count]) >> 16
    slow += ((goal - slow) * _SLOW[count]) >> 16
    states[at, 0] = fast
    states[at, 1] = slow << 10 | min(count + 1, SLOW_WINDOW)


@jit
def shift_out(low: int, width: int, out: NDArray[np.uint8], end: int) -> tuple[int, int, int]:
    """Write bytes until the range is wide again; a carry goes into those written before."""
    while width < RENORMAL:
        if low > FULL:
            carry(out, end)
            low &= FULL
        out[end] = low >> 24
        end += 1
        low = (low & (RENORMAL - 1)) << 8
        width <<= 8
    return low, width, end


@jit
def carry(out: NDArray[np.uint8], end: int) -> None:
    """Add one to the bytes before `end`."""
    at = end - 1
    while out[at] == 255:  # ends above 0: the number is below 1
        out[at] = 0
        at -= 1
    out[at] += 1


@jit
def put(
    states: NDArray[np.uint32], at: int, flag: int, low: int, width: int, out: NDArray[np.uint8], end: int
) -> tuple[int, int, int]:
    """Code a flag by its state, and teach the state."""
    fast, slow = np.int64(states[at, 0]), np.int64(states[at, 1]) >> 10
    count = np.int64(states[at, 1]) & 1023
    bound = (width * min(max((fast + slow) >> 7, LEAST), _MOST)) >> 16
    _learn(states, at, fast, slow, count, flag)
    if flag:
        width = bound
    else:
        low += bound
        width -= bound
    return shift_out(low, width, out, end)


@jit
def get(
    states: NDArray[np.uint32], at: int, code: int, width: int, data: NDArray[np.uint8], end: int
) -> tuple[int, int, int, int]:
    """Decode a flag by its state, and teach the state."""
    fast, slow = np.int64(states[at, 0]), np.int64(states[at, 1]) >> 10
    count = np.int64(states[at, 1]) & 1023
    bound = (width * min(max((fast + slow) >> 7, LEAST), _MOST)) >> 16
    flag = np.int64(code < bound)
    _learn(states, at, fast, slow, count, flag)
    if flag:
        width = bound
    else:
        code -= bound
        width -= bound
    code, width, end = shift_in(code, width, data, end)
    return flag, code, width, end


@jit
def shift_in(code: int, width: int, data: NDArray[np.uint8], end: int) -> tuple[int, int, int]:
    """Read bytes until the range is wide again; behind the end they are zero."""
    while width < RENORMAL:
        code <<= 8
        if end < data.size:
            code |= np.int64(data[end])
        end += 1
        width <<= 8
    return code, width, end


@jit
def put_even(flag: int, low: int, width: int, out: NDArray[np.uint8], end: int) -> tuple[int, int, int]:
    """Code a flag that is as often set as not."""
    half = width >> 1
    if flag:
        width = half
    else:
        low += half
        width -= half
    return shift_out(low, width, out, end)


@jit
def get_even(code: int, width: int, data: NDArray[np.uint8], end: int) -> tuple[int, int, int, int]:
    """Decode a flag that is as often set as not."""
    half = width >> 1
    flag = np.int64(code < half)
    if flag:
        width = half
    else:
        code -= half
        width -= half
    code, width, end = shift_in(code, width, data, end)
    return flag, code, width, end
