"""General compressors: every bit comes back, and nothing beyond the bytes of a piece is made."""

import bz2
import re
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoint.coders.damage import assert_refused, check_damage
from tests.checkpoint.coders.records import Records, bits
from trafficzip import wire
from trafficzip.checkpoint.coders.general import General
from trafficzip.checkpoint.pieces import PIECE_ELEMENTS
from trafficzip.checkpoint.tensors import DTYPES, TensorInfo
from trafficzip.errors import ConfigError, CorruptPayloadError
from trafficzip.kernels.numba_cpu_huffman import encode

SHAPES = [(), (1,), (7,), (3, 5), (64, 63), (0, 2)]


@pytest.fixture(params=["zstd", "bz2", "huffman"])
def codec(request):
    if request.param == "zstd":
        pytest.importorskip("zstandard")
    return request.param


def any_bits(dtype, shape, seed=0):
    """Numbers of any bits, NaN with all sorts of payloads included."""
    size = int(np.prod(shape)) * DTYPES[dtype].itemsize
    data = np.random.default_rng(seed).integers(0, 256, size).astype(np.uint8)
    return (data & 1 if dtype == "bool" else data).view(DTYPES[dtype]).reshape(shape)


def small(codec, seed=0):
    """One piece of two tensors, a little compressible."""
    values = np.random.default_rng(seed).integers(-3, 4, 700).astype(np.float32)
    return Records(General(codec=codec), [values, values[:5]])


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_bit_comes_back(codec, dtype):
    arrays = [any_bits(dtype, shape, seed) for seed, shape in enumerate(SHAPES)]
    assert [bits(array) for array in Records(General(codec=codec), arrays).decoded()] == [bits(a) for a in arrays]


