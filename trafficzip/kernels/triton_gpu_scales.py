"""Peaks and scales of groups on a GPU: what must be known of a whole bucket before its codes are written.

Peaks are float bits compared as integers, so that a value that is not finite always wins, in any order of programs.
"""

import torch
import triton
import triton.language as tl

TERNARY = tl.constexpr(1)  # kinds are FORMAT.md's quantizer ids; what is none of these is a cast to float32
BFLOAT16 = tl.constexpr(3)
INT8 = tl.constexpr(4)
INT8_BLOCKS = tl.constexpr(7)
TILE_COLUMNS = tl.constexpr(6)  # value start, residual start, size, code byte, element within its group, first scale
_GROUP_COLUMNS = tl.constexpr(3)  # kind, byte of its scale in the message or -1, bits of the sparsity multiplier
FRAME_COLUMNS = tl.constexpr(5)  # start, byte of its first scale, index of its first scale, number of scales, kind
HEADER = tl.constexpr(24)
_MAGNITUDE = tl.constexpr(0x7FFFFFFF)
_LARGEST_BFLOAT16 = tl.constexpr(0x7F7F7FFF)  # bits; anything above rounds to infinity
_INFINITY = tl.constexpr(0x7F800000)
ROUNDER = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding and taking it away rounds to the nearest integer, ties to even
_GROUPS = 256  # per program


@triton.jit
def load_sum(values, residual, value_at, residual_at, mask, HAS_RESIDUAL: tl.constexpr):
    """Give values, and values + residual, as float32."""
    value = tl.load(values + value_at, mask=mask, other=0).to(tl.float32)
    total = value
    if HAS_RESIDUAL:
        total = value + tl.load(residual + residual_at, mask=mask, other=0.0)
    return value, total


@triton.jit
def upper_half(x):
    """Round finite float32 to bfloat16, to nearest, ties to even: uint32, its 16 bits."""
    bits = x.to(tl.uint32, bitcast=True)
    return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16


@triton.jit
def raise_peak(peaks, num_groups, group, value, total):
    """Raise a group's magnitude by those of `total`, and note whether one of `value` is not zero."""
    top = tl.max(total.to(tl.int32, bitcast=True) & _MAGNITUDE)
    spoken = tl.max(value.to(tl.int32, bitcast=True) & _MAGNITUDE)
    tl.atomic_max(peaks + group, top, sem="relaxed")
    tl.atomic_max(peaks + num_groups + group, spoken, sem="relaxed")


@triton.jit
def _group_peaks(
    values, residual, tiles, peaks, num_groups, TILE: tl.constexpr, HAS_RESIDUAL: tl.constexpr
):  # fmt: skip
    """One program a tile: raise the peak of its group."""
    row = tiles + tl.program_id(0).to(tl.int64) * TILE_COLUMNS
    element = tl.arange(0, TILE)
    mask = element < tl.load(row + 2)
    value_at, residual_at = tl.load(row) + element, tl.load(row + 1) + element
    value, total = load_sum(values, residual, value_at, residual_at, mask, HAS_RESIDUAL)
    raise_peak(peaks, num_groups, tl.load(row + 5), value, total)


