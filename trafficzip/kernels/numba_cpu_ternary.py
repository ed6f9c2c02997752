"""Compiled ternary quantization, with quartic packing in the same pass, and decoding that adds into the output.

All kernels walk rows of a block table, int64 [blocks, 5]: value start, residual start, size, symbol start, group.
Blocks are independent, so any split of the rows over threads gives the same bytes.
"""

import numpy as np
from numpy.typing import NDArray

from trafficzip.kernels.numba_cpu_jit import float_bits, jit

_MAGNITUDE = np.int32(0x7FFFFFFF)
_CHUNK = 2560  # codes packed at a time: 512 bytes out, and all of it stays in the first-level cache


@jit
def block_peaks(
    values: NDArray[np.float32],
    residual: NDArray[np.float32] | None,
    blocks: NDArray[np.int64],
    peaks: NDArray[np.int32],
) -> None:
    """Write, per block, the bits of max |value + residual|, with the sign bit set where all its values are zero.

    Float bits are compared as integers, so an infinity or NaN always wins. The magnitude of a block of zeros is there
    all the same, for groups that have other blocks.
    """
    for row in range(blocks.shape[0]):
        size = blocks[row, 2]
        value = values[blocks[row, 0] : blocks[row, 0] + size]
        top = np.int32(0)
        seen = np.int32(0)
        if residual is None:
            for i in range(size):
                top = max(top, float_bits(value[i]) & _MAGNITUDE)
            seen = top
        else:
            kept = residual[blocks[row, 1] : blocks[row, 1] + size]
            for i in range(size):
                seen |= float_bits(value[i])
                top = max(top, float_bits(value[i] + kept[i]) & _MAGNITUDE)
        peaks[row] = top if seen & _MAGNITUDE else top | ~_MAGNITUDE


@jit
def ternary_quartic(
    values: NDArray[np.float32],
    residual: NDArray[np.float32] | None,
    out: NDArray[np.float32] | None,
    out_column: int,
    blocks: NDArray[np.int64],
    scales: NDArray[np.float32],
    symbols: NDArray[np.uint8],
) -> None:
    """Ternarize value + residual with its group's scale, write what is lost to `out`, and pack five codes in a byte.

    `out` is laid out like `values` (out_column 0) or like `residual` (out_column 1), and may be either of them.
    """
    sums = np.empty(_CHUNK, np.float32)  # apart from the inputs, or the compiler must assume that `out` overlaps them
    digits = np.empty(_CHUNK, np.uint8)
    for row in range(blocks.shape[0] - 1, -1, -1):  # backwards: what the search for peaks read last is still cached
        scale = scales[blocks[row, 4]]
        half = scale * np.float32(0.5) if scale > 0 else np.float32(np.inf)  # a silent group sends nothing
        size = blocks[row, 2]
        for start in range(0, size, _CHUNK):
            n = min(_CHUNK, size - start)
            v = values[blocks[row, 0] + start : blocks[row, 0] + start + n]
            if residual is None:
                for i in range(n):
                    sums[i] = v[i]
            else:
                r = residual[blocks[row, 1] + start : blocks[row, 1] + start + n]
                for i in range(n):
                    sums[i] = v[i] + r[i]
            for i in range(n):
                digits[i] = np.uint8(1) + np.uint8(sums[i] > half) - np.uint8(sums[i] < -half)
            if out is not None:
                o = out[blocks[row, out_column] + start : blocks[row, out_column] + start + n]
                for i in range(n):
                    x = sums[i]
                    o[i] = x - (scale if x > half else (-scale if x < -half else np.float32(0)))
            padded = -(-n // 5)
            for i in range(n, 5 * padded):
                digits[i] = 1
            first = blocks[row, 3] + start // 5
            packed = symbols[first : first + padded]
            for j in range(padded):
                high = np.uint8(81) * digits[5 * j] + np.uint8(27) * digits[5 * j + 1] + np.uint8(9) * digits[5 * j + 2]
                packed[j] = high + np.uint8(3) * digits[5 * j + 3] + digits[5 * j + 4]


@jit
def quartic_digits(packed: NDArray[np.uint8], table: NDArray[np.uint64], words: NDArray[np.uint64]) -> None:
    """Unpack quartic bytes into digits (code + 1), eight bytes into five words of eight digits each.

    table: uint64 [256], the five digits of a byte in its low 40 bits, first digit lowest. The last, partial eight is
    unpacked as if zero bytes followed; `words` has room for it.
    """
    a, b, c, d = np.uint64(40), np.uint64(24), np.uint64(16), np.uint64(56)
    e, f, g = np.uint64(8), np.uint64(32), np.uint64(48)
    whole = packed.shape[0] // 8
    for j in range(whole):
        t1, t3, t4 = table[packed[8 * j + 1]], table[packed[8 * j + 3]], table[packed[8 * j + 4]]
        t6 = table[packed[8 * j + 6]]
        words[5 * j] = table[packed[8 * j]] | t1 << a
        words[5 * j + 1] = t1 >> b | table[packed[8 * j + 2]] << c | t3 << d
        words[5 * j + 2] = t3 >> e | t4 << f
        words[5 * j + 3] = t4 >> f | table[packed[8 * j + 5]] << e | t6 << g
        words[5 * j + 4] = t6 >> c | table[packed[8 * j + 7]] << b
    digits = words.view(np.uint8)
    for j in range(8 * whole, packed.shape[0]):
        for k in range(5):
            digits[5 * j + k] = table[packed[j]] >> np.uint64(8 * k)


@jit
def quartic_accumulate(
    symbols: NDArray[np.uint8],
    scales: NDArray[np.float32],
    out: NDArray[np.float32],
    out_column: int,
    blocks: NDArray[np.int64],
    table: NDArray[np.uint64],
) -> None:
    """Add scale x code to `out` from quartic bytes, all below 243.

    `out` is laid out like the values (out_column 0) or like the residual (out_column 1).
    """
    words = np.empty(_CHUNK // 8, np.uint64)
    digits = words.view(np.uint8)
    for row in range(blocks.shape[0]):
        scale = scales[blocks[row, 4]]
        if scale == 0:
            continue
        size = blocks[row, 2]
        for start in range(0, size, _CHUNK):
            n = min(_CHUNK, size - start)
            first = blocks[row, 3] + start // 5
            quartic_digits(symbols[first : first - (-n // 5)], table, words)
            o = out[blocks[row, out_column] + start : blocks[row, out_column] + start + n]
            for i in range(n):
                o[i] += scale * (np.float32(digits[i]) - np.float32(1))


@jit
def quartic_pack(codes: NDArray[np.int8], symbols: NDArray[np.uint8]) -> bool:
    """Pack five consecutive codes into each byte; missing codes count as 0. False if a code is not -1, 0 or 1."""
    top = np.uint8(0)
    for i in range(codes.shape[0]):
        top = max(top, np.uint8(codes[i] + 1))
    if top > 2:
        return False
    for j in range(codes.shape[0] // 5):
        high = 81 * codes[5 * j] + 27 * codes[5 * j + 1] + 9 * codes[5 * j + 2]
        symbols[j] = 121 + high + 3 * codes[5 * j + 3] + codes[5 * j + 4]
    for j in range(codes.shape[0] // 5, symbols.shape[0]):
        byte = 121
        weight = 81
        for i in range(5 * j, codes.shape[0]):
            byte += weight * codes[i]
            weight //= 3
        symbols[j] = byte
    return True
