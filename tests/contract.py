"""Checks that every codec and every quantizer passes, and the strategies that draw their inputs."""

import numpy as np
import pytest
from hypothesis import strategies as st

from trafficzip.errors import CorruptPayloadError, TrafficzipError
from trafficzip.quantizers import OneBit

SIZES = st.one_of(st.integers(0, 16), st.integers(58, 72), st.sampled_from([2559, 2560, 2561, 5000, 12801]))
SHARES = st.sampled_from([0.0, 0.003, 0.05, 0.3, 0.7, 1.0])


@st.composite
def ternary_codes(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    share = draw(SHARES)
    return rng.choice([-1, 0, 1], size=draw(SIZES), p=[share / 2, 1 - share, share / 2]).astype(np.int8)


@st.composite
def quartic_bytes(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(SIZES)
    zero = rng.random(n) >= draw(SHARES)
    return np.where(zero, 121, rng.integers(0, 243, n)).astype(np.uint8)


def check_codec(codec, symbols):
    """Round trip, size bound, thread count, wrong sizes and truncation."""
    data = codec.encode(symbols)
    assert data.dtype == np.uint8
    assert data.size <= codec.max_encoded_size(symbols.size)
    if codec.encoded_size(symbols.size) is not None:
        assert data.size == codec.encoded_size(symbols.size)
    decoded = codec.decode(data, symbols.size)
    assert decoded.dtype == symbols.dtype
    assert decoded.tobytes() == symbols.tobytes()
    assert codec.encode(symbols, num_threads=3).tobytes() == data.tobytes()
    assert codec.decode(data, symbols.size, num_threads=3).tobytes() == symbols.tobytes()
    for size in {0, data.size // 2, data.size - 1} - {data.size, -1}:
        with pytest.raises(CorruptPayloadError):
            codec.decode(data[:size], symbols.size)


def check_flips(codec, symbols):
    """A flipped byte raises, or gives as many valid symbols; it never crashes."""
    data = codec.encode(symbols)
    for at in range(data.size):
        damaged = data.copy()
        damaged[at] ^= 0x5A
        try:
            decoded = codec.decode(damaged, symbols.size)
        except TrafficzipError:
            continue
        assert decoded.shape == symbols.shape


def rounding_of(quantizer):
    """Give the largest relative error of what a quantizer says was lost: half a unit in its last place, or none."""
    return 2.0**-24 if isinstance(quantizer, OneBit) else 0.0


def check_quantizer(quantizer, values, residual, groups):
    """Decoded plus what was lost is what came in; inputs that are not `out` stay as they are."""
    before = values.copy(), residual.copy()
    scales = quantizer.find_scales(values, residual, groups)
    assert scales is not None
    assert (values == before[0]).all()
    lost = np.full_like(residual, np.nan)
    quantized = quantizer.quantize(values, groups, scales=scales, residual=residual, out=lost, out_like_residual=True)
    assert (values == before[0]).all()
    assert (residual == before[1]).all()
    assert quantized.codes.size == quantizer.num_codes(groups)
    decoded = np.zeros_like(values)
    quantizer.accumulate(quantized.codes, scales, groups, decoded, sign=1.0, out_like_residual=False)
    for size, value, kept in zip(groups.sizes, groups.value_starts, groups.residual_starts, strict=True):
        total = values[value : value + size] + residual[kept : kept + size]
        back = decoded[value : value + size].astype(np.float64) + lost[kept : kept + size]
        assert (np.abs(back - total) <= rounding_of(quantizer) * np.abs(lost[kept : kept + size])).all()
