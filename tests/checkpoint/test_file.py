"""Whole files: everything comes back, on demand or at once, and damage is an error that names the tensor."""

import io
import json
import zlib

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trafficzip.checkpoint.coders.planes import Planes
from trafficzip.checkpoint.layout import Header, place_records, read_header
from trafficzip.checkpoint.pieces import PIECE_ELEMENTS
from trafficzip.checkpoint.reader import CheckpointFile
from trafficzip.checkpoint.sources import MemorySource
from trafficzip.checkpoint.tensors import DTYPES, TensorInfo
from trafficzip.checkpoint.trellis.coder import Trellis
from trafficzip.checkpoint.writer import Assignment, write_checkpoint
from trafficzip.errors import ConfigError, CorruptPayloadError, UnsupportedFormatError
from trafficzip.wire.container import ContainerReader, ContainerWriter


def arrays():
    rng = np.random.default_rng(0)
    return {
        "embed": (rng.standard_normal((300, 32)) * 0.1).astype(np.float32),
        "conv": rng.standard_normal((8, 4, 3, 3)).astype(np.float32),
        "norm": rng.standard_normal(32).astype(ml_dtypes.bfloat16),
        "steps": np.array(17, np.int64),
        "mask": rng.random(19) < 0.5,
        "empty": np.zeros((0, 4), np.float16),
        "fp8": rng.standard_normal((5, 5)).astype(ml_dtypes.float8_e4m3fn),
    }


CODERS = {"embed": (Trellis(num_states=8), -160), "conv": (Trellis(num_states=8), -100)}


def write(tensors, coders=CODERS, **options):
    source = MemorySource(tensors)
    chosen = [Assignment(info, *coders.get(info.name, (Planes(), None))) for info in source.infos]
    sink = io.BytesIO()
    assert write_checkpoint(sink, source, chosen, **options) == len(sink.getvalue())
    return sink.getvalue()


def same(one, two):
    return one.dtype == two.dtype and one.shape == two.shape and one.tobytes() == two.tobytes()


def test_everything_comes_back_in_order():
    tensors = arrays()
    data = write(tensors, metadata={"format": "pt", "note": "größer"})
    file = CheckpointFile(data)
    assert list(file) == list(tensors)
    assert len(file) == 7
    assert file.metadata == {"format": "pt", "note": "größer"}
    found = file.read_many()
    for name, array in tensors.items():
        assert same(file[name], found[name])
        if name in CODERS:
            assert 0 < np.linalg.norm(found[name] - array) < 0.3 * np.linalg.norm(array)
        else:
            assert same(found[name], array)


def test_bytes_do_not_depend_on_threads():
    tensors = {"w": np.random.default_rng(1).standard_normal((600, 700)).astype(np.float32), **arrays()}
    coders = {**CODERS, "w": (Trellis(num_states=4), -64)}
    assert write(tensors, coders) == write(tensors, coders, num_threads=3)


def test_rows_are_those_of_the_whole():
    width = 1000
    table = np.random.default_rng(2).standard_normal((700, width)).astype(np.float32)
    for coder in ((Planes(), None), (Trellis(num_states=4), -64)):
        file = CheckpointFile(write({"t": table, "s": table[:9, :9]}, {"t": coder, "s": coder}))
        whole = file["t"]
        for start, stop in ((0, 0), (0, 1), (5, 300), (130, 132), (699, 700), (0, 700)):
            np.testing.assert_array_equal(file.read_rows("t", start, stop), whole[start:stop])
        np.testing.assert_array_equal(file.read_rows("s", 2, 5), file["s"][2:5])
    for start, stop in ((-1, 2), (5, 4), (0, 701)):
        with pytest.raises(ConfigError, match="has no rows"):
            file.read_rows("t", start, stop)


