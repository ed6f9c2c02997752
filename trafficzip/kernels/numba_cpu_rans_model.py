"""Compiled fitting, writing and reading of rANS models; `reference_rans.frequencies` and FORMAT.md are the definition.

A model is a partition of the symbols into groups of equally likely ones, and one weight per group.
"""

import numpy as np
from numpy.typing import NDArray

from trafficzip.kernels.numba_cpu_bits import get, get_runs, put, put_runs, unzigzag, zeros_at, zigzag
from trafficzip.kernels.numba_cpu_jit import jit
from trafficzip.kernels.reference_rans import NUM_SYMBOLS, group_sizes, symbol_order

_ORDER = np.array(symbol_order(), np.int64)
_SIZES = np.zeros((5, NUM_SYMBOLS), np.int64)  # [partition, group]; partition 0 has no groups
for _partition in range(1, 5):
    _SIZES[_partition, : len(group_sizes(_partition))] = group_sizes(_partition)
_NUM_GROUPS = (_SIZES > 0).sum(axis=1)
_TOP_WEIGHT = 7 << 15  # of code 64, the largest
_LOG_UNIT = 1 << 16
_LOG2 = np.round(np.log2(np.arange(256, 514)) * _LOG_UNIT).astype(np.int64) - 8 * _LOG_UNIT
_MAX_MODEL_BYTES = 512  # Rice parameter 4: (8 + 1 + 3 * 243 + 243 * (126 // 16 + 5)) / 8 = 457 at most
_MAX_DELTA = 126


