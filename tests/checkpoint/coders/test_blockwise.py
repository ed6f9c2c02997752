"""Blockwise integers: the nearest multiple of the scale of its block, in as few bytes as promised."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checkpoint.coders.damage import assert_refused, check_damage
from tests.checkpoint.coders.records import Records, bits
from trafficzip.checkpoint.coders.blocks import cut_blocks
from trafficzip.checkpoint.coders.blockwise import Blockwise, round_up
from trafficzip.checkpoint.coders.values import largest
from trafficzip.checkpoint.pieces import PIECE_ELEMENTS, Segment, pieces
from trafficzip.checkpoint.tensors import DTYPES, FLOATS, TensorInfo
from trafficzip.errors import ConfigError, CorruptPayloadError

QUANTIZABLE = sorted(FLOATS - {"float8_e8m0fnu"})


def drawn(shape, dtype="float32", seed=0, scale=0.02):
    values = np.random.default_rng(seed).standard_normal(shape) * scale
    return np.asarray(values).astype(DTYPES[dtype])


def num_bytes(records):
    return sum(map(len, records.records))


def expected(values, coder, block):
    """The definition, one block after the other, for float32."""
    flat, out = values.reshape(-1), np.zeros(values.size, np.float32)
    for start in range(0, flat.size, block):
        x = flat[start : start + block]
        raw = np.float32(np.abs(x).max()) / np.float32(coder.top)
        scale = raw.astype(DTYPES["bfloat16"])
        if scale.astype(np.float32) < raw:
            scale = (scale.view(np.uint16) + np.uint16(1)).view(DTYPES["bfloat16"])
        scale = scale.astype(np.float32)
        if scale:
            out[start : start + block] = np.clip(np.rint(x / scale), -coder.top, coder.top) * scale
    return out.reshape(values.shape)


@pytest.mark.parametrize("width", range(2, 9))
@pytest.mark.parametrize("block_size", [8, 64, 100])
def test_values_are_the_nearest_multiples(width, block_size):
    coder = Blockwise(bits=width, block_size=block_size)
    values = drawn((37, 61))
    (found,) = Records(coder, [values]).decoded()
    assert bits(found + 0) == bits(expected(values, coder, block_size) + 0)


def test_rows_have_their_scales():
    values = drawn((50, 61)) * np.arange(50, dtype=np.float32)[:, None]
    coder = Blockwise(bits=4, block_size=0)
    (found,) = Records(coder, [values]).decoded()
    assert bits(found + 0) == bits(expected(values, coder, 61) + 0)
    assert not found[0].any()


@pytest.mark.parametrize("dtype", QUANTIZABLE)
def test_all_dtypes_and_shapes_come_back_near(dtype):
    values = [
        drawn(shape, dtype, scale=1) for shape in [(), (1,), (7,), (3, 5), (5, 1), (64, 63), (2, 3, 4, 5), (0, 4)]
    ]
    found = Records(Blockwise(), values).decoded()
    for array, other in zip(values, found, strict=True):
        assert other.shape == array.shape
        assert other.dtype == array.dtype
        wide, near = array.astype(np.float64), other.astype(np.float64)
        limit = np.abs(wide).max(initial=0) / 127 * 0.51 + np.abs(wide) * 0.13 * (array.dtype.itemsize < 4)
        assert (np.abs(wide - near) <= limit).all()


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40))
@settings(deadline=None)
def test_errors_are_at_most_half_a_scale(values):
    values = np.array(values, np.float32)
    coder = Blockwise(bits=5, block_size=8)
    records = Records(coder, [values])
    (found,) = records.decoded()
    ((_, scales, block),) = coder.integers(
        records.infos, records.pieces[0], np.frombuffer(records.records[0], np.uint8), str
    )
    steps = np.repeat(scales, block)[: values.size].astype(np.float64)
    assert (np.abs(values.astype(np.float64) - found) <= 0.5000001 * steps + 1e-44).all()


@pytest.mark.parametrize("dtype", QUANTIZABLE)
def test_the_largest_numbers_stay_finite(dtype):
    top = largest(dtype)
    values = np.array([top, -top, 0, top], np.float32).astype(DTYPES[dtype])
    for width in (2, 3, 8):
        (found,) = Records(Blockwise(bits=width), [values]).decoded()
        wide = found.astype(np.float32)
        assert np.isfinite(wide).all()
        assert (np.abs(wide[[0, 1, 3]]) >= 0.996 * top).all()  # 3.39e38 is the largest scale


def test_the_largest_numbers_of_dtypes_are_known():
    assert largest("float16") == 65504
    assert largest("bfloat16") == np.float32(3.3895314e38)
    assert largest("float8_e4m3fn") == 448
    assert largest("float8_e5m2") == 57344
    assert largest("float64") == np.finfo(np.float32).max


def test_scales_are_rounded_up_but_not_to_infinity():
    numbers = np.array([0, 1, 1.0001, 1 + 2.0**-7, 1e-45, 3.4e38], np.float32)
    up = 2.0**-7
    assert round_up(numbers)[:5].tolist() == [0, 1, 1 + up, 1 + up, 2.0**-133]
    assert np.isfinite(round_up(numbers)[5])


def test_blocks_end_with_segments_and_rows():
    infos = (TensorInfo("a", "float32", (3, 70)), TensorInfo("b", "float32", (20,)), TensorInfo("c", "float32", ()))
    (piece,) = pieces(infos)
    assert cut_blocks(infos, piece, 64).sizes.tolist() == [64, 64, 64, 18, 20, 1]
    assert cut_blocks(infos, piece, 0).sizes.tolist() == [70, 70, 70, 20, 1]
    assert cut_blocks(infos, piece, 64).starts.tolist() == [0, 64, 128, 192, 210, 230]
    long = (TensorInfo("a", "float32", (2, PIECE_ELEMENTS + 1)),)
    part = (Segment(0, 5, 1005),)
    assert cut_blocks(long, part, 0).sizes.tolist() == [1000]
    assert cut_blocks(long, part, 300).sizes.tolist() == [300, 300, 300, 100]


def test_integers_and_scales_are_those_of_the_values():
    values = [drawn((2, 3 * PIECE_ELEMENTS // 4)), drawn((5, 7)), drawn((100,))]
    for coder in (Blockwise(), Blockwise(bits=3, block_size=0)):
        records = Records(coder, values)
        found = records.decoded()
        for piece, record in zip(records.pieces, records.records, strict=True):
            parts = coder.integers(records.infos, piece, np.frombuffer(record, np.uint8), str)
            for segment, (integers, scales, block) in zip(piece, parts, strict=True):
                assert (integers.dtype, scales.dtype) == (np.int8, np.float32)
                assert scales.size == -(-integers.size // block)
                flat = found[segment.tensor].reshape(-1)[segment.start : segment.stop]
                assert (integers * np.repeat(scales, block)[: integers.size] == flat).all()


@pytest.mark.parametrize(
    ("width", "block_size", "bits_each"), [(8, 64, 7.8), (4, 64, 3.65), (4, 0, 3.15), (3, 64, 2.48), (2, 0, 0.57)]
)
def test_normal_numbers_take_their_entropy(width, block_size, bits_each):
    records = Records(Blockwise(bits=width, block_size=block_size), [drawn((256, 1024))])
    assert 8 * num_bytes(records) <= bits_each * 256 * 1024


def test_what_cannot_be_coded_is_packed():
    for width in range(2, 9):
        top = (1 << (width - 1)) - 1
        values = np.random.default_rng(1).integers(-top, top + 1, 4000).astype(np.float32)
        values[::50] = top
        records = Records(Blockwise(bits=width, block_size=0), [values])
        assert num_bytes(records) <= 4 + 4 + 1 + 4000 * width / 8
        assert bits(records.decoded()[0]) == bits(values)


def test_mapped_values_do_not_change():
    values = drawn((999,))
    before = bits(values)
    values.flags.writeable = False
    Records(Blockwise(), [values])
    assert bits(values) == before


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    with pytest.raises(ConfigError, match=r"t1 float32\[300\].*NaN"):
        Records(Blockwise(), [drawn((3,)), np.where(np.arange(300) == 299, bad, 0).astype(np.float32)])


def test_values_beyond_float32_are_refused():
    with pytest.raises(ConfigError, match="beyond float32"):
        Records(Blockwise(), [np.array([1e300])])


@pytest.mark.parametrize(
    "fields", [{"bits": 1}, {"bits": 9}, {"block_size": -1}, {"block_size": 7}, {"block_size": 1 << 18}]
)
def test_other_fields_are_refused(fields):
    with pytest.raises(ConfigError, match=next(iter(fields))):
        Blockwise(**fields)


@pytest.mark.parametrize("dtype", DTYPES)
def test_only_floating_point_numbers_with_zero_are_taken(dtype):
    info = TensorInfo("a", dtype, (3,))
    if dtype in QUANTIZABLE:
        Blockwise().check(info)
        Blockwise().decoder([info], [None], None)
    else:
        with pytest.raises(ConfigError, match=f"a {dtype}"):
            Blockwise().check(info)
        with pytest.raises(CorruptPayloadError, match=f"a {dtype}"):
            Blockwise().decoder([info], [None], None)


def test_parameters_are_refused():
    with pytest.raises(CorruptPayloadError, match="parameters 0"):
        Blockwise().decoder([TensorInfo("a", "float32", (3,))], [0], None)


@pytest.mark.parametrize("width", [2, 5, 8])
def test_damage_is_refused_or_harmless(width):
    assert check_damage(Records(Blockwise(bits=width), [drawn((1003,)), drawn((3, 5))])) > 100
    flat = np.resize(np.arange(-1, 2, dtype=np.float32), 50)
    check_damage(Records(Blockwise(bits=width), [flat]))


def test_bad_scales_and_codes_are_refused():
    records = Records(Blockwise(bits=3), [np.array([3, -3, 1, 0], np.float32)])
    (record,) = records.records
    assert record.hex(" ") == "04 00 00 00 00 00 00 7f 00 06 07"
    assert_refused(records, [record[:7] + b"\xff" + record[8:]], "scale is negative, NaN or infinite")
    assert_refused(records, [record[:5] + b"\x81" + record[6:]], "scale is negative")
    assert_refused(records, [record[:9] + b"\x07\x07"], "code 7, expected at most 6")
    assert_refused(records, [record[:9] + b"\x06\x17"], "bits behind the codes")
    assert_refused(records, [record[:8] + b"\x02\x06\x07"], "form 2")
    assert_refused(records, [record[:8] + b"\x01\x00\x09"], "code 9, expected less than 8")
