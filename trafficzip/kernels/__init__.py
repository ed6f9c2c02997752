"""One function per op; the place where tensors become arrays and where the backend is picked.

Arguments are flat NumPy arrays or CPU tensors, which share memory with their array. `kernels.reference` says what each
op means. Compiled kernels are imported at first use, so importing trafficzip does not load a compiler.
`out` may be `values` or `residual` itself; `out_like_residual` says by which of the two layouts it is addressed.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficzip.errors import ConfigError, CorruptPayloadError
from trafficzip.kernels.groups import ALIGNMENT, Groups
from trafficzip.kernels.threads import run_in_threads

__all__ = [
    "ALIGNMENT",
    "Groups",
    "as_array",
    "cast",
    "cast_accumulate",
    "group_peaks",
    "int8_accumulate",
    "quantize_int8",
    "quartic_accumulate",
    "quartic_pack",
    "quartic_unpack",
    "ternarize",
    "ternary_quartic",
    "zero_run_decode",
    "zero_run_encode",
]

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
_MIN_ROWS = 1  # blocks per thread: a block is large enough to be worth one
_MIN_SYMBOLS = 1 << 16  # quartic bytes per thread


def as_array(tensor: Any) -> NDArray[Any]:
    """View a CPU tensor as an array without a copy; arrays pass through.

    Raises:
        ConfigError: the tensor is on another device.
    """
    if isinstance(tensor, np.ndarray):
        return tensor
    if tensor.device.type != "cpu":
        raise ConfigError(
            f"tensor on device {tensor.device}: this exchange takes CPU tensors; trafficzip.gpu compresses CUDA tensors"
        )
    array: NDArray[Any] = tensor.detach().numpy()
    return array


@lru_cache(maxsize=1)
def _ternary() -> Any:
    from trafficzip.kernels import numba_cpu_ternary

    return numba_cpu_ternary


@lru_cache(maxsize=1)
def _zero_run() -> Any:
    from trafficzip.kernels import numba_cpu_zero_run

    return numba_cpu_zero_run


@lru_cache(maxsize=1)
def _cast() -> Any:
    from trafficzip.kernels import numba_cpu_cast

    return numba_cpu_cast


@lru_cache(maxsize=1)
def digit_table() -> NDArray[np.uint64]:
    """Give, for each byte, its five base-3 digits in the low 40 bits, first digit lowest: uint64 [256]."""
    byte = np.arange(256, dtype=np.uint64)
    table = np.zeros(256, np.uint64)
    for k, weight in enumerate((81, 27, 9, 3, 1)):
        table |= byte // np.uint64(weight) % np.uint64(3) << np.uint64(8 * k)
    return table


def _bounds(total: int, *, smallest: int, num_threads: int) -> list[tuple[int, int]]:
    """Split range(total) into up to num_threads parts of at least `smallest`."""
    parts = max(1, min(num_threads, total // smallest))
    cuts = [total * k // parts for k in range(parts + 1)]
    return list(zip(cuts[:-1], cuts[1:], strict=True))


def _by_rows(groups: Groups, num_threads: int) -> list[NDArray[np.int64]]:
    return [
        groups.blocks[low:high]
        for low, high in _bounds(len(groups.blocks), smallest=_MIN_ROWS, num_threads=num_threads)
    ]


def group_peaks(values: F32, residual: F32 | None, groups: Groups, *, num_threads: int = 1) -> F32:
    """Give max |value + residual| of each group, float32 [groups]; 0 where all values of a group are zero."""
    if not groups.sizes:
        return np.zeros(0, np.float32)
    bits = np.empty(len(groups.blocks), np.int32)
    low = 0
    jobs = []
    for rows in _by_rows(groups, num_threads):
        jobs.append((values, residual, rows, bits[low : low + len(rows)]))
        low += len(rows)
    run_in_threads(_ternary().block_peaks, jobs, num_threads)
    magnitude = np.maximum.reduceat(bits & 0x7FFFFFFF, groups.first_blocks)
    speaks = np.maximum.reduceat(bits, groups.first_blocks) >= 0  # a block with its sign bit set is all zero
    return np.where(speaks, magnitude, 0).astype(np.int32).view(np.float32)


def ternarize(
    values: F32, residual: F32 | None, out: F32 | None, groups: Groups, scales: F32, *, out_like_residual: bool
) -> NDArray[np.int8]:
    """Map each value + residual to -1, 0 or 1 and write what is lost to `out`; int8 [groups.num_codes]."""
    from trafficzip.kernels import reference

    return reference.ternarize(values, residual, out, groups, scales, out_like_residual=out_like_residual)


def ternary_quartic(
    values: F32,
    residual: F32 | None,
    out: F32 | None,
    groups: Groups,
    scales: F32,
    *,
    out_like_residual: bool,
    num_threads: int = 1,
) -> U8:
    """Do `ternarize` and `quartic_pack` in one pass over memory; uint8 [groups.num_symbols]."""
    symbols = np.empty(groups.num_symbols, np.uint8)
    column = 1 if out_like_residual else 0
    jobs = [(values, residual, out, column, rows, scales, symbols) for rows in _by_rows(groups, num_threads)]
    run_in_threads(_ternary().ternary_quartic, jobs, num_threads)
    return symbols


def quartic_pack(codes: NDArray[np.int8]) -> U8:
    """Pack five codes into each byte; uint8 [ceil(n / 5)].

    Raises:
        ConfigError: a code is not -1, 0 or 1.
    """
    symbols = np.empty(-(-codes.size // 5), np.uint8)
    if not _ternary().quartic_pack(codes, symbols):
        raise ConfigError("quartic: a code is not -1, 0 or 1")
    return symbols


def quartic_unpack(symbols: U8) -> NDArray[np.int8]:
    """Unpack bytes 0..242 into five codes each, int8 [5 * n].

    Raises:
        CorruptPayloadError: a byte is above 242.
    """
    if symbols.size and int(symbols.max()) > 242:
        raise CorruptPayloadError(f"quartic: byte {int(symbols.max())} found, expected 0..242")
    words = np.empty(-(-symbols.size // 8) * 5, np.uint64)
    _ternary().quartic_digits(symbols, digit_table(), words)
    codes: NDArray[np.int8] = words.view(np.int8)[: 5 * symbols.size] - np.int8(1)
    return codes


def quartic_accumulate(
    symbols: U8, scales: F32, out: F32, groups: Groups, *, out_like_residual: bool, num_threads: int = 1
) -> None:
    """Unpack quartic bytes and add scale * code to `out`, as two roundings.

    Raises:
        CorruptPayloadError: a byte is above 242; nothing was added.
    """
    if symbols.size and int(symbols.max()) > 242:
        raise CorruptPayloadError(f"quartic: byte {int(symbols.max())} found, expected 0..242")
    column = 1 if out_like_residual else 0
    jobs = [(symbols, scales, out, column, rows, digit_table()) for rows in _by_rows(groups, num_threads)]
    run_in_threads(_ternary().quartic_accumulate, jobs, num_threads)


def zero_run_encode(symbols: U8, *, num_threads: int = 1) -> U8:
    """Replace runs of 2..14 bytes 121 by one byte 243..255, longest first; at most symbols.size bytes."""

    def encode(part: U8) -> U8:
        data = np.empty(part.size + 1, np.uint8)
        return data[: _zero_run().zero_run_encode(part, data)]

    # Cut only behind a byte that is not 121: no run spans such a cut, so the parts' encodings join to the whole's.
    cuts = [0]
    for _, end in _bounds(symbols.size, smallest=_MIN_SYMBOLS, num_threads=num_threads)[:-1]:
        other = np.flatnonzero(symbols[end : end + _MIN_SYMBOLS] != 121)
        if other.size:
            cuts.append(end + int(other[0]) + 1)
    cuts.append(symbols.size)
    parts = run_in_threads(encode, [(symbols[a:b],) for a, b in zip(cuts[:-1], cuts[1:], strict=True)], num_threads)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def zero_run_decode(data: U8, num_symbols: int, *, num_threads: int = 1) -> U8:
    """Expand `data` into exactly num_symbols bytes.

    Raises:
        CorruptPayloadError: it expands to another number; checked before anything is allocated.
    """
    parts = [data[a:b] for a, b in _bounds(data.size, smallest=_MIN_SYMBOLS, num_threads=num_threads)]
    sizes = run_in_threads(_zero_run().zero_run_expanded_size, [(part,) for part in parts], num_threads)
    if sum(sizes) != num_symbols:
        raise CorruptPayloadError(f"zero runs expand to {sum(sizes)} bytes, expected {num_symbols}")
    symbols = np.empty(num_symbols, np.uint8)
    ends = np.cumsum(sizes)
    jobs = [(part, symbols[end - size : end]) for part, size, end in zip(parts, sizes, ends, strict=True)]
    run_in_threads(_zero_run().zero_run_decode, jobs, num_threads)
    return symbols


def cast(
    values: F32,
    residual: F32 | None,
    out: F32 | None,
    groups: Groups,
    peaks: F32,
    *,
    out_like_residual: bool,
    bfloat16: bool,
) -> NDArray[Any]:
    """Round each value + residual to bfloat16 (uint16 bits), or keep it as float32, and write what is lost to `out`."""
    codes: NDArray[Any] = np.empty(groups.num_elements, np.uint16 if bfloat16 else np.float32)
    kernel = _cast().cast_bfloat16 if bfloat16 else _cast().cast_float32
    kernel(values, residual, out, 1 if out_like_residual else 0, groups.blocks, peaks, codes)
    return codes


def cast_accumulate(codes: NDArray[Any], sign: float, out: F32, groups: Groups, *, out_like_residual: bool) -> None:
    """Add sign * decoded value to `out`, for what `cast` returns."""
    kernel = _cast().bfloat16_accumulate if codes.dtype == np.uint16 else _cast().float32_accumulate
    kernel(codes, np.float32(sign), out, 1 if out_like_residual else 0, groups.blocks)


def quantize_int8(
    values: F32, residual: F32 | None, out: F32 | None, groups: Groups, scales: F32, *, out_like_residual: bool
) -> NDArray[np.int8]:
    """Round (value + residual) / scale to -127..127 and write what is lost to `out`; int8 [groups.num_elements]."""
    codes: NDArray[np.int8] = np.empty(groups.num_elements, np.int8)
    _cast().quantize_int8(values, residual, out, 1 if out_like_residual else 0, groups.blocks, scales, codes)
    return codes


def int8_accumulate(codes: NDArray[np.int8], scales: F32, out: F32, groups: Groups, *, out_like_residual: bool) -> None:
    """Add scale * code to `out`, as two roundings.

    Raises:
        CorruptPayloadError: a code is -128, which no encoder writes; nothing was added.
    """
    if codes.size and int(codes.min()) < -127:
        raise CorruptPayloadError("8-bit codes: -128 found, expected -127..127")
    _cast().int8_accumulate(codes, scales, out, 1 if out_like_residual else 0, groups.blocks)
