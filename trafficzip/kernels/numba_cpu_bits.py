"""Compiled bit strings, lowest bit of a byte first: numbers, runs of what occurs, differences of neighbours."""

import numpy as np
from numpy.typing import NDArray

from trafficzip.kernels.numba_cpu_jit import jit

_MAX_RUN_ZEROS = 8  # a run is at most 256 long


@jit
def bit_length(value: int) -> int:
    """Give how many bits a number >= 0 has."""
    length = 0
    while value >> length:
        length += 1
    return length


@jit
def put(value: int, num_bits: int, data: NDArray[np.uint8], used: int) -> int:
    """Write num_bits bits, lowest first; give the bits used."""
    for bit in range(num_bits):
        data[(used + bit) >> 3] |= (value >> bit & 1) << ((used + bit) & 7)
    return used + num_bits


@jit
def get(num_bits: int, data: NDArray[np.uint8], used: int) -> int:
    """Read num_bits bits, lowest first, that the caller knows to be there."""
    value = 0
    for bit in range(num_bits):
        value |= (int(data[(used + bit) >> 3]) >> ((used + bit) & 7) & 1) << bit
    return value


@jit
def zeros_at(data: NDArray[np.uint8], used: int, end: int, limit: int) -> int:
    """Count the zero bits at `used`, `limit` at most; -1 where there are more, or no one bit behind them."""
    zeros = 0
    while used + zeros < end and zeros <= limit:
        if data[(used + zeros) >> 3] >> ((used + zeros) & 7) & 1:
            return zeros
        zeros += 1
    return -1


@jit
def zigzag(difference: int) -> int:
    """Give 0, -1, 1, -2, ... as 0, 1, 2, 3, ..."""
    return 2 * difference if difference >= 0 else -2 * difference - 1


@jit
def unzigzag(code: int) -> int:
    """Undo `zigzag`."""
    return -((code + 1) >> 1) if code & 1 else code >> 1


@jit
def put_runs(occurs: NDArray[np.bool_], data: NDArray[np.uint8], used: int) -> int:
    """Write which occur, bool [n]: the first of them, then the lengths of runs as Elias gamma; give the bits used."""
    used = put(1 if occurs[0] else 0, 1, data, used)
    place = 0
    while place < occurs.size:
        start = place
        while place < occurs.size and occurs[place] == occurs[start]:
            place += 1
        length = bit_length(place - start)
        used += length - 1  # zeros
        for bit in range(length - 1, -1, -1):
            used = put((place - start) >> bit & 1, 1, data, used)
    return used


@jit
def get_runs(data: NDArray[np.uint8], used: int, end: int, occurs: NDArray[np.bool_]) -> int:
    """Read what `put_runs` wrote into bool [n]; give the bits used, or -1 where `data` ends or a run is too long."""
    if used >= end:
        return -1
    found = get(1, data, used) == 1
    used += 1
    place = 0
    while place < occurs.size:
        zeros = zeros_at(data, used, end, _MAX_RUN_ZEROS)
        used += zeros + 1
        if zeros < 0 or used + zeros > end:
            return -1
        run = 1
        for _ in range(zeros):
            run = 2 * run | get(1, data, used)
            used += 1
        if run > occurs.size - place:
            return -1
        occurs[place : place + run] = found
        place += run
        found = not found
    return used
