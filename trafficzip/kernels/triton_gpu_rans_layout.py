"""Putting rANS payloads together on GPUs: sizes of chunks, then models, sizes, states and words to their places."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from trafficzip.kernels.rans_layout import PLAIN
from trafficzip.kernels.segments import Segments

MAX_PREFIX = 512  # bytes of a model and of the length of its chunks: at most 458
HEAD_WORDS = 8  # of 64 bits, for a tail length and eight states of 35 bits at most
COPY_TILE = 2048  # bytes that a program copies at once
LAYOUT_TILE = 1024  # chunks that are summed up at once
_WARPS = 4

_PLAIN = tl.constexpr(PLAIN)
_MAX_PREFIX = tl.constexpr(MAX_PREFIX)
_HEAD_BYTES = tl.constexpr(8 * HEAD_WORDS)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Pieces:
    """What payloads consist of, on the device.

    chunks: int64 [4, chunks]: position in the symbols, size, words before it, segment.
    rows: int64 [5, segments]: precision_bits, bytes of the prefix, first chunk and the one behind the last, size.
    prefixes: uint8 [segments, MAX_PREFIX], what stands before the sizes of chunks.
    words: int16 [all words that there may be].
    heads: int64 [chunks, HEAD_WORDS], tail length and states of each chunk.
    found: int32 [3, chunks]: first word of the chunk, number of words, bytes of the head.
    """

    chunks: torch.Tensor
    rows: torch.Tensor
    prefixes: torch.Tensor
    words: torch.Tensor
    heads: torch.Tensor
    found: torch.Tensor


def join_pieces(symbols: torch.Tensor, segments: Segments, pieces: Pieces) -> tuple[torch.Tensor, list[int]]:
    """Join pieces to payloads, back to back: uint8 [sum of the sizes], and their sizes. Waits for the sizes.

    A segment that is not shorter then becomes its symbols, in the plain form.
    """
    device, num_segments, num_chunks = symbols.device, pieces.rows.shape[1], pieces.chunks.shape[1]
    before = torch.empty((2, num_chunks), dtype=torch.int64, device=device)
    totals = torch.empty((3, num_segments), dtype=torch.int64, device=device)
    payloads = torch.empty(sum(segments.sizes) + num_segments, dtype=torch.uint8, device=device)
    _lay_out[(num_segments,)](
        pieces.found, pieces.rows, before, totals, num_chunks, num_segments, TILE=LAYOUT_TILE, num_warps=_WARPS
    )
    _join[(num_segments + num_chunks,)](
        symbols, pieces.chunks, pieces.rows, pieces.prefixes, pieces.words.view(torch.uint8),
        pieces.heads.view(torch.uint8), pieces.found, before, totals, payloads, num_chunks, num_segments,
        SEGMENTS=triton.next_power_of_2(num_segments), TILE=COPY_TILE, num_warps=_WARPS,
    )  # fmt: skip
    sizes = totals[0].tolist()
    return payloads[: sum(sizes)], sizes


@triton.jit
def _size_bytes(size):
    """Count the bytes of a chunk's size, which is below 2**28, in LEB128."""
    return 1 + (size >= 1 << 7).to(tl.int32) + (size >= 1 << 14).to(tl.int32) + (size >= 1 << 21).to(tl.int32)


