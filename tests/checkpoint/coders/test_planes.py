"""Byte planes: every bit of every dtype comes back, bad bytes are refused, few bytes are spent."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checkpoint.coders.records import Records, bits
from trafficzip.checkpoint.byte_planes import CODED, CONSTANT, RAW
from trafficzip.checkpoint.coders.planes import Planes
from trafficzip.checkpoint.pieces import PIECE_ELEMENTS
from trafficzip.checkpoint.tensors import DTYPES, TensorInfo
from trafficzip.errors import CorruptPayloadError

SHAPES = [(), (1,), (7,), (3, 5), (64, 63), (64, 64), (4097,)]
SPECIAL = [0.0, -0.0, 1.0, -1.5, np.inf, -np.inf, np.nan, 1e-40, -1e-45, 3.4e38, 5e-324, 1.7e308]


def drawn(dtype, shape, seed=0):
    """Normal numbers, as the dtype has them."""
    random = np.random.default_rng(seed)
    values = random.standard_normal(shape) * 10
    if dtype.startswith("complex"):
        values = values + 1j * random.standard_normal(shape)
    if dtype.startswith("uint") or dtype == "float8_e8m0fnu":
        values = np.abs(values)
    return np.asarray(values > 0 if dtype == "bool" else values).astype(DTYPES[dtype])


def any_bits(dtype, size, seed=0):
    """Numbers of any bits, NaN with all sorts of payloads included."""
    data = np.random.default_rng(seed).integers(0, 256, size * DTYPES[dtype].itemsize).astype(np.uint8)
    return (data & 1 if dtype == "bool" else data).view(DTYPES[dtype])


def assert_exact(arrays):
    records = Records(Planes(), arrays)
    assert [bits(array) for array in records.decoded()] == [bits(array) for array in arrays]
    return records


def forms(record, num_planes):
    """The forms of a record's planes."""
    found, at = [], 0
    for _ in range(num_planes):
        found.append(record[at])
        at += {CONSTANT: 2, CODED: 5, RAW: 1}[record[at]]
    return found


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_shapes_and_dtypes_come_back(dtype):
    assert_exact([drawn(dtype, shape) for shape in SHAPES])
    for shape in SHAPES:
        assert_exact([drawn(dtype, shape)])


@pytest.mark.parametrize("dtype", DTYPES)
@given(size=st.sampled_from([1, 2, 7, 8, 9, 255, 4095, 4096, 4097]), seed=st.integers(0, 2**16))
@settings(deadline=None, max_examples=8)
def test_any_bits_come_back(dtype, size, seed):
    assert_exact([any_bits(dtype, size, seed), any_bits(dtype, 3, seed + 1)])


@pytest.mark.parametrize("dtype", [name for name in DTYPES if "float" in name and "fnu" not in name])
def test_special_numbers_come_back(dtype):
    with np.errstate(over="ignore"):
        values = np.array(SPECIAL * 400).astype(DTYPES[dtype])
    assert_exact([values[:1], values])


