"""Ternary codes: least squares, exact where three values suffice, at their entropy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checkpoint.coders.damage import assert_refused, check_damage
from tests.checkpoint.coders.records import Records, bits
from trafficzip.checkpoint.byte_planes import pack_planes
from trafficzip.checkpoint.coders.ternary import Ternary
from trafficzip.checkpoint.pieces import PIECE_ELEMENTS
from trafficzip.checkpoint.tensors import DTYPES, FLOATS, TensorInfo
from trafficzip.errors import ConfigError, CorruptPayloadError

QUANTIZABLE = sorted(FLOATS - {"float8_e8m0fnu"})


def drawn(shape, dtype="float32", seed=0):
    return np.asarray(np.random.default_rng(seed).standard_normal(shape)).astype(DTYPES[dtype])


def three_values(shape, dtype="float32", zeros=0.5, seed=0):
    """Values -s, 0, s with another s in each row."""
    random = np.random.default_rng(seed)
    scales = random.random((shape[0], 1)) + 0.1
    values = random.choice([-1, 1], shape) * (random.random(shape) >= zeros) * scales
    return values.astype(DTYPES[dtype])


def entropy(codes):
    """Bits of codes, each by its own frequency."""
    _, counts = np.unique(codes, return_counts=True)
    return float((counts * np.log2(codes.size / counts)).sum())


def squared_error(values, found):
    return ((values.astype(np.float64) - found.astype(np.float64)) ** 2).sum()


def least_error(values):
    """The smallest squared error of three values, over all numbers of magnitudes that are not 0."""
    magnitudes = np.sort(np.abs(values.astype(np.float64)))[::-1]
    gains = np.cumsum(magnitudes) ** 2 / np.arange(1, magnitudes.size + 1)
    return (magnitudes**2).sum() - gains.max()


@pytest.mark.parametrize("dtype", QUANTIZABLE)
@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.95])
def test_three_values_come_back_exactly(dtype, threshold):
    values = [three_values((5, 401), dtype), three_values((1, 7), dtype)[0], np.full((), 0.3).astype(DTYPES[dtype])]
    values.append(np.zeros((3, 5), DTYPES[dtype]))
    found = Records(Ternary(threshold=threshold), values).decoded()
    for array, other in zip(values, found, strict=True):
        assert (array == other).all()
        assert other.dtype == array.dtype


@pytest.mark.parametrize("distribution", ["normal", "laplace", "uniform", "standard_cauchy"])
@pytest.mark.parametrize("size", [50, 1000, 30_000])
def test_the_squared_error_is_nearly_the_least(distribution, size):
    found = least = 0.0
    for seed in range(10):
        values = getattr(np.random.default_rng(seed), distribution)(size=size).astype(np.float32)
        found += squared_error(values, Records(Ternary(), [values]).decoded()[0])
        least += least_error(values)
    assert found <= 1.002 * least


def test_of_two_scales_that_suit_themselves_the_better_one_is_taken():
    """From the largest magnitude alone, or from the mean alone, one of these stops at the worse scale."""
    for low, high, count in [(1.0, 2.2, 100), (1.0, 2.2, 3), (1.0, 5.0, 60)]:
        values = np.array([low] * 100 + [high] * count, np.float32)
        found = squared_error(values, Records(Ternary(), [values]).decoded()[0])
        assert found <= least_error(values) + 1e-4


def test_scales_are_means_of_what_is_above_the_threshold():
    values = drawn((4, 1000)) * np.array([1, 0.01, 100, 0], np.float32)[:, None]
    for threshold in (0.2, 0.5, 0.8):
        (found,) = Records(Ternary(threshold=threshold), [values]).decoded()
        for row, other in zip(values[:3], found[:3], strict=True):
            scale = other.max()
            kept = np.abs(row) > threshold * scale
            assert (np.sign(other) == np.sign(row) * kept).all()
            assert scale == pytest.approx(np.abs(row[kept]).mean(), rel=1e-3)
        assert not found[3].any()


def test_higher_thresholds_leave_less():
    values = drawn((4, 1000))
    counts = [np.count_nonzero(Records(Ternary(threshold=t), [values]).decoded()[0]) for t in (0, 0.3, 0.5, 0.7, 0.9)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == 4000
    assert counts[-1] < 1000


def test_blocks_have_their_scales():
    values = np.repeat(np.array([1, -2, 0, 4], np.float32), 8)
    assert bits(Records(Ternary(block_size=8), [values]).decoded()[0]) == bits(values)
    assert bits(Records(Ternary(), [values]).decoded()[0]) != bits(values)


@pytest.mark.parametrize("zeros", [0.0, 0.2, 0.5, 0.8, 0.97])
@pytest.mark.parametrize("shape", [(128, 1024), (512, 768)])
def test_records_take_entropy_and_scales(zeros, shape):
    values = three_values(shape, zeros=zeros)
    records = Records(Ternary(), [values])
    found = 8 * sum(map(len, records.records))
    scales = sum(
        8 * len(pack_planes([np.abs(values[s.start // shape[1] : s.stop // shape[1]]).max(axis=1)], "float32"))
        for ((s),) in records.pieces
    )
    assert found <= 1.02 * entropy(np.sign(values)) + scales + 64 * len(records.pieces)
    if zeros == 0.5:
        assert found <= 1.02 * entropy(np.sign(values)) + scales


def test_scales_are_of_the_dtype_of_the_tensor():
    sizes = {dtype: len(Records(Ternary(), [three_values((512, 8), dtype)]).records[0]) for dtype in QUANTIZABLE}
    assert sizes["bfloat16"] < sizes["float32"] - 900
    assert sizes["float8_e4m3fn"] < sizes["bfloat16"]


def test_integers_and_scales_are_those_of_the_values():
    values = [drawn((3, PIECE_ELEMENTS // 2)), drawn((5, 7)), drawn((100,))]
    records = Records(Ternary(), values)
    found = records.decoded()
    for piece, record in zip(records.pieces, records.records, strict=True):
        parts = Ternary().integers(records.infos, piece, np.frombuffer(record, np.uint8), str)
        for segment, (integers, scales, block) in zip(piece, parts, strict=True):
            assert (integers.dtype, scales.dtype) == (np.int8, np.float32)
            flat = found[segment.tensor].reshape(-1)[segment.start : segment.stop]
            assert (integers * np.repeat(scales, block)[: integers.size] == flat).all()


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40))
@settings(deadline=None)
def test_any_finite_values_become_three(values):
    values = np.array(values, np.float32)
    (found,) = Records(Ternary(), [values]).decoded()
    assert np.isfinite(found).all()
    assert np.unique(np.abs(found[found != 0])).size <= 1
    assert ((found == 0) | (np.sign(found) == np.sign(values))).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    with pytest.raises(ConfigError, match=r"t1 float32\[2\].*NaN"):
        Records(Ternary(), [drawn((3,)), np.array([1, bad], np.float32)])


@pytest.mark.parametrize("fields", [{"threshold": -0.1}, {"threshold": 0.96}, {"threshold": np.nan}, {"block_size": 7}])
def test_other_fields_are_refused(fields):
    with pytest.raises(ConfigError, match=next(iter(fields))):
        Ternary(**fields)


def test_integers_and_parameters_are_refused():
    info = TensorInfo("a", "int32", (3,))
    with pytest.raises(ConfigError, match="a int32"):
        Ternary().check(info)
    with pytest.raises(CorruptPayloadError, match="a int32"):
        Ternary().decoder([info], [None], None)
    with pytest.raises(CorruptPayloadError, match="parameters 1"):
        Ternary().decoder([TensorInfo("a", "float32", (3,))], [1], None)


def test_damage_is_refused_or_harmless():
    assert check_damage(Records(Ternary(), [three_values((3, 1001)), three_values((2, 5), seed=1)])) > 100
    assert check_damage(Records(Ternary(), [np.ones(33, np.float32)])) > 100


def test_bytes_do_not_change():
    records = Records(Ternary(), [np.array([1, 0, -1, 0, 0, 1], np.float32)])
    (record,) = records.records
    assert record.hex(" ") == "08 00 00 00 00 00 00 00 00 00 00 7f 08 c1 ca"
    assert_refused(records, [record[:11] + b"\xff" + record[12:]], "scale is negative, NaN or infinite")
    assert_refused(records, [record[:13] + b"\xc1\xcb"], "the piece: quartic: a padding code")
    assert_refused(records, [record[:13] + b"\xc1\xf3"], "the piece: rANS")
