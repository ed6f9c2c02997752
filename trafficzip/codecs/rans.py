"""The interleaved order-0 rANS codec over quartic bytes."""

from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from trafficzip import kernels
from trafficzip.codecs.base import Bytes, Codec
from trafficzip.codecs.frequencies import fit_model, read_model
from trafficzip.errors import ConfigError, CorruptPayloadError
from trafficzip.kernels.reference_rans import NUM_SYMBOLS

_ONE_SYMBOL = 0  # first bytes of the two forms without a model
_PLAIN = 8
_CHUNKED = 128  # bit of a model's first byte
_MIN_CHUNK_BITS, _MAX_CHUNK_BITS = 8, 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Rans(Codec):
    """Code bytes with range asymmetric numeral systems (Duda 2013), in chunks that threads code independently.

    Source: FORMAT.md, rANS.
    """

    codec_id: ClassVar[int] = 3
    input_alphabet: ClassVar[int] = NUM_SYMBOLS
    output_alphabet: ClassVar[int] = 256
    chunk_symbols: int = 65536  # at most; the payload says it, so decoders of any setting read all payloads

    def __post_init__(self) -> None:
        allowed = [1 << bits for bits in range(_MIN_CHUNK_BITS, _MAX_CHUNK_BITS + 1)]
        if self.chunk_symbols not in allowed:
            raise ConfigError(f"chunk_symbols must be a power of two in [2**8, 2**24], got {self.chunk_symbols}")

    def encode(self, symbols: NDArray[Any], *, num_threads: int = 1) -> Bytes:
        """Encode symbols, uint8 [n] below 243, into at most n + 1 bytes.

        Raises:
            ConfigError: `symbols` is not a vector of bytes below 243.
        """
        if symbols.dtype != np.uint8 or symbols.ndim != 1:
            raise ConfigError(f"symbols must be uint8 [n], got {symbols.dtype} {list(symbols.shape)}")
        if symbols.size == 0:
            return symbols.copy()
        symbols = np.require(symbols, requirements=["C", "W"])  # kernels are compiled for this kind of array alone
        chunks = _split(symbols, self.chunk_symbols)
        counts = kernels.rans_count(chunks, num_threads=num_threads)
        if counts[NUM_SYMBOLS:].any():
            raise ConfigError(f"symbols must be below {NUM_SYMBOLS}, got {symbols.max()}")
        if counts[symbols[0]] == symbols.size:
            return np.array([_ONE_SYMBOL, symbols[0]], np.uint8)[: symbols.size + 1]
        model = fit_model(counts)
        encoded = kernels.rans_encode(chunks, model.frequencies, model.precision_bits, num_threads=num_threads)
        header = model.data
        if len(chunks) > 1:
            header = _chunked_header(model.data, self.chunk_symbols, [chunk.size for chunk in encoded[:-1]])
        if header.size + sum(chunk.size for chunk in encoded) > symbols.size:
            return np.concatenate([np.array([_PLAIN], np.uint8), symbols])
        return np.concatenate([header, *encoded])

    def decode(self, data: Bytes, num_symbols: int, *, num_threads: int = 1) -> NDArray[np.uint8]:
        """Decode exactly `num_symbols` symbols, uint8 [num_symbols] below 243, from all of `data`.

        Raises:
            CorruptPayloadError: `data` is not a whole encoding of `num_symbols` symbols.
        """
        if (data.size == 0) != (num_symbols == 0):
            raise CorruptPayloadError(f"rANS payload: found {data.size} bytes for {num_symbols} symbols")
        if num_symbols == 0:
            return np.empty(0, np.uint8)
        data = np.require(data, requirements=["C", "W"])
        if data[0] & 7 == 0:
            return _decode_without_model(data, num_symbols)
        model = read_model(data)
        symbols = np.empty(num_symbols, np.uint8)
        chunks, bounds = [symbols], [model.data.size, data.size]
        if data[0] & _CHUNKED:
            chunk_symbols = _read_chunk_symbols(data, model.data.size, num_symbols)
            chunks = _split(symbols, chunk_symbols)
            bounds = _read_chunk_bounds(data, model.data.size + 1, len(chunks))
        parts = [data[start:end] for start, end in zip(bounds[:-1], bounds[1:], strict=True)]
        decoded = kernels.rans_decode(parts, chunks, model.frequencies, model.precision_bits, num_threads=num_threads)
        if not all(decoded):
            index = decoded.index(False)
            raise CorruptPayloadError(
                f"rANS payload at bytes {bounds[index]} to {bounds[index + 1]}: found no encoding of the "
                f"{chunks[index].size} symbols of chunk {index}"
            )
        return symbols

    def max_encoded_size(self, num_symbols: int) -> int:
        """Give the bytes of the plain form, which is taken where coding does not help."""
        return num_symbols + 1 if num_symbols else 0


