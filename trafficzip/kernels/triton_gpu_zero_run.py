"""Zero-run coding of quartic bytes in Triton: runs of 2..14 bytes 121 become one byte 243..255, longest first.

A token belongs to its last byte: a byte that is not 121, or a 121 that ends a run or is the 14th since the last token.
So one byte ahead is all that has to be seen. A tile needs two numbers about what precedes it in its segment: the
length of the open run modulo 14, and the tokens written. Three launches: summarize the tiles, scan them, write.
In each launch a lane, one element of a tensor, stands for 8 neighbouring bytes: scans are short, and the position
within a run is counted up from byte to byte without a division.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from trafficzip.errors import ConfigError

__all__ = ["TILE", "zero_run_decode", "zero_run_encode"]

TILE = 4096  # bytes per program
_LARGEST = 1 << 15  # bytes per tile: their places have to fit shared memory, 4 bytes each
_CHUNK = 2048  # tiles scanned at a time
_WARPS = 8

_ZERO = tl.constexpr(121)  # five zero codes
_LONGEST = tl.constexpr(14)
_LANE = tl.constexpr(8)  # bytes
_NONE = tl.constexpr(1 << 30)  # above all places in a tile times 256
_RESET_RUN = tl.constexpr(1 << 30)  # above 14 times a chunk
_RESET_TOTAL = tl.constexpr(1 << 62)


def zero_run_encode(
    symbols: Tensor, tiles: Tensor, num_segments: int, data: Tensor, *, tile: int = TILE, chunk: int = _CHUNK
) -> Tensor:
    """Encode each segment of `symbols` for itself into `data`, at the same start; give the encodings' sizes.

    symbols, data: uint8 [any], not the same memory.  tiles: int64 [tiles, 4], Segments.tiles(tile).
    tile, chunk: powers of two.  Returns: int64 [segments], at most the segment's size.

    Raises:
        ConfigError: a tile size out of range.

    Source: FORMAT.md, zero runs.
    """
    _check(tile)
    num_tiles = tiles.shape[0]
    if num_tiles == 0:
        return torch.zeros(num_segments, dtype=torch.int64, device=symbols.device)
    sizes = torch.empty(num_segments, dtype=torch.int64, device=symbols.device)
    summaries = torch.empty(num_tiles, dtype=torch.int32, device=symbols.device)
    states = torch.empty(num_tiles, dtype=torch.int64, device=symbols.device)
    grid = (num_tiles,)
    _summarize_symbols[grid](symbols, tiles, summaries, sizes, num_tiles, num_segments, TILE=tile, num_warps=_WARPS)
    _scan_tiles[(1,)](tiles, summaries, states, sizes, num_tiles, CHUNK=chunk, num_warps=_WARPS)
    _write_tokens[grid](symbols, tiles, states, data, num_tiles, TILE=tile, num_warps=_WARPS)
    return sizes


def zero_run_decode(
    data: Tensor,
    tiles: Tensor,
    symbols: Tensor,
    starts: Tensor,
    sizes: Tensor,
    status: Tensor,
    *,
    tile: int = TILE,
    chunk: int = _CHUNK,
) -> None:
    """Expand each segment s of `data` into symbols[starts[s] : starts[s] + sizes[s]].

    data, symbols: uint8 [any], not the same memory.  tiles: int64 [tiles, 4], Segments.tiles(tile) of `data`.
    starts, sizes: int64 [segments], stretches of `symbols` that do not overlap.  tile, chunk: powers of two.
    status: int32 [segments], set to 1 where a segment does not expand to its size; nothing of it is written then.

    Raises:
        ConfigError: a tile size out of range.

    Source: FORMAT.md, zero runs.
    """
    _check(tile)
    num_tiles, num_segments = tiles.shape[0], sizes.shape[0]
    if num_segments == 0:
        return
    grid = (max(num_tiles, 1),)  # segments without bytes are checked too
    expanded = torch.empty(num_segments, dtype=torch.int64, device=data.device)
    summaries = torch.empty(num_tiles, dtype=torch.int32, device=data.device)
    states = torch.empty(num_tiles, dtype=torch.int64, device=data.device)
    _summarize_data[grid](data, tiles, summaries, expanded, num_tiles, num_segments, TILE=tile, num_warps=_WARPS)
    _scan_tiles[(1,)](tiles, summaries, states, expanded, num_tiles, CHUNK=chunk, num_warps=_WARPS)
    places = (symbols, starts, sizes, expanded, status)
    _write_symbols[grid](data, tiles, states, *places, num_tiles, num_segments, TILE=tile, num_warps=_WARPS)


def _check(tile: int) -> None:
    if not _LANE.value <= tile <= _LARGEST or tile & (tile - 1):
        raise ConfigError(f"zero runs: tile must be a power of two in [{_LANE.value}, {_LARGEST}], got {tile}")


@triton.jit
def _tile(tiles, num_tiles):
    """Give this program's tile: start, size, segment, number, and 1 where its segment goes on behind it, else 0."""
    at = tl.program_id(0)
    row = tiles + at.to(tl.int64) * 4
    there = at < num_tiles
    start = tl.load(row, mask=there, other=0)
    size = tl.load(row + 1, mask=there, other=0).to(tl.int32)
    segment = tl.load(row + 2, mask=there, other=0)
    number = tl.load(row + 3, mask=there, other=0)
    follower = tl.load(row + 7, mask=at + 1 < num_tiles, other=0)
    return start, size, segment, number, (follower != 0).to(tl.int32)


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b)


