"""Huffman coding: compiled equals the definition, codes are complete and the shortest, bad bytes are refused."""

import heapq
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trafficzip.kernels import numba_cpu_huffman as kernels
from trafficzip.kernels import reference_huffman as reference

FIBONACCI = [1, 1]
while len(FIBONACCI) < 40:
    FIBONACCI.append(FIBONACCI[-1] + FIBONACCI[-2])
COUNTS = st.dictionaries(st.integers(0, 255), st.integers(1, 5) | st.integers(1, 2**40), min_size=1)
SIZES = [0, 1, 2, 3, 4, 5, 7, 8, 9, 31, 32, 33, 1000]
ALPHABETS = {
    "one": [0] * 9 + [1],
    "two": [1, 0, 1],
    "all": [1] * 256,
    "far apart": [0.9, *[0] * 254, 0.1],
    "long codes": [2.0**-k for k in range(30)],
    "bell": [math.exp(-((k - 128) ** 2) / 500) for k in range(256)],
}


def drawn(size, seed, alphabet):
    weights = np.array(ALPHABETS[alphabet], np.float64)
    return np.random.default_rng(seed).choice(weights.size, size, p=weights / weights.sum()).astype(np.uint8).tobytes()


def full(counts):
    array = np.zeros(256, np.int64)
    array[list(counts)] = list(counts.values())
    return array


def lengths_of(counts):
    """Lengths of the symbols that occur, compiled."""
    lengths = kernels.code_lengths(counts)
    assert ((lengths >= 0) == (counts > 0)).all()
    assert (lengths[counts == 0] == reference.ABSENT).all()
    return lengths[counts > 0]


def encoded(symbols):
    return kernels.encode(np.frombuffer(symbols, np.uint8)).tobytes()


def decoded(data, size):
    """Symbols, or None; nothing around them is written."""
    guarded = np.full(size + 64, 77, np.uint8)
    symbols = guarded[32 : 32 + size]
    good = kernels.decode(np.frombuffer(data, np.uint8), symbols)
    assert (guarded[:32] == 77).all()
    assert (guarded[32 + size :] == 77).all()
    return symbols.tobytes() if good else None


def referee(data, size):
    """What the definition gives for these bytes, or None."""
    try:
        return reference.decode(data, size)
    except ValueError:
        return None


def unlimited_cost(counts):
    """Bits of the shortest code of any length, and its longest code, by Huffman's own algorithm."""
    heap = [(count, 0) for count in counts]  # of trees that weigh the same, the lower ones first: the lowest tree
    heapq.heapify(heap)
    bits = 0
    while len(heap) > 1:
        (one, one_depth), (two, two_depth) = heapq.heappop(heap), heapq.heappop(heap)
        bits += one + two
        heapq.heappush(heap, (one + two, max(one_depth, two_depth) + 1))
    return bits, heap[0][1]


@given(size=st.sampled_from(SIZES), seed=st.integers(0, 2**20), alphabet=st.sampled_from(sorted(ALPHABETS)))
@settings(deadline=None, max_examples=60)
def test_compiled_bytes_equal_reference(size, seed, alphabet):
    symbols = drawn(size, seed, alphabet)
    data = encoded(symbols)
    assert data == reference.encode(symbols)
    assert decoded(data, size) == symbols
    assert reference.decode(data, size) == symbols


@given(symbols=st.binary(max_size=60))
@settings(deadline=None)
def test_any_symbols_come_back(symbols):
    assert encoded(symbols) == reference.encode(symbols)
    assert decoded(encoded(symbols), len(symbols)) == symbols


@given(counts=COUNTS)
@settings(deadline=None, max_examples=60)
def test_compiled_lengths_equal_reference(counts):
    array = full(counts)
    lengths = kernels.code_lengths(array)
    assert lengths.tolist() == reference.code_lengths(array.tolist())
    data = kernels.write_lengths(lengths)
    bits = reference.write_lengths(lengths.tolist())
    assert data.tobytes() == reference._pack(bits)
    assert reference.read_lengths(bits) == (lengths.tolist(), len(bits))
    found = np.empty(256, np.int64)
    for more in (b"", b"\0", b"\xff\xff\xff"):
        assert kernels.read_lengths(np.frombuffer(data.tobytes() + more, np.uint8), found) == data.size
        assert found.tolist() == lengths.tolist()


