"""Where tensors go: safetensors files, written as a stream, and files that appear whole or not at all."""

import json
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

import numpy as np

from trafficzip.checkpoint.sources.safetensors_file import SAFETENSORS_DTYPES
from trafficzip.checkpoint.tensors import DTYPES, Array, TensorInfo, check_names, dtype_name
from trafficzip.errors import ConfigError
from trafficzip.wire.container import write_all

_NAMES = {ours: theirs for theirs, ours in SAFETENSORS_DTYPES.items()}
_MAX_HEADER_BYTES = 100_000_000  # the library reads no longer one


def write_safetensors(
    target: str | os.PathLike[str] | IO[bytes],
    infos: Sequence[TensorInfo],
    arrays: Iterable[Array],
    *,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors to a safetensors file or stream, in the order given, with one of them in memory at a time.

    The library writes only what is in memory all at once; a model that is decompressed tensor by tensor need not be.
    A file appears whole or not at all (atomic_file).

    Raises:
        ConfigError: safetensors has no such dtype or name, or an array is not what its info says.
    """
    header = _header(infos, metadata or {})
    if isinstance(target, str | os.PathLike):
        with atomic_file(target) as file:
            _write(file, header, infos, arrays)
    else:
        _write(target, header, infos, arrays)


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a new file that takes the place of `path`, durably, when the block ends; an error leaves the old one.

    It keeps the mode of the file it replaces; a symbolic link stays and what it points to is replaced. A process that
    is killed leaves the old file, and the new one beside it as .name.random.tmp.

    Raises:
        ConfigError: the folder is missing, or path is a folder or a device.
    """
    target = Path(os.path.realpath(path))
    mode = _replaced_mode(target)
    part = target.with_name(f".{target.name[:48]}.{secrets.token_hex(8)}.tmp")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:  # the umask applies
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    except BaseException:  # KeyboardInterrupt too
        part.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _header(infos: Sequence[TensorInfo], metadata: Mapping[str, str]) -> bytes:
    check_names(infos, "safetensors")
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    ends = list(accumulate((info.num_bytes for info in infos), initial=0))  # the format allows no gap between tensors
    for info, start, end in zip(infos, ends, ends[1:], strict=False):
        if info.name == "__metadata__":
            raise ConfigError("safetensors: a tensor is called '__metadata__', which the format keeps for itself")
        if info.dtype not in _NAMES:
            raise ConfigError(f"safetensors: {info} cannot be stored; known are {', '.join(_NAMES)}")
        header[info.name] = {"dtype": _NAMES[info.dtype], "shape": info.shape, "data_offsets": (start, end)}
    try:
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"safetensors: {error.object[error.start : error.end]!r} in a name is no text") from error
    text += b" " * (-len(text) % 8)
    if len(text) > _MAX_HEADER_BYTES:
        raise ConfigError(f"safetensors: the header takes {len(text)} bytes, expected at most {_MAX_HEADER_BYTES}")
    return len(text).to_bytes(8, "little") + text


def _write(stream: IO[bytes], header: bytes, infos: Sequence[TensorInfo], arrays: Iterable[Array]) -> None:
    write_all(stream, memoryview(header))
    left = iter(arrays)
    for info in infos:
        array = next(left, None)
        if array is None:
            raise ConfigError(f"safetensors: arrays end before {info}, expected {len(infos)} of them")
        write_all(stream, _bytes(array, info))
    if next(left, None) is not None:
        raise ConfigError(f"safetensors: more arrays came than the {len(infos)} that were announced")


def _bytes(array: Array, info: TensorInfo) -> memoryview:
    found = dtype_name(array.dtype, f"safetensors: {info.name!r}"), array.shape
    if found != (info.dtype, info.shape):
        raise ConfigError(f"safetensors: found {found[0]}{list(found[1])}, expected {info}")
    native = np.require(array, DTYPES[info.dtype], ["C"]).view(np.ndarray)
    flat: Any = native.reshape(-1).view(np.uint8)
    return memoryview(flat)


def _replaced_mode(target: Path) -> int | None:
    if not target.parent.is_dir():
        raise ConfigError(f"{target}: its folder does not exist")
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):  # as root, a device would be replaced
        raise ConfigError(
            f"{target}: found {'a folder' if stat.S_ISDIR(mode) else 'a device'}, expected a file or none"
        )
    return stat.S_IMODE(mode)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
