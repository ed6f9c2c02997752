"""A GPU makes the bytes that the CPU makes, and reads them to the same bits, in both directions."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from tests.kernels.gpu import DEVICE, off, on  # before triton is imported
from trafficzip.codecs import Quartic, ZeroRun
from trafficzip.comm.exchange import pack_message, unpack_message
from trafficzip.comm.layout import Section
from trafficzip.compressor import Compressor
from trafficzip.errors import ConfigError, CorruptPayloadError
from trafficzip.gpu import GpuCodec
from trafficzip.kernels import Groups
from trafficzip.presets import ONE_BIT, TOP_K
from trafficzip.quantizers import CastBfloat16, CastFloat32, Int8, Int8Blockwise, Ternary

TERNARY = Compressor(quantizer=Ternary(multiplier=1.25), codecs=(Quartic(),))
SMALL = [Compressor(quantizer=q) for q in (Int8(), CastBfloat16(), CastFloat32(), Int8Blockwise(block=16))]


@dataclass
class Bucket:
    """Two receivers' groups in one bucket, as a layout gives them: the large ones, then small ones."""

    large: list[Groups]
    small: list[Groups]
    values: np.ndarray
    residual: np.ndarray

    def messages(self, large, small):
        return [
            [(large, self.large[0]), (small, self.small[0])],
            [(large, self.large[1])],
            [(small, self.small[1])],
            [],
        ]


def bucket(seed, *, scale=1.0):
    rng = np.random.default_rng(seed)
    sizes = [700, 1, 4, 333, 64, 5, 17, 96]
    starts = np.cumsum([3, *[size + 2 for size in sizes]])[:-1].tolist()
    kept = np.cumsum([1, *sizes])[:-1].tolist()
    groups = [
        Groups(
            [sizes[k] for k in chosen],
            value_starts=[starts[k] for k in chosen],
            residual_starts=[kept[k] for k in chosen],
        )
        for chosen in ([0, 2], [3, 1], [4, 5], [7, 6])
    ]
    values = (rng.standard_normal(starts[-1] + sizes[-1] + 9) * scale).astype(np.float32)
    values[rng.random(values.size) < 0.3] = 0
    values[starts[2] : starts[2] + 4] = 0  # a silent group
    residual = (rng.standard_normal(sum(sizes) + 3) * 0.4 * scale).astype(np.float32)
    return Bucket(groups[:2], groups[2:], values, residual)


def cpu_messages(messages, values, residual, out, *, like_residual):
    return [
        pack_message(
            [
                compressor.compress(values, groups, residual=residual, out=out, out_like_residual=like_residual)
                for compressor, groups in message
            ]
        )
        for message in messages
    ]


def flat(messages):
    return np.concatenate([np.zeros(0, np.uint8), *messages])


@pytest.mark.parametrize("small", SMALL, ids=lambda c: type(c.quantizer).__name__)
@pytest.mark.parametrize("like_residual", [False, True])
@pytest.mark.parametrize("rows", [2, 128])
def test_messages_equal_the_cpu_s(small, like_residual, rows):
    given = bucket(1)
    messages = given.messages(TERNARY, small)
    values, residual = on(given.values), on(given.residual)
    codec = GpuCodec(messages, DEVICE, rows=rows)
    out = residual if like_residual else values
    coded = codec.quantize(values, residual, out, out_like_residual=like_residual)
    codec.pack(coded)
    message = codec.pack(coded)  # once more changes nothing
    out = given.residual if like_residual else given.values
    expected = cpu_messages(messages, given.values, given.residual, out, like_residual=like_residual)
    assert codec.layout.message_sizes == tuple(part.size for part in expected)
    assert off(message).tobytes() == flat(expected).tobytes()
    assert off(values).tobytes() == given.values.tobytes()
    assert off(residual).tobytes() == given.residual.tobytes()


