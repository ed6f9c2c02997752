"""Compiled ops of the baseline quantizers equal the plain definitions, bit for bit, in place too."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kernels.test_backends import target
from tests.quantizers.test_quantizers import problems
from trafficzip.kernels import Groups, baselines, group_peaks, reference, reference_baselines
from trafficzip.quantizers.int8 import int8_scales

OUTS = st.sampled_from(["values", "residual", "none"])
EDGES = [1, 7, 8, 9, 2047, 2048, 2049, 327_679, 327_680, 327_681, 655_368]


def large(size):
    rng = np.random.default_rng(size)
    values = np.round(rng.standard_normal(size) * 8).astype(np.float32) / 8  # thousands of equal magnitudes
    return values, (rng.standard_normal(size) > 1).astype(np.float32), Groups([size])


def check(plain, compiled, problem, *, with_residual, out_name):
    """Call both with copies of the same arrays; what they return and write must be equal."""
    values, residual, groups = problem
    out_name = out_name if with_residual else "none"
    like = out_name == "residual"
    expected_out = target(out_name, values, residual)
    expected = plain(values, residual if with_residual else None, expected_out, groups, out_like_residual=like)
    given_values, given_residual = values.copy(), residual.copy()
    out = {"values": given_values, "residual": given_residual, "none": None}[out_name]
    found = compiled(given_values, given_residual if with_residual else None, out, groups, out_like_residual=like)
    for a, b in zip(expected, found, strict=True):
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()
    assert out is None or out.tobytes() == expected_out.tobytes()
    return found


def check_top_k(problem, share, *, with_residual, out_name):
    values, residual, groups = problem
    peaks = group_peaks(values, residual if with_residual else None, groups)
    counts = np.ceil(share * np.array(groups.sizes, np.float64)).astype(np.int64)

    def call(op):
        return lambda v, r, o, g, **layout: op(v, r, o, g, peaks, counts, **layout)

    check(
        call(reference_baselines.top_k),
        call(baselines.top_k),
        problem,
        with_residual=with_residual,
        out_name=out_name,
    )


def check_sign(problem, *, with_residual, out_name):
    values, residual, groups = problem
    kept = residual if with_residual else None
    peaks = group_peaks(values, kept, groups)
    scales = reference_baselines.mean_magnitudes(values, kept, groups, peaks)
    assert baselines.mean_magnitudes(values, kept, groups, peaks).tobytes() == scales.tobytes()

    def call(op):
        return lambda v, r, o, g, **layout: (op(v, r, o, g, scales, **layout),)

    (bits,) = check(
        call(reference_baselines.sign_pack),
        call(baselines.sign_pack),
        problem,
        with_residual=with_residual,
        out_name=out_name,
    )
    for like, start in ((False, values), (True, residual)):
        total, expected = start.copy(), start.copy()
        baselines.sign_accumulate(bits, -scales, total, groups, out_like_residual=like)
        reference_baselines.sign_accumulate(bits, -scales, expected, groups, like_residual=like)
        assert (total == expected).all()


def in_blocks(groups, block):
    """Give the groups that blocks are."""
    cuts = [
        (min(block, size - at), value + at, kept + at)
        for size, value, kept in zip(groups.sizes, groups.value_starts, groups.residual_starts, strict=True)
        for at in range(0, size, block)
    ]
    sizes, value_starts, residual_starts = zip(*cuts, strict=True) if cuts else ((), (), ())
    return Groups(sizes, value_starts=value_starts, residual_starts=residual_starts)


def check_int8_blocks(problem, block, *, with_residual, out_name):
    values, residual, groups = problem
    kept = residual if with_residual else None
    fine = in_blocks(groups, block)
    peaks = reference.group_peaks(values, kept, fine)
    assert baselines.block_peaks(values, kept, groups, block=block).tobytes() == peaks.tobytes()
    scales = int8_scales(peaks)
    (codes,) = check(
        lambda v, r, o, g, **layout: (reference.quantize_int8(v, r, o, fine, scales, **layout),),
        lambda v, r, o, g, **layout: (baselines.quantize_int8_blocks(v, r, o, g, scales, block=block, **layout),),
        problem,
        with_residual=with_residual,
        out_name=out_name,
    )
    for like, start in ((False, values), (True, residual)):
        total, expected = start.copy(), start.copy()
        baselines.int8_blocks_accumulate(codes, scales, total, groups, block=block, out_like_residual=like)
        reference.int8_accumulate(codes, scales, expected, fine, like_residual=like)
        assert (total == expected).all()


@given(problems(), st.sampled_from([1e-9, 0.01, 0.3, 1.0]), st.booleans(), OUTS)
def test_top_k(problem, share, with_residual, out_name):
    check_top_k(problem, share, with_residual=with_residual, out_name=out_name)


@given(problems(), st.booleans(), OUTS)
def test_sign(problem, with_residual, out_name):
    check_sign(problem, with_residual=with_residual, out_name=out_name)


@given(problems(), st.sampled_from([1, 4, 16]), st.booleans(), OUTS)
def test_int8_blocks(problem, block, with_residual, out_name):
    check_int8_blocks(problem, block, with_residual=with_residual, out_name=out_name)


@pytest.mark.parametrize("size", EDGES)
def test_chunk_and_block_edges(size):
    for share in (0.001, 0.5):
        check_top_k(large(size), share, with_residual=True, out_name="residual")
    check_sign(large(size), with_residual=True, out_name="values")
    check_int8_blocks(large(size), 65536, with_residual=True, out_name="residual")
    check_int8_blocks(large(size), 16, with_residual=False, out_name="none")


def test_equal_magnitudes_are_taken_from_the_front():
    values = np.array([1, -1, 1, 2, -1, 1, 0, 1], np.float32)
    groups = Groups([8])
    _, positions = baselines.top_k(
        values, None, None, groups, np.array([2], np.float32), np.array([3]), out_like_residual=False
    )
    assert positions.tolist() == [0, 1, 3]


def test_mean_magnitude_does_not_depend_on_the_order():
    """A sum of floats would: these magnitudes span 40 binary orders."""
    rng = np.random.default_rng(5)
    values = np.ldexp(rng.standard_normal(400_000), rng.integers(-40, 0, 400_000)).astype(np.float32)
    groups = Groups([values.size])
    peaks = group_peaks(values, None, groups)
    means = {baselines.mean_magnitudes(part, None, groups, peaks).tobytes() for part in (values, values[::-1].copy())}
    assert len(means) == 1
    exact = np.abs(values.astype(np.float64)).mean()
    found = float(baselines.mean_magnitudes(values, None, groups, peaks)[0])
    assert abs(found - exact) <= 2.0**-24 * exact + 2.0**-29 * float(peaks[0])  # rounded once; terms cut at 2**-30
