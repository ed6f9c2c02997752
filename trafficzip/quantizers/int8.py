"""Symmetric 8-bit quantization, one scale per group."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from trafficzip import kernels
from trafficzip.kernels import Groups
from trafficzip.quantizers.base import F32, Quantized, Quantizer

_LARGEST_CODE = np.float32(127)


def int8_scales(peaks: F32) -> F32 | None:
    """Give peak / 127, or 0 where that is not normal; None where a peak, or its decoded value, is not finite."""
    if not np.isfinite(peaks).all():
        return None
    scales = peaks / _LARGEST_CODE
    scales[scales < np.finfo(np.float32).tiny] = 0
    return scales if np.isfinite(scales * _LARGEST_CODE).all() else None


@dataclass(frozen=True, slots=True)
class Int8(Quantizer):
    """Map each value to the nearest of scale * (-127..127), where scale = max |value| / 127 of its group.

    A group whose scale would be below the smallest normal float32 sends nothing.
    Source: Dettmers, Lewis, Shleifer, Zettlemoyer 2022 (blockwise quantization), with linear levels.
    """

    quantizer_id: ClassVar[int] = 4
    alphabet: ClassVar[int] = 256
    has_scales: ClassVar[bool] = True

    def find_scales(self, values: F32, residual: F32 | None, groups: Groups, *, num_threads: int = 1) -> F32 | None:
        """Give max |value + residual| / 127 of each group."""
        return int8_scales(kernels.group_peaks(values, residual, groups, num_threads=num_threads))

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
        """Give codes in -127..127 as bytes, two's complement."""
        codes = kernels.quantize_int8(values, residual, out, groups, scales, out_like_residual=out_like_residual)
        return Quantized(codes.view(np.uint8), scales, groups)

    def num_codes(self, groups: Groups) -> int:
        """One byte an element."""
        return groups.num_elements

    def accumulate(
        self, codes: NDArray[Any], scales: F32, groups: Groups, out: F32, *, sign: float, out_like_residual: bool
    ) -> None:
        """Add sign * scale * code to `out`."""
        signed = scales * np.float32(sign)
        kernels.int8_accumulate(codes.view(np.int8), signed, out, groups, out_like_residual=out_like_residual)
