"""Compiled arithmetic modulo P, the polynomial of CRC-32, for tables made at each step; `crc_powers` defines it."""

import numpy as np
from numpy.typing import NDArray

from trafficzip.kernels.numba_cpu_jit import jit

_POLYNOMIAL = np.uint32(0xEDB88320)
_ONE = np.uint32(1)
_ALL = np.uint32(0xFFFFFFFF)
_ORDER = 2**32 - 1  # of x


@jit
def zero_crcs(num_bytes: NDArray[np.int64], table: NDArray[np.uint32], crcs: NDArray[np.uint32]) -> None:
    """Write the CRC-32 of so many zero bytes: uint32 [n].  table: as for `powers`."""
    for i in range(num_bytes.shape[0]):
        crcs[i] = _multiply(_power(8 * num_bytes[i], table), _ALL) ^ _ALL


@jit
def powers(exponents: NDArray[np.int64], table: NDArray[np.uint32], result: NDArray[np.uint32]) -> None:
    """Write x^exponent modulo P: uint32 [n].  table[k, d]: x^(d 256^k), uint32 [4, 256]."""
    for i in range(exponents.shape[0]):
        result[i] = _power(exponents[i], table)


@jit
def _power(exponent: int, table: NDArray[np.uint32]) -> np.uint32:
    left = exponent % _ORDER
    product = table[0, left & 255]
    for k in range(1, 4):
        digit = left >> (8 * k) & 255
        if digit:
            product = _multiply(product, table[k, digit])
    return product


@jit
def _multiply(a: np.uint32, b: np.uint32) -> np.uint32:
    product = np.uint32(0)
    for bit in range(31, -1, -1):
        if b >> np.uint32(bit) & _ONE:
            product ^= a
        a = (a >> _ONE) ^ (_POLYNOMIAL if a & _ONE else np.uint32(0))
    return product
