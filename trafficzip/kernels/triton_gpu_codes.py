"""Codes of all quantizers on a GPU, written in the pass that makes them, with what they lose.

A program walks one tile: up to 15 ROWS elements of one group. It lies in registers as [ROWS, 16] with the last column
idle, so that loads are contiguous, the three quartic bytes of a row are one sum over its columns, and no byte spans
two programs.
"""

import torch
import triton
import triton.language as tl

from trafficzip.kernels.triton_gpu_scales import (
    BFLOAT16,
    INT8,
    INT8_BLOCKS,
    ROUNDER,
    TERNARY,
    TILE_COLUMNS,
    load_sum,
    upper_half,
)


@triton.jit
def _weight(column):
    """Give the weight of a column's digit in its quartic byte."""
    place = column % 5
    return tl.where(place == 0, 81, tl.where(place == 1, 27, tl.where(place == 2, 9, tl.where(place == 3, 3, 1))))


@triton.jit
def _quantize(
    values, residual, out, tiles, scales, flag, codes,
    ROWS: tl.constexpr, KIND: tl.constexpr, HAS_RESIDUAL: tl.constexpr, OUT_COLUMN: tl.constexpr,
    LOG2_BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the codes of a tile and what they lose; where the flag is set, zero bytes and nothing."""
    tile = tiles + tl.program_id(0).to(tl.int64) * TILE_COLUMNS
    line = tl.arange(0, ROWS)
    column = tl.arange(0, 16)[None, :]
    element = line[:, None] * 15 + column
    size = tl.load(tile + 2).to(tl.int32)
    mask = (column < 15) & (element < size)
    value_start, residual_start, place = tl.load(tile), tl.load(tile + 1), tl.load(tile + 3)
    _, x = load_sum(values, residual, value_start + element, residual_start + element, mask, HAS_RESIDUAL)
    if LOG2_BLOCK == 0:
        scale = tl.load(scales + tl.load(tile + 5))
    else:
        scale = tl.load(
            scales + tl.load(tile + 5) + ((tl.load(tile + 4) + element) >> LOG2_BLOCK), mask=mask, other=0.0
        )
    fine = tl.load(flag) == 0
    at = codes + place
    if KIND == TERNARY:
        half = tl.where(scale > 0, scale * 0.5, float("inf"))
        above = x > half
        below = x < -half
        lost = x - tl.where(above, scale, tl.where(below, -scale, 0.0))
        digit = tl.where(above, 2, tl.where(below, 0, 1))
        part = tl.where(column < 15, digit * _weight(column), 0) << (8 * (column // 5))
        word = tl.where(fine, tl.sum(part, axis=1), 0)
        for k in tl.static_range(3):
            byte = line * 3 + k
            tl.store(at + byte, ((word >> (8 * k)) & 255).to(tl.uint8), mask=byte * 5 < size)
    elif KIND == INT8 or KIND == INT8_BLOCKS:  # noqa: SIM109 (the compiler knows no `in`)
        quotient = tl.where(scale > 0, tl.div_rn(x, tl.where(scale > 0, scale, 1.0) + tl.zeros_like(x)), 0.0)
        quotient = tl.minimum(tl.maximum(quotient, -127.0), 127.0)
        rounded = (quotient + ROUNDER) - ROUNDER
        rounded = tl.where(rounded == 0, quotient * 0.0, rounded)  # keeps the sign of a zero
        lost = x - scale * rounded
        code = tl.where(fine, rounded.to(tl.int32) & 255, 0)
        tl.store(at + element, code.to(tl.uint8), mask=mask)
    elif KIND == BFLOAT16:
        bits = tl.where(scale > 0, upper_half(x), 0)  # here the scale is the peak: silent groups send zeros
        lost = x - (bits << 16).to(tl.float32, bitcast=True)
        bits = tl.where(fine, bits, 0)
        tl.store(at + 2 * element, (bits & 255).to(tl.uint8), mask=mask)
        tl.store(at + 2 * element + 1, (bits >> 8).to(tl.uint8), mask=mask)
    else:
        sent = tl.where(scale > 0, x, 0.0)
        lost = x - sent
        bits = tl.where(fine, sent.to(tl.uint32, bitcast=True), 0)
        for k in tl.static_range(4):
            tl.store(at + 4 * element + k, ((bits >> (8 * k)) & 255).to(tl.uint8), mask=mask)
    if OUT_COLUMN >= 0:
        start = value_start if OUT_COLUMN == 0 else residual_start
        tl.store(out + start + element, lost.to(out.dtype.element_ty), mask=mask & fine)


def quantize(
    values: torch.Tensor,
    residual: torch.Tensor | None,
    out: torch.Tensor | None,
    tiles: torch.Tensor,
    scales: torch.Tensor,
    flag: torch.Tensor,
    codes: torch.Tensor,
    *,
    kind: int,
    rows: int,
    out_like_residual: bool,
    block: int = 1,
) -> None:
    """Quantize value + residual, write codes to their bytes of `codes`, and what is lost to `out`.

    values: float32, bfloat16 or float16 [any].  residual, out: float32 [any]; `out` may be either of the others.
    tiles: int64 [tiles, 6], each of at most 15 rows elements.  scales: float32 [scales].  codes: uint8 [bytes].
    flag: int32 [1]; where it is not 0 the codes are zero bytes and `out` stays.
    block: elements that share a scale, for blockwise quantization.
    """
    if tiles.shape[0]:
        _quantize[(tiles.shape[0],)](
            values, values if residual is None else residual, values if out is None else out,
            tiles, scales, flag, codes,
            ROWS=rows, KIND=kind, HAS_RESIDUAL=residual is not None,
            OUT_COLUMN=-1 if out is None else int(out_like_residual), LOG2_BLOCK=block.bit_length() - 1,
            num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
