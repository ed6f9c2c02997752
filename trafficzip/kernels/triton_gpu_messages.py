"""Headers of frames on a GPU: written when a message is made, and judged, with scales and checksums, when one is read.

A frame whose input was not finite is its header alone; in a message of fixed size, zero bytes follow it.
"""

import torch
import triton
import triton.language as tl

from trafficzip.kernels.triton_gpu_scales import FRAME_COLUMNS, HEADER, INT8_BLOCKS

_CRC_AT = tl.constexpr(20)
_SCALES = 256  # read at a time


@triton.jit
def _finish(message, frames, headers, crcs, flag, COUNT: tl.constexpr):
    """One program a frame: write its header, with its checksum; where the flag is set, the header for that."""
    frame = tl.program_id(0)
    row = frames + frame * FRAME_COLUMNS
    start = tl.load(row)
    flagged = tl.load(flag) != 0
    byte = tl.arange(0, 32)
    template = headers + (frame * 2 + tl.where(flagged, 1, 0)) * HEADER
    value = tl.load(template + byte, mask=byte < HEADER, other=0).to(tl.int32)
    crc = tl.load(crcs + frame)
    tl.store(crcs + frame, 0)  # sums begin at zero, should the message be packed again
    in_crc = (byte >= _CRC_AT) & (byte < HEADER)
    shift = tl.where(in_crc, 8 * (byte - _CRC_AT), 0)
    value = tl.where(in_crc & (flagged == 0), (crc >> shift) & 255, value)
    tl.store(message + start + byte, value.to(tl.uint8), mask=byte < HEADER)
    if flagged:
        place, count = tl.load(row + 1), tl.load(row + 3)
        for first in range(0, 4 * count, COUNT):
            at = first + tl.arange(0, COUNT)
            tl.store(message + place + at, tl.zeros((COUNT,), tl.uint8), mask=at < 4 * count)


@triton.jit
def _judge(
    message, stride, frames, headers, crcs, bad, num_frames, num_scales, scales, status, verdict, COUNT: tl.constexpr
):
    """One program a frame and copy: compare header and checksum, copy its scales and check them, and say what it is."""
    frame, copy = tl.program_id(0), tl.program_id(1)
    row = frames + frame * FRAME_COLUMNS
    base = message + copy.to(tl.int64) * stride
    byte = tl.arange(0, 32)
    inside = byte < HEADER
    found = tl.load(base + tl.load(row) + byte, mask=inside, other=0).to(tl.int32)
    plain = tl.load(headers + frame * 2 * HEADER + byte, mask=inside, other=0).to(tl.int32)
    flagged = tl.load(headers + (frame * 2 + 1) * HEADER + byte, mask=inside, other=0).to(tl.int32)
    in_crc = (byte >= _CRC_AT) & inside
    shift = tl.where(in_crc, 8 * (byte - _CRC_AT), 0)
    place_of = copy * num_frames + frame
    crc = (tl.load(crcs + place_of) >> shift) & 255
    is_flagged = tl.max(tl.where(found != flagged, 1, 0)) == 0
    differs = tl.max(tl.where(in_crc, 0, tl.where(found != plain, 1, 0)))
    damaged = tl.max(tl.where(in_crc & (found != crc), 1, 0))
    refused = tl.load(bad + place_of)
    place, first, count, kind = tl.load(row + 1), tl.load(row + 2), tl.load(row + 3), tl.load(row + 4)
    for at in range(0, count, COUNT):
        group = at + tl.arange(0, COUNT)
        mask = group < count
        bits = tl.zeros((COUNT,), tl.int32)
        for k in tl.static_range(4):
            bits |= tl.load(base + place + 4 * group + k, mask=mask, other=0).to(tl.int32) << (8 * k)
        scale = bits.to(tl.float32, bitcast=True)
        most = tl.where(kind == INT8_BLOCKS, scale * 127.0, scale)
        good = (scale >= 0) & (most < float("inf"))
        refused = tl.maximum(refused, tl.max(tl.where(mask, tl.where(good, 0, 1), 0)))
        tl.store(scales + copy.to(tl.int64) * num_scales + first + group, scale, mask=mask)
    code = tl.where(differs != 0, 2, tl.where(damaged != 0, 3, tl.where(refused != 0, 4, 0)))
    code = tl.where(is_flagged, 1, code)
    tl.store(status + place_of, code)
    tl.atomic_max(verdict, tl.minimum(code, 2), sem="relaxed")


def finish(
    message: torch.Tensor,
    frames: torch.Tensor,
    headers: torch.Tensor,
    crcs: torch.Tensor,
    flag: torch.Tensor,
) -> None:
    """Write the headers of all frames.

    message: uint8 [any].  frames: int64 [frames, 5].  headers: uint8 [frames, 2, 24], plain and for what is not finite.
    crcs: int32 [frames], over the plain header and the body; becomes zero.  flag: int32 [1].
    """
    if frames.shape[0]:
        _finish[(frames.shape[0],)](message, frames, headers, crcs, flag, COUNT=_SCALES, num_warps=1)


def judge(
    message: torch.Tensor,
    frames: torch.Tensor,
    headers: torch.Tensor,
    results: torch.Tensor,
    scales: torch.Tensor,
    status: torch.Tensor,
    verdict: torch.Tensor,
    *,
    stride: int,
) -> None:
    """Judge the frames of several copies of a layout, `stride` bytes apart, and read their scales.

    results: int32 [2, copies, frames], of `triton_gpu_crc.frame_crcs`.
    status: int32 [copies, frames].  scales: float32 [copies, scales].
    status: becomes 0 as expected, 1 not finite, 2 another header, 3 another checksum, 4 a scale or code is refused.
    verdict: int32 [1], 0: raised to 1 where a frame is not finite, to 2 where one is damaged.
    """
    if frames.shape[0]:
        _judge[(frames.shape[0], results.shape[1])](
            message, stride, frames, headers, results[0], results[1], frames.shape[0], scales.shape[1], scales, status,
            verdict, COUNT=_SCALES, num_warps=1, enable_fp_fusion=False,
        )  # fmt: skip
