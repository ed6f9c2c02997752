"""Compiled rANS equals its definition in plain Python, bit for bit."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trafficzip.kernels import numba_cpu_rans as kernels
from trafficzip.kernels import numba_cpu_rans_model as model_kernels
from trafficzip.kernels import reference_rans as reference
from trafficzip.kernels.threads import run_in_threads


def quartic_symbols(num_symbols: int, share: float, seed: int = 0) -> NDArray[np.uint8]:
    """Draw symbols whose ternary codes are non-zero with this share."""
    random = np.random.default_rng(seed)
    digits = (random.random((num_symbols, 5)) < share) * random.choice([-1, 1], (num_symbols, 5)) + 1
    return (digits @ np.array([81, 27, 9, 3, 1])).astype(np.uint8)


def assert_chunk_equals_reference(symbols: NDArray[np.uint8], chunk_symbols: int = 65536) -> None:
    _, frequencies, bits = model_kernels.fit(kernels.count_symbols(symbols))
    lanes = reference.num_lanes(symbols.size)
    blocks = reference.max_tail_blocks(symbols.size, chunk_symbols)
    encoded = kernels.encode_chunk(symbols, kernels.encoder_tables(frequencies, bits), bits, lanes, blocks)
    assert encoded.tobytes() == reference.encode_chunk(symbols.tolist(), frequencies.tolist(), bits, chunk_symbols)
    out = np.full(symbols.size, 255, np.uint8)
    assert kernels.decode_chunk(encoded, *kernels.decoder_tables(frequencies, bits), bits, lanes, out)
    assert np.array_equal(out, symbols)
    assert reference.decode_chunk(encoded.tobytes(), frequencies.tolist(), bits, symbols.size) == symbols.tolist()


@pytest.mark.parametrize("share", [0.5, 0.05, 0.003, 0.0003])
@pytest.mark.parametrize("num_symbols", [2, 7, 8, 9, 1000, 4095, 4096, 4097, 4103, 5000])
def test_chunk_equals_reference(num_symbols: int, share: float) -> None:
    symbols = quartic_symbols(num_symbols, share)
    symbols[:2] = 0, 242  # one symbol alone has no model
    assert_chunk_equals_reference(symbols)


@pytest.mark.parametrize(
    ("num_symbols", "chunk_symbols", "blocks"),
    [(8192, 8192, 32), (8192, 65536, 255), (4096, 65536, 128), (65536, 1 << 20, 255)],
)
def test_tail_of_sparse_symbols_reaches_its_limit(num_symbols: int, chunk_symbols: int, blocks: int) -> None:
    symbols = np.full(num_symbols, 121, np.uint8)
    symbols[:9] = 7  # far from the end, so that the tail gives no word
    assert_chunk_equals_reference(symbols, chunk_symbols)
    _, frequencies, bits = model_kernels.fit(kernels.count_symbols(symbols))
    assert reference.encode_chunk(symbols.tolist(), frequencies.tolist(), bits, chunk_symbols)[0] == blocks


@settings(max_examples=40, deadline=None)
@given(
    data=st.lists(st.integers(0, 242), min_size=1, max_size=60), repeat=st.integers(1, 90), other=st.integers(0, 242)
)
def test_any_chunk_equals_reference(data: list[int], repeat: int, other: int) -> None:
    symbols = np.array([*data * repeat, other, (other + 1) % 243], np.uint8)
    assert_chunk_equals_reference(symbols)


@settings(max_examples=60, deadline=None)
@given(damage=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=4), cut=st.integers(-3, 3))
def test_damaged_chunk_is_judged_as_the_reference_judges_it(damage: list[tuple[int, int]], cut: int) -> None:
    symbols = quartic_symbols(4101, 0.05)
    _, frequencies, bits = model_kernels.fit(kernels.count_symbols(symbols))
    data = kernels.encode_chunk(symbols, kernels.encoder_tables(frequencies, bits), bits, 8, 128)
    for at, value in damage:
        data[at % data.size] = value
    data = data[:cut] if cut < 0 else np.concatenate([data, np.zeros(cut, np.uint8)])
    out = np.empty(symbols.size, np.uint8)
    valid = kernels.decode_chunk(data, *kernels.decoder_tables(frequencies, bits), bits, 8, out)
    try:
        expected = reference.decode_chunk(data.tobytes(), frequencies.tolist(), bits, symbols.size)
    except ValueError:
        assert not valid
    else:
        assert valid
        assert out.tolist() == expected


def test_symbol_order_groups_by_pattern() -> None:
    order = reference.symbol_order()
    assert order[:11] == [121, 40, 94, 112, 118, 120, 122, 124, 130, 148, 202]
    assert reference.group_sizes(1) == [1, 10, 40, 80, 80, 32]
    assert reference.group_sizes(2) == [1, 10, 20, 20, 20, 60, 10, 40, 30, 2, 10, 20]
    assert [len(reference.group_sizes(partition)) for partition in (3, 4)] == [21, 243]
    assert all(sum(reference.group_sizes(partition)) == 243 for partition in range(1, 5))


@settings(max_examples=100, deadline=None)
@given(counts=st.lists(st.sampled_from([0, 0, 1, 3, 50, 10**5, 2**31]), min_size=243, max_size=243))
def test_fitted_model_reads_back_and_equals_reference(counts: list[int]) -> None:
    counts[7], counts[121] = 1, 5
    data, frequencies, bits = model_kernels.fit(np.array(counts))
    assert frequencies.sum() == 1 << bits
    assert all(frequencies[symbol] > 0 for symbol in range(243) if counts[symbol])
    found = np.zeros(243, np.int64)
    assert model_kernels.read_model(data, found) == (data.size, bits)
    assert np.array_equal(found, frequencies)


@settings(max_examples=200, deadline=None)
@given(partition=st.integers(1, 4), bits=st.sampled_from([10, 12, 14, 16]), data=st.data())
def test_frequencies_equal_reference(partition: int, bits: int, data: st.DataObject) -> None:
    groups = len(reference.group_sizes(partition))
    codes = data.draw(st.lists(st.integers(0, 64), min_size=groups, max_size=groups))
    padded = np.zeros(243, np.int64)
    padded[:groups] = codes
    scaled = np.empty(243, np.int64)
    valid = model_kernels._scale(padded, partition, bits, scaled)
    try:
        expected = reference.frequencies(codes, partition, bits)
    except ValueError:
        assert not valid
    else:
        assert valid
        assert [expected[symbol] for symbol in reference.symbol_order()] == scaled.tolist()


def test_reciprocals_divide_exactly() -> None:
    random = np.random.default_rng(0)
    for bits in (10, 12, 14, 16):
        frequency = random.integers(1, 1 << bits, 20000)
        frequency[:4] = 1, 2, (1 << bits) - 1, (1 << bits - 1) + 1
        reciprocal = [-(-(1 << 32 + bits) // int(value)) for value in frequency]
        for value, factor in zip(frequency.tolist(), reciprocal, strict=True):
            limit = value << 32 - bits
            for state in (limit - 1, limit // value * value - 1, int(random.integers(0, limit))):
                assert state * factor < 1 << 64
                assert state * factor >> 32 + bits == state // value


def test_logarithms_are_far_from_rounding_ties() -> None:
    exact = np.log2(np.arange(256, 514)) * (1 << 16)
    assert np.abs(exact - np.floor(exact) - 0.5).min() > 1e-6  # so every math library rounds them alike


def test_run_in_threads_keeps_order_and_raises() -> None:
    names = set()

    def square(value: int) -> int:
        names.add(threading.current_thread().name)
        if value == 77:
            raise ValueError("77")
        return value * value

    jobs = [(value,) for value in range(50)]
    assert run_in_threads(square, jobs, 4) == [value * value for value in range(50)]
    assert len(names) <= 4
    for num_threads in (1, 3):
        with pytest.raises(ValueError, match="77"):
            run_in_threads(square, [(1,), (77,), (2,)], num_threads)
    assert run_in_threads(square, [], 4) == []
