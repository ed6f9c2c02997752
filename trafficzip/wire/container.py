"""A file of records with a JSON header: names and sizes, no knowledge of codecs (FORMAT.md, container).

Records come first and the header last, so a file can be written to a pipe; a reader starts at the trailer.
"""

import bz2
import json
from collections.abc import Callable
from typing import IO, Any

import numpy as np

from trafficzip.errors import ConfigError, CorruptPayloadError, UnsupportedFormatError
from trafficzip.wire.checksum import crc32
from trafficzip.wire.cursor import Bytes, Reader, pack_u32s, pack_u64s

PREFIX_BYTES = 16
TRAILER_BYTES = 36
MAX_HEADER_BYTES = 1 << 26
MAX_RECORD_BYTES = (1 << 32) - 1
MAX_RECORDS = 1 << 24
_MAGIC = b"\x89TZIP\r\n\x1a"  # as in PNG: a transfer that changes line ends or the top bit is noticed
_END = b"TZIP"
_VERSION = 1
_PREFIX = _MAGIC + bytes([_VERSION]) + bytes(7)
_TRAILER = "<QIIIIII4s"  # bytes of the file, index, stored header and header; records; two checksums; _END
_MAX_RATIO = 256  # a header is at most this many times its stored size
_STORED, _BZ2 = 0, 1


class ContainerWriter:
    """Writes a container front to back; the sink needs only `write`."""

    def __init__(self, sink: IO[bytes]) -> None:
        self._sink = sink
        self._index = bytearray()
        self._num_records = 0
        self._written = 0
        self._write(_PREFIX)

    @property
    def num_records(self) -> int:
        """How many records were added."""
        return self._num_records

    def add(self, record: Bytes | bytes) -> int:
        """Append a record and give its number.

        Raises:
            ConfigError: it is too large.
        """
        data = memoryview(record if isinstance(record, bytes) else record.data)
        if len(data) > MAX_RECORD_BYTES:
            raise ConfigError(f"record {self._num_records} has {len(data)} bytes, at most {MAX_RECORD_BYTES} fit")
        self._index += pack_u32s(len(data), crc32(data))
        self._write(data)
        self._num_records += 1
        return self._num_records - 1

    def finish(self, header: dict[str, Any]) -> int:
        """Write the header, a JSON object, and give the size of the whole file.

        Raises:
            ConfigError: the header holds what JSON cannot, or is above the limit.
        """
        text = canonical_json(header)
        if len(text) > MAX_HEADER_BYTES or self._num_records > MAX_RECORDS:
            raise ConfigError(
                f"header of {len(text)} bytes for {self._num_records} records: "
                f"at most {MAX_HEADER_BYTES} bytes and {MAX_RECORDS} records fit in a container"
            )
        stored = bytes([_BZ2]) + bz2.compress(text, 9)
        if len(stored) > len(text) or len(text) > _MAX_RATIO * len(stored):
            stored = bytes([_STORED]) + text
        tail = bytes(self._index) + stored
        size = self._written + len(tail) + TRAILER_BYTES
        trailer = pack_u64s(size) + pack_u32s(len(self._index), len(stored), len(text), self._num_records, crc32(tail))
        self._write(tail + trailer + pack_u32s(crc32(_PREFIX + trailer)) + _END)
        return size

    def _write(self, data: "bytes | memoryview") -> None:
        write_all(self._sink, data)
        self._written += len(data)


class ContainerReader:
    """Reads a container that lies whole in memory or in a mapped file.

    data: uint8 [file].  Everything but the records is checked at once; a record when it is taken.

    Raises:
        CorruptPayloadError: bytes are missing, left over, or changed.
        UnsupportedFormatError: not a container, or of a version that this release does not know.
    """

    def __init__(self, data: Bytes) -> None:
        self._data = data
        index_bytes, stored_bytes, header_bytes, num_records, checksum = _read_trailer(data)
        start = data.size - TRAILER_BYTES - index_bytes - stored_bytes
        tail = data[start : data.size - TRAILER_BYTES]
        if crc32(tail.data) != checksum:
            raise CorruptPayloadError(f"header of the container at byte {start}: checksum does not match")
        index = np.frombuffer(tail[:index_bytes].tobytes(), [("size", "<u4"), ("checksum", "<u4")])
        self._sizes, self._checksums = index["size"], index["checksum"]
        ends = [PREFIX_BYTES]
        for number, size in enumerate(self._sizes.tolist()):
            if size > start - ends[-1]:
                raise CorruptPayloadError(
                    f"record {number} at byte {ends[-1]}: index says {size} bytes, {start - ends[-1]} are there"
                )
            ends.append(ends[-1] + size)
        if ends[-1] != start:
            raise CorruptPayloadError(f"{num_records} records end at byte {ends[-1]}, the header begins at {start}")
        self._starts = ends[:-1]
        self.header = _read_header(tail[index_bytes:], header_bytes)

    @property
    def num_records(self) -> int:
        """How many records the file has."""
        return len(self._starts)

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self._data.size

    def record_bytes(self, number: int) -> int:
        """Give the size of a record."""
        return int(self._sizes[number])

    def record(self, number: int, describe: Callable[[], str] = lambda: "") -> Bytes:
        """Give a record as a view, after its checksum; `describe` says what is in it if it is damaged.

        Raises:
            CorruptPayloadError: the checksum does not match.
        """
        view = self._data[self._starts[number] : self._starts[number] + self.record_bytes(number)]
        if crc32(view.data) != self._checksums[number]:
            what = describe()
            raise CorruptPayloadError(
                f"record {number} at byte {self._starts[number]}{what and f' ({what})'}: checksum does not match"
            )
        return view