def test_rows_decode_only_their_pieces():
    table = np.zeros((4 * PIECE_ELEMENTS // 64, 64), np.float32)
    data = bytearray(write({"t": table}))
    file = CheckpointFile(bytes(data))
    last = file._container._starts[-1]
    data[last] ^= 1
    file = CheckpointFile(bytes(data))
    assert file.read_rows("t", 0, 10).shape == (10, 64)
    with pytest.raises(CorruptPayloadError, match=r"record 3 at byte \d+ \(t \[393216:524288\]\)"):
        file.read_rows("t", table.shape[0] - 1, table.shape[0])


def test_names_that_are_missing_or_given_twice():
    with pytest.raises(KeyError, match="no tensor is called 'nothing'"):
        CheckpointFile(write(arrays()))["nothing"]
    source = MemorySource({"a": np.zeros(2)})
    with pytest.raises(ConfigError, match="two tensors are called 'a'"):
        write_checkpoint(io.BytesIO(), source, [Assignment(source.infos[0], Planes())] * 2)


def test_every_prefix_is_refused():
    data = write({"w": arrays()["conv"], "n": arrays()["norm"]}, {"w": CODERS["conv"]})
    for end in range(len(data)):
        with pytest.raises((CorruptPayloadError, UnsupportedFormatError)):
            CheckpointFile(data[:end]).verify()


def test_every_flipped_bit_is_an_error_that_names_the_tensor():
    tensors = {"layer.weight": arrays()["conv"], "norm": arrays()["norm"]}
    data = write(tensors, {"layer.weight": CODERS["conv"]})
    starts = ContainerReader(np.frombuffer(data, np.uint8))._starts
    names = ("layer.weight", "layer.weight", "norm")
    for bit in range(8 * len(data)):
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises((CorruptPayloadError, UnsupportedFormatError)) as caught:
            CheckpointFile(bytes(bad)).verify()
        for name, start, stop in zip(names, starts, [*starts[1:], 0], strict=True):
            if start <= bit // 8 < stop:
                assert name in str(caught.value)


def header_of(data):
    return json.loads(json.dumps(ContainerReader(np.frombuffer(data, np.uint8)).header))


def rewritten(data, change):
    """Give the file with another header, and right checksums."""
    reader = ContainerReader(np.frombuffer(data, np.uint8))
    sink = io.BytesIO()
    writer = ContainerWriter(sink)
    for number in range(reader.num_records):
        writer.add(reader.record(number).tobytes())
    header = header_of(data)
    change(header)
    writer.finish(header)
    return sink.getvalue()


def set_entry(place, value):
    def change(header):
        header["tensors"][0][place] = value

    return change


HOSTILE = {
    "two names": lambda h: h["tensors"].append(h["tensors"][0]),
    "huge shape": set_entry(2, [1 << 40, 1 << 40]),
    "many pieces": set_entry(2, [1 << 46]),
    "more pieces": set_entry(2, [PIECE_ELEMENTS * 9]),
    "negative": set_entry(2, [-1, 3]),
    "fraction": set_entry(2, [8.0, 4, 3, 3]),
    "boolean": set_entry(2, [True, 4]),
    "deep shape": set_entry(2, [1] * 65),
    "nested": set_entry(2, [[8], 4]),
    "dtype": set_entry(1, "float31"),
    "dtype list": set_entry(1, ["float32"]),
    "integer dtype": set_entry(1, "int32"),
    "name": set_entry(0, 3),
    "no coder": set_entry(3, 9),
    "negative coder": set_entry(3, -1),
    "boolean coder": set_entry(3, False),
    "params": set_entry(4, {"a": 1}),
    "far step": set_entry(4, [10**9, 0]),
    "huge integer": set_entry(4, [10**400, 0]),
    "short entry": lambda h: h["tensors"][0].pop(),
    "no entry": lambda h: h["tensors"].append(None),
    "tensors": lambda h: h.update(tensors={}),
    "coders": lambda h: h.update(coders=3),
    "no coders": lambda h: h.update(coders=[]),
    "coder kind": lambda h: h["coders"][0].update(kind="magic"),
    "coder list": lambda h: h["coders"].append([]),
    "coder field": lambda h: h["coders"][0].update(num_states=7),
    "coder type": lambda h: h["coders"][0].update(num_states=8.0),
    "coder extra": lambda h: h["coders"][0].update(other=1),
    "coder less": lambda h: h["coders"][0].pop("num_states"),
    "more coders": lambda h: h["coders"].append(h["coders"][0]),
    "metadata": lambda h: h.update(metadata={"a": 1}),
    "version": lambda h: h.update(checkpoint=2),
    "no version": lambda h: h.pop("checkpoint"),
    "field": lambda h: h.update(more=1),
    "fewer tensors": lambda h: h["tensors"].pop(0),
    "other shape": set_entry(2, [9, 4, 3, 3]),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_headers_are_refused(case):
    data = write({"w": arrays()["conv"], "n": arrays()["norm"]}, {"w": CODERS["conv"]})
    with pytest.raises((CorruptPayloadError, UnsupportedFormatError)):
        CheckpointFile(rewritten(data, HOSTILE[case])).verify()


def test_an_unchanged_header_is_read():
    data = write({"w": arrays()["conv"], "n": arrays()["norm"]}, {"w": CODERS["conv"]})
    assert rewritten(data, lambda h: None) == data


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(sorted(DTYPES)),
    shape=st.lists(st.integers(0, 7), max_size=4),
    seed=st.integers(0, 99),
)
def test_every_dtype_and_shape_is_kept_bit_for_bit(dtype, shape, seed):
    count = int(np.prod(shape, dtype=np.int64)) * DTYPES[dtype].itemsize
    raw = np.random.default_rng(seed).integers(0, 2 if dtype == "bool" else 256, count).astype(np.uint8)
    array = raw.view(DTYPES[dtype]).reshape(shape)
    assert same(CheckpointFile(write({"x": array}))["x"], array)


def test_outs_are_written_in_place_or_refused():
    tensors = arrays()
    file = CheckpointFile(write(tensors))
    outs = {"conv": np.zeros((8, 4, 3, 3), np.float32)}
    assert file.read_many(["conv"], outs=outs)["conv"] is outs["conv"]
    np.testing.assert_array_equal(outs["conv"], file["conv"])
    for wrong in (np.zeros((8, 4, 3, 2), np.float32), np.zeros((8, 4, 3, 3)), np.zeros((3, 3, 4, 8), np.float32).T):
        with pytest.raises(ConfigError, match="cannot be decoded into"):
            file.read_many(["conv"], outs={"conv": wrong})


def test_a_file_is_mapped_and_missing_ones_are_named(tmp_path):
    path = tmp_path / "model.tzip"
    path.write_bytes(write(arrays()))
    with CheckpointFile(path) as file:
        steps = file["steps"]
    assert steps == 17
    with pytest.raises(ConfigError, match=r"gone\.tzip: cannot be read: No such file"):
        CheckpointFile(tmp_path / "gone.tzip")
    (tmp_path / "empty").touch()
    with pytest.raises(CorruptPayloadError, match="the file is empty"):
        CheckpointFile(tmp_path / "empty")


def test_records_follow_from_the_header():
    info = TensorInfo("w", "float32", (3 * PIECE_ELEMENTS,))
    header = read_header(
        {
            "checkpoint": 1,
            "coders": [Planes().to_dict()],
            "metadata": {},
            "tensors": [["w", "float32", [393216], 0, None]],
        }
    )
    assert isinstance(header, Header)
    assert header.entries[0].info == info
    assert [len(records.pieces) for records in place_records(header, 3)] == [3]
    for wrong in (2, 4):
        with pytest.raises(CorruptPayloadError, match="records"):
            place_records(header, wrong)
    assert zlib.crc32(write({"w": np.arange(5.0)})[:16]) == zlib.crc32(write({})[:16])


def test_verify_reads_what_no_piece_needs():
    data = bytearray(write({"none": np.zeros((0, 3), np.float32)}, {"none": CODERS["conv"]}))
    (start,) = ContainerReader(np.frombuffer(bytes(data), np.uint8))._starts
    CheckpointFile(bytes(data)).verify()
    data[start] ^= 1
    with pytest.raises(CorruptPayloadError, match=r"shared by none"):
        CheckpointFile(bytes(data)).verify()
