"""rANS decoding on GPUs: the host reads models and sizes, one launch decodes all chunks of all segments.

Eight threads hold the eight states of a chunk. What a step waits for is a chain: two table loads, a sum over eight
threads that says whose word is whose, and the words. So a warp is a program of its own, and there are many of them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray

from trafficzip.errors import CorruptPayloadError
from trafficzip.kernels.rans_layout import Layout, chunk_table, max_head_bytes, model_tables, read_form
from trafficzip.kernels.reference_rans import NUM_SYMBOLS
from trafficzip.kernels.segments import Segments
from trafficzip.kernels.triton_gpu import on_device

CHUNKS = 4  # that one program decodes: with eight threads each, a warp
COPY_TILE = 4096  # symbols that one program copies
TABLE_TILE = 1024  # slots whose symbols one program finds
_COPY_WARPS = 4

_NUM_SYMBOLS = tl.constexpr(NUM_SYMBOLS)


def rans_decode(
    data: torch.Tensor,
    segments: Segments,
    symbols: torch.Tensor,
    starts: Sequence[int],
    sizes: Sequence[int],
    *,
    chunks_per_program: int = CHUNKS,
) -> None:
    """Decode each segment of `data` into symbols[start : start + size]. Waits for heads of payloads and for the end.

    data, symbols: uint8 [any].  starts, sizes: of stretches of `symbols` that do not overlap.
    chunks_per_program: power of two.

    Raises:
        CorruptPayloadError: a segment is not a whole encoding of its number of symbols; `symbols` may be changed then.
    Source: FORMAT.md, rANS.
    """
    chunks, status = _start(data, segments, symbols, Segments(starts, sizes), chunks_per_program)
    wrong = np.flatnonzero(status.cpu().numpy())
    if wrong.size and wrong[0] < chunks.shape[1]:
        start, end, _, size, segment = chunks[:, wrong[0]].tolist()
        raise CorruptPayloadError(
            f"rANS payload of segment {segment}, bytes {start} to {end}: found no encoding of {size} symbols"
        )
    if wrong.size:
        raise CorruptPayloadError(f"rANS payload: found a plain symbol above {NUM_SYMBOLS - 1}")


def _start(
    data: torch.Tensor, segments: Segments, symbols: torch.Tensor, stretches: Segments, chunks_per_program: int
) -> tuple[NDArray[np.int64], torch.Tensor]:
    """Read the heads and decode, without waiting for the end.

    Returns: the chunks; int32 [chunks + segments without a model], 1 where one is damaged.
    """
    layouts, plain = _read_heads(data, segments, stretches)
    chunks = chunk_table(layouts, segments, stretches)
    rows, by_symbol = model_tables(layouts)
    num_chunks = chunks.shape[1]
    status = torch.zeros(num_chunks + len(plain), dtype=torch.int32, device=symbols.device)
    if num_chunks:
        parts: list[NDArray[Any]] = [chunks, rows, by_symbol]
        sent = on_device(
            np.concatenate([part.view(np.int64).reshape(-1) for part in parts]), symbols.device, wait=False
        )
        chunks_there, rows_there, by_symbol_there = sent.split([part.nbytes // 8 for part in parts])
        slots, spans = _make_tables(rows, rows_there, by_symbol_there.view(torch.int32))
        appended = torch.empty((num_chunks, 8), dtype=torch.int32, device=symbols.device)
        _decode_chunks[(triton.cdiv(num_chunks, chunks_per_program),)](
            data, symbols, chunks_there, rows_there, spans, slots, appended, status, num_chunks, len(layouts),
            CHUNKS=chunks_per_program, num_warps=1,
        )  # fmt: skip
    _copy_plain(data, symbols, plain, segments, stretches, status[num_chunks:])
    return chunks, status


def _read_heads(
    data: torch.Tensor, segments: Segments, stretches: Segments
) -> tuple[list[Layout | None], dict[int, int]]:
    """Copy the first bytes of all payloads to the host and read them.

    Returns: per segment, its layout where it has a model; by segment, the symbol that is repeated, or -1 for plain
    symbols.
    """
    lengths = []
    for payload_bytes, num_symbols in zip(segments.sizes, stretches.sizes, strict=True):
        if (payload_bytes == 0) != (num_symbols == 0):
            raise CorruptPayloadError(f"rANS payload: found {payload_bytes} bytes for {num_symbols} symbols")
        lengths.append(min(payload_bytes, max_head_bytes(num_symbols)))
    layouts: list[Layout | None] = [None] * len(lengths)
    plain: dict[int, int] = {}
    if not any(lengths):
        return layouts, plain
    heads = (
        torch.cat([data[start : start + n] for start, n in zip(segments.starts, lengths, strict=True)]).cpu().numpy()
    )
    for segment, head in enumerate(np.split(heads, np.cumsum(lengths)[:-1])):
        if head.size:
            form = read_form(
                np.require(head, requirements=["C", "W"]), segments.sizes[segment], stretches.sizes[segment]
            )
            if isinstance(form, Layout):
                layouts[segment] = form
            else:
                plain[segment] = form
    return layouts, plain


def _make_tables(
    rows: NDArray[np.int64], rows_there: torch.Tensor, by_symbol: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Make, from what `model_tables` gives, the symbol and the span of every slot: uint8 and int32 [all slots]."""
    num_slots = np.where(rows[0] > 0, 1 << rows[0], 0)
    slots = torch.empty(int(num_slots.sum()), dtype=torch.uint8, device=by_symbol.device)
    spans = torch.empty(int(num_slots.sum()), dtype=torch.int32, device=by_symbol.device)
    _expand_tables[(len(num_slots), triton.cdiv(int(num_slots.max()), TABLE_TILE))](
        rows_there, by_symbol, slots, spans, len(num_slots), TILE=TABLE_TILE, num_warps=_COPY_WARPS
    )
    return slots, spans


