"""safetensors files and shards of them: every bit comes back, bad headers and indexes are refused."""

import json

import numpy as np
import pytest
import safetensors.numpy

from tests.checkpoint.sources.files import assert_same, contents, random_array, refused, save_safetensors
from trafficzip.checkpoint.sources import open_source
from trafficzip.checkpoint.sources.safetensors_file import SAFETENSORS_DTYPES
from trafficzip.errors import ConfigError


def test_safetensors_of_every_dtype(tmp_path):
    arrays = {f"a.{dtype}": random_array(dtype) for dtype in SAFETENSORS_DTYPES.values()}
    arrays |= {"odd": np.arange(3, dtype=np.int8), "scalar": np.float64(3).reshape(()), "empty": np.zeros((0, 2))}
    path = save_safetensors(tmp_path / "m.safetensors", arrays, metadata={"format": "pt"})
    assert_same(contents(path), arrays)
    with open_source(path) as source:
        assert source.metadata == {"format": "pt"}


def test_safetensors_are_mapped_and_outlive_their_source(tmp_path):
    path = tmp_path / "m.safetensors"
    with path.open("wb") as file:  # 64 GB of zeros that take no room
        header = json.dumps({"x": {"dtype": "U8", "shape": [1 << 36], "data_offsets": [0, 1 << 36]}}).encode()
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + (1 << 36))
    with open_source(path) as source:
        array = source.read("x")
    assert array[-1] == 0
    with pytest.raises(ConfigError, match="no tensor is called 'x'"):
        source.read("x")


def safetensors_bytes(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(2,), start=0, stop=8):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x08",
        safetensors_bytes(b"{not json"),
        safetensors_bytes(b"[]"),
        safetensors_bytes({"x": entry()}, bytes(7)),
        safetensors_bytes({"x": entry()}, bytes(9)),
        safetensors_bytes({"x": entry(start=4, stop=12)}, bytes(12)),
        safetensors_bytes({"x": entry(stop=4)}, bytes(4)),
        safetensors_bytes({"x": entry(shape=(1 << 62, 4))}, bytes(8)),
        safetensors_bytes({"x": entry(dtype="F31")}, bytes(8)),
        safetensors_bytes({"x": entry(dtype="F4", shape=(16,))}, bytes(8)),
        safetensors_bytes({"x": {"dtype": "F32"}}, bytes(8)),
        safetensors_bytes({"x": entry(), "__metadata__": {"a": 1}}, bytes(8)),
        safetensors_bytes(b'{"x":%s,"x":%s}' % ((json.dumps(entry()).encode(),) * 2), bytes(8)),
        (1 << 62).to_bytes(8, "little") + b"{}",
    ],
)
def test_bad_safetensors_are_refused(tmp_path, data):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(data)
    refused(path, r"bad\.safetensors")


def test_a_good_safetensors_file_of_these_helpers_is_read(tmp_path):
    path = tmp_path / "good.safetensors"
    path.write_bytes(safetensors_bytes({"x": entry()}, bytes(8)))
    assert_same(contents(path), {"x": np.zeros(2, np.float32)})


def sharded(folder, changes=()):
    arrays = {f"t{i}": np.full((2, 2), i, np.float32) for i in range(4)}
    names = {"one.safetensors": ["t0", "t2"], "two.safetensors": ["t1", "t3"]}
    for shard, tensors in names.items():
        safetensors.numpy.save_file({n: arrays[n] for n in tensors}, folder / shard, metadata={"format": shard[:3]})
    weight_map = {name: shard for shard, tensors in names.items() for name in tensors}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {**weight_map, **dict(changes)}}))
    return index, {name: arrays[name] for tensors in names.values() for name in tensors}


def test_shards_are_joined(tmp_path):
    index, arrays = sharded(tmp_path)
    for path in (index, tmp_path):
        assert_same(contents(path), arrays)
    with open_source(index) as source:
        assert source.metadata == {"format": "one", "two.safetensors/format": "two"}
    index.unlink()
    assert_same(contents(tmp_path), arrays)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"t9": "two.safetensors"}, "shard two.safetensors lacks 't9', which the index says is there"),
        ({"t0": "two.safetensors"}, "shard one.safetensors holds 't0', which the index does not name"),
        ({"t0": "three.safetensors"}, "shard three.safetensors is missing"),
        ({"t0": "../one.safetensors"}, "'t0' is in '../one.safetensors', expected the name of a file beside"),
        ({"t0": 3}, "'t0' is in 3, expected the name of a file beside"),
    ],
)
def test_an_index_that_is_wrong_is_refused(tmp_path, changes, message):
    index, _ = sharded(tmp_path, changes.items())
    refused(index, message)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": "b", "a": "c"}}', "\udcff"]
)
def test_an_index_that_is_none_is_refused(tmp_path, text):
    index = tmp_path / "m.safetensors.index.json"
    index.write_bytes(text.encode(errors="surrogateescape"))
    refused(index, "'a' comes twice" if "b" in text[20:] else "index.json")


def test_folders_that_leave_no_choice_are_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    refused(tmp_path, r"found 'notes.txt', expected safetensors files or their index")
    for name in "ab":
        (tmp_path / f"{name}.safetensors.index.json").touch()
    refused(tmp_path, "found 2 indexes")
    save_safetensors(tmp_path / "model.safetensors", {"x": np.zeros(2)})
    assert list(contents(tmp_path)) == ["x"]


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    for name in "ab":
        save_safetensors(tmp_path / f"{name}.safetensors", {"x": np.zeros(2)})
    refused(tmp_path, "two tensors are called 'x'")
