"""The lossless stages, and the one table of them."""

from trafficzip.codecs.base import Codec
from trafficzip.codecs.quartic import Quartic
from trafficzip.codecs.rans import Rans
from trafficzip.codecs.zero_run import ZeroRun

CODECS: dict[int, type[Codec]] = {  # FORMAT.md, codec ids; ids are never reused
    1: Quartic,
    2: ZeroRun,
    3: Rans,
}

__all__ = ["CODECS", "Codec", "Quartic", "Rans", "ZeroRun"]
