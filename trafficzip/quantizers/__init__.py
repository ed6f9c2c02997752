"""The lossy stages, and the one table of them."""

from trafficzip.kernels import Groups
from trafficzip.quantizers.base import Quantized, Quantizer
from trafficzip.quantizers.cast import CastBfloat16, CastFloat32, cast_to
from trafficzip.quantizers.int8 import Int8
from trafficzip.quantizers.ternary import Ternary

QUANTIZERS: dict[int, type[Quantizer]] = {  # FORMAT.md, quantizer ids; ids are never reused
    1: Ternary,
    2: CastFloat32,
    3: CastBfloat16,
    4: Int8,
}

__all__ = [
    "QUANTIZERS",
    "CastBfloat16",
    "CastFloat32",
    "Groups",
    "Int8",
    "Quantized",
    "Quantizer",
    "Ternary",
    "cast_to",
]
