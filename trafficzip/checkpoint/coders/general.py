"""General compressors over the bytes of tensors, to compare with (FORMAT.md section 11)."""

import bz2
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from trafficzip.checkpoint.coders.base import Coder, Decode, Describe, Encoding, Job
from trafficzip.checkpoint.pieces import Piece
from trafficzip.checkpoint.tensors import Array, TensorInfo
from trafficzip.errors import ConfigError, CorruptPayloadError
from trafficzip.kernels import numba_cpu_huffman as huffman
from trafficzip.wire.cursor import Bytes

_LEVELS = {"zstd": (1, 22), "bz2": (1, 9), "huffman": (9, 9)}  # codecs, and their lowest and highest levels
_LEAST_WINDOW = 1 << 10  # of zstd: smaller windows cannot be written
_RAW, _CODED = range(2)  # forms of a record of huffman


@dataclass(frozen=True, slots=True, kw_only=True)
class General(Coder):
    """Store every bit by a general compressor.

    codec: "zstd", which needs the package zstandard, "bz2", or "huffman", one code of a piece's bytes.  level: 1 to 22
    (zstd) or 9 (bz2); huffman has none, so it stays 9.

    Raises:
        ConfigError: there is no such codec or level.
    """

    kind: ClassVar[str] = "general"
    lossless: ClassVar[bool] = True
    codec: str = "zstd"
    level: int = 9

    def __post_init__(self) -> None:
        if self.codec not in _LEVELS:
            raise ConfigError(f"general: codec is {self.codec!r:.50}, expected one of {', '.join(_LEVELS)}")
        low, high = _LEVELS[self.codec]
        if not low <= self.level <= high:
            levels = f"{low} to {high}" if low < high else f"{low}, the only one,"
            raise ConfigError(f"general: level is {self.level}, expected {levels} of {self.codec}")

    def check(self, info: TensorInfo) -> None:
        """Accept all tensors."""

    def plan(self, job: Job) -> Encoding:
        """Pieces share nothing."""
        pack = _packer(self.codec, self.level)

        def encode(piece: Piece, arrays: Sequence[Array]) -> bytes:
            return pack(b"".join(_to_bytes(array) for array in arrays))

        return Encoding((None,) * len(job.infos), None, encode)

    def decoder(self, infos: Sequence[TensorInfo], params: Sequence[Any], shared: Bytes | None) -> Decode:
        """Give what decodes pieces; it needs no more than dtypes."""
        for info, param in zip(infos, params, strict=True):
            if param is not None:
                raise CorruptPayloadError(f"header: {info}: parameters {param!r:.100}, expected null")
        assert shared is None
        unpack = _unpacker(self.codec)

        def decode(piece: Piece, record: Bytes, outs: Sequence[Array], describe: Describe) -> None:
            size = sum(out.nbytes for out in outs)
            raw = unpack(record.tobytes(), size, f"record of {describe()}")
            at = 0
            for out in outs:
                out[...] = _from_bytes(raw[at : at + out.nbytes], out.dtype)
                at += out.nbytes

        return decode


def _packer(codec: str, level: int) -> Callable[[bytes], bytes]:
    if codec == "huffman":
        return _pack_huffman
    if codec == "bz2":
        return lambda data: bz2.compress(data, level)
    zstd = _zstandard()

    def pack(data: bytes) -> bytes:
        compressed: bytes = zstd.ZstdCompressor(level=level).compress(data)
        return compressed

    return pack


def _unpacker(codec: str) -> Callable[[bytes, int, str], bytes]:
    """Give what decompresses to exactly so many bytes; the text says what, for errors."""
    if codec == "huffman":
        return _unpack_huffman
    if codec == "bz2":
        return _unpack_bz2
    zstd = _zstandard()
    return lambda data, size, what: _unpack_zstd(zstd, data, size, what)


def _zstandard() -> ModuleType:
    try:
        import zstandard
    except ImportError as error:
        raise ConfigError("general: codec zstd needs the package zstandard; install it, or choose bz2") from error
    return zstandard


def _pack_huffman(data: bytes) -> bytes:
    """Give the form, then codes, or the bytes themselves where these are not more."""
    coded = huffman.encode(np.frombuffer(data, np.uint8))
    return bytes([_CODED]) + coded.tobytes() if coded.size < len(data) else bytes([_RAW]) + data


def _unpack_huffman(data: bytes, size: int, what: str) -> bytes:
    form, body = data[:1], data[1:]
    if form == bytes([_RAW]) and len(body) == size:
        return body
    if form == bytes([_CODED]) and len(body) < size:
        found = np.empty(size, np.uint8)
        if huffman.decode(np.frombuffer(body, np.uint8), found):
            return found.tobytes()
    raise CorruptPayloadError(f"{what}: is neither {size} bytes nor their Huffman codes in fewer")


def _unpack_bz2(data: bytes, size: int, what: str) -> bytes:
    """Decompress one stream of exactly `size` bytes, and no more than these."""
    decompressor = bz2.BZ2Decompressor()
    found = bytearray()
    feed = data
    try:
        while not decompressor.eof and len(found) <= size:
            part = decompressor.decompress(feed, max_length=size - len(found) + 1)
            if not part and decompressor.needs_input:
                break
            found += part
            feed = b""
    except (OSError, ValueError) as error:
        raise CorruptPayloadError(f"{what}: is no bzip2 stream: {error}") from error
    if len(found) != size or not decompressor.eof or decompressor.unused_data:
        raise CorruptPayloadError(f"{what}: is no whole bzip2 stream of {size} bytes")
    return bytes(found)


def _unpack_zstd(zstd: ModuleType, data: bytes, size: int, what: str) -> bytes:
    """Decompress one frame that says that it has `size` bytes; only then it is allowed to allocate them."""
    try:
        frame = zstd.get_frame_parameters(data)
        if frame.content_size != size or frame.window_size > max(size, _LEAST_WINDOW) or frame.dict_id:
            raise CorruptPayloadError(
                f"{what}: zstd frame of {frame.content_size} bytes, window {frame.window_size}, dictionary "
                f"{frame.dict_id}: expected {size} bytes, no larger window, no dictionary"
            )
        found: bytes = zstd.ZstdDecompressor().decompress(data, max_output_size=size, allow_extra_data=False)
    except zstd.ZstdError as error:
        raise CorruptPayloadError(f"{what}: is no zstd frame: {error}") from error
    if len(found) != size:
        raise CorruptPayloadError(f"{what}: zstd frame gives {len(found)} bytes, expected {size}")
    return found


def _to_bytes(array: Array) -> bytes:
    """Give the bytes of numbers, lowest first."""
    return _swapped(np.ascontiguousarray(array)).tobytes()


def _from_bytes(data: bytes, dtype: np.dtype[Any]) -> Array:
    return _swapped(np.frombuffer(data, dtype))


def _swapped(array: Array) -> Array:
    """Change the order of bytes where this machine has the highest first."""
    return array.byteswap() if sys.byteorder == "big" else array
