"""Powers of x modulo P, the polynomial of CRC-32, for tables that the host makes.

Words are reflected: the highest of 32 bits is the coefficient of 1, the lowest that of x^31.
"""

import numpy as np
from numpy.typing import NDArray

POLYNOMIAL = 0xEDB88320  # P less x^32
ONE = 1 << 31


def multiply_words(a: NDArray[np.uint32], b: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Multiply modulo P: uint32, shapes that broadcast."""
    product = np.zeros(np.broadcast_shapes(a.shape, b.shape), np.uint32)
    for bit in range(32):
        product ^= np.where((b >> np.uint32(31 - bit)) & np.uint32(1), a, np.uint32(0))
        a = (a >> np.uint32(1)) ^ (np.uint32(POLYNOMIAL) * (a & np.uint32(1)))
    return product


def powers(exponents: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Give x^exponent modulo P: uint32, shape of the exponents, which have any sign."""
    left = exponents % (2**32 - 1)  # the order of x
    result = np.full(left.shape, ONE, np.uint32)
    square = np.array([ONE >> 1], np.uint32)  # x, then x^2, x^4, ...
    for bit in range(32):
        chosen = (left >> bit) & 1 == 1
        result[chosen] = multiply_words(result[chosen], square)
        square = multiply_words(square, square)
    return result
