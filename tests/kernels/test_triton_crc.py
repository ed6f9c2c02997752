"""Checksums and byte checks of frames on GPUs are those of zlib and of the format."""

import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.gpu import DEVICE, off, on  # before triton is imported
from trafficzip.errors import ConfigError
from trafficzip.kernels import numba_cpu_crc
from trafficzip.kernels import triton_gpu_crc as crc
from trafficzip.kernels.crc_powers import multiply_words, powers

ROW = crc.ROW_BYTES
few = settings(max_examples=15, deadline=None)


def noise(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def definition(frame):
    return zlib.crc32(frame[24:].tobytes(), zlib.crc32(frame[:20].tobytes()))


def computed(data, frames, **options):
    tile = options.get("tile", 8 * ROW)
    results = torch.zeros((2, options.pop("copies", 1), len(frames)), dtype=torch.int32, device=DEVICE)
    crc.frame_crcs(on(data), on(crc.crc_tiles(frames, tile=tile)), results, **options)
    return off(results[0]).view(np.uint32).tolist(), off(results[1]).tolist()


def plain(start, size):
    return start, size, start + 24, 0


def test_all_small_sizes_at_all_alignments():
    frames, start = [], 0
    for size in range(24, 61):
        frames.append(plain(start, size))
        start += size  # so starts have all remainders modulo 8
    data = noise(start)
    want = [definition(data[start : start + size]) for start, size, _, _ in frames]
    assert computed(data, frames, tile=ROW)[0] == [want]


@pytest.mark.parametrize("rows", [1, 2, 4, 6, 8])
def test_edges_of_rows_and_tiles(rows):
    tile = rows * ROW
    data = noise(3 * tile + 64)
    edges = [ROW, tile - 8, tile, 2 * (tile - 8), 2 * tile]
    frames = [plain(3 + edge % 5, 24 + edge + delta) for edge in edges for delta in (-9, -8, -1, 0, 1, 8)]
    want = [definition(data[start : start + size]) for start, size, _, _ in frames]
    assert computed(data, frames, tile=tile)[0] == [want]


@few
@given(sizes=st.lists(st.integers(24, 9000), max_size=4), start=st.integers(0, 17), rows=st.integers(1, 4),
       copies=st.integers(1, 3), gap=st.integers(0, 9), seed=st.integers(0, 99))  # fmt: skip
def test_copies_of_any_layout(sizes, start, rows, copies, gap, seed):
    frames, stride = [], start
    for size in sizes:
        frames.append(plain(stride, size))
        stride += size + gap
    data = noise(copies * stride, seed)
    want = [[definition(data[r * stride + f[0] :][: f[1]]) for f in frames] for r in range(copies)]
    crcs, bad = computed(data, frames, copies=copies, stride=stride, tile=rows * ROW)
    assert crcs == want
    assert bad == [[0] * len(frames)] * copies


@few
@given(size=st.integers(24, 5000), bit=st.integers(0), rows=st.integers(1, 2))
def test_one_flipped_bit_changes_the_checksum_unless_it_is_in_it(size, bit, rows):
    data = noise(size)
    frames = [plain(0, size)]
    before, _ = computed(data, frames, tile=rows * ROW)
    byte = bit // 8 % size
    data[byte] ^= 1 << bit % 8
    after, _ = computed(data, frames, tile=rows * ROW)
    assert (before == after) == (20 <= byte < 24)


def test_swapped_tiles_change_the_checksum():
    length = ROW - crc.SLACK_BYTES
    data = noise(24 + 3 * length)
    swapped = np.r_[data[:24], data[24 + length : 24 + 2 * length], data[24 : 24 + length], data[24 + 2 * length :]]
    frames = [plain(0, len(data))]
    assert computed(swapped, frames, tile=ROW)[0] == [[definition(swapped)]] != computed(data, frames, tile=ROW)[0]


@pytest.mark.parametrize(("kind", "allowed", "refused"), [
    (1, [0, 127, 128, 242], [243, 255]), (2, [0, 127, 129, 255], [128])
])  # fmt: skip
def test_refused_bytes_are_found_in_the_payload_only(kind, allowed, refused):
    start, size, payload = 5, 24 + 12 + 2 * ROW, 5 + 24 + 12
    data = np.full(start + size + 9, refused[0], np.uint8)  # header, scales and what is around the frame
    data[payload : start + size] = np.resize(allowed, start + size - payload)
    frames = [(start, size, payload, kind), (start, size, payload, 0)]
    crcs, bad = computed(data, frames, check=True, tile=2 * ROW)
    assert bad == [[0, 0]]
    assert crcs == [[definition(data[start : start + size])] * 2]
    for place in (payload, payload + 1, start + ROW, start + size - 2, start + size - 1):
        for byte in refused:
            changed = data.copy()
            changed[place] = byte
            assert computed(changed, frames, check=True, tile=2 * ROW)[1] == [[1, 0]]
    assert computed(np.full_like(data, refused[0]), frames, tile=2 * ROW)[1] == [[0, 0]]  # not looked for


@few
@given(kind=st.sampled_from([1, 2]), scales=st.integers(0, 700), codes=st.integers(0, 3000), seed=st.integers(0, 99))
def test_checks_equal_the_definition(kind, scales, codes, seed):
    data = noise(24 + 4 * scales + codes, seed)
    payload = data[24 + 4 * scales :]
    if seed % 2:
        payload[:] = np.where(payload > 242 if kind == 1 else payload == 128, 1, payload)
    want = bool((payload > 242 if kind == 1 else payload == 128).any())
    crcs, bad = computed(data, [(0, len(data), 24 + 4 * scales, kind)], check=True, tile=ROW)
    assert crcs == [[definition(data)]]
    assert bad == [[want]]


def test_compiled_powers_equal_the_definition():
    exponents = np.array([0, 1, 31, 255, 256, -1, -8, 2**32 - 2, 2**32 - 1, 2**35 + 7, 123_456_789])
    found = np.empty(exponents.size, np.uint32)
    numba_cpu_crc.powers(exponents, crc.power_table(), found)
    assert found.tolist() == powers(exponents).tolist()
    sizes = np.array([0, 1, 20, 255, 5000])
    found = np.empty(sizes.size, np.uint32)
    numba_cpu_crc.zero_crcs(sizes, crc.power_table(), found)
    assert found.tolist() == [zlib.crc32(bytes(size)) for size in sizes.tolist()]


def test_powers_and_products_on_the_host():
    x = powers(np.array([0, 1, 31, 32, -1, 2**32 - 1, 2**36]))
    assert x[:4].tolist() == [1 << 31, 1 << 30, 1, 0xEDB88320]
    assert multiply_words(x[4:5], x[1:2])[0] == x[5] == x[0]
    assert multiply_words(powers(np.array([5000])), powers(np.array([2**36 - 5000])))[0] == x[6]


@pytest.mark.parametrize(("exponents", "power", "most"), [
    (crc.ROW_HIGH, 128 * 128 + 64, 64), (crc.ROW_LOW, 128 * 128, 64), (crc.FOLD_96, 96, 64), (crc.FOLD_64, 64, 32)
])  # fmt: skip
def test_sparse_polynomials_are_the_powers(exponents, power, most):
    assert max(exponents.value) <= most
    assert np.bitwise_xor.reduce(powers(np.array(exponents.value))) == powers(np.array([power]))[0]


def test_no_frames_have_no_checksums():
    assert computed(noise(8), []) == ([[]], [[]])


@pytest.mark.parametrize("frame", [(0, 23, 24, 0), (-1, 24, 23, 0), (0, 30, 23, 1), (0, 30, 31, 2), (0, 30, 24, 3)])
def test_frames_that_cannot_be_raise(frame):
    with pytest.raises(ConfigError):
        crc.crc_tiles([frame])


@pytest.mark.parametrize("tile", [0, 100, ROW + 8])
def test_tiles_that_are_no_rows_raise(tile):
    with pytest.raises(ConfigError):
        crc.crc_tiles([plain(0, 30)], tile=tile)
