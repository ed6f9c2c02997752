"""Compiled ops of the baseline quantizers. Blocks are laid out as in numba_cpu_ternary, and walked in order."""

import numpy as np
from numpy.typing import NDArray

from trafficzip.kernels.numba_cpu_chunk import CHUNK, load_chunk
from trafficzip.kernels.numba_cpu_jit import float_bits, float_from_bits, jit

_MAGNITUDE = np.int32(0x7FFFFFFF)


@jit
def top_k(
    values: NDArray[np.float32],
    residual: NDArray[np.float32] | None,
    out: NDArray[np.float32] | None,
    out_column: int,
    spans: NDArray[np.int64],
    peaks: NDArray[np.float32],
    counts: NDArray[np.int64],
    codes: NDArray[np.uint16],
    positions: NDArray[np.int64],
) -> None:
    """Choose each group's largest elements, write them as bfloat16 with their positions, and what is lost to `out`.

    spans: int64 [groups, 3], value start, residual start and size of each group.
    Two passes over memory: one counts magnitudes by their upper 11 bits, one copies and takes out the few elements
    that may be chosen. Their lower 20 bits then decide.
    """
    at = 0
    begin = 0
    for group in range(peaks.shape[0]):
        span = spans[group]
        end = at + counts[group]
        if peaks[group] == 0:
            _divide(values, residual, out, out_column, span, 2048, np.empty(0, np.float32), np.empty(0, np.int64))
            codes[at:end] = 0
            for i in range(end - at):
                positions[at + i] = begin + i
        else:
            histogram = _count_upper(values, residual, span)
            upper, count = _digit(histogram, counts[group])
            near = np.empty(histogram[upper:].sum(), np.float32)
            where = np.empty(near.shape[0], np.int64)
            _divide(values, residual, out, out_column, span, upper, near, where)
            limit, ties = _threshold(near, upper, count)
            for j in range(near.shape[0]):
                bits = float_bits(near[j])
                if bits & _MAGNITUDE < limit or (bits & _MAGNITUDE == limit and ties == 0):
                    continue
                ties -= bits & _MAGNITUDE == limit
                code = np.uint32(np.uint32(bits) + np.uint32(0x7FFF) + (np.uint32(bits) >> 16 & 1)) >> 16
                codes[at] = code
                positions[at] = begin + where[j]
                if out is not None:
                    out[span[out_column] + where[j]] = near[j] - float_from_bits(np.uint32(code << 16))
                at += 1
        at = end
        begin += span[2]


