"""What a checkpoint holds: named arrays. Every dtype is a NumPy dtype, those that NumPy lacks by ml_dtypes."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from trafficzip.errors import ConfigError

_INTEGERS = [f"{sign}int{bits}" for sign in ("u", "") for bits in (8, 16, 32, 64)]
_NUMPY = ["bool", *_INTEGERS, "float16", "float32", "float64", "complex64", "complex128"]
_ML_DTYPES = ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"]
DTYPES: dict[str, np.dtype[Any]] = {
    **{name: np.dtype(name) for name in _NUMPY},
    **{name: np.dtype(getattr(ml_dtypes, name)) for name in _ML_DTYPES},
}
FLOATS = frozenset(name for name in DTYPES if "float" in name)
Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Name, dtype (a key of DTYPES) and shape of a tensor; and whether it shares no record with others."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    alone: bool = False

    @property
    def num_elements(self) -> int:
        """How many elements it has; 1 for a 0-dim tensor."""
        return prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Its size in memory."""
        return self.num_elements * DTYPES[self.dtype].itemsize

    @property
    def is_float(self) -> bool:
        """Whether it can be quantized."""
        return self.dtype in FLOATS

    @property
    def num_rows(self) -> int:
        """The length of its first axis; 1 for a 0-dim tensor."""
        return self.shape[0] if self.shape else 1

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}{list(self.shape)}"


class Source(Protocol):
    """Tensors that can be read one at a time, more than once; a context manager where it holds files open."""

    @property
    def metadata(self) -> dict[str, str]:
        """Text that travels with the tensors."""

    @property
    def infos(self) -> tuple[TensorInfo, ...]:
        """All tensors, in the order in which they are stored."""

    def read(self, name: str) -> Array:
        """Give one tensor, of the dtype and shape that its info says; it may be read-only and mapped."""


def dtype_name(dtype: np.dtype[Any], what: str) -> str:
    """Give the key in DTYPES of a NumPy dtype, of either byte order.

    Raises:
        ConfigError: no tensor may have it; `what` says which one has.
    """
    name = dtype.name
    if name not in DTYPES:
        raise ConfigError(f"{what}: dtype {dtype} cannot be stored; known are {', '.join(DTYPES)}")
    return name


def check_names(infos: Iterable[TensorInfo], what: str) -> None:
    """Check that no two tensors share a name.

    Raises:
        ConfigError: two do.
    """
    seen = set()
    for info in infos:
        if info.name in seen:
            raise ConfigError(f"{what}: two tensors are called {info.name!r}")
        seen.add(info.name)
