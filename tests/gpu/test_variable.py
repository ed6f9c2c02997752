"""Zero runs and rANS on a GPU: messages equal the CPU's, and are read to the same bits, in both directions."""

import numpy as np
import pytest
import torch

from tests.gpu.test_codec import SMALL, bucket, cpu_decode, cpu_messages, flat
from tests.kernels.gpu import DEVICE, off, on
from trafficzip.codecs import Quartic, Rans, ZeroRun
from trafficzip.compressor import Compressor
from trafficzip.errors import ConfigError, CorruptPayloadError
from trafficzip.gpu import GpuCodec, VariableCodec
from trafficzip.kernels import Groups
from trafficzip.quantizers import Ternary

LAST = [ZeroRun(), Rans(chunk_symbols=256)]


def compressors(last, multiplier=1.9):
    return Compressor(quantizer=Ternary(multiplier=multiplier), codecs=(Quartic(), last))


@pytest.mark.parametrize("last", LAST, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("multiplier", [0.5, 1.9])  # at 0.5 rANS makes small frames larger, and is left out
def test_messages_equal_the_cpu_s_and_are_read(last, multiplier):
    given = [bucket(k) for k in range(3)]
    messages = given[0].messages(compressors(last, multiplier), SMALL[0])
    codec = GpuCodec(messages, DEVICE)
    variable = VariableCodec(codec)
    parts, sizes = [], []
    for one in given:
        values, residual = on(one.values), on(one.residual)
        message, found = variable.pack(codec.quantize(values, residual, residual))
        expected = cpu_messages(messages, one.values, one.residual, one.residual, like_residual=True)
        assert found == [part.size for part in expected]
        assert off(message).tobytes() == flat(expected).tobytes()
        assert off(residual).tobytes() == one.residual.tobytes()
        parts.append(expected)
        sizes.append(found)
    received = variable.unpack(on(flat([flat(part) for part in parts])), sizes)
    assert received.is_finite()
    out = torch.zeros(given[0].values.size, device=DEVICE)
    codec.decode(received, out, divisor=3)
    mean = np.zeros_like(given[0].values)
    cpu_decode(messages, parts, mean, 3)
    assert off(out).tobytes() == mean.tobytes()
    lost = torch.zeros_like(out)
    message, _ = variable.pack(codec.quantize_mean(received, on(given[0].residual), lost))
    expected = cpu_messages(messages, mean, given[0].residual, mean, like_residual=False)
    assert off(message).tobytes() == flat(expected).tobytes()


@pytest.mark.parametrize("last", LAST, ids=lambda c: type(c).__name__)
def test_a_rank_whose_input_is_not_finite_sends_headers_alone(last):
    given = bucket(2)
    messages = given.messages(compressors(last), SMALL[0])
    given.values[given.small[1].value_starts[0]] = np.nan
    codec = GpuCodec(messages, DEVICE)
    variable = VariableCodec(codec)
    message, sizes = variable.pack(codec.quantize(on(given.values), on(given.residual)))
    assert sizes == [48, 24, 24, 0]
    nothing = np.full_like(given.values, np.nan)  # so that every frame of the CPU's says so too
    assert off(message).tobytes() == flat(cpu_messages(messages, nothing, None, None, like_residual=False)).tobytes()
    other = bucket(3)
    fine = cpu_messages(messages, other.values, other.residual, None, like_residual=True)
    data = on(np.concatenate([flat(fine), off(message)]))
    received = variable.unpack(data, [[part.size for part in fine], sizes])
    assert not received.is_finite()
    out = torch.zeros(given.values.size, device=DEVICE)
    codec.decode(received, out)
    start = given.large[0].value_starts[0]
    assert out[start].isnan()


@pytest.mark.parametrize("last", LAST, ids=lambda c: type(c).__name__)
def test_damage_is_noticed_and_nothing_written(last):
    given = bucket(4)
    messages = [[(compressors(last), Groups([700])), (SMALL[0], Groups([9, 2], value_starts=[800, 700]))]]
    (data,) = cpu_messages(messages, given.values, None, None, like_residual=False)
    codec = GpuCodec(messages, DEVICE)
    variable = VariableCodec(codec)
    out = torch.full((given.values.size,), 7.0, device=DEVICE)

    def read(found):
        received = variable.unpack(on(found), [[found.size]])
        codec.decode(received, out)
        received.is_finite()

    for at in [*range(0, 32, 3), *range(32, data.size, 17)]:
        damaged = data.copy()
        damaged[at] ^= 1 << at % 8
        with pytest.raises(CorruptPayloadError):
            read(damaged)
    for size in (0, 23, 47, 49, data.size - 1):  # truncated
        with pytest.raises(CorruptPayloadError):
            read(data[:size])
    assert (out == 7).all()


def test_a_wrong_number_of_symbols_is_refused_with_a_right_checksum():
    from zlib import crc32

    messages = [[(compressors(ZeroRun()), Groups([700]))]]
    (data,) = cpu_messages(messages, bucket(4).values, None, None, like_residual=False)
    runs = data[28:] >= 243
    data[28 + int(np.flatnonzero(runs)[0])] ^= 1
    data[20:24] = np.frombuffer(crc32(data[24:], crc32(data[:20])).to_bytes(4, "little"), np.uint8)
    variable = VariableCodec(GpuCodec(messages, DEVICE))
    with pytest.raises(CorruptPayloadError, match="its runs expand to another size"):
        variable.unpack(on(data), [[data.size]]).is_finite()


def test_one_last_codec_for_one_frame_of_a_message():
    groups = Groups([10])
    for messages in (
        [[(compressors(ZeroRun()), groups)], [(compressors(Rans()), groups)]],
        [[(compressors(ZeroRun()), groups), (compressors(ZeroRun()), groups)]],
    ):
        with pytest.raises(ConfigError, match="one last codec, to at most one frame"):
            VariableCodec(GpuCodec(messages, DEVICE))


def forge(data, *, flags, payload):
    """Give the first frame's header with other flags and another payload size, checked over what follows it."""
    from zlib import crc32

    forged = data.copy()
    forged[3] = flags
    forged[16:20] = np.frombuffer(payload.to_bytes(4, "little"), np.uint8)
    forged[20:24] = np.frombuffer(crc32(forged[24:], crc32(forged[:20])).to_bytes(4, "little"), np.uint8)
    return forged


def test_a_stored_frame_that_is_too_short_is_refused():
    messages = [[(compressors(LAST[1]), Groups([2000]))]]
    (data,) = cpu_messages(messages, np.linspace(-1, 1, 2000, dtype=np.float32), None, None, like_residual=False)
    variable = VariableCodec(GpuCodec(messages, DEVICE))
    with pytest.raises(CorruptPayloadError, match="plain bytes, expected 400"):
        variable.unpack(on(forge(data, flags=4, payload=data.size - 28)), [[data.size]])


@pytest.mark.parametrize("last", LAST, ids=lambda c: type(c).__name__)
def test_a_header_alone_must_say_that_it_is_not_finite(last):
    messages = [[(compressors(last), Groups([2000]))]]
    (data,) = cpu_messages(messages, np.ones(2000, np.float32), None, None, like_residual=False)
    variable = VariableCodec(GpuCodec(messages, DEVICE))
    with pytest.raises(CorruptPayloadError, match="its header is not the expected one"):
        variable.unpack(on(forge(data[:24], flags=0, payload=0)), [[24]]).is_finite()


def test_tensors_that_are_no_messages_are_refused():
    variable = VariableCodec(GpuCodec([[(compressors(ZeroRun()), Groups([200]))]], DEVICE))
    for data in (torch.zeros(30, device=DEVICE), torch.zeros((30, 2), dtype=torch.uint8, device=DEVICE)[:, 0]):
        with pytest.raises(ConfigError, match=r"expected contiguous uint8 \[30\]"):
            variable.unpack(data, [[30]])
