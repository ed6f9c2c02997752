"""A compressed checkpoint, opened: tensors on demand, rows of a tensor, or all tensors by several threads."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Self

import numpy as np

from trafficzip.checkpoint.coders.base import Coder, Decode, Describe
from trafficzip.checkpoint.coders.delta import Base, Delta
from trafficzip.checkpoint.layout import Entry, describe, listing, place_records, read_header
from trafficzip.checkpoint.pieces import Piece
from trafficzip.checkpoint.tensors import DTYPES, Array, TensorInfo
from trafficzip.errors import ConfigError, CorruptPayloadError, UnsupportedFormatError
from trafficzip.kernels.threads import run_in_threads
from trafficzip.wire.container import ContainerReader
from trafficzip.wire.cursor import Bytes


class CheckpointFile(Mapping[str, Array]):
    """The tensors of a file by name, decoded when they are taken; a context manager that closes the file.

    path: of the file, which is mapped into memory, or its bytes.  base: the checkpoint that the file was compressed
    against, if it was: this class, or a source.  num_threads: how many threads decode.
    Header and structure are checked at once, a record's checksum whenever it is decoded.

    Raises:
        ConfigError: there is no such file.
        CorruptPayloadError: the file is damaged.
        UnsupportedFormatError: it is no checkpoint, or one that this release cannot read.
    """

    def __init__(
        self, path: str | os.PathLike[str] | bytes, *, base: Base | None = None, num_threads: int | None = None
    ) -> None:
        self._what = "checkpoint in memory" if isinstance(path, bytes) else str(path)
        self._num_threads = num_threads or os.cpu_count() or 1
        with _naming(self._what):
            self._container = ContainerReader(np.frombuffer(path, np.uint8) if isinstance(path, bytes) else _map(path))
            header = read_header(self._container.header)
            coders = tuple(replace(c, base=base) if isinstance(c, Delta) else c for c in header.coders)
            self._records = place_records(replace(header, coders=coders), self._container.num_records)
        self.metadata: dict[str, str] = header.metadata
        self._entries = {entry.info.name: entry for entry in header.entries}
        self._decoders: dict[int, Decode] = {}
        self._places = [{entry.info.name: place for place, entry in enumerate(r.entries)} for r in self._records]
        self._pieces: list[dict[int, list[int]]] = []  # per coder, per tensor: its pieces
        for records in self._records:
            of_tensor: dict[int, list[int]] = {}
            for number, piece in enumerate(records.pieces):
                for segment in piece:
                    of_tensor.setdefault(segment.tensor, []).append(number)
            self._pieces.append(of_tensor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._what}, {len(self._entries)} tensors)"

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> Array:
        """Decode one tensor.

        Raises:
            KeyError: there is none of that name.
            CorruptPayloadError: a record of it is damaged.
        """
        return self.read(name)

    @property
    def infos(self) -> tuple[TensorInfo, ...]:
        """All tensors, in the order in which they were stored."""
        return tuple(entry.info for entry in self._entries.values())

    @property
    def coders(self) -> tuple[Coder, ...]:
        """All coders, by the numbers that entries give."""
        return tuple(records.coder for records in self._records)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._container.size

    def tensor_bytes(self) -> dict[str, float]:
        """Give the bytes of each tensor's records, shared ones by its share of their elements."""
        sizes = dict.fromkeys(self._entries, 0.0)
        for records in self._records:
            names = [entry.info.name for entry in records.entries]
            total = sum(entry.info.num_elements for entry in records.entries)
            if records.shared is not None and total:
                each = self._container.record_bytes(records.shared) / total
                for entry in records.entries:
                    sizes[entry.info.name] += each * entry.info.num_elements
            for number, piece in enumerate(records.pieces, records.first):
                each = self._container.record_bytes(number) / sum(segment.stop - segment.start for segment in piece)
                for segment in piece:
                    sizes[names[segment.tensor]] += each * (segment.stop - segment.start)
        return sizes

    def read(self, name: str) -> Array:
        """Decode one tensor, of the dtype and shape that its info says."""
        return self.read_many([name])[name]

    def read_many(
        self, names: Iterable[str] | None = None, *, outs: Mapping[str, Array] | None = None
    ) -> dict[str, Array]:
        """Decode tensors, all by default, into new arrays or those of `outs`, which have their dtype and shape.

        Raises:
            KeyError: there is no tensor of a name.
            CorruptPayloadError: a record is damaged; arrays may have been written in part.
        """
        found: dict[str, Array] = {}
        for name in self._entries if names is None else names:
            info = self.entry(name).info
            found[name] = np.empty(info.shape, DTYPES[info.dtype]) if outs is None else _checked_out(outs[name], info)
        self._fill(found)
        return found

    def read_as(self, name: str, dtype: Any) -> Array:
        """Decode a tensor whose coder computes in another dtype than it is stored in, without the last conversion."""
        found = {name: np.empty(self.entry(name).info.shape, dtype)}
        self._fill(found)
        return found[name]

    def records_of(self, name: str) -> Iterator[tuple[list[TensorInfo], Piece, int, Bytes, Describe]]:
        """Give a tensor's records: the coder's tensors, the piece, the tensor's place in it, the bytes, and a name."""
        number = self.entry(name).coder
        records, place = self._records[number], self._places[number][name]
        infos = [entry.stored for entry in records.entries]
        for at in self._pieces[number].get(place, ()):
            piece = records.pieces[at]
            what = partial(describe, infos, piece)
            segment = next(i for i, found in enumerate(piece) if found.tensor == place)
            yield infos, piece, segment, self._container.record(records.first + at, what), what

    def read_rows(self, name: str, start: int, stop: int) -> Array:
        """Decode rows `start` to `stop` of a tensor, along its first axis, and no piece without one of them.

        Raises:
            KeyError: there is no tensor of that name.
            ConfigError: it has no such rows.
            CorruptPayloadError: a record is damaged.
        """
        entry = self.entry(name)
        info, number = entry.info, entry.coder
        if not info.shape or not 0 <= start <= stop <= info.shape[0]:
            raise ConfigError(f"{info}: has no rows {start} to {stop}")
        width = info.num_elements // info.shape[0] if info.shape[0] else 0
        if entry.transposed:
            return self.read(name)[start:stop].copy()
        rows = np.empty((stop - start, *info.shape[1:]), DTYPES[info.dtype])
        first, last, flat = start * width, stop * width, rows.reshape(-1)
        for piece in self._pieces[number].get(self._places[number][name], ()):
            segments = self._records[number].pieces[piece]
            segment = next(s for s in segments if s.tensor == self._places[number][name])
            begin, end = max(segment.start, first), min(segment.stop, last)
            if begin < end:
                part = np.empty(segment.stop - segment.start, DTYPES[info.dtype])
                with _naming(self._what):
                    self._decode_piece(number, piece, {segment.tensor: part}, offset=segment.start)
                flat[begin - first : end - first] = part[begin - segment.start : end - segment.start]
        return rows

    def verify(self) -> None:
        """Decode everything, one record at a time, and drop it.

        Raises:
            CorruptPayloadError: a record is damaged.
        """
        jobs: list[tuple[int, int, dict[int, Array]]] = []
        with _naming(self._what):
            for number, records in enumerate(self._records):
                self._decoder(number)  # its shared record, which no piece may need
                jobs += [(number, piece, {}) for piece in range(len(records.pieces))]
            run_in_threads(self._decode_piece, jobs, self._num_threads)

    def entry(self, name: str) -> Entry:
        """Give what the header says of a tensor.

        Raises:
            KeyError: there is none of that name.
        """
        if name not in self._entries:
            raise KeyError(f"{self._what}: no tensor is called {name!r}")
        return self._entries[name]

    def close(self) -> None:
        """Forget the file; arrays given before stay valid, no tensor can be read any more."""
        self._entries = {}

    def _fill(self, found: Mapping[str, Array]) -> None:
        """Decode tensors into arrays of their shapes."""
        jobs = []
        columns: dict[str, Array] = {}
        for number, places in enumerate(self._places):
            flat = {places[name]: self._flat(name, array, columns) for name, array in found.items() if name in places}
            wanted = sorted({piece for place in flat for piece in self._pieces[number].get(place, ())})
            jobs += [(number, piece, flat) for piece in wanted]
        with _naming(self._what):
            run_in_threads(self._decode_piece, jobs, self._num_threads)
        for name, values in columns.items():
            array = found[name]
            array.reshape(array.shape[0], -1)[...] = values.reshape(-1, array.shape[0]).T

    def _flat(self, name: str, array: Array, columns: dict[str, Array]) -> Array:
        """Give what a tensor is decoded into: its own memory, or if it is stored by columns, memory beside it."""
        if not self._entries[name].transposed:
            return array.reshape(-1)
        columns[name] = np.empty(array.size, array.dtype)
        return columns[name]

    def _decoder(self, number: int) -> Decode:
        """Give what decodes a coder's pieces; made when first needed, as it reads a record."""
        if number not in self._decoders:
            records = self._records[number]
            shared = None
            if records.shared is not None:
                shared = self._container.record(
                    records.shared, lambda: f"shared by {listing([e.info.name for e in records.entries])}"
                )
            infos, params = [e.stored for e in records.entries], [e.params for e in records.entries]
            self._decoders[number] = records.coder.decoder(infos, params, shared)
        return self._decoders[number]

    def _decode_piece(self, number: int, place: int, flat: Mapping[int, Array], offset: int = 0) -> None:
        """Decode a piece into flat tensors, less their first `offset` elements; what is in none of them is dropped."""
        records = self._records[number]
        piece = records.pieces[place]
        outs = []
        for segment in piece:
            if segment.tensor in flat:
                outs.append(flat[segment.tensor][segment.start - offset : segment.stop - offset])
            else:
                dtype = DTYPES[records.entries[segment.tensor].info.dtype]
                outs.append(np.empty(segment.stop - segment.start, dtype))

        def what() -> str:  # called for errors only
            return describe([entry.stored for entry in records.entries], piece)

        record = self._container.record(records.first + place, what)
        self._decoder(number)(piece, record, outs, what)


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """Name the file in errors.

    Raises:
        CorruptPayloadError, UnsupportedFormatError: the block raised it.
    """
    try:
        yield
    except (CorruptPayloadError, UnsupportedFormatError) as error:
        raise type(error)(f"{what}: {error}") from error


def _map(path: str | os.PathLike[str]) -> Bytes:
    try:
        if os.path.getsize(path) == 0:
            raise CorruptPayloadError("the file is empty")
        return np.memmap(path, np.uint8, mode="r").view(np.ndarray)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def _checked_out(out: Array, info: TensorInfo) -> Array:
    same = out.dtype == DTYPES[info.dtype] and out.shape == info.shape
    if not (same and out.flags.c_contiguous and out.flags.writeable):
        raise ConfigError(f"{info}: cannot be decoded into {out.dtype}{list(out.shape)}: expected the same, contiguous")
    return out
