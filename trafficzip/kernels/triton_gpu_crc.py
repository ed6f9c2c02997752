"""CRC-32 of frames that lie on a GPU, all copies of a layout in one launch, and checks of payload bytes.

Polynomials over GF(2) modulo P, the polynomial of CRC-32. Words are reflected: the highest bit of a word of b bits is
the coefficient of 1, the lowest that of x^(b-1), so that bytes of a message are read as they lie. A checksum is linear
in the message but for two constants: each program adds what its bytes contribute, in any order.
"""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray

from trafficzip.errors import ConfigError
from trafficzip.kernels import numba_cpu_crc
from trafficzip.kernels.crc_powers import powers
from trafficzip.kernels.segments import Segments
from trafficzip.kernels.triton_gpu import on_device

HEADER_BYTES = 24
SUMMED_BYTES = 20  # of the header: all but the checksum itself
ROW_BYTES = 2048  # 16 bytes of each of 128 lanes
TILE_BYTES = 8 * ROW_BYTES
SLACK_BYTES = 8  # a program reads up to 7 bytes behind its own: its rows end at a multiple of 8

# Sparse polynomials, found by search, given by their exponents: a product with one is a few shifts.
LANES = tl.constexpr(128)
ROW_HIGH = tl.constexpr((0, 9, 11, 18, 20, 28, 32, 35, 60))  # x^(128 LANES + 64) mod P, none above 64
ROW_LOW = tl.constexpr((2, 25, 26, 40, 46, 50, 56, 64))  # x^(128 LANES) mod P, none above 64
FOLD_96 = tl.constexpr((11, 14, 17, 24, 28, 50, 52, 59))  # x^96 mod P, none above 64
FOLD_64 = tl.constexpr((0, 2, 3, 7, 8, 9, 10, 13, 14, 16, 18, 19, 24, 27, 30))  # x^64 mod P, none above 32
FOLD_32 = tl.constexpr(tuple(powers(np.arange(63, 31, -1)).tolist()))  # words: x^63 .. x^32 mod P


def crc_tiles(frames: Sequence[tuple[int, int, int, int]], *, tile: int = TILE_BYTES) -> NDArray[np.int64]:
    """Cut frames into the tiles that the programs of one launch take; callers keep the table for frame_crcs.

    frames: start in the buffer; size, header included; start of the payload in the buffer; what the payload's bytes
        may be: 0 anything, 1 at most 242, 2 not 128.
    tile: bytes that a program reads, a multiple of ROW_BYTES.
    Returns: int64 [tiles, 6]: first byte, end, frame, power of x behind the end, constant of the checksum, kind.

    Raises:
        ConfigError: a frame shorter than its header, a payload outside its frame, an unknown kind, or another `tile`.
    """
    if tile <= 0 or tile % ROW_BYTES:
        raise ConfigError(f"tile must be a positive multiple of {ROW_BYTES}, got {tile}")
    parts = []
    for number, (start, size, payload, kind) in enumerate(frames):
        body, end = start + HEADER_BYTES, start + size
        if not (start >= 0 and size >= HEADER_BYTES and body <= payload <= end and kind in (0, 1, 2)):
            raise ConfigError(f"frame {number} at byte {start}: {size} bytes, payload at {payload}, kind {kind}")
        # Tiles end where the checks begin, so that each is checked as a whole or not at all.
        cut = payload if kind else body
        parts.append((start, start + SUMMED_BYTES, number, 0, end))
        parts += [(body, cut, number, 0, end), (cut, end, number, kind, end)]
    part_start, part_end, frame, kinds, frame_end = np.array(parts, np.int64).reshape(-1, 5).T
    pieces = Segments(part_start.tolist(), (part_end - part_start).tolist()).tiles(tile - SLACK_BYTES)
    first, part = pieces[:, 0], pieces[:, 2]
    last = first + pieces[:, 1]
    is_header = part % 3 == 0
    behind = frame_end[part] - last - np.where(is_header, HEADER_BYTES - SUMMED_BYTES, 0)
    factors, constants = np.empty(len(part), np.uint32), np.zeros(len(part), np.uint32)
    numba_cpu_crc.powers(8 * behind, power_table(), factors)
    zero_crcs = np.empty(len(frames), np.uint32)  # of a frame of zeros: what a checksum has beside the linear part
    numba_cpu_crc.zero_crcs(behind[is_header] + SUMMED_BYTES, power_table(), zero_crcs)
    constants[is_header] = zero_crcs
    columns = (first, last, frame[part], factors, constants, kinds[part])
    return np.array(columns, np.int64).reshape(6, -1).T.copy()


@cache
def power_table() -> NDArray[np.uint32]:
    """Give x^(d 256^k) modulo P: uint32 [4, 256], k and d."""
    return powers(256 ** np.arange(4, dtype=np.int64)[:, None] * np.arange(256))