def _copy_plain(
    data: torch.Tensor,
    symbols: torch.Tensor,
    plain: dict[int, int],
    segments: Segments,
    stretches: Segments,
    status: torch.Tensor,
) -> None:
    """Write the symbols of payloads without a model."""
    if plain:
        targets = Segments([stretches.starts[k] for k in plain], [stretches.sizes[k] for k in plain])
        tiles = targets.tiles(COPY_TILE)
        forms = np.array([[segments.starts[k] + 1 for k in plain], list(plain.values())], np.int64)
        table = on_device(np.concatenate([forms.reshape(-1), tiles.reshape(-1)]), symbols.device, wait=False)
        _decode_plain[(len(tiles),)](
            data, symbols, table[forms.size :], table, status, len(plain), TILE=COPY_TILE, num_warps=_COPY_WARPS
        )


@triton.jit(do_not_specialize=["num_segments"])
def _decode_plain(data, symbols, tiles, forms, status, num_segments, TILE: tl.constexpr):
    """Write one tile of symbols that have no model.

    forms: int64 [2, segments]: first symbol in the payload; symbol that is repeated, or -1.  status: int32 [segments].
    """
    tile = tl.program_id(0)
    start, size = tl.load(tiles + tile * 4), tl.load(tiles + tile * 4 + 1).to(tl.int32)
    segment, number = tl.load(tiles + tile * 4 + 2), tl.load(tiles + tile * 4 + 3)
    source, repeated = tl.load(forms + segment), tl.load(forms + num_segments + segment).to(tl.int32)
    place = tl.arange(0, TILE)
    inside = place < size
    values = tl.load(data + source + number * TILE + place, mask=inside & (repeated < 0), other=0)
    values = tl.where(repeated < 0, values.to(tl.int32), repeated)
    tl.store(symbols + start + place, values.to(tl.uint8), mask=inside)
    tl.store(status + segment, 1, mask=tl.max(values, axis=0) >= _NUM_SYMBOLS)


@triton.jit(do_not_specialize=["num_segments"], do_not_specialize_on_alignment=["rows"])
def _expand_tables(rows, by_symbol, slots, spans, num_segments, TILE: tl.constexpr):
    """Find the symbol and the span of some slots of one segment.

    by_symbol: int32 [segments, 256], spans.  slots: uint8, spans: int32, one for each slot.
    """
    segment = tl.program_id(0)
    slot = tl.program_id(1) * TILE + tl.arange(0, TILE)
    bits = tl.load(rows + segment).to(tl.int32)
    inside = (slot < 1 << bits) & (bits > 0)
    by_symbol += segment * 256
    symbol = tl.zeros_like(slot)
    for k in tl.static_range(7, -1, -1):  # as many symbols as end before the slot
        probe = symbol + ((1 << k) - 1)
        span = tl.load(by_symbol + probe, mask=inside & (probe < _NUM_SYMBOLS), other=-1).to(tl.uint32, bitcast=True)
        symbol = tl.where(((span >> 16) + (span & 0xFFFF)).to(tl.int32) <= slot, probe + 1, symbol)
    place = tl.load(rows + num_segments + segment) + slot
    tl.store(slots + place, symbol.to(tl.uint8), mask=inside)
    tl.store(spans + place, tl.load(by_symbol + symbol, mask=inside, other=0), mask=inside)


