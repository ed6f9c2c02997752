"""Tensors in memory: NumPy arrays and PyTorch tensors, by name."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from trafficzip.checkpoint.sources.lazy import Entry, TensorSource
from trafficzip.checkpoint.tensors import TensorInfo, dtype_name
from trafficzip.errors import ConfigError


class MemorySource(TensorSource):
    """Tensors of a mapping: NumPy arrays, or PyTorch tensors on any device, which are copied when they are read.

    Tensors that share storage, as tied weights do, are each given.

    >>> MemorySource({"weight": np.zeros((2, 3), np.float32)}).infos[0].shape
    (2, 3)

    Raises:
        ConfigError: a value is no dense array of numbers, or a name is no string.
    """

    def __init__(self, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
        for key, value in (metadata or {}).items():
            if not isinstance(key, str) or not isinstance(value, str):
                raise ConfigError(f"metadata {key!r}: found {value!r}, expected text by text")
        super().__init__(memory_entries(tensors, "memory"), what="memory", metadata=metadata)


def memory_entries(tensors: Mapping[str, Any], what: str) -> Iterator[Entry]:
    """Give each tensor of a mapping as an entry of a source; torch is imported only if one is PyTorch's.

    Raises:
        ConfigError: a value is no dense array of numbers, or a name is no string; `what` says of what mapping.
    """
    for name, value in tensors.items():
        if not isinstance(name, str):
            raise ConfigError(f"{what}: the name of a tensor is {name!r}, a {type(name).__name__}; expected a string")
        where = f"{what}: {name!r}"
        if isinstance(value, np.ndarray | np.generic):
            yield _numpy_entry(name, value, where)
        elif type(value).__module__.split(".")[0] == "torch":
            from trafficzip.checkpoint.sources.torch_tensors import torch_entry

            yield torch_entry(name, value, where)
        else:
            kind = f"{type(value).__module__}.{type(value).__qualname__}"
            raise ConfigError(f"{where} is a {kind}; expected a NumPy array or a PyTorch tensor")


def _numpy_entry(name: str, value: Any, where: str) -> Entry:
    if isinstance(value, np.ma.MaskedArray):
        raise ConfigError(f"{where} is a masked array, whose mask cannot be stored; fill it first")
    array = np.asarray(value)
    return TensorInfo(name, dtype_name(array.dtype, where), array.shape), lambda: array
