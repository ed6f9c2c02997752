"""rANS coding on GPUs: counting symbols, and coding all chunks of all segments in one launch.

Eight threads hold the eight states of a chunk, so that a warp codes four chunks; only the words that leave states have
an order, which one sum over eight threads gives.
"""

from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray

from trafficzip.errors import ConfigError
from trafficzip.kernels import numba_cpu_rans, rans
from trafficzip.kernels.rans_layout import ONE_SYMBOL, check_chunk_symbols, chunk_length, chunked_model
from trafficzip.kernels.reference_rans import NUM_SYMBOLS
from trafficzip.kernels.segments import Segments
from trafficzip.kernels.triton_gpu import on_device
from trafficzip.kernels.triton_gpu_rans_layout import HEAD_WORDS, MAX_PREFIX, Pieces, join_pieces

CHUNK_SYMBOLS = 8192
COUNT_TILE = 16384  # symbols that one program counts
CHUNKS = 4  # that one program codes: with eight threads each, a warp
_COUNT_WARPS = 8

_NONE = tl.constexpr(255)  # entry of no symbol: it leaves a state as it is
_HEAD_WORDS = tl.constexpr(HEAD_WORDS)


def rans_encode(
    symbols: torch.Tensor,
    segments: Segments,
    *,
    chunk_symbols: int = CHUNK_SYMBOLS,
    chunks_per_program: int = CHUNKS,
) -> tuple[torch.Tensor, list[int]]:
    """Encode each segment for itself; the payloads lie back to back. Waits twice: for counts and for sizes.

    symbols: uint8 [any], below 243 in the segments.  chunk_symbols: power of two in [2**8, 2**24].
    chunks_per_program: power of two.
    Returns: uint8 [sum of the sizes]; size of each payload.

    Raises:
        ConfigError: a symbol above 242, or a wrong chunk_symbols.
    Source: FORMAT.md, rANS.
    """
    check_chunk_symbols(chunk_symbols)
    if not sum(segments.sizes):
        return symbols.new_empty(0), [0] * len(segments.sizes)
    counts = rans_count(symbols, segments).cpu().numpy()
    if counts[:, NUM_SYMBOLS:].any():
        raise ConfigError(f"symbols must be below {NUM_SYMBOLS}, got {np.flatnonzero(counts.any(axis=0))[-1]}")
    parts = _plan(counts, segments, chunk_symbols)
    sent = on_device(np.concatenate([part.view(np.int64).reshape(-1) for part in parts]), symbols.device, wait=False)
    chunks, rows, entries, prefixes = sent.split([part.nbytes // 8 for part in parts])
    chunks, rows = chunks.view(4, -1), rows.view(5, -1)
    num_chunks = chunks.shape[1]
    words = torch.empty(int(parts[0][1].sum()), dtype=torch.int16, device=symbols.device)
    heads = torch.empty((num_chunks, HEAD_WORDS), dtype=torch.int64, device=symbols.device)
    found = torch.empty((3, num_chunks), dtype=torch.int32, device=symbols.device)
    if num_chunks:
        _encode_chunks[(triton.cdiv(num_chunks, chunks_per_program),)](
            symbols, chunks, rows, entries, words, heads, found, num_chunks, min(255, chunk_symbols >> 8),
            CHUNKS=chunks_per_program, num_warps=1,
        )  # fmt: skip
    prefixes = prefixes.view(torch.uint8)
    pieces = Pieces(chunks=chunks, rows=rows, prefixes=prefixes, words=words, heads=heads, found=found)
    return join_pieces(symbols, segments, pieces)


def rans_count(symbols: torch.Tensor, segments: Segments, *, tile: int = COUNT_TILE) -> torch.Tensor:
    """Count each byte value of each segment: int32 [segments, 256]. Does not wait.

    symbols: uint8 [any].  tile: power of two.
    """
    counts = torch.zeros((len(segments.sizes), 256), dtype=torch.int32, device=symbols.device)
    tiles = segments.tiles(tile)
    if len(tiles):
        table = on_device(tiles, symbols.device, wait=False)
        _count[(len(tiles),)](symbols, table, counts, TILE=tile, num_warps=_COUNT_WARPS)
    return counts


def _plan(counts: NDArray[np.int32], segments: Segments, chunk_symbols: int) -> tuple[NDArray[Any], ...]:
    """Fit the models and cut the chunks: chunks, rows and prefixes as in `Pieces`, entries int64 [segments, 256, 2]."""
    sizes = np.array(segments.sizes, np.int64)
    rows = np.zeros((5, len(sizes)), np.int64)
    entries = np.zeros((len(sizes), 256, 2), np.int64)
    entries[:, _NONE.value, 1] = -1 << 32  # also where there is no model: programs have places without a chunk
    prefixes = np.zeros((len(sizes), MAX_PREFIX), np.uint8)
    lengths = np.ones(len(sizes), np.int64)
    for segment in np.flatnonzero(sizes):
        likeliest = int(counts[segment].argmax())
        prefix = np.array([ONE_SYMBOL, likeliest], np.uint8)
        if counts[segment, likeliest] < sizes[segment]:
            prefix, frequencies, bits = rans.fit(counts[segment].astype(np.int64))
            entries[segment, :NUM_SYMBOLS] = _entries(frequencies, bits)
            rows[0, segment] = bits
            lengths[segment] = chunk_length(int(sizes[segment]), chunk_symbols)
            if lengths[segment] < sizes[segment]:
                prefix = chunked_model(prefix, chunk_symbols)
        prefixes[segment, : prefix.size] = prefix
        rows[1, segment] = prefix.size
    coded = np.where(rows[0] > 0, sizes, 0)
    num_chunks = -(-coded // lengths)
    rows[3] = np.cumsum(num_chunks)
    rows[2] = rows[3] - num_chunks
    rows[4] = sizes
    owner = np.repeat(np.arange(len(sizes)), num_chunks)
    before = (np.arange(owner.size) - rows[2, owner]) * lengths[owner]
    position = np.array(segments.starts, np.int64)[owner] + before
    size = np.minimum(coded[owner] - before, lengths[owner])
    return np.stack([position, size, np.cumsum(size) - size, owner]), rows, entries, prefixes


def _entries(frequencies: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
    """Give, per symbol, its reciprocal, and start | frequency << 16 | largest state << 32: int64 [243, 2].

    The largest state is the one that still has room for the symbol.
    """
    frequency, start, reciprocal = numba_cpu_rans.encoder_tables(frequencies, bits).T.astype(np.int64)
    return np.stack([reciprocal, start | frequency << 16 | ((frequency << 32 - bits) - 1) << 32], axis=1)


@triton.jit
def _count(symbols, tiles, counts, TILE: tl.constexpr):
    """Add the counts of one tile to those of its segment: int32 [segments, 256]."""
    tile = tl.program_id(0)
    start, size = tl.load(tiles + tile * 4), tl.load(tiles + tile * 4 + 1).to(tl.int32)
    segment = tl.load(tiles + tile * 4 + 2)
    place = tl.arange(0, TILE)
    values = tl.load(symbols + start + place, mask=place < size, other=0).to(tl.int32)
    found = tl.histogram(values, 256, mask=place < size)
    value = tl.arange(0, 256)
    tl.atomic_add(counts + segment * 256 + value, found, mask=found > 0, sem="relaxed")


@triton.jit
def _push(state, at, reciprocal, span, bits, words, lane, ALONE: tl.constexpr):
    """Add a symbol to every state [chunks, 8]; where there is no room for it, the low half goes to the words first.

    at: int32, place of the word that was written last: [chunks, 1], or [chunks, 8] where lane 0 alone has symbols.
    reciprocal, span: int64 [chunks, 8], entries.
    """
    full = state > (span >> 32).to(tl.uint32)
    if ALONE:
        at -= full.to(tl.int32)
        place = at
    else:
        # Field k of four bits: how many states from lane k on are full. The last lane's word is written first.
        fields = tl.where(full, (0x11111111 >> (28 - 4 * lane)).to(tl.uint32), 0)
        fields = tl.sum(fields, axis=1)[:, None].to(tl.uint32)
        place = at - ((fields >> (4 * lane).to(tl.uint32)) & 15).to(tl.int32)
        at -= (fields & 15).to(tl.int32)
    tl.store(words + place, state.to(tl.int16), mask=full)
    state = tl.where(full, state >> 16, state)
    start, frequency = (span & 0xFFFF).to(tl.uint32), ((span >> 16) & 0xFFFF).to(tl.uint32)
    # (state * reciprocal) >> (32 + bits) without its lowest part; the sum is below 2**32.
    high, low = (reciprocal >> 32).to(tl.uint32), reciprocal.to(tl.uint32)
    quotient = (state * high + tl.umulhi(state, low)) >> bits
    return state + start + quotient * ((tl.full((1, 1), 1, tl.uint32) << bits) - frequency), at


@triton.jit
def _push_four(state, at, first, second, third, fourth, entries, bits, words, lane, ALONE: tl.constexpr):
    """Add four symbols to every state, uint8 [chunks, 8] each; the loads come first, so that they wait together."""
    first, second, third, fourth = first.to(tl.int32), second.to(tl.int32), third.to(tl.int32), fourth.to(tl.int32)
    reciprocal_1, span_1 = tl.load(entries + first * 2), tl.load(entries + first * 2 + 1)
    reciprocal_2, span_2 = tl.load(entries + second * 2), tl.load(entries + second * 2 + 1)
    reciprocal_3, span_3 = tl.load(entries + third * 2), tl.load(entries + third * 2 + 1)
    reciprocal_4, span_4 = tl.load(entries + fourth * 2), tl.load(entries + fourth * 2 + 1)
    state, at = _push(state, at, reciprocal_1, span_1, bits, words, lane, ALONE)
    state, at = _push(state, at, reciprocal_2, span_2, bits, words, lane, ALONE)
    state, at = _push(state, at, reciprocal_3, span_3, bits, words, lane, ALONE)
    return _push(state, at, reciprocal_4, span_4, bits, words, lane, ALONE)


@triton.jit
def _symbols_at(place, step, end):
    """Load the symbols of one step, uint8 [chunks, 8]; none where the step is not before `end`."""
    return tl.load(place + step * 8, mask=(step >= 0) & (step < end), other=_NONE)


@triton.jit
def _push_tail(state, at, symbols, size, wide, most_blocks, entries, bits, words, lane):
    """Add the last symbols to lane 0, at most `most_blocks` eights and the rest, until seven words have left it.

    With one lane, all symbols.  Returns: states, place of the last word, symbols before the tail, blocks in it.
    """
    enough = tl.where(wide, 7, 1 << 30)
    most = tl.where(wide, tl.minimum(most_blocks, size >> 5), size >> 3)
    body = size & -8
    blocks = tl.zeros_like(size)
    open_ = size > 0
    while tl.max(open_.to(tl.int32)) > 0:
        end = tl.where(open_ & (lane == 0), size, -1)
        place = symbols + body
        s7 = tl.load(place + 7, mask=body + 7 < end, other=_NONE)
        s6 = tl.load(place + 6, mask=body + 6 < end, other=_NONE)
        s5 = tl.load(place + 5, mask=body + 5 < end, other=_NONE)
        s4 = tl.load(place + 4, mask=body + 4 < end, other=_NONE)
        s3 = tl.load(place + 3, mask=body + 3 < end, other=_NONE)
        s2 = tl.load(place + 2, mask=body + 2 < end, other=_NONE)
        s1 = tl.load(place + 1, mask=body + 1 < end, other=_NONE)
        s0 = tl.load(place, mask=body < end, other=_NONE)
        at += tl.zeros_like(lane)
        state, at = _push_four(state, at, s7, s6, s5, s4, entries, bits, words, lane, ALONE=True)
        state, at = _push_four(state, at, s3, s2, s1, s0, entries, bits, words, lane, ALONE=True)
        at = tl.sum(tl.where(lane == 0, at, 0), axis=1)[:, None]
        open_ = open_ & (size - at < enough) & (blocks < most)
        body -= tl.where(open_, 8, 0)
        blocks += open_.to(tl.int32)
    return state, at, body, blocks


@triton.jit
def _push_body(state, at, symbols, body, entries, bits, words, lane):
    """Add the symbols before the tail, eight at a time, the last ones first."""
    steps = body >> 3
    place = symbols + lane
    step = ((tl.max(steps) + 3) & -4) - 4
    s3, s2 = _symbols_at(place, step + 3, steps), _symbols_at(place, step + 2, steps)
    s1, s0 = _symbols_at(place, step + 1, steps), _symbols_at(place, step, steps)
    while step >= 0:
        now_3, now_2, now_1, now_0 = s3, s2, s1, s0
        step -= 4
        s3, s2 = _symbols_at(place, step + 3, steps), _symbols_at(place, step + 2, steps)
        s1, s0 = _symbols_at(place, step + 1, steps), _symbols_at(place, step, steps)
        state, at = _push_four(state, at, now_3, now_2, now_1, now_0, entries, bits, words, lane, ALONE=False)
    return state, at


@triton.jit
def _write_head(state, wide, blocks, heads, chunk, valid, lane):
    """Write tail length and states as FORMAT.md has them; give how many bytes these are, int32 [chunks, 1]."""
    rest, extra = state >> 16, tl.zeros_like(lane + wide.to(tl.int32))
    for shift in tl.static_range(3, -1, -1):
        above = rest >> (1 << shift) != 0
        rest = tl.where(above, rest >> (1 << shift), rest)
        extra += tl.where(above, 1 << shift, 0)
    used = wide | (lane == 0)
    mantissa = state - (tl.full((1, 1), 1 << 16, tl.uint32) << extra.to(tl.uint32))
    value = tl.where(used, extra.to(tl.uint64) | mantissa.to(tl.uint64) << 4, 0)
    length = tl.where(used, 20 + extra, 0)
    first = tl.where(wide, 8, 0)
    offset = tl.cumsum(length, 1) - length + first
    word = tl.arange(0, _HEAD_WORDS)
    above = offset[:, :, None] - 64 * word[None, None, :]  # bits of the word below the value
    left = value[:, :, None] << tl.minimum(tl.maximum(above, 0), 63).to(tl.uint64)
    right = value[:, :, None] >> tl.minimum(tl.maximum(-above, 0), 63).to(tl.uint64)
    part = tl.where(above >= 64, 0, tl.where(above >= 0, left, right))  # a value has at most 35 bits
    packed = tl.sum(part, axis=1) + tl.where(word[None, :] == 0, tl.where(wide, blocks, 0), 0).to(tl.uint64)
    tl.store(heads + chunk * _HEAD_WORDS + word[None, :], packed.to(tl.int64), mask=valid)
    return (tl.sum(length, axis=1)[:, None] + first + 7) >> 3


@triton.jit(do_not_specialize=["num_chunks"])
def _encode_chunks(
    symbols, chunks, rows, entries, words, heads, found, num_chunks, most_blocks, CHUNKS: tl.constexpr
):  # fmt: skip
    """Encode some chunks: their words end where those of the next chunk may start.

    All tensors but symbols and entries are those of `Pieces`.
    """
    chunk = (tl.program_id(0) * CHUNKS + tl.arange(0, CHUNKS))[:, None]
    lane = tl.arange(0, 8)[None, :]
    valid = chunk < num_chunks
    place = symbols + tl.load(chunks + chunk, mask=valid, other=0)
    size = tl.load(chunks + num_chunks + chunk, mask=valid, other=0).to(tl.int32)
    words += tl.load(chunks + 2 * num_chunks + chunk, mask=valid, other=0)
    segment = tl.load(chunks + 3 * num_chunks + chunk, mask=valid, other=0)
    bits = tl.load(rows + segment).to(tl.uint32)
    entries += segment * 512
    wide = size >= 4096
    state = tl.full((CHUNKS, 8), 1 << 16, tl.uint32)
    state, at, body, blocks = _push_tail(
        state, size, place, size, wide, most_blocks, entries, bits, words, lane
    )  # fmt: skip
    tl.debug_barrier()  # words of the tail are written by one thread and read by others
    moved = tl.where(wide, tl.minimum(size - at, 7), 0)
    end = size - moved
    word = tl.load(words + end - 1 + lane, mask=(lane > 0) & (lane <= moved), other=0)
    state += word.to(tl.uint32) & 0xFFFF
    state, at = _push_body(state, at, place, tl.where(wide, body, 0), entries, bits, words, lane)
    head = _write_head(state, wide, blocks, heads, chunk, valid, lane)
    tl.store(found + chunk, at, mask=valid)
    tl.store(found + num_chunks + chunk, end - at, mask=valid)
    tl.store(found + 2 * num_chunks + chunk, head, mask=valid)