def cpu_decode(messages, received, out, divisor):
    """Sum what the ranks sent, in rank order, as the exchange does."""
    out[:] = 0
    for sent in received:
        for parts, data in zip(messages, sent, strict=True):
            sections = [Section(small=False, pieces=(), groups=groups, owned=groups) for _, groups in parts]
            for frame, (compressor, groups) in zip(unpack_message(data, sections, 0), parts, strict=True):
                compressor.accumulate(frame, groups, out)
    out /= np.float32(divisor)


@pytest.mark.parametrize("small", SMALL, ids=lambda c: type(c.quantizer).__name__)
@pytest.mark.parametrize("world_size", [1, 3])
def test_decodes_what_the_cpu_sent(small, world_size):
    given = [bucket(k, scale=1 + k) for k in range(world_size)]
    messages = given[0].messages(TERNARY, small)
    sent = [cpu_messages(messages, b.values, b.residual, None, like_residual=True) for b in given]
    codec = GpuCodec(messages, DEVICE)
    received = codec.unpack(on(flat([flat(parts) for parts in sent])), copies=world_size)
    assert received.is_finite()
    out = torch.zeros(given[0].values.size, device=DEVICE)
    codec.decode(received, out, divisor=world_size)
    expected = np.zeros_like(given[0].values)
    cpu_decode(messages, sent, expected, world_size)
    assert off(out).tobytes() == expected.tobytes()
    half = torch.zeros(given[0].values.size, device=DEVICE, dtype=torch.bfloat16)
    codec.decode(received, half, divisor=world_size)
    assert torch.equal(half.cpu(), torch.from_numpy(expected).to(torch.bfloat16))


@pytest.mark.parametrize("small", SMALL, ids=lambda c: type(c.quantizer).__name__)
def test_an_owner_s_mean_equals_the_cpu_s(small):
    given = [bucket(k) for k in range(3)]
    messages = given[0].messages(TERNARY, small)
    sent = [cpu_messages(messages, b.values, b.residual, None, like_residual=True) for b in given]
    codec = GpuCodec(messages, DEVICE)
    received = codec.unpack(on(flat([flat(parts) for parts in sent])), copies=3)
    lost, residual = torch.zeros(given[0].values.size, device=DEVICE), on(given[0].residual)
    message = codec.pack(codec.quantize_mean(received, residual, lost))
    mean = np.zeros_like(given[0].values)
    cpu_decode(messages, sent, mean, 3)
    expected = cpu_messages(messages, mean, given[0].residual, mean, like_residual=False)
    assert off(message).tobytes() == flat(expected).tobytes()
    for groups in [*given[0].large, *given[0].small]:
        for start, size in zip(groups.value_starts, groups.sizes, strict=True):
            assert off(lost)[start : start + size].tobytes() == mean[start : start + size].tobytes()
    assert off(residual).tobytes() == given[0].residual.tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_said_and_changes_nothing(bad):
    given = bucket(2)
    messages = given.messages(TERNARY, SMALL[0])
    given.values[given.small[1].value_starts[0]] = bad
    values, residual = on(given.values), on(given.residual)
    codec = GpuCodec(messages, DEVICE)
    message = codec.pack(codec.quantize(values, residual, residual))
    assert off(residual).tobytes() == given.residual.tobytes()
    data = off(message)
    nothing = np.full_like(given.values, np.nan)  # so that every frame of the CPU's says so too
    heads = flat(cpu_messages(messages, nothing, None, None, like_residual=False)).reshape(-1, 24)
    for frame, head in zip(codec.layout.frames, heads, strict=True):
        assert data[frame.start : frame.start + 24].tobytes() == head.tobytes()
        assert not data[frame.start + 24 : frame.start + frame.size].any()
    # The next rank's bytes are fine, but the mean is not: NaN everywhere, and an owner says so in its turn.
    other = bucket(3)
    fine = flat(cpu_messages(messages, other.values, other.residual, None, like_residual=True))
    received = codec.unpack(on(np.concatenate([fine, data])), copies=2)
    assert not received.is_finite()
    out = torch.zeros(given.values.size, device=DEVICE)
    codec.decode(received, out)
    start, size = given.large[0].value_starts[0], given.large[0].sizes[0]
    assert out[start : start + size].isnan().all()
    lost = torch.zeros(given.values.size, device=DEVICE)
    mean = codec.pack(codec.quantize_mean(received, residual, lost))
    assert off(mean).tobytes() == data.tobytes()


