"""Symmetric integers with one scale per block or row (FORMAT.md section 11)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from trafficzip.checkpoint.coders.base import Coder, Decode, Describe, Encoding, Job
from trafficzip.checkpoint.coders.blocks import (
    Integers,
    check_block_size,
    cut_blocks,
    pack_scales,
    read_scales,
    split_integers,
)
from trafficzip.checkpoint.coders.values import (
    check_finite,
    check_params,
    check_quantizable,
    largest,
    to_float32,
)
from trafficzip.checkpoint.packed_codes import pack_codes, read_codes
from trafficzip.checkpoint.pieces import Piece
from trafficzip.checkpoint.tensors import DTYPES, Array, TensorInfo
from trafficzip.errors import ConfigError, CorruptPayloadError
from trafficzip.wire.cursor import Bytes, Reader

_SCALES = "bfloat16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Blockwise(Coder):
    """Round x / scale to an integer of `bits` bits, scale = max |x| / (2**(bits - 1) - 1) of its block, rounded up.

    bits: 2 to 8.  block_size: elements of the flattened tensor that share a scale, 8 to 2**17, or 0 for one per row.

    Raises:
        ConfigError: a field is out of range.
    """

    kind: ClassVar[str] = "blockwise"
    bits: int = 8
    block_size: int = 64

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ConfigError(f"blockwise: bits is {self.bits}, expected 2 to 8")
        check_block_size(self.kind, self.block_size)

    @property
    def top(self) -> int:
        """The largest integer; the lowest one is its negative."""
        return (1 << (self.bits - 1)) - 1

    def check(self, info: TensorInfo) -> None:
        """Check that the tensor is of floating point numbers, 0 among them."""
        check_quantizable(info)

    def plan(self, job: Job) -> Encoding:
        """Check all values; pieces share nothing."""
        check_finite(job)

        def encode(piece: Piece, arrays: Sequence[Array]) -> bytes:
            blocks = cut_blocks(job.infos, piece, self.block_size)
            values = np.concatenate([to_float32(array) for array in arrays])
            peaks: NDArray[np.float32] = np.maximum.reduceat(np.abs(values), blocks.starts)
            scales = round_up((peaks / self.top).astype(np.float32, copy=False))
            divisors = np.repeat(np.where(scales > 0, scales, np.float32(1)), blocks.sizes)
            integers = np.clip(np.rint(values / divisors), -self.top, self.top)
            codes = (integers + np.float32(self.top)).astype(np.uint8)
            return pack_scales(scales.astype(DTYPES[_SCALES]), _SCALES) + pack_codes(codes, self.bits)

        return Encoding((None,) * len(job.infos), None, encode)

    def decoder(self, infos: Sequence[TensorInfo], params: Sequence[Any], shared: Bytes | None) -> Decode:
        """Give what decodes pieces; it needs no more than shapes and dtypes."""
        check_params(infos, params)
        assert shared is None

        def decode(piece: Piece, record: Bytes, outs: Sequence[Array], describe: Describe) -> None:
            found = self.integers(infos, piece, record, describe)
            for out, (integers, scales, block) in zip(outs, found, strict=True):
                limit = largest(infos[piece[0].tensor].dtype)
                with np.errstate(over="ignore"):
                    values = integers.astype(np.float32) * np.repeat(scales, block)[: integers.size]
                out[...] = np.clip(values, -limit, limit)

        return decode

    def integers(self, infos: Sequence[TensorInfo], piece: Piece, record: Bytes, describe: Describe) -> list[Integers]:
        """Give the integers and scales of each segment of a piece, for computing with them as they are.

        Raises:
            CorruptPayloadError: the record is no encoding of the piece.
        """
        blocks = cut_blocks(infos, piece, self.block_size)
        reader = Reader(record, what=lambda: f"record of {describe()}")
        scales = read_scales(reader, blocks.sizes.size, _SCALES, describe).astype(np.float32)
        codes = read_codes(reader, int(blocks.sizes.sum()), self.bits, describe)
        if int(codes.max()) > 2 * self.top:
            raise CorruptPayloadError(f"{reader.what}: code {int(codes.max())}, expected at most {2 * self.top}")
        codes -= np.uint8(self.top)
        return split_integers(blocks, codes.view(np.int8), scales)


def round_up(scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round numbers >= 0 to the next bfloat16 that is not below; where that is infinite, to the largest one."""
    bits = (scales.view(np.uint32) + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)
    finite: NDArray[np.uint32] = np.minimum(bits, np.uint32(0x7F7F0000))
    return finite.view(np.float32)
