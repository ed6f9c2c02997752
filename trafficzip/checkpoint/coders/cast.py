"""Floating point numbers with fewer bits of mantissa, stored by byte planes (FORMAT.md section 9)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from trafficzip.checkpoint.byte_planes import pack_planes
from trafficzip.checkpoint.coders.base import Coder, Decode, Encoding, Job
from trafficzip.checkpoint.coders.planes import planes_decoder
from trafficzip.checkpoint.pieces import Piece
from trafficzip.checkpoint.tensors import DTYPES, Array, TensorInfo
from trafficzip.errors import ConfigError
from trafficzip.wire.cursor import Bytes


class _Format(NamedTuple):
    """The bits of a floating point number: a sign where there are rounding bits, exponent, mantissa."""

    mantissa_bits: int
    first_special: int  # the number without its sign is finite below this
    has_negative_zero: bool = True  # otherwise this is NaN


_FORMATS = {
    "float16": _Format(10, 31 << 10),
    "bfloat16": _Format(7, 255 << 7),
    "float32": _Format(23, 255 << 23),
    "float64": _Format(52, 2047 << 52),
    "float8_e4m3fn": _Format(3, 0x7F),
    "float8_e5m2": _Format(2, 31 << 2),
    "float8_e4m3fnuz": _Format(3, 0x80, has_negative_zero=False),
    "float8_e5m2fnuz": _Format(2, 0x80, has_negative_zero=False),
    "float8_e8m0fnu": _Format(0, 0xFF),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast(Coder):
    """Round numbers to `mantissa_bits`, 0 to 52, ties to even; 7 make a float32 a bfloat16.

    Numbers beyond the largest one of so many bits become that one; NaN and infinity stay. Decoding gives the rounded
    numbers, in the dtype of the tensor; a dtype with no more bits keeps every bit.

    Raises:
        ConfigError: mantissa_bits is out of range.
    """

    kind: ClassVar[str] = "cast"
    mantissa_bits: int = 7

    def __post_init__(self) -> None:
        if not 0 <= self.mantissa_bits <= 52:
            raise ConfigError(f"cast: mantissa_bits is {self.mantissa_bits}, expected 0 to 52")

    def check(self, info: TensorInfo) -> None:
        """Check that the tensor is of floating point numbers."""
        if not info.is_float:
            raise ConfigError(f"{info}: only floating point numbers can be rounded; store it losslessly")

    def plan(self, job: Job) -> Encoding:
        """Pieces share nothing."""

        def encode(piece: Piece, arrays: Sequence[Array]) -> bytes:
            dtype = job.infos[piece[0].tensor].dtype
            return pack_planes([rounded(array, dtype, self.mantissa_bits) for array in arrays], dtype)

        return Encoding((None,) * len(job.infos), None, encode)

    def decoder(self, infos: Sequence[TensorInfo], params: Sequence[Any], shared: Bytes | None) -> Decode:
        """Give what decodes pieces, as for planes."""
        return planes_decoder(infos, params, shared)


def rounded(values: Array, dtype: str, mantissa_bits: int) -> Array:
    """Round numbers of this dtype to at most `mantissa_bits` bits of mantissa, ties to even.

    Below the normal numbers, the last bit that is kept is that of the smallest normal ones.
    """
    form = _FORMATS[dtype]
    dropped = form.mantissa_bits - mantissa_bits
    if dropped <= 0:
        return values
    bits = values.view(f"u{DTYPES[dtype].itemsize}")
    number = bits.dtype.type
    sign = number(1 << (8 * bits.itemsize - 1))
    below = number((1 << dropped) - 1)
    magnitude = bits & ~sign
    last = magnitude >> number(dropped) & number(1)
    nearest = magnitude + ((below >> number(1)) + last) & ~below  # no carry into the sign is lost: specials end below
    nearest = np.minimum(nearest, number(form.first_special - 1) & ~below)
    if form.has_negative_zero:
        special = magnitude >= number(form.first_special)
        nearest |= bits & sign
    else:
        special = bits == sign
        nearest |= np.where(nearest == 0, number(0), bits & sign)
    return np.where(special, bits, nearest).view(DTYPES[dtype])


assert set(_FORMATS) == {name for name in DTYPES if "float" in name}
