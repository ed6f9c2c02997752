"""Checkpoints of several safetensors files, as Hugging Face lays them out in a folder."""

import json
from collections import defaultdict
from functools import partial
from pathlib import Path

from trafficzip.checkpoint.sources.lazy import Entry, TensorSource, reading
from trafficzip.checkpoint.sources.safetensors_file import open_safetensors
from trafficzip.errors import ConfigError

INDEX_SUFFIX = ".safetensors.index.json"


def open_folder(path: Path) -> TensorSource:
    """Open model.safetensors of a folder, or else its only index, or else all its safetensors files together.

    Raises:
        ConfigError: there is none of these or more than one index; or a file is bad.
    """
    with reading(str(path)):
        names = sorted(entry.name for entry in path.iterdir() if entry.is_file())
    if "model.safetensors" in names:
        return open_safetensors(path / "model.safetensors")
    indexes = [name for name in names if name.endswith(INDEX_SUFFIX)]
    if len(indexes) > 1:
        raise ConfigError(f"{path}: found {len(indexes)} indexes ({', '.join(indexes)}), expected one; name the file")
    if indexes:
        return open_index(path / indexes[0])
    shards = [path / name for name in names if name.endswith(".safetensors")]
    if not shards:
        raise ConfigError(f"{path}: found {_listing(names)}, expected safetensors files or their index")
    return _join(shards, str(path))


def open_index(path: Path) -> TensorSource:
    """Open the shards that an index names; they hold the tensors that it says, no fewer and no more.

    Raises:
        ConfigError: the index is malformed, a shard is missing or bad, or tensors are not where the index says.
    """
    tensors_by_shard: dict[str, set[str]] = defaultdict(set)
    for tensor, name in _weight_map(path).items():
        tensors_by_shard[name].add(tensor)
    shards = [path.parent / name for name in sorted(tensors_by_shard)]
    for shard in shards:
        if not shard.is_file():
            raise ConfigError(f"{path}: shard {shard.name} is missing in {path.parent}")
    return _join(shards, str(path), expected=tensors_by_shard)


def _weight_map(path: Path) -> dict[str, str]:
    with reading(str(path)):
        index = json.loads(path.read_text("utf-8"), object_pairs_hook=_unique)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict):
        raise ConfigError(f"{path}: found no object 'weight_map', expected tensor names and their files in it")
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or Path(shard).name != shard:  # it may not lead out of the folder
            raise ConfigError(
                f"{path}: tensor {tensor!r} is in {shard!r}, expected the name of a file beside the index"
            )
    return weight_map


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)!r} comes twice")
    return found


def _join(shards: list[Path], what: str, expected: dict[str, set[str]] | None = None) -> TensorSource:
    entries: list[Entry] = []
    metadata: dict[str, str] = {}
    for path in shards:
        shard = open_safetensors(path)
        if expected is not None:
            _check_tensors(path, {info.name for info in shard.infos}, expected[path.name], what)
        entries += [(info, partial(shard.read, info.name)) for info in shard.infos]
        for key, value in shard.metadata.items():
            if metadata.setdefault(key, value) != value:  # where shards differ, the later ones say whose text it is
                metadata[f"{path.name}/{key}"] = value
    return TensorSource(entries, what=what, metadata=metadata)


def _check_tensors(path: Path, found: set[str], expected: set[str], what: str) -> None:
    if missing := expected - found:
        raise ConfigError(f"{what}: shard {path.name} lacks {_listing(sorted(missing))}, which the index says is there")
    if extra := found - expected:
        raise ConfigError(f"{what}: shard {path.name} holds {_listing(sorted(extra))}, which the index does not name")


def _listing(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:5]))
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown or "nothing"
