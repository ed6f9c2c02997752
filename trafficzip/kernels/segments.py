"""Segments: stretches of one byte buffer that GPU kernels code in one launch, and the tiles their programs walk."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trafficzip.errors import ConfigError


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

    def num_tiles(self, length: int) -> NDArray[np.int64]:
        """Count the tiles of `length` bytes of each segment: int64 [segments]; an empty segment has none."""
        return -(-np.array(self.sizes, np.int64).reshape(-1) // length)

    def tiles(self, length: int) -> NDArray[np.int64]:
        """Cut every segment into tiles of `length` bytes, the last one shorter.

        Returns: int64 [tiles, 4]: byte position in the buffer, size, segment, number of the tile within its segment.
        """
        counts = self.num_tiles(length)
        segment = np.repeat(np.arange(len(counts)), counts)
        number = np.arange(len(segment)) - np.repeat(np.cumsum(counts) - counts, counts)
        start = np.array(self.starts, np.int64)[segment]
        size = np.minimum(np.array(self.sizes, np.int64)[segment] - number * length, length)
        return np.stack([start + number * length, size, segment, number], axis=1).astype(np.int64)
