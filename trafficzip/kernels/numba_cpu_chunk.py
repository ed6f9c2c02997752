"""Sums in chunks that stay in the first-level cache, apart from the inputs.

Kernels that write what is lost over their inputs work on such a copy: the compiler must otherwise assume that what it
writes overlaps what it reads next, and cannot use vector instructions.
"""

import numpy as np
from numpy.typing import NDArray

from trafficzip.kernels.numba_cpu_jit import jit

CHUNK = 2048  # elements


@jit
def load_chunk(
    values: NDArray[np.float32],
    residual: NDArray[np.float32] | None,
    block: NDArray[np.int64],
    start: int,
    sums: NDArray[np.float32],
) -> int:
    """Write value + residual of a block's chunk that begins at `start` to `sums`; give its number of elements."""
    n = min(CHUNK, int(block[2]) - start)
    v = values[block[0] + start : block[0] + start + n]
    if residual is None:
        for i in range(n):
            sums[i] = v[i]
    else:
        r = residual[block[1] + start : block[1] + start + n]
        for i in range(n):
            sums[i] = v[i] + r[i]
    return n
