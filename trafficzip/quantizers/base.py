"""What a quantizer promises: the only lossy step."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from trafficzip.kernels import Groups

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Quantized:
    """What quantization gives.

    codes: int8 [groups.num_codes] for ternary codes, uint8 [bytes] for all others.
    scales: float32 [groups], or [0] for quantizers without scales.
    groups: the groups that were quantized.
    """

    codes: NDArray[Any] = field(repr=False)
    scales: F32 = field(repr=False)
    groups: Groups = field(repr=False)


class Quantizer(ABC):
    """A lossy stage. Quantizers are frozen dataclasses: their fields are their whole configuration.

    With a residual, what is quantized is value + residual, and what is lost goes to `out`, which may be the values or
    the residual themselves; `out_like_residual` says by which layout it is addressed. decoded + out = value + residual,
    exactly in float32, but for OneBit, which rounds `out`.
    """

    quantizer_id: ClassVar[int]  # FORMAT.md, quantizer ids
    alphabet: ClassVar[int]  # codes are below this once the codec has shifted them to be unsigned
    has_scales: ClassVar[bool]

    @abstractmethod
    def find_scales(self, values: F32, residual: F32 | None, groups: Groups, *, num_threads: int = 1) -> F32 | None:
        """Look at value + residual once, changing nothing, and give what `quantize` needs to know, float32 [groups].

        Int8Blockwise gives one for each block.

        0 marks a group whose values are all zero: it sends nothing and keeps its residual.
        None where some value + residual is not finite, or where what would be decoded is not.
        """

    @abstractmethod
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
        """Quantize with what find_scales gave, and write what is lost to `out` if it is given."""

    @abstractmethod
    def num_codes(self, groups: Groups) -> int:
        """Count the codes of these groups, padding included."""

    @abstractmethod
    def accumulate(
        self, codes: NDArray[Any], scales: F32, groups: Groups, out: F32, *, sign: float, out_like_residual: bool
    ) -> None:
        """Dequantize and add sign * value to `out`."""
