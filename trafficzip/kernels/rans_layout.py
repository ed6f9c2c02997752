"""How a rANS payload is laid out around its chunks: forms, model, chunk lengths and sizes.

Source: FORMAT.md, rANS.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trafficzip.errors import ConfigError, CorruptPayloadError
from trafficzip.kernels import rans
from trafficzip.kernels.reference_rans import NUM_SYMBOLS
from trafficzip.kernels.segments import Segments

ONE_SYMBOL = 0  # first bytes of the two forms without a model
PLAIN = 8
_CHUNKED = 128  # bit of a model's first byte
_MIN_CHUNK_BITS, _MAX_CHUNK_BITS = 8, 24
_MAX_SIZE_BYTES = 5
_MAX_MODEL_BYTES = 2067  # (8 + 1 + 3 * 243 + 243 * (63 + 1 + 1)) / 8: a difference above 126 gives no code


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Layout:
    """What stands before the chunks of a payload that has a model.

    frequencies: int64 [243], sum 2**precision_bits.
    chunk_length: symbols of every chunk but the last one, which has the rest.
    bounds: int64 [chunks + 1], bytes at which the chunks start, and the size of the payload.
    """

    frequencies: NDArray[np.int64]
    precision_bits: int
    chunk_length: int
    bounds: NDArray[np.int64]


def check_chunk_symbols(chunk_symbols: int) -> None:
    """Check the most symbols that a chunk may have.

    Raises:
        ConfigError: no power of two in [2**8, 2**24].
    """
    if chunk_symbols not in [1 << bits for bits in range(_MIN_CHUNK_BITS, _MAX_CHUNK_BITS + 1)]:
        raise ConfigError(f"chunk_symbols must be a power of two in [2**8, 2**24], got {chunk_symbols}")


def chunk_length(num_symbols: int, chunk_symbols: int) -> int:
    """Give the symbols of each of the fewest equal chunks of at most `chunk_symbols`; a multiple of eight."""
    num_chunks = -(-num_symbols // chunk_symbols)
    return -(-num_symbols // (8 * num_chunks)) * 8


def chunked_model(model: NDArray[np.uint8], chunk_symbols: int) -> NDArray[np.uint8]:
    """Say in a copy of a model that sizes of chunks follow, and how long chunks may be."""
    header = np.concatenate([model, np.array([chunk_symbols.bit_length() - 1], np.uint8)])
    header[0] |= _CHUNKED
    return header


def write_sizes(sizes: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Write sizes below 2**35 as unsigned LEB128: uint8 [m]."""
    shifted = sizes[:, None] >> 7 * np.arange(_MAX_SIZE_BYTES)
    rest = shifted >> 7 > 0
    data = shifted & 127 | rest << 7
    kept = np.concatenate([np.ones((sizes.size, 1), np.bool_), rest[:, :-1]], axis=1)
    written: NDArray[np.uint8] = data[kept].astype(np.uint8)
    return written


def max_head_bytes(num_symbols: int) -> int:
    """Give how many bytes of a payload say as much to `read_layout` as all of it."""
    return _MAX_MODEL_BYTES + 1 + _MAX_SIZE_BYTES * (num_symbols >> _MIN_CHUNK_BITS)


def read_form(head: NDArray[np.uint8], payload_bytes: int, num_symbols: int) -> Layout | int:
    """Read what stands before chunks or plain symbols.

    Arguments as for `read_layout`.  Returns: a layout; or the symbol that is repeated; or -1 for plain symbols, which
    are not checked.

    Raises:
        CorruptPayloadError: as `read_layout`; or a form without a model that does not have these symbols.
    """
    if head[0] & 7:
        return read_layout(head, payload_bytes, num_symbols)
    if head[0] == ONE_SYMBOL and payload_bytes == 2 and head[1] < NUM_SYMBOLS:
        return int(head[1])
    if head[0] == PLAIN and payload_bytes == num_symbols + 1:
        return -1
    raise CorruptPayloadError(
        f"rANS payload at byte 0: found form {head[0]} with {payload_bytes - 1} bytes, expected one symbol repeated "
        f"{num_symbols} times or {num_symbols} plain symbols, below {NUM_SYMBOLS}"
    )


