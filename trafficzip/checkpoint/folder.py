"""Files and folders of a model: every safetensors file becomes a compressed one, all else is kept, and back."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from trafficzip.checkpoint.allocate import allocate
from trafficzip.checkpoint.open import open_checkpoint
from trafficzip.checkpoint.reader import CheckpointFile
from trafficzip.checkpoint.recipe import Recipe
from trafficzip.checkpoint.save import Saved
from trafficzip.checkpoint.sinks import atomic_file, write_safetensors
from trafficzip.checkpoint.sources import TensorSource, open_source
from trafficzip.checkpoint.tensors import Array
from trafficzip.checkpoint.writer import Progress, write_checkpoint
from trafficzip.errors import ConfigError

SUFFIX = ".tzip"
_TENSORS = ".safetensors"
_BATCH_BYTES = 1 << 26  # of tensors that are decoded together


def compress_folder(
    folder: str | os.PathLike[str],
    target: str | os.PathLike[str],
    recipe: Recipe,
    *,
    num_threads: int | None = None,
    progress: Progress = lambda _: None,
) -> Saved:
    """Compress the safetensors files of a folder and copy its other files into a new folder.

    Steps are chosen for all files together; the index of shards stays as it is, since names come back as they were.

    Raises:
        ConfigError: there are no such files, the target is there already, or the recipe's target cannot be met.
    """
    num_threads = num_threads or os.cpu_count() or 1
    if recipe.size is not None:
        raise ConfigError(f"{folder}: a size is for one file; give bits, or max_error, for a folder")
    with ExitStack() as stack:
        shards = _files(Path(folder), _TENSORS)
        sources = [stack.enter_context(open_source(shard)) for shard in shards]
        every = [(info, partial(source.read, info.name)) for source in sources for info in source.infos]
        joint = TensorSource(every, what=str(folder))
        allocation = allocate(joint, recipe, num_threads=num_threads)
        chosen = {assignment.info.name: assignment for assignment in allocation.assignments}
        size = 0
        with _new_folder(Path(folder), Path(target), _TENSORS) as made:
            for shard, source in zip(shards, sources, strict=True):
                with atomic_file(_place(made, shard, SUFFIX)) as file:
                    assignments = [chosen[info.name] for info in source.infos]
                    size += write_checkpoint(
                        file, source, assignments, metadata=source.metadata, num_threads=num_threads, progress=progress
                    )
        infos = joint.infos
        return Saved(size, sum(i.num_elements for i in infos), sum(i.num_bytes for i in infos), allocation)


def decompress_folder(
    folder: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    num_threads: int | None = None,
    progress: Progress = lambda _: None,
) -> None:
    """Undo `compress_folder`, into a new folder.

    Raises:
        ConfigError: there are no compressed files, or the target is there already.
        CorruptPayloadError, UnsupportedFormatError: a file is damaged.
    """
    with _new_folder(Path(folder), Path(target), SUFFIX) as made:
        for file in _files(Path(folder), SUFFIX):
            decompress_file(file, _place(made, file, _TENSORS), num_threads=num_threads, progress=progress)


def decompress_file(
    path: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    num_threads: int | None = None,
    progress: Progress = lambda _: None,
) -> None:
    """Write the tensors of a compressed file as safetensors, one of them in memory at a time.

    Raises:
        ConfigError: there is no such file, or safetensors has no dtype for a tensor.
        CorruptPayloadError, UnsupportedFormatError: the file is damaged.
    """
    with open_checkpoint(path, base=base, num_threads=num_threads) as file:
        write_safetensors(target, file.infos, _arrays(file, progress), metadata=file.metadata)


def _arrays(file: CheckpointFile, progress: Progress) -> Iterator[Array]:
    """Decode tensors in order; small ones together, as they share records."""
    batch: list[str] = []
    held = 0
    for info in file.infos:
        batch.append(info.name)
        held += info.num_bytes
        if held >= _BATCH_BYTES:
            yield from file.read_many(batch).values()
            batch, held = [], 0
        progress(info.num_elements)
    yield from file.read_many(batch).values()


def _files(folder: Path, suffix: str) -> list[Path]:
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder")
    found = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix == suffix)
    if not found:
        raise ConfigError(f"{folder}: has no files that end with {suffix}")
    return found


def _place(folder: Path, source: Path, suffix: str) -> Path:
    """Give where a file goes that is made of another."""
    place = folder / source.with_suffix(suffix).name
    if place.exists():
        raise ConfigError(f"{source}: {place.name} is beside it already, which would be replaced; move one of them")
    return place


@contextmanager
def _new_folder(source: Path, target: Path, suffix: str) -> Iterator[Path]:
    """Make a folder that appears only when the block ends well, with copies of all but the files of a suffix.

    Raises:
        ConfigError: the target is there already or inside the source, or where it is to be is no folder.
    """
    if target.resolve().is_relative_to(source.resolve()):
        raise ConfigError(f"{target}: is in {source}, which is to be copied; expected a folder outside")
    if target.exists():
        raise ConfigError(f"{target}: is there already; expected a folder to make")
    if not target.resolve().parent.is_dir():
        raise ConfigError(f"{target}: its folder does not exist")
    part = target.resolve().with_name(f".{target.name[:48]}.{secrets.token_hex(8)}.tmp")
    try:
        part.mkdir()
        for entry in sorted(source.iterdir()):
            if entry.is_dir():
                shutil.copytree(entry, part / entry.name)
            elif entry.suffix != suffix:
                shutil.copy2(entry, part / entry.name)
        yield part
        os.rename(part, target)
    except BaseException:  # KeyboardInterrupt too
        shutil.rmtree(part, ignore_errors=True)
        raise
