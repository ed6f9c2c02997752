"""What a file says of its tensors: the header of a checkpoint, and which record holds what (FORMAT.md section 8)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trafficzip.checkpoint.coders.base import Coder
from trafficzip.checkpoint.coders.table import coder_from_dict
from trafficzip.checkpoint.pieces import Piece, count_pieces, pieces
from trafficzip.checkpoint.tensors import DTYPES, TensorInfo
from trafficzip.errors import ConfigError, CorruptPayloadError, UnsupportedFormatError

VERSION = 1
MAX_DIMENSIONS = 64
MAX_ELEMENTS = 1 << 48


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor, the number of its coder, what that coder needs to decode it, and whether it is stored by columns."""

    info: TensorInfo
    coder: int
    params: Any
    transposed: bool = False

    @property
    def stored(self) -> TensorInfo:
        """What the coder knows of it."""
        return stored_info(self.info, transposed=self.transposed)


def stored_info(info: TensorInfo, *, transposed: bool) -> TensorInfo:
    """Give what a coder knows of a tensor; of one that is stored by columns, a matrix that is alone in its records."""
    if not transposed:
        return info
    return TensorInfo(info.name, info.dtype, (info.num_elements // info.shape[0], info.shape[0]), alone=True)


@dataclass(frozen=True, slots=True)
class Header:
    """Coders, entries in the order in which they were given, and the user's metadata."""

    coders: tuple[Coder, ...]
    entries: tuple[Entry, ...]
    metadata: dict[str, str]

    def of_coder(self, number: int) -> tuple[Entry, ...]:
        """Give the entries of one coder, in order."""
        return tuple(entry for entry in self.entries if entry.coder == number)


@dataclass(frozen=True, slots=True)
class Records:
    """Where a coder's records are.

    entries: of the coder, in order.  shared: the number of its shared record, or None.  first: that of its first piece.
    """

    coder: Coder
    entries: tuple[Entry, ...]
    shared: int | None
    first: int
    pieces: tuple[Piece, ...]


def write_header(header: Header) -> dict[str, Any]:
    """Give the JSON object of a header.

    Raises:
        ConfigError: metadata are not text by text.
    """
    for key, text in header.metadata.items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise ConfigError(f"metadata {key!r}: found {text!r:.100}, expected text by text")
    rows = [
        [entry.info.name, entry.info.dtype, list(entry.info.shape), entry.coder, entry.params]
        + (["transposed"] if entry.transposed else [])
        for entry in header.entries
    ]
    coders = [coder.to_dict() for coder in header.coders]
    return {"checkpoint": VERSION, "coders": coders, "metadata": header.metadata, "tensors": rows}


def read_header(found: dict[str, Any]) -> Header:
    """Check the JSON object of a header.

    Raises:
        CorruptPayloadError: it is not that of a checkpoint.
        UnsupportedFormatError: it is of another kind of file, or names a coder that this release does not know.
    """
    if found.get("checkpoint") != VERSION:
        raise UnsupportedFormatError(
            f"header: checkpoint version {found.get('checkpoint')!r}; this release reads version {VERSION}"
        )
    if set(found) != {"checkpoint", "coders", "metadata", "tensors"}:
        raise CorruptPayloadError(f"header: fields {sorted(found)}, expected checkpoint, coders, metadata, tensors")
    coders, metadata, rows = found["coders"], found["metadata"], found["tensors"]
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise CorruptPayloadError("header: metadata is not text by text")
    if not isinstance(coders, list) or not isinstance(rows, list):
        raise CorruptPayloadError("header: coders and tensors are not lists")
    entries = tuple(_read_entry(row, len(coders)) for row in rows)
    names = set()
    for entry in entries:
        if entry.info.name in names:
            raise CorruptPayloadError(f"header: two tensors are called {entry.info.name!r}")
        names.add(entry.info.name)
    return Header(tuple(coder_from_dict(coder) for coder in coders), entries, metadata)


def place_records(header: Header, num_records: int) -> tuple[Records, ...]:
    """Tell which records are whose: per coder its shared record, if it has one, then its pieces.

    Raises:
        CorruptPayloadError: there are not as many records as the tensors need.
    """
    placed = []
    at = 0
    for number, coder in enumerate(header.coders):
        entries = header.of_coder(number)
        infos = [entry.stored for entry in entries]
        shared = at if coder.has_shared else None
        at += coder.has_shared
        if at + count_pieces(infos, max(num_records - at, 0)) > num_records:
            raise CorruptPayloadError(f"header: tensors need more than {num_records} records, which the file has")
        cut = tuple(pieces(infos))
        placed.append(Records(coder, entries, shared, at, cut))
        at += len(cut)
    if at != num_records:
        raise CorruptPayloadError(f"header: tensors need {at} records, the file has {num_records}")
    return tuple(placed)


def describe(infos: Sequence[TensorInfo], piece: Piece) -> str:
    """Name the tensors of a piece, for errors."""
    names = [infos[segment.tensor].name for segment in piece]
    if len(names) == 1 and (piece[0].start or piece[0].stop < infos[piece[0].tensor].num_elements):
        return f"{names[0]} [{piece[0].start}:{piece[0].stop}]"
    return listing(names)


def listing(names: Sequence[str]) -> str:
    """Give the first names, and how many more there are."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _read_entry(row: Any, num_coders: int) -> Entry:
    if not isinstance(row, list) or len(row) not in (5, 6) or row[5:] not in ([], ["transposed"]):
        raise CorruptPayloadError(f"header: tensor {row!r:.100}: expected name, dtype, shape, coder and parameters")
    name, dtype, shape, coder, params = row[:5]
    what = f"header: tensor {name!r:.100}"
    if not isinstance(name, str) or not isinstance(dtype, str):
        raise CorruptPayloadError(f"{what}: name or dtype is no text")
    if dtype not in DTYPES:
        raise UnsupportedFormatError(f"{what}: dtype {dtype!r:.50} is not known to this release")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or any(type(length) is not int for length in shape):
        raise CorruptPayloadError(f"{what}: shape {shape!r:.100} is not one of at most {MAX_DIMENSIONS} integers")
    num_elements = 1
    for length in shape:
        num_elements *= length
        if not 0 <= length <= MAX_ELEMENTS or num_elements > MAX_ELEMENTS:
            raise CorruptPayloadError(f"{what}: shape {shape!r:.100} has more than 2**48 elements, or less than none")
    if type(coder) is not int or not 0 <= coder < num_coders:
        raise CorruptPayloadError(f"{what}: coder {coder!r:.50}, the file has {num_coders}")
    if len(row) == 6 and (len(shape) < 2 or num_elements == 0):
        raise CorruptPayloadError(f"{what}: shape {shape} cannot be transposed")
    return Entry(TensorInfo(name, dtype, tuple(shape)), coder, params, transposed=len(row) == 6)
