"""Codebooks: each number becomes the nearest of a few, which are nearly the best ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checkpoint.coders.damage import assert_refused, check_damage
from tests.checkpoint.coders.records import Records, bits
from trafficzip.checkpoint.coders.codebook import Codebook, fit_codebook, nearest
from trafficzip.checkpoint.pieces import PIECE_ELEMENTS
from trafficzip.checkpoint.tensors import DTYPES, FLOATS, TensorInfo
from trafficzip.errors import ConfigError, CorruptPayloadError

QUANTIZABLE = sorted(FLOATS - {"float8_e8m0fnu"})
LLOYD_MAX_DB = {1: 4.40, 2: 9.30, 3: 14.62, 4: 20.22, 5: 26.01, 6: 31.89}  # of normal numbers: Max 1960, table 1


def drawn(shape, dtype="float32", seed=0):
    return np.asarray(np.random.default_rng(seed).standard_normal(shape)).astype(DTYPES[dtype])


def decibel(values, found):
    wide = values.astype(np.float64)
    return 10 * np.log10((wide**2).sum() / ((wide - found) ** 2).sum())


def fitted(values, size):
    return fit_codebook(TensorInfo("a", values.dtype.name, values.shape), values, size)


def least_error(values, size):
    """The smallest squared error of `size` numbers for a few values, by trying all cuts (dynamic programming)."""
    x = np.sort(values.astype(np.float64))
    n = x.size
    cost = np.zeros((n + 1, n + 1))
    for start in range(n):
        for end in range(start + 1, n + 1):
            cost[start, end] = ((x[start:end] - x[start:end].mean()) ** 2).sum()
    best = cost[0]
    for _ in range(size - 1):
        best = np.array([min(best[cut] + cost[cut, end] for cut in range(end + 1)) for end in range(n + 1)])
    return best[n]


@pytest.mark.parametrize("width", LLOYD_MAX_DB)
def test_normal_numbers_reach_the_best_quantizer(width):
    values = drawn(300_000)
    (found,) = Records(Codebook(bits=width), [values]).decoded()
    assert np.unique(found).size == 1 << width
    assert decibel(values, found) >= LLOYD_MAX_DB[width] - 0.03


def test_eight_bits_reach_the_asymptote():
    values = drawn(300_000)
    assert decibel(values, Records(Codebook(bits=8), [values]).decoded()[0]) >= 6.02 * 8 - 4.35  # Panter and Dite 1951


@pytest.mark.parametrize("distribution", ["laplace", "uniform", "standard_cauchy"])
def test_few_values_are_near_the_least_error(distribution):
    found = least = 0.0
    for seed in range(10):
        values = getattr(np.random.default_rng(seed), distribution)(size=60).astype(np.float32)
        centers = fitted(values, 8)
        found += ((values - centers[nearest(centers, values)].astype(np.float64)) ** 2).sum() / (values**2).sum()
        least += least_error(values, 8) / (values**2).sum()
    assert found <= 1.35 * least  # Lloyd's algorithm ends at a local minimum


def test_far_values_do_not_hide_the_others():
    values = np.concatenate([drawn(100_000), [1e30, -1e30]]).astype(np.float32)
    found = Records(Codebook(bits=6), [values]).decoded()[0]
    assert decibel(values[:-2], found[:-2]) > 25
    assert found[-1] == values[-1]


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=60), st.integers(1, 4))
@settings(deadline=None)
def test_every_value_gets_the_nearest_number(values, width):
    values = np.array(values, np.float32)
    coder = Codebook(bits=width)
    records = Records(coder, [values])
    (found,) = records.decoded()
    book = np.frombuffer(records.shared[1:], "<f4").astype(np.float64)
    assert book.size <= 1 << width
    distances = np.abs(values.astype(np.float64)[:, None] - book)
    assert (np.abs(values.astype(np.float64) - found) == distances.min(axis=1)).all()


def test_of_two_numbers_as_near_the_lower_one_is_taken():
    assert nearest(np.array([-1, 0, 1], np.float32), np.array([-0.5, 0.5, 0.6, 9], np.float32)).tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize("dtype", QUANTIZABLE)
@pytest.mark.parametrize("width", [1, 3, 8])
def test_as_many_values_as_codes_come_back_exactly(dtype, width):
    values = np.unique(drawn(1 << width, dtype).astype(np.float32)).astype(DTYPES[dtype])
    arrays = [np.resize(values, (37, 41)), values[:1].reshape(()), np.zeros((0, 3), values.dtype), values]
    found = Records(Codebook(bits=width), arrays).decoded()
    assert [bits(array) for array in found] == [bits(array) for array in arrays]


def test_near_values_are_told_apart_where_there_is_room():
    values = np.nextafter(np.ones(4, np.float32), np.float32(2)) + np.arange(4, dtype=np.float32) * np.float32(2e-7)
    assert bits(Records(Codebook(bits=2), [values]).decoded()[0]) == bits(values)


@pytest.mark.parametrize("dtype", QUANTIZABLE)
def test_numbers_are_of_the_dtype(dtype):
    values = drawn(5000, dtype)
    (found,) = Records(Codebook(bits=4), [values]).decoded()
    assert found.dtype == values.dtype
    assert decibel(values, found.astype(np.float64)) > 19
    book = np.unique(found.astype(np.float32))
    assert bits(nearest(book, values)) == bits(nearest(book, found))


def test_tensors_have_their_own_numbers():
    values = [drawn((3, 5)), drawn(PIECE_ELEMENTS) * np.float32(1e-3), drawn(400) + np.float32(50)]
    found = Records(Codebook(bits=5), values).decoded()
    for array, other in zip(values, found, strict=True):
        assert np.std(array - other) < 0.06 * np.std(array)


def test_repeated_values_have_a_number_and_the_others_still_enough():
    values = drawn(100_000) * (np.arange(100_000) % 2)
    (found,) = Records(Codebook(bits=4), [values.astype(np.float32)]).decoded()
    assert (np.abs(found[::2]) < 1e-3).all()
    assert decibel(values, found) > 20


@pytest.mark.parametrize(("width", "bits_each"), [(1, 1.001), (2, 1.93), (4, 3.85), (8, 7.91)])
def test_records_take_the_entropy_of_codes(width, bits_each):
    values = drawn((256, 1024))
    assert 8 * sum(map(len, Records(Codebook(bits=width), [values]).records)) <= bits_each * values.size


def test_mapped_values_do_not_change():
    values = drawn(999)
    before = bits(values)
    values.flags.writeable = False
    assert bits(Records(Codebook(), [values]).decoded()[0]) == bits(Records(Codebook(), [values.copy()]).decoded()[0])
    assert bits(values) == before


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    with pytest.raises(ConfigError, match=r"t1 float32\[2\].*NaN"):
        Records(Codebook(), [drawn(3), np.array([1, bad], np.float32)])


@pytest.mark.parametrize("width", [0, 9])
def test_other_fields_are_refused(width):
    with pytest.raises(ConfigError, match="bits"):
        Codebook(bits=width)


def test_integers_and_parameters_are_refused():
    info, empty = TensorInfo("a", "int32", (0,)), np.zeros(0, np.uint8)
    with pytest.raises(ConfigError, match="a int32"):
        Codebook().check(info)
    with pytest.raises(CorruptPayloadError, match="a int32"):
        Codebook().decoder([info], [None], empty)
    with pytest.raises(CorruptPayloadError, match="parameters 1"):
        Codebook().decoder([TensorInfo("a", "float32", (0,))], [1], empty)


@pytest.mark.parametrize("width", [1, 3, 8])
def test_damage_is_refused_or_harmless(width):
    assert check_damage(Records(Codebook(bits=width), [drawn(1003), drawn((3, 5))])) > 100


def test_damaged_codebooks_are_refused():
    records = Records(Codebook(bits=2), [np.array([1, 2, 4, 1, 2], np.float32), np.zeros(0, np.float32), drawn(1)])
    shared = records.shared
    assert len(shared) == 1 + 12 + 1 + 4
    wrong = {
        "needs": [shared[:end] for end in range(len(shared))],
        "left over": [shared + b"\0"],
        "5 numbers": [b"\4" + bytes(24)],
        "2 numbers": [shared[:13] + b"\1" + bytes(8)],
        "rise": [b"\1" + bytes(8), b"\1" + np.array([2, 1], "<f4").tobytes(), b"\0" + b"\xff" * 4],
    }
    for message, all_bad in wrong.items():
        for bad in all_bad:
            with pytest.raises(CorruptPayloadError, match=f"codebook.*{message}"):
                records.coder.decoder(records.infos, records.params, np.frombuffer(bad, np.uint8))


def test_bytes_do_not_change():
    records = Records(Codebook(bits=2), [np.array([1, 2, 4, 1, 2], np.float32)])
    assert records.shared.hex(" ") == "02 00 00 80 3f 00 00 00 40 00 00 80 40"
    assert records.records[0].hex(" ") == "00 24 01"
    assert_refused(records, [b"\0\x27\x01"], r"t0 float32\[5\] has code 3 of 3 numbers")
