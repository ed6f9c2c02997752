"""The codec of a bucket's messages on a GPU: gradients to message bytes and back, in few launches.

Messages of fixed size (quartic bytes, casts, 8-bit) never wait for the device and may be captured in a CUDA graph;
what was found wrong is in a verdict that stays there until somebody asks. `trafficzip.gpu.variable` has the others.
"""

from collections.abc import Sequence

import numpy as np
import torch

from trafficzip.compressor import Compressor
from trafficzip.errors import ConfigError
from trafficzip.gpu.layout import KIND_TERNARY, FramePlan, MessageLayout, crc_row, frame_table
from trafficzip.gpu.received import Coded, Received
from trafficzip.kernels import Groups
from trafficzip.kernels import triton_gpu_codes as codes_kernels
from trafficzip.kernels import triton_gpu_crc as crc_kernels
from trafficzip.kernels import triton_gpu_decode as decode_kernels
from trafficzip.kernels import triton_gpu_messages as message_kernels
from trafficzip.kernels import triton_gpu_scales as scale_kernels
from trafficzip.kernels.triton_gpu import INTERPRETED, can_launch, on_device, on_its_device

_ROWS = 4096 if INTERPRETED else 128  # of 15 elements, per program; bytes do not depend on it
_SYMBOLS = 16384 if INTERPRETED else 512  # quartic bytes per program that decodes
_BLOCK_TILE = 65536 if INTERPRETED else 2048
CRC_TILE = 1 << 20 if INTERPRETED else 16384


