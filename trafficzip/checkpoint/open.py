"""Open a compressed checkpoint, with the one that it was compressed against."""

import os

from trafficzip.checkpoint.coders.delta import Base
from trafficzip.checkpoint.reader import CheckpointFile
from trafficzip.checkpoint.sources import open_source


def open_checkpoint(
    path: str | os.PathLike[str] | bytes,
    *,
    base: "str | os.PathLike[str] | bytes | Base | None" = None,
    num_threads: int | None = None,
) -> CheckpointFile:
    """Map a file into memory and give its tensors as a mapping of NumPy arrays, each decoded when it is taken.

    base: the checkpoint that it was compressed against, if it was: compressed or not, by path or open.
    num_threads: how many threads decode; one per CPU by default.

    Raises:
        ConfigError: there is no such file.
        CorruptPayloadError: the file is damaged.
        UnsupportedFormatError: it is no checkpoint, or one that this release cannot read.
    """
    return CheckpointFile(path, base=open_base(base), num_threads=num_threads)


def open_base(base: "str | os.PathLike[str] | bytes | Base | None") -> Base | None:
    """Open a checkpoint, compressed or not, if it is not open yet; it stays open as long as it is used.

    Raises:
        ConfigError: there is no such file, or it holds no tensors.
    """
    if isinstance(base, bytes):
        return CheckpointFile(base)
    if isinstance(base, str | os.PathLike):
        return CheckpointFile(base) if is_compressed(base) else open_source(base)
    return base


def is_compressed(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file begins as a container does."""
    try:
        with open(path, "rb") as file:
            return file.read(5) == b"\x89TZIP"
    except (IsADirectoryError, FileNotFoundError):
        return False
