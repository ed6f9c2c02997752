"""Tensors as their difference from those of an earlier checkpoint (FORMAT.md section 12)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, ClassVar, Protocol

import numpy as np

from trafficzip.checkpoint.byte_planes import pack_planes, unpack_planes
from trafficzip.checkpoint.coders.base import Coder, Decode, Describe, Encoding, Job
from trafficzip.checkpoint.pieces import Piece, Segment
from trafficzip.checkpoint.tensors import DTYPES, Array, TensorInfo
from trafficzip.errors import ConfigError, CorruptPayloadError
from trafficzip.wire.checksum import crc32
from trafficzip.wire.cursor import Bytes, Reader, pack_u8s, pack_u32s

OWN, SAME, DIFFERENT = range(3)  # forms of a record: as without a base, as in the base, the difference from it


class Base(Protocol):
    """The earlier tensors."""

    @property
    def infos(self) -> tuple[TensorInfo, ...]:
        """All of them."""

    def read(self, name: str) -> Array:
        """Give one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta(Coder):
    """Store what another coder would give back, as a difference from a base where that is smaller.

    Decoding gives the same bits as without a base. inner: the other coder.  base: the earlier tensors; one that has not
    the same name, dtype and number of elements counts as zeros.
    """

    kind: ClassVar[str] = "delta"
    inner: Coder
    base: Base | None = field(default=None, compare=False, repr=False)

    @property
    def has_shared(self) -> bool:  # type: ignore[override]
        """Whether the other coder has a record in front of all pieces."""
        return self.inner.has_shared

    @property
    def lossless(self) -> bool:  # type: ignore[override]
        """Whether the other coder keeps all bits."""
        return self.inner.lossless

    def to_dict(self) -> dict[str, Any]:
        """Give the kind, and the other coder."""
        return {"kind": self.kind, "inner": self.inner.to_dict()}

    def check(self, info: TensorInfo) -> None:
        """Check that the other coder can store the tensor."""
        self.inner.check(info)

    def plan(self, job: Job) -> Encoding:
        """Plan as the other coder does, and compare what it gives back with the base."""
        base = _Tensors(self.base, job.infos)
        inner = self.inner.plan(job)
        shared = None if inner.shared is None else np.frombuffer(inner.shared, np.uint8)
        decode = self.inner.decoder(job.infos, inner.params, shared)

        def encode(piece: Piece, arrays: Sequence[Array]) -> bytes:
            own = inner.encode(piece, arrays)
            if not base.has(piece):
                return pack_u8s(OWN) + own
            outs = [np.empty_like(array) for array in arrays]
            decode(piece, np.frombuffer(own, np.uint8), outs, lambda: "a difference")
            before = base.slices(piece)
            checksum = pack_u32s(_checksum(outs))
            if all(np.array_equal(_bits(a), _bits(b)) for a, b in zip(outs, before, strict=True)):
                return pack_u8s(SAME) + checksum
            gaps = [_gap(a, b) for a, b in zip(outs, before, strict=True)]
            packed = pack_planes(gaps, gaps[0].dtype.name)
            return pack_u8s(OWN) + own if len(own) <= len(packed) + 4 else pack_u8s(DIFFERENT) + checksum + packed

        return Encoding(inner.params, inner.shared, encode)

    def decoder(self, infos: Sequence[TensorInfo], params: Sequence[Any], shared: Bytes | None) -> Decode:
        """Give what decodes pieces; it raises ConfigError where one needs a base that was not given."""
        base = _Tensors(self.base, infos)
        decode = self.inner.decoder(infos, params, shared)

        def undo(piece: Piece, record: Bytes, outs: Sequence[Array], describe: Describe) -> None:
            reader = Reader(record, what=lambda: f"record of {describe()}")
            (form,) = reader.fields("<B", "form")
            if form == OWN:
                decode(piece, record[1:], outs, describe)
                return
            if form not in (SAME, DIFFERENT):
                raise CorruptPayloadError(f"record of {describe()}: form {form}, expected 0, 1 or 2")
            (checksum,) = reader.fields("<I", "checksum")
            before = base.slices(piece)
            if form == SAME:
                if record.size != reader.at:
                    raise CorruptPayloadError(f"record of {describe()}: {record.size} bytes, expected {reader.at}")
                for out, old in zip(outs, before, strict=True):
                    out[...] = old
            else:
                gaps = [np.empty_like(_bits(old)) for old in before]
                unpack_planes(record[reader.at :], gaps, gaps[0].dtype.name, describe)
                for out, gap, old in zip(outs, gaps, before, strict=True):
                    out[...] = _undo_gap(gap, old)
            if _checksum(outs) != checksum:
                raise CorruptPayloadError(f"record of {describe()}: the base is not the one that it was made from")

        return undo


