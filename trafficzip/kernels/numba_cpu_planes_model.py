"""Compiled frequencies of byte planes: fitting, writing, reading, and the tables that coding looks symbols up in.

`reference_planes` is the definition; FORMAT.md, planes, has the bytes.
"""

import numpy as np
from numpy.typing import NDArray

from trafficzip.kernels.numba_cpu_bits import bit_length, get, get_runs, put, put_runs, unzigzag, zeros_at, zigzag
from trafficzip.kernels.numba_cpu_jit import jit
from trafficzip.kernels.reference_planes import PRECISION_BITS, TABLE_SIZE

LOG_UNIT = 1 << 16
_LOG2 = np.round(np.log2(np.maximum(np.arange(TABLE_SIZE), 1)) * LOG_UNIT).astype(np.int64)
_MAX_LENGTH = PRECISION_BITS  # bits of a frequency
_MAX_TABLE_BYTES = 1280  # 1 + at most 2 * 256 bits of runs, then at most 23 + 1 + 11 bits for each of 256 symbols: 1184


@jit
def count(symbols: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count symbols, uint8 [n]: int64 [256]."""
    counts = np.zeros((4, 256), np.int64)  # a count that was just written is slow to read again
    body = symbols.size & ~3
    for i in range(0, body, 4):
        counts[0, symbols[i]] += 1
        counts[1, symbols[i + 1]] += 1
        counts[2, symbols[i + 2]] += 1
        counts[3, symbols[i + 3]] += 1
    for i in range(body, symbols.size):
        counts[0, symbols[i]] += 1
    return counts[0] + counts[1] + counts[2] + counts[3]


@jit
def normalize(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give frequencies, int64 [256], that sum to 4096.

    counts: int64 [256], 0 to 2**49, at least two above 0.
    """
    frequencies = np.zeros(256, np.int64)
    total = counts.sum()
    rest = TABLE_SIZE
    most = 0
    for symbol in range(256):
        count = counts[symbol]
        if count > 0:
            frequencies[symbol] = max(1, int(count * TABLE_SIZE // total))
            rest -= frequencies[symbol]
        if count > counts[most]:
            most = symbol
    while rest > 0:
        best = most
        for symbol in range(256):
            if counts[symbol] * (2 * frequencies[best] + 1) > counts[best] * (2 * frequencies[symbol] + 1):
                best = symbol
        frequencies[best] += 1
        rest -= 1
    while rest < 0:
        best = most
        for symbol in range(256):
            below, best_below = 2 * frequencies[symbol] - 1, 2 * frequencies[best] - 1
            if frequencies[symbol] > 1 and counts[symbol] * best_below < counts[best] * below:
                best = symbol
        frequencies[best] -= 1
        rest += 1
    return frequencies


@jit
def coded_cost(counts: NDArray[np.int64], frequencies: NDArray[np.int64]) -> int:
    """Give the bits of symbols with these counts and frequencies, in units of 2**-16 bit; integers only."""
    cost = 0
    for symbol in range(256):
        if counts[symbol] > 0:
            cost += counts[symbol] * (PRECISION_BITS * LOG_UNIT - _LOG2[frequencies[symbol]])
    return cost


@jit
def decoder_table(frequencies: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Give symbol << 24 | (slot - start) << 12 | frequency per slot: uint32 [4096].

    frequencies: int64 [256], each below 4096; they sum to 4096.
    """
    table = np.empty(TABLE_SIZE, np.uint32)
    at = 0
    for symbol in range(256):
        frequency = frequencies[symbol]
        for offset in range(frequency):
            table[at] = np.uint32(symbol << 24 | offset << 12 | frequency)
            at += 1
    return table


@jit
def write_table(frequencies: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Write frequencies, int64 [256]: runs of symbols that occur and that do not, then bit lengths and lower bits."""
    data = np.zeros(_MAX_TABLE_BYTES, np.uint8)
    used = put_runs(frequencies > 0, data, 0)
    previous = _MAX_LENGTH
    for symbol in range(256):
        frequency = frequencies[symbol]
        if frequency > 0:
            length = bit_length(frequency)
            used += zigzag(length - previous)  # zeros
            used = put(1, 1, data, used)
            used = put(frequency & ((1 << (length - 1)) - 1), length - 1, data, used)
            previous = length
    return data[: (used + 7) // 8].copy()


@jit
def read_table(data: NDArray[np.uint8], frequencies: NDArray[np.int64]) -> int:
    """Read the table at the start of `data` into `frequencies`, int64 [256]; give its bytes, or -1 if there is none."""
    end = 8 * data.size
    occurs = np.empty(256, np.bool_)
    used = get_runs(data, 0, end, occurs)
    if used < 0:
        return -1
    length = _MAX_LENGTH
    total = 0
    for symbol in range(256):
        frequencies[symbol] = 0
        if occurs[symbol]:
            zeros = zeros_at(data, used, end, 2 * _MAX_LENGTH)
            if zeros < 0:
                return -1
            length += unzigzag(zeros)
            used += zeros + 1
            if not 1 <= length <= _MAX_LENGTH or used + length - 1 > end:
                return -1
            frequencies[symbol] = 1 << (length - 1) | get(length - 1, data, used)
            used += length - 1
            total += frequencies[symbol]
    if total != TABLE_SIZE or get(-used % 8, data, used):
        return -1
    return (used + 7) // 8
