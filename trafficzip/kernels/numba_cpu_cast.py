"""Compiled casts and 8-bit quantization of small or delicate tensors. Blocks are laid out as in numba_cpu_ternary."""

import numpy as np
from numpy.typing import NDArray

from trafficzip.kernels.numba_cpu_chunk import CHUNK, load_chunk
from trafficzip.kernels.numba_cpu_jit import float_bits, float_from_bits, jit


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
    sums = np.empty(CHUNK, np.float32)
    at = 0
    for row in range(blocks.shape[0]):
        mask = np.uint32(0 if peaks[blocks[row, 4]] == 0 else 0xFFFFFFFF)
        for start in range(0, blocks[row, 2], CHUNK):
            n = load_chunk(values, residual, blocks[row], start, sums)
            part = codes[at : at + n]
            for i in range(n):
                bits = np.uint32(float_bits(sums[i]))
                code = np.uint32(bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
                part[i] = code & mask
                sums[i] -= float_from_bits(np.uint32((code & mask) << np.uint32(16)))
            if out is not None:
                o = out[blocks[row, out_column] + start : blocks[row, out_column] + start + n]
                for i in range(n):
                    o[i] = sums[i]
            at += n


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
    sums = np.empty(CHUNK, np.float32)
    at = 0
    for row in range(blocks.shape[0]):
        silent = peaks[blocks[row, 4]] == 0
        for start in range(0, blocks[row, 2], CHUNK):
            n = load_chunk(values, residual, blocks[row], start, sums)
            part = codes[at : at + n]
            for i in range(n):
                part[i] = np.float32(0) if silent else sums[i]
            if out is not None:
                o = out[blocks[row, out_column] + start : blocks[row, out_column] + start + n]
                for i in range(n):
                    o[i] = sums[i] if silent else np.float32(0)
            at += n


@jit
def bfloat16_accumulate(
    codes: NDArray[np.uint16], sign: np.float32, out: NDArray[np.float32], out_column: int, blocks: NDArray[np.int64]
) -> None:
    """Add sign * decoded value to `out`."""
    at = 0
    for row in range(blocks.shape[0]):
        n = blocks[row, 2]
        o, part = out[blocks[row, out_column] : blocks[row, out_column] + n], codes[at : at + n]
        for i in range(n):
            o[i] += sign * float_from_bits(np.uint32(part[i]) << np.uint32(16))
        at += n


@jit
def float32_accumulate(
    codes: NDArray[np.float32], sign: np.float32, out: NDArray[np.float32], out_column: int, blocks: NDArray[np.int64]
) -> None:
    """Add sign * value to `out`."""
    at = 0
    for row in range(blocks.shape[0]):
        n = blocks[row, 2]
        o, part = out[blocks[row, out_column] : blocks[row, out_column] + n], codes[at : at + n]
        for i in range(n):
            o[i] += sign * part[i]
        at += n


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
    sums = np.empty(CHUNK, np.float32)
    rounded = np.empty(CHUNK, np.float32)
    at = 0
    for row in range(blocks.shape[0]):
        scale = scales[blocks[row, 4]]
        for start in range(0, blocks[row, 2], CHUNK):
            n = load_chunk(values, residual, blocks[row], start, sums)
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
        n = blocks[row, 2]
        o, part = out[blocks[row, out_column] : blocks[row, out_column] + n], codes[at : at + n]
        for i in range(n):
            o[i] += scale * np.float32(part[i])
        at += n
