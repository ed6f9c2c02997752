"""One function per rANS op, as in the package's `__init__`: counting, models, and the coding of chunks."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficzip.kernels.reference_rans import max_tail_blocks, num_lanes
from trafficzip.kernels.threads import run_in_threads

U8 = NDArray[np.uint8]


@lru_cache(maxsize=1)
def _rans() -> Any:
    from trafficzip.kernels import numba_cpu_rans

    return numba_cpu_rans


@lru_cache(maxsize=1)
def _rans_model() -> Any:
    from trafficzip.kernels import numba_cpu_rans_model

    return numba_cpu_rans_model


def count(chunks: Sequence[U8], *, num_threads: int = 1) -> NDArray[np.int64]:
    """Count each byte value over all chunks: int64 [256]."""
    counts: NDArray[np.int64] = np.zeros(256, np.int64)
    for part in run_in_threads(_rans().count_symbols, [(chunk,) for chunk in chunks], num_threads):
        counts += part
    return counts


def fit(counts: NDArray[np.int64]) -> tuple[U8, NDArray[np.int64], int]:
    """Choose a model for symbols with these counts: its bytes, frequencies int64 [243], and precision_bits."""
    data, frequencies, precision_bits = _rans_model().fit(counts)
    return data, frequencies, int(precision_bits)


def read_model(data: U8, frequencies: NDArray[np.int64]) -> tuple[int, int]:
    """Read the model at the start of `data` into `frequencies`; its size (-1 if there is none) and precision_bits."""
    size, precision_bits = _rans_model().read_model(data, frequencies)
    return int(size), int(precision_bits)


def encode(
    chunks: Sequence[U8], model: tuple[NDArray[np.int64], int], *, chunk_symbols: int, num_threads: int = 1
) -> list[U8]:
    """Encode chunks that share a model, of at most `chunk_symbols` each, into bytes of their own.

    model: frequencies and precision_bits.
    """
    table = _rans().encoder_tables(*model)
    jobs = [(c, table, model[1], num_lanes(c.size), max_tail_blocks(c.size, chunk_symbols)) for c in chunks]
    return run_in_threads(_rans().encode_chunk, jobs, num_threads)


def decode(
    parts: Sequence[U8],
    chunks: Sequence[U8],
    frequencies: NDArray[np.int64],
    precision_bits: int,
    *,
    num_threads: int = 1,
) -> list[bool]:
    """Decode each part into its chunk; False for a part that is no encoding of its chunk's number of symbols."""
    slots, spans = _rans().decoder_tables(frequencies, precision_bits)
    jobs = [
        (part, slots, spans, precision_bits, num_lanes(chunk.size), chunk)
        for part, chunk in zip(parts, chunks, strict=True)
    ]
    return run_in_threads(_rans().decode_chunk, jobs, num_threads)