class _Tensors:
    """Tensors of a base, laid out as a coder has them; the last one read is kept, as it has more pieces."""

    def __init__(self, base: Base | None, infos: Sequence[TensorInfo]) -> None:
        self._base, self._infos = base, infos
        self._known = {info.name: info for info in base.infos} if base is not None else {}
        self._last: dict[str, Array] = {}
        self._lock = Lock()

    def has(self, piece: Piece) -> bool:
        """Tell whether the base has a tensor of a piece."""
        return any(self._fits(self._infos[segment.tensor]) for segment in piece)

    def _fits(self, info: TensorInfo) -> bool:
        known = self._known.get(info.name)
        return known is not None and known.dtype == info.dtype and known.num_elements == info.num_elements

    def slices(self, piece: Piece) -> list[Array]:
        """Give the flat slices of a piece.

        Raises:
            ConfigError: there is no base.
        """
        return [self._slice(segment) for segment in piece]

    def _slice(self, segment: Segment) -> Array:
        info = self._infos[segment.tensor]
        with self._lock:
            if info.name not in self._last:
                self._last = {info.name: self._flat(info)}
            return self._last[info.name][segment.start : segment.stop]

    def _flat(self, info: TensorInfo) -> Array:
        if self._base is None:
            raise ConfigError(f"{info}: stored as a difference from an earlier checkpoint; give that as base")
        if not self._fits(info):
            return np.zeros(info.num_elements, DTYPES[info.dtype])
        array = self._base.read(info.name)
        if info.alone and array.shape != info.shape:  # stored by columns
            array = array.reshape(info.shape[1], info.shape[0]).T
        return np.ascontiguousarray(array).reshape(-1)


def _bits(array: Array) -> Array:
    """See numbers as unsigned integers of their size; complex ones as two."""
    size = array.dtype.itemsize // (2 if array.dtype.kind == "c" else 1)
    return np.ascontiguousarray(array).view(f"u{size}")


def _ordered(array: Array) -> Array:
    """Map numbers to unsigned integers in the order of the numbers: neighbours differ by one."""
    bits = _bits(array)
    if array.dtype.kind in "iub":
        return bits
    top = bits.dtype.type(1 << (8 * bits.dtype.itemsize - 1))
    return np.where(bits & top, ~bits, bits | top)


def _gap(new: Array, old: Array) -> Array:
    """Give new less old in that order, modulo the size: 0, -1, 1, -2, ... as 0, 1, 2, 3, ..."""
    difference: Array = _ordered(new) - _ordered(old)
    top = difference.dtype.itemsize * 8 - 1
    one = difference.dtype.type(1)
    gap: Array = (difference << one) ^ (difference >> difference.dtype.type(top)) * _all(difference)
    return gap


def _undo_gap(gap: Array, old: Array) -> Array:
    one = gap.dtype.type(1)
    difference: Array = (gap >> one) ^ (gap & one) * _all(gap)
    ordered: Array = _ordered(old) + difference
    if old.dtype.kind not in "iub":
        top = ordered.dtype.type(1 << (8 * ordered.dtype.itemsize - 1))
        ordered = np.where(ordered & top, ordered ^ top, ~ordered)
    return ordered.view(old.dtype)


def _all(array: Array) -> Any:
    """Give the number whose bits are all set."""
    return array.dtype.type(~array.dtype.type(0))


def _checksum(arrays: Sequence[Array]) -> int:
    checksum = 0
    for array in arrays:
        checksum = crc32(np.ascontiguousarray(array).view(np.uint8).data, checksum)
    return checksum
