"""Compiled zero-run coding of quartic bytes: runs of 2..14 bytes 121 become one byte 243..255, longest first."""

import numpy as np
from numpy.typing import NDArray

from trafficzip.kernels.numba_cpu_jit import jit

_ZERO = np.uint8(121)  # five zero codes
_LONGEST = 14
_CHUNK = 2048  # symbols searched at a time
_SPREAD = 16  # bytes stored at once when a token is expanded: at least the longest run


@jit
def zero_run_encode(symbols: NDArray[np.uint8], data: NDArray[np.uint8]) -> int:
    """Write the encoding of `symbols` to `data` and give its size, which is at most symbols.size.

    data: uint8 [symbols.size + 1]; the last byte is never part of the encoding.
    The places of the other bytes are collected first, a chunk at a time and without a branch that depends on the
    data; then each gap between two of them is one token unless it is longer than 14.
    """
    total = symbols.shape[0]
    places = np.empty(_CHUNK + 1, np.int64)
    size = 0
    previous = -1
    for start in range(0, total, _CHUNK):
        chunk = symbols[start : start + _CHUNK]
        found = 0
        for i in range(chunk.shape[0]):
            places[found] = start + i
            found += np.int64(chunk[i] != _ZERO)
        if start + _CHUNK >= total:  # the end closes the last run
            places[found] = total
            found += 1
        for k in range(found):
            here = places[k]
            gap = here - previous - 1
            previous = here
            while gap > _LONGEST:
                data[size] = 255
                size += 1
                gap -= _LONGEST
            data[size] = _ZERO if gap == 1 else np.uint8(241 + gap)
            size += np.int64(gap > 0)  # no branch: whether a run precedes a byte is anybody's guess
            if here < total:
                data[size] = symbols[here]
                size += 1
    return size


@jit
def zero_run_expanded_size(data: NDArray[np.uint8]) -> int:
    """Count the symbols that `data` expands to."""
    size = 0
    for i in range(data.shape[0]):
        size += max(np.int64(data[i]) - 241, 1)
    return size


@jit
def zero_run_decode(data: NDArray[np.uint8], symbols: NDArray[np.uint8]) -> None:
    """Expand `data` into `symbols`, whose size is exactly zero_run_expanded_size(data)."""
    at = 0
    for i in range(data.shape[0]):
        byte = data[i]
        run = max(np.int64(byte) - 241, 1)
        if at + _SPREAD <= symbols.shape[0]:
            spread = symbols[at : at + _SPREAD]
            for k in range(_SPREAD):  # more than the run: the next tokens write over the rest
                spread[k] = _ZERO
        else:
            for k in range(run):
                symbols[at + k] = _ZERO
        symbols[at] = byte if byte < 243 else _ZERO
        at += run
