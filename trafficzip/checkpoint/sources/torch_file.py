"""PyTorch's files: the weights in a zip archive that torch.save wrote; nothing in it is executed."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trafficzip.checkpoint.sources.lazy import TensorSource, reading
from trafficzip.checkpoint.sources.memory import memory_entries
from trafficzip.errors import ConfigError

WEIGHT_KEYS = ("state_dict", "model", "model_state_dict")  # where training scripts keep the weights


def open_torch(path: Path) -> TensorSource:
    """Open a PyTorch file that is a mapping of names to tensors, or holds just one under a key of WEIGHT_KEYS.

    What lies beside that mapping, such as the optimizer's state, is left out; metadata `torch.left_out` names it.

    Raises:
        ConfigError: the file is damaged, asks for code to be run, holds something else, or a value is no tensor.
    """
    what = str(path)
    _check_archive(path)
    import torch

    with reading(what):
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    weights, metadata = _find_weights(content, what)
    return TensorSource(memory_entries(weights, what), what=what, metadata=metadata)


def _check_archive(path: Path) -> None:
    with reading(str(path)), path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            file.seek(0)
            found = file.read(4)
            raise ConfigError(
                f"{path}: found {found!r} at its start and no zip archive behind it, expected a file of torch.save "
                "of PyTorch 1.6 or later"
            )
        with zipfile.ZipFile(file) as archive:
            packed = [member.filename for member in archive.infolist() if member.compress_type != zipfile.ZIP_STORED]
    if packed:  # torch would map the packed bytes as if they were the tensor's
        raise ConfigError(f"{path}: member {packed[0]!r} is compressed, expected an archive as torch.save writes it")


def _find_weights(content: Any, what: str) -> tuple[Mapping[str, Any], dict[str, str]]:
    expected = f"expected names and their tensors, or these under one of {', '.join(WEIGHT_KEYS)}"
    if not isinstance(content, Mapping):
        raise ConfigError(f"{what}: found a {type(content).__qualname__}, {expected}")
    keys = [key for key in WEIGHT_KEYS if isinstance(content.get(key), Mapping)]
    if len(keys) > 1:
        raise ConfigError(f"{what}: found mappings under {' and '.join(keys)}, {expected}")
    if not keys:
        return content, {}
    left_out = ", ".join(str(key) for key in content if key != keys[0])
    return content[keys[0]], {"torch.left_out": left_out} if left_out else {}
