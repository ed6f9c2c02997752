import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trafficzip.errors import CorruptPayloadError
from trafficzip.kernels import elias_fano


@st.composite
def position_sets(draw):
    total = draw(st.one_of(st.integers(0, 40), st.integers(1000, 1100), st.sampled_from([2**20, 2**32 - 1])))
    chosen = draw(st.sets(st.integers(0, max(total - 1, 0)), max_size=min(total, 60)))
    return np.array(sorted(chosen), np.int64), total


@given(position_sets())
def test_round_trip_in_the_size_that_was_said(problem):
    positions, total = problem
    data = elias_fano.encode(positions, total)
    assert data.size == elias_fano.encoded_size(positions.size, total)
    assert elias_fano.decode(data, positions.size, total).tolist() == positions.tolist()


@given(position_sets(), st.data())
def test_every_flipped_bit_raises_or_gives_another_valid_set(problem, data):
    positions, total = problem
    code = elias_fano.encode(positions, total)
    for at in range(code.size):
        damaged = code.copy()
        damaged[at] ^= 1 << data.draw(st.integers(0, 7))
        try:
            found = elias_fano.decode(damaged, positions.size, total)
        except CorruptPayloadError:
            continue
        assert found.size == positions.size
        assert (np.diff(found) > 0).all()
        assert found[0] >= 0
        assert found[-1] < total
        assert elias_fano.encode(found, total).tobytes() == damaged.tobytes()  # one encoding for each set


def test_bytes_of_a_small_case():
    """Positions 3, 4, 17, 31 of 33: three low bits each (3, 4, 1, 7), high parts 0, 0, 2, 3 marked at 0, 1, 4, 6."""
    data = elias_fano.encode(np.array([3, 4, 17, 31]), 33)
    assert data.tolist() == [0b01100011, 0b1110, 0b01010011]


def test_one_percent_costs_less_than_nine_bits_a_position():
    n = 1_000_000
    assert 8 * elias_fano.encoded_size(n // 100, n) / (n // 100) < 8.6


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([0b01100011, 0b1110, 0b01010001], "3 bits set, expected 4"),
        ([0b01100011, 0b11110, 0b01010011], "padding bit"),
        ([0b01011011, 0b1110, 0b01010011], "do not rise"),  # 3 twice
        ([0b01100011, 0b1110, 0b10010011], "not below 33"),  # 39
    ],
)
def test_what_no_encoder_writes_raises(data, message):
    with pytest.raises(CorruptPayloadError, match=message):
        elias_fano.decode(np.array(data, np.uint8), 4, 33)
