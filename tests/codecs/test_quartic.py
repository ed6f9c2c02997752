import numpy as np
import pytest
from hypothesis import given

from tests.contract import check_codec, check_flips, ternary_codes
from trafficzip.codecs import Quartic
from trafficzip.errors import ConfigError, CorruptPayloadError
from trafficzip.kernels import reference


@given(ternary_codes())
def test_contract(codes):
    check_codec(Quartic(), codes)


@pytest.mark.parametrize("n", range(1, 12))
def test_flips_at_every_remainder(n):
    check_flips(Quartic(), np.resize(np.array([1, 0, -1], np.int8), n))


@given(ternary_codes())
def test_equals_reference(codes):
    packed = Quartic().encode(codes)
    assert packed.tobytes() == reference.quartic_pack(codes).tobytes()
    unpacked = reference.quartic_unpack(packed)
    assert Quartic().decode(packed, codes.size).tobytes() == unpacked[: codes.size].tobytes()


def test_worked_bytes():
    assert Quartic().encode(np.array([0, 0, 0, 0, 0], np.int8)).tolist() == [121]
    assert Quartic().encode(np.array([1, -1, 0, 1, 0, -1], np.int8)).tolist() == [
        81 * 2 + 27 * 0 + 9 * 1 + 3 * 2 + 1,
        27 + 9 + 3 + 1,
    ]


def test_padding_means_code_zero():
    packed = Quartic().encode(np.zeros(3, np.int8))
    assert packed.tolist() == [121]
    with pytest.raises(CorruptPayloadError, match="padding"):
        Quartic().decode(np.array([122], np.uint8), 3)


def test_byte_above_242_raises():
    with pytest.raises(CorruptPayloadError, match="243"):
        Quartic().decode(np.array([243], np.uint8), 5)


@pytest.mark.parametrize("code", [-2, 2, 127, -128])
def test_code_out_of_range_raises(code):
    with pytest.raises(ConfigError):
        Quartic().encode(np.array([0, code], np.int8))
