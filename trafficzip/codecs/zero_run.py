"""Zero-run encoding: runs of zero bytes become one byte (3LC)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.typing import NDArray

from trafficzip import kernels
from trafficzip.codecs.base import Bytes, Codec


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroRun(Codec):
    """Replace runs of 2..14 bytes 121 by one byte 243..255, longest first.

    Source: 3LC, section on zero-run encoding; FORMAT.md, zero runs.
    """

    codec_id: ClassVar[int] = 2
    input_alphabet: ClassVar[int] = 243
    output_alphabet: ClassVar[int] = 256

    def encode(self, symbols: NDArray[Any], *, num_threads: int = 1) -> Bytes:
        """Encode uint8 [n], 0..242, into uint8 [m], m <= n."""
        return kernels.zero_run_encode(symbols, num_threads=num_threads)

    def decode(self, data: Bytes, num_symbols: int, *, num_threads: int = 1) -> NDArray[Any]:
        """Decode exactly uint8 [num_symbols]."""
        return kernels.zero_run_decode(data, num_symbols, num_threads=num_threads)

    def max_encoded_size(self, num_symbols: int) -> int:
        """As many bytes as symbols."""
        return num_symbols