@jit
def _count_upper(
    values: NDArray[np.float32], residual: NDArray[np.float32] | None, span: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Count magnitudes by their upper 11 bits."""
    sums = np.empty(CHUNK, np.float32)
    histogram = np.zeros(2048, np.int64)
    for start in range(0, span[2], CHUNK):
        for i in range(load_chunk(values, residual, span, start, sums)):
            histogram[(float_bits(sums[i]) & _MAGNITUDE) >> 20] += 1
    return histogram


@jit
def _digit(histogram: NDArray[np.int64], count: int) -> tuple[int, int]:
    """Find the digit of the count-th element from above, and which one among those with this digit it is."""
    digit = histogram.shape[0] - 1
    while histogram[digit] < count:
        count -= histogram[digit]
        digit -= 1
    return digit, count


@jit
def _divide(
    values: NDArray[np.float32],
    residual: NDArray[np.float32] | None,
    out: NDArray[np.float32] | None,
    out_column: int,
    span: NDArray[np.int64],
    upper: int,
    near: NDArray[np.float32],
    where: NDArray[np.int64],
) -> None:
    """Copy value + residual to `out`, and those whose upper 11 bits are at least `upper` to `near`, with positions."""
    sums = np.empty(CHUNK, np.float32)
    chosen = np.empty(CHUNK + 1, np.int64)  # one more than there are: the loop writes first, then counts
    found = 0
    least = np.int32(upper)
    for start in range(0, span[2], CHUNK):
        n = load_chunk(values, residual, span, start, sums)
        taken = 0
        for i in range(n):
            chosen[taken] = i
            taken += (float_bits(sums[i]) & _MAGNITUDE) >> 20 >= least
        for j in range(taken):
            near[found + j] = sums[chosen[j]]
            where[found + j] = start + chosen[j]
        found += taken
        if out is not None:
            o = out[span[out_column] + start : span[out_column] + start + n]
            for i in range(n):
                o[i] = sums[i]


@jit
def _threshold(near: NDArray[np.float32], upper: int, count: int) -> tuple[int, int]:
    """Find the magnitude of the count-th largest with these upper bits, and how many equal to it to take."""
    found = upper
    for lowest in (10, 0):
        histogram = np.zeros(1024, np.int64)
        for j in range(near.shape[0]):
            magnitude = float_bits(near[j]) & _MAGNITUDE
            if magnitude >> (lowest + 10) == found:
                histogram[magnitude >> lowest & 1023] += 1
        digit, count = _digit(histogram, count)
        found = found << 10 | digit
    return found, count


@jit
def magnitude_sums(
    values: NDArray[np.float32],
    residual: NDArray[np.float32] | None,
    blocks: NDArray[np.int64],
    factors: NDArray[np.float64],
    totals: NDArray[np.int64],
) -> None:
    """Add floor(|value + residual| * factor) to each group's total; every term is below 2**30."""
    sums = np.empty(CHUNK, np.float32)
    for row in range(blocks.shape[0]):
        factor = factors[blocks[row, 4]]
        total = np.int64(0)
        for start in range(0, blocks[row, 2], CHUNK):
            n = load_chunk(values, residual, blocks[row], start, sums)
            for i in range(n):
                total += np.int64(np.int32(np.float64(abs(sums[i])) * factor))
        totals[blocks[row, 4]] += total


@jit
def sign_pack(
    values: NDArray[np.float32],
    residual: NDArray[np.float32] | None,
    out: NDArray[np.float32] | None,
    out_column: int,
    blocks: NDArray[np.int64],
    scales: NDArray[np.float32],
    bits: NDArray[np.uint8],
) -> None:
    """Write one bit an element, 1 where value + residual < 0, and what is lost to `out`."""
    sums = np.empty(CHUNK, np.float32)
    negative = np.zeros(CHUNK, np.uint8)
    at = 0
    for row in range(blocks.shape[0]):
        scale = scales[blocks[row, 4]]
        for start in range(0, blocks[row, 2], CHUNK):
            n = load_chunk(values, residual, blocks[row], start, sums)
            num_bytes = -(-n // 8)
            for i in range(n):
                negative[i] = np.uint8(sums[i] < 0) & np.uint8(scale > 0)
            for i in range(n, 8 * num_bytes):
                negative[i] = 0
            if out is not None:
                o = out[blocks[row, out_column] + start : blocks[row, out_column] + start + n]
                for i in range(n):
                    o[i] = sums[i] + scale if negative[i] else sums[i] - scale
            for j in range(num_bytes):
                byte = np.uint8(0)
                for k in range(8):
                    byte |= negative[8 * j + k] << np.uint8(k)
                bits[at + j] = byte
            at += num_bytes


@jit
def sign_accumulate(
    bits: NDArray[np.uint8],
    scales: NDArray[np.float32],
    out: NDArray[np.float32],
    out_column: int,
    blocks: NDArray[np.int64],
) -> None:
    """Add scale, or -scale where the bit is 1, to `out`."""
    at = 0
    for row in range(blocks.shape[0]):
        scale = scales[blocks[row, 4]]
        n = blocks[row, 2]
        o, part = out[blocks[row, out_column] : blocks[row, out_column] + n], bits[at : at - (-n // 8)]
        for j in range(n // 8):
            for k in range(8):
                o[8 * j + k] += -scale if part[j] >> k & 1 else scale
        for i in range(n // 8 * 8, n):
            o[i] += -scale if part[i // 8] >> i % 8 & 1 else scale
        at += part.shape[0]
