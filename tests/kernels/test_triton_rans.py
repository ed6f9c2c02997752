"""rANS in Triton writes the payloads of the codec on the CPU, and reads and refuses what that one does."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.kernels.gpu import DEVICE, off, on
from trafficzip.codecs.rans import Rans
from trafficzip.errors import ConfigError, CorruptPayloadError
from trafficzip.kernels import numba_cpu_rans, rans_layout
from trafficzip.kernels import triton_gpu_rans as encoder
from trafficzip.kernels import triton_gpu_rans_decode as decoder
from trafficzip.kernels.segments import Segments

GUARD = 250  # around stretches: no symbol, and no byte of them is changed


@pytest.fixture(autouse=True)
def few_programs(monkeypatch):
    if DEVICE.type == "cpu":
        monkeypatch.setattr(decoder, "TABLE_TILE", 1 << 16)


def draw(size, share, seed=0, largest=242):
    """Draw symbols of which this share is not 121."""
    rng = np.random.default_rng(seed)
    symbols = np.full(size, 121, np.uint8)
    others = rng.random(size) < share
    symbols[others] = rng.integers(0, largest + 1, others.sum())
    return symbols


def place(parts, gap=1):
    """Put parts into one array with guards of `gap` bytes around them; give their stretches."""
    guard = np.full(gap, GUARD, np.uint8)
    sizes = [part.size for part in parts]
    starts = gap + np.cumsum([0, *(size + gap for size in sizes)])[: len(sizes)]
    return np.concatenate([guard, *(piece for part in parts for piece in (part, guard))]), Segments(
        starts.tolist(), sizes
    )


def check_encode(parts, chunk_symbols, chunks_per_program):
    buffer, segments = place(parts)
    payloads, sizes = encoder.rans_encode(
        on(buffer), segments, chunk_symbols=chunk_symbols, chunks_per_program=chunks_per_program
    )
    assert payloads.shape == (sum(sizes),)
    assert payloads.dtype == torch.uint8
    found = np.split(off(payloads), np.cumsum(sizes)[:-1]) if sizes else []
    for part, payload in zip(parts, found, strict=True):
        assert payload.tolist() == Rans(chunk_symbols=chunk_symbols).encode(part).tolist()


def decode(payloads, sizes, chunks_per_program):
    """Decode payloads at odd places, check that nothing else is written, and give the parts."""
    data, segments = place(payloads)
    buffer, stretches = place([np.full(size, 251, np.uint8) for size in sizes], gap=3)
    symbols = on(buffer)
    decoder.rans_decode(
        on(data), segments, symbols, stretches.starts, stretches.sizes, chunks_per_program=chunks_per_program
    )
    return parts_of(off(symbols), stretches)


def parts_of(buffer, stretches):
    outside = np.ones(buffer.size, np.bool_)
    parts = []
    for start, size in zip(stretches.starts, stretches.sizes, strict=True):
        outside[start : start + size] = False
        parts.append(buffer[start : start + size])
    assert (buffer[outside] == GUARD).all()
    return parts


def check_decode(parts, chunk_symbols, chunks_per_program):
    payloads = [Rans(chunk_symbols=chunk_symbols).encode(part) for part in parts]
    for part, found in zip(parts, decode(payloads, [part.size for part in parts], chunks_per_program), strict=True):
        assert np.array_equal(found, part)


def refuses_head(payload, num_symbols):
    try:
        decoder._read_heads(on(payload), Segments([0], [payload.size]), Segments([0], [num_symbols]))
    except CorruptPayloadError:
        return True
    return False


def check_verdicts(payloads, num_symbols):
    """Decode and refuse as the CPU does, all at once but for what the heads say; give the number of refusals."""
    refused = [payload for payload in payloads if refuses_head(payload, num_symbols)]
    others = [payload for payload in payloads if not refuses_head(payload, num_symbols)]
    for payload in refused:
        with pytest.raises(CorruptPayloadError):
            Rans().decode(payload, num_symbols)
    data, segments = place(others)
    buffer, stretches = place([np.full(num_symbols, 251, np.uint8)] * len(others), gap=3)
    symbols = on(buffer)
    chunks, status = decoder._start(on(data), segments, symbols, stretches, 64)
    with_model = chunks[4]
    without = [k for k in range(len(others)) if k not in with_model]
    wrong = {[*with_model, *without][place] for place in np.flatnonzero(off(status))}
    for k, found in enumerate(parts_of(off(symbols), stretches)):
        try:
            expected = Rans().decode(others[k], num_symbols)
        except CorruptPayloadError:
            assert k in wrong
        else:
            assert k not in wrong
            assert np.array_equal(found, expected)
    return len(refused) + len(wrong)


def flip(payload, at, mask):
    damaged = payload.copy()
    damaged[at] ^= mask
    return damaged


def sparse_tail(size):
    """Give symbols whose last half says nothing, so that the tail reaches its limit."""
    return np.concatenate([draw(size // 2, 0.02), draw(size - size // 2, 0.0)])


# Interpreted, a program takes a step of all its chunks in the time of one: the long ones share a program.
LONG = [
    draw(4095, 0.1),
    draw(4096, 0.3),
    draw(4103, 0.003, seed=1),
    draw(8191, 0.03),
    draw(8192, 0.1),
    draw(8193, 0.02),
    sparse_tail(8192),
    sparse_tail(4100),
    draw(12300, 0.003),
    draw(16400, 0.05),
    draw(8200, 1.0),
    draw(4096, 0.9),
    draw(9000, 0.0),
    draw(9000, 1.0, largest=1),
    draw(0, 0.0),
]
SHORT = [draw(size, share) for size in (0, 1, 2, 7, 8, 9, 255, 256, 257, 513) for share in (0.0, 0.03, 0.3, 1.0)]


def test_no_segments_and_no_symbols():
    for sizes in ([], [0], [0, 0]):
        segments = Segments([3] * len(sizes), sizes)
        payloads, found = encoder.rans_encode(on(draw(9, 0.5)), segments)
        assert (payloads.numel(), found) == (0, sizes)
        decoder.rans_decode(payloads, segments, on(draw(9, 0.5)), [3] * len(sizes), sizes)


@pytest.mark.parametrize("chunk_symbols", [256, 8192])
def test_short_segments(chunk_symbols):
    check_encode(SHORT, chunk_symbols, 64)
    check_decode(SHORT, chunk_symbols, 64)


def test_long_segments_encode():
    check_encode(LONG, 8192, 64)


def test_long_segments_decode():
    payloads = [Rans(chunk_symbols=8192).encode(part) for part in LONG]
    larger = [draw(9001, 0.02), draw(10007, 0.003), sparse_tail(8192)]
    payloads += [Rans(chunk_symbols=65536).encode(part) for part in larger]
    found = decode(payloads, [part.size for part in LONG + larger], 64)
    for part, expected in zip(found, LONG + larger, strict=True):
        assert np.array_equal(part, expected)


@pytest.mark.parametrize("num_parts", [1, 2])
def test_programs_with_places_without_a_chunk(num_parts):
    parts = [draw(50, 0.0), *[draw(257, 0.05)] * num_parts, draw(3, 1.0)]  # two chunks each
    check_encode(parts, 256, 4)
    check_decode(parts, 256, 4)


def test_a_damaged_chunk_raises():
    payload = Rans().encode(draw(40, 0.3))
    with pytest.raises(CorruptPayloadError, match="found no encoding of 40 symbols"):
        decode([payload, flip(payload, payload.size - 1, 1)], [40, 40], 2)
    with pytest.raises(CorruptPayloadError, match="plain symbol above 242"):
        decode([np.array([8, 243], np.uint8)], [1], 2)


@pytest.mark.skipif(DEVICE.type == "cpu", reason="takes minutes in the interpreter")
def test_large_segments():
    parts = [draw(5_200_003, share, seed=5) for share in (0.003, 0.1, 0.7, 1.0)]
    check_encode(parts, 8192, encoder.CHUNKS)
    for chunk_symbols in (256, 8192, 65536):
        check_decode(parts, chunk_symbols, decoder.CHUNKS)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(0, 400), max_size=6),
    share=st.sampled_from([0.0, 0.01, 0.1, 0.6, 1.0]),
    largest=st.sampled_from([1, 122, 242]),
    seed=st.integers(0, 1000),
)
def test_random_segments(sizes, share, largest, seed):
    parts = [draw(size, share, seed + k, largest) for k, size in enumerate(sizes)]
    check_encode(parts, 256, 32)
    check_decode(parts, 256, 32)


def test_counts():
    rng = np.random.default_rng(6)
    parts = [rng.integers(0, 256, size).astype(np.uint8) for size in (0, 1, 700, 512, 513)]
    buffer, segments = place(parts)
    counts = off(encoder.rans_count(on(buffer), segments, tile=256))
    assert np.array_equal(counts, [np.bincount(part, minlength=256) for part in parts])


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    bits=st.lists(st.sampled_from([10, 12, 14, 16]), min_size=1, max_size=3),
    first=st.integers(0, 100),
    last=st.integers(0, 100),
    seed=st.integers(0, 1000),
)
@example(bits=[16, 12], first=3, last=20, seed=0)  # symbols behind the last one start at 2**16
def test_tables_of_slots(bits, first, last, seed):
    rng = np.random.default_rng(seed)
    layouts = []
    for precision_bits in bits:
        frequencies = np.zeros(243, np.int64)
        middle = frequencies[first : 243 - last]
        middle[:] = rng.integers(0, 3, middle.size)
        middle[rng.integers(0, middle.size)] += (1 << precision_bits) - middle.sum()
        bounds = np.zeros(2, np.int64)
        layouts.append(
            rans_layout.Layout(frequencies=frequencies, precision_bits=precision_bits, chunk_length=8, bounds=bounds)
        )
    rows, by_symbol = rans_layout.model_tables(layouts)
    slots, spans = decoder._make_tables(rows, on(rows), on(by_symbol.view(np.int32)))
    expected = [numba_cpu_rans.decoder_tables(layout.frequencies, layout.precision_bits) for layout in layouts]
    assert np.array_equal(off(slots), np.concatenate([table for table, _ in expected]))
    assert np.array_equal(off(spans).view(np.uint32), np.concatenate([table[symbols] for symbols, table in expected]))


def test_bad_arguments_raise():
    segments = Segments([1], [3])
    with pytest.raises(ConfigError, match="below 243, got 243"):
        encoder.rans_encode(on(np.array([255, 1, 243, 5, 255], np.uint8)), segments)
    for chunk_symbols in (0, 128, 1000):
        with pytest.raises(ConfigError, match="chunk_symbols"):
            encoder.rans_encode(on(draw(9, 0.5)), segments, chunk_symbols=chunk_symbols)


@pytest.mark.parametrize(
    "symbols",
    [draw(20, 0.0), draw(9, 1.0), draw(40, 0.2), draw(40, 0.6, largest=122)],
    ids=["one symbol", "plain", "few others", "many others"],
)
def test_damaged_short_payload_is_judged_as_on_the_cpu(symbols):
    payload = Rans(chunk_symbols=256).encode(symbols)
    prefixes = [payload[:size] for size in range(payload.size)]
    assert check_verdicts([payload], symbols.size) == 0
    assert check_verdicts(prefixes, symbols.size) == len(prefixes)
    damaged = [flip(payload, at, mask) for at in range(payload.size) for mask in (1, 2, 16, 128, 255)]
    longer = [np.append(payload, np.array(extra, np.uint8)) for extra in ([0], [255], [0, 0], [0, 1], [0] * 4)]
    check_verdicts([*damaged, *longer], symbols.size)
    for num_symbols in (0, 1, symbols.size - 1, symbols.size + 1):
        check_verdicts([payload], num_symbols)


def test_damaged_sizes_of_chunks_are_judged_as_on_the_cpu():
    symbols = draw(257, 0.02)
    payload = Rans(chunk_symbols=256).encode(symbols)
    prefixes = [payload[:size] for size in range(payload.size)]
    damaged = [flip(payload, at, mask) for at in range(payload.size) for mask in (1, 8, 128, 255)]
    assert check_verdicts([*prefixes, *damaged], symbols.size) > 4 * payload.size


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    payloads=st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=20),
    num_symbols=st.sampled_from([1, 5, 30, 100]),
)
def test_any_bytes_are_judged_as_on_the_cpu(payloads, num_symbols):
    check_verdicts([np.frombuffer(payload, np.uint8) for payload in payloads], num_symbols)


def test_damaged_chunks_of_eight_lanes_are_judged_as_on_the_cpu():
    rng = np.random.default_rng(7)
    damaged = []
    for symbols in (draw(4096, 0.02), sparse_tail(4096)):  # the second tail gives fewer words than states can take
        payload = Rans(chunk_symbols=4096).encode(symbols)
        head = int(rans_layout.read_layout(payload, payload.size, symbols.size).bounds[0])
        ends = [*range(head, head + 30), *range(payload.size - 8, payload.size), *rng.integers(head, payload.size, 12)]
        damaged += [flip(payload, at, rng.integers(1, 256)) for at in ends[1:]]
        damaged += [flip(payload, head, mask) for mask in (1, 2, 16, 32)]
        damaged += [payload[:size] for size in (head, head + 1, head + 12, payload.size - 2, payload.size - 1)]
        damaged += [np.append(payload, np.zeros(count, np.uint8)) for count in (1, 2, 4, 16)]
    assert check_verdicts(damaged, 4096) > 100
