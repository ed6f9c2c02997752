import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trafficzip.kernels import numba_cpu_tables as compiled
from trafficzip.kernels import reference_tables as reference
from trafficzip.kernels.reference_trellis import NUM_LANES, POLYNOMIALS, following, multiple, next_state

TAIL = np.zeros(8, np.uint16)


def table(rng, symbols):
    """A table of frequencies over the symbols given, with -1, 0 and 1."""
    frequencies = np.zeros(256, np.uint16)
    present = np.unique([*symbols, -1, 0, 1]) + 128
    frequencies[present] = 1 + rng.multinomial(2048 - present.size, rng.dirichlet(np.ones(present.size)))
    return frequencies


@st.composite
def cases(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.sampled_from([0, 8, 16, 40, 400]))
    num_classes = draw(st.integers(1, 4))
    low_bits = rng.integers(0, draw(st.sampled_from([1, 9])), num_classes).astype(np.uint8)
    size = draw(st.sampled_from([1, 3, 200, 4000]))
    frequencies = np.array(
        [[table(rng, rng.integers(-min(size, 128), min(size, 128), 6)) for _ in range(2)] for _ in range(num_classes)]
    )
    levels = rng.integers(-size, size + 1, n).astype(np.int16)
    classes = rng.integers(0, num_classes, n).astype(np.uint8)
    return levels, classes, frequencies, low_bits, draw(st.sampled_from(sorted(POLYNOMIALS)))


def multiples(levels, num_states):
    states, found = [0] * NUM_LANES, []
    for i, level in enumerate(levels.tolist()):
        found.append(multiple(level, states[i % NUM_LANES] & 1))
        states[i % NUM_LANES] = next_state(states[i % NUM_LANES], level, num_states)
    return found


def unpack(lows, classes, low_bits):
    """Read the low bits of each value that has some."""
    text = "".join(format(word, "016b")[::-1] for word in lows.tolist())
    at, found = 0, []
    for width in low_bits[classes].tolist():
        if width:
            found.append(int(text[at : at + width][::-1], 2))
        at += width
    return found


@given(cases())
@settings(max_examples=200, deadline=None)
def test_compiled_equals_its_definition_and_gives_the_levels_back(case):
    levels, classes, frequencies, low_bits, num_states = case
    after = following(num_states)
    lanes, words, lows, patches = compiled.encode(levels, classes, frequencies, low_bits, after)
    expected = reference.encode(levels.tolist(), classes.tolist(), frequencies, low_bits.tolist(), num_states)
    assert lanes.tolist() == expected[0]
    assert words.tolist() == expected[1]
    assert unpack(lows, classes, low_bits) == [value for value, _ in expected[2]]
    assert [tuple(patch) for patch in patches.tolist()] == expected[3]

    steps = np.array([0.5, 3.0], np.float32)
    ends = np.array([levels.size // 16 * 8, levels.size])
    values = np.empty(levels.size, np.float32)
    wide = bool(low_bits.any())
    entries = compiled.decoding_tables(frequencies, low_bits, wide)
    padded, tail = np.concatenate([words, TAIL]), np.concatenate([lows, TAIL[:1]])
    if wide:
        decoded = compiled.decode_wide(padded, lanes, tail, entries, classes, low_bits, ends, steps, after, values)
    else:
        decoded = compiled.decode(padded, lanes, entries, classes, ends, steps, after, values)
    assert decoded
    found = values / np.where(np.arange(levels.size) < ends[0], steps[0], steps[1])
    kept = unpack(lows, classes, low_bits)
    plain = reference.decode(
        lanes.tolist(), words.tolist(), kept, classes.tolist(), frequencies, low_bits.tolist(), num_states
    )
    assert found.tolist() == plain
    for place, value in patches.tolist():
        found[place] = value
    assert found.tolist() == multiples(levels, num_states)


@given(cases(), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_changed_words_are_refused_or_give_as_many_values(case, seed):
    levels, classes, frequencies, low_bits, num_states = case
    low_bits[:] = 0
    rng = np.random.default_rng(seed)
    lanes, words, _, _ = compiled.encode(levels, classes, frequencies, low_bits, following(num_states))
    entries = compiled.decoding_tables(frequencies, low_bits, False)
    ends, steps, values = np.array([levels.size]), np.ones(1, np.float32), np.empty(levels.size + 8, np.float32)
    values[levels.size :] = 7
    for changed in (words[:-1], words[1:], np.append(words, np.uint16(1)), rng.integers(0, 65536, words.size)):
        padded = np.concatenate([changed.astype(np.uint16), TAIL])
        after = following(num_states)
        decoded = compiled.decode(padded, lanes, entries, classes, ends, steps, after, values[: levels.size])
        assert not decoded or changed.size == words.size
        assert (values[levels.size :] == 7).all()


@pytest.mark.parametrize("num_states", sorted(POLYNOMIALS))
def test_counts_are_of_symbols_by_class_and_union(num_states):
    rng = np.random.default_rng(3)
    levels = rng.integers(-300, 300, 800).astype(np.int16)
    classes = rng.integers(0, 3, 800).astype(np.uint8)
    low_bits = np.array([0, 1, 5], np.uint8)
    counts = np.zeros((3, 2, 256), np.int64)
    compiled.count(levels, classes, low_bits, following(num_states), counts)
    expected = np.zeros_like(counts)
    states = [0] * NUM_LANES
    for i, level in enumerate(levels.tolist()):
        symbol = (level >> int(low_bits[classes[i]])) + 128
        if 0 <= symbol < 256:
            expected[classes[i], states[i % NUM_LANES] & 1, symbol] += 1
        states[i % NUM_LANES] = next_state(states[i % NUM_LANES], level, num_states)
    assert (counts == expected).all()
