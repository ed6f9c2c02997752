"""The container: whole coverage, canonical bytes, and errors that say where."""

import io
import json
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trafficzip.errors import ConfigError, CorruptPayloadError, TrafficzipError, UnsupportedFormatError
from trafficzip.wire import container
from trafficzip.wire.container import ContainerReader, ContainerWriter, canonical_json


def written(records, header):
    sink = io.BytesIO()
    writer = ContainerWriter(sink)
    numbers = [writer.add(record) for record in records]
    assert numbers == list(range(len(records)))
    assert writer.num_records == len(records)
    assert writer.finish(header) == len(sink.getvalue())
    return sink.getvalue()


def read(data):
    return ContainerReader(np.frombuffer(data, np.uint8))


def read_all(data):
    reader = read(data)
    return [reader.record(i).tobytes() for i in range(reader.num_records)]


def sealed(tail, num_records, header_bytes, index_bytes, records=b"", more=0):
    """A container with right checksums around any index and header."""
    prefix = container._PREFIX
    size = len(prefix) + len(records) + len(tail) + container.TRAILER_BYTES + more
    trailer = struct.pack(
        "<QIIIII", size, index_bytes, len(tail) - index_bytes, header_bytes, num_records, zlib.crc32(tail)
    )
    return prefix + records + tail + trailer + struct.pack("<I", zlib.crc32(prefix + trailer)) + b"TZIP"


SMALL = written([b"first", b"", b"third record"], {"tensors": [["a.weight", [2, 3]], ["ß", []]], "x": {"y": None}})

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=20,
).filter(lambda value: "\ud800" not in repr(value))


@given(
    records=st.lists(st.binary(max_size=70), max_size=9),
    header=st.dictionaries(st.text(max_size=5), json_values, max_size=4),
)
@settings(deadline=None)
def test_records_and_header_come_back(records, header):
    reader = read(written(records, header))
    assert reader.header == header
    assert [reader.record(i).tobytes() for i in range(reader.num_records)] == records
    assert [reader.record_bytes(i) for i in range(reader.num_records)] == [len(record) for record in records]


def test_same_content_gives_same_bytes():
    assert written([b"r"], {"b": 1, "a": [2]}) == written([np.frombuffer(b"r", np.uint8)], {"a": [2], "b": 1})


def test_long_header_is_packed():
    header = {"names": [f"encoder.layer.{i}.attention.weight" for i in range(200)]}
    data = written([], header)
    assert len(data) < len(canonical_json(header)) / 8
    assert read(data).header == header


def test_header_more_regular_than_the_limit_is_stored():
    header = {"x": "a" * 1_000_000}
    assert read(written([], header)).header == header


def test_every_prefix_raises():
    for size in range(len(SMALL)):
        with pytest.raises(TrafficzipError):
            read(SMALL[:size])


def test_bytes_left_over_raise():
    with pytest.raises(CorruptPayloadError):
        read(SMALL + b"\0")


def test_every_flipped_bit_raises():
    assert read_all(SMALL) == [b"first", b"", b"third record"]
    for at in range(8 * len(SMALL)):
        data = bytearray(SMALL)
        data[at // 8] ^= 1 << at % 8
        with pytest.raises(TrafficzipError):
            read_all(bytes(data))


def test_damaged_record_is_named():
    data = bytearray(SMALL)
    data[container.PREFIX_BYTES + 6] ^= 1  # in "third record"
    reader = read(bytes(data))
    assert reader.record(0).tobytes() == b"first"
    with pytest.raises(CorruptPayloadError, match=r"record 2 at byte 21 \(layer1\.weight\): checksum does not match"):
        reader.record(2, lambda: "layer1.weight")


def test_other_files_and_versions_are_named():
    with pytest.raises(UnsupportedFormatError, match="not a trafficzip container"):
        read(b"PK\x03\x04" + bytes(100))
    with pytest.raises(UnsupportedFormatError, match="version 2; this release reads version 1"):
        read(SMALL[:8] + b"\2" + SMALL[9:])


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1,"a":2}',
        b'{"b":1,"a":2}',
        b'{"a": 1}',
        b'{"a":NaN}',
        b'{"a":1e999}',
        b"[]",
        b"7",
        b'{"a":',
        b"\xff",
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":"\\ud800"}',
    ],
    ids=[
        "twice", "order", "space", "nan", "infinite", "list", "number", "cut", "not UTF-8", "deep", "surrogate"
    ],
)  # fmt: skip
def test_header_that_is_not_canonical_raises(text):
    with pytest.raises(CorruptPayloadError, match="header of the container"):
        read(sealed(b"\0" + text, 0, len(text), 0))


@pytest.mark.parametrize(
    ("tail", "num_records", "header_bytes", "index_bytes", "message"),
    [
        (b"\0{}", 1, 2, 0, "1 records, index of 0 bytes"),
        (b"\0{}", (1 << 32) - 1, 2, 0, "4294967295 records"),
        (b"\0{}", 0, (1 << 32) - 1, 0, "header of 4294967295"),
        (b"\0{}", 0, 0, 0, "header of 0"),
        (b"\0{}", 0, 3, 0, "2 bytes, its trailer says 3"),
        (b"\0{}", 0, 4000, 0, "3 bytes cannot hold 4000"),
        (struct.pack("<II", 5, 0) + b"\0{}", 1, 2, 8, "index says 5 bytes, 4 are there"),
        (struct.pack("<II", 3, 0) + b"\0{}", 1, 2, 8, "1 records end at byte 19, the header begins at 20"),
        (struct.pack("<II", (1 << 32) - 1, 0) + b"\0{}", 1, 2, 8, "index says 4294967295 bytes"),
    ],
)
def test_hostile_sizes_raise(tail, num_records, header_bytes, index_bytes, message):
    with pytest.raises(CorruptPayloadError, match=message):
        read(sealed(tail, num_records, header_bytes, index_bytes, b"1234" if index_bytes else b""))


@pytest.mark.parametrize("more", [-1, 1, 1 << 40])
def test_other_file_size_raises(more):
    assert read(sealed(b"\0{}", 0, 2, 0)).header == {}
    with pytest.raises(CorruptPayloadError, match=f"container of 55 bytes: its trailer says {55 + more}"):
        read(sealed(b"\0{}", 0, 2, 0, more=more))


def test_unknown_header_form_raises():
    with pytest.raises(UnsupportedFormatError, match=r"form \[9\]"):
        read(sealed(b"\x09{}", 0, 2, 0))


def test_header_that_unpacks_to_more_allocates_no_more():
    import bz2

    bomb = bz2.compress(json.dumps({"a": "a" * 50_000_000}, separators=(",", ":")).encode())
    tracemalloc.start()
    try:
        with pytest.raises(CorruptPayloadError, match="does not end after 5000 bytes"):
            read(sealed(b"\1" + bomb, 0, 5000, 0))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("header", [{"a": float("nan")}, {"a": b"bytes"}, {"a": {1, 2}}, {"a": "\ud800"}])
def test_header_that_json_cannot_hold_is_refused(header):
    with pytest.raises(ConfigError, match="not JSON"):
        written([], header)
