import numpy as np
import pytest
from hypothesis import given

from tests.contract import check_codec, check_flips, quartic_bytes
from trafficzip.codecs import ZeroRun
from trafficzip.errors import CorruptPayloadError
from trafficzip.kernels import reference


@given(quartic_bytes())
def test_contract(symbols):
    check_codec(ZeroRun(), symbols)


@given(quartic_bytes())
def test_equals_reference(symbols):
    data = ZeroRun().encode(symbols)
    assert data.tobytes() == reference.zero_run_encode(symbols).tobytes()
    assert ZeroRun().decode(data, symbols.size).tobytes() == reference.zero_run_decode(data).tobytes()


@pytest.mark.parametrize("length", range(1, 61))
@pytest.mark.parametrize(("before", "after"), [([], []), ([5], []), ([], [7]), ([5], [7])])
def test_run_lengths(length, before, after):
    symbols = np.array([*before, *[121] * length, *after], np.uint8)
    expected = [255] * (length // 14)
    rest = length % 14
    expected += [] if rest == 0 else [121] if rest == 1 else [241 + rest]
    data = ZeroRun().encode(symbols)
    assert data.tolist() == [*before, *expected, *after]
    assert ZeroRun().decode(data, symbols.size).tolist() == symbols.tolist()


def test_runs_across_search_chunks_and_threads():
    rng = np.random.default_rng(0)
    for gap in (1, 13, 14, 15, 300):
        symbols = np.full(400_000, 121, np.uint8)
        places = rng.choice(symbols.size, symbols.size // (gap + 1), replace=False)
        symbols[places] = rng.integers(0, 243, places.size)
        data = ZeroRun().encode(symbols)
        assert data.tobytes() == ZeroRun().encode(symbols, num_threads=5).tobytes()
        assert ZeroRun().decode(data, symbols.size, num_threads=4).tobytes() == symbols.tobytes()
        check_flips(ZeroRun(), symbols[:3000])


def test_expansion_is_checked_before_allocation():
    with pytest.raises(CorruptPayloadError, match="expand to 14000000 bytes, expected 3"):
        ZeroRun().decode(np.full(1_000_000, 255, np.uint8), 3)
