import numpy as np
import pytest

from trafficzip import TOP_K, Compressor, ConfigError, CorruptPayloadError, Groups
from trafficzip.kernels import elias_fano
from trafficzip.quantizers import TopK

VALUES = np.array([0.5, -4.0, 1.0, 3.0, 0.25, -0.125, 8.0, 0.0625], np.float32)
GROUPS = Groups([5, 3])


def test_largest_values_of_each_group_are_sent_and_the_rest_waits():
    lost = np.zeros_like(VALUES)
    compressor = Compressor(quantizer=TopK(share=0.4))
    frame = compressor.compress(VALUES, GROUPS, residual=np.zeros_like(VALUES), out=lost)
    assert compressor.decompress(frame, GROUPS).tolist() == [0, -4, 0, 3, 0, -0.125, 8, 0]
    assert lost.tolist() == [0.5, 0, 1, 0, 0.25, 0, 0, 0.0625]


def test_rounding_to_bfloat16_waits_too():
    values = np.array([1 + 2.0**-12, 0.0], np.float32)
    lost = np.zeros_like(values)
    TOP_K.compress(values, Groups([2]), residual=np.zeros_like(values), out=lost)
    assert lost.tolist() == [2.0**-12, 0]


@pytest.mark.parametrize(
    ("share", "size", "count"), [(0.01, 1, 1), (0.01, 100, 1), (0.01, 101, 2), (1.0, 7, 7), (1e-12, 7, 1)]
)
def test_share_is_rounded_up(share, size, count):
    quantizer = TopK(share=share)
    assert quantizer.num_codes(Groups([size])) == 2 * count + elias_fano.encoded_size(count, size)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.0000001, float("nan"), float("inf")])
def test_share_out_of_range_raises(share):
    with pytest.raises(ConfigError, match="share of values"):
        TopK(share=share)


def test_what_rounds_to_infinity_is_told():
    huge = np.array([1.0, 3.4e38], np.float32)
    assert TopK().find_scales(huge, None, Groups([2])) is None


@pytest.mark.parametrize("pattern", [0x7F80, 0xFF80, 0x7FC1])
def test_value_that_is_not_finite_raises_and_adds_nothing(pattern):
    quantizer = TopK(share=0.4)
    codes = quantizer.quantize(VALUES, GROUPS, scales=quantizer.find_scales(VALUES, None, GROUPS)).codes
    codes[2:4] = np.array([pattern], np.uint16).view(np.uint8)
    out = np.zeros_like(VALUES)
    with pytest.raises(CorruptPayloadError, match="not finite"):
        quantizer.accumulate(codes, None, GROUPS, out, sign=1.0, out_like_residual=False)
    assert not out.any()


def test_group_with_another_number_of_values_raises():
    quantizer = TopK(share=0.4)
    codes = np.concatenate([np.zeros(8, np.uint8), elias_fano.encode(np.array([0, 1, 2, 6]), 8)])
    assert codes.size == quantizer.num_codes(GROUPS)
    with pytest.raises(CorruptPayloadError, match="another number of values"):
        quantizer.accumulate(codes, None, GROUPS, np.zeros(8, np.float32), sign=1.0, out_like_residual=False)


def test_everything_is_sent_in_the_end():
    rng = np.random.default_rng(0)
    values = rng.standard_normal(300).astype(np.float32)
    residual, sent, groups = np.zeros_like(values), np.zeros(300), Groups([100, 200])
    for step in range(220):
        given = values if step == 0 else np.full(300, 1e-30, np.float32)  # all zero would be silent
        frame = TOP_K.compress(given, groups, residual=residual, out=residual)
        sent += TOP_K.decompress(frame, groups)
    assert np.abs(sent - values).max() < 0.01  # a value and then its bfloat16 remainder, one of a hundred a step
