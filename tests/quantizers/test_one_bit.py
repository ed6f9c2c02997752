import numpy as np
import pytest

from trafficzip import ONE_BIT, CorruptPayloadError, Groups
from trafficzip.quantizers import OneBit


def test_sign_and_mean_magnitude():
    values = np.array([1, -3, 0, -0.0, 2, 6, 10, -10, 4, 4], np.float32)
    groups = Groups([5, 5])
    lost = np.zeros_like(values)
    frame = ONE_BIT.compress(values, groups, residual=np.zeros_like(values), out=lost)
    assert frame.scales.tolist() == [np.float32(1.2), np.float32(6.8)]
    assert frame.payload.tolist() == [0b00010, 0b00100]
    assert ONE_BIT.decompress(frame, groups).tolist() == [
        *(s * np.float32(1.2) for s in (1, -1, 1, 1, 1)),
        *(s * np.float32(6.8) for s in (1, 1, -1, 1, 1)),
    ]
    assert lost[1] == np.float32(-3) + np.float32(1.2)


def test_one_bit_an_element():
    groups = Groups([9, 16, 1])
    frame = ONE_BIT.compress(np.ones(26, np.float32), groups)
    assert frame.payload.size == 2 + 2 + 1 == OneBit().num_codes(groups)


def test_padding_that_is_not_zero_raises_and_adds_nothing():
    groups = Groups([8, 3])
    out = np.zeros(11, np.float32)
    scales = np.ones(2, np.float32)
    OneBit().accumulate(np.array([255, 7], np.uint8), scales, groups, out, sign=1.0, out_like_residual=False)
    assert out.tolist() == [-1] * 11
    with pytest.raises(CorruptPayloadError, match="padding"):
        OneBit().accumulate(np.array([255, 8], np.uint8), scales, groups, out, sign=1.0, out_like_residual=False)
    assert out.tolist() == [-1] * 11


def test_smallest_and_largest_magnitudes():
    tiny, huge = np.float32(2.0**-149), np.finfo(np.float32).max
    for value in (tiny, huge):
        values = np.array([value, -value, value], np.float32)
        frame = ONE_BIT.compress(values, Groups([3]))
        assert ONE_BIT.decompress(frame, Groups([3])).tolist() == values.tolist()
    frame = ONE_BIT.compress(np.array([tiny, 0, 0], np.float32), Groups([3]))
    assert frame.scales.tolist() == [0]  # a third of the smallest number rounds to zero: nothing is sent
    assert not frame.payload.any()


def test_residual_makes_the_mean_of_what_is_sent_right():
    """Error feedback: over many steps what was sent is the sum of the gradients, up to one residual."""
    rng = np.random.default_rng(2)
    gradient = rng.standard_normal(64).astype(np.float32)
    residual, sent, groups = np.zeros(64, np.float32), np.zeros(64), Groups([64])
    for _ in range(400):
        frame = ONE_BIT.compress(gradient, groups, residual=residual, out=residual)
        sent += ONE_BIT.decompress(frame, groups)
    assert np.abs(sent + residual - 400 * gradient).max() < 0.01  # 400 roundings of numbers below 100
    assert np.abs(sent / 400 - gradient).max() < 0.1 * np.abs(gradient).max()
