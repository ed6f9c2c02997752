"""Trellis-coded quantization: the compiled search equals its definition, and finds the lowest cost there is."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trafficzip.kernels import numba_cpu_trellis as kernels
from trafficzip.kernels import reference_trellis as reference

START = kernels.START
STATES = sorted(reference.POLYNOMIALS)


def drawn(size, seed, num_classes=3, num_levels=12, spread=3.0):
    random = np.random.default_rng(seed)
    classes = random.integers(0, num_classes, size).astype(np.uint8)
    values = (random.standard_normal(size) * spread * 2.0 ** (classes / 2.0)).astype(np.float32)
    values[random.random(size) < 0.05] = 0
    rates = np.sort(random.random((num_classes, 2, num_levels)).astype(np.float32) * 9, axis=2)
    return values, classes, rates


def before(num_states):
    return np.array(reference.predecessors(num_states), np.int64)


def cost(levels, values, classes, inverse_step, slope, rates, num_states):
    """The cost of levels of one lane, in the order of the search."""
    state, total = 0, 0.0
    for level, value, kind in zip(levels, values, classes, strict=True):
        union = state & 1
        gap = float(value * inverse_step) - reference.multiple(level, union)
        total += gap * gap + float(slope) * float(rates[kind, union, min(abs(level), rates.shape[2] - 1)])
        state = reference.next_state(state, level, num_states)
    return total


@pytest.mark.parametrize("num_states", STATES)
def test_every_state_has_two_ways_in_and_two_out(num_states):
    ways = reference.predecessors(num_states)
    assert all(len(pair) == 2 and pair[0] < pair[1] for pair in ways)
    left = [state for pair in ways for state, _ in pair]
    assert sorted(left) == sorted(2 * list(range(num_states)))


@pytest.mark.parametrize("num_states", STATES)
@given(size=st.integers(0, 150), seed=st.integers(0, 2**20), slope=st.sampled_from([0.0, 0.3, 2.0]))
@settings(deadline=None, max_examples=10)
def test_compiled_search_equals_reference(num_states, size, seed, slope):
    values, classes, rates = drawn(size, seed)
    arguments = values, classes, np.float32(1 / 0.7), np.float32(slope), rates
    expected = reference.quantize(*arguments, num_states)
    assert kernels.quantize(*arguments, before(num_states), START).tolist() == expected.tolist()


@given(size=st.integers(0, 99), seed=st.integers(0, 2**20))
@settings(deadline=None, max_examples=20)
def test_lanes_start_in_given_states(size, seed):
    values, classes, rates = drawn(size, seed)
    starts = np.random.default_rng(seed).integers(0, 8, 8)
    arguments = values, classes, np.float32(1), np.float32(0.3), rates
    expected = reference.quantize(*arguments, 8, starts.tolist())
    assert kernels.quantize(*arguments, before(8), starts).tolist() == expected.tolist()


@pytest.mark.parametrize("num_states", STATES)
def test_paths_of_equal_cost_are_chosen_alike(num_states):
    values = np.random.default_rng(2).integers(-3, 4, 200).astype(np.float32)
    rates = np.zeros((1, 2, 2), np.float32)
    arguments = values, np.zeros(200, np.uint8), np.float32(0.5), np.float32(0), rates
    expected = reference.quantize(*arguments, num_states)
    assert kernels.quantize(*arguments, before(num_states), START).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("num_states", "multiples"),
    [
        (4, [2, 1, 1, 4, 1, -1, 2, 6, 3, 2, -4, 2]),
        (8, [2, 2, 1, 4, 1, -2, 1, 5, 4, 2, -3, 2]),
        (16, [2, 2, 1, 4, 1, -1, 1, 6, 4, 2, -3, 2]),
        (32, [2, 2, 2, 3, 1, -2, 1, 5, 3, 1, -4, 2]),
        (64, [2, 2, 1, 4, 2, -1, 1, 6, 3, 1, -4, 1]),
        (256, [2, 1, 1, 4, 1, -2, 1, 6, 4, 1, -4, 1]),
    ],
)
def test_meaning_of_levels_does_not_change(num_states, multiples):
    levels = np.zeros(8 * 12, np.int16)
    levels[::8] = [1, 1, 1, 2, 1, -1, 1, 3, 2, 1, -2, 1]
    assert reference.dequantize(levels.tolist(), np.float32(1), num_states)[::8].tolist() == multiples


@pytest.mark.parametrize("num_states", STATES)
@given(levels=st.lists(st.integers(-2000, 2000), max_size=100))
@settings(deadline=None, max_examples=20)
def test_compiled_values_equal_reference(num_states, levels):
    step = np.float32(0.0371)
    found = kernels.dequantize(np.array(levels, np.int16), step, *reference.POLYNOMIALS[num_states])
    assert found.tobytes() == reference.dequantize(levels, step, num_states).tobytes()


@pytest.mark.parametrize("num_states", [4, 8])
@pytest.mark.parametrize("seed", range(6))
def test_search_finds_the_lowest_cost(num_states, seed):
    values, classes, rates = drawn(5 * reference.NUM_LANES, seed, spread=1.0)
    inverse, slope = np.float32(0.9), np.float32(0.2)
    levels = kernels.quantize(values, classes, inverse, slope, rates, before(num_states), START)
    for lane in (0, 7):
        part = slice(lane, None, reference.NUM_LANES)
        own = values[part], classes[part], inverse, slope, rates, num_states
        highest = int(np.ceil(np.abs(values[part]).max() * inverse / 2)) + 1
        lowest = min(
            cost([k if v >= 0 else -k for k, v in zip(ks, values[part], strict=True)], *own)
            for ks in itertools.product(range(highest + 1), repeat=5)
        )
        assert cost(levels[part].tolist(), *own) == pytest.approx(lowest, rel=1e-5)


def test_more_states_lose_less():
    values, classes, _ = drawn(40_000, 1, spread=8.0)
    rates = np.zeros((3, 2, 2), np.float32)
    errors = []
    for num_states in STATES:
        levels = kernels.quantize(values, classes, np.float32(1), np.float32(0), rates, before(num_states), START)
        decoded = kernels.dequantize(levels, np.float32(1), *reference.POLYNOMIALS[num_states])
        errors.append(float(np.square(decoded - values).mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < 4 / 12  # a uniform quantizer with as many levels, two steps apart


def test_values_beyond_the_table_keep_their_error_small():
    values = np.array([0, 900.3, -900.3, 1e-30] * 8, np.float32)
    rates = np.zeros((1, 2, 3), np.float32)
    levels = kernels.quantize(values, np.zeros(32, np.uint8), np.float32(1), np.float32(0.5), rates, before(8), START)
    decoded = kernels.dequantize(levels, np.float32(1), *reference.POLYNOMIALS[8])
    assert np.abs(decoded - values).max() <= 2
