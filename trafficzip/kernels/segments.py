"""Segments: stretches of one byte buffer that GPU kernels code in one launch, and the tiles their programs walk."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trafficzip.errors import ConfigError


def cut_up(sizes: NDArray[np.int64], length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut stretches of these sizes into tiles of `length`, the last one of each shorter.

    Returns: int64 [tiles] each: which stretch a tile is of, and its number within that.
    """
    counts = -(-sizes // length)
    owner = np.repeat(np.arange(len(sizes)), counts)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)


@dataclass(frozen=True, slots=True)
class Segments:
    """Stretches of a buffer, each coded for itself.

    starts: byte at which each begins, >= 0.
    sizes: bytes of each, >= 0.

    Raises:
        ConfigError: lists of different lengths, or a negative number.
    """

    starts: tuple[int, ...]
    sizes: tuple[int, ...]

    def __init__(self, starts: Sequence[int], sizes: Sequence[int]) -> None:
        if len(starts) != len(sizes):
            raise ConfigError(f"segments: {len(starts)} starts, {len(sizes)} sizes")
        if min((*starts, *sizes), default=0) < 0:
            raise ConfigError("segments: a start or a size is negative")
        object.__setattr__(self, "starts", tuple(starts))
        object.__setattr__(self, "sizes", tuple(sizes))

    def tiles(self, length: int) -> NDArray[np.int64]:
        """Cut every segment into tiles of `length` bytes, the last one shorter; an empty segment has none.

        Returns: int64 [tiles, 4]: byte position in the buffer, size, segment, number of the tile within its segment.
        """
        sizes = np.array(self.sizes, np.int64)
        segment, number = cut_up(sizes, length)
        start = np.array(self.starts, np.int64)[segment] + number * length
        size = np.minimum(sizes[segment] - number * length, length)
        return np.stack([start, size, segment, number], axis=1).astype(np.int64)
