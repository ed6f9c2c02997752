"""Top-k sparsification: the largest values of each group and where they are."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from trafficzip import kernels
from trafficzip.errors import ConfigError, CorruptPayloadError
from trafficzip.kernels import Groups, baselines, elias_fano
from trafficzip.quantizers.base import F32, Quantized, Quantizer
from trafficzip.quantizers.cast import LARGEST_BFLOAT16

_INFINITE = np.uint16(0x7F80)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopK(Quantizer):
    """Send the ceil(share * size) values of each group with the largest magnitude; ties go to lower positions.

    Values travel as bfloat16: error feedback keeps what rounding took, so nothing is lost, and a value costs two thirds
    of what float32 would make it cost. Positions are in Elias-Fano code, whose size follows from the groups.

    share: of a group's elements, 0 < share <= 1; sender and receiver have the same.

    Raises:
        ConfigError: the share is out of range.
    Source: Aji, Heafield 2017 (1 %, residuals); Stich, Cordonnier, Jaggi 2018; Lin et al. 2018 (Deep Gradient
        Compression: down to 0.1 %, with means against staleness that are not here).
    """

    quantizer_id: ClassVar[int] = 5
    alphabet: ClassVar[int] = 256
    has_scales: ClassVar[bool] = False
    share: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigError(f"share of values to send must be in (0, 1], got {self.share}")

    def find_scales(self, values: F32, residual: F32 | None, groups: Groups, *, num_threads: int = 1) -> F32 | None:
        """Give max |value + residual| of each group."""
        peaks = kernels.group_peaks(values, residual, groups, num_threads=num_threads)
        return peaks if (peaks <= LARGEST_BFLOAT16).all() else None

    def quantize(
        self,
        values: F32,
        groups: Groups,
        *,
        scales: F32,
        residual: F32 | None = None,
        out: F32 | None = None,
        out_like_residual: bool = True,
    ) -> Quantized:
        """Give the bytes of the chosen values, then those of their positions."""
        counts = self._counts(groups)
        chosen, positions = baselines.top_k(
            values, residual, out, groups, scales, counts, out_like_residual=out_like_residual
        )
        codes = np.concatenate([chosen.view(np.uint8), elias_fano.encode(positions, groups.num_elements)])
        return Quantized(codes, np.zeros(0, np.float32), groups)

    def num_codes(self, groups: Groups) -> int:
        """Count the bytes of values and positions."""
        count = int(self._counts(groups).sum())
        return 2 * count + elias_fano.encoded_size(count, groups.num_elements)

    def accumulate(
        self, codes: NDArray[Any], scales: F32, groups: Groups, out: F32, *, sign: float, out_like_residual: bool
    ) -> None:
        """Add sign * value to `out` at each position.

        Raises:
            CorruptPayloadError: a value is not finite, or positions are not what this share of the groups gives.
        """
        del scales
        counts = self._counts(groups)
        count = int(counts.sum())
        bits = codes[: 2 * count].copy().view(np.uint16)
        if (bits & _INFINITE == _INFINITE).any():
            raise CorruptPayloadError("top-k: a value is not finite")
        positions = elias_fano.decode(codes[2 * count :], count, groups.num_elements)
        sizes = np.array(groups.sizes, np.int64)
        begins = np.cumsum(sizes) - sizes
        low, high = np.repeat(begins, counts), np.repeat(begins + sizes, counts)
        if ((positions < low) | (positions >= high)).any():
            raise CorruptPayloadError("top-k: a group has another number of values than its share")
        starts = np.array(groups.residual_starts if out_like_residual else groups.value_starts, np.int64)
        values = (bits.astype(np.uint32) << 16).view(np.float32)
        out[positions + np.repeat(starts - begins, counts)] += np.float32(sign) * values

    def _counts(self, groups: Groups) -> NDArray[np.int64]:
        return np.ceil(self.share * np.array(groups.sizes, np.float64)).astype(np.int64)
