"""Compiled kernels equal the plain definitions, bit for bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.quantizers.test_quantizers import MULTIPLIERS, problems
from trafficzip import ConfigError, kernels
from trafficzip.kernels import Groups, reference
from trafficzip.quantizers import Int8


def target(name, values, residual):
    return {"values": values.copy(), "residual": residual.copy(), "none": None}[name]


@given(problems(), st.sampled_from(MULTIPLIERS), st.booleans(), st.sampled_from(["values", "residual", "none"]))
def test_ternary_quartic(problem, multiplier, with_residual, out_name):
    values, residual, groups = problem
    kept = residual if with_residual else None
    out_name = out_name if with_residual else "none"
    scales = kernels.group_peaks(values, kept, groups) * np.float32(multiplier)
    like = out_name == "residual"
    expected_out = target(out_name, values, residual)
    codes = reference.ternarize(values, kept, expected_out, groups, scales, out_like_residual=like)
    # in place, as the hook does it: the kernel must read everything before it writes over it
    given_values, given_residual = values.copy(), residual.copy()
    out = {"values": given_values, "residual": given_residual, "none": None}[out_name]
    symbols = kernels.ternary_quartic(
        given_values, given_residual if with_residual else None, out, groups, scales, out_like_residual=like
    )
    assert symbols.tobytes() == reference.quartic_pack(codes).tobytes()
    if out is not None:
        assert out.tobytes() == expected_out.tobytes()


@given(problems(), st.booleans(), st.booleans())
def test_quartic_accumulate(problem, like_residual, negative):
    values, residual, groups = problem
    scales = kernels.group_peaks(values, None, groups) * np.float32(-1 if negative else 1)
    codes = reference.ternarize(values, None, None, groups, np.abs(scales), out_like_residual=False)
    out = (residual if like_residual else values).copy()
    expected = out.copy()
    reference.ternary_accumulate(codes, scales, expected, groups, like_residual=like_residual)
    kernels.quartic_accumulate(reference.quartic_pack(codes), scales, out, groups, out_like_residual=like_residual)
    assert (out == expected).all()


@given(problems(), st.booleans(), st.sampled_from(["values", "residual", "none"]), st.booleans())
def test_cast(problem, with_residual, out_name, bfloat16):
    values, residual, groups = problem
    kept = residual if with_residual else None
    out_name = out_name if with_residual else "none"
    like = out_name == "residual"
    peaks = kernels.group_peaks(values, kept, groups)
    expected_out, out = target(out_name, values, residual), target(out_name, values, residual)
    plain = reference.cast_bfloat16 if bfloat16 else reference.cast_float32
    expected = plain(values, kept, expected_out, groups, peaks, out_like_residual=like)
    codes = kernels.cast(values, kept, out, groups, peaks, out_like_residual=like, bfloat16=bfloat16)
    assert codes.tobytes() == expected.tobytes()
    assert out is None or out.tobytes() == expected_out.tobytes()
    total, expected_total = values.copy(), values.copy()
    kernels.cast_accumulate(codes, -1.0, total, groups, out_like_residual=False)
    reference.cast_accumulate(expected, -1.0, expected_total, groups, like_residual=False)
    assert (total == expected_total).all()


@given(problems(), st.booleans(), st.sampled_from(["values", "residual", "none"]))
def test_int8(problem, with_residual, out_name):
    values, residual, groups = problem
    kept = residual if with_residual else None
    out_name = out_name if with_residual else "none"
    like = out_name == "residual"
    scales = Int8().find_scales(values, kept, groups)
    expected_out, out = target(out_name, values, residual), target(out_name, values, residual)
    expected = reference.quantize_int8(values, kept, expected_out, groups, scales, out_like_residual=like)
    codes = kernels.quantize_int8(values, kept, out, groups, scales, out_like_residual=like)
    assert codes.tobytes() == expected.tobytes()
    assert out is None or out.tobytes() == expected_out.tobytes()
    total, expected_total = values.copy(), values.copy()
    kernels.int8_accumulate(codes, scales, total, groups, out_like_residual=False)
    reference.int8_accumulate(expected, scales, expected_total, groups, like_residual=False)
    assert (total == expected_total).all()


@pytest.mark.parametrize("size", [1, 4, 5, 2559, 2560, 2561, 327_679, 327_680, 327_681, 655_361])
def test_chunk_and_block_edges(size):
    rng = np.random.default_rng(size)
    values = rng.standard_normal(size).astype(np.float32)
    residual = rng.standard_normal(size).astype(np.float32)
    groups = Groups([size])
    peaks = reference.group_peaks(values, residual, groups)
    assert kernels.group_peaks(values, residual, groups, num_threads=3).tobytes() == peaks.tobytes()
    expected_out, out = np.zeros(size, np.float32), np.zeros(size, np.float32)
    codes = reference.ternarize(values, residual, expected_out, groups, peaks, out_like_residual=True)
    symbols = kernels.ternary_quartic(values, residual, out, groups, peaks, out_like_residual=True, num_threads=3)
    assert symbols.tobytes() == reference.quartic_pack(codes).tobytes()
    assert out.tobytes() == expected_out.tobytes()
    kernels.quartic_accumulate(symbols, peaks, out, groups, out_like_residual=True, num_threads=3)
    reference.ternary_accumulate(codes, peaks, expected_out, groups, like_residual=True)
    assert out.tobytes() == expected_out.tobytes()


def test_group_of_zeros_between_blocks():
    """A group is silent only if all of its blocks are: one value far behind makes the residual of all count."""
    values = np.zeros(700_000, np.float32)
    residual = np.linspace(-3, 2, values.size, dtype=np.float32)
    groups = Groups([values.size])
    assert kernels.group_peaks(values, residual, groups).tolist() == [0]
    values[-1] = 0.5
    assert kernels.group_peaks(values, residual, groups).tolist() == [3]


def test_cuda_tensor_is_refused_with_its_device():
    class Elsewhere:
        device = type("Device", (), {"type": "cuda", "__str__": lambda self: "cuda:1"})()

    with pytest.raises(ConfigError, match="cuda:1"):
        kernels.as_array(Elsewhere())
