"""Frames: every truncation and every flipped byte is noticed; sizes are checked before they are believed."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trafficzip import BFLOAT16, ONE_BIT, THREE_LC, THREE_LC_RANS, Compressor, Groups
from trafficzip.errors import CorruptPayloadError, TrafficzipError, UnsupportedFormatError
from trafficzip.quantizers import Int8Blockwise, TopK
from trafficzip.wire.frame import HEADER_BYTES, Frame, unpack_frame

COMPRESSORS = {
    "zero_run": THREE_LC,
    "rans": THREE_LC_RANS,
    "bfloat16": BFLOAT16,
    "top_k": Compressor(quantizer=TopK(share=0.1)),
    "one_bit": ONE_BIT,
    "int8_blockwise": Compressor(quantizer=Int8Blockwise(block=16)),
}


def make_frame(compressor=THREE_LC, n=137):
    values = np.random.default_rng(3).standard_normal(n).astype(np.float32)
    groups = Groups([n - 30, 30])
    return compressor.compress(values, groups), groups, values


@pytest.mark.parametrize("name", COMPRESSORS)
def test_pack_unpack_round_trip(name):
    frame, groups, _ = make_frame(COMPRESSORS[name])
    data = np.concatenate([np.zeros(3, np.uint8), frame.pack(), np.zeros(5, np.uint8)])
    read, end = unpack_frame(data, start=3)
    assert end == data.size - 5
    assert read.pack().tobytes() == frame.pack().tobytes()
    assert COMPRESSORS[name].decompress(read, groups).tobytes() == COMPRESSORS[name].decompress(frame, groups).tobytes()


@pytest.mark.parametrize("name", COMPRESSORS)
def test_every_prefix_raises(name):
    data = make_frame(COMPRESSORS[name])[0].pack()
    for size in range(data.size):
        with pytest.raises(CorruptPayloadError):
            unpack_frame(data[:size])


@pytest.mark.parametrize("name", COMPRESSORS)
def test_every_flipped_byte_raises(name):
    data = make_frame(COMPRESSORS[name])[0].pack()
    for at in range(data.size):
        for flip in (0x01, 0x80, 0xFF):
            damaged = data.copy()
            damaged[at] ^= flip
            with pytest.raises(TrafficzipError):
                unpack_frame(damaged)


def _resealed(data: np.ndarray) -> np.ndarray:
    """Make the checksum right again, as an attacker or a buggy peer would."""
    body = data[:20].tobytes() + data[HEADER_BYTES:].tobytes()
    data[20:24] = np.frombuffer(struct.pack("<I", zlib.crc32(body)), np.uint8)
    return data


@pytest.mark.parametrize("name", COMPRESSORS)
def test_resealed_damage_never_crashes(name):
    compressor = COMPRESSORS[name]
    frame, groups, _ = make_frame(compressor)
    data = frame.pack()
    for at in range(data.size):
        for flip in (0x01, 0x40, 0xFF):
            damaged = data.copy()
            damaged[at] ^= flip
            try:
                read, _ = unpack_frame(_resealed(damaged), max_elements=groups.num_elements)
                decoded = compressor.decompress(read, groups)
            except TrafficzipError:
                continue
            assert decoded.shape == (groups.num_elements,)
            assert np.isfinite(decoded).all() or name == "bfloat16"


def test_huge_counts_allocate_nothing():
    data = make_frame()[0].pack()
    for field in (8, 12, 16):
        damaged = data.copy()
        damaged[field : field + 4] = 255
        with pytest.raises(CorruptPayloadError):
            unpack_frame(_resealed(damaged), max_elements=1000)


def test_unknown_version_and_flags_are_refused():
    for at, value, error in (
        (2, 2, UnsupportedFormatError),
        (3, 0x08, UnsupportedFormatError),
        (7, 2, CorruptPayloadError),
    ):
        data = make_frame()[0].pack()
        data[at] = value
        with pytest.raises(error):
            unpack_frame(_resealed(data))


def test_frame_of_other_stages_or_groups_is_refused():
    frame, groups, _ = make_frame()
    with pytest.raises(UnsupportedFormatError, match="expected 1 and \\(1, 3\\)"):
        THREE_LC_RANS.decompress(frame, groups)
    with pytest.raises(CorruptPayloadError, match="137 elements in 2 groups"):
        THREE_LC.decompress(frame, Groups([137]))


def test_scale_must_be_finite_and_not_negative():
    for scale in (np.nan, np.inf, -1.0):
        frame, _, _ = make_frame()
        frame.scales[0] = scale
        with pytest.raises(CorruptPayloadError, match="scale"):
            unpack_frame(frame.pack())


@given(st.binary(max_size=200))
def test_noise_never_crashes(noise):
    with pytest.raises(TrafficzipError):
        unpack_frame(np.frombuffer(noise, np.uint8))


def test_nonfinite_frame_holds_nothing_else():
    values = np.array([1, np.inf, 2], np.float32)
    frame = THREE_LC.compress(values, Groups([3]))
    assert frame.nonfinite
    data = frame.pack()
    assert data.size == HEADER_BYTES
    with pytest.raises(CorruptPayloadError, match="not finite"):
        THREE_LC.decompress(unpack_frame(data)[0], Groups([3]))
    filled = Frame(1, (1, 2), 3, 1, np.ones(1, np.float32), np.ones(1, np.uint8), nonfinite=True, stored=(False, False))
    with pytest.raises(CorruptPayloadError, match="follow the non-finite flag"):
        unpack_frame(filled.pack())