@triton.jit(do_not_specialize=["num_chunks", "num_segments"])
def _lay_out(found, rows, before, totals, num_chunks, num_segments, TILE: tl.constexpr):
    """Sum up the chunks of one segment.

    before: int64 [2, chunks], bytes of sizes and of chunks before each chunk of its segment.
    totals: int64 [3, segments]: bytes of the payload, bytes of the sizes of chunks, 1 for the plain form.
    """
    segment = tl.program_id(0)
    prefix = tl.load(rows + num_segments + segment)
    first = tl.load(rows + 2 * num_segments + segment).to(tl.int32)
    end = tl.load(rows + 3 * num_segments + segment).to(tl.int32)
    num_symbols = tl.load(rows + 4 * num_segments + segment)
    size_total, chunk_total = tl.zeros((), tl.int64), tl.zeros((), tl.int64)
    for at in range(first, end, TILE):
        chunk = at + tl.arange(0, TILE)
        inside = chunk < end
        words = tl.load(found + num_chunks + chunk, mask=inside, other=0)
        chunk_bytes = tl.load(found + 2 * num_chunks + chunk, mask=inside, other=0) + 2 * words
        size_bytes = tl.where(chunk < end - 1, _size_bytes(chunk_bytes), 0).to(tl.int64)
        chunk_bytes = chunk_bytes.to(tl.int64)
        tl.store(before + chunk, size_total + tl.cumsum(size_bytes, 0) - size_bytes, mask=inside)
        tl.store(before + num_chunks + chunk, chunk_total + tl.cumsum(chunk_bytes, 0) - chunk_bytes, mask=inside)
        size_total += tl.sum(size_bytes, axis=0)
        chunk_total += tl.sum(chunk_bytes, axis=0)
    payload = prefix + size_total + chunk_total
    plain = (payload > num_symbols) & (end > first)
    tl.store(totals + segment, tl.where(plain, num_symbols + 1, payload))
    tl.store(totals + num_segments + segment, size_total)
    tl.store(totals + 2 * num_segments + segment, plain.to(tl.int64))


@triton.jit
def _copy(source, target, size, TILE: tl.constexpr):
    for at in range(0, size, TILE):
        place = at + tl.arange(0, TILE)
        tl.store(target + place, tl.load(source + place, mask=place < size, other=0), mask=place < size)


@triton.jit(do_not_specialize=["num_chunks", "num_segments"])
def _join(
    symbols, chunks, rows, prefixes, words, heads, found, before, totals, payloads, num_chunks, num_segments,
    SEGMENTS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Write what stands before the sizes of one segment's chunks, or the size and the bytes of one chunk.

    words, heads: as uint8.  payloads: uint8 [sum of the sizes or more].
    """
    chunk = tl.program_id(0) - num_segments
    segment = tl.program_id(0).to(tl.int64)
    if chunk >= 0:
        segment = tl.load(chunks + 3 * num_chunks + chunk)
    other = tl.arange(0, SEGMENTS)
    payload = payloads + tl.sum(tl.load(totals + other, mask=other < segment, other=0), axis=0)
    prefix = tl.load(rows + num_segments + segment)
    plain = tl.load(totals + 2 * num_segments + segment) != 0
    if chunk < 0:
        byte = tl.arange(0, _MAX_PREFIX)
        value = tl.load(prefixes + segment * _MAX_PREFIX + byte, mask=byte < prefix, other=0)
        prefix = tl.where(plain, 1, prefix)
        tl.store(payload + byte, tl.where(plain, _PLAIN, value.to(tl.int32)).to(tl.uint8), mask=byte < prefix)
    else:
        first = tl.load(rows + 2 * num_segments + segment)
        end = tl.load(rows + 3 * num_segments + segment)
        word = tl.load(chunks + 2 * num_chunks + chunk)
        if plain:
            source = symbols + tl.load(chunks + chunk)
            size = tl.load(chunks + num_chunks + chunk).to(tl.int32)
            _copy(source, payload + 1 + (word - tl.load(chunks + 2 * num_chunks + first)), size, TILE)
        else:
            num_words, head = tl.load(found + num_chunks + chunk), tl.load(found + 2 * num_chunks + chunk)
            size = head + 2 * num_words
            byte = tl.arange(0, 4)
            last = _size_bytes(size) - 1
            value = (size >> 7 * byte) & 127 | tl.where(byte < last, 128, 0)
            written = (byte <= last) & (chunk < end - 1)
            payload += prefix
            tl.store(payload + tl.load(before + chunk) + byte, value.to(tl.uint8), mask=written)
            payload += tl.load(totals + num_segments + segment) + tl.load(before + num_chunks + chunk)
            byte = tl.arange(0, _HEAD_BYTES)
            value = tl.load(heads + chunk * _HEAD_BYTES + byte, mask=byte < head, other=0)
            tl.store(payload + byte, value, mask=byte < head)
            _copy(words + 2 * (word + tl.load(found + chunk)), payload + head, 2 * num_words, TILE)
