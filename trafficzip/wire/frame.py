"""Frames: header, scales and payload of one compressed tensor, to bytes and back (FORMAT.md, section 2)."""

import zlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trafficzip.errors import CorruptPayloadError, UnsupportedFormatError
from trafficzip.wire.cursor import Bytes, Reader, pack_float32s, pack_u8s, pack_u32s

MAGIC = (0x54, 0x5A)  # "TZ"
VERSION = 1
HEADER_BYTES = 24
MAX_CODECS = 2

FLAG_NONFINITE = 0x01  # some input was not finite: no scales, no payload
FLAG_STORED = (0x02, 0x04)  # codec k of the chain could not make its input smaller and was left out
_KNOWN_FLAGS = 0x07


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One compressed tensor.

    quantizer_id: which quantizer made the codes.
    codec_ids: the codec chain, first applied first; at most 2.
    num_elements: values before compression, padding not counted.
    num_groups: groups of the tensor; as many scales follow, or none where the quantizer has no scales.
    scales: float32 [groups] or [0].
    payload: uint8 [m].
    nonfinite: an input was not finite; scales and payload are then empty.
    stored: per codec, whether it was left out.
    """

    quantizer_id: int
    codec_ids: tuple[int, ...]
    num_elements: int
    num_groups: int
    scales: NDArray[np.float32] = field(repr=False)
    payload: Bytes = field(repr=False)
    nonfinite: bool = False
    stored: tuple[bool, ...] = ()

    def head(self) -> bytes:
        """Give the header's first 20 bytes, all but the checksum."""
        flags = FLAG_NONFINITE * self.nonfinite
        for flag, stored in zip(FLAG_STORED, self.stored, strict=False):
            flags |= flag * stored
        ids = (*self.codec_ids, 0, 0)[:MAX_CODECS]
        head = pack_u8s(*MAGIC, VERSION, flags, self.quantizer_id, *ids, int(self.scales.size > 0))
        return head + pack_u32s(self.num_elements, self.num_groups, self.payload.size)

    def pack(self) -> Bytes:
        """Give the frame's bytes, uint8 [24 + 4 * scales + payload]."""
        head = self.head()
        scales = pack_float32s(self.scales)
        check = zlib.crc32(self.payload.data, zlib.crc32(scales, zlib.crc32(head)))
        front = np.frombuffer(head + pack_u32s(check) + scales, np.uint8)
        return np.concatenate([front, self.payload])


def unpack_frame(data: Bytes, *, start: int = 0, max_elements: int = 2**32 - 1) -> tuple[Frame, int]:
    """Read the frame that begins at byte `start` of `data`; give it and where it ends.

    Raises:
        CorruptPayloadError: truncated, damaged, or larger than `max_elements`.
        UnsupportedFormatError: a version or flag that this release does not know.
    """
    reader = Reader(data, start=start)
    fields = reader.fields("<2s6B4I", "header")
    magic, version, flags, quantizer_id, *ids, has_scales, num_elements, num_groups, payload_bytes, expected = fields
    if magic != bytes(MAGIC):
        raise CorruptPayloadError(f"frame at byte {start}: begins with {magic!r}, expected {bytes(MAGIC)!r}")
    if version != VERSION:
        raise UnsupportedFormatError(f"frame at byte {start}: version {version}, this release reads {VERSION}")
    if flags & ~_KNOWN_FLAGS:
        raise UnsupportedFormatError(f"frame at byte {start}: flags {flags:#04x} set reserved bits")
    codec_ids = tuple(codec_id for codec_id in ids if codec_id)
    if has_scales > 1 or (ids[1] and not ids[0]):
        raise CorruptPayloadError(f"frame at byte {start}: codec ids {tuple(ids)}, scale form {has_scales} do not fit")
    if num_elements > max_elements or num_groups > num_elements:
        raise CorruptPayloadError(
            f"frame at byte {start}: {num_elements} elements in {num_groups} groups, expected at most {max_elements}"
        )
    num_scales = num_groups * has_scales
    body = reader.take(4 * num_scales + payload_bytes, "scales and payload")
    head = data[start : start + HEADER_BYTES - 4]
    found = zlib.crc32(body.data, zlib.crc32(head.data))
    if found != expected:
        raise CorruptPayloadError(f"frame at byte {start}: checksum {found:#010x}, header says {expected:#010x}")
    scales = Reader(body).float32s(num_scales, "scales")
    if not np.isfinite(scales).all() or (scales < 0).any():
        raise CorruptPayloadError(f"frame at byte {start}: a scale is negative or not finite")
    nonfinite = bool(flags & FLAG_NONFINITE)
    if nonfinite and body.size:
        raise CorruptPayloadError(f"frame at byte {start}: {body.size} bytes follow the non-finite flag, expected 0")
    frame = Frame(
        quantizer_id=quantizer_id,
        codec_ids=codec_ids,
        num_elements=num_elements,
        num_groups=num_groups,
        scales=scales,
        payload=body[4 * num_scales :],
        nonfinite=nonfinite,
        stored=tuple(bool(flags & flag) for flag in FLAG_STORED[: len(codec_ids)]),
    )
    return frame, reader.at
