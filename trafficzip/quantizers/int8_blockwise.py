"""Symmetric 8-bit quantization, one scale per block of consecutive elements."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from trafficzip.errors import ConfigError, CorruptPayloadError
from trafficzip.kernels import Groups, baselines
from trafficzip.quantizers.base import F32, Quantized, Quantizer
from trafficzip.quantizers.int8 import int8_scales


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Blockwise(Quantizer):
    """Map each value to the nearest of scale * (-127..127), where scale = max |value| / 127 of its block.

    A block is to it what a group is to Int8: one whose values are all zero sends nothing and keeps its residual. The
    scales are part of the payload.

    block: elements of a block, a power of two in 16..65536; sender and receiver have the same.

    Raises:
        ConfigError: the block size is no such number.
    Source: Dettmers, Lewis, Shleifer, Zettlemoyer 2022 (blockwise quantization), with linear levels.
    """

    quantizer_id: ClassVar[int] = 7
    alphabet: ClassVar[int] = 256
    has_scales: ClassVar[bool] = False
    block: int = 256

    def __post_init__(self) -> None:
        if not 16 <= self.block <= 65536 or self.block & (self.block - 1):
            raise ConfigError(f"block must be a power of two in 16..65536, got {self.block}")

    def find_scales(self, values: F32, residual: F32 | None, groups: Groups, *, num_threads: int = 1) -> F32 | None:
        """Give max |value + residual| / 127 of each block, float32 [blocks]."""
        return int8_scales(baselines.block_peaks(values, residual, groups, block=self.block))

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
        """Give the bytes of all scales, then codes in -127..127, two's complement."""
        codes = baselines.quantize_int8_blocks(
            values, residual, out, groups, scales, block=self.block, out_like_residual=out_like_residual
        )
        return Quantized(np.concatenate([scales.view(np.uint8), codes.view(np.uint8)]), np.zeros(0, np.float32), groups)

    def num_codes(self, groups: Groups) -> int:
        """Four bytes a block and one an element."""
        return groups.num_elements + 4 * self._num_blocks(groups)

    def accumulate(
        self, codes: NDArray[Any], scales: F32, groups: Groups, out: F32, *, sign: float, out_like_residual: bool
    ) -> None:
        """Add sign * scale * code to `out`.

        Raises:
            CorruptPayloadError: a scale or a code is none that an encoder writes.
        """
        cut = 4 * self._num_blocks(groups)
        scales = codes[:cut].copy().view(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            if not (np.isfinite(scales * np.float32(127)) & (scales >= 0)).all():
                raise CorruptPayloadError("8-bit blocks: a scale is negative or too large")
        baselines.int8_blocks_accumulate(
            codes[cut:].view(np.int8),
            scales * np.float32(sign),
            out,
            groups,
            block=self.block,
            out_like_residual=out_like_residual,
        )

    def _num_blocks(self, groups: Groups) -> int:
        return sum(-(-size // self.block) for size in groups.sizes)
