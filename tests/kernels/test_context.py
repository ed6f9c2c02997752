"""The context coder: compiled equals its definition, levels come back, bad bytes are refused, few bytes are spent."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trafficzip.kernels import context_priors as priors
from trafficzip.kernels import numba_cpu_context as kernels
from trafficzip.kernels import reference_context as reference
from trafficzip.kernels.numba_cpu_trellis import START, quantize
from trafficzip.kernels.reference_trellis import NUM_LANES, POLYNOMIALS, next_state, predecessors

CHECKS = POLYNOMIALS[64]
EDGES = [0, 1, -1, 13, -13, 14, -14, 15, 29, 30, 32767, -32767, reference.LARGEST, -reference.LARGEST]


def drawn(size, seed, dtype=np.int32):
    """Levels, contexts, neighbours and spreads of all kinds."""
    random = np.random.default_rng(seed)
    num_contexts = int(random.integers(1, 5))
    contexts = random.integers(0, num_contexts, size).astype(np.uint8)
    largest = min(np.iinfo(dtype).max, reference.LARGEST)
    levels = np.clip(random.standard_cauchy(size) * random.choice([0.05, 1, 20, 1e4]), -largest, largest).astype(dtype)
    neighbours = random.integers(0, 256, size) * (random.random(size) < random.choice([0, 0.5, 1]))
    spreads = random.integers(0, priors.NUM_SPREADS, num_contexts).astype(np.uint8)
    return levels, contexts, neighbours.astype(np.uint8), spreads


def lists(*arrays):
    return [array.tolist() for array in arrays]


def plain(levels, spread=None):
    """One context for all levels, without neighbours."""
    if spread is None:
        total = int(np.minimum(np.abs(levels.astype(np.int64)), priors.NUM_FLAGS).sum())
        spread = priors.spread_of(total, max(levels.size, 1))
    return np.zeros(levels.size, np.uint8), np.array([spread], np.uint8)


def decoded(data, like, *rest):
    levels = np.empty_like(like)
    return levels if kernels.decode_levels(data, *rest, levels) else None


def entropy_bytes(levels):
    _, counts = np.unique(levels, return_counts=True)
    return float(-(counts * np.log2(counts / counts.sum())).sum()) / 8


@given(size=st.integers(0, 200), seed=st.integers(0, 2**20), checks=st.sampled_from([(0, 0), CHECKS]))
@settings(deadline=None, max_examples=60)
def test_compiled_bytes_equal_reference(size, seed, checks):
    levels, *rest = drawn(size, seed)
    data = kernels.encode_levels(levels, *rest, *checks)
    assert data.tobytes() == reference.encode_levels(levels.tolist(), *lists(*rest), *checks)
    assert decoded(data, levels, *rest, *checks).tolist() == levels.tolist()
    assert reference.decode_levels(data.tobytes(), *lists(*rest), *checks) == levels.tolist()


@given(data=st.binary(max_size=40), size=st.integers(0, 60), seed=st.integers(0, 2**20))
@settings(deadline=None, max_examples=100)
def test_compiled_decoder_judges_as_reference_does(data, size, seed):
    levels, *rest = drawn(size, seed)
    found = decoded(np.frombuffer(data, np.uint8), levels, *rest, *CHECKS)
    expected = reference.decode_levels(data, *lists(*rest), *CHECKS)
    assert (None if found is None else found.tolist()) == expected


@given(levels=st.lists(st.sampled_from(EDGES) | st.integers(-reference.LARGEST, reference.LARGEST), max_size=80))
@settings(deadline=None, max_examples=60)
def test_extreme_levels_round_trip(levels):
    levels = np.array(levels, np.int32)
    neighbours = np.full(levels.size, 0x31, np.uint8)
    contexts, spreads = plain(levels)
    data = kernels.encode_levels(levels, contexts, neighbours, spreads, *CHECKS)
    assert data.tobytes() == reference.encode_levels(*lists(levels, contexts, neighbours, spreads), *CHECKS)
    assert decoded(data, levels, contexts, neighbours, spreads, *CHECKS).tolist() == levels.tolist()


@given(size=st.integers(0, 300), seed=st.integers(0, 2**20))
@settings(deadline=None, max_examples=30)
def test_integers_of_both_widths_give_the_same_bytes(size, seed):
    narrow = drawn(size, seed, np.int16)[0]
    contexts, spreads = plain(narrow)
    data = kernels.encode_integers(narrow, contexts, spreads)
    assert data.tolist() == kernels.encode_integers(narrow.astype(np.int32), contexts, spreads).tolist()
    found = np.empty_like(narrow)
    assert kernels.decode_integers(data, contexts, spreads, found)
    assert found.tolist() == narrow.tolist()


def test_level_beyond_the_type_is_refused():
    levels = np.array([5, 40_000, 1], np.int32)
    contexts, spreads = plain(levels)
    data = kernels.encode_integers(levels, contexts, spreads)
    assert not kernels.decode_integers(data, contexts, spreads, np.empty(3, np.int16))


def test_arguments_that_do_not_fit_are_refused():
    levels = np.ones(9, np.int16)
    contexts, spreads = plain(levels)
    data = kernels.encode_integers(levels, contexts, spreads)
    assert not kernels.decode_integers(data, contexts + np.uint8(1), spreads, levels)
    assert not kernels.decode_integers(data, contexts, spreads + np.uint8(priors.NUM_SPREADS), levels)
    assert not kernels.decode_integers(data, contexts[1:], spreads, levels)
    assert not kernels.decode_integers(data, contexts, spreads[:0], levels)


def test_no_levels_are_no_bytes():
    levels = np.zeros(0, np.int16)
    contexts, spreads = plain(levels)
    assert kernels.encode_integers(levels, contexts, spreads).size == 0
    assert kernels.decode_integers(np.zeros(0, np.uint8), contexts, spreads, levels)
    assert not kernels.decode_integers(np.zeros(1, np.uint8), contexts, spreads, levels)


def test_a_carry_runs_through_many_bytes():
    """Long runs of the unlikely side put the number just below a power of two."""
    random = np.random.default_rng(5)
    for _ in range(200):
        levels = np.where(random.random(400) < 0.02, -reference.LARGEST, 0).astype(np.int32)
        contexts, spreads = plain(levels, int(random.integers(0, 25)))
        data = kernels.encode_integers(levels, contexts, spreads)
        assert decoded(data, levels, contexts, contexts, spreads, 0, 0).tolist() == levels.tolist()


@pytest.mark.parametrize("seed", range(8))
def test_every_prefix_is_refused(seed):
    levels, *rest = drawn(300, seed)
    data = kernels.encode_levels(levels, *rest, *CHECKS)
    assert all(decoded(data[:end], levels, *rest, *CHECKS) is None for end in range(data.size))


@pytest.mark.parametrize("seed", range(8))
def test_bytes_behind_the_end_are_refused(seed):
    levels, *rest = drawn(300, seed)
    data = kernels.encode_levels(levels, *rest, *CHECKS)
    for more in ([0], [255], [0, 0, 0, 0, 0]):
        assert decoded(np.append(data, np.array(more, np.uint8)), levels, *rest, *CHECKS) is None


@pytest.mark.parametrize("seed", range(8))
def test_flipped_bits_are_refused_or_give_an_encoding(seed):
    """What is accepted is the one encoding of other levels: no two byte strings mean the same."""
    levels, *rest = drawn(60, seed)
    data = kernels.encode_levels(levels, *rest, *CHECKS)
    for at in range(8 * data.size):
        flipped = data.copy()
        flipped[at // 8] ^= 1 << at % 8
        found = decoded(flipped, levels, *rest, *CHECKS)
        if found is not None:
            assert found.tolist() != levels.tolist()
            assert kernels.encode_levels(found, *rest, *CHECKS).tolist() == flipped.tolist()


def test_random_bytes_stay_in_bounds():
    random = np.random.default_rng(0)
    guarded = np.full(264, 77, np.int32)
    for trial in range(10_000):
        _, *rest = drawn(200, trial % 50)
        data = random.integers(0, 256, random.integers(0, 60)).astype(np.uint8)
        if trial % 3 == 0:
            data[:] = (0, 255)[trial % 2]
        kernels.decode_levels(data, *rest, *CHECKS, guarded[32:232])
        assert (guarded[:32] == 77).all()
        assert (guarded[232:] == 77).all()
        assert np.abs(guarded).max() <= reference.LARGEST


def test_few_bytes_end_early():
    """Hostile bytes do not keep the decoder busy: it stops where it would read a fourth byte behind the end."""
    levels = np.full(1_000_000, 99, np.int16)
    contexts, spreads = plain(levels)
    assert not kernels.decode_integers(np.full(20, 90, np.uint8), contexts, spreads, levels)
    assert (levels[-900_000:] == 99).all()


DISTRIBUTIONS = {
    "normal": lambda random, n: random.standard_normal(n),
    "wide normal": lambda random, n: random.standard_normal(n) * 4,
    "laplace": lambda random, n: random.laplace(size=n) * 2,
    "geometric": lambda random, n: random.geometric(0.5, n) * random.choice([-1, 1], n),
    "counts": lambda random, n: random.poisson(1.5, n),
    "sparse": lambda random, n: (random.random(n) < 0.05) * random.choice([-1, 1], n),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize(("size", "share", "more"), [(1000, 0.03, 8), (200_000, 0.006, 0)])
def test_bytes_are_near_the_entropy(name, size, share, more):
    levels = np.round(DISTRIBUTIONS[name](np.random.default_rng(3), size)).astype(np.int16)
    contexts, spreads = plain(levels)
    data = kernels.encode_integers(levels, contexts, spreads)
    assert data.size <= entropy_bytes(levels) * (1 + share) + more


def test_neighbours_pay_where_values_are_smooth():
    random = np.random.default_rng(4)
    kernel = np.arange(9 * 4000) % 9
    smooth = random.standard_normal((4000, 3, 3))
    smooth[:, :, 1:] += smooth[:, :, :-1]
    smooth[:, 1:] += smooth[:, :-1]
    levels = np.round(smooth.ravel()).astype(np.int16)
    neighbours = ((kernel % 3 > 0) * 0x01 + (kernel >= 3) * 0x30).astype(np.uint8)
    contexts, spreads = plain(levels)
    without = kernels.encode_integers(levels, contexts, spreads).size
    assert kernels.encode_levels(levels, contexts, neighbours, spreads, 0, 0).size < 0.9 * without


def test_union_is_a_context():
    """Trellis levels cost less than the same integers without the states."""
    values = np.random.default_rng(1).standard_normal(80_000).astype(np.float32)
    before = np.array(predecessors(64), np.int64)
    rates = np.zeros((1, 2, 2), np.float32)
    levels = quantize(values, np.zeros(values.size, np.uint8), np.float32(2), np.float32(0), rates, before, START)
    contexts, spreads = plain(levels, 10)  # the standard deviation is two steps
    with_states = kernels.encode_levels(levels, contexts, contexts, spreads, *CHECKS).size
    assert with_states < 0.99 * kernels.encode_integers(levels, contexts, spreads).size
    unions, lanes = [], [0] * NUM_LANES
    for i, level in enumerate(levels.tolist()):
        unions.append(lanes[i % NUM_LANES] & 1)
        lanes[i % NUM_LANES] = next_state(lanes[i % NUM_LANES], level, 64)
    split = [levels[np.array(unions) == union] for union in (0, 1)]
    assert with_states < 1.005 * sum(entropy_bytes(part) for part in split)


def test_tables_are_as_documented():
    assert [round(16 * 2 ** ((s - 8) / 2)) for s in range(priors.NUM_SPREADS)] == list(priors.SCALES)
    assert len(priors.EXPECTED) == priors.NUM_SPREADS
    assert all(len(row) == priors.NUM_FLAGS for pair in priors.EXPECTED for row in pair)
    assert all(32 <= p <= 4064 for pair in priors.EXPECTED for row in pair for p in row)
    assert zlib.crc32(np.array(priors.EXPECTED, "<u2").tobytes()) == 0x98952863


def test_spread_of_normal_integers_is_their_own():
    for spread in range(9, 19):
        values = np.random.default_rng(2).standard_normal(50_000) * 2 ** ((spread - 8) / 2 - 1)
        total = int(np.minimum(np.abs(np.round(values)), priors.NUM_FLAGS).sum())
        assert abs(priors.spread_of(total, values.size) - spread) <= 1


def test_bytes_do_not_change():
    levels = [0, 1, -1, 2, 0, 0, -3, 5, 1, 1, 0, -20, 1, 0, 2, -1]
    contexts = [i // 8 for i in range(16)]
    neighbours = [0, 1, 1, 0x30, 0x31, 0x31, 0x30, 0x31, 0x31, 0, 1, 1, 0x30, 0x31, 0x31, 0]
    assert reference.encode_levels(levels, contexts, neighbours, [10, 12], *CHECKS).hex() == "c5c1b5b25c884f985d"