def test_every_damaged_byte_is_noticed_and_nothing_written():
    given = bucket(4)
    messages = [[(TERNARY, Groups([31], value_starts=[40])), (SMALL[0], Groups([9, 2], value_starts=[0, 90]))]]
    data = flat(cpu_messages(messages, given.values, None, None, like_residual=False))
    codec = GpuCodec(messages, DEVICE)
    count = len(data)
    damaged = np.tile(data, (count, 1))
    damaged[np.arange(count), np.arange(count)] ^= np.uint8(1) << (np.arange(count) % 8).astype(np.uint8)
    damaged = damaged[:: 1 if DEVICE.type == "cuda" else 2]
    count = len(damaged)
    received = codec.unpack(on(damaged.reshape(-1)), copies=count)
    assert (off(received.status) >= 2).any(axis=1).all()
    with pytest.raises(CorruptPayloadError, match="message from sender 0: frame 0: its header"):
        received.is_finite()
    out = torch.full((120,), 7.0, device=DEVICE)
    codec.decode(received, out)
    assert (out == 7).all()


@pytest.mark.parametrize(("place", "byte", "says"), [("code", 243, "out of range"), ("scale", 0x80, "out of range")])
def test_bytes_that_no_encoder_writes_are_refused_with_a_right_checksum(place, byte, says):
    from zlib import crc32

    given = bucket(5)
    messages = [[(TERNARY, Groups([31], value_starts=[40]))]]
    data = flat(cpu_messages(messages, given.values, None, None, like_residual=False))
    data[-1 if place == "code" else 27] = byte
    data[20:24] = np.frombuffer(crc32(data[24:], crc32(data[:20])).to_bytes(4, "little"), np.uint8)
    with pytest.raises(CorruptPayloadError, match=says):
        GpuCodec(messages, DEVICE).unpack(on(data)).is_finite()


def test_what_has_no_kernels_is_refused_by_name():
    for compressor in (TOP_K, ONE_BIT):
        with pytest.raises(ConfigError, match=f"{type(compressor.quantizer).__name__} has no GPU kernels"):
            GpuCodec([[(compressor, Groups([5]))]], DEVICE)
    with pytest.raises(ConfigError, match="quartic, then nothing, zero runs or rANS"):
        GpuCodec([[(Compressor(quantizer=Ternary()), Groups([5]))]], DEVICE)
    codec = GpuCodec([[(Compressor(quantizer=Ternary(), codecs=(Quartic(), ZeroRun())), Groups([5]))]], DEVICE)
    with pytest.raises(ConfigError, match="no fixed size"):
        codec.pack(codec.quantize(torch.ones(5, device=DEVICE)))


def test_tensors_that_do_not_fit_are_refused():
    codec = GpuCodec([[(TERNARY, Groups([50]))]], DEVICE)
    with pytest.raises(ConfigError, match="end at element 50 of a tensor that has 49"):
        codec.quantize(torch.ones(49, device=DEVICE))
    with pytest.raises(ConfigError, match=r"residual: torch\.float64"):
        codec.quantize(torch.ones(50, device=DEVICE), torch.ones(50, device=DEVICE, dtype=torch.float64))
    with pytest.raises(ConfigError, match=r"expected contiguous uint8 \[76\]"):
        codec.unpack(torch.zeros(50, dtype=torch.uint8, device=DEVICE), copies=2)
    with pytest.raises(ConfigError, match="expected contiguous"):
        codec.unpack(torch.zeros((76, 2), dtype=torch.uint8, device=DEVICE)[:, 0], copies=2)
