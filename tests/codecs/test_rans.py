"""The rANS codec: round trips, sizes against entropy, and damaged payloads."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trafficzip.codecs.rans import Rans
from trafficzip.errors import ConfigError, CorruptPayloadError

WORKED_EXAMPLE = "69 45 02 38 f3 6e 2f 28 ed 87 00"


def quartic_symbols(num_symbols: int, share: float, seed: int = 0) -> NDArray[np.uint8]:
    """Draw symbols whose ternary codes are non-zero with this share."""
    random = np.random.default_rng(seed)
    digits = (random.random((num_symbols, 5)) < share) * random.choice([-1, 1], (num_symbols, 5)) + 1
    return (digits @ np.array([81, 27, 9, 3, 1])).astype(np.uint8)


def entropy_bytes(symbols: NDArray[np.uint8]) -> float:
    counts = np.unique(symbols, return_counts=True)[1]
    return float(-(counts * np.log2(counts / symbols.size)).sum() / 8)


def assert_round_trip(codec: Rans, symbols: NDArray[np.uint8]) -> None:
    data = codec.encode(symbols)
    assert data.dtype == np.uint8
    assert data.size <= codec.max_encoded_size(symbols.size)
    assert np.array_equal(codec.decode(data, symbols.size), symbols)


def assert_refused_or_valid(data: NDArray[np.uint8], num_symbols: int) -> bool:
    try:
        symbols = Rans().decode(data, num_symbols)
    except CorruptPayloadError:
        return True
    assert symbols.size == num_symbols
    assert num_symbols == 0 or symbols.max() < 243
    return False


@settings(max_examples=150, deadline=None)
@given(symbols=st.lists(st.integers(0, 242), max_size=60), repeat=st.integers(0, 120), zeros=st.integers(0, 3000))
def test_round_trip(symbols: list[int], repeat: int, zeros: int) -> None:
    assert_round_trip(Rans(chunk_symbols=2048), np.array([*symbols * repeat, *[121] * zeros], np.uint8))


@pytest.mark.parametrize("num_symbols", [*range(21), 255, 256, 257, 4095, 4096, 4097, 65535, 65536, 65537, 131073])
@pytest.mark.parametrize("share", [0.0, 0.003, 0.1, 0.7])
def test_round_trip_of_quartic_symbols(num_symbols: int, share: float) -> None:
    assert_round_trip(Rans(), quartic_symbols(num_symbols, share))


def test_nothing_is_no_bytes_and_one_symbol_is_two() -> None:
    assert Rans().encode(np.empty(0, np.uint8)).size == 0
    assert Rans().decode(np.empty(0, np.uint8), 0).size == 0
    for num_symbols in (1, 2, 1000, 10**6):
        assert Rans().encode(np.full(num_symbols, 121, np.uint8)).tolist() == [0, 121]


def test_worked_example_of_the_format() -> None:
    symbols = np.full(400, 121, np.uint8)
    symbols[[10, 20, 30]] = 122, 120, 122
    assert Rans().encode(symbols).tobytes().hex(" ") == WORKED_EXAMPLE
    assert np.array_equal(Rans().decode(np.frombuffer(bytes.fromhex(WORKED_EXAMPLE), np.uint8), 400), symbols)


@pytest.mark.parametrize("share", [0.30, 0.15, 0.10, 0.05, 0.02, 0.01, 0.003])
@pytest.mark.parametrize(("num_symbols", "bar"), [(10_000, 1.10), (200_000, 1.02)])
def test_size_is_near_the_entropy(num_symbols: int, bar: float, share: float) -> None:
    symbols = quartic_symbols(num_symbols, share, seed=1)
    assert Rans().encode(symbols).size <= bar * entropy_bytes(symbols)


def test_size_follows_clusters_and_any_frequencies() -> None:
    clustered = np.concatenate([quartic_symbols(3000, share, seed=2) for share in (0.001, 0.4, 0.002, 0.05)])
    assert Rans().encode(clustered).size <= 1.02 * entropy_bytes(clustered)
    weights = np.random.default_rng(3).random(243) ** 8
    skewed = np.random.default_rng(4).choice(243, 100_000, p=weights / weights.sum()).astype(np.uint8)
    assert Rans().encode(skewed).size <= 1.02 * entropy_bytes(skewed)


@pytest.mark.parametrize("chunk_symbols", [256, 65536])
def test_threads_do_not_change_bytes(chunk_symbols: int) -> None:
    codec = Rans(chunk_symbols=chunk_symbols)
    symbols = quartic_symbols(200_001, 0.05)
    data = codec.encode(symbols)
    for num_threads in (2, 3, 16):
        assert np.array_equal(codec.encode(symbols, num_threads=num_threads), data)
        assert np.array_equal(Rans().decode(data, symbols.size, num_threads=num_threads), symbols)


@pytest.mark.parametrize(
    "symbols",
    [
        np.full(50, 121, np.uint8),
        np.arange(243, dtype=np.uint8),
        quartic_symbols(600, 0.1),
        quartic_symbols(5000, 0.02),
        quartic_symbols(9000, 0.01),
    ],
    ids=["one symbol", "plain", "one lane", "eight lanes", "chunks"],
)
def test_every_prefix_and_every_flipped_byte_is_refused_or_valid(symbols: NDArray[np.uint8]) -> None:
    data = Rans(chunk_symbols=4096).encode(symbols)
    assert np.array_equal(Rans().decode(data, symbols.size), symbols)
    for size in range(data.size):
        with pytest.raises(CorruptPayloadError):
            Rans().decode(data[:size], symbols.size)
    for extra in (0, 121, 255):
        with pytest.raises(CorruptPayloadError):
            Rans().decode(np.append(data, np.uint8(extra)), symbols.size)
    refused = 0
    for at in range(data.size):
        for mask in (1, 16, 128, 255):
            damaged = data.copy()
            damaged[at] ^= mask
            refused += assert_refused_or_valid(damaged, symbols.size)
    if data[0] & 7:
        assert refused > 3.9 * data.size
    for num_symbols in (1, symbols.size - 1, symbols.size + 1, 4 * symbols.size):
        assert_refused_or_valid(data, num_symbols)


@settings(max_examples=300, deadline=None)
@given(data=st.binary(min_size=1, max_size=80), num_symbols=st.sampled_from([1, 5, 300, 4096, 5000, 70000]))
def test_any_bytes_are_refused_or_valid(data: bytes, num_symbols: int) -> None:
    assert_refused_or_valid(np.frombuffer(data, np.uint8), num_symbols)


def test_bad_arguments_raise() -> None:
    for chunk_symbols in (0, 128, 1000, 1 << 25):
        with pytest.raises(ConfigError):
            Rans(chunk_symbols=chunk_symbols)
    with pytest.raises(ConfigError, match="below 243"):
        Rans().encode(np.array([1, 2, 243], np.uint8))
    with pytest.raises(ConfigError, match="uint8"):
        Rans().encode(np.array([1, 2], np.int64))
    with pytest.raises(CorruptPayloadError):
        Rans().decode(np.empty(0, np.uint8), 3)
    with pytest.raises(CorruptPayloadError):
        Rans().decode(np.zeros(2, np.uint8), 0)


def test_strided_symbols_encode_as_contiguous_ones() -> None:
    symbols = quartic_symbols(3000, 0.1)
    assert np.array_equal(Rans().encode(symbols[::2]), Rans().encode(symbols[::2].copy()))


def test_import_compiles_nothing() -> None:
    program = (
        "from trafficzip.codecs import rans\n"
        "from trafficzip.kernels import numba_cpu_rans as k, numba_cpu_rans_model as m\n"
        "assert not any(f.signatures for f in (k.encode_chunk, k.decode_chunk, k.count_symbols, m.fit, m.read_model))\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
