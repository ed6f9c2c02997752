"""Messages of gradient buckets made and read on a GPU; the same bytes as on the CPU. Needs Triton: the `gpu` extra."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from trafficzip.errors import ConfigError

if TYPE_CHECKING:
    from trafficzip.gpu.codec import GpuCodec
    from trafficzip.gpu.received import Coded, Received
    from trafficzip.gpu.variable import VariableCodec

__all__ = ["Coded", "GpuCodec", "Received", "VariableCodec"]
_MODULES = {"GpuCodec": "codec", "Coded": "received", "Received": "received", "VariableCodec": "variable"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    try:
        import triton  # noqa: F401
    except ImportError as error:
        raise ConfigError("CUDA tensors need Triton: pip install 'trafficzip[gpu]'") from error
    return getattr(import_module(f"trafficzip.gpu.{_MODULES[name]}"), name)