@triton.jit
def _read_states(data, begin, end, wide, lane):
    """Read the states of chunks, uint32 [chunks, 8].

    Returns: states, place of the first word, int64 [chunks, 1], and whether they do not fit or set bits follow.
    """
    bit = tl.zeros_like(begin)
    state = tl.full((1, 8), 1 << 16, tl.uint32) + tl.zeros_like(begin).to(tl.uint32)
    for k in tl.static_range(8):
        byte = begin + (bit >> 3) + lane
        value = tl.load(data + byte, mask=byte < end, other=0).to(tl.uint64) << (8 * lane).to(tl.uint64)
        value = tl.sum(value, axis=1)[:, None] >> (bit & 7).to(tl.uint64)
        extra = (value & 15).to(tl.uint32)
        high = tl.full((1, 1), 1 << 16, tl.uint32) << extra
        low = (value >> 4).to(tl.uint32) & (high - 1)
        read = wide | (k == 0)
        state = tl.where(read & (lane == k), high | low, state)
        bit += tl.where(read, 20 + extra.to(tl.int64), 0)
    last = begin + (bit >> 3)  # the byte with the padding, if there is any
    padding = tl.load(data + last, mask=((bit & 7) != 0) & (last < end), other=0).to(tl.int32) >> (bit & 7).to(tl.int32)
    first = begin + ((bit + 7) >> 3)
    return state, first, (first > end) | (padding != 0)


@triton.jit
def _pop(state, slots, spans, bits, symbol, span):
    """Take a symbol from every state [chunks, 8]. Gives states before they are refilled, and the symbols.

    symbol, span: the likeliest one, [chunks, 1], which needs no tables, so that large tables mostly stay out of caches.
    """
    slot = state & ((tl.full((1, 1), 1, tl.uint32) << bits) - 1)
    other = slot - (span >> 16) >= (span & 0xFFFF)
    found_span = tl.load(spans + slot.to(tl.int32), mask=other, other=0).to(tl.uint32, bitcast=True)
    found = tl.load(slots + slot.to(tl.int32), mask=other, other=0)
    span = tl.where(other, found_span, span)
    state = (span & 0xFFFF) * (state >> bits) + slot - (span >> 16)
    return state, tl.where(other, found, symbol)


@triton.jit
def _load_words(words, at, mask):
    """Load words of 16 bits from any bytes: uint32."""
    low = tl.load(words + 2 * at, mask=mask, other=0).to(tl.uint32)
    return low | tl.load(words + 2 * at + 1, mask=mask, other=0).to(tl.uint32) << 8


