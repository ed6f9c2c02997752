"""What every op of the traffic path means, in plain array code. Compiled backends equal this bit for bit.

Arrays of values and residuals are flat float32; `groups` says which elements belong together. Where a residual is
given, what is quantized is x = value + residual, and what is lost is written to `out`.
"""

import numpy as np
from numpy.typing import NDArray

from trafficzip.kernels.groups import ALIGNMENT, Groups

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

ZERO_BYTE = 121  # the quartic byte of five zero codes
DIGIT_WEIGHTS = np.array([81, 27, 9, 3, 1], dtype=np.int64)


def _sum(values: F32, residual: F32 | None, groups: Groups, group: int) -> F32:
    size = groups.sizes[group]
    value = values[groups.value_starts[group] :][:size]
    return value if residual is None else value + residual[groups.residual_starts[group] :][:size]


def _out(out: F32, groups: Groups, group: int, *, like_residual: bool) -> F32:
    start = (groups.residual_starts if like_residual else groups.value_starts)[group]
    return out[start : start + groups.sizes[group]]


def group_peaks(values: F32, residual: F32 | None, groups: Groups) -> F32:
    """Give max |x| of each group; 0 for a group whose values are all zero, whatever its residual.

    Returns: float32 [groups]; not finite where any x of the group is not.
    A parameter without a gradient in this step thus sends nothing and keeps its residual.
    """
    peaks = np.zeros(len(groups.sizes), np.float32)
    for group, size in enumerate(groups.sizes):
        if values[groups.value_starts[group] :][:size].any():
            peaks[group] = np.abs(_sum(values, residual, groups, group)).max()
    return peaks


def ternarize(
    values: F32, residual: F32 | None, out: F32 | None, groups: Groups, scales: F32, *, out_like_residual: bool
) -> NDArray[np.int8]:
    """Map each x to the nearest of -M, 0, M, where M is its group's scale; a tie goes to 0.

    All of a group with M = 0 goes to 0.

    scales: float32 [groups], >= 0, finite.  out: receives x - M * code, exact in float32.
    Returns: int8 [groups.num_codes] in {-1, 0, 1}; the padding is 0.
    Source: 3LC, 3-value quantization (Lim, Andersen, Kaminsky 2019); FORMAT.md, ternary codes.
    """
    parts = []
    for group, size in enumerate(groups.sizes):
        x = _sum(values, residual, groups, group)
        half = scales[group] * np.float32(0.5) if scales[group] > 0 else np.float32(np.inf)
        codes = (x > half).astype(np.int8) - (x < -half).astype(np.int8)
        if out is not None:
            _out(out, groups, group, like_residual=out_like_residual)[:] = x - scales[group] * codes.astype(np.float32)
        parts += [codes, np.zeros(-size % ALIGNMENT, np.int8)]
    return np.concatenate(parts) if parts else np.zeros(0, np.int8)


def quartic_pack(codes: NDArray[np.int8]) -> U8:
    """Pack five consecutive codes into one byte, base 3, first code most significant; missing codes count as 0.

    codes: int8 [n] in {-1, 0, 1}.  Returns: uint8 [ceil(n / 5)] in 0..242.
    Source: 3LC, quartic encoding; FORMAT.md, quartic.
    """
    digits = np.pad(codes.astype(np.int64) + 1, (0, -codes.size % 5), constant_values=1)
    return (digits.reshape(-1, 5) @ DIGIT_WEIGHTS).astype(np.uint8)