@given(counts=COUNTS)
@settings(deadline=None, max_examples=60)
def test_codes_are_complete_and_the_shortest(counts):
    """Where 12 bits suffice they cost what Huffman's algorithm gives, less than a bit above the entropy."""
    array = full(counts)
    lengths, present = lengths_of(array), array[array > 0]
    assert (2.0**-lengths).sum() == 1
    assert lengths.max() <= reference.MAX_LENGTH
    assert (np.diff(lengths[np.argsort(present, kind="stable")]) <= 0).all()
    bits = sum(count * length for count, length in zip(present.tolist(), lengths.tolist(), strict=True))
    least, longest = unlimited_cost(present.tolist())
    assert bits >= least
    if longest <= reference.MAX_LENGTH:
        assert bits == least
        total = sum(present.tolist())
        assert bits <= total + sum(count * math.log2(total / count) for count in present.tolist()) * (1 + 1e-9)


@pytest.mark.parametrize("num", [13, 14, 16, 40])
def test_fibonacci_counts_have_no_longer_codes(num):
    counts = full(dict(enumerate(FIBONACCI[:num])))
    lengths = lengths_of(counts)
    assert unlimited_cost(FIBONACCI[:num])[1] == num - 1
    assert lengths.max() == 12
    assert (2.0**-lengths).sum() == 1
    assert lengths.tolist() == reference.code_lengths(counts.tolist())[:num]


@pytest.mark.parametrize("limit", [3, 4])
def test_limited_codes_are_the_shortest_of_all(limit):
    for counts in ([1, 1, 2, 3, 5], [1, 1, 1, 9, 9, 20], [8, 1, 30, 2, 1, 4], [5, 5, 5, 5, 5]):
        choices = itertools.product(range(1, limit + 1), repeat=len(counts))
        complete = [lengths for lengths in choices if sum(2.0**-length for length in lengths) <= 1]
        least = min(sum(map(int.__mul__, counts, lengths)) for lengths in complete)
        lengths = reference.code_lengths(counts, max_length=limit)
        assert max(lengths) <= limit
        assert sum(map(int.__mul__, counts, lengths)) == least


@pytest.mark.parametrize("alphabet", ALPHABETS)
@pytest.mark.parametrize("size", [0, 1, 5, 40, 300])
def test_prefixes_and_longer_bytes_are_refused(size, alphabet):
    symbols = drawn(size, 1, alphabet)
    data = encoded(symbols)
    assert all(decoded(data[:end], size) is None for end in range(len(data)))
    for more in (b"\0", b"\1", bytes(8), b"\xff" * 40):
        assert decoded(data + more, size) is None


@pytest.mark.parametrize("alphabet", ALPHABETS)
@pytest.mark.parametrize("size", [1, 9, 60])
def test_flipped_bits_are_judged_as_the_definition_does(size, alphabet):
    data = encoded(drawn(size, 2, alphabet))
    for at in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[at // 8] ^= 1 << at % 8
        assert decoded(bytes(flipped), size) == referee(bytes(flipped), size)


def test_bits_of_padding_are_zero():
    data = encoded(b"aab")  # codes 1 1 0, or 0 0 1: five bits of padding
    for bit in range(3, 8):
        assert decoded(data[:-1] + bytes([data[-1] | 1 << bit]), 3) is None
    assert decoded(data, 3) == b"aab"
    lone = encoded(b"aaa")  # all of it lengths
    assert decoded(lone[:-1] + bytes([lone[-1] | 1 << 7]), 3) is None


@given(kept=st.integers(0, 16), data=st.binary(max_size=60), size=st.sampled_from(SIZES))
@settings(deadline=None, max_examples=200)
def test_any_bytes_are_judged_as_the_definition_does(kept, data, size):
    data = encoded(drawn(40, 3, "long codes"))[:kept] + data
    assert decoded(data, size) == referee(data, size)


def test_random_bytes_stay_in_bounds():
    random = np.random.default_rng(0)
    heads = [encoded(drawn(1000, seed, alphabet)) for seed, alphabet in enumerate(ALPHABETS)]
    lengths = np.empty(256, np.int64)
    sizes = [kernels.read_lengths(np.frombuffer(head, np.uint8), lengths) for head in heads]
    for trial in range(6000):
        data = random.integers(0, 256, random.integers(0, 100)).astype(np.uint8)
        if trial % 3 == 0:
            data &= random.integers(0, 256, data.size).astype(np.uint8)
        place = trial % (len(heads) + 1)
        head = heads[place][: sizes[place]] if place < len(heads) else b""
        decoded(head + data.tobytes(), SIZES[trial % len(SIZES)])


def test_bytes_do_not_change():
    assert reference.encode(b"") == b""
    assert reference.encode(b"aaa").hex() == "8061401e000020"
    assert reference.encode(b"abracadabra").hex() == "8021c106c4020080f0723539"