def test_pieces_of_a_large_tensor_come_back():
    records = assert_exact([drawn("bfloat16", (3, PIECE_ELEMENTS // 2 + 1)), drawn("bfloat16", (5,))])
    assert [len(piece) for piece in records.pieces] == [1, 1, 1]
    assert records.pieces[0][0].stop == PIECE_ELEMENTS + 2  # two rows of three


def test_tensors_of_several_dtypes_come_back():
    assert_exact([drawn(dtype, shape) for shape in [(7,), (PIECE_ELEMENTS,)] for dtype in ("float32", "int16", "bool")])


def test_arrays_and_outs_may_be_strided():
    for dtype in ("complex64", "uint8", "float16"):
        values = drawn(dtype, (5000,))[::3]
        records = assert_exact([values])
        out = np.zeros((values.size, 2), values.dtype)[:, 1]
        if dtype != "complex64":  # its parts need contiguous memory
            decode = Planes().decoder(records.infos, records.params, None)
            decode(records.pieces[0], np.frombuffer(records.records[0], np.uint8), [out], str)
            assert bits(out) == bits(values)


def test_arrays_may_be_mapped_and_unaligned():
    data = np.frombuffer(bytes(3) + bits(drawn("float32", (5000,))), np.uint8)[3:].view(np.float32)
    assert not data.flags.aligned
    assert not data.flags.writeable
    assert_exact([data])


def test_outs_may_be_unaligned():
    values = drawn("float32", (5000,))
    records = Records(Planes(), [values])
    out = np.zeros(4 * values.size + 1, np.uint8)[1:].view(np.float32)
    decode = Planes().decoder(records.infos, records.params, None)
    decode(records.pieces[0], np.frombuffer(records.records[0], np.uint8), [out], str)
    assert bits(out) == bits(values)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("uint8", [RAW]),
        ("float32", [RAW, RAW, RAW, CODED]),
        ("bfloat16", [RAW, CODED]),
        ("float16", [RAW, CODED]),
        ("float64", [RAW, RAW, RAW, RAW, RAW, RAW, CODED, CODED]),
        ("complex64", [RAW, RAW, RAW, CODED]),
    ],
)
def test_planes_have_the_form_that_pays(dtype, expected):
    values = any_bits(dtype, 50_000) if dtype == "uint8" else drawn(dtype, (50_000,))
    assert forms(assert_exact([values]).records[0], len(expected)) == expected


@pytest.mark.parametrize(("dtype", "bits_each"), [("float32", 26.7), ("bfloat16", 10.7), ("float64", 58.8)])
def test_normal_numbers_cost_their_mantissas_and_little_more(dtype, bits_each):
    values = drawn(dtype, (300_000,))
    assert 8 * sum(map(len, assert_exact([values]).records)) <= bits_each * values.size


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_numbers_are_two_bytes_a_plane(dtype):
    values = np.broadcast_to(drawn(dtype, (1,)), (10_000,))
    itemsize = values.dtype.itemsize // (2 if dtype.startswith("complex") else 1)
    records = assert_exact([values.copy()])
    if not dtype.startswith("complex"):  # the two parts differ
        assert len(records.records[0]) == 2 * itemsize


def test_random_bytes_cost_one_byte_a_plane():
    for size in (2, 100, 5000):
        assert len(assert_exact([any_bits("int64", size)]).records[0]) == 8 + 8 * size


def test_small_integers_cost_little():
    values = np.random.default_rng(0).integers(0, 4, 20_000).astype(np.int64)
    assert len(assert_exact([values]).records[0]) < 5100


def small():
    return Records(Planes(), [drawn("bfloat16", (300,)), drawn("bfloat16", (2, 5))])


def outcome(records, record):
    """The bytes of what a record decodes to, or the error."""
    try:
        return [bits(array) for array in records.decoded([record])]
    except CorruptPayloadError as error:
        return str(error)


def test_every_prefix_is_refused():
    for records in (small(), Records(Planes(), [drawn("int32", (9,))]), Records(Planes(), [np.zeros(9)])):
        (record,) = records.records
        for end in range(len(record)):
            with pytest.raises(CorruptPayloadError, match="the piece"):
                records.decoded([record[:end]])


def test_trailing_bytes_are_refused():
    for records in (small(), Records(Planes(), [drawn("int32", (9,))]), Records(Planes(), [np.zeros(9)])):
        for more in (b"\0", b"\0\0", bytes(40)):
            with pytest.raises(CorruptPayloadError, match="the piece"):
                records.decoded([records.records[0] + more])


def test_flipped_bits_are_refused_or_give_other_numbers():
    records = small()
    (record,) = records.records
    expected = [bits(array) for array in records.decoded()]
    refused = 0
    for at in range(8 * len(record)):
        flipped = bytearray(record)
        flipped[at // 8] ^= 1 << at % 8
        found = outcome(records, bytes(flipped))
        assert found != expected
        refused += isinstance(found, str)
    assert refused > 500  # all of the coded plane but for chance


@given(data=st.binary(max_size=60), start=st.sampled_from([b"", b"\1\x10\0\0\0\2", b"\0\0\1\x20\0\0\0"]))
@settings(deadline=None, max_examples=200)
def test_any_bytes_are_refused_or_decoded(data, start):
    records = Records(Planes(), [drawn("bfloat16", (40,))])
    found = outcome(records, start + data)
    assert not isinstance(found, str) or "the piece" in found


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("03", "form 3"),
        ("01 2c010000 02", "300 bytes for 300 numbers"),
        ("01 ffffffff 02", "4294967295 bytes for 300 numbers"),
        ("01 05000000 00 7f 0000000000", "plane 0 is not one encoding of 300 bytes"),
        ("01 05000000 00 7f", "planes have 0 bytes, the start says 5"),
    ],
)
def test_errors_say_what_was_found(head, message):
    records = Records(Planes(), [drawn("bfloat16", (300,))])
    with pytest.raises(CorruptPayloadError, match=message):
        records.decoded([bytes.fromhex(head)])


def test_parameters_are_refused():
    infos = [TensorInfo("a", "float32", (3,)), TensorInfo("b", "float32", (3,))]
    with pytest.raises(CorruptPayloadError, match=r"b float32\[3\]: parameters 1"):
        Planes().decoder(infos, [None, 1], None)


def test_it_is_lossless_and_takes_all_dtypes():
    assert Planes.lossless
    assert Planes().to_dict() == {"kind": "planes"}
    for dtype in DTYPES:
        Planes().check(TensorInfo("a", dtype, ()))


def test_bytes_do_not_change():
    values = np.array([1.0] * 36 + [2.0, 2.0, 0.5, 1.0]).astype(DTYPES["bfloat16"])
    (record,) = assert_exact([values]).records
    assert record.hex(" ") == "00 00 01 11 00 00 00 80 9f 81 3f 80 26 00 9b 0d d8 04 2a 58 04 00 14 62"


def test_places_of_bits_do_not_change():
    """Rotated numbers with a byte of each value, by dtype: what the planes of one number hold."""
    planes = {
        "float16": "00 85",
        "bfloat16": "a0 80",
        "float32": "00 00 a0 80",
        "float64": "00 00 00 00 00 00 c4 00",
    }
    for dtype, expected in planes.items():
        (record,) = assert_exact([np.array([-2.5]).astype(DTYPES[dtype])]).records
        assert record[1::2].hex(" ") == expected
    (record,) = assert_exact([np.array([0x01020304], np.uint32)]).records
    assert record.hex(" ") == "00 04 00 03 00 02 00 01"
    (record,) = assert_exact([np.array([1.0 - 2.5j], np.complex64)]).records
    assert record.hex(" ") == "00 00 00 00 02 02 00 a0 7f 80"