class GpuCodec:
    """Compresses buckets into messages, and owners' means; tables are uploaded once.

    It must outlive graphs, and work on other streams, that use it.

    messages: per receiver, the compressor and groups of each of its frames.
    device: where values, residuals and messages live.

    Raises:
        ConfigError: a compressor has no GPU kernels, or the device is no CUDA device.
    """

    def __init__(
        self,
        messages: Sequence[Sequence[tuple[Compressor, Groups]]],
        device: torch.device,
        *,
        rows: int = _ROWS,
    ) -> None:
        if not can_launch(device):
            raise ConfigError(f"device {device}: GpuCodec compresses on CUDA devices; Compressor does on the CPU")
        self.layout = MessageLayout(messages)
        # `cuda` alone means the current device, now and later.
        current = device.type == "cuda" and device.index is None
        self.device = device = torch.device("cuda", torch.cuda.current_device()) if current else device
        self.rows = rows
        frames = self.layout.frames
        # Frames of one kind share a launch; a kind with blocks has as many as it has block sizes.
        sorts = sorted({(frame.kind, frame.block) for frame in frames})
        self._tiles = {sort: self._upload([f.tiles(15 * rows) for f in _of(frames, sort)]) for sort in sorts}
        self._group_tiles = self._upload([f.tiles(15 * rows) for f in frames if f.block == 1])
        self._block_tiles = {
            sort: self._upload([f.tiles(_BLOCK_TILE) for f in _of(frames, sort)]) for sort in sorts if sort[1] > 1
        }
        self._decode_tiles = {
            sort: self._upload([f.tiles(_decode_tile(sort[0])) for f in _of(frames, sort)]) for sort in sorts
        }
        self._scale_table = self._upload([frame.scale_table() for frame in frames])
        self.frame_table = on_device(frame_table(frames), device)
        self._headers = on_device(np.array([frame.headers() for frame in frames], np.uint8).reshape(-1, 2, 24), device)
        self._crc_tiles = on_device(
            crc_kernels.crc_tiles([crc_row(f, f.start, f.size, plain=True) for f in frames], tile=CRC_TILE), device
        )

    def _upload(self, tables: Sequence[np.ndarray]) -> torch.Tensor:
        return on_device(np.concatenate(tables) if tables else np.zeros((0, 1), np.int64), self.device)

    @on_its_device
    def quantize(
        self,
        values: torch.Tensor,
        residual: torch.Tensor | None = None,
        out: torch.Tensor | None = None,
        *,
        out_like_residual: bool = True,
    ) -> Coded:
        """Find scales, write codes, and write what is lost to `out`, unless some input is not finite.

        values: float32, bfloat16 or float16 [any], read at the groups' value starts.
        residual: float32 [any], added first.
        out: float32 [any], laid out like the residual or like the values; may be either of them.

        Raises:
            ConfigError: a tensor is on another device, of another dtype, or too short.
        """
        self._check(values, residual, out, out_like_residual=out_like_residual)
        peaks, coded = self._start()
        scale_kernels.group_peaks(values, residual, self._group_tiles, peaks, tile=15 * self.rows)
        self._raise_block_peaks(values, residual, peaks)
        self._write(coded, values, residual, out, peaks, out_like_residual=out_like_residual)
        return coded

    @on_its_device
    def quantize_mean(self, received: Received, residual: torch.Tensor, lost: torch.Tensor) -> Coded:
        """Average what was received, add the owner's residual, and quantize; each input is read once.

        residual: float32 [any], at the groups' residual starts; unchanged.
        lost: float32 [any], receives at the groups' value starts what the owner's residual becomes; of no use where the
            flag is set: then the residual stays.
        """
        self._check(lost, residual, lost, out_like_residual=False)
        peaks, coded = self._start()
        for (kind, block), tiles in self._decode_tiles.items():
            decode_kernels.accumulate(
                received.data, received.scales, lost, tiles, received.verdict, kind=kind, block=block,
                tile=_decode_tile(kind), stride=self.layout.num_bytes, divisor=received.copies,
                residual=residual if block == 1 else None, peaks=peaks if block == 1 else None,
            )  # fmt: skip
        self._raise_block_peaks(lost, residual, peaks)
        self._write(coded, lost, residual, lost, peaks, out_like_residual=False, summed=received.verdict)
        return coded

    @on_its_device
    def pack(self, coded: Coded) -> torch.Tensor:
        """Write headers and checksums: the messages of fixed size, uint8 [bytes of all], without waiting.

        Raises:
            ConfigError: a compressor has a codec of unknown output size.
        """
        if any(frame.codec for frame in self.layout.frames):
            raise ConfigError("messages with zero runs or rANS have no fixed size: use trafficzip.gpu.variable")
        crc_kernels.frame_crcs(coded.data, self._crc_tiles, coded.results, tile=CRC_TILE)
        message_kernels.finish(coded.data, self.frame_table, self._headers, coded.results[0, 0], coded.flag)
        return coded.data

    @on_its_device
    def unpack(self, data: torch.Tensor, *, copies: int = 1) -> Received:
        """Judge `copies` ranks' messages of fixed size that lie one after the other, without waiting.

        Raises:
            ConfigError: `data` is not uint8 [copies * bytes] on this device.
        """
        size = copies * self.layout.num_bytes
        if data.dtype != torch.uint8 or data.shape != (size,) or data.device != self.device or not data.is_contiguous():
            found = f"{data.dtype} {list(data.shape)} on {data.device}"
            raise ConfigError(f"messages: {found}, expected contiguous uint8 [{size}] on {self.device}")
        received = self.received(data, copies)
        stride = self.layout.num_bytes
        crc_kernels.frame_crcs(data, self._crc_tiles, received.results, stride=stride, check=True, tile=CRC_TILE)
        message_kernels.judge(
            data, self.frame_table, self._headers, received.results, received.scales, received.status,
            received.verdict, stride=stride,
        )  # fmt: skip
        return received

    def received(self, data: torch.Tensor, copies: int) -> Received:
        """Give messages that are still to be judged."""
        frames = len(self.layout.frames)
        scales = torch.empty((copies, self.layout.num_scales), dtype=torch.float32, device=self.device)
        status = torch.empty((copies, frames), dtype=torch.int32, device=self.device)
        zero = torch.zeros(1 + 2 * copies * frames, dtype=torch.int32, device=self.device)
        return Received(data, scales, status, zero[:1], zero[1:].view(2, copies, frames))

    @on_its_device
    def decode(
        self, received: Received, out: torch.Tensor, *, divisor: int = 1, out_like_residual: bool = False
    ) -> None:
        """Write the sum of all copies' values, in order from +0, divided once, to `out`.

        out: float32, bfloat16 or float16 [any]. NaN where an input was not finite; unchanged where a frame is damaged.
        """
        self._check(out, None, None, out_like_residual=out_like_residual)
        for (kind, block), tiles in self._decode_tiles.items():
            decode_kernels.accumulate(
                received.data, received.scales, out, tiles, received.verdict, kind=kind, block=block,
                tile=_decode_tile(kind), stride=self.layout.num_bytes, divisor=divisor,
                out_like_residual=out_like_residual,
            )  # fmt: skip

    def _start(self) -> tuple[torch.Tensor, Coded]:
        """Give peaks, int32 [2, scales], and what is to be written; all zeros come from one launch."""
        scales, frames = self.layout.num_scales, len(self.layout.frames)
        data = torch.empty(self.layout.num_bytes, dtype=torch.uint8, device=self.device)
        zero = torch.zeros(2 * scales + 1 + 2 * frames, dtype=torch.int32, device=self.device)
        peaks, flag, results = torch.split(zero, [2 * scales, 1, 2 * frames])
        return peaks.view(2, scales), Coded(data, flag, results.view(2, 1, frames))

    def _raise_block_peaks(self, values: torch.Tensor, residual: torch.Tensor | None, peaks: torch.Tensor) -> None:
        for (_, block), tiles in self._block_tiles.items():
            scale_kernels.block_peaks(values, residual, tiles, peaks, tile=_BLOCK_TILE, block=block)

    def _write(
        self,
        coded: Coded,
        values: torch.Tensor,
        residual: torch.Tensor | None,
        out: torch.Tensor | None,
        peaks: torch.Tensor,
        *,
        out_like_residual: bool,
        summed: torch.Tensor | None = None,
    ) -> None:
        """Quantize with these peaks.

        summed: the verdict on what `values` was summed from; they then hold the residual already, except for blocks.
        """
        data, flag = coded.data, coded.flag
        scales = torch.empty(self.layout.num_scales, dtype=torch.float32, device=self.device)
        scale_kernels.find_scales(peaks, self._scale_table, scales, data, flag, self.frame_table, self._headers, summed)
        for (kind, block), tiles in self._tiles.items():
            codes_kernels.quantize(
                values, None if summed is not None and block == 1 else residual, out, tiles, scales, flag, data,
                kind=kind, block=block, rows=self.rows, out_like_residual=out_like_residual,
            )  # fmt: skip

    def _check(
        self,
        values: torch.Tensor,
        residual: torch.Tensor | None,
        out: torch.Tensor | None,
        *,
        out_like_residual: bool,
    ) -> None:
        for name, tensor in (("values", values), ("residual", residual), ("out", out)):
            if tensor is None:
                continue
            allowed = (torch.float32, torch.bfloat16, torch.float16) if name == "values" else (torch.float32,)
            if tensor.device != self.device or tensor.dtype not in allowed or not tensor.is_contiguous():
                raise ConfigError(
                    f"{name}: {tensor.dtype} {list(tensor.shape)} on {tensor.device}, expected contiguous "
                    f"{' or '.join(str(dtype) for dtype in allowed)} on {self.device}"
                )
        needed = self.layout.value_end, self.layout.residual_end
        for tensor, end in ((values, needed[0]), (residual, needed[1]), (out, needed[int(out_like_residual)])):
            if tensor is not None and tensor.numel() < end:
                raise ConfigError(f"groups end at element {end} of a tensor that has {tensor.numel()}")


def _of(frames: Sequence[FramePlan], sort: tuple[int, int]) -> list[FramePlan]:
    return [frame for frame in frames if (frame.kind, frame.block) == sort]


def _decode_tile(kind: int) -> int:
    return 5 * _SYMBOLS if kind == KIND_TERNARY else 2 * _SYMBOLS