@cache
def lane_weights(device: torch.device) -> torch.Tensor:
    """Give each lane's power of x, for 0..7 bytes of padding behind the last row: int32 [8, lanes], kept per device."""
    lanes = np.arange(LANES.value - 1, -1, -1, dtype=np.int64)
    weights = powers(128 * lanes + 32 - 8 * np.arange(8, dtype=np.int64)[:, None])
    return on_device(weights.view(np.int32), device)


def frame_crcs(
    data: torch.Tensor,
    tiles: torch.Tensor,
    results: torch.Tensor,
    *,
    stride: int = 0,
    check: bool = False,
    tile: int = TILE_BYTES,
) -> None:
    """Compute the checksums that frames should have, from all their bytes but the stored checksum, without waiting.

    The first call on a device copies a small table there, so it must not be part of a graph capture. Whole aligned
    words of 8 bytes are read: up to 7 bytes on either side of `data`, which memory of CUDA always has.

    data: uint8 [bytes].  tiles: int64 [tiles, 6], of crc_tiles, on the device of the data.
    results: int32 [2, copies, frames], all 0; receives checksums, and 1 where a byte is refused.
    stride: copy r of all frames lies r * stride bytes further.
    check: also look for bytes that the payload may not have.
    tile: as given to crc_tiles.
    Source: FORMAT.md, section 2.
    """
    _, copies, num_frames = results.shape
    rows = tile // ROW_BYTES
    if tiles.shape[0] and copies:
        crc_kernel[(tiles.shape[0], copies)](
            data,
            stride,
            tiles,
            lane_weights(data.device),
            results[0],
            results[1],
            num_frames,
            ROWS=rows,
            STEP=math.gcd(rows, 4),  # so many rows are loaded before the first of them is used
            CHECK=check,
            num_warps=4,
        )