def test_pieces_come_back_at_all_levels(codec):
    arrays = [any_bits("float32", (3, PIECE_ELEMENTS // 2)), np.zeros(PIECE_ELEMENTS, np.int16), np.arange(90.0)]
    for level in {"zstd": (1, 9, 22), "bz2": (1, 5, 9), "huffman": (9,)}[codec]:
        records = Records(General(codec=codec, level=level), arrays)
        assert [bits(array) for array in records.decoded()] == [bits(array) for array in arrays]


def test_bytes_are_lowest_first():
    (record,) = Records(General(codec="bz2"), [np.array([1.0 - 2.5j], np.complex64)]).records
    assert bz2.decompress(record).hex(" ") == "00 00 80 3f 00 00 20 c0"


def test_arrays_and_outs_may_be_strided(codec):
    values = any_bits("float32", (3000,))[::3]
    records = Records(General(codec=codec), [values])
    out = np.zeros((values.size, 2), np.float32)[:, 1]
    decode = records.coder.decoder(records.infos, records.params, None)
    decode(records.pieces[0], np.frombuffer(records.records[0], np.uint8), [out], str)
    assert bits(out) == bits(values)


@pytest.mark.parametrize("codec", ["zstd", "bz2"])
def test_levels_are_used(codec):
    if codec == "zstd":
        pytest.importorskip("zstandard")
    values = np.random.default_rng(0).integers(0, 50, 100_000).cumsum()
    sizes = [len(Records(General(codec=codec, level=level), [values]).records[0]) for level in (1, 9)]
    assert sizes[1] != sizes[0]


def test_damage_is_refused_or_harmless(codec):
    assert check_damage(small(codec)) > 100


def test_other_sizes_are_refused(codec):
    records = small(codec)
    for values in (np.ones(704, np.float32), np.ones(706, np.float32), np.ones(1, np.float32)):
        (other,) = Records(General(codec=codec), [values]).records
        assert_refused(records, [other])
    (record,) = records.records
    assert_refused(records, [record + record])
    assert_refused(records, [b""])
    assert_refused(records, [bytes(100)])


def test_bombs_are_refused_before_they_are_expanded(codec):
    zeros = np.zeros(1 << 14, np.complex128)
    zeros[-1] = 1  # Huffman codes of one byte alone are those of any number of them
    (bomb,) = Records(General(codec=codec), [zeros]).records
    records = small(codec)
    decode = records.coder.decoder(records.infos, records.params, None)
    outs = [np.zeros(700, np.float32), np.zeros(5, np.float32)]
    data = np.frombuffer(bomb, np.uint8)
    tracemalloc.start()
    try:
        with pytest.raises(CorruptPayloadError, match="the piece"):
            decode(records.pieces[0], data, outs, lambda: "the piece")
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_zstd_frames_of_unknown_size_or_large_window_are_refused():
    zstandard = pytest.importorskip("zstandard")
    records = small("zstd")
    data = b"".join(bits(array) for array in records.arrays)
    unknown = zstandard.ZstdCompressor(write_content_size=False).compress(data)
    assert zstandard.ZstdDecompressor().decompress(unknown, max_output_size=len(data)) == data
    assert_refused(records, [unknown], "the piece.*expected 2820")
    windowed = bytearray(records.records[0])
    windowed[4] &= ~0x20  # not a single segment: a window byte, here of 1 MiB, comes in front of the content size
    windowed[5:5] = bytes([10 << 3])
    assert zstandard.get_frame_parameters(bytes(windowed)).window_size == 1 << 20
    assert zstandard.ZstdDecompressor().decompress(bytes(windowed)) == data
    assert_refused(records, [bytes(windowed)], "the piece.*window")
    terabyte = bytes.fromhex("28b52ffd c0 00 0000000000010000 010000")  # an empty last block
    assert zstandard.get_frame_parameters(terabyte).window_size == 1 << 10
    assert_refused(records, [terabyte], "the piece.*frame of 1099511627776 bytes")


def test_without_the_package_the_error_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    info = TensorInfo("a", "float32", (3,))
    with pytest.raises(ConfigError, match="needs the package zstandard"):
        Records(General(), [np.ones(3)])
    with pytest.raises(ConfigError, match="needs the package zstandard"):
        General().decoder([info], [None], None)
    Records(General(codec="bz2"), [np.ones(3)]).decoded()


def test_huffman_example_of_format():
    """FORMAT.md section 11."""
    values = np.array([1.0] * 36 + [2, 2, 0.5, 1], np.float32).astype(DTYPES["bfloat16"])
    records = Records(General(codec="huffman"), [values])
    text = (Path(wire.__file__).parent / "FORMAT.md").read_text().split("**Huffman coding**")[1]
    example = re.search(r"26 bytes\n`([^`]*)`", text)[1]
    assert [record.hex(" ") for record in records.records] == [example]
    assert bits(records.decoded()[0]) == bits(values)


def test_huffman_keeps_bytes_that_codes_do_not_shorten():
    for values in (any_bits("uint8", (5000,)), np.arange(256, dtype=np.uint8), np.zeros(1, np.uint8)):
        records = Records(General(codec="huffman"), [values])
        assert records.records == [b"\0" + bits(values)]
        assert_refused(records, [b"\1" + encode(np.frombuffer(bits(values), np.uint8)).tobytes()])  # not fewer
        assert_refused(records, [b"\2" + bits(values)])
    (record,) = Records(General(codec="huffman"), [np.full(5000, 7.0)]).records
    assert len(record) < 5000 * 8 / 5


def test_huffman_codes_one_constant_byte_by_its_length_alone():
    (record,) = Records(General(codec="huffman"), [np.full(5000, -1, np.int32)]).records
    assert len(record) == 7


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"codec": "lzma"}, "codec"), ({"codec": "huffman", "level": 8}, "level is 8, expected 9, the only one"),
     ({"level": 0}, "level"), ({"level": 23}, "level"),
     ({"codec": "bz2", "level": 10}, "level")],
)  # fmt: skip
def test_other_fields_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        General(**fields)


def test_parameters_are_refused():
    with pytest.raises(CorruptPayloadError, match="parameters 1"):
        General(codec="bz2").decoder([TensorInfo("a", "float32", (3,))], [1], None)


def test_it_is_lossless_and_takes_all_dtypes():
    assert General.lossless
    for dtype in DTYPES:
        General().check(TensorInfo("a", dtype, ()))
