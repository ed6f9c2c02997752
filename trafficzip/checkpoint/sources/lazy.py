"""A source whose tensors are read one at a time, by a function each, and how a bad file becomes an error."""

import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import PickleError
from struct import error as struct_error
from types import TracebackType
from typing import Any, Self

import numpy as np

from trafficzip.checkpoint.tensors import DTYPES, Array, TensorInfo, check_names, dtype_name
from trafficzip.errors import ConfigError

Entry = tuple[TensorInfo, Callable[[], Array]]  # a tensor and what gives it
_BAD_FILE: tuple[type[BaseException], ...] = (  # what libraries raise when they meet bytes that they do not expect
    *(OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, ArithmeticError),
    *(AssertionError, ImportError, PickleError, zipfile.BadZipFile, zlib.error, struct_error),
)


class TensorSource:
    """Tensors read one at a time, read-only, C-contiguous and native; a context manager that closes its files."""

    def __init__(
        self,
        entries: Iterable[Entry],
        *,
        what: str,
        metadata: Mapping[str, str] | None = None,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        entries = list(entries)
        check_names((info for info, _ in entries), what)
        self._entries = {info.name: (info, load) for info, load in entries}
        self._what = what
        self._metadata = dict(metadata or {})
        self._close = close

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._what}, {len(self._entries)} tensors)"

    @property
    def metadata(self) -> dict[str, str]:
        """Text that travels with the tensors."""
        return dict(self._metadata)

    @property
    def infos(self) -> tuple[TensorInfo, ...]:
        """All tensors, in the order in which they are stored."""
        return tuple(info for info, _ in self._entries.values())

    def read(self, name: str) -> Array:
        """Give one tensor; it may be mapped from the file, or share memory with the tensor it came from.

        Raises:
            ConfigError: there is none of that name, or what is stored is not what was said of it.
        """
        if name not in self._entries:
            raise ConfigError(f"{self._what}: no tensor is called {name!r}")
        info, load = self._entries[name]
        what = f"{self._what}: tensor {name!r}"
        with reading(what):
            array = load()
        found = dtype_name(array.dtype, what), array.shape
        if found != (info.dtype, info.shape):
            raise ConfigError(f"{what}: found {found[0]}{list(found[1])}, expected {info.dtype}{list(info.shape)}")
        array = np.require(array, DTYPES[info.dtype], ["C", "A"]).view(np.ndarray)
        array.flags.writeable = False  # a mapped one is; so nobody comes to rely on writing
        return array

    def close(self) -> None:
        """Close the files; arrays given before stay valid, no tensor can be read any more."""
        self._entries = {}
        self._close()


@contextmanager
def reading(what: str, *errors: type[BaseException]) -> Iterator[None]:
    """Turn what a library raises on a bad file, `errors` of its own included, into one error that names the file.

    Raises:
        ConfigError: the block raised one of those.
    """
    try:
        yield
    except ConfigError:
        raise
    except (*_BAD_FILE, *errors) as error:
        raise ConfigError(f"{what}: cannot be read: {_reason(error)}") from error


def map_file(path: Path) -> Array:
    """Map a file that is not empty into memory, of which it takes none until it is read.

    Returns: uint8 [bytes of the file], read-only.
    """
    return np.memmap(path, np.uint8, mode="r").view(np.ndarray)


def typed_view(data: Array, start: int, info: TensorInfo) -> Array:
    """See the bytes from `start` on as a tensor, aligned or not.

    data: uint8 [n]; at least info.num_bytes follow start.
    """
    return data[start : start + info.num_bytes].view(DTYPES[info.dtype]).reshape(info.shape)


def _reason(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    lines: list[Any] = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "Unpickler error" in line] or lines or ["no reason given"]
    return f"{type(error).__name__}: {telling[0]}"
