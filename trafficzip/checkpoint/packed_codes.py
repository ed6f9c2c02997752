"""Small unsigned codes of a known number of bits: coded by rANS as one byte plane, or packed bit by bit."""

import numpy as np
from numpy.typing import NDArray

from trafficzip.checkpoint.byte_planes import pack_planes, unpack_planes
from trafficzip.checkpoint.coders.base import Describe
from trafficzip.errors import CorruptPayloadError
from trafficzip.kernels import numba_cpu_blocks as kernels
from trafficzip.wire.cursor import Reader, pack_u8s

PACKED, CODED = range(2)  # forms


def pack_codes(codes: NDArray[np.uint8], bits: int) -> bytes:
    """Store codes below 2**bits, uint8 [n], n > 0, in the shorter form; packed where both are as short."""
    plane = pack_planes([codes], "uint8")
    num_bytes = -(-codes.size * bits // 8)
    if len(plane) < num_bytes:
        return pack_u8s(CODED) + plane
    data = np.empty(num_bytes, np.uint8)
    kernels.pack_bits(codes, bits, data)
    return pack_u8s(PACKED) + data.tobytes()


def read_codes(reader: Reader, count: int, bits: int, describe: Describe) -> NDArray[np.uint8]:
    """Read `count` codes below 2**bits, which are all that is left.

    Raises:
        CorruptPayloadError: they are not.
    """
    (form,) = reader.fields("<B", "form of codes")
    left = reader.data.size - reader.at
    if form == CODED:
        plane = reader.take(left, "codes")
        codes = np.empty(count, np.uint8)
        unpack_planes(plane, [codes], "uint8", describe)
        if int(codes.max()) >> bits:
            raise CorruptPayloadError(f"{reader.what}: code {int(codes.max())}, expected less than {1 << bits}")
        return codes
    num_bytes = -(-count * bits // 8)
    if form != PACKED or left != num_bytes:
        raise CorruptPayloadError(
            f"{reader.what}: codes have form {form} and {left} bytes, expected 1, or 0 and {num_bytes} bytes"
        )
    data = np.require(reader.take(left, "codes"), requirements=["C", "W"])  # kernels are compiled for this kind alone
    if data[-1] >> (8 - (8 * num_bytes - count * bits)):
        raise CorruptPayloadError(f"{reader.what}: bits behind the codes are set")
    codes = np.empty(count, np.uint8)
    kernels.unpack_bits(data, bits, codes)
    return codes