def _split(symbols: NDArray[np.uint8], chunk_symbols: int) -> list[NDArray[np.uint8]]:
    """Cut symbols into equal chunks of at most `chunk_symbols`, a multiple of eight except for the last one."""
    num_chunks = -(-symbols.size // chunk_symbols)
    length = -(-symbols.size // (8 * num_chunks)) * 8
    return [symbols[start : start + length] for start in range(0, symbols.size, length)]


def _chunked_header(model: Bytes, chunk_symbols: int, sizes: list[int]) -> Bytes:
    """Put the chunk length and the sizes of all chunks but the last one, as LEB128, behind the model."""
    tail = bytearray([chunk_symbols.bit_length() - 1])
    for size in sizes:
        while size > 127:
            tail.append(size & 127 | 128)
            size >>= 7
        tail.append(size)
    header = np.concatenate([model, np.frombuffer(tail, np.uint8)])
    header[0] |= _CHUNKED
    return header


def _read_chunk_symbols(data: Bytes, start: int, num_symbols: int) -> int:
    chunk_bits = int(data[start]) if start < data.size else 0
    num_chunks = (num_symbols - 1) >> chunk_bits  # at least this many and one more; each takes more than one byte
    if not _MIN_CHUNK_BITS <= chunk_bits <= _MAX_CHUNK_BITS or not 0 < num_chunks < data.size:
        raise CorruptPayloadError(
            f"rANS payload at byte {start}: found chunks of 2**{chunk_bits} symbols in a payload of {num_symbols}, "
            f"expected an exponent in [{_MIN_CHUNK_BITS}, {_MAX_CHUNK_BITS}] and two chunks or more, of a byte or more"
        )
    return 1 << chunk_bits


def _read_chunk_bounds(data: Bytes, at: int, num_chunks: int) -> list[int]:
    """Read the sizes at byte `at`; give where each chunk starts, and the end of the last one."""
    sizes: list[int] = []
    while len(sizes) < num_chunks - 1:
        size, shift = 0, 0
        while at < data.size and data[at] & 128 and shift < 28:
            size |= int(data[at] & 127) << shift
            at, shift = at + 1, shift + 7
        if at == data.size or data[at] & 128 or (shift and data[at] == 0):
            raise CorruptPayloadError(f"rANS payload at byte {at}: found no size of chunk {len(sizes)}")
        sizes.append(size | int(data[at]) << shift)
        at += 1
    bounds = [*accumulate(sizes, initial=at), data.size]
    if bounds[-2] > data.size:
        raise CorruptPayloadError(
            f"rANS payload: found {data.size - at} bytes of chunks, expected {sum(sizes)} before the last one alone"
        )
    return bounds


def _decode_without_model(data: Bytes, num_symbols: int) -> NDArray[np.uint8]:
    """Decode the forms that have no model: one symbol repeated, and plain symbols."""
    symbols = data[1:]
    if data[0] == _ONE_SYMBOL and symbols.size == 1 and symbols[0] < NUM_SYMBOLS:
        return np.full(num_symbols, symbols[0], np.uint8)
    if data[0] == _PLAIN and symbols.size == num_symbols and symbols.max() < NUM_SYMBOLS:
        return symbols.copy()
    raise CorruptPayloadError(
        f"rANS payload at byte 0: found form {data[0]} with {symbols.size} bytes, expected one symbol repeated "
        f"{num_symbols} times or {num_symbols} plain symbols, below {NUM_SYMBOLS}"
    )
