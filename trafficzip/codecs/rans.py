"""The interleaved order-0 rANS codec over quartic bytes."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from trafficzip.codecs.base import Bytes, Codec
from trafficzip.errors import ConfigError, CorruptPayloadError
from trafficzip.kernels import rans
from trafficzip.kernels.rans_layout import (
    ONE_SYMBOL,
    PLAIN,
    Layout,
    check_chunk_symbols,
    chunk_length,
    chunked_model,
    read_form,
    write_sizes,
)
from trafficzip.kernels.reference_rans import NUM_SYMBOLS


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
        check_chunk_symbols(self.chunk_symbols)

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
        chunks = _split(symbols, chunk_length(symbols.size, self.chunk_symbols))
        counts = rans.count(chunks, num_threads=num_threads)
        if counts[NUM_SYMBOLS:].any():
            raise ConfigError(f"symbols must be below {NUM_SYMBOLS}, got {symbols.max()}")
        if counts[symbols[0]] == symbols.size:
            return np.array([ONE_SYMBOL, symbols[0]], np.uint8)[: symbols.size + 1]
        header, frequencies, precision_bits = rans.fit(counts)
        model = frequencies, precision_bits
        encoded = rans.encode(chunks, model, chunk_symbols=self.chunk_symbols, num_threads=num_threads)
        sizes = np.array([chunk.size for chunk in encoded])
        if len(chunks) > 1:
            header = np.concatenate([chunked_model(header, self.chunk_symbols), write_sizes(sizes[:-1])])
        if header.size + sizes.sum() > symbols.size:
            return np.concatenate([np.array([PLAIN], np.uint8), symbols])
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
        layout = read_form(data, data.size, num_symbols)
        if not isinstance(layout, Layout):
            return _decode_without_model(data, layout, num_symbols)
        symbols = np.empty(num_symbols, np.uint8)
        chunks = _split(symbols, layout.chunk_length)
        bounds = layout.bounds.tolist()
        parts = [data[start:end] for start, end in zip(bounds[:-1], bounds[1:], strict=True)]
        decoded = rans.decode(parts, chunks, layout.frequencies, layout.precision_bits, num_threads=num_threads)
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


def _split(symbols: NDArray[np.uint8], length: int) -> list[NDArray[np.uint8]]:
    return [symbols[start : start + length] for start in range(0, symbols.size, length)]


def _decode_without_model(data: Bytes, repeated: int, num_symbols: int) -> NDArray[np.uint8]:
    """Decode the forms that have no model: one symbol repeated, and plain symbols, where `repeated` is -1."""
    if repeated >= 0:
        return np.full(num_symbols, repeated, np.uint8)
    if data[1:].max() >= NUM_SYMBOLS:
        raise CorruptPayloadError(
            f"rANS payload: found plain symbol {data[1:].max()}, expected less than {NUM_SYMBOLS}"
        )
    return data[1:].copy()
