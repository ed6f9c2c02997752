"""Lossless storage of any dtype, by byte planes of which each has its own code (FORMAT.md section 9)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from trafficzip.checkpoint.byte_planes import pack_planes, unpack_planes
from trafficzip.checkpoint.coders.base import Coder, Decode, Describe, Encoding, Job
from trafficzip.checkpoint.pieces import Piece
from trafficzip.checkpoint.tensors import Array, TensorInfo
from trafficzip.errors import CorruptPayloadError
from trafficzip.wire.cursor import Bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Planes(Coder):
    """Store every bit, NaN payloads included."""

    kind: ClassVar[str] = "planes"
    lossless: ClassVar[bool] = True

    def check(self, info: TensorInfo) -> None:
        """Accept all tensors."""

    def plan(self, job: Job) -> Encoding:
        """Pieces share nothing."""

        def encode(piece: Piece, arrays: Sequence[Array]) -> bytes:
            return pack_planes(arrays, job.infos[piece[0].tensor].dtype)

        return Encoding((None,) * len(job.infos), None, encode)

    def decoder(self, infos: Sequence[TensorInfo], params: Sequence[Any], shared: Bytes | None) -> Decode:
        """Give what decodes pieces; it needs no more than dtypes."""
        return planes_decoder(infos, params, shared)


def planes_decoder(infos: Sequence[TensorInfo], params: Sequence[Any], shared: Bytes | None) -> Decode:
    """Give what decodes pieces of planes; no parameters and no shared record may be with them.

    Raises:
        CorruptPayloadError: there are some.
    """
    for info, param in zip(infos, params, strict=True):
        if param is not None:
            raise CorruptPayloadError(f"header: {info}: parameters {param!r:.100}, expected null")
    assert shared is None

    def decode(piece: Piece, record: Bytes, outs: Sequence[Array], describe: Describe) -> None:
        unpack_planes(record, outs, infos[piece[0].tensor].dtype, describe)

    return decode
