"""GGUF and ONNX: what their libraries write comes back; cut files and missing data are refused."""

import json
import struct

import numpy as np
import pytest

from tests.checkpoint.sources.files import assert_same, contents, gguf_file, random_array, refused
from trafficzip.checkpoint.sources import open_source


def test_gguf_files(tmp_path):
    path = tmp_path / "m.gguf"
    expected = gguf_file(path)
    assert expected["Q8_0"].dtype == np.float32
    assert_same(contents(path), expected)
    with open_source(path) as source:
        found = source.metadata
    assert json.loads(found.pop("gguf.dequantized")) == {"Q8_0": "Q8_0"}
    assert found == {"general.architecture": "llama", "general.name": "größer", "llama.block_count": "7"}


def test_gguf_files_that_are_cut_are_refused(tmp_path):
    path = tmp_path / "m.gguf"
    gguf_file(path, ("F32",))
    data = path.read_bytes()
    for end in [*range(4, 400, 13), len(data) // 2]:
        path.write_bytes(data[:end])
        refused(path, r"m\.gguf")
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 40))  # fields, without end
    refused(path, "ends at byte 24, expected data up to byte")


def onnx_model(path, *, external=False):
    onnx = pytest.importorskip("onnx")
    arrays = {f"a.{name}": random_array(name) for name in ("float32", "float16", "int64", "bool", "float64", "uint8")}
    arrays |= {f"a.{name}": random_array(name) for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")}
    initializers = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    initializers.append(onnx.helper.make_tensor("listed", onnx.TensorProto.FLOAT, [2], [1.5, 2.5]))
    initializers.append(onnx.helper.make_tensor("bits", onnx.TensorProto.FLOAT16, [2], [1.0, -2.0]))
    arrays |= {"listed": np.array([1.5, 2.5], np.float32), "bits": np.array([1, -2], np.float16)}
    graph = onnx.helper.make_graph([], "g", [], [], initializer=initializers)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)])
    model.metadata_props.add(key="author", value="someone")
    options = {"save_as_external_data": True, "location": "weights.data", "size_threshold": 8} if external else {}
    onnx.save(model, path, **options)
    return arrays


@pytest.mark.parametrize("external", [False, True])
def test_onnx_initialisers(tmp_path, external):
    path = tmp_path / "m.onnx"
    arrays = onnx_model(path, external=external)
    assert (tmp_path / "weights.data").exists() == external
    for _ in range(2):  # reading leaves the model as it was
        assert_same(contents(path), arrays)
    with open_source(path) as source:
        assert source.metadata == {"author": "someone"}


def test_onnx_data_that_is_missing_cut_or_elsewhere_is_refused(tmp_path):
    path, data = tmp_path / "m.onnx", tmp_path / "weights.data"
    onnx_model(path, external=True)
    whole = data.read_bytes()
    data.write_bytes(whole[:-1])
    refused(path, r"in 'weights\.data' of \d+ bytes, expected \d+ bytes that end at")
    data.unlink()
    refused(path, r"its data is in 'weights\.data', which is missing")
    path.write_bytes(path.read_bytes().replace(b"weights.data", b"../weights.d"))
    (tmp_path.parent / "weights.d").write_bytes(whole)
    refused(path, r"m\.onnx: tensor 'a\.float32': cannot be read: ValidationError: .*outside")


@pytest.mark.parametrize("data", [b"", b"\x08", b"\x08\x07", b"hello, world", bytes(100)])
def test_onnx_files_that_are_none_are_refused(tmp_path, data):
    pytest.importorskip("onnx")
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    refused(path, r"m\.onnx")
