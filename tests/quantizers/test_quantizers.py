import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.contract import check_quantizer
from trafficzip.errors import ConfigError, CorruptPayloadError
from trafficzip.kernels import Groups, reference
from trafficzip.quantizers import CastBfloat16, CastFloat32, Int8, Int8Blockwise, OneBit, Ternary, TopK

OTHERS = [CastBfloat16(), CastFloat32(), Int8(), TopK(), TopK(share=0.4), OneBit(), Int8Blockwise(block=16)]
MULTIPLIERS = [0.5, 0.7, 1.0, 1.5, 1.9, float(np.nextafter(np.float32(2), np.float32(0)))]


@st.composite
def problems(draw):
    """Values, residual and groups that lie anywhere in both, with holes, zeros, ties and all magnitudes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = draw(st.lists(st.integers(1, 23), max_size=5))
    order = rng.permutation(len(sizes))
    value_starts, residual_starts = np.zeros(len(sizes), int), np.zeros(len(sizes), int)
    at = 0
    for k in order:
        value_starts[k] = at + int(rng.integers(0, 4))
        at = value_starts[k] + sizes[k]
    total = at + 3
    at = 0
    for k in order[::-1]:
        residual_starts[k] = at
        at += sizes[k]
    groups = Groups(sizes, value_starts=value_starts.tolist(), residual_starts=residual_starts.tolist())
    spread = draw(st.sampled_from([0.0, 1.0, 20.0]))
    values = (rng.standard_normal(total) * np.exp(rng.standard_normal(total) * spread)).astype(np.float32)
    if draw(st.booleans()):
        values = np.round(values * 4) / np.float32(4)  # ties
    values[rng.random(total) < draw(st.sampled_from([0.0, 0.5, 1.0]))] = 0
    residual = (rng.standard_normal(at) * draw(st.sampled_from([0.0, 0.3, 5.0]))).astype(np.float32)
    return values, residual, groups


@given(problems(), st.sampled_from(MULTIPLIERS))
def test_ternary_keeps_every_bit(problem, multiplier):
    check_quantizer(Ternary(multiplier=multiplier), *problem)


@given(problems())
@pytest.mark.parametrize("quantizer", OTHERS, ids=repr)
def test_others_keep_every_bit(quantizer, problem):
    check_quantizer(quantizer, *problem)


def test_ternary_rule_and_ties():
    values = np.array([4.0, 2.0, -2.0, 2.0000002, -2.0000002, 0.0, -4.0], np.float32)
    quantizer = Ternary()
    groups = Groups([7])
    scales = quantizer.find_scales(values, None, groups)
    assert scales.tolist() == [4.0]
    codes = quantizer.quantize(values, groups, scales=scales).codes
    assert codes[:7].tolist() == [1, 0, 0, 1, -1, 0, -1]
    assert codes[7:].tolist() == [0, 0, 0]


def test_all_zero_needs_no_division():
    quantizer = Ternary()
    groups = Groups([6])
    scales = quantizer.find_scales(np.zeros(6, np.float32), np.zeros(6, np.float32), groups)
    assert scales.tolist() == [0.0]
    assert not quantizer.quantize(np.zeros(6, np.float32), groups, scales=scales).codes.any()


def test_largest_value_is_sent_for_every_allowed_multiplier():
    multiplier = MULTIPLIERS[-1]
    rng = np.random.default_rng(1)
    for value in rng.uniform(1, 2, 2000).astype(np.float32):
        values = np.array([value, 0.1], np.float32)
        quantizer = Ternary(multiplier=multiplier)
        scales = quantizer.find_scales(values, None, Groups([2]))
        assert quantizer.quantize(values, Groups([2]), scales=scales).codes[0] == 1


@pytest.mark.parametrize("multiplier", [0.49, 2.0, 1.99999999, -1.0, float("nan"), float("inf")])
def test_multiplier_out_of_range_raises(multiplier):
    with pytest.raises(ConfigError, match="sparsity multiplier"):
        Ternary(multiplier=multiplier)


@pytest.mark.parametrize("quantizer", [Ternary(), *OTHERS], ids=repr)
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_not_finite_is_told(quantizer, bad):
    values = np.array([1.0, 2.0, bad], np.float32)
    assert quantizer.find_scales(values, np.zeros(3, np.float32), Groups([2, 1])) is None
    residual = np.array([0.0, bad, 0.0], np.float32)
    assert quantizer.find_scales(np.ones(3, np.float32), residual, Groups([2, 1])) is None


def test_overflow_of_scale_or_cast_is_told():
    huge = np.array([3.4e38], np.float32)
    assert Ternary(multiplier=1.9).find_scales(huge, None, Groups([1])) is None
    assert CastBfloat16().find_scales(huge, None, Groups([1])) is None  # rounds to infinity
    assert CastFloat32().find_scales(huge, None, Groups([1])) is not None


def test_bfloat16_rounds_ties_to_even():
    bits = np.array([0x3F808000, 0x3F818000, 0x3F808001], np.uint32)
    values = bits.view(np.float32)
    quantizer = CastBfloat16()
    scales = quantizer.find_scales(values, None, Groups([3]))
    codes = quantizer.quantize(values, Groups([3]), scales=scales).codes
    assert codes.view(np.uint16).tolist() == [0x3F80, 0x3F82, 0x3F81]


@pytest.mark.parametrize("quantizer", [Ternary(), *OTHERS], ids=repr)
def test_group_without_values_sends_nothing_and_keeps_its_residual(quantizer):
    values = np.array([0, -0.0, 0, 1, 1, 1], np.float32)
    residual = np.array([5, 6, 7, 8, 9, 10], np.float32)
    groups = Groups([3, 3])
    scales = quantizer.find_scales(values, residual, groups)
    lost = np.zeros(6, np.float32)
    quantized = quantizer.quantize(values, groups, scales=scales, residual=residual, out=lost)
    assert lost[:3].tolist() == [5, 6, 7]
    decoded = np.zeros(6, np.float32)
    quantizer.accumulate(quantized.codes, scales, groups, decoded, sign=1.0, out_like_residual=False)
    assert not decoded[:3].any()
    assert decoded[3:].any()


@given(problems(), st.sampled_from(MULTIPLIERS), st.booleans())
def test_peaks_equal_reference(problem, multiplier, with_residual):
    values, residual, groups = problem
    kept = residual if with_residual else None
    from trafficzip import kernels

    found = kernels.group_peaks(values, kept, groups)
    assert found.tobytes() == reference.group_peaks(values, kept, groups).tobytes()


def test_int8_rounds_to_nearest_and_refuses_what_no_encoder_writes():
    values = np.array([127, -127, 0.5, 1.5, -0.4, 2.6], np.float32)
    quantizer = Int8()
    scales = quantizer.find_scales(values, None, Groups([6]))
    codes = quantizer.quantize(values, Groups([6]), scales=scales).codes
    assert codes.view(np.int8).tolist() == [127, -127, 0, 2, 0, 3]
    with pytest.raises(CorruptPayloadError, match="-128"):
        quantizer.accumulate(codes + np.uint8(1), scales, Groups([6]), values, sign=1.0, out_like_residual=False)
