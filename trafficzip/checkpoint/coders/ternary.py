"""Three values -s, 0, s per block or row (FORMAT.md section 11)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from trafficzip.checkpoint.coders.base import Coder, Decode, Describe, Encoding, Job
from trafficzip.checkpoint.coders.blocks import (
    Blocks,
    Integers,
    check_block_size,
    cut_blocks,
    pack_scales,
    read_scales,
    split_integers,
)
from trafficzip.checkpoint.coders.values import check_finite, check_params, check_quantizable
from trafficzip.checkpoint.pieces import Piece
from trafficzip.checkpoint.tensors import DTYPES, Array, TensorInfo
from trafficzip.codecs import Quartic, Rans
from trafficzip.errors import ConfigError, CorruptPayloadError
from trafficzip.kernels import numba_cpu_blocks as kernels
from trafficzip.wire.cursor import Bytes, Reader

_MAX_THRESHOLD = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Ternary(Coder):
    """Round to -s, 0 or s, where s is the mean of the magnitudes that do not become 0: their least-squares scale.

    block_size: elements of the flattened tensor that share s, 8 to 2**17, or 0 for one per row.
    threshold: magnitudes up to threshold * s become 0; 0 to 0.95. At 0.5 the squared error is least; more is sparser.

    A tensor that has three such values per block comes back exactly, with -0 as 0.

    Raises:
        ConfigError: a field is out of range.
    """

    kind: ClassVar[str] = "ternary"
    block_size: int = 0
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= _MAX_THRESHOLD:
            raise ConfigError(f"ternary: threshold is {self.threshold}, expected 0 to {_MAX_THRESHOLD}")
        check_block_size(self.kind, self.block_size)

    def check(self, info: TensorInfo) -> None:
        """Check that the tensor is of floating point numbers, 0 among them."""
        check_quantizable(info)

    def plan(self, job: Job) -> Encoding:
        """Check all values; pieces share nothing."""
        check_finite(job)

        def encode(piece: Piece, arrays: Sequence[Array]) -> bytes:
            dtype = job.infos[piece[0].tensor].dtype
            blocks = cut_blocks(job.infos, piece, self.block_size)
            values = np.concatenate([array.astype(np.float64) for array in arrays])
            codes = np.empty(values.size, np.int8)
            scales = kernels.ternarize_blocks(values, blocks.sizes, self.threshold, codes)
            symbols = Rans().encode(Quartic().encode(codes))
            return pack_scales(scales.astype(DTYPES[dtype]), dtype) + symbols.tobytes()

        return Encoding((None,) * len(job.infos), None, encode)

    def decoder(self, infos: Sequence[TensorInfo], params: Sequence[Any], shared: Bytes | None) -> Decode:
        """Give what decodes pieces; it needs no more than shapes and dtypes."""
        check_params(infos, params)
        assert shared is None

        def decode(piece: Piece, record: Bytes, outs: Sequence[Array], describe: Describe) -> None:
            blocks, codes, scales = self._read(infos, piece, record, describe)
            number = np.dtype(f"u{scales.dtype.itemsize}")
            values = np.repeat(scales.view(number), blocks.sizes)
            values[codes == 0] = 0
            values[(codes < 0) & (values != 0)] |= number.type(1 << (8 * number.itemsize - 1))
            at = 0
            for out in outs:
                out[...] = values[at : at + out.size].view(scales.dtype)
                at += out.size

        return decode

    def integers(self, infos: Sequence[TensorInfo], piece: Piece, record: Bytes, describe: Describe) -> list[Integers]:
        """Give the codes -1, 0, 1 and scales of each segment of a piece, for computing with them as they are.

        Raises:
            CorruptPayloadError: the record is no encoding of the piece.
        """
        blocks, codes, scales = self._read(infos, piece, record, describe)
        return split_integers(blocks, codes, scales.astype(np.float32))

    def _read(
        self, infos: Sequence[TensorInfo], piece: Piece, record: Bytes, describe: Describe
    ) -> tuple[Blocks, Array, Array]:
        """Give blocks, codes int8 [n] and scales in the dtype of the piece."""
        blocks = cut_blocks(infos, piece, self.block_size)
        reader = Reader(record, what=lambda: f"record of {describe()}")
        scales = read_scales(reader, blocks.sizes.size, infos[piece[0].tensor].dtype, describe)
        n = int(blocks.sizes.sum())
        coded = reader.take(reader.data.size - reader.at, "codes")
        try:
            codes = Quartic().decode(Rans().decode(coded, -(-n // 5)), n)
        except CorruptPayloadError as error:
            raise CorruptPayloadError(f"{reader.what}: {error}") from error
        return blocks, codes, scales
