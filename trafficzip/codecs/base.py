"""What a codec promises: a lossless map from symbols to bytes and back."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


class Codec(ABC):
    """A lossless stage. Codecs are frozen dataclasses: their fields are their whole configuration.

    `input_alphabet` and `output_alphabet` are exclusive upper bounds of the symbols read and written; a chain fits
    where every stage's output alphabet is at most the next one's input alphabet.
    """

    codec_id: ClassVar[int]  # FORMAT.md, codec ids
    input_alphabet: ClassVar[int]
    output_alphabet: ClassVar[int]

    @abstractmethod
    def encode(self, symbols: NDArray[Any], *, num_threads: int = 1) -> Bytes:
        """Encode `symbols` (uint8 or int8 [n], below the input alphabet) into uint8 [m], m <= max_encoded_size(n)."""

    @abstractmethod
    def decode(self, data: Bytes, num_symbols: int, *, num_threads: int = 1) -> NDArray[Any]:
        """Decode exactly `num_symbols` symbols from all of `data`.

        Raises:
            CorruptPayloadError: `data` is not a whole encoding of `num_symbols` symbols.
        """

    @abstractmethod
    def max_encoded_size(self, num_symbols: int) -> int:
        """Give an upper bound, in bytes, of what `num_symbols` symbols encode to."""

    def encoded_size(self, num_symbols: int) -> int | None:
        """Give the exact size where it depends on `num_symbols` alone, else None: such a codec must be the last."""
        return None
