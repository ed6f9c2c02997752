"""The lossy stages, and the one table of them."""

from trafficzip.kernels import Groups
from trafficzip.quantizers.base import Quantized, Quantizer
from trafficzip.quantizers.cast import CastBfloat16, CastFloat32, cast_to
from trafficzip.quantizers.int8 import Int8
from trafficzip.quantizers.int8_blockwise import Int8Blockwise
from trafficzip.quantizers.one_bit import OneBit
from trafficzip.quantizers.ternary import Ternary
from trafficzip.quantizers.top_k import TopK

QUANTIZERS: dict[int, type[Quantizer]] = {  # FORMAT.md, quantizer ids; ids are never reused
    1: Ternary,
    2: CastFloat32,
    3: CastBfloat16,
    4: Int8,
    5: TopK,
    6: OneBit,
    7: Int8Blockwise,
}

__all__ = [
    "QUANTIZERS",
    "CastBfloat16",
    "CastFloat32",
    "Groups",
    "Int8",
    "Int8Blockwise",
    "OneBit",
    "Quantized",
    "Quantizer",
    "Ternary",
    "TopK",
    "cast_to",
]
