"""The trellis coder: what is decoded is what the levels mean, on every dtype, shape and number of threads."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trafficzip.checkpoint.coders.base import Job
from trafficzip.checkpoint.pieces import PIECE_ELEMENTS, pieces
from trafficzip.checkpoint.tensors import TensorInfo
from trafficzip.checkpoint.trellis.coder import MAX_SCALED, Trellis
from trafficzip.checkpoint.trellis.layout import class_range, kernel_neighbours, make_layout
from trafficzip.checkpoint.trellis.scales import DEPTH, Scales, fit_scales, matrix_shape, step_of
from trafficzip.checkpoint.trellis.search import fit_search
from trafficzip.checkpoint.trellis.side import Side, pack_side, unpack_side
from trafficzip.checkpoint.trellis.tables import fit_tables, guess_tables, low_bits_of
from trafficzip.errors import ConfigError, CorruptPayloadError
from trafficzip.kernels.reference_tables import NUM_SYMBOLS, TABLE_SIZE
from trafficzip.kernels.reference_trellis import dequantize


def job_of(arrays, step, num_threads=1):
    infos = tuple(TensorInfo(name, array.dtype.name, array.shape) for name, array in arrays.items())
    values = list(arrays.values())
    return Job(infos, lambda place: values[place], (step,) * len(infos), num_threads)


def encode(coder, job):
    encoding = coder.plan(job)
    records = [
        encoding.encode(piece, [job.read(s.tensor).reshape(-1)[s.start : s.stop] for s in piece])
        for piece in pieces(job.infos)
    ]
    return [list(entry) for entry in encoding.params], encoding.shared, records


def decode(coder, infos, params, shared, records):
    outs = [np.full(info.shape, 7).astype(job_dtype(info)) for info in infos]
    run = coder.decoder(infos, params, np.frombuffer(shared, np.uint8))
    for piece, record in zip(pieces(infos), records, strict=True):
        flat = [outs[s.tensor].reshape(-1)[s.start : s.stop] for s in piece]
        run(piece, np.frombuffer(record, np.uint8), flat, lambda: "w")
    return outs


def job_dtype(info):
    return np.dtype(getattr(ml_dtypes, info.dtype, info.dtype))


def weights(*shape, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape) * scale
    if len(shape) > 1:
        values *= np.exp(rng.standard_normal(shape[0]))[(...,) + (None,) * (len(shape) - 1)]
    return values.astype(np.float32)


@pytest.mark.parametrize("context", [False, True])
@pytest.mark.parametrize("num_states", [1, 8, 64, 256])
def test_decoded_values_are_what_the_levels_mean(context, num_states):
    arrays = {"conv": weights(6, 5, 3, 3), "fc": weights(7, 11, seed=1), "odd": weights(13, seed=2)}
    coder = Trellis(num_states=num_states, context=context)
    job = job_of(arrays, -64)
    params, shared, records = encode(coder, job)
    found = decode(coder, job.infos, params, shared, records)
    scales = [fit_scales(a.reshape(matrix_shape(i)), -64) for a, i in zip(arrays.values(), job.infos, strict=True)]
    lowest, highest = class_range(scales, [-64] * 3)
    lowest = max(lowest, -10)
    unit = 1 if context else 8
    layout = make_layout(
        job.infos, scales, [-64] * 3, lowest=lowest, num_classes=min(highest - lowest + 1, 32), unit=unit
    )
    search = fit_search(job, layout, lowest=lowest, num_states=num_states, slope=0.4, passes=2)
    (piece,) = pieces(job.infos)
    _, levels = search.levels(piece, [a.reshape(-1) for a in arrays.values()])
    expected = dequantize(levels.tolist(), np.float32(0.25), num_states)
    for start, out in zip(layout.starts(piece), found, strict=False):
        np.testing.assert_array_equal(out.reshape(-1), expected[start : start + out.size])


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(0, 9), max_size=4),
    scale=st.sampled_from([0.0, 1e-20, 0.01, 1.0, 300.0]),
    step=st.integers(-200, 40),
    context=st.booleans(),
)
def test_error_is_below_the_width_of_a_union(shape, scale, step, context):
    array = weights(*shape, scale=scale) if shape else np.float32(scale).reshape(())
    coder = Trellis(context=context, slope=0.0)
    job = job_of({"w": array}, step)
    params, shared, records = encode(coder, job)
    (found,) = decode(coder, job.infos, params, shared, records)
    used = float(step_of(params[0][0]))
    np.testing.assert_array_less(np.abs(found - array), 3 * used + 1e-30)
    assert params[0][0] == step or np.abs(array).max() / float(step_of(step)) > MAX_SCALED


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "float8_e4m3fn"])
def test_other_floats_are_decoded_in_their_dtype(dtype):
    array = weights(40, 50, scale=0.1).astype(getattr(ml_dtypes, dtype, dtype))
    coder = Trellis()
    params, shared, records = encode(coder, job_of({"w": array}, -130))
    (found,) = decode(coder, job_of({"w": array}, 0).infos, params, shared, records)
    assert found.dtype == array.dtype
    error = np.linalg.norm(found.astype(np.float64) - array.astype(np.float64))
    assert error < 0.3 * np.linalg.norm(array.astype(np.float64))


def test_outliers_widen_the_step_or_become_patches():
    array = weights(64, 64, scale=0.01)
    array[3, 5], array[9, 1] = 900.0, -3.0
    coder = Trellis()
    params, shared, records = encode(coder, job_of({"w": array}, -320))
    assert params[0][0] > -320
    (found,) = decode(coder, job_of({"w": array}, 0).infos, params, shared, records)
    np.testing.assert_allclose(found[[3, 9], [5, 1]], [900.0, -3.0], atol=3 * float(step_of(params[0][0])))


def test_values_that_are_not_finite_are_refused():
    for bad in (np.nan, np.inf, -np.inf):
        array = weights(8, 8)
        array[2, 3] = bad
        with pytest.raises(ConfigError, match=r"w float32\[8, 8\]: has values that are NaN, infinite"):
            Trellis().plan(job_of({"w": array}, 0))
    with pytest.raises(ConfigError, match="beyond float32"):
        Trellis().plan(job_of({"w": np.full((2, 2), 1e300)}, 0))


def test_large_tensors_give_the_same_bytes_with_any_number_of_threads():
    array = weights(900, PIECE_ELEMENTS // 256)
    one, two = (encode(Trellis(num_states=8), job_of({"w": array}, -100, num_threads=n)) for n in (1, 3))
    assert one == two
    assert len(one[2]) > 2


@pytest.mark.parametrize("context", [False, True])
def test_damaged_records_are_refused_or_give_values(context):
    arrays = {"w": weights(30, 8, 3, 3), "v": weights(20, 20)}
    coder = Trellis(context=context)
    job = job_of(arrays, -100)
    params, shared, (record,) = encode(coder, job)
    rng = np.random.default_rng(3)
    refused = 0
    for _ in range(400):
        bad_shared, bad = bytearray(shared), bytearray(record)
        target = bad if rng.random() < 0.5 else bad_shared
        target[rng.integers(len(target))] ^= 1 << rng.integers(8)
        if rng.random() < 0.3:
            del target[rng.integers(len(target)) :]
        try:
            found = decode(coder, job.infos, params, bytes(bad_shared), [bytes(bad)])
        except CorruptPayloadError:
            refused += 1
        else:
            assert all(out.dtype == np.float32 for out in found)
    assert refused > 100


def test_every_prefix_of_a_record_is_refused():
    job = job_of({"w": weights(16, 16)}, -100)
    for context in (False, True):
        coder = Trellis(context=context)
        params, shared, (record,) = encode(coder, job)
        for end in range(len(record)):
            with pytest.raises(CorruptPayloadError):
                decode(coder, job.infos, params, shared, [record[:end]])
        for end in range(len(shared)):
            with pytest.raises(CorruptPayloadError):
                decode(coder, job.infos, params, shared[:end], [record])


@pytest.mark.parametrize(
    "params", [None, 3, [1], [1, 2, 3], [1.0, 0], [True, 0], [0, 4], [0, -1], [4000, 0], [-4000, 0], ["1", 0]]
)
def test_parameters_that_no_encoder_writes_are_refused(params):
    job = job_of({"w": weights(4, 4)}, -10)
    _, shared, _ = encode(Trellis(), job)
    with pytest.raises(CorruptPayloadError, match=r"w float32\[4, 4\]: parameters"):
        Trellis().decoder(job.infos, [params], np.frombuffer(shared, np.uint8))


def test_integers_cannot_be_quantized():
    with pytest.raises(ConfigError, match="only floating point"):
        Trellis().check(TensorInfo("steps", "int64", (3,)))


@pytest.mark.parametrize("field", [{"num_states": 7}, {"num_states": 128}, {"slope": -1.0}, {"passes": 9}])
def test_wrong_fields_are_refused(field):
    with pytest.raises(ConfigError, match=next(iter(field))):
        Trellis(**field)


def test_scales_follow_rows_and_columns():
    rows, columns = 2.0 ** np.arange(8), 2.0 ** -np.arange(40)[:20]
    values = (np.random.default_rng(0).choice([-1, 1], (8, 20)) * rows[:, None] * columns).astype(np.float32)
    found = fit_scales(values, -640)
    np.testing.assert_array_equal(np.diff(found.rows), 4)
    np.testing.assert_array_equal(np.diff(found.columns)[:10], -4)
    assert found.columns.max() - found.columns.min() <= DEPTH
    flat = fit_scales(np.ones((8, 20), np.float32), -10)
    assert flat.rows.size == flat.columns.size == 1


def test_side_record_round_trips():
    infos = [TensorInfo("a", "float32", (4, 3)), TensorInfo("b", "float32", (5,)), TensorInfo("c", "float32", (0, 2))]
    scales = (
        Scales(np.array([1, 5, -3, 2], np.int16), np.array([0, 2, 9], np.int16)),
        Scales(np.array([-12], np.int16), np.array([3], np.int16)),
        Scales(np.zeros(1, np.int16), np.zeros(1, np.int16)),
    )
    tables = guess_tables(-2, 9)
    for kept in (tables, None):
        data = np.frombuffer(pack_side(Side(scales, -2, 9, kept)), np.uint8)
        found = unpack_side(data, infos, [3, 0, 0], has_tables=kept is not None)
        assert (found.lowest, found.num_classes, found.tables) == (-2, 9, kept)
        for one, two in zip(found.scales, scales, strict=True):
            np.testing.assert_array_equal(one.rows, two.rows)
            np.testing.assert_array_equal(one.columns, two.columns)


@settings(max_examples=60, deadline=None)
@given(
    lowest=st.integers(-10, 24),
    counts=st.lists(st.integers(0, 10**6), min_size=12, max_size=12),
    seed=st.integers(0, 9),
)
def test_fitted_tables_are_tables(lowest, counts, seed):
    seen = np.zeros((3, 2, NUM_SYMBOLS), np.int64)
    rng = np.random.default_rng(seed)
    for place, count in enumerate(counts):
        seen[place % 3, place % 2, rng.integers(0, 256, 1 + count % 50)] = count
    tables = fit_tables(lowest, seen)
    frequencies = tables.frequencies()
    assert (frequencies.sum(axis=2) == TABLE_SIZE).all()
    rates = tables.rates()
    assert np.isfinite(rates).all()
    assert (rates >= 0).all()
    np.testing.assert_array_equal(tables.low_bits, low_bits_of(lowest, 3))


def test_neighbours_are_those_of_the_kernel():
    assert kernel_neighbours((8, 4)).tolist() == [0]
    assert kernel_neighbours((8, 4, 3)).tolist() == [0, 1, 1]
    expected = [0x00, 0x01, 0x01, 0x30, 0x31, 0x31, 0x30, 0x31, 0x31]
    assert kernel_neighbours((8, 4, 3, 3)).tolist() == expected
    assert kernel_neighbours((8, 4, 1, 1)).tolist() == [0]
    assert kernel_neighbours((8, 4, 3, 16)).tolist() == [0]
