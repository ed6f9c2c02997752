"""trafficzip: compressed gradient exchange for PyTorch distributed training, and compressed checkpoints.

    import trafficzip
    compression = trafficzip.ddp.register(model)  # model: DistributedDataParallel
    trafficzip.save(model, "model.tzip", "small")  # after training
    tensors = trafficzip.load("model.tzip")

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
    from trafficzip.checkpoint.grams import collect_grams
    from trafficzip.checkpoint.inspect import inspect
    from trafficzip.checkpoint.load import load, load_into
    from trafficzip.checkpoint.open import open_checkpoint as open
    from trafficzip.checkpoint.runtime import read_quantized
    from trafficzip.checkpoint.save import save

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
    "collect_grams",
    "ddp",
    "fsdp",
    "inspect",
    "load",
    "load_into",
    "local_sgd",
    "open",
    "read_quantized",
    "save",
    "with_multiplier",
]


_CHECKPOINT = {  # imported when first used: what they need is installed by the extra "checkpoint"
    "collect_grams": ("grams", "collect_grams"),
    "inspect": ("inspect", "inspect"),
    "load": ("load", "load"),
    "load_into": ("load", "load_into"),
    "open": ("open", "open_checkpoint"),
    "read_quantized": ("runtime", "read_quantized"),
    "save": ("save", "save"),
}


def __getattr__(name: str) -> Any:
    if name in _CHECKPOINT:
        module, member = _CHECKPOINT[name]
        return getattr(import_module(f"trafficzip.checkpoint.{module}"), member)
    if name in ("ddp", "fsdp", "local_sgd"):
        return import_module(f"trafficzip.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
