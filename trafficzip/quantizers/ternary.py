"""Ternary quantization with a sparsity multiplier (3LC)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from trafficzip import kernels
from trafficzip.errors import ConfigError
from trafficzip.kernels import Groups
from trafficzip.quantizers.base import F32, Quantized, Quantizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Ternary(Quantizer):
    """Map each value to the nearest of -M, 0, M, where M = multiplier * max |value| of its group.

    multiplier: the sparsity multiplier s, 0.5 <= s < 2. Larger sends less; below 1, values above M are sent as M and
        the rest waits in the residual. From 0.5 on, what is lost is exact in float32.

    Raises:
        ConfigError: the multiplier is out of range, also after rounding to float32.
    Source: 3LC, section on 3-value quantization with sparsity multiplication (Lim, Andersen, Kaminsky 2019).
    """

    quantizer_id: ClassVar[int] = 1
    alphabet: ClassVar[int] = 3
    has_scales: ClassVar[bool] = True
    multiplier: float = 1.0

    def __post_init__(self) -> None:
        if not 0.5 <= np.float32(self.multiplier) < 2:
            raise ConfigError(
                f"sparsity multiplier must be in [0.5, 2) as float32, got {self.multiplier}; at 2 nothing is ever sent"
            )

    def find_scales(self, values: F32, residual: F32 | None, groups: Groups, *, num_threads: int = 1) -> F32 | None:
        """Give M of each group."""
        peaks = kernels.group_peaks(values, residual, groups, num_threads=num_threads)
        with np.errstate(over="ignore"):
            scales = peaks * np.float32(self.multiplier)
        return scales if np.isfinite(scales).all() else None

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
        """Give codes in {-1, 0, 1}: +-1 where |value + residual| > M / 2."""
        codes = kernels.ternarize(values, residual, out, groups, scales, out_like_residual=out_like_residual)
        return Quantized(codes, scales, groups)

    def num_codes(self, groups: Groups) -> int:
        """Count the codes of these groups, padding included."""
        return groups.num_codes

    def accumulate(
        self, codes: NDArray[Any], scales: F32, groups: Groups, out: F32, *, sign: float, out_like_residual: bool
    ) -> None:
        """Add sign * M * code to `out`."""
        signed = scales * np.float32(sign)
        symbols = kernels.quartic_pack(codes)
        kernels.quartic_accumulate(symbols, signed, out, groups, out_like_residual=out_like_residual)
