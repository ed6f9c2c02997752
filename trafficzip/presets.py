"""Named compressors.

`THREE_LC` is the paper's: quartic bytes with zero runs. `THREE_LC_RANS` sends the same values in fewer bytes.
Both take another sparsity multiplier through `with_multiplier`. `TOP_K`, `ONE_BIT` and `INT8_BLOCKWISE` are what others
do, for comparison.
"""

from dataclasses import replace

from trafficzip.codecs import Quartic, Rans, ZeroRun
from trafficzip.compressor import Compressor
from trafficzip.errors import ConfigError
from trafficzip.quantizers import CastBfloat16, CastFloat32, Int8, Int8Blockwise, OneBit, Ternary, TopK

THREE_LC = Compressor(quantizer=Ternary(), codecs=(Quartic(), ZeroRun()))
THREE_LC_RANS = Compressor(quantizer=Ternary(), codecs=(Quartic(), Rans()))
QUARTIC = Compressor(quantizer=Ternary(), codecs=(Quartic(),))
BFLOAT16 = Compressor(quantizer=CastBfloat16())
INT8 = Compressor(quantizer=Int8())
FLOAT32 = Compressor(quantizer=CastFloat32())
TOP_K = Compressor(quantizer=TopK())
ONE_BIT = Compressor(quantizer=OneBit())
INT8_BLOCKWISE = Compressor(quantizer=Int8Blockwise())

PRESETS = {
    "THREE_LC": THREE_LC,
    "THREE_LC_RANS": THREE_LC_RANS,
    "QUARTIC": QUARTIC,
    "BFLOAT16": BFLOAT16,
    "INT8": INT8,
    "FLOAT32": FLOAT32,
    "TOP_K": TOP_K,
    "ONE_BIT": ONE_BIT,
    "INT8_BLOCKWISE": INT8_BLOCKWISE,
}


def with_multiplier(compressor: Compressor, multiplier: float) -> Compressor:
    """Give the same compressor with another sparsity multiplier.

    Raises:
        ConfigError: the quantizer has none, or it is out of range.
    """
    if not isinstance(compressor.quantizer, Ternary):
        raise ConfigError(f"{type(compressor.quantizer).__name__} has no sparsity multiplier")
    return replace(compressor, quantizer=Ternary(multiplier=multiplier))