def read_layout(head: NDArray[np.uint8], payload_bytes: int, num_symbols: int) -> Layout:
    """Read what stands before the chunks.

    head: uint8 [m], m > 0, the payload or its first bytes, `max_head_bytes` at least.  num_symbols: > 0.

    Raises:
        CorruptPayloadError: no model, or chunks that do not fit in the payload or do not have these symbols.
    """
    frequencies = np.zeros(NUM_SYMBOLS, np.int64)
    at, precision_bits = rans.read_model(head, frequencies)
    if at < 0:
        raise CorruptPayloadError("rANS payload at byte 0: found no model, expected one of FORMAT.md, rANS, model")
    length = num_symbols
    bounds = np.array([at, payload_bytes])
    if head[0] & _CHUNKED:
        length = chunk_length(num_symbols, _read_chunk_symbols(head, at, payload_bytes, num_symbols))
        bounds = _read_chunk_bounds(head, at + 1, payload_bytes, -(-num_symbols // length))
    return Layout(frequencies=frequencies, precision_bits=precision_bits, chunk_length=length, bounds=bounds)


def chunk_table(layouts: Sequence[Layout | None], segments: Segments, stretches: Segments) -> NDArray[np.int64]:
    """List the chunks: int64 [5, chunks]: first byte, byte behind the last, first symbol, symbols, segment."""
    tables = [np.zeros((5, 0), np.int64)]
    for segment, layout in enumerate(layouts):
        if layout is not None:
            bounds = segments.starts[segment] + layout.bounds
            before = np.arange(bounds.size - 1) * layout.chunk_length
            size = np.minimum(stretches.sizes[segment] - before, layout.chunk_length)
            place = stretches.starts[segment] + before
            tables.append(np.stack([bounds[:-1], bounds[1:], place, size, np.full_like(size, segment)]))
    return np.concatenate(tables, axis=1)


def model_tables(layouts: Sequence[Layout | None]) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """Give what tables of slots are made of.

    Returns: rows, int64 [4, segments]: precision_bits, place of the first slot, likeliest symbol and its span;
    start << 16 | frequency of each symbol, uint32 [segments, 256].
    """
    rows = np.zeros((4, len(layouts)), np.int64)
    spans = np.zeros((len(layouts), 256), np.uint32)
    for segment, layout in enumerate(layouts):
        if layout is not None:
            start = np.cumsum(layout.frequencies) - layout.frequencies
            # Symbols behind the last one that occurs may start at 2**16: all ones mean an end that no slot reaches.
            span = np.where(start < 1 << 16, start << 16 | layout.frequencies, 0xFFFFFFFF)
            spans[segment, :NUM_SYMBOLS] = span
            likeliest = int(layout.frequencies.argmax())
            rows[[0, 2, 3], segment] = layout.precision_bits, likeliest, spans[segment, likeliest]
    slots = np.where(rows[0] > 0, 1 << rows[0], 0)
    rows[1] = np.cumsum(slots) - slots
    return rows, spans


def _read_chunk_symbols(head: NDArray[np.uint8], at: int, payload_bytes: int, num_symbols: int) -> int:
    chunk_bits = int(head[at]) if at < head.size else 0
    num_chunks = (num_symbols - 1) >> chunk_bits  # at least this many and one more; each takes more than one byte
    if not _MIN_CHUNK_BITS <= chunk_bits <= _MAX_CHUNK_BITS or not 0 < num_chunks < payload_bytes:
        raise CorruptPayloadError(
            f"rANS payload at byte {at}: found chunks of 2**{chunk_bits} symbols in a payload of {num_symbols}, "
            f"expected an exponent in [{_MIN_CHUNK_BITS}, {_MAX_CHUNK_BITS}] and two chunks or more, of a byte or more"
        )
    return 1 << chunk_bits


def _read_chunk_bounds(head: NDArray[np.uint8], at: int, payload_bytes: int, num_chunks: int) -> NDArray[np.int64]:
    """Read the sizes at byte `at`; give where each chunk starts, and the end of the last one."""
    data = head[at : at + _MAX_SIZE_BYTES * (num_chunks - 1)]
    last = np.flatnonzero(data < 128)[: num_chunks - 1]  # byte of each size
    first = np.concatenate([np.zeros(min(last.size, 1), np.int64), last[:-1] + 1])
    wrong = (last - first >= _MAX_SIZE_BYTES) | (last > first) & (data[last] == 0)
    if wrong.any() or last.size < num_chunks - 1:
        index = int(wrong.argmax()) if wrong.any() else last.size
        start = int(last[index - 1]) + 1 if index else 0
        found = min(start + _MAX_SIZE_BYTES - 1, int(last[index]) if index < last.size else data.size)
        raise CorruptPayloadError(f"rANS payload at byte {at + found}: found no size of chunk {index}")
    sizes = np.zeros(last.size, np.int64)
    for place in range(_MAX_SIZE_BYTES):
        byte = data[np.minimum(first + place, last)].astype(np.int64) & 127
        sizes |= np.where(first + place <= last, byte << 7 * place, 0)
    at += int(last[-1]) + 1
    bounds = np.concatenate([at + np.cumsum(np.append(0, sizes)), [payload_bytes]])
    if bounds[-2] > payload_bytes:
        raise CorruptPayloadError(
            f"rANS payload: found {payload_bytes - at} bytes of chunks, "
            f"expected {sizes.sum()} before the last one alone"
        )
    return bounds
