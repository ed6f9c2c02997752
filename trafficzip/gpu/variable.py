"""Messages whose size is known only when they are made: zero runs or rANS over the quartic bytes of large tensors.

The host must learn the sizes, so both directions wait for the device once or twice; fixed-size messages never do.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

import numpy as np
import torch

from trafficzip.codecs import Rans
from trafficzip.errors import ConfigError, CorruptPayloadError
from trafficzip.gpu.codec import CRC_TILE, GpuCodec, crc_row
from trafficzip.gpu.layout import FramePlan, frame_table
from trafficzip.gpu.received import RUNS, Coded, Received
from trafficzip.kernels import triton_gpu_crc as crc_kernels
from trafficzip.kernels import triton_gpu_messages as message_kernels
from trafficzip.kernels.segments import Segments
from trafficzip.kernels.triton_gpu import on_device, on_its_device
from trafficzip.kernels.triton_gpu_rans import rans_encode
from trafficzip.kernels.triton_gpu_rans_decode import rans_decode
from trafficzip.kernels.triton_gpu_zero_run import TILE, zero_run_decode, zero_run_encode
from trafficzip.wire.frame import FLAG_STORED, HEADER_BYTES


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
        self._headers = np.array([frame.headers(payload_bytes=0) for frame in frames], np.uint8).reshape(-1, 2, 24)
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
        """Give the headers of one or more copies of all frames, uint8 [frames, 2, 24], as `FramePlan.headers` does."""
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
        frames, layout = self.codec.layout.frames, self.codec.layout
        plans: list[tuple[FramePlan, int, int]] = []  # frame, start, payload bytes or -1 where not finite
        at = 0
        for copy, copy_sizes in enumerate(sizes):
            for message, size in zip(self._messages, copy_sizes, strict=True):
                plans += self._split(message, at, size, copy)
                at += size
        if data.dtype != torch.uint8 or data.dim() != 1 or not data.is_contiguous() or data.device != self.device:
            found = f"{data.dtype} {list(data.shape)} on {data.device}"
            raise ConfigError(f"messages: {found}, expected contiguous uint8 [{at}] on {self.device}")
        if at != data.numel():
            raise CorruptPayloadError(f"messages have {data.numel()} bytes, their sizes sum to {at}")
        heads = self._heads(data, plans) if isinstance(self._last, Rans) else None
        stored = [bool(head[3] & FLAG_STORED[1]) for head in heads] if heads else [False] * len(plans)
        for (frame, start, payload), is_stored in zip(plans, stored, strict=True):
            plain = frame.start + frame.size - frame.payload_start
            if frame.codec and is_stored and 0 <= payload != plain:
                raise CorruptPayloadError(f"frame at byte {start} has {payload} plain bytes, expected {plain}")
        received = self._judge(data, plans, stored, copies=len(sizes))
        symbols = self._expand(data, plans, stored, received)
        pieces = []
        expanded = 0
        for (frame, start, payload), is_stored in zip(plans, stored, strict=True):
            front = frame.payload_start - frame.start
            if payload < 0:
                pieces.append(torch.zeros(frame.size, dtype=torch.uint8, device=self.device))
                continue
            pieces.append(data[start : start + front])
            if frame.codec and not is_stored:
                count = frame.size - front
                pieces.append(symbols[expanded : expanded + count])
                expanded += count
            else:
                pieces.append(data[start + front : start + front + payload])
        whole = torch.cat(pieces) if pieces else data
        assert whole.numel() == len(sizes) * layout.num_bytes or not frames  # every piece has its fixed size by now
        return replace(received, data=whole)

    def _split(self, message: Sequence[FramePlan], at: int, size: int, copy: int) -> list[tuple[FramePlan, int, int]]:
        """Say where the frames of a message begin and how long their payloads are, from its size alone."""
        plain = sum(frame.size for frame in message)
        if size == HEADER_BYTES * len(message) != plain:
            return [(frame, at + HEADER_BYTES * k, -1) for k, frame in enumerate(message)]
        room = sum(frame.start + frame.size - frame.payload_start for frame in message if frame.codec)
        if not plain - room <= size <= plain:
            raise CorruptPayloadError(
                f"message from sender {copy} has {size} bytes, expected {plain - room} to {plain}, or headers alone"
            )
        plans = []
        for frame in message:
            payload = frame.start + frame.size - frame.payload_start - (plain - size if frame.codec else 0)
            plans.append((frame, at, payload))
            at += frame.payload_start - frame.start + payload
        return plans

    def _heads(self, data: torch.Tensor, plans: Sequence[tuple[FramePlan, int, int]]) -> list[np.ndarray]:
        """Copy all headers to the host: whether rANS was left out does not follow from the size."""
        heads = torch.stack([data[start : start + HEADER_BYTES] for _, start, _ in plans]).cpu().numpy()
        return list(heads)

    def _judge(
        self,
        data: torch.Tensor,
        plans: Sequence[tuple[FramePlan, int, int]],
        stored: Sequence[bool],
        *,
        copies: int,
    ) -> Received:
        device, num_frames = self.device, len(self.codec.layout.frames)
        received = self.codec.received(data, copies)
        starts = [start for _, start, _ in plans]
        rows = []
        for (frame, start, payload), is_stored in zip(plans, stored, strict=True):
            front = frame.payload_start - frame.start
            size = HEADER_BYTES if payload < 0 else front + payload
            rows.append(crc_row(frame, start, size, plain=frame.codec is None or is_stored))
        headers = self._headers_of([max(payload, 0) for _, _, payload in plans], stored)
        alone = [payload < 0 for _, _, payload in plans]
        headers[alone, 0] = headers[alone, 1]  # without a payload, no other header is right
        tiles = on_device(crc_kernels.crc_tiles(rows, tile=CRC_TILE), device, wait=False)
        results = received.results.view(2, 1, -1)
        crc_kernels.frame_crcs(data, tiles, results, check=True, tile=CRC_TILE)
        table = frame_table([frame for frame, _, _ in plans], starts)
        table[:, 2] += np.arange(len(plans)) // max(num_frames, 1) * self.codec.layout.num_scales
        table[alone, 3] = 0  # no scales are there to be read
        message_kernels.judge(
            data, on_device(table, device, wait=False), on_device(headers, device, wait=False), results,
            received.scales.view(1, -1), received.status.view(1, -1), received.verdict, stride=0,
        )  # fmt: skip
        return received

    def _expand(
        self,
        data: torch.Tensor,
        plans: Sequence[tuple[FramePlan, int, int]],
        stored: Sequence[bool],
        received: Received,
    ) -> torch.Tensor:
        """Undo the last codec of all frames that have it: their quartic bytes, one frame after the other."""
        device = self.device
        chosen = [
            (index, start + frame.payload_start - frame.start, payload, frame.start + frame.size - frame.payload_start)
            for index, ((frame, start, payload), is_stored) in enumerate(zip(plans, stored, strict=True))
            if frame.codec and payload >= 0 and not is_stored
        ]
        counts = [count for _, _, _, count in chosen]
        starts = list(accumulate(counts, initial=0))[:-1]
        symbols = torch.empty(sum(counts), dtype=torch.uint8, device=device)
        segments = Segments([start for _, start, _, _ in chosen], [payload for _, _, payload, _ in chosen])
        if not chosen:
            return symbols
        if isinstance(self._last, Rans):
            rans_decode(data, segments, symbols, starts, counts)
            return symbols
        wrong = torch.zeros(len(chosen), dtype=torch.int32, device=device)
        places = on_device(np.array([starts, counts], np.int64), device, wait=False)
        zero_run_decode(data, on_device(segments.tiles(TILE), device, wait=False), symbols, places[0], places[1], wrong)
        flat = received.status.view(-1)
        index = on_device(np.array([index for index, *_ in chosen], np.int64), device, wait=False)
        flat[index] = torch.maximum(flat[index], RUNS * wrong)
        torch.maximum(received.verdict, 2 * wrong.max(), out=received.verdict)
        return symbols
