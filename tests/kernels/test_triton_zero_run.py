"""Zero-run coding in Triton writes the bytes of the compiled CPU kernels, segment by segment, and nothing else."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.gpu import DEVICE, off, on
from trafficzip import kernels
from trafficzip.errors import ConfigError, CorruptPayloadError
from trafficzip.kernels import triton_gpu_zero_run as gpu
from trafficzip.kernels.segments import Segments

GUARD = 77  # what the buffers hold where nothing may be written
SMALL = 64


def place(parts, gap):
    """Lay the parts out with `gap` bytes around each: the buffer and its segments."""
    starts, at = [], gap
    for part in parts:
        starts.append(at)
        at += len(part) + gap
    buffer = np.full(at, 121, np.uint8)  # a run must not join what surrounds its segment
    for start, part in zip(starts, parts, strict=True):
        buffer[start : start + len(part)] = part
    return buffer, Segments(starts, [len(part) for part in parts])


def encode(parts, *, tile=SMALL, chunk=16, gap=0):
    """Encode on the device; give the encodings and check that nothing else was written."""
    buffer, segments = place(parts, gap)
    data = on(np.full(buffer.size, GUARD, np.uint8))
    tiles = on(segments.tiles(tile))
    sizes = off(gpu.zero_run_encode(on(buffer), tiles, len(parts), data, tile=tile, chunk=chunk))
    assert sizes.dtype == np.int64
    assert sizes.shape == (len(parts),)
    data = off(data)
    encodings = [data[a : a + size].copy() for a, size in zip(segments.starts, sizes, strict=True)]
    for a, size in zip(segments.starts, sizes, strict=True):
        data[a : a + size] = GUARD
    assert (data == GUARD).all()
    return encodings


def decode(parts, num_symbols, *, tile=SMALL, chunk=16, gap=0):
    """Decode on the device; give symbols and status and check that nothing outside the stretches was written."""
    buffer, segments = place(parts, gap)
    starts = np.cumsum([gap, *(n + gap for n in num_symbols)])[:-1].astype(np.int64)
    symbols = on(np.full(sum(num_symbols) + gap * (len(parts) + 1), GUARD, np.uint8))
    status = on(np.zeros(len(parts), np.int32))
    sizes = on(np.array(num_symbols, np.int64))
    gpu.zero_run_decode(
        on(buffer), on(segments.tiles(tile)), symbols, on(starts), sizes, status, tile=tile, chunk=chunk
    )
    symbols = off(symbols)
    stretches = [symbols[a : a + n].copy() for a, n in zip(starts, num_symbols, strict=True)]
    for a, n in zip(starts, num_symbols, strict=True):
        symbols[a : a + n] = GUARD
    assert (symbols == GUARD).all()
    return stretches, off(status)


def check(parts, **options):
    """Both ways equal the CPU's."""
    encodings = encode(parts, **options)
    for part, encoding in zip(parts, encodings, strict=True):
        assert encoding.tolist() == kernels.zero_run_encode(part).tolist()
    decoded, status = decode(encodings, [len(part) for part in parts], **options)
    assert not status.any()
    for part, symbols in zip(parts, decoded, strict=True):
        np.testing.assert_array_equal(symbols, part)


def check_decode(parts, num_symbols, **options):
    """A segment decodes to what the CPU gives, or both refuse it."""
    decoded, status = decode(parts, num_symbols, **options)
    for part, n, symbols, bad in zip(parts, num_symbols, decoded, status, strict=True):
        try:
            expected = kernels.zero_run_decode(part, n)
        except CorruptPayloadError:
            assert bad == 1
        else:
            assert bad == 0
            np.testing.assert_array_equal(symbols, expected)


def draw(rng, size, density, largest=242):
    """Draw bytes of which about `density` are not 121."""
    symbols = np.full(size, 121, np.uint8)
    others = rng.random(size) < density
    symbols[others] = rng.integers(0, largest + 1, others.sum())
    return symbols


def zeros(n):
    return np.full(n, 121, np.uint8)


def test_no_segments_and_no_bytes():
    check([])
    check([zeros(0)])
    check([zeros(0), zeros(0), zeros(0)], gap=3)
    check([zeros(0), zeros(5), zeros(0), zeros(0), zeros(70), zeros(0)], gap=1)


def test_all_zeros_of_every_length():
    check([zeros(n) for n in range(61)])


@pytest.mark.parametrize("tile", [SMALL, gpu.TILE])
def test_zeros_around_tile_borders(tile):
    check([zeros(k * tile + d) for k in (1, 2) for d in (-14, -1, 0, 1, 14)], tile=tile)


@pytest.mark.parametrize("shift", [0, 1, 2, 7, 12, 13, 14])
def test_a_run_across_tiles_and_what_precedes_it(shift):
    parts = []
    for length in (1, 2, 13, 14, 15, 28, 64, 64 * 2 + 5):
        for start in (63, 64, 65):
            part = draw(np.random.default_rng(length), 64 * 3, 1.0)
            part[part == 121] = 5
            part[start - shift : start - shift + length] = 121
            parts.append(part)
    check(parts[shift % 4 :: 4])


