"""safetensors files, mapped: a file of any size takes no memory until its tensors are read."""

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from trafficzip.checkpoint.sources.lazy import Entry, TensorSource, map_file, reading, typed_view
from trafficzip.checkpoint.tensors import TensorInfo
from trafficzip.errors import ConfigError

SAFETENSORS_DTYPES = {  # names in the header; F4 and F6 have no NumPy dtype of whole bytes
    **{"BOOL": "bool", "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64"},
    **{"I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64"},
    **{"F16": "float16", "F32": "float32", "F64": "float64", "C64": "complex64", "BF16": "bfloat16"},
    **{"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu"},
    **{"F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz"},
}


def open_safetensors(path: Path) -> TensorSource:
    """Open a safetensors file; the library checks its header, NumPy maps its tensors.

    The library itself gives no float8 to NumPy, and copies what it gives.

    Raises:
        ConfigError: the library refuses the file, a name comes twice, or a dtype is unknown.
    """
    what = str(path)
    with reading(what, SafetensorError):
        with safe_open(what, "np"):
            pass  # it holds: the offsets leave no gap, fit dtypes and shapes, and end where the file ends
        header, start = _read_header(path)
        metadata = header.pop("__metadata__", None)
        data = map_file(path)
    stored = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
    entries: list[Entry] = []
    for name, fields in stored:
        info = TensorInfo(name, _dtype(fields["dtype"], f"{what}: tensor {name!r}"), tuple(fields["shape"]))
        entries.append((info, partial(typed_view, data, start + fields["data_offsets"][0], info)))
    return TensorSource(entries, what=what, metadata=metadata)


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    with path.open("rb") as file:
        num_bytes = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(num_bytes), object_pairs_hook=_unique), 8 + num_bytes


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:  # the library would keep the last
            raise ValueError(f"{key!r} comes twice in the header")
        found[key] = value
    return found


def _dtype(name: str, where: str) -> str:
    if name not in SAFETENSORS_DTYPES:
        raise ConfigError(f"{where}: dtype {name} is unknown; known are {', '.join(SAFETENSORS_DTYPES)}")
    return SAFETENSORS_DTYPES[name]
