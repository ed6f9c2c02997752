"""NumPy's files: one array (.npy), mapped, or several in a zip archive (.npz)."""

import zipfile
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from trafficzip.checkpoint.sources.lazy import Entry, TensorSource, map_file, reading, typed_view
from trafficzip.checkpoint.tensors import DTYPES, Array, TensorInfo, dtype_name
from trafficzip.errors import ConfigError

_HEADERS = {  # version 3 differs only in names of fields, which no tensor has
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def open_npy(path: Path) -> TensorSource:
    """Open a .npy file as one tensor, named as the file is without its ending.

    Raises:
        ConfigError: it is no such file, its size is not what its header says, or its dtype cannot be stored.
    """
    what = str(path)
    with reading(what):
        with path.open("rb") as file:
            info, stored_dtype, is_fortran = _read_info(file, path.stem, what)
            start = file.tell()
        _check_size(path.stat().st_size - start, info, what)
        data = map_file(path)
    return TensorSource([(info, partial(_view, data, start, info, stored_dtype, is_fortran))], what=what)


def open_npz(path: Path) -> TensorSource:
    """Open a .npz file; its headers are read now, its arrays when asked for, with their checksum.

    Raises:
        ConfigError: it is no such file, a member is no array or of another size than its header says, or its dtype
            cannot be stored.
    """
    what = str(path)
    with reading(what):
        archive = zipfile.ZipFile(path)
    try:
        entries = [_member_entry(archive, member, what) for member in archive.infolist()]
        return TensorSource(entries, what=what, close=archive.close)
    except ConfigError:
        archive.close()
        raise


def _read_info(file: IO[bytes], name: str, where: str) -> tuple[TensorInfo, np.dtype[Any], bool]:
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ConfigError(f"{where}: found version {version} of the .npy format, expected 1.0 or 2.0")
    shape, is_fortran, dtype = _HEADERS[version](file)
    if any(length < 0 for length in shape):
        raise ConfigError(f"{where}: found shape {shape}, expected no negative length")
    return TensorInfo(name, dtype_name(dtype, where), tuple(shape)), dtype, is_fortran


def _check_size(found: int, info: TensorInfo, where: str) -> None:
    if found != info.num_bytes:
        raise ConfigError(f"{where}: found {found} bytes of data, expected {info.num_bytes} of {info}")


def _view(data: Array, start: int, info: TensorInfo, stored_dtype: np.dtype[Any], is_fortran: bool) -> Array:
    array = typed_view(data, start, info)
    if is_fortran:
        array = array.reshape(-1).reshape(info.shape, order="F")
    return array.view(DTYPES[info.dtype].newbyteorder(stored_dtype.byteorder))


def _member_entry(archive: zipfile.ZipFile, member: zipfile.ZipInfo, what: str) -> Entry:
    where = f"{what}: member {member.filename!r}"
    if not member.filename.endswith(".npy"):
        raise ConfigError(f"{where}: found no array, expected only members that end in .npy")
    with reading(where), archive.open(member) as file:
        info, _, _ = _read_info(file, member.filename.removesuffix(".npy"), where)
        _check_size(member.file_size - file.tell(), info, where)
    return info, partial(_read_member, archive, member)


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    with archive.open(member) as file:
        array: Array = np.lib.format.read_array(file, allow_pickle=False)
        file.read(1)  # at the end, the archive checks its checksum
    return array