def test_lone_zeros_at_borders():
    part = draw(np.random.default_rng(2), 64 * 5, 1.0)
    part[part == 121] = 120
    borders = np.arange(64, part.size, 64)
    for places in (borders - 1, borders, np.union1d(borders - 1, borders), borders[::2] + 7, borders[::2] + 8):
        marked = part.copy()
        marked[places] = 121
        check([marked])
    check([zeros(1), part[:1], zeros(1)])


def test_runs_do_not_join_across_segments():
    parts = [zeros(3), zeros(20), np.array([1, 121, 121], np.uint8), zeros(64), zeros(64), zeros(1), zeros(128)]
    check(parts)
    check(parts, gap=1, tile=gpu.TILE)


def test_bytes_above_the_quartic_ones_are_copied():
    parts = [np.arange(256, dtype=np.uint8), np.full(100, 255, np.uint8), np.array([121, 255, 121, 121, 243], np.uint8)]
    for part, encoding in zip(parts, encode(parts), strict=True):
        assert encoding.tolist() == kernels.zero_run_encode(part).tolist()


@pytest.mark.parametrize("density", [0.0, 0.001, 0.3, 1.0])
def test_large_tiles(density):
    rng = np.random.default_rng(3)
    parts = [draw(rng, size, density) for size in (3 * gpu.TILE + 17, gpu.TILE, 5, 2 * gpu.TILE - 1)]
    check(parts, tile=gpu.TILE, chunk=2048, gap=5)


def test_scan_of_many_chunks():
    rng = np.random.default_rng(4)
    check(
        [draw(rng, size, density) for size, density in ((16 * 11 + 5, 0.01), (40, 0.5), (16 * 9, 0.0))],
        tile=16,
        chunk=2,
    )


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([0, 1, 2, 13, 14, 15, 63, 64, 65, 127, 128, 129, 200, 330]), max_size=5),
    density=st.sampled_from([0.0, 0.02, 0.1, 0.5, 0.95]),
    tile=st.sampled_from([16, 64, 512]),
    gap=st.integers(0, 3),
    seed=st.integers(0, 1000),
)
def test_random_segments(sizes, density, tile, gap, seed):
    rng = np.random.default_rng(seed)
    check([draw(rng, size, density) for size in sizes], tile=tile, gap=gap)


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 150), min_size=1, max_size=4),
    error=st.sampled_from([-200, -1, 0, 1, 13, 3000]),
    wrong=st.integers(0, 3),
    seed=st.integers(0, 1000),
)
def test_random_data(sizes, error, wrong, seed):
    rng = np.random.default_rng(seed)
    parts = [rng.integers(0, 256, size).astype(np.uint8) for size in sizes]
    expected = [int(np.maximum(part.astype(int) - 241, 1).sum()) for part in parts]
    expected[wrong % len(parts)] = max(expected[wrong % len(parts)] + error, 0)
    check_decode(parts, expected, gap=16)


def test_damaged_data():
    part = draw(np.random.default_rng(5), 300, 0.1)
    data = kernels.zero_run_encode(part)
    damaged = [
        data,
        data[:-1],
        np.append(data, np.uint8(0)),
        np.append(data, np.uint8(255)),
        data[:0],
        data[: data.size // 2],
    ]
    check_decode(damaged, [300] * len(damaged), gap=20)
    check_decode(damaged, [300] * len(damaged), tile=16, gap=20)
    check_decode([data[:0], data[:0]], [0, 1], gap=20)
    check_decode([data, data[:0], data], [299, 0, 301], gap=20)


def test_longest_expansion():
    data = np.full(200, 255, np.uint8)
    check_decode([data, data], [2800, 2799], gap=20)
    check_decode([np.full(gpu.TILE + 1, 255, np.uint8)], [14 * gpu.TILE + 14], tile=gpu.TILE)


def test_status_is_only_set():
    buffer, segments = place([zeros(5), zeros(5)], 0)
    symbols = torch.zeros(10, dtype=torch.uint8, device=DEVICE)
    status = on(np.array([7, 7], np.int32))
    starts, sizes = on(np.array([0, 5])), on(np.array([5, 4]))
    gpu.zero_run_decode(on(buffer), on(segments.tiles(SMALL)), symbols, starts, sizes, status, tile=SMALL)
    assert off(status).tolist() == [7, 1]
    assert off(symbols).tolist() == [121] * 5 + [0] * 5


def test_more_segments_than_one_program_clears():
    parts = [zeros(n % 3 if n % 16 < 2 else 0) for n in range(300)]
    encodings = encode(parts)
    assert [e.tolist() for e in encodings] == [kernels.zero_run_encode(part).tolist() for part in parts]


@pytest.mark.parametrize("tile", [0, 4, 100, 1 << 18])
def test_tile_sizes_are_checked(tile):
    empty = torch.zeros(0, dtype=torch.uint8, device=DEVICE)
    with pytest.raises(ConfigError):
        gpu.zero_run_encode(empty, torch.zeros((0, 4), dtype=torch.int64, device=DEVICE), 0, empty, tile=tile)
