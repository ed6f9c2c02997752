"""Elias-Fano code: rising positions in a number of bytes that depends on their count and range only.

Costs about 2 + log2(n / k) bits a position, within half a bit of what k random positions of n need at least.
Source: Elias 1974, Fano 1971; FORMAT.md, top-k.
"""

import numpy as np
from numpy.typing import NDArray

from trafficzip.errors import CorruptPayloadError

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]


def encoded_size(count: int, total: int) -> int:
    """Give the bytes of `count` positions below `total`."""
    return sum(-(-bits // 8) for bits in _num_bits(count, total))


def encode(positions: I64, total: int) -> U8:
    """Encode positions, int64 [count], rising and in [0, total), into uint8 [encoded_size(count, total)]."""
    count = positions.size
    low_bits, high_bits = _num_bits(count, total)
    width = low_bits // max(count, 1)
    low = np.empty((count, width), np.uint8)
    for bit in range(width):
        low[:, bit] = positions >> bit & 1
    high = np.zeros(high_bits, np.uint8)
    high[(positions >> width) + np.arange(count)] = 1
    return np.concatenate([np.packbits(low.reshape(-1), bitorder="little"), np.packbits(high, bitorder="little")])


def decode(data: U8, count: int, total: int) -> I64:
    """Decode int64 [count] from uint8 [encoded_size(count, total)].

    Raises:
        CorruptPayloadError: these are not `count` rising positions below `total`.
    """
    low_bits, high_bits = _num_bits(count, total)
    width = low_bits // max(count, 1)
    cut = -(-low_bits // 8)
    low = _unpack(data[:cut], low_bits).reshape(count, width)
    ones = np.flatnonzero(_unpack(data[cut:], high_bits))
    if ones.size != count:
        raise CorruptPayloadError(f"positions: {ones.size} bits set, expected {count}")
    positions: I64 = (ones - np.arange(count)) << width
    for bit in range(width):
        positions |= low[:, bit].astype(np.int64) << bit
    if count and (positions[-1] >= total or (np.diff(positions) <= 0).any()):
        raise CorruptPayloadError(f"positions do not rise, or one is not below {total}")
    return positions


def _num_bits(count: int, total: int) -> tuple[int, int]:
    """Give the lengths of both bit strings: low bits of all positions, and the marks of their high parts."""
    if not count:
        return 0, 0
    width = (total // count).bit_length() - 1
    return count * width, count + (total - 1 >> width)


def _unpack(data: U8, num_bits: int) -> U8:
    bits = np.unpackbits(data, bitorder="little")
    if bits[num_bits:].any():
        raise CorruptPayloadError("positions: a padding bit is not 0")
    return bits[:num_bits]
