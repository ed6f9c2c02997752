"""Casts: numbers are rounded as their definition says, and what was rounded comes back exactly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checkpoint.coders.records import Records, bits
from trafficzip.checkpoint.coders.cast import Cast, rounded
from trafficzip.checkpoint.coders.planes import Planes
from trafficzip.checkpoint.tensors import DTYPES, FLOATS, TensorInfo
from trafficzip.errors import ConfigError, CorruptPayloadError

MANTISSAS = {
    "float64": 52, "float32": 23, "float16": 10, "bfloat16": 7, "float8_e4m3fn": 3, "float8_e4m3fnuz": 3,
    "float8_e5m2": 2, "float8_e5m2fnuz": 2, "float8_e8m0fnu": 0,
}  # fmt: skip
SMALL = [dtype for dtype in MANTISSAS if DTYPES[dtype].itemsize <= 2]


def all_numbers(dtype):
    """Every number of a dtype of one or two bytes."""
    itemsize = DTYPES[dtype].itemsize
    return np.arange(256**itemsize).astype(f"u{itemsize}").view(DTYPES[dtype])


def is_coarse(numbers, dtype, mantissa_bits):
    """Whether the lower bits of the mantissa are zero."""
    unsigned = numbers.view(f"u{numbers.dtype.itemsize}")
    return unsigned & unsigned.dtype.type((1 << max(0, MANTISSAS[dtype] - mantissa_bits)) - 1) == 0


def nearest(values, dtype, mantissa_bits):
    """The definition for finite numbers: of all coarse ones the nearest, of two the one with an even last bit."""
    numbers = all_numbers(dtype)
    unsigned = numbers.view(f"u{numbers.dtype.itemsize}")
    wide = numbers.astype(np.float64)
    kept = is_coarse(numbers, dtype, mantissa_bits) & np.isfinite(wide)
    order = np.argsort(wide[kept], kind="stable")
    grid, codes = wide[kept][order], unsigned[kept][order]
    grid, first = np.unique(grid, return_index=True)
    codes = codes[first]
    even = codes >> (MANTISSAS[dtype] - mantissa_bits) & 1 == 0
    upper = np.clip(np.searchsorted(grid, values), 0, grid.size - 1)
    lower = np.clip(upper - 1, 0, None)
    below, above = values - grid[lower], grid[upper] - values
    return np.where((below < above) | ((below == above) & even[lower]), grid[lower], grid[upper])


@pytest.mark.parametrize(("dtype", "mantissa_bits"), [(dtype, n) for dtype in SMALL for n in range(MANTISSAS[dtype])])
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")  # NaN of bfloat16
def test_every_small_number_goes_to_the_nearest(dtype, mantissa_bits):
    values = all_numbers(dtype)
    wide = values.astype(np.float64)
    found = rounded(values, dtype, mantissa_bits)
    finite = np.isfinite(wide)
    assert (found.astype(np.float64)[finite] == nearest(wide[finite], dtype, mantissa_bits)).all()
    assert bits(found[~finite]) == bits(values[~finite])
    signed = finite & (wide != 0)
    if "fnuz" not in dtype:
        assert (np.signbit(found.astype(np.float64))[signed] == np.signbit(wide)[signed]).all()


@pytest.mark.parametrize("dtype", MANTISSAS)
@pytest.mark.parametrize("mantissa_bits", [0, 1, 2, 3, 5, 7, 10, 16, 23, 40, 52])
def test_decoded_numbers_are_the_rounded_ones(dtype, mantissa_bits):
    random = np.random.default_rng(mantissa_bits)
    number = DTYPES[dtype]
    values = [
        random.integers(0, 256, 5000 * number.itemsize).astype(np.uint8).view(number),
        np.abs(random.standard_normal((64, 65))).astype(number),
        np.ones((), number),
    ]
    expected = [rounded(array, dtype, mantissa_bits) for array in values]
    found = Records(Cast(mantissa_bits=mantissa_bits), values).decoded()
    assert [bits(array) for array in found] == [bits(array) for array in expected]
    again = Records(Cast(mantissa_bits=mantissa_bits), found).decoded()
    assert [bits(array) for array in again] == [bits(array) for array in found]
    if mantissa_bits >= MANTISSAS[dtype]:
        assert [bits(array) for array in found] == [bits(array) for array in values]


@given(st.lists(st.floats(width=32), min_size=1, max_size=50))
@settings(deadline=None)
def test_seven_bits_of_float32_are_bfloat16(values):
    values = np.array(values, np.float32)
    expected = values.astype(DTYPES["bfloat16"]).astype(np.float32)
    largest = np.array(0x7F7F0000, np.uint32).view(np.float32)
    overflows = np.isinf(expected) & np.isfinite(values)
    expected = np.where(overflows, np.copysign(largest, values), expected)
    kept = np.isnan(values)
    found = rounded(values, "float32", 7)
    assert bits(found[~kept]) == bits(expected[~kept])
    assert bits(found[kept]) == bits(values[kept])


@pytest.mark.parametrize(("dtype", "exponent"), [("float32", 128), ("float64", 1024), ("float16", 16)])
def test_the_largest_numbers_do_not_become_infinite(dtype, exponent):
    largest = np.finfo(dtype).max
    expected = np.ldexp(1.875, exponent - 1)
    assert rounded(np.array([largest, -largest], dtype), dtype, 3).tolist() == [expected, -expected]


def test_ties_go_to_even_and_subnormal_numbers_keep_their_grid():
    ulp = 2.0**-7
    values = np.array([1 + ulp / 2, 1 + 1.5 * ulp, -1 - ulp / 2, 1 + ulp / 2 + 2.0**-23, 2 - ulp / 4], np.float32)
    assert rounded(values, "float32", 7).tolist() == [1, 1 + 2 * ulp, -1, 1 + ulp, 2]
    grid = 2.0**-133
    values = np.array([0.5, 0.5001, 1.5, 2.4, -0.3, -0.7], np.float64) * grid
    found = rounded(values.astype(np.float32), "float32", 7)
    assert (found / np.float32(grid)).tolist() == [0, 1, 2, 2, 0, -1]
    assert np.signbit(found[4])


def test_a_number_without_negative_zero_does_not_become_nan():
    values = np.array([0x81, 0x80, 0x01], np.uint8).view(DTYPES["float8_e4m3fnuz"])
    assert rounded(values, "float8_e4m3fnuz", 0).view(np.uint8).tolist() == [0, 0x80, 0]


def test_values_that_were_given_do_not_change():
    values = np.linspace(-1, 1, 1000, dtype=np.float32)
    before = values.copy()
    values.flags.writeable = False
    Records(Cast(), [values])
    assert bits(values) == bits(before)


@pytest.mark.parametrize(("mantissa_bits", "bits_each"), [(0, 3.7), (3, 6.7), (7, 10.7), (10, 13.7)])
def test_bits_that_are_dropped_cost_nothing(mantissa_bits, bits_each):
    values = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    (record,) = Records(Cast(mantissa_bits=mantissa_bits), [values]).records
    assert 8 * len(record) < bits_each * values.size


@pytest.mark.parametrize("mantissa_bits", [-1, 53])
def test_other_numbers_of_bits_are_refused(mantissa_bits):
    with pytest.raises(ConfigError, match="mantissa_bits"):
        Cast(mantissa_bits=mantissa_bits)


@pytest.mark.parametrize("dtype", DTYPES)
def test_only_floating_point_numbers_are_taken(dtype):
    info = TensorInfo("a", dtype, (3,))
    if dtype in FLOATS:
        Cast().check(info)
    else:
        with pytest.raises(ConfigError, match=f"a {dtype}"):
            Cast().check(info)


def test_it_is_lossy_and_says_how_much():
    assert not Cast.lossless
    assert Cast(mantissa_bits=4).to_dict() == {"kind": "cast", "mantissa_bits": 4}


def test_parameters_are_refused():
    with pytest.raises(CorruptPayloadError, match="parameters"):
        Cast().decoder([TensorInfo("a", "float32", (3,))], [7], None)


def test_damaged_records_are_refused():
    records = Records(Cast(), [np.linspace(-1, 1, 999, dtype=np.float32)])
    (record,) = records.records
    for bad in (record[:-1], record + b"\0", b"\3" + record[1:]):
        with pytest.raises(CorruptPayloadError, match="the piece"):
            records.decoded([bad])


def test_bytes_are_those_of_planes():
    values = np.array([1.0, -2.5, 3.14159, 1e-3], np.float32)
    (record,) = Records(Cast(), [values]).records
    assert record == Records(Planes(), [rounded(values, "float32", 7)]).records[0]
    assert record.hex(" ") == "00 00 00 00 02 02 00 a0 49 03 7f 80 80 75"
