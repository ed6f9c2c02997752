"""Casts: small or delicate tensors travel as bfloat16, or as they are."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from trafficzip import kernels
from trafficzip.errors import ConfigError
from trafficzip.kernels import Groups
from trafficzip.quantizers.base import F32, Quantized, Quantizer

LARGEST_BFLOAT16 = np.array([0x7F7F7FFF], np.uint32).view(np.float32)[0]  # anything above rounds to infinity


@dataclass(frozen=True, slots=True)
class _Cast(Quantizer):
    """What both casts share."""

    alphabet: ClassVar[int] = 256
    has_scales: ClassVar[bool] = False
    code_type: ClassVar[Any]
    largest: ClassVar[Any]

    def find_scales(self, values: F32, residual: F32 | None, groups: Groups, *, num_threads: int = 1) -> F32 | None:
        """Give max |value + residual| of each group."""
        peaks = kernels.group_peaks(values, residual, groups, num_threads=num_threads)
        return peaks if (peaks <= self.largest).all() else None

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
        """Give the bytes of the cast values, little-endian."""
        codes = kernels.cast(
            values,
            residual,
            out,
            groups,
            scales,
            out_like_residual=out_like_residual,
            bfloat16=self.code_type is np.uint16,
        )
        return Quantized(codes.view(np.uint8), np.zeros(0, np.float32), groups)

    def num_codes(self, groups: Groups) -> int:
        """Count the bytes of these groups."""
        return groups.num_elements * int(np.dtype(self.code_type).itemsize)

    def accumulate(
        self, codes: NDArray[Any], scales: F32, groups: Groups, out: F32, *, sign: float, out_like_residual: bool
    ) -> None:
        """Add sign * value to `out`."""
        del scales
        whole = codes if codes.flags.aligned and codes.ctypes.data % 4 == 0 else codes.copy()
        kernels.cast_accumulate(whole.view(self.code_type), sign, out, groups, out_like_residual=out_like_residual)


@dataclass(frozen=True, slots=True)
class CastFloat32(_Cast):
    """Values as they are, four bytes each."""

    quantizer_id: ClassVar[int] = 2
    code_type: ClassVar[Any] = np.float32
    largest: ClassVar[Any] = np.finfo(np.float32).max


@dataclass(frozen=True, slots=True)
class CastBfloat16(_Cast):
    """Values rounded to bfloat16, ties to even, two bytes each."""

    quantizer_id: ClassVar[int] = 3
    code_type: ClassVar[Any] = np.uint16
    largest: ClassVar[Any] = LARGEST_BFLOAT16


def cast_to(dtype: Literal["float32", "bfloat16"]) -> Quantizer:
    """Give the cast to `dtype`.

    Raises:
        ConfigError: no cast to that dtype.
    """
    if dtype == "float32":
        return CastFloat32()
    if dtype == "bfloat16":
        return CastBfloat16()
    raise ConfigError(f"no cast to {dtype!r}; there are 'float32' and 'bfloat16'")
