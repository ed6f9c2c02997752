"""Decoding on a GPU: the codes of several frames added up in one pass, and an owner's sum made ready to be quantized.

A program walks one tile of one group. Quartic bytes lie one to a thread, whose five sums are then spread over the
threads so that what is written is contiguous.
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
    raise_peak,
    upper_half,
)


@triton.jit
def _third(number):
    """Divide integers in float32, of at most 121, by three, to the nearest; what is left is a code: -1, 0 or 1."""
    third = tl.fma(number, 0.3333333432674408, ROUNDER) - ROUNDER
    return third, tl.fma(third, -3.0, number)


@triton.jit
def _spread(a, b, c, d, e, SYMBOLS: tl.constexpr):
    """Lay five values a thread side by side: [SYMBOLS, 8], of which three columns are idle."""
    idle = tl.zeros((SYMBOLS,), tl.float32)
    even = tl.join(tl.join(a, e), tl.join(c, idle))
    odd = tl.join(tl.join(b, idle), tl.join(d, idle))
    return tl.reshape(tl.join(even, odd), (SYMBOLS, 8))


@triton.jit
def _average(total, divisor, DIVIDE: tl.constexpr, INVERTED: tl.constexpr):
    """Divide once; by a power of two, whose inverse `divisor` then is, with one product, which is the quotient."""
    if INVERTED:
        total *= divisor
    elif DIVIDE:
        total = tl.div_rn(total, tl.zeros_like(total) + divisor)
    return total


@triton.jit
def _write(
    total, element, mask, state, residual, out, tile, peaks, num_scales,
    OUT_COLUMN: tl.constexpr, OWNER: tl.constexpr,
):  # fmt: skip
    """Write a tile, for an owner with its residual and noting peaks; NaN or nothing where so judged."""
    total = tl.where(state == 1, float("nan"), total)
    if OWNER:
        value = tl.where(mask, total, 0.0)
        total = value + tl.load(residual + tl.load(tile + 1) + element, mask=mask, other=0.0)
        raise_peak(peaks, num_scales, tl.load(tile + 5), value, total)
    if out.dtype.element_ty == tl.bfloat16:  # before the conversion, which in the interpreter cuts off
        rounded = (upper_half(total) << 16).to(tl.float32, bitcast=True)
        total = tl.where(total == total, rounded, total)  # what is NaN stays NaN
    place = out + (tl.load(tile + 1) if OUT_COLUMN == 1 else tl.load(tile)) + element
    tl.store(place, total.to(out.dtype.element_ty), mask=mask & (state < 2))


@triton.jit
def _accumulate_quartic(
    codes, stride, scales, num_scales, num_frames, divisor, residual, out, tiles, verdict, peaks,
    SYMBOLS: tl.constexpr, OUT_COLUMN: tl.constexpr, DIVIDE: tl.constexpr, INVERTED: tl.constexpr, OWNER: tl.constexpr,
):  # fmt: skip
    """Add scale * code of every frame in turn; products are exact, so fused ones round as two operations would."""
    tile = tiles + tl.program_id(0).to(tl.int64) * TILE_COLUMNS
    size = tl.load(tile + 2).to(tl.int32)
    line = tl.arange(0, SYMBOLS)
    inside = line * 5 < size
    at = codes + tl.load(tile + 3) + line
    scale_at = scales + tl.load(tile + 5)
    a = tl.zeros((SYMBOLS,), tl.float32)
    b, c, d, e = a, a, a, a
    for _ in range(num_frames):
        symbol = tl.load(at, mask=inside, other=121).to(tl.uint32)
        scale = tl.load(scale_at)
        # A byte less 121 is a number in balanced ternary. Floats, since a GPU has twice as many units for them.
        number = (symbol | 0x4B000000).to(tl.float32, bitcast=True) - 8388729.0  # 2^23 + 121
        number, code = _third(number)
        e = tl.fma(scale, code, e)
        number, code = _third(number)
        d = tl.fma(scale, code, d)
        number, code = _third(number)
        c = tl.fma(scale, code, c)
        number, code = _third(number)
        b = tl.fma(scale, code, b)
        a = tl.fma(scale, number, a)
        at += stride
        scale_at += num_scales
    total = _average(_spread(a, b, c, d, e, SYMBOLS), divisor, DIVIDE, INVERTED)
    column = tl.arange(0, 8)[None, :]
    element = line[:, None] * 5 + column
    mask = (column < 5) & (element < size)
    _write(total, element, mask, tl.load(verdict), residual, out, tile, peaks, num_scales, OUT_COLUMN, OWNER)


@triton.jit
def _accumulate_plain(
    codes, stride, scales, num_scales, num_frames, divisor, residual, out, tiles, verdict, peaks,
    TILE: tl.constexpr, KIND: tl.constexpr, LOG2_BLOCK: tl.constexpr,
    OUT_COLUMN: tl.constexpr, DIVIDE: tl.constexpr, INVERTED: tl.constexpr, OWNER: tl.constexpr,
):  # fmt: skip
    """Add the values of every frame in turn, for codes of one, two or four bytes."""
    tile = tiles + tl.program_id(0).to(tl.int64) * TILE_COLUMNS
    element = tl.arange(0, TILE)
    mask = element < tl.load(tile + 2)
    at = codes + tl.load(tile + 3)
    scale_at = scales + tl.load(tile + 5)
    total = tl.zeros((TILE,), tl.float32)
    for _ in range(num_frames):
        if KIND == INT8 or KIND == INT8_BLOCKS:  # noqa: SIM109 (the compiler knows no `in`)
            if LOG2_BLOCK == 0:
                scale = tl.load(scale_at)
            else:
                scale = tl.load(scale_at + ((tl.load(tile + 4) + element) >> LOG2_BLOCK), mask=mask, other=0.0)
            code = tl.load(at + element, mask=mask, other=0).to(tl.int8, bitcast=True)
            total += scale * code.to(tl.float32)
        elif KIND == BFLOAT16:
            low = tl.load(at + 2 * element, mask=mask, other=0).to(tl.uint32)
            high = tl.load(at + 2 * element + 1, mask=mask, other=0).to(tl.uint32)
            total += ((low << 16) | (high << 24)).to(tl.float32, bitcast=True)
        else:
            bits = tl.zeros((TILE,), tl.uint32)
            for k in tl.static_range(4):
                bits |= tl.load(at + 4 * element + k, mask=mask, other=0).to(tl.uint32) << (8 * k)
            total += bits.to(tl.float32, bitcast=True)
        at += stride
        scale_at += num_scales
    total = _average(total, divisor, DIVIDE, INVERTED)
    _write(total, element, mask, tl.load(verdict), residual, out, tile, peaks, num_scales, OUT_COLUMN, OWNER)


def accumulate(
    codes: torch.Tensor,
    scales: torch.Tensor,
    out: torch.Tensor,
    tiles: torch.Tensor,
    verdict: torch.Tensor,
    *,
    kind: int,
    tile: int,
    stride: int = 0,
    out_like_residual: bool = False,
    divisor: int = 1,
    residual: torch.Tensor | None = None,
    peaks: torch.Tensor | None = None,
    block: int = 1,
) -> None:
    """Sum the decoded values of frames, in order, from +0, as two roundings each, and divide once.

    codes: uint8; the codes of frame r lie r * stride bytes behind those of frame 0.
    scales: float32 [frames, scales].  out: float32, bfloat16 or float16 [any].
    tiles: int64 [tiles, 6], each of at most `tile` elements, a power of two, or five times one for quartic bytes.
    verdict: int32 [1]: 0 as described; 1, `out` becomes NaN; 2, it stays.
    residual, peaks: for an owner, float32 [any] added to the mean, and int32 [2, scales] raised as by `group_peaks`.
    """
    if not tiles.shape[0]:
        return
    inverted = divisor > 1 and divisor & (divisor - 1) == 0
    arguments = (
        codes, stride, scales, scales.shape[1], scales.shape[0], 1 / divisor if inverted else float(divisor),
        out if residual is None else residual, out, tiles, verdict, verdict if peaks is None else peaks,
    )  # fmt: skip
    if kind == TERNARY.value:
        _accumulate_quartic[(tiles.shape[0],)](
            *arguments, SYMBOLS=tile // 5, OUT_COLUMN=int(out_like_residual), DIVIDE=divisor != 1, INVERTED=inverted,
            OWNER=peaks is not None, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
    else:
        _accumulate_plain[(tiles.shape[0],)](
            *arguments, TILE=tile, KIND=kind, LOG2_BLOCK=block.bit_length() - 1, OUT_COLUMN=int(out_like_residual),
            DIVIDE=divisor != 1, INVERTED=inverted, OWNER=peaks is not None, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
