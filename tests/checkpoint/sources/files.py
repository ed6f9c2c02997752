"""Files of tensors, and what is expected of a source that opens them."""

import ml_dtypes
import numpy as np
import pytest
import torch

from trafficzip.checkpoint.sinks import write_safetensors
from trafficzip.checkpoint.sources import open_source
from trafficzip.checkpoint.tensors import DTYPES, TensorInfo
from trafficzip.errors import ConfigError


def random_array(dtype, shape=(3, 5), seed=0):
    count = int(np.prod(shape)) * DTYPES[dtype].itemsize
    raw = np.random.default_rng(seed).integers(0, 2 if dtype == "bool" else 256, count).astype(np.uint8)
    return raw.view(DTYPES[dtype]).reshape(shape)


def contents(path):
    with open_source(path) as source:
        found = {info.name: source.read(info.name) for info in source.infos}
        for info in source.infos:
            array = found[info.name]
            assert (array.dtype.name, array.shape) == (info.dtype, info.shape)
            assert array.flags.c_contiguous
            assert not array.flags.writeable
            assert array.dtype.isnative
    return found


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()


def save_safetensors(path, arrays, **options):
    infos = [TensorInfo(name, array.dtype.name, array.shape) for name, array in arrays.items()]
    write_safetensors(path, infos, arrays.values(), **options)
    return path


def refused(path, message):
    with pytest.raises(ConfigError, match=message) as caught:
        contents(path)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def gguf_file(path, types=("F32", "Q8_0", "BF16")):
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("general.name", "größer")
    writer.add_uint32("llama.block_count", 7)
    writer.add_array("tokens", ["a", "b"])
    rng = np.random.default_rng(0)
    expected = {}
    for name in types:
        kind = gguf.GGMLQuantizationType[name]
        values = rng.standard_normal((6, 64)).astype(np.float32)
        if name == "F32":
            writer.add_tensor(name, values)
            expected[name] = values
        else:
            stored = gguf.quantize(values, kind)
            writer.add_tensor(name, stored, raw_dtype=kind)
            bits = stored.reshape(-1).view(ml_dtypes.bfloat16).reshape(6, 64) if name == "BF16" else None
            expected[name] = gguf.dequantize(stored, kind) if bits is None else bits
    writer.add_tensor("ids", np.arange(5, dtype=np.int32))
    expected["ids"] = np.arange(5, dtype=np.int32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return expected


def torch_tensors():
    names = ["bfloat16", "float8_e4m3fn", "float8_e5m2", "bool", "uint16", "complex64", "float16", "int64"]
    arrays = {name: random_array(name) for name in names}
    ints = {1: (np.uint8, torch.uint8), 2: (np.int16, torch.int16), 8: (np.int64, torch.int64)}
    tensors = {}
    for name, array in arrays.items():
        plain, kind = ints[array.dtype.itemsize]
        tensors[name] = torch.from_numpy(array.view(plain).copy()).to(kind).view(getattr(torch, name))
    return arrays, tensors