@triton.jit
def _add_from_reset(a, b):
    """Add; a negative number is a reset, which forgets what precedes it."""
    return tl.where(b < 0, b, a + b)


@triton.jit
def _interleave(x):
    """Give the elements of 8 tensors int32 [n] in turn: [8 n]; stores by it are coalesced."""
    even = tl.join(tl.join(x[0], x[4]), tl.join(x[2], x[6]))
    odd = tl.join(tl.join(x[1], x[5]), tl.join(x[3], x[7]))
    both = tl.reshape(tl.join(even, odd), [x[0].shape[0] * 8])
    return tl.gather(both, tl.arange(0, x[0].shape[0] * 8), 0)  # moves neighbours to one warp, once


@triton.jit
def _load_lanes(source, size, TILE: tl.constexpr):
    """Load a tile's bytes, and for each lane the byte behind it: 9 times int32 [lanes]; 0 from `size` on."""
    first = tl.arange(0, TILE // _LANE) * _LANE
    x = ()
    for k in tl.static_range(_LANE + 1):
        x += (tl.load(source + first + k, mask=first + k < size, other=0).to(tl.int32),)  # type: ignore[assignment]
    return x


@triton.jit
def _last_in_lanes(x, TILE: tl.constexpr):
    """Find the last byte of each lane that is not 121: its place in the tile, int32 [lanes]; -1 where all are 121."""
    first = tl.arange(0, TILE // _LANE) * _LANE
    last = tl.full([TILE // _LANE], -1, tl.int32)
    for k in tl.static_range(_LANE):
        last = tl.where(x[k] != _ZERO, first + k, last)
    return last


@triton.jit
def _run_before_lanes(last, carried, TILE: tl.constexpr):
    """Count the bytes 121 since the last token before each lane: int32 [lanes], 0..13.

    last: place of the last byte that is not 121, in the lane or before it.
    """
    lane = tl.arange(0, TILE // _LANE)
    last = tl.gather(last, tl.maximum(lane - 1, 0), 0)
    last = tl.where((lane == 0) | (last < 0), -1 - carried, last)
    return ((lane * _LANE - 1 - last).to(tl.uint32) % _LONGEST).to(tl.int32)


@triton.jit
def _clear(sizes, num_segments, BLOCK: tl.constexpr):
    """Set the sizes to 0, each by one program: the scan writes those of segments that have tiles."""
    for at in range(tl.program_id(0) * BLOCK, num_segments, tl.num_programs(0) * BLOCK):
        segment = at + tl.arange(0, BLOCK)
        tl.store(sizes + segment, tl.zeros([BLOCK], tl.int64), mask=segment < num_segments)


@triton.jit(do_not_specialize=["num_tiles", "num_segments"])
def _summarize_symbols(symbols, tiles, summaries, sizes, num_tiles, num_segments, TILE: tl.constexpr):
    """Summarize how many tokens end in each tile, and the run it leaves open, as functions of the run carried in.

    summaries: int32 [tiles].  Bits 0..3: length of the run left open, modulo 14; bit 4: set where it began in this
    tile, else the carried run precedes it; bits 5..9: a; the rest: b.  Tokens: b + (carried + a) // 14.
    """
    _clear(sizes, num_segments, 128)
    start, size, _segment, _number, more = _tile(tiles, num_tiles)
    # A tile that is not full ends its segment: bytes from `size` on are 0 and one token each, subtracted below.
    x = _load_lanes(symbols + start, size + more, TILE)
    behind = tl.load(symbols + start + size, mask=more != 0, other=0).to(tl.int32)
    last = tl.associative_scan(_last_in_lanes(x, TILE), 0, _larger)
    run = _run_before_lanes(last, 0, TILE)
    tokens = tl.zeros([TILE // _LANE], tl.int32)
    for k in tl.static_range(_LANE):
        end = (x[k] != _ZERO) | (x[k + 1] != _ZERO) | (run == _LONGEST - 1)
        tokens += end.to(tl.int32)
        run = tl.where(end, 0, run + 1)
    left = tl.full([TILE // _LANE], TILE, tl.int32)
    for k in tl.static_range(_LANE):
        left = tl.where(x[_LANE - 1 - k] != _ZERO, tl.arange(0, TILE // _LANE) * _LANE + (_LANE - 1 - k), left)
    leading = tl.minimum(tl.min(left, 0), size)
    trailing = TILE - 1 - tl.max(last, 0)  # of use only where a tile follows, so where this one is full
    closed = (leading < size) | (behind != _ZERO)
    # (carried + leading) / 14 is rounded up where the run is closed here, down where it is not; its 14s go to b.
    a = tl.where(leading == 0, 0, leading % _LONGEST + tl.where(closed, _LONGEST - 1, 0))
    b = tl.sum(tokens, 0) - (TILE - size) - a // _LONGEST
    begins = (leading < size).to(tl.int32)
    tl.store(summaries + tl.program_id(0), b << 10 | a << 5 | begins << 4 | trailing % _LONGEST)


@triton.jit(do_not_specialize=["num_tiles", "num_segments"])
def _summarize_data(data, tiles, summaries, sizes, num_tiles, num_segments, TILE: tl.constexpr):
    """Count the symbols that each tile expands to: summaries as of a tile that leaves no run open."""
    _clear(sizes, num_segments, 128)
    start, size, _segment, _number, _more = _tile(tiles, num_tiles)
    place = tl.arange(0, TILE)
    byte = tl.load(data + start + place, mask=place < size, other=0).to(tl.int32)
    expanded = tl.sum(tl.maximum(byte - 241, 1), 0) - (TILE - size)  # bytes from `size` on are 0
    tl.store(summaries + tl.program_id(0), expanded << 10, mask=tl.program_id(0) < num_tiles)


@triton.jit(do_not_specialize=["num_tiles"])
def _scan_tiles(tiles, summaries, states, sizes, num_tiles, CHUNK: tl.constexpr):
    """Find what precedes each tile in its segment: states[tile] = tokens * 16 + open run modulo 14; and all tokens."""
    carried = tl.zeros([], tl.int32)
    written = tl.zeros([], tl.int64)
    for at in range(0, num_tiles, CHUNK):
        tile = at + tl.arange(0, CHUNK)
        there = tile < num_tiles
        number = tl.load(tiles + tile.to(tl.int64) * 4 + 3, mask=there, other=0)
        follower = tl.load(tiles + tile.to(tl.int64) * 4 + 7, mask=tile + 1 < num_tiles, other=0)
        segment = tl.load(tiles + tile.to(tl.int64) * 4 + 2, mask=there, other=0)
        own = tl.load(summaries + tile, mask=there, other=0)
        before = tl.load(summaries + tile - 1, mask=there & (number > 0), other=16)  # 16: no run
        run = (before & 15) - tl.where((before & 16) != 0, _RESET_RUN, 0)
        run = tl.associative_scan(run, 0, _add_from_reset)
        run = tl.where(run < 0, run + _RESET_RUN, run + carried) % _LONGEST
        tokens = ((own >> 10) + (run + ((own >> 5) & 31)) // _LONGEST).to(tl.int64)
        total = tl.associative_scan(tokens - tl.where(number == 0, _RESET_TOTAL, 0), 0, _add_from_reset)
        total = tl.where(total < 0, total + _RESET_TOTAL, total + written)
        tl.store(states + tile, (total - tokens) * 16 + run, mask=there)
        tl.store(sizes + segment, total, mask=there & (follower == 0))
        final = tl.arange(0, CHUNK) == CHUNK - 1
        carried = tl.sum(tl.where(final, run, 0), 0)
        written = tl.sum(tl.where(final, total, 0), 0)


@triton.jit(do_not_specialize=["num_tiles"])
def _write_tokens(symbols, tiles, states, data, num_tiles, TILE: tl.constexpr):
    """Write the tokens that end in each tile to their places in `data`."""
    start, size, _segment, number, more = _tile(tiles, num_tiles)
    state = tl.load(states + tl.program_id(0))
    x = _load_lanes(symbols + start, size + more, TILE)
    last = tl.associative_scan(_last_in_lanes(x, TILE), 0, _larger)
    run = _run_before_lanes(last, (state & 15).to(tl.int32), TILE)
    tokens = ()
    count = tl.zeros([TILE // _LANE], tl.int32)
    for k in tl.static_range(_LANE):
        end = (x[k] != _ZERO) | (x[k + 1] != _ZERO) | (run == _LONGEST - 1)
        byte = tl.where(x[k] != _ZERO, x[k], tl.where(run == 0, _ZERO, 242 + run))
        tokens += (tl.where(end, byte, _NONE),)  # type: ignore[assignment]
        count += end.to(tl.int32)
        run = tl.where(end, 0, run + 1)
    place = tl.cumsum(count, 0) - count
    total = tl.sum(count, 0) - (TILE - size)  # bytes from `size` on are one token each
    placed = ()
    for k in tl.static_range(_LANE):
        placed += ((place << 8) + tokens[k],)  # type: ignore[assignment]
        place += (tokens[k] < _NONE).to(tl.int32)
    both = _interleave(placed)
    target = data + (start - number * TILE + (state >> 4))
    tl.store(target + (both >> 8), (both & 255).to(tl.uint8), mask=both < total << 8)


@triton.jit
def _check_sizes(sizes, expanded, status, num_segments, BLOCK: tl.constexpr):
    """Set the status of the segments that do not expand to their sizes, each by one program."""
    for at in range(tl.program_id(0) * BLOCK, num_segments, tl.num_programs(0) * BLOCK):
        segment = at + tl.arange(0, BLOCK)
        there = segment < num_segments
        size = tl.load(sizes + segment, mask=there, other=0)
        wrong = size != tl.load(expanded + segment, mask=there, other=0)
        tl.store(status + segment, tl.full([BLOCK], 1, tl.int32), mask=there & wrong)


@triton.jit(do_not_specialize=["num_tiles", "num_segments"])
def _write_symbols(
    data, tiles, states, symbols, starts, sizes, expanded, status, num_tiles, num_segments, TILE: tl.constexpr
):
    """Expand each tile whose segment expands to its size: bytes 121 everywhere, then the others over them."""
    _check_sizes(sizes, expanded, status, num_segments, 128)
    start, size, segment, _number, _more = _tile(tiles, num_tiles)
    right = tl.load(sizes + segment) == tl.load(expanded + segment)
    size = tl.where(right, size, 0)
    state = tl.load(states + tl.program_id(0), mask=size > 0, other=0)
    target = symbols + (tl.load(starts + segment) + (state >> 4))
    x = _load_lanes(data + start, size, TILE)
    count = tl.zeros([TILE // _LANE], tl.int32)
    for k in tl.static_range(_LANE):
        count += tl.maximum(x[k] - 241, 1)
    place = tl.cumsum(count, 0) - count
    total = tl.sum(count, 0) - (TILE - size)  # bytes from `size` on are 0
    placed = ()
    for k in tl.static_range(_LANE):
        other = (x[k] != _ZERO) & (x[k] < 243)
        placed += (tl.where(other, (place << 8) + x[k], _NONE),)  # type: ignore[assignment]
        place += tl.maximum(x[k] - 241, 1)
    for at in range(0, total, TILE):
        zero = at + tl.arange(0, TILE)
        tl.store(target + zero, tl.full([TILE], _ZERO, tl.uint8), mask=zero < total)
    tl.debug_barrier()  # other threads store the other bytes
    both = _interleave(placed)
    tl.store(target + (both >> 8), (both & 255).to(tl.uint8), mask=both < total << 8)