@jit
def fit(counts: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64], int]:
    """Choose the model with the smallest estimated total for symbols with these counts.

    Integers only: the choice, and so the bytes, are the same everywhere. More precision has to save 1 in 256, because
    larger tables are slower to build and to read.

    counts: int64 [243 or more], >= 0, at least two > 0.
    Returns: the model's bytes, uint8 [m]; frequencies, int64 [243]; precision_bits.
    """
    ordered = counts[_ORDER]
    codes = np.zeros((5, NUM_SYMBOLS), np.int64)
    model_bits = np.zeros(5, np.int64)
    rice_bits = np.zeros(5, np.int64)
    for partition in range(1, 5):
        _weigh(ordered, partition, codes[partition])
        model_bits[partition], rice_bits[partition] = _model_cost(codes[partition], partition)
    best = 1 << 62
    best_partition, best_precision = 4, 16
    scaled = np.empty(NUM_SYMBOLS, np.int64)
    for precision_bits in (12, 14, 16):
        limit = best - best // 256
        for partition in range(1, 5):
            if _scale(codes[partition], partition, precision_bits, scaled):
                cost = model_bits[partition] * _LOG_UNIT + _payload_cost(ordered, scaled, precision_bits)
                if cost < limit:
                    best, limit, best_partition, best_precision = cost, cost, partition, precision_bits
    found = _scale(codes[best_partition], best_partition, best_precision, scaled)
    assert found  # at 16 bits the heaviest symbol has at least 2**16 // 243 - 243 > 0
    frequencies = np.zeros(NUM_SYMBOLS, np.int64)
    frequencies[_ORDER] = scaled
    data = np.zeros(_MAX_MODEL_BYTES, np.uint8)
    rice = int(rice_bits[best_partition])
    data[0] = best_partition | (best_precision - 10) // 2 << 3 | (rice - 1) << 5
    used = _write_codes(codes[best_partition], best_partition, rice, data)
    return data[: (used + 7) // 8].copy(), frequencies, best_precision


@jit
def read_model(data: NDArray[np.uint8], frequencies: NDArray[np.int64]) -> tuple[int, int]:
    """Read the model at the start of `data` into `frequencies`, int64 [243]; give its bytes and precision_bits.

    The number of bytes is -1 where `data` does not start with a model.
    """
    partition, precision_bits = int(data[0] & 7), 10 + 2 * int(data[0] >> 3 & 3)
    rice = 1 + int(data[0] >> 5 & 3)
    if not 1 <= partition <= 4:
        return -1, precision_bits
    codes = np.zeros(NUM_SYMBOLS, np.int64)
    used = _read_codes(data, partition, rice, codes)
    scaled = np.empty(NUM_SYMBOLS, np.int64)
    if used < 0 or not _scale(codes, partition, precision_bits, scaled):
        return -1, precision_bits
    frequencies[_ORDER] = scaled
    return (used + 7) // 8, precision_bits


@jit
def _weigh(ordered: NDArray[np.int64], partition: int, codes: NDArray[np.int64]) -> None:
    """Give every group that occurs the code whose weight is nearest to its mean count; the most likely one has 64."""
    sizes = _SIZES[partition]
    totals = np.zeros(NUM_SYMBOLS, np.int64)
    at = 0
    top = 0
    for group in range(_NUM_GROUPS[partition]):
        for _ in range(sizes[group]):
            totals[group] += ordered[at]
            at += 1
        if totals[group] * sizes[top] > totals[top] * sizes[group]:
            top = group
    unit = totals[top] / sizes[top] / _TOP_WEIGHT  # IEEE division: the same on every device
    for group in range(_NUM_GROUPS[partition]):
        if totals[group]:
            target = max(4, int(totals[group] / sizes[group] / unit))
            shift = 0
            while target >> shift >= 8:
                shift += 1
            rounded = (target + (1 << shift >> 1)) >> shift  # 4 to 8; 8 is 4 of the next octave
            codes[group] = min(64, 1 + 4 * shift + rounded - 4)


@jit
def _scale(codes: NDArray[np.int64], partition: int, precision_bits: int, scaled: NDArray[np.int64]) -> bool:
    """Turn codes into frequencies in symbol order, int64 [243]; False where they give no table."""
    sizes = _SIZES[partition]
    total = 0
    top = 0
    top_at = 0
    at = 0
    present = 0
    for group in range(_NUM_GROUPS[partition]):
        code = codes[group]
        if code:
            total += sizes[group] * ((4 + ((code - 1) & 3)) << ((code - 1) >> 2))
            present += sizes[group]
            if code > top:
                top, top_at = code, at
        at += sizes[group]
    if present < 2:
        return False
    at = 0
    rest = 1 << precision_bits
    for group in range(_NUM_GROUPS[partition]):
        code = codes[group]
        value = 0
        if code:
            weight = (4 + ((code - 1) & 3)) << ((code - 1) >> 2)
            value = max(1, ((weight << precision_bits) + (total >> 1)) // total)
        scaled[at : at + sizes[group]] = value
        rest -= value * sizes[group]
        at += sizes[group]
    scaled[top_at] += rest
    return bool(scaled[top_at] >= 1)


@jit
def _payload_cost(ordered: NDArray[np.int64], scaled: NDArray[np.int64], precision_bits: int) -> int:
    """Estimate the bits of all symbols, in units of 2**-16 bit, with logarithms interpolated between 257 values."""
    cost = 0
    for i in range(NUM_SYMBOLS):
        if ordered[i]:
            frequency = scaled[i]
            shift = 0
            while frequency << shift < 1 << 16:
                shift += 1
            at, rest = (frequency << shift >> 8) - 256, frequency << shift & 255
            logarithm = _LOG2[at] + ((_LOG2[at + 1] - _LOG2[at]) * rest >> 8)
            cost += ordered[i] * ((precision_bits - 16 + shift) * _LOG_UNIT - logarithm)
    return cost


@jit
def _model_cost(codes: NDArray[np.int64], partition: int) -> tuple[int, int]:
    """Give the fewest bits that `_write_codes` needs, and the Rice parameter for it."""
    histogram = np.zeros(_MAX_DELTA + 1, np.int64)
    previous = 64
    runs = 1
    start = 0
    groups = _NUM_GROUPS[partition]
    for group in range(groups):
        if codes[group]:
            histogram[zigzag(codes[group] - previous)] += 1
            previous = codes[group]
        if group + 1 == groups or (codes[group] > 0) != (codes[group + 1] > 0):
            length = group + 1 - start
            start = group + 1
            runs += 1
            while length > 1:
                runs += 2
                length >>= 1
    best = 1 << 62
    best_rice = 1
    for rice in range(1, 5):
        cost = runs
        for delta in range(_MAX_DELTA + 1):
            cost += histogram[delta] * ((delta >> rice) + 1 + rice)
        if cost < best:
            best, best_rice = cost, rice
    return best, best_rice


@jit
def _write_codes(codes: NDArray[np.int64], partition: int, rice: int, data: NDArray[np.uint8]) -> int:
    """Write runs of groups that occur and that do not, then the codes of those that do; give the bits used.

    data: uint8 [_MAX_MODEL_BYTES], zero behind the header byte.
    """
    groups = _NUM_GROUPS[partition]
    used = put_runs(codes[:groups] > 0, data, 8)
    previous = 64
    for group in range(groups):
        if codes[group]:
            delta = zigzag(codes[group] - previous)
            previous = codes[group]
            used += delta >> rice  # zeros
            used = put(1, 1, data, used)
            used = put(delta & ((1 << rice) - 1), rice, data, used)
    return used


@jit
def _read_codes(data: NDArray[np.uint8], partition: int, rice: int, codes: NDArray[np.int64]) -> int:
    """Read what `_write_codes` wrote; give the bits used, or -1 where `data` ends or a value is out of range."""
    groups = _NUM_GROUPS[partition]
    end = 8 * data.size
    occurs = np.empty(groups, np.bool_)
    used = get_runs(data, 8, end, occurs)
    if used < 0:
        return -1
    codes[:groups] = occurs
    previous = 64
    for group in range(groups):
        if codes[group]:
            zeros = zeros_at(data, used, end, _MAX_DELTA)
            if zeros < 0 or used + zeros + 1 + rice > end:
                return -1
            delta = zeros << rice | get(rice, data, used + zeros + 1)
            used += zeros + 1 + rice
            previous += unzigzag(delta)
            if not 1 <= previous <= 64:
                return -1
            codes[group] = previous
    padding = (8 - used % 8) % 8
    return -1 if get(padding, data, used) else used
