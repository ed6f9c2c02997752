"""GGUF files, read with the library gguf; tensors that are quantized in its ways are given as float32."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from trafficzip.checkpoint.sources.lazy import Entry, TensorSource, reading
from trafficzip.checkpoint.tensors import DTYPES, Array, TensorInfo
from trafficzip.errors import ConfigError

_PLAIN = {  # GGUF's name: ours; every other type is blocks of quantized values
    **{"F16": "float16", "F32": "float32", "F64": "float64", "BF16": "bfloat16"},
    **{"I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64"},
}


def open_gguf(path: Path) -> TensorSource:
    """Open a GGUF file, mapped; its metadata are the fields that are text or one number.

    Metadata `gguf.dequantized` is a JSON object: names of the tensors that were quantized, and their types.

    Raises:
        ConfigError: gguf is not installed or refuses the file; or a type is not known.
    """
    what = str(path)
    reader = _open_reader(path)
    entries, quantized = [], {}
    for tensor in reader.tensors:
        where = f"{what}: tensor {tensor.name!r}"
        shape = tuple(int(length) for length in reversed(tensor.shape))
        kind = tensor.tensor_type.name
        if kind not in _PLAIN:
            _check_known(tensor.tensor_type, where)
            quantized[tensor.name] = kind
        entries.append(_entry(tensor, TensorInfo(tensor.name, _PLAIN.get(kind, "float32"), shape)))
    with reading(what):
        metadata = _metadata(reader)
    if quantized:
        metadata["gguf.dequantized"] = json.dumps(quantized)
    return TensorSource(entries, what=what, metadata=metadata)


def _open_reader(path: Path) -> Any:
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise ConfigError(f"{path}: GGUF files need gguf; install trafficzip[formats]") from error

    class BoundedReader(GGUFReader):
        """The library's reader, which alone would read nothing past the end, for as long as a count says."""

        def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
            end = int(offset) + int(count) * np.dtype(dtype).itemsize
            if end > len(self.data):
                raise ValueError(f"it ends at byte {len(self.data)}, expected data up to byte {end}")
            return super()._get(offset, dtype, count, override_order)

    with reading(str(path)):
        reader = BoundedReader(path)
    if reader.byte_order != "I":
        raise ConfigError(f"{path}: found a GGUF file of the other byte order, expected this machine's")
    return reader


def _check_known(kind: Any, where: str) -> None:
    from gguf import GGML_QUANT_SIZES, dequantize

    _, block_bytes = GGML_QUANT_SIZES[kind]
    try:
        dequantize(np.zeros((1, block_bytes), np.uint8), kind)
    except NotImplementedError as error:
        raise ConfigError(f"{where}: found type {kind.name}, which gguf cannot dequantize") from error


def _entry(tensor: Any, info: TensorInfo) -> Entry:
    if tensor.tensor_type.name in _PLAIN:
        return info, partial(_plain, tensor.data, info)
    return info, partial(_dequantized, tensor)


def _plain(data: Array, info: TensorInfo) -> Array:
    return data.view(np.ndarray).reshape(-1).view(DTYPES[info.dtype]).reshape(info.shape)


def _dequantized(tensor: Any) -> Array:
    from gguf import dequantize

    values: Array = dequantize(tensor.data, tensor.tensor_type)
    return values


def _metadata(reader: Any) -> dict[str, str]:
    fields = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    return {name: str(field.contents()) for name, field in fields.items() if field.types[0].name != "ARRAY"}
