"""Byte planes: compiled equals the definition, planes and tables come back, bad bytes are refused or harmless."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trafficzip.kernels import numba_cpu_planes as kernels
from trafficzip.kernels import numba_cpu_planes_model as model
from trafficzip.kernels import reference_planes as reference
from trafficzip.kernels.numba_cpu_rans import encoder_tables

SIZES = [0, 1, 2, 7, 8, 9, 15, 16, 17, 4095, 4096, 4097, 4103, 4104]
ROTATIONS = [(2, 16, 0), (2, 6, 1), (2, 9, 1), (4, 32, 0), (4, 9, 1), (8, 64, 0), (8, 12, 4)]
ALPHABETS = {
    "two": lambda random: [0.5, 0.5],
    "rare": lambda random: [1, *[1e-4] * 255],
    "far apart": lambda random: [0.9, *[0] * 254, 0.1],
    "exponents": lambda random: [0.0] * 100 + [2.0 ** -abs(k) for k in range(-20, 5)],
    "all": lambda random: random.random(256),
    "some": lambda random: random.random(256) * (random.random(256) < 0.1) + np.eye(1, 256, 7)[0],
}


def drawn(size, seed, alphabet):
    """Symbols, and frequencies of at least two symbols that include them."""
    random = np.random.default_rng(seed)
    weights = np.array(ALPHABETS[alphabet](random))
    symbols = random.choice(weights.size, size, p=weights / weights.sum()).astype(np.uint8)
    counts = np.bincount(symbols, minlength=256).astype(np.int64)
    counts[[3, 200]] += 1
    return symbols, model.normalize(counts)


def encoded(symbols, frequencies):
    return kernels.encode_symbols(
        symbols, encoder_tables(frequencies, reference.PRECISION_BITS), reference.num_lanes(symbols.size)
    )


def decoded(data, frequencies, size):
    """Symbols, or None; nothing around them is written."""
    guarded = np.full(size + 64, 77, np.uint8)
    symbols = guarded[32 : 32 + size]
    good = kernels.decode_symbols(data, model.decoder_table(frequencies), reference.num_lanes(size), symbols)
    assert (guarded[:32] == 77).all()
    assert (guarded[32 + size :] == 77).all()
    return symbols if good else None


def referee(data, frequencies, size):
    """What the definition gives for these bytes, or None."""
    try:
        return reference.decode_symbols(data.tobytes(), frequencies.tolist(), size)
    except ValueError:
        return None


def read_only(planes):
    for plane in (rows := [plane.copy() for plane in planes]):
        plane.flags.writeable = False
    return tuple(rows)


@given(size=st.sampled_from(SIZES), seed=st.integers(0, 2**20), alphabet=st.sampled_from(sorted(ALPHABETS)))
@settings(deadline=None, max_examples=60)
def test_compiled_bytes_equal_reference(size, seed, alphabet):
    symbols, frequencies = drawn(size, seed, alphabet)
    data = encoded(symbols, frequencies)
    assert data.tobytes() == reference.encode_symbols(symbols.tolist(), frequencies.tolist())
    assert decoded(data, frequencies, size).tolist() == symbols.tolist()
    assert referee(data, frequencies, size) == symbols.tolist()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("itemsize", "top", "by"), ROTATIONS)
def test_compiled_planes_equal_reference(size, itemsize, top, by):
    dtype = np.dtype(f"u{itemsize}")
    values = np.random.default_rng(size).integers(0, 1 << 8 * itemsize, size, dtype)
    planes = np.empty((itemsize, size), np.uint8)
    kernels.split(values, *kernels.rotation(dtype, top=top, by=by), planes)
    assert planes.tolist() == reference.split(values.tolist(), width=8 * itemsize, top=top, by=by)
    assert reference.merge(planes.tolist(), width=8 * itemsize, top=top, by=by) == values.tolist()
    found = np.full(size, 99, dtype)
    kernels.merge(read_only(planes), *kernels.rotation(dtype, top=top, by=(top - by) % top), found)
    assert found.tolist() == values.tolist()


@pytest.mark.parametrize(("dtype", "top", "by"), [("float32", 9, 1), ("float64", 12, 4), ("float16", 6, 1)])
def test_the_highest_plane_is_the_exponent(dtype, top, by):
    """Signs and mantissas do not reach it; of 11 bits it has the lower eight."""
    values = np.array([1.0, -1.0, 1.5, -1.25, 2.0**-7, -(2.0**-7)], dtype)
    bits = values.view(f"u{values.itemsize}")
    planes = np.empty((values.itemsize, values.size), np.uint8)
    kernels.split(bits, *kernels.rotation(bits.dtype, top=top, by=by), planes)
    exponent = np.frexp(np.abs(values))[1] - 1
    shift = {"float16": 3, "float32": 0, "float64": 0}[dtype]
    bias = {"float16": 15, "float32": 127, "float64": 1023}[dtype]
    assert (planes[-1] >> shift).tolist() == ((exponent + bias) & 255).tolist()


@given(symbols=st.binary(max_size=40))
@settings(deadline=None)
def test_counts_are_those_of_all_symbols(symbols):
    counts = model.count(np.frombuffer(symbols, np.uint8))
    assert counts.tolist() == [symbols.count(symbol) for symbol in range(256)]


@given(counts=st.dictionaries(st.integers(0, 255), st.integers(1, 2**18) | st.integers(1, 5), min_size=2))
@settings(deadline=None, max_examples=100)
def test_compiled_tables_equal_reference(counts):
    array = np.zeros(256, np.int64)
    array[list(counts)] = list(counts.values())
    frequencies = model.normalize(array)
    assert frequencies.tolist() == reference.normalize(array.tolist())
    assert frequencies.sum() == reference.TABLE_SIZE
    assert ((frequencies > 0) == (array > 0)).all()
    data = model.write_table(frequencies)
    assert data.tobytes() == reference.write_table(frequencies.tolist())
    for more in (b"", b"\0", b"\xff\xff\xff"):
        found = np.full(256, 5, np.int64)
        assert model.read_table(np.frombuffer(data.tobytes() + more, np.uint8), found) == data.size
        assert found.tolist() == frequencies.tolist()
    assert all(model.read_table(data[:end].copy(), found) == -1 for end in range(data.size))


@given(kept=st.integers(0, 9), data=st.binary(max_size=80))
@settings(deadline=None, max_examples=300)
def test_any_bytes_are_judged_as_the_definition_does(kept, data):
    """Behind the first bytes of a table they are a table now and then."""
    frequencies = [0] * 100 + [4000, 96] + [0] * 154
    data = reference.write_table(frequencies)[:kept] + data
    found = np.empty(256, np.int64)
    num_bytes = model.read_table(np.frombuffer(data, np.uint8), found)
    try:
        frequencies, expected = reference.read_table(data)
    except ValueError:
        assert num_bytes == -1
    else:
        assert (found.tolist(), num_bytes) == (frequencies, expected)


def test_flipped_bits_of_a_table_are_judged_as_the_definition_does():
    found = np.empty(256, np.int64)
    for seed, alphabet in enumerate(ALPHABETS):
        table = model.write_table(drawn(5000, seed, alphabet)[1])
        for at in range(8 * table.size):
            flipped = table.copy()
            flipped[at // 8] ^= 1 << at % 8
            num_bytes = model.read_table(flipped, found)
            try:
                frequencies, expected = reference.read_table(flipped.tobytes())
            except ValueError:
                assert num_bytes == -1
            else:
                assert (found.tolist(), num_bytes) == (frequencies, expected)


def test_random_tables_never_read_too_far():
    random = np.random.default_rng(0)
    found = np.empty(256, np.int64)
    for _ in range(20_000):
        data = random.integers(0, 256, random.integers(0, 60)).astype(np.uint8)
        data &= random.integers(0, 256, data.size).astype(np.uint8)
        num_bytes = model.read_table(data, found)
        assert num_bytes <= data.size
        assert num_bytes == -1 or found.sum() == reference.TABLE_SIZE


@pytest.mark.parametrize("size", [1, 9, 300, 4097])
@pytest.mark.parametrize("alphabet", ALPHABETS)
def test_every_prefix_is_refused(size, alphabet):
    symbols, frequencies = drawn(size, 1, alphabet)
    data = encoded(symbols, frequencies)
    assert decoded(data, frequencies, size) is not None
    assert all(decoded(data[:end].copy(), frequencies, size) is None for end in range(data.size))


@pytest.mark.parametrize("size", [0, 1, 9, 300, 4097])
def test_bytes_behind_the_end_are_refused(size):
    symbols, frequencies = drawn(size, 1, "all")
    data = encoded(symbols, frequencies)
    for more in ([0], [0, 0], [255, 255], [0, 0, 1, 0], [0] * 32):
        assert decoded(np.append(data, np.array(more, np.uint8)), frequencies, size) is None


@pytest.mark.parametrize("size", [9, 300, 4097])
def test_flipped_bits_are_judged_as_the_definition_does(size):
    symbols, frequencies = drawn(size, 2, "exponents")
    data = encoded(symbols, frequencies)
    for at in np.random.default_rng(3).permutation(8 * data.size)[: 2000 if size < 4096 else 60]:
        flipped = data.copy()
        flipped[at // 8] ^= 1 << at % 8
        found = decoded(flipped, frequencies, size)
        assert (None if found is None else found.tolist()) == referee(flipped, frequencies, size)
        assert found is None or encoded(found, frequencies).tolist() == flipped.tolist()


def test_random_bytes_stay_in_bounds():
    random = np.random.default_rng(0)
    tables = [drawn(5000, seed, alphabet)[1] for seed, alphabet in enumerate(ALPHABETS)]
    for trial in range(3000):
        data = random.integers(0, 256, random.integers(0, 100)).astype(np.uint8)
        if trial % 3 == 0:
            data[:] = (0, 255)[trial % 2]
        decoded(data, tables[trial % len(tables)], SIZES[trial % len(SIZES)])


@pytest.mark.parametrize("frequency", [1, 2, 3, 5, 127, 2048, 4093, 4094, 4095])
def test_states_are_divided_exactly(frequency):
    """The reciprocal serves all states below frequency << 20, the largest ones and multiples included."""
    frequencies = np.zeros(256, np.int64)
    frequencies[[0, 9]] = frequency, reference.TABLE_SIZE - frequency
    table = encoder_tables(frequencies, reference.PRECISION_BITS)
    top = frequency << 20
    states = {top - 1, top - frequency, top - frequency - 1, reference.LOW, reference.LOW + 1, top // 2, top // 3}
    for state in states:
        assert state * int(table[0, 2]) < 2**64
        assert state * int(table[0, 2]) >> 44 == state // frequency


def test_size_is_near_the_entropy():
    symbols, frequencies = drawn(131_072, 0, "exponents")
    counts = np.bincount(symbols, minlength=256)
    data = encoded(symbols, frequencies)
    entropy = -(counts * np.log2(np.maximum(counts, 1) / counts.sum())).sum() / 8
    assert data.size < 1.002 * entropy + 32
    assert abs(8 * data.size - model.coded_cost(counts.astype(np.int64), frequencies) / model.LOG_UNIT) < 300


def test_bytes_do_not_change():
    symbols = [0, 1, 0, 0, 2, 0, 0, 0, 1, 0, 255, 0]
    counts = [symbols.count(symbol) for symbol in range(256)]
    frequencies = reference.normalize(counts)
    assert [frequencies[symbol] for symbol in (0, 1, 2, 255)] == [2731, 683, 341, 341]
    assert reference.write_table(frequencies).hex() == "0df87955b8caaa55"
    assert reference.encode_symbols(symbols, frequencies).hex() == "4b0602009e73"


def test_bytes_of_eight_lanes_do_not_change():
    symbols = [(i * i // 7) % 5 * (i % 3) for i in range(4097)]
    frequencies = reference.normalize([symbols.count(symbol) for symbol in range(256)])
    data = reference.encode_symbols(symbols, frequencies)
    assert (len(data), zlib.crc32(data)) == (1138, 0x494F029E)
