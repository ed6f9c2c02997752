"""One-bit quantization: the sign of each value, and one magnitude per group."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from trafficzip import kernels
from trafficzip.kernels import Groups, baselines
from trafficzip.quantizers.base import F32, Quantized, Quantizer


@dataclass(frozen=True, slots=True)
class OneBit(Quantizer):
    """Map each value to scale, or to -scale where it is negative, with scale = mean |value| of its group.

    One magnitude per group, and not one per sign as in Seide et al. 2014, because frames have one scale per group.
    What is lost is rounded to float32: a small value less a large scale has no exact difference.
    Source: Karimireddy, Rebjock, Stich, Jaggi 2019 (EF-SignSGD); Seide, Fu, Droppo, Li, Yu 2014 (1-bit SGD).
    """

    quantizer_id: ClassVar[int] = 6
    alphabet: ClassVar[int] = 256
    has_scales: ClassVar[bool] = True

    def find_scales(self, values: F32, residual: F32 | None, groups: Groups, *, num_threads: int = 1) -> F32 | None:
        """Give mean |value + residual| of each group."""
        peaks = kernels.group_peaks(values, residual, groups, num_threads=num_threads)
        return baselines.mean_magnitudes(values, residual, groups, peaks) if np.isfinite(peaks).all() else None

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
        """Give sign bits, eight in a byte, each group padded to whole bytes."""
        bits = baselines.sign_pack(values, residual, out, groups, scales, out_like_residual=out_like_residual)
        return Quantized(bits, scales, groups)

    def num_codes(self, groups: Groups) -> int:
        """Count the bytes of these groups."""
        return sum(-(-size // 8) for size in groups.sizes)

    def accumulate(
        self, codes: NDArray[Any], scales: F32, groups: Groups, out: F32, *, sign: float, out_like_residual: bool
    ) -> None:
        """Add sign * value to `out`.

        Raises:
            CorruptPayloadError: a padding bit is not 0.
        """
        signed = scales * np.float32(sign)
        baselines.sign_accumulate(codes, signed, out, groups, out_like_residual=out_like_residual)
