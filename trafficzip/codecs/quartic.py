"""Quartic encoding: five ternary codes in one byte (3LC; "base-3^5" in the MLSys version)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.typing import NDArray

from trafficzip import kernels
from trafficzip.codecs.base import Bytes, Codec
from trafficzip.errors import CorruptPayloadError


@dataclass(frozen=True, slots=True, kw_only=True)
class Quartic(Codec):
    """Pack five consecutive codes -1, 0, 1 into a byte 0..242; missing codes count as 0.

    Source: 3LC, section on quartic encoding; FORMAT.md, quartic.
    """

    codec_id: ClassVar[int] = 1
    input_alphabet: ClassVar[int] = 3
    output_alphabet: ClassVar[int] = 243

    def encode(self, symbols: NDArray[Any], *, num_threads: int = 1) -> Bytes:
        """Encode int8 [n] into uint8 [ceil(n / 5)]."""
        return kernels.quartic_pack(symbols)

    def decode(self, data: Bytes, num_symbols: int, *, num_threads: int = 1) -> NDArray[Any]:
        """Decode int8 [num_symbols]; codes beyond them, in the last byte, must be 0."""
        if data.size != self.encoded_size(num_symbols):
            raise CorruptPayloadError(
                f"quartic: {data.size} bytes found, {num_symbols} codes need {self.encoded_size(num_symbols)}"
            )
        codes = kernels.quartic_unpack(data)
        if codes[num_symbols:].any():
            raise CorruptPayloadError("quartic: a padding code is not 0")
        return codes[:num_symbols]

    def max_encoded_size(self, num_symbols: int) -> int:
        """One byte for five codes, rounded up."""
        return -(-num_symbols // 5)

    def encoded_size(self, num_symbols: int) -> int | None:
        """One byte for five codes, rounded up, whatever the codes are."""
        return -(-num_symbols // 5)