@triton.jit(do_not_specialize=["num_chunks", "num_segments"], do_not_specialize_on_alignment=["chunks", "rows"])
def _decode_chunks(
    data, symbols, chunks, rows, spans, slots, appended, status, num_chunks, num_segments, CHUNKS: tl.constexpr
):  # fmt: skip
    """Decode some chunks; status becomes 1 where a chunk is damaged, whose symbols are then any.

    chunks: int64 [5, chunks].  rows: int64 [4, segments].  appended: int32 [chunks, 8], for words in initial states.
    """
    chunk = (tl.program_id(0) * CHUNKS + tl.arange(0, CHUNKS))[:, None]
    lane = tl.arange(0, 8)[None, :]
    valid = chunk < num_chunks
    begin = tl.load(chunks + chunk, mask=valid, other=0)
    end = tl.load(chunks + num_chunks + chunk, mask=valid, other=0)
    symbols += tl.load(chunks + 2 * num_chunks + chunk, mask=valid, other=0) + lane
    size = tl.load(chunks + 3 * num_chunks + chunk, mask=valid, other=0).to(tl.int32)
    segment = tl.load(chunks + 4 * num_chunks + chunk, mask=valid, other=0)
    bits = tl.load(rows + segment).to(tl.uint32)
    first_slot = tl.load(rows + num_segments + segment)
    slots += first_slot
    spans += first_slot
    likeliest = tl.load(rows + 2 * num_segments + segment).to(tl.uint8)
    span = tl.load(rows + 3 * num_segments + segment).to(tl.uint32)

    wide = size >= 4096
    blocks = tl.load(data + begin, mask=wide & (begin < end), other=0).to(tl.int32)
    begin += tl.where(wide, 1, 0)
    state, first, wrong = _read_states(data, begin, end, wide, lane)
    body = tl.where(wide, (size & -8) - 8 * blocks, 0)
    # A symbol takes at most one word; more words would not count in 32 bits.
    wrong = wrong | (body < 0) | (((end - first) & 1) != 0) | (end - first > 2 * (size + 7))
    size = tl.where(wrong, 0, size)
    count = tl.where(wrong, 0, (end - first) >> 1).to(tl.int32)
    words = data + first
    steps = tl.where(wrong, 0, body >> 3).to(tl.int32)
    at = tl.zeros_like(count)
    # Lane k holds words base + k and base + 8 + k, and the bytes of word base + 16 + k, which may still be under way.
    base = tl.zeros_like(count)
    now, later = _load_words(words, lane, lane < count), _load_words(words, lane + 8, lane + 8 < count)
    byte_0 = tl.load(words + 2 * (lane + 16), mask=lane + 16 < count, other=0)
    byte_1 = tl.load(words + 2 * (lane + 16) + 1, mask=lane + 16 < count, other=0)
    for step in range(0, tl.max(steps)):
        inside = step < steps
        popped, symbol = _pop(state, slots, spans, bits, likeliest, span)
        tl.store(symbols + step * 8, symbol, mask=inside)
        low = (popped < 1 << 16) & inside
        # Field k of four bits: how many states up to lane k want a word.
        fields = tl.sum(tl.where(low, tl.full((1, 1), 0x11111111, tl.uint32) << (4 * lane).to(tl.uint32), 0), axis=1)
        fields = fields[:, None].to(tl.uint32)
        place = at - base - 1 + ((fields >> (4 * lane).to(tl.uint32)) & 15).to(tl.int32)  # -1 to 14
        word = tl.where(place < 8, tl.gather(now, place & 7, 1), tl.gather(later, place & 7, 1))
        state = tl.where(inside, tl.where(low, popped << 16 | word, popped), state)
        at += (fields >> 28).to(tl.int32)
        passed = at - base >= 8
        now = tl.where(passed, later, now)
        later = tl.where(passed, byte_0.to(tl.uint32) | byte_1.to(tl.uint32) << 8, later)
        base += tl.where(passed, 8, 0)
        ahead = base + 16 + lane
        needed = passed & (ahead < count)
        byte_0 = tl.load(words + 2 * ahead, mask=needed, other=tl.where(passed, 0, byte_0).to(tl.uint8))
        byte_1 = tl.load(words + 2 * ahead + 1, mask=needed, other=tl.where(passed, 0, byte_1).to(tl.uint8))

    wrong = wrong | (at > count)
    initial = (state >> 16 == 1) | (lane == 0)
    wrong = wrong | (wide & (tl.min(initial.to(tl.int32), axis=1)[:, None] == 0))
    tl.store(appended + chunk * 8 + lane - 1, (state & 0xFFFF).to(tl.int32), mask=valid & (lane > 0))
    tl.debug_barrier()  # appended words are written by one thread and read by another
    more = tl.where(wide, 7, 0)
    left = tl.where(wrong, 0, size - body)
    symbols += body
    at += tl.zeros_like(lane)  # of lane 0 alone from here on: no sum over threads
    for i in range(0, tl.max(left)):
        inside = (i < left) & (lane == 0)
        popped, symbol = _pop(state, slots, spans, bits, likeliest, span)
        tl.store(symbols + i, symbol, mask=inside)
        low = (popped < 1 << 16) & inside
        word = _load_words(words, at + lane, low & (at < count))
        behind = low & (at >= count) & (at < count + more)
        word |= tl.load(appended + chunk * 8 + at - count + lane, mask=behind, other=0).to(tl.uint32)
        state = tl.where(inside, tl.where(low, popped << 16 | word, popped), state)
        at += low.to(tl.int32)
    at = tl.sum(tl.where(lane == 0, at, 0), axis=1)[:, None]
    unread = (lane > at - count) & wide & ((state & 0xFFFF) != 0) & (lane > 0)
    wrong = wrong | (at < count) | (at > count + more)
    wrong = wrong | (tl.max(((lane == 0) & (state != 1 << 16) | unread).to(tl.int32), axis=1)[:, None] != 0)
    tl.store(status + chunk, wrong.to(tl.int32), mask=valid)
