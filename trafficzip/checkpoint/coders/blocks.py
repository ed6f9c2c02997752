"""Elements that share a scale: how pieces are cut into blocks, and how the scales of a record are stored."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trafficzip.checkpoint.byte_planes import pack_planes, unpack_planes
from trafficzip.checkpoint.coders.base import Describe
from trafficzip.checkpoint.pieces import PIECE_ELEMENTS, Piece
from trafficzip.checkpoint.tensors import DTYPES, Array, TensorInfo
from trafficzip.errors import ConfigError, CorruptPayloadError
from trafficzip.wire.cursor import Reader, pack_u32s

MIN_BLOCK, MAX_BLOCK = 8, PIECE_ELEMENTS


class Integers(NamedTuple):
    """The integers and scales of a segment; element i is integers[i] * scales[i // block].

    integers: int8 [n].  scales: float32 [ceil(n / block)], finite, >= 0.  block: elements that share a scale.
    """

    integers: NDArray[np.int8]
    scales: NDArray[np.float32]
    block: int


class Blocks(NamedTuple):
    """The blocks of a piece, those of all segments in order.

    lengths: per segment, the elements of a block; the last one may have less.  counts: per segment, the blocks.
    sizes: int64 [sum of counts], elements of each block.
    """

    lengths: tuple[int, ...]
    counts: tuple[int, ...]
    sizes: NDArray[np.int64]

    @property
    def starts(self) -> NDArray[np.int64]:
        """Where blocks start, counted through the piece: int64 [blocks]."""
        starts: NDArray[np.int64] = np.cumsum(self.sizes) - self.sizes
        return starts


def check_block_size(kind: str, block_size: int) -> None:
    """Check the elements of a block; 0 is a row.

    Raises:
        ConfigError: they are too few or too many.
    """
    if block_size and not MIN_BLOCK <= block_size <= MAX_BLOCK:
        raise ConfigError(f"{kind}: block_size is {block_size}, expected 0 or {MIN_BLOCK} to {MAX_BLOCK}")


def cut_blocks(infos: Sequence[TensorInfo], piece: Piece, block_size: int) -> Blocks:
    """Cut every segment, from its start, into blocks of this many elements; 0 stands for a row.

    A row has the elements along the other axes than the first. A tensor with less than two axes, and rows that are
    longer than a piece, have one block a segment.
    """
    lengths, counts, sizes = [], [], []
    for segment in piece:
        info, n = infos[segment.tensor], segment.stop - segment.start
        length = block_size
        if not length:
            row = info.num_elements // info.num_rows
            length = row if len(info.shape) > 1 and row <= PIECE_ELEMENTS else n
        count = -(-n // length)
        of_segment = np.full(count, length, np.int64)
        of_segment[-1] = n - (count - 1) * length
        lengths.append(length)
        counts.append(count)
        sizes.append(of_segment)
    return Blocks(tuple(lengths), tuple(counts), np.concatenate(sizes))


def pack_scales(scales: Array, dtype: str) -> bytes:
    """Store scales of a dtype: the size of their planes (u32), then these."""
    planes = pack_planes([scales], dtype)
    return pack_u32s(len(planes)) + planes


def read_scales(reader: Reader, count: int, dtype: str, describe: Describe) -> Array:
    """Read `count` scales of a dtype.

    Raises:
        CorruptPayloadError: there are not as many, or one is negative or not finite.
    """
    (size,) = reader.fields("<I", "size of scales")
    planes = reader.take(size, "scales")
    scales: NDArray[Any] = np.empty(count, DTYPES[dtype])
    unpack_planes(planes, [scales], dtype, lambda: f"scales of {describe()}")
    with np.errstate(over="ignore", invalid="ignore"):
        wide = scales.astype(np.float32)
    if np.signbit(wide).any() or not np.isfinite(wide).all():
        raise CorruptPayloadError(f"{reader.what}: a scale is negative, NaN or infinite")
    return scales


def split_integers(blocks: Blocks, codes: NDArray[np.int8], scales: NDArray[np.float32]) -> list[Integers]:
    """Give each segment its integers and scales."""
    found, code_at, scale_at = [], 0, 0
    for length, count in zip(blocks.lengths, blocks.counts, strict=True):
        size = int(blocks.sizes[scale_at : scale_at + count].sum())
        found.append(Integers(codes[code_at : code_at + size], scales[scale_at : scale_at + count], length))
        code_at, scale_at = code_at + size, scale_at + count
    return found