def write_all(sink: IO[bytes], data: "bytes | memoryview") -> None:
    """Write to a sink that may take less than it is given, as a raw stream does."""
    left = memoryview(data)
    while left:
        count: int | None = sink.write(left)
        left = left[len(left) if count is None else count :]  # a simple sink says nothing


def canonical_json(value: Any) -> bytes:
    """Give the one JSON text of a value: sorted keys, no spaces, UTF-8, finite numbers.

    Raises:
        ConfigError: it has no JSON text.
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"header: not JSON: {error}") from error


def _read_trailer(data: Bytes) -> tuple[int, int, int, int, int]:
    """Give the sizes of index, stored header and header, the number of records, and a checksum, all checked."""
    if data.size < PREFIX_BYTES or data[:8].tobytes() != _MAGIC:
        raise UnsupportedFormatError(
            f"not a trafficzip container: it begins with {data[:8].tobytes()!r}, expected {_MAGIC!r}"
        )
    if data[8] != _VERSION:
        raise UnsupportedFormatError(f"container version {data[8]}; this release reads version {_VERSION}")
    if data.size < PREFIX_BYTES + TRAILER_BYTES:
        raise CorruptPayloadError(f"container of {data.size} bytes: cut off before its trailer")
    trailer = data[-TRAILER_BYTES:]
    size, index_bytes, stored_bytes, header_bytes, num_records, checksum, own_checksum, end = Reader(
        trailer, what="trailer of the container"
    ).fields(_TRAILER, "trailer")
    if end != _END or own_checksum != crc32(data[:PREFIX_BYTES].tobytes() + trailer[:-8].tobytes()):
        raise CorruptPayloadError(f"trailer of the container at byte {data.size - TRAILER_BYTES}: damaged or cut off")
    if data[:PREFIX_BYTES].tobytes() != _PREFIX:
        raise UnsupportedFormatError("container: reserved bytes of the prefix are not zero")
    if size != data.size:
        raise CorruptPayloadError(f"container of {data.size} bytes: its trailer says {size}")
    if index_bytes != 8 * num_records or num_records > MAX_RECORDS or not 0 < header_bytes <= MAX_HEADER_BYTES:
        raise CorruptPayloadError(
            f"trailer of the container: {num_records} records, index of {index_bytes} bytes, header of {header_bytes}"
        )
    if header_bytes > _MAX_RATIO * stored_bytes:
        raise CorruptPayloadError(f"trailer of the container: {stored_bytes} bytes cannot hold {header_bytes}")
    if index_bytes + stored_bytes > size - PREFIX_BYTES - TRAILER_BYTES:
        raise CorruptPayloadError(f"trailer of the container: header of {stored_bytes} bytes in a file of {size}")
    return index_bytes, stored_bytes, header_bytes, num_records, checksum


def _read_header(stored: Bytes, header_bytes: int) -> dict[str, Any]:
    if stored.size < 1 or stored[0] not in (_STORED, _BZ2):
        raise UnsupportedFormatError(f"header of the container: form {stored[:1].tolist()}, expected 0 or 1")
    text = stored[1:].tobytes()
    if stored[0] == _BZ2:
        unpacker = bz2.BZ2Decompressor()
        try:
            text = unpacker.decompress(text, max_length=header_bytes + 1)  # no more is ever allocated
        except OSError as error:
            raise CorruptPayloadError(f"header of the container: {error}") from error
        if not unpacker.eof or unpacker.unused_data:
            raise CorruptPayloadError(f"header of the container: does not end after {header_bytes} bytes")
    if len(text) != header_bytes:
        raise CorruptPayloadError(f"header of the container: {len(text)} bytes, its trailer says {header_bytes}")
    try:
        header = json.loads(text)
        same = canonical_json(header) == text  # no second name, no space, no other order: one header, one text
    except (ValueError, RecursionError) as error:
        raise CorruptPayloadError(f"header of the container: {error}") from error
    if not isinstance(header, dict) or not same:
        raise CorruptPayloadError("header of the container: not a JSON object in canonical form")
    return header
