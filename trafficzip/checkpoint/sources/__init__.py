"""Where tensors come from: files of six formats, folders of them, and memory. One table names the formats."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

from trafficzip.checkpoint.sources.gguf_file import open_gguf
from trafficzip.checkpoint.sources.lazy import TensorSource, reading
from trafficzip.checkpoint.sources.memory import MemorySource
from trafficzip.checkpoint.sources.numpy_file import open_npy, open_npz
from trafficzip.checkpoint.sources.onnx_file import open_onnx
from trafficzip.checkpoint.sources.safetensors_file import open_safetensors
from trafficzip.checkpoint.sources.sharded import INDEX_SUFFIX, open_folder, open_index
from trafficzip.checkpoint.sources.torch_file import open_torch
from trafficzip.errors import ConfigError

__all__ = ["FORMATS", "SUFFIXES", "MemorySource", "TensorSource", "open_source"]

FORMATS: dict[str, Callable[[Path], TensorSource]] = {
    "safetensors": open_safetensors,
    "safetensors index": open_index,
    "PyTorch": open_torch,
    "npy": open_npy,
    "npz": open_npz,
    "GGUF": open_gguf,
    "ONNX": open_onnx,
}
SUFFIXES = {  # the end of a file's name: its format
    INDEX_SUFFIX: "safetensors index",
    ".safetensors": "safetensors",
    **dict.fromkeys((".pt", ".pth", ".bin", ".ckpt"), "PyTorch"),
    ".npy": "npy",
    ".npz": "npz",
    ".gguf": "GGUF",
    ".onnx": "ONNX",
}


def open_source(path: str | os.PathLike[str]) -> TensorSource:
    """Open the tensors of a file, by its name and by how it begins, or of a folder of safetensors files.

    A file whose name says nothing is taken for what it begins as; name and content may not contradict.

    Raises:
        ConfigError: there is no such file, it is of no known format, it is damaged, or it holds no plain tensors.
    """
    path = Path(path)
    if path.is_dir():
        return open_folder(path)
    named = next((kind for suffix, kind in SUFFIXES.items() if path.name.lower().endswith(suffix)), None)
    with reading(str(path)):
        start, found = _recognize(path)
    kind = named or found
    if kind is None:
        raise ConfigError(f"{path}: begins with {start!r}, expected a file of one of: {', '.join(FORMATS)}")
    if found not in (None, kind):
        raise ConfigError(f"{path}: begins as a {found} file, expected {kind} by its name")
    return FORMATS[kind](path)


def _recognize(path: Path) -> tuple[bytes, str | None]:
    with path.open("rb") as file:
        start = file.read(16)
        if start.startswith(b"PK") and zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                return start, _archive_format(archive.namelist())
    if start.startswith(b"\x93NUMPY"):
        return start, "npy"
    if start.startswith(b"GGUF"):
        return start, "GGUF"
    if start[8:9] == b"{" and start[5:8] == bytes(3):  # a header of less than 2**40 bytes
        return start, "safetensors"
    return start, None


def _archive_format(names: list[str]) -> str | None:
    if any(name.endswith("/data.pkl") for name in names):
        return "PyTorch"
    return "npz" if all(name.endswith(".npy") for name in names) else None
