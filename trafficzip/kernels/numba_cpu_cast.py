"""Compiled casts and 8-bit quantization of small or delicate tensors. Blocks are laid out as in numba_cpu_ternary."""

import numpy as np
from numpy.typing import NDArray

from trafficzip.kernels.numba_cpu_jit import float_bits, float_from_bits, jit

_CHUNK = 2048  # elements whose sums stay in the first-level cache


@jit
def cast_bfloat16(
    values: NDArray[np.float32],
    residual: NDArray[np.float32] | None,
    out: NDArray[np.float32] | None,
    out_column: int,
    blocks: NDArray[np.int64],
    peaks: NDArray[np.float32],
    codes: NDArray[np.uint16],
) -> None:
    """Round value + residual to bfloat16, ties to even, and write what is lost to `out`; silent groups send zeros."""
    at = 0
    for row in range(blocks.shape[0]):
        silent = peaks[blocks[row, 4]] == 0
        for i in range(blocks[row, 2]):
            x = values[blocks[row, 0] + i]
            if residual is not None:
                x += residual[blocks[row, 1] + i]
            bits = np.uint32(float_bits(x))
            code = np.uint32(0) if silent else np.uint32(bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) >> 16
            codes[at + i] = code
            if out is not None:
                out[blocks[row, out_column] + i] = x - float_from_bits(np.uint32(code << 16))
        at += blocks[row, 2]


@jit
def cast_float32(
    values: NDArray[np.float32],
    residual: NDArray[np.float32] | None,
    out: NDArray[np.float32] | None,
    out_column: int,
    blocks: NDArray[np.int64],
    peaks: NDArray[np.float32],
    codes: NDArray[np.float32],
) -> None:
    """Copy value + residual; nothing is lost, but silent groups send zeros and keep their residual."""
    at = 0
    for row in range(blocks.shape[0]):
        silent = peaks[blocks[row, 4]] == 0
        for i in range(blocks[row, 2]):
            x = values[blocks[row, 0] + i]
            if residual is not None:
                x += residual[blocks[row, 1] + i]
            codes[at + i] = np.float32(0) if silent else x
            if out is not None:
                out[blocks[row, out_column] + i] = x - codes[at + i]
        at += blocks[row, 2]


@jit
def bfloat16_accumulate(
    codes: NDArray[np.uint16], sign: np.float32, out: NDArray[np.float32], out_column: int, blocks: NDArray[np.int64]
) -> None:
    """Add sign * decoded value to `out`."""
    at = 0
    for row in range(blocks.shape[0]):
        for i in range(blocks[row, 2]):
            out[blocks[row, out_column] + i] += sign * float_from_bits(np.uint32(codes[at + i]) << np.uint32(16))
        at += blocks[row, 2]


@jit
def float32_accumulate(
    codes: NDArray[np.float32], sign: np.float32, out: NDArray[np.float32], out_column: int, blocks: NDArray[np.int64]
) -> None:
    """Add sign * value to `out`."""
    at = 0
    for row in range(blocks.shape[0]):
        for i in range(blocks[row, 2]):
            out[blocks[row, out_column] + i] += sign * codes[at + i]
        at += blocks[row, 2]


@jit
def quantize_int8(
    values: NDArray[np.float32],
    residual: NDArray[np.float32] | None,
    out: NDArray[np.float32] | None,
    out_column: int,
    blocks: NDArray[np.int64],
    scales: NDArray[np.float32],
    codes: NDArray[np.int8],
) -> None:
    """Round (value + residual) / scale to the nearest integer, ties to even, and write what is lost to `out`."""
    sums = np.empty(_CHUNK, np.float32)  # apart from the inputs, or the compiler must assume that `out` overlaps them
    rounded = np.empty(_CHUNK, np.float32)
    at = 0
    for row in range(blocks.shape[0]):
        scale = scales[blocks[row, 4]]
        for start in range(0, blocks[row, 2], _CHUNK):
            n = min(_CHUNK, blocks[row, 2] - start)
            v = values[blocks[row, 0] + start : blocks[row, 0] + start + n]
            if residual is None:
                for i in range(n):
                    sums[i] = v[i]
            else:
                r = residual[blocks[row, 1] + start : blocks[row, 1] + start + n]
                for i in range(n):
                    sums[i] = v[i] + r[i]
            if scale > 0:
                for i in range(n):
                    rounded[i] = min(max(np.rint(sums[i] / scale), np.float32(-127)), np.float32(127))
            else:
                rounded[:n] = 0
            for i in range(n):
                codes[at + i] = np.int8(rounded[i])
            if out is not None:
                o = out[blocks[row, out_column] + start : blocks[row, out_column] + start + n]
                for i in range(n):
                    o[i] = sums[i] - scale * rounded[i]
            at += n


@jit
def int8_accumulate(
    codes: NDArray[np.int8],
    scales: NDArray[np.float32],
    out: NDArray[np.float32],
    out_column: int,
    blocks: NDArray[np.int64],
) -> None:
    """Add scale * code to `out`."""
    at = 0
    for row in range(blocks.shape[0]):
        scale = scales[blocks[row, 4]]
        for i in range(blocks[row, 2]):
            out[blocks[row, out_column] + i] += scale * np.float32(codes[at + i])
        at += blocks[row, 2]
