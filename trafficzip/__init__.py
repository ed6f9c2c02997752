"""trafficzip: compressed gradient exchange for PyTorch distributed training.

    import trafficzip
    compression = trafficzip.ddp.register(model)  # model: DistributedDataParallel

Importing this package compiles nothing, starts no device and does not import torch; `trafficzip.ddp`,
`trafficzip.fsdp` and `trafficzip.local_sgd` do.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from trafficzip.compressor import Compressor
from trafficzip.error_feedback import ErrorFeedback
from trafficzip.errors import (
    CollectiveError,
    ConfigError,
    CorruptPayloadError,
    TrafficzipError,
    UnsupportedFormatError,
)
from trafficzip.kernels.groups import Groups
from trafficzip.presets import (
    BFLOAT16,
    FLOAT32,
    INT8,
    INT8_BLOCKWISE,
    ONE_BIT,
    QUARTIC,
    THREE_LC,
    THREE_LC_RANS,
    TOP_K,
    with_multiplier,
)
from trafficzip.version import __version__

if TYPE_CHECKING:
    from trafficzip import ddp, fsdp, local_sgd

__all__ = [
    "BFLOAT16",
    "FLOAT32",
    "INT8",
    "INT8_BLOCKWISE",
    "ONE_BIT",
    "QUARTIC",
    "THREE_LC",
    "THREE_LC_RANS",
    "TOP_K",
    "CollectiveError",
    "Compressor",
    "ConfigError",
    "CorruptPayloadError",
    "ErrorFeedback",
    "Groups",
    "TrafficzipError",
    "UnsupportedFormatError",
    "__version__",
    "ddp",
    "fsdp",
    "local_sgd",
    "with_multiplier",
]


def __getattr__(name: str) -> Any:
    if name in ("ddp", "fsdp", "local_sgd"):
        return import_module(f"trafficzip.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
