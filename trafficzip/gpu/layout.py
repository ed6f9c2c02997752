"""Where everything lies in the messages of one bucket: frames, scales, codes, and the tiles that GPU programs walk.

Frames are laid out at the size that they have before a codec of unknown output size (zero runs, rANS) is applied, so
all places are known beforehand and the tables are made once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trafficzip.codecs import Codec, Quartic, Rans, ZeroRun
from trafficzip.compressor import Compressor
from trafficzip.errors import ConfigError
from trafficzip.kernels import Groups
from trafficzip.quantizers import CastBfloat16, CastFloat32, Int8, Int8Blockwise, Ternary
from trafficzip.wire.frame import HEADER_BYTES, Frame

_CODE_BYTES = {Ternary: 0, CastFloat32: 4, CastBfloat16: 2, Int8: 1, Int8Blockwise: 1}  # per element; 0 for quartic
_CHECKS = {Ternary: 1, Int8: 2, Int8Blockwise: 2}  # of codes, for kernels.triton_gpu_crc: bytes to 242; all but 128
KIND_TERNARY = Ternary.quantizer_id


@dataclass(frozen=True, slots=True, eq=False)
class FramePlan:
    """One frame of a message, at its fixed size.

    start, size: bytes in the buffer of all messages.
    payload_start: byte in the buffer; scales of blocks are part of the payload.
    scale_start, first_scale, num_scales: byte of its scales, and which of all scales of the layout they are.
    codec: what is applied to the quartic bytes afterwards, if anything.
    """

    compressor: Compressor
    groups: Groups = field(repr=False)
    start: int
    size: int
    payload_start: int
    scale_start: int
    first_scale: int
    num_scales: int
    codec: Codec | None

    @property
    def kind(self) -> int:
        """The id of its quantizer."""
        return self.compressor.quantizer.quantizer_id

    @property
    def block(self) -> int:
        """Elements that share a scale, 1 where all of a group do."""
        quantizer = self.compressor.quantizer
        return quantizer.block if isinstance(quantizer, Int8Blockwise) else 1

    @property
    def code_start(self) -> int:
        """Byte in the buffer at which its codes begin, behind all scales."""
        return self.scale_start + 4 * self.num_scales if self.num_scales else self.payload_start

    def tiles(self, length: int) -> NDArray[np.int64]:
        """Give the tiles of all groups, int64 [tiles, 6], as `kernels.triton_gpu_codes` reads them."""
        rows = self.groups.tiles(length)
        width = _CODE_BYTES[type(self.compressor.quantizer)]
        places = rows[:, 3] if width == 0 else rows[:, 4] * width
        sizes = np.array(self.groups.sizes, np.int64).reshape(-1)
        blocks = -(-sizes // self.block) if self.block > 1 else np.ones_like(sizes)
        scales = self.first_scale + (np.cumsum(blocks) - blocks)[rows[:, 6]]
        return np.stack([*rows[:, :3].T, self.code_start + places, rows[:, 5], scales], axis=1)

    def scale_table(self) -> NDArray[np.int64]:
        """Give kind, byte in the buffer or -1, and bits of the multiplier of each scale, int64 [num_scales, 3].

        Casts have peaks in their place, which are not sent.
        """
        quantizer = self.compressor.quantizer
        multiplier = np.float32(quantizer.multiplier) if isinstance(quantizer, Ternary) else np.float32(0)
        count = self.num_scales or len(self.groups.sizes)
        table = np.empty((count, 3), np.int64)
        table[:, 0] = self.kind
        table[:, 1] = self.scale_start + 4 * np.arange(count) if self.num_scales else -1
        table[:, 2] = multiplier.view(np.int32)
        return table

    def headers(self, *, with_last: bool = False) -> NDArray[np.uint8]:
        """Give the bytes of its header without the checksum, and of that for inputs not finite: uint8 [2, 24].

        with_last: for the frame with its last codec applied; its payload size is left at 0.
        """
        codecs = self.compressor.codecs if with_last else self.compressor.codecs[:1]
        size = 0 if with_last else self.start + self.size - self.payload_start
        has_scales = self.compressor.quantizer.has_scales
        rows = []
        for nonfinite in (False, True):
            frame = Frame(
                quantizer_id=self.kind,
                codec_ids=tuple(codec.codec_id for codec in codecs),
                num_elements=self.groups.num_elements,
                num_groups=len(self.groups.sizes),
                scales=np.zeros(0 if nonfinite or not has_scales else self.num_scales, np.float32),
                payload=np.broadcast_to(np.uint8(0), (0 if nonfinite else size,)),
                nonfinite=nonfinite,
            )
            head = frame.pack() if nonfinite else np.frombuffer(frame.head() + bytes(4), np.uint8)
            rows.append(head)
        return np.stack(rows)


@dataclass(frozen=True, slots=True, eq=False)
class MessageLayout:
    """The messages of one bucket, back to back in one buffer; every message is the frames of one receiver.

    num_scales: scales of all frames, peaks of casts included.
    value_end, residual_end: elements that values and residuals have at least.
    """

    frames: tuple[FramePlan, ...]
    message_frames: tuple[int, ...]  # how many frames each message has
    message_sizes: tuple[int, ...]
    num_scales: int
    value_end: int
    residual_end: int

    def __init__(self, messages: Sequence[Sequence[tuple[Compressor, Groups]]]) -> None:
        frames: list[FramePlan] = []
        sizes = []
        at = first_scale = 0
        for message in messages:
            begin = at
            for compressor, groups in message:
                frames.append(_plan(compressor, groups, at, first_scale))
                at += frames[-1].size
                first_scale += len(frames[-1].scale_table())
            sizes.append(at - begin)
        object.__setattr__(self, "frames", tuple(frames))
        object.__setattr__(self, "message_frames", tuple(len(message) for message in messages))
        object.__setattr__(self, "message_sizes", tuple(sizes))
        object.__setattr__(self, "num_scales", first_scale)
        for name in ("value", "residual"):
            starts = [start for frame in frames for start in getattr(frame.groups, f"{name}_starts")]
            ends = np.array(starts, np.int64) + np.array([size for f in frames for size in f.groups.sizes], np.int64)
            object.__setattr__(self, f"{name}_end", int(ends.max(initial=0)))

    @property
    def num_bytes(self) -> int:
        """Bytes of all messages."""
        return sum(self.message_sizes)


def _plan(compressor: Compressor, groups: Groups, start: int, first_scale: int) -> FramePlan:
    quantizer, codecs = compressor.quantizer, compressor.codecs
    if type(quantizer) not in _CODE_BYTES:
        raise ConfigError(
            f"{type(quantizer).__name__} has no GPU kernels; those that have: {[t.__name__ for t in _CODE_BYTES]}"
        )
    codec = codecs[1] if len(codecs) == 2 else None
    quartic = bool(codecs) and isinstance(codecs[0], Quartic)
    if quartic != isinstance(quantizer, Ternary) or not isinstance(codec, (Rans, ZeroRun, type(None))):
        raise ConfigError(
            f"a GPU packs {type(quantizer).__name__} codes with "
            f"{'quartic, then nothing, zero runs or rANS' if isinstance(quantizer, Ternary) else 'no codec'}, "
            f"got {[type(c).__name__ for c in codecs]}"
        )
    blocks = isinstance(quantizer, Int8Blockwise)
    scales = len(groups.sizes) if quantizer.has_scales else 0
    payload_start = start + HEADER_BYTES + 4 * scales
    payload = groups.num_symbols if quartic else quantizer.num_codes(groups)
    if isinstance(quantizer, Int8Blockwise):
        scales = (payload - groups.num_elements) // 4
    return FramePlan(
        compressor=compressor,
        groups=groups,
        start=start,
        size=payload_start + payload - start,
        payload_start=payload_start,
        scale_start=payload_start if blocks else start + HEADER_BYTES,
        first_scale=first_scale,
        num_scales=scales,
        codec=codec,
    )


def frame_table(frames: Sequence[FramePlan], starts: Sequence[int] | None = None) -> NDArray[np.int64]:
    """Give int64 [frames, 5] as `kernels.triton_gpu_messages` reads it, for frames at their places or at others."""
    rows = []
    for frame, start in zip(frames, starts or [frame.start for frame in frames], strict=True):
        scale_start = start + frame.scale_start - frame.start
        rows.append((start, scale_start, frame.first_scale, frame.num_scales, frame.kind))
    return np.array(rows, np.int64).reshape(-1, 5)


def crc_row(frame: FramePlan, start: int, size: int, *, plain: bool) -> tuple[int, int, int, int]:
    """Give a row for `kernels.triton_gpu_crc.crc_tiles`: start, size, start of the codes, and what they must be.

    plain: the last codec was not applied, so that codes lie there as they are.
    """
    check = _CHECKS.get(type(frame.compressor.quantizer), 0) if plain else 0
    return start, size, start + min(frame.code_start - frame.start, size), check
