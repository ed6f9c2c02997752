"""Messages whose size is known only when they are made: zero runs or rANS over the quartic bytes of large tensors.

The host must learn the sizes, so both directions wait for the device once or twice; fixed-size messages never do.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import numpy as np
import torch

from trafficzip.codecs import Rans
from trafficzip.errors import ConfigError, CorruptPayloadError
from trafficzip.gpu.codec import CRC_TILE, GpuCodec
from trafficzip.gpu.layout import FramePlan, crc_row, frame_table
from trafficzip.gpu.received import RUNS, Coded, Received
from trafficzip.kernels import triton_gpu_crc as crc_kernels
from trafficzip.kernels import triton_gpu_messages as message_kernels
from trafficzip.kernels.segments import Segments
from trafficzip.kernels.triton_gpu import on_device, on_its_device
from trafficzip.kernels.triton_gpu_rans import rans_encode
from trafficzip.kernels.triton_gpu_rans_decode import rans_decode
from trafficzip.kernels.triton_gpu_zero_run import TILE, zero_run_decode, zero_run_encode
from trafficzip.wire.frame import FLAG_STORED, HEADER_BYTES


@dataclass(slots=True)
class _Place:
    """Where a frame lies in what was received.

    payload_bytes: -1 where it is its header alone.  stored: its last codec was left out.
    """

    frame: FramePlan
    start: int
    payload_bytes: int
    stored: bool = False

    @property
    def payload_start(self) -> int:
        return self.start + self.frame.payload_start - self.frame.start

    @property
    def size(self) -> int:
        return HEADER_BYTES if self.alone else self.payload_start - self.start + self.payload_bytes

    @property
    def plain_bytes(self) -> int:
        """Bytes of its payload before the last codec."""
        return self.frame.start + self.frame.size - self.frame.payload_start

    @property
    def alone(self) -> bool:
        return self.payload_bytes < 0

    @property
    def coded(self) -> bool:
        """Whether the last codec must be undone."""
        return self.frame.codec is not None and not self.stored and not self.alone


class VariableCodec:
    """Applies the last codec of a `GpuCodec`'s frames, and undoes it.

    Raises:
        ConfigError: frames have different last codecs, or a message has several frames that have one.
    """

    def __init__(self, codec: GpuCodec) -> None:
        self.codec, self.device = codec, codec.device
        frames = codec.layout.frames
        last = {frame.codec for frame in frames if frame.codec}
        ends = list(accumulate(codec.layout.message_frames, initial=0))
        self._messages = [frames[start:end] for start, end in pairwise(ends)]
        if len(last) > 1 or any(sum(frame.codec is not None for frame in message) > 1 for message in self._messages):
            raise ConfigError("a GPU applies one last codec, to at most one frame of a message")
        self._last = last.pop() if last else None
        self._headers = np.array([frame.headers(with_last=True) for frame in frames], np.uint8).reshape(-1, 2, 24)
        self._varying = [frame for frame in frames if frame.codec]
        sizes = [frame.start + frame.size - frame.code_start for frame in self._varying]
        self._symbols = Segments([frame.code_start for frame in self._varying], sizes)
        self._tiles = on_device(self._symbols.tiles(TILE), codec.device)

    @on_its_device
    def pack(self, coded: Coded) -> tuple[torch.Tensor, list[int]]:
        """Give all messages, back to back, uint8 [sum of sizes], and the size of each in bytes.

        Waits for the device: for sizes, and with rANS for counts.
        """
        data, layout = coded.data, self.codec.layout
        payload, starts, sizes = data, list(self._symbols.starts), list(self._symbols.sizes)
        stored = [False] * len(sizes)
        if isinstance(self._last, Rans):
            payload, found = rans_encode(data, self._symbols, chunk_symbols=self._last.chunk_symbols)
            flagged = bool(coded.flag.item())
            stored = [new > old for new, old in zip(found, sizes, strict=True)]
            starts, sizes = list(accumulate(found, initial=0))[:-1], found
        else:
            shrunk = torch.empty_like(data)
            counted = zero_run_encode(data, self._tiles, len(sizes), shrunk)
            flagged, *sizes = torch.cat([coded.flag.to(torch.int64), counted]).tolist()
            payload = shrunk
        if flagged:
            alone = self._headers[:, 1].reshape(-1)
            return on_device(alone, self.device, wait=False), [HEADER_BYTES * count for count in layout.message_frames]
        places = dict(zip(self._varying, zip(starts, sizes, stored, strict=True), strict=True))
        bodies = []
        for frame in layout.frames:
            start, size, is_stored = places.get(frame, (0, 0, True))
            whole = data[frame.payload_start : frame.start + frame.size]
            bodies.append(whole if is_stored else payload[start : start + size])
        left_out = [places.get(frame, (0, 0, False))[2] for frame in layout.frames]
        headers = self._headers_of([body.numel() for body in bodies], left_out)
        return self._finish(coded, bodies, on_device(headers, self.device, wait=False))

    def _headers_of(self, payload_bytes: Sequence[int], stored: Sequence[bool]) -> np.ndarray:
        """Give the headers of copies of all frames, with sizes and what was left out: uint8 [frames, 2, 24]."""
        headers = np.tile(self._headers, (len(payload_bytes) // max(len(self._headers), 1), 1, 1))
        headers[:, 0, 16:20] = np.array(payload_bytes, "<u4").view(np.uint8).reshape(-1, 4)
        headers[:, 0, 3] |= (np.array(stored, bool) * FLAG_STORED[1]).astype(np.uint8)
        return headers

    def _finish(
        self, coded: Coded, bodies: Sequence[torch.Tensor], headers: torch.Tensor
    ) -> tuple[torch.Tensor, list[int]]:
        """Put headers, scales and payloads one after the other, with checksums; give the messages and their sizes."""
        frames, data = self.codec.layout.frames, coded.data
        pieces = []
        for k, (frame, body) in enumerate(zip(frames, bodies, strict=True)):
            pieces += [headers[k, 0], data[frame.start + HEADER_BYTES : frame.payload_start], body]
        message = torch.cat(pieces) if pieces else data
        sizes = [f.payload_start - f.start + body.numel() for f, body in zip(frames, bodies, strict=True)]
        starts = list(accumulate(sizes, initial=0))[:-1]
        rows = [crc_row(f, start, size, plain=False) for f, start, size in zip(frames, starts, sizes, strict=True)]
        tiles = on_device(crc_kernels.crc_tiles(rows, tile=CRC_TILE), self.device, wait=False)
        crc_kernels.frame_crcs(message, tiles, coded.results, tile=CRC_TILE)
        table = on_device(frame_table(frames, starts), self.device, wait=False)
        message_kernels.finish(message, table, headers, coded.results[0, 0], coded.flag)
        ends = accumulate(self.codec.layout.message_frames, initial=0)
        return message, [sum(sizes[a:b]) for a, b in pairwise(ends)]

    @on_its_device
    def unpack(self, data: torch.Tensor, sizes: Sequence[Sequence[int]]) -> Received:
        """Judge ranks' messages, `sizes[rank][message]` bytes each, one after the other, and undo their last codec.

        Raises:
            ConfigError: `data` is not uint8 [any] on this device.
            CorruptPayloadError: a size, or an rANS payload, that no message of this layout has. What else is wrong is
                in the verdict.
        """
        places: list[_Place] = []
        at = 0
        for copy, copy_sizes in enumerate(sizes):
            for message, size in zip(self._messages, copy_sizes, strict=True):
                places += self._split(message, at, size, copy)
                at += size
        if data.dtype != torch.uint8 or data.dim() != 1 or not data.is_contiguous() or data.device != self.device:
            found = f"{data.dtype} {list(data.shape)} on {data.device}"
            raise ConfigError(f"messages: {found}, expected contiguous uint8 [{at}] on {self.device}")
        if at != data.numel():
            raise CorruptPayloadError(f"messages have {data.numel()} bytes, their sizes sum to {at}")
        if isinstance(self._last, Rans):
            self._read_stored(data, places)
        received = self._judge(data, places, copies=len(sizes))
        symbols = self._expand(data, places, received)
        pieces = []
        expanded = 0
        for place in places:
            if place.alone:
                pieces.append(torch.zeros(place.frame.size, dtype=torch.uint8, device=self.device))
            elif place.coded:
                pieces += [data[place.start : place.payload_start], symbols[expanded : expanded + place.plain_bytes]]
                expanded += place.plain_bytes
            else:
                pieces.append(data[place.start : place.start + place.size])
        whole = torch.cat(pieces) if pieces else data
        assert (
            whole.numel() == len(sizes) * self.codec.layout.num_bytes or not pieces
        )  # all have their fixed size by now
        return replace(received, data=whole)

    def _split(self, message: Sequence[FramePlan], at: int, size: int, copy: int) -> list[_Place]:
        """Say where the frames of a message begin and how long their payloads are, from its size alone."""
        plain = sum(frame.size for frame in message)
        if size == HEADER_BYTES * len(message) != plain:
            return [_Place(frame, at + HEADER_BYTES * k, -1) for k, frame in enumerate(message)]
        room = sum(frame.start + frame.size - frame.payload_start for frame in message if frame.codec)
        if not plain - room <= size <= plain:
            raise CorruptPayloadError(
                f"message from sender {copy} has {size} bytes, expected {plain - room} to {plain}, or headers alone"
            )
        places = []
        for frame in message:
            place = _Place(frame, at, 0)
            place.payload_bytes = place.plain_bytes - (plain - size if frame.codec else 0)
            places.append(place)
            at += place.size
        return places

    def _read_stored(self, data: torch.Tensor, places: Sequence[_Place]) -> None:
        """Copy all headers to the host: whether rANS was left out does not follow from the size."""
        heads = torch.stack([data[place.start : place.start + HEADER_BYTES] for place in places]).cpu().numpy()
        for place, head in zip(places, heads, strict=True):
            place.stored = place.frame.codec is not None and bool(head[3] & FLAG_STORED[1])
            if place.stored and not place.alone and place.payload_bytes != place.plain_bytes:
                raise CorruptPayloadError(
                    f"frame at byte {place.start} has {place.payload_bytes} plain bytes, expected {place.plain_bytes}"
                )

    def _judge(self, data: torch.Tensor, places: Sequence[_Place], *, copies: int) -> Received:
        device, layout = self.device, self.codec.layout
        received = self.codec.received(data, copies)
        headers = self._headers_of([max(p.payload_bytes, 0) for p in places], [p.stored for p in places])
        alone = [place.alone for place in places]
        headers[alone, 0] = headers[alone, 1]  # without a payload, no other header is right
        rows = [crc_row(p.frame, p.start, p.size, plain=p.frame.codec is None or p.stored) for p in places]
        tiles = on_device(crc_kernels.crc_tiles(rows, tile=CRC_TILE), device, wait=False)
        results = received.results.view(2, 1, -1)
        crc_kernels.frame_crcs(data, tiles, results, check=True, tile=CRC_TILE)
        table = frame_table([place.frame for place in places], [place.start for place in places])
        table[:, 2] += np.arange(len(places)) // max(len(layout.frames), 1) * layout.num_scales
        table[alone, 3] = 0  # no scales are there to be read
        message_kernels.judge(
            data, on_device(table, device, wait=False), on_device(headers, device, wait=False), results,
            received.scales.view(1, -1), received.status.view(1, -1), received.verdict, stride=0,
        )  # fmt: skip
        return received

    def _expand(self, data: torch.Tensor, places: Sequence[_Place], received: Received) -> torch.Tensor:
        """Undo the last codec of all frames that have it: their quartic bytes, one frame after the other."""
        coded = [(index, place) for index, place in enumerate(places) if place.coded]
        counts = [place.plain_bytes for _, place in coded]
        starts = list(accumulate(counts, initial=0))[:-1]
        symbols = torch.empty(sum(counts), dtype=torch.uint8, device=self.device)
        if not coded:
            return symbols
        segments = Segments([place.payload_start for _, place in coded], [place.payload_bytes for _, place in coded])
        if isinstance(self._last, Rans):
            rans_decode(data, segments, symbols, starts, counts)
            return symbols
        wrong = torch.zeros(len(coded), dtype=torch.int32, device=self.device)
        indexes = [index for index, _ in coded]
        table = on_device(np.array([starts, counts, indexes], np.int64), self.device, wait=False)
        tiles = on_device(segments.tiles(TILE), self.device, wait=False)
        zero_run_decode(data, tiles, symbols, table[0], table[1], wrong)
        flat = received.status.view(-1)
        flat[table[2]] = torch.maximum(flat[table[2]], RUNS * wrong)
        torch.maximum(received.verdict, 2 * wrong.max(), out=received.verdict)
        return symbols