@triton.jit(do_not_specialize=["stride", "num_frames"], do_not_specialize_on_alignment=["data", "crcs", "bad_frames"])
def crc_kernel(
    data,
    stride,
    tiles,
    weights,
    crcs,
    bad_frames,
    num_frames,
    ROWS: tl.constexpr,
    STEP: tl.constexpr,
    CHECK: tl.constexpr,
):
    """Add what one tile contributes to the checksum of its frame; program (tile, copy).

    data: pointer to uint8.  tiles: int64 [tiles, 6].  weights: int32 [8, LANES], as from lane_weights.
    crcs, bad_frames: int32 [copies, num_frames], 0 before.
    """
    entry = tiles + tl.program_id(0).to(tl.int64) * 6
    start = tl.load(entry)
    end = tl.load(entry + 1)
    frame = tl.load(entry + 2)
    power = tl.load(entry + 3).to(tl.uint32)
    kind = tl.load(entry + 5)
    copy = tl.program_id(1).to(tl.int64)

    # Rows of aligned words end behind the tile, at a multiple of eight bytes; bytes outside the tile count as zeros.
    origin = data.to(tl.int64) + copy * stride
    padding = (-(origin + end)) & 7
    base = origin + end + padding - ROWS * LANES * 16
    first_byte = (origin + start - base).to(tl.int32)  # >= 0 as tiles are SLACK_BYTES shorter than rows
    lane = tl.arange(0, LANES)
    words = base.to(tl.pointer_type(tl.uint64)) + lane * 2
    first = first_byte - lane * 16
    zero = tl.zeros((LANES,), tl.uint64)
    ones = zero | 0xFFFFFFFFFFFFFFFF
    last_keep = tl.where(lane == LANES - 1, ones >> (padding * 8).to(tl.uint64), ones)

    add = tl.where(kind == 1, 0x0D0D0D0D0D0D0D0D, 0x7F7F7F7F7F7F7F7F).to(tl.uint64)
    flip = tl.where(kind == 1, 0, 0x80808080).to(tl.uint64)
    flip |= flip << 32
    first_step = first_byte // (STEP * LANES * 16)
    keep = tl.where(first_step == ROWS // STEP - 1, last_keep, ones)
    state, bad = take_rows((zero, zero), zero, words, first, first_step, keep, add, flip, STEP, CHECK, True)
    high, low = state
    for step in range(first_step + 1, ROWS // STEP):
        keep = tl.where(step == ROWS // STEP - 1, last_keep, ones)
        state, bad = take_rows((high, low), bad, words, first, step, keep, add, flip, STEP, CHECK, False)
        high, low = state

    weight = tl.load(weights + padding * LANES + lane).to(tl.uint32, bitcast=True)
    crc = tl.xor_sum(multiply(reduce_128(high, low), weight).to(tl.int32, bitcast=True), 0)
    crc = multiply(crc.to(tl.uint32, bitcast=True), power)
    crc ^= tl.load(entry + 4).to(tl.uint32)
    out = copy * num_frames + frame
    tl.atomic_xor(crcs + out, crc.to(tl.int32, bitcast=True), sem="relaxed")
    if CHECK:
        flaws = tl.max(((bad & 0x8080808080808080) != 0).to(tl.int32), 0)
        tl.atomic_or(bad_frames + out, flaws, mask=(kind != 0) & (flaws != 0), sem="relaxed")


@triton.jit
def take_rows(
    state, bad, words, first, step, keep, add, flip, STEP: tl.constexpr, CHECK: tl.constexpr, EDGE: tl.constexpr
):
    """Take STEP rows: state and bad as they are after them.

    state: uint64 [lanes] high and low.  words: pointer to the high half of each lane's 16 bytes in row 0.
    first: int32 [lanes], first byte of the tile, relative to `words`; only with EDGE may it be behind the step's start.
    keep: uint64 [lanes], mask of what counts in the low half of the last row.
    """
    high, low = state
    for i in tl.static_range(STEP):
        row = step * STEP + i
        at = row * (LANES * 2)
        behind = first - row * (LANES * 16)
        if EDGE:
            row_high = from_byte(tl.load(words + at, mask=behind < 8, other=0), behind)
            row_low = from_byte(tl.load(words + at + 1, mask=behind < 16, other=0), behind - 8)
        else:
            row_high = tl.load(words + at)
            row_low = tl.load(words + at + 1)
        if i == STEP - 1:
            row_low &= keep
        if CHECK:
            bad |= refused(row_high, add, flip) | refused(row_low, add, flip)
        high, low = next_row(high, low, row_high, row_low)
    return (high, low), bad


@triton.jit
def from_byte(word, count):
    """Clear the first `count` of the eight bytes of a word; a word of which all bytes go is 0 already.

    word: uint64.  count: int32.
    """
    shift = ((tl.maximum(count, 0) & 7) * 8).to(tl.uint64)
    return (word >> shift) << shift


@triton.jit
def refused(word, add, flip):
    """Mark bytes that the payload may not have, by the highest bit of each byte that is returned.

    word: uint64.  add, flip: uint64; 13 and 0 in each byte for bytes above 242, 127 and 128 for bytes that are 128.
    """
    return (((word & 0x7F7F7F7F7F7F7F7F) + add) ^ flip) & word


@triton.jit
def next_row(high, low, row_high, row_low):
    """Move polynomials of 128 bits one row further from the end, and add the row that follows.

    high, low: uint64, the coefficients of x^64 .. x^127 and of 1 .. x^63; so are row_high and row_low, and what it
        returns.
    """
    for i in tl.static_range(len(ROW_HIGH.value)):
        if ROW_HIGH[i] < 64:
            row_low ^= high >> ROW_HIGH[i]
        if ROW_HIGH[i] > 0:
            row_high ^= high << (64 - ROW_HIGH[i])
    for i in tl.static_range(len(ROW_LOW.value)):
        if ROW_LOW[i] < 64:
            row_low ^= low >> ROW_LOW[i]
        if ROW_LOW[i] > 0:
            row_high ^= low << (64 - ROW_LOW[i])
    return row_high, row_low


@triton.jit
def reduce_128(high, low):
    """Reduce polynomials of 128 bits modulo P.

    high, low: uint64, as in next_row.  Returns: uint32.
    """
    top = high << 32  # x^96 .. x^127
    middle = high & 0xFFFFFFFF00000000
    for i in tl.static_range(len(FOLD_96.value)):
        low ^= top >> FOLD_96[i]
        if FOLD_96[i] > 32:
            middle ^= top << (64 - FOLD_96[i])
    for i in tl.static_range(len(FOLD_64.value)):
        low ^= middle >> FOLD_64[i]
    return reduce_64(low)


@triton.jit
def reduce_64(word):
    """Reduce a polynomial of 64 bits modulo P.

    word: uint64.  Returns: uint32.
    """
    low = (word >> 32).to(tl.uint32)
    high = word.to(tl.uint32).to(tl.int32, bitcast=True)
    for bit in tl.static_range(32):
        mask = ((high << (31 - bit)) >> 31).to(tl.uint32, bitcast=True)  # all ones where the bit is set
        low ^= mask & FOLD_32[bit]
    return low


@triton.jit
def multiply(a, b):
    """Multiply modulo P.

    a, b: uint32.  Returns: uint32.
    """
    wide_a = a.to(tl.uint64)
    wide_b = b.to(tl.uint64)
    product = wide_a & 0
    for i in tl.static_range(4):
        # Of every four bits one is left, and at most eight ones meet at a position: no carry reaches the next one.
        places = (wide_a & 0x11111111) * (wide_b & (0x11111111 << i))
        places ^= (wide_a & 0x22222222) * (wide_b & (0x11111111 << ((i + 3) % 4)))
        places ^= (wide_a & 0x44444444) * (wide_b & (0x11111111 << ((i + 2) % 4)))
        places ^= (wide_a & 0x88888888) * (wide_b & (0x11111111 << ((i + 1) % 4)))
        product |= places & (0x1111111111111111 << i)
    return reduce_64(product << 1)  # bits are counted from the top