def quartic_unpack(symbols: U8) -> NDArray[np.int8]:
    """Unpack bytes 0..242 into int8 [5 * symbols.size]."""
    return (symbols[:, None] // DIGIT_WEIGHTS % 3 - 1).astype(np.int8).reshape(-1)


def ternary_accumulate(codes: NDArray[np.int8], scales: F32, out: F32, groups: Groups, *, like_residual: bool) -> None:
    """Add scale * code to `out`, as two roundings."""
    at = 0
    for group, size in enumerate(groups.sizes):
        _out(out, groups, group, like_residual=like_residual)[:] += scales[group] * codes[at : at + size].astype(
            np.float32
        )
        at += size + -size % ALIGNMENT


def zero_run_encode(symbols: U8) -> U8:
    """Replace runs of 2..14 bytes 121 by 243 + (length - 2), longest first.

    Source: 3LC, zero-run encoding; FORMAT.md, zero runs.
    """
    data: list[int] = []
    at = 0
    while at < symbols.size:
        run = 0
        while run < 14 and at + run < symbols.size and symbols[at + run] == ZERO_BYTE:
            run += 1
        data.append(241 + run if run >= 2 else int(symbols[at]))
        at += max(run, 1)
    return np.array(data, dtype=np.uint8)


def zero_run_decode(data: U8) -> U8:
    """Expand runs; a byte below 243 stands for itself."""
    runs = np.maximum(data.astype(np.int64) - 241, 1)
    return np.repeat(np.where(data >= 243, np.uint8(ZERO_BYTE), data), runs)


def cast_bfloat16(
    values: F32, residual: F32 | None, out: F32 | None, groups: Groups, peaks: F32, *, out_like_residual: bool
) -> NDArray[np.uint16]:
    """Round each x to bfloat16, ties to even; a group whose peak is 0 sends zeros and keeps its residual.

    peaks: float32 [groups], from group_peaks, finite.  Returns: uint16 [groups.num_elements].
    """
    parts = [np.zeros(0, np.uint16)]
    for group in range(len(groups.sizes)):
        x = _sum(values, residual, groups, group)
        bits = np.ascontiguousarray(x).view(np.uint32).astype(np.uint64)
        codes = (bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype(np.uint16)
        if peaks[group] == 0:
            codes[:] = 0
        if out is not None:
            sent = (codes.astype(np.uint32) << 16).view(np.float32)
            _out(out, groups, group, like_residual=out_like_residual)[:] = x - sent
        parts.append(codes)
    return np.concatenate(parts)


def cast_float32(
    values: F32, residual: F32 | None, out: F32 | None, groups: Groups, peaks: F32, *, out_like_residual: bool
) -> F32:
    """Send each x as it is; a group whose peak is 0 sends zeros and keeps its residual."""
    parts = [np.zeros(0, np.float32)]
    for group in range(len(groups.sizes)):
        x = _sum(values, residual, groups, group)
        sent = np.zeros_like(x) if peaks[group] == 0 else x.copy()
        if out is not None:
            _out(out, groups, group, like_residual=out_like_residual)[:] = x - sent
        parts.append(sent)
    return np.concatenate(parts)


def quantize_int8(
    values: F32, residual: F32 | None, out: F32 | None, groups: Groups, scales: F32, *, out_like_residual: bool
) -> NDArray[np.int8]:
    """Map each x to the nearest multiple of its group's scale, at most 127 of them, ties to even; all to 0 if it is 0.

    scales: float32 [groups], finite, 0 or normal.  Returns: int8 [groups.num_elements] in -127..127.
    """
    parts = [np.zeros(0, np.int8)]
    for group in range(len(groups.sizes)):
        x = _sum(values, residual, groups, group)
        scale = scales[group]
        codes = np.clip(np.rint(x / scale), -127, 127) if scale > 0 else np.zeros_like(x)
        if out is not None:
            _out(out, groups, group, like_residual=out_like_residual)[:] = x - scale * codes
        parts.append(codes.astype(np.int8))
    return np.concatenate(parts)


def int8_accumulate(codes: NDArray[np.int8], scales: F32, out: F32, groups: Groups, *, like_residual: bool) -> None:
    """Add scale * code to `out`, as two roundings."""
    at = 0
    for group, size in enumerate(groups.sizes):
        part = codes[at : at + size].astype(np.float32)
        _out(out, groups, group, like_residual=like_residual)[:] += scales[group] * part
        at += size


def cast_accumulate(
    codes: NDArray[np.uint16] | F32, sign: float, out: F32, groups: Groups, *, like_residual: bool
) -> None:
    """Add sign * decoded value to `out`."""
    decoded = (codes.astype(np.uint32) << 16).view(np.float32) if codes.dtype == np.uint16 else codes
    at = 0
    for group, size in enumerate(groups.sizes):
        _out(out, groups, group, like_residual=like_residual)[:] += np.float32(sign) * decoded[at : at + size]
        at += size
