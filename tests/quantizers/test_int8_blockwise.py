import numpy as np
import pytest

from trafficzip import INT8, INT8_BLOCKWISE, ConfigError, CorruptPayloadError, Groups
from trafficzip.quantizers import Int8Blockwise


def test_blocks_of_other_magnitude_keep_their_precision():
    rng = np.random.default_rng(0)
    values = rng.standard_normal(1000).astype(np.float32)
    values[256:] *= 1e-4
    groups = Groups([1000])
    errors = [
        np.abs(c.decompress(c.compress(values, groups), groups) - values)[256:].max() for c in (INT8, INT8_BLOCKWISE)
    ]
    assert errors[0] > 1e-5
    assert errors[1] < 0.6 * np.abs(values[256:]).max() / 127


def test_payload_is_scales_then_codes():
    values = np.concatenate([np.full(16, 127.0), np.full(3, -254.0), [2.54, -1.27]]).astype(np.float32)
    groups = Groups([19, 2])
    quantizer = Int8Blockwise(block=16)
    codes = quantizer.quantize(values, groups, scales=quantizer.find_scales(values, None, groups)).codes
    assert codes.size == quantizer.num_codes(groups) == 12 + 21
    assert codes[:12].view(np.float32).tolist() == [1, 2, np.float32(2.54) / np.float32(127)]
    assert codes[12:].view(np.int8).tolist() == [127] * 16 + [-127] * 3 + [127, -64]  # -63.5: a tie, to even


def test_block_without_values_keeps_its_residual():
    values = np.zeros(32, np.float32)
    values[20] = 1
    residual = np.ones(32, np.float32)
    quantizer = Int8Blockwise(block=16)
    groups = Groups([32])
    scales = quantizer.find_scales(values, residual, groups)
    assert scales.tolist() == [0, np.float32(2) / np.float32(127)]
    quantizer.quantize(values, groups, scales=scales, residual=residual, out=residual)
    assert (residual[:16] == 1).all()


@pytest.mark.parametrize("block", [0, 8, 100, 131072, -256])
def test_block_that_is_no_power_of_two_in_range_raises(block):
    with pytest.raises(ConfigError, match="block must be a power of two"):
        Int8Blockwise(block=block)


@pytest.mark.parametrize("scale", [-1.0, np.inf, np.nan, 3e38])
def test_scale_that_no_encoder_writes_raises_and_adds_nothing(scale):
    quantizer = Int8Blockwise(block=16)
    codes = np.concatenate([np.array([1, scale], np.float32).view(np.uint8), np.ones(20, np.uint8)])
    out = np.zeros(20, np.float32)
    with pytest.raises(CorruptPayloadError, match="scale"):
        quantizer.accumulate(codes, None, Groups([20]), out, sign=1.0, out_like_residual=False)
    codes[4:8] = 0
    codes[-1] = 128
    with pytest.raises(CorruptPayloadError, match="-128"):
        quantizer.accumulate(codes, None, Groups([20]), out, sign=1.0, out_like_residual=False)
    assert not out.any()