@triton.jit
def _block_peaks(
    values, residual, tiles, peaks, num_groups,
    TILE: tl.constexpr, BLOCK: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
):  # fmt: skip
    """One program a tile of whole blocks, or of a part of one: raise the peaks of its blocks."""
    row = tiles + tl.program_id(0).to(tl.int64) * TILE_COLUMNS
    WIDTH: tl.constexpr = TILE if TILE < BLOCK else BLOCK
    block = tl.arange(0, TILE // WIDTH)
    element = block[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    size = tl.load(row + 2)
    mask = element < size
    value_at, residual_at = tl.load(row) + element, tl.load(row + 1) + element
    value, total = load_sum(values, residual, value_at, residual_at, mask, HAS_RESIDUAL)
    at = tl.load(row + 5) + (tl.load(row + 4) + block * WIDTH) // BLOCK
    inside = block * WIDTH < size
    tl.atomic_max(peaks + at, tl.max(total.to(tl.int32, bitcast=True) & _MAGNITUDE, axis=1), mask=inside, sem="relaxed")
    spoken = tl.max(value.to(tl.int32, bitcast=True) & _MAGNITUDE, axis=1)
    tl.atomic_max(peaks + num_groups + at, spoken, mask=inside, sem="relaxed")


@triton.jit
def _find_scales(
    peaks, groups, num_groups, scales, message, flag, verdict, frames, headers, num_frames,
    COUNT: tl.constexpr, HAS_VERDICT: tl.constexpr,
):  # fmt: skip
    """Turn peaks into scales, write those that are sent into the message, and flag what is not finite.

    The first programs also write a frame's header each, as it is where all is finite.
    """
    first = tl.program_id(0)
    if first < num_frames:
        byte = tl.arange(0, 32)
        template = tl.load(headers + first * 2 * HEADER + byte, mask=byte < HEADER, other=0)
        tl.store(message + tl.load(frames + first * FRAME_COLUMNS) + byte, template, mask=byte < HEADER)
    group = first * COUNT + tl.arange(0, COUNT)
    mask = group < num_groups
    row = groups + group.to(tl.int64) * _GROUP_COLUMNS
    kind = tl.load(row, mask=mask, other=0)
    place = tl.load(row + 1, mask=mask, other=-1)
    multiplier = tl.load(row + 2, mask=mask, other=0).to(tl.int32).to(tl.float32, bitcast=True)
    bits = tl.load(peaks + group, mask=mask, other=0)
    spoken = tl.load(peaks + num_groups + group, mask=mask, other=0) > 0
    bits = tl.where(spoken, bits, 0)
    peak = bits.to(tl.float32, bitcast=True)
    ternary = peak * multiplier
    is_ternary = kind == TERNARY
    is_int8 = (kind == INT8) | (kind == INT8_BLOCKS)
    step = tl.div_rn(peak, tl.full((COUNT,), 127.0, tl.float32))
    step = tl.where(step < 1.1754943508222875e-38, 0.0, step)  # the smallest normal number
    scale = tl.where(is_ternary, ternary, tl.where(is_int8, step, peak))
    most = tl.where(is_int8, step * 127.0, scale)
    limit = tl.where(kind == BFLOAT16, _LARGEST_BFLOAT16, _INFINITY - 1)
    beyond = (most.to(tl.int32, bitcast=True) > limit) | (bits >= _INFINITY)
    bad = tl.max(tl.where(mask & beyond, 1, 0))
    if HAS_VERDICT:
        bad = tl.maximum(bad, tl.where(tl.load(verdict) > 0, 1, 0))
    tl.atomic_max(flag, bad, sem="relaxed")
    tl.store(scales + group, scale, mask=mask)
    sent = mask & (place >= 0)
    word = scale.to(tl.int32, bitcast=True)
    for k in tl.static_range(4):
        tl.store(message + place + k, ((word >> (8 * k)) & 255).to(tl.uint8), mask=sent)


def group_peaks(
    values: torch.Tensor, residual: torch.Tensor | None, tiles: torch.Tensor, peaks: torch.Tensor, *, tile: int
) -> None:
    """Raise the peaks of groups: bits of max |value + residual|, and of max |value|.

    values: float32, bfloat16 or float16 [any].  residual: float32 [any].
    tiles: int64 [tiles, 6], each of at most `tile` elements.  peaks: int32 [2, groups], zero or from other tiles.
    """
    if tiles.shape[0]:
        size = triton.next_power_of_2(tile)
        kept = values if residual is None else residual
        _group_peaks[(tiles.shape[0],)](
            values, kept, tiles, peaks, peaks.shape[1], TILE=size, HAS_RESIDUAL=residual is not None, num_warps=4
        )


def block_peaks(
    values: torch.Tensor,
    residual: torch.Tensor | None,
    tiles: torch.Tensor,
    peaks: torch.Tensor,
    *,
    tile: int,
    block: int,
) -> None:
    """Raise the peaks of blocks of `block` elements of each group; `tile` is a power of two."""
    if tiles.shape[0]:
        kept = values if residual is None else residual
        _block_peaks[(tiles.shape[0],)](
            values, kept, tiles, peaks, peaks.shape[1],
            TILE=tile, BLOCK=block, HAS_RESIDUAL=residual is not None, num_warps=4,
        )  # fmt: skip


def find_scales(
    peaks: torch.Tensor,
    groups: torch.Tensor,
    scales: torch.Tensor,
    message: torch.Tensor,
    flag: torch.Tensor,
    frames: torch.Tensor,
    headers: torch.Tensor,
    verdict: torch.Tensor | None = None,
) -> None:
    """Give the scale of each group, float32 [groups], as its quantizer's `find_scales` does, also into the message.

    Headers are written too, as `triton_gpu_messages.finish` has them, without checksums.

    peaks: int32 [2, groups].  groups: int64 [groups, 3]: kind, byte in the message or -1, bits of the multiplier.
    flag: int32 [1], becomes 1 where an input is not finite, or would not be when decoded, or where `verdict` is not 0.
    """
    count = groups.shape[0]
    if count or frames.shape[0]:
        _find_scales[(max(triton.cdiv(count, _GROUPS), frames.shape[0]),)](
            peaks, groups, count, scales, message, flag, flag if verdict is None else verdict,
            frames, headers, frames.shape[0],
            COUNT=_GROUPS, HAS_VERDICT=verdict is not None, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
