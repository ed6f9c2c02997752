"""ONNX models, read with the library onnx: the initialisers of the main graph, data in other files included."""

from functools import partial
from pathlib import Path
from typing import Any

from trafficzip.checkpoint.sources.lazy import Entry, TensorSource, reading
from trafficzip.checkpoint.tensors import Array, TensorInfo, dtype_name
from trafficzip.errors import ConfigError


def open_onnx(path: Path) -> TensorSource:
    """Open the initialisers of a model's graph; data in other files is read when asked for.

    Constants inside nodes, and initialisers of graphs inside nodes, are no part of it.

    Raises:
        ConfigError: onnx is not installed or cannot parse the file; data is missing, sparse, or of an unknown dtype.
    """
    what = str(path)
    model = _load(path)
    if model.graph.sparse_initializer:
        raise ConfigError(
            f"{what}: {model.graph.sparse_initializer[0].values.name!r} is sparse, expected dense tensors"
        )
    entries = [_entry(tensor, path, f"{what}: tensor {tensor.name!r}") for tensor in model.graph.initializer]
    return TensorSource(entries, what=what, metadata={prop.key: prop.value for prop in model.metadata_props})


def _load(path: Path) -> Any:
    try:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    except ImportError as error:
        raise ConfigError(f"{path}: ONNX models need onnx; install trafficzip[formats]") from error

    with reading(str(path), DecodeError):
        model = onnx.load(path, format="protobuf", load_external_data=False)
    if not model.HasField("graph") or not model.opset_import:  # any prefix of whole fields parses, an empty file too
        raise ConfigError(f"{path}: found no graph with the version of its operators, expected an ONNX model")
    return model


def _entry(tensor: Any, path: Path, where: str) -> Entry:
    import onnx

    with reading(where):
        dtype = dtype_name(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type), where)
    info = TensorInfo(tensor.name, dtype, tuple(tensor.dims))
    if onnx.external_data_helper.uses_external_data(tensor):
        _check_external(tensor, info, path, where)
    elif tensor.HasField("raw_data") and len(tensor.raw_data) != info.num_bytes:
        raise ConfigError(f"{where}: found {len(tensor.raw_data)} bytes of data, expected {info.num_bytes} of {info}")
    return info, partial(_read, tensor, path.parent, where)


def _check_external(tensor: Any, info: TensorInfo, path: Path, where: str) -> None:
    from onnx.external_data_helper import ExternalDataInfo

    with reading(where):
        place = ExternalDataInfo(tensor)
        data_path = path.parent / place.location
        if not data_path.is_file():
            raise ConfigError(f"{where}: its data is in {place.location!r}, which is missing in {path.parent}")
        num_bytes = data_path.stat().st_size
    end = (place.offset or 0) + info.num_bytes
    if (place.length or info.num_bytes) != info.num_bytes or num_bytes < end:
        raise ConfigError(
            f"{where}: found {place.length or 'no length'} in {place.location!r} of {num_bytes} bytes, expected "
            f"{info.num_bytes} bytes that end at byte {end}"
        )


def _read(tensor: Any, folder: Path, where: str) -> Array:
    from onnx import TensorProto, numpy_helper
    from onnx.checker import ValidationError

    if tensor.data_location == TensorProto.EXTERNAL:  # the library keeps what it loads in the message it is given
        copy = TensorProto()
        copy.CopyFrom(tensor)
        tensor = copy
    with reading(where, ValidationError):  # of a location outside the folder
        array: Array = numpy_helper.to_array(tensor, str(folder))
    return array
