"""One record of trellis levels: its bytes, and the values that they mean (FORMAT.md, trellis records)."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trafficzip.checkpoint.coders.base import Describe
from trafficzip.checkpoint.pieces import Piece
from trafficzip.checkpoint.trellis.layout import Layout
from trafficzip.checkpoint.trellis.tables import Tables
from trafficzip.errors import CorruptPayloadError
from trafficzip.kernels import numba_cpu_tables as kernels
from trafficzip.kernels.reference_trellis import NUM_LANES, following
from trafficzip.wire.cursor import Bytes, Reader, pack_u32s

MAX_MULTIPLE = 1 << 17
_SPARE_WORDS = 8


@dataclass(frozen=True, slots=True, eq=False)
class TableRecords:
    """Records of levels that are coded by tables.

    frequencies: uint16 [classes, 2, 256].  low_bits: uint8 [classes].  entries, wide_entries: the tables that decoding
    looks up, in records where no class keeps low bits, and in others.

    Raises:
        CorruptPayloadError: the tables are none.
    """

    layout: Layout
    num_states: int
    tables: Tables
    frequencies: NDArray[np.uint16] = field(init=False)
    low_bits: NDArray[np.uint8] = field(init=False)
    entries: NDArray[np.uint32] = field(init=False)
    wide_entries: NDArray[np.uint32] = field(init=False)

    def __post_init__(self) -> None:
        frequencies, low_bits = self.tables.frequencies(), self.tables.low_bits
        object.__setattr__(self, "frequencies", frequencies)
        object.__setattr__(self, "low_bits", low_bits)
        object.__setattr__(self, "entries", kernels.decoding_tables(frequencies, low_bits, False))
        wide = kernels.decoding_tables(frequencies, low_bits, True) if low_bits.any() else self.entries
        object.__setattr__(self, "wide_entries", wide)

    def pack(self, piece: Piece, classes: NDArray[np.uint8], levels: NDArray[np.int16]) -> bytes:
        """Encode the levels of a piece, int16 [n], of classes, uint8 [n]; n is a multiple of 8."""
        lanes, words, lows, patches = kernels.encode(
            levels, classes, self.frequencies, self.low_bits, following(self.num_states)
        )
        return b"".join(
            (
                pack_u32s(patches.shape[0], *lanes.tolist()),
                patches.astype("<i4").tobytes(),
                lows.astype("<u2").tobytes(),
                words.astype("<u2").tobytes(),
            )
        )

    def unpack(self, piece: Piece, record: Bytes, values: NDArray[np.float32], describe: Describe) -> None:
        """Decode the record of a piece into values, float32 [n].

        Raises:
            CorruptPayloadError: it is not one encoding of n values.
        """
        reader = Reader(record, what=f"record of {describe()}")
        num_patches, *lanes = reader.fields("<9I", "states")
        patches = reader.take(8 * num_patches, f"{num_patches} patches").tobytes()
        after, start = following(self.num_states), np.array(lanes, np.uint32)
        classes, ends, steps = self.layout.classes(piece), self.layout.ends(piece), self.layout.piece_steps(piece)
        low_bits = self.low_bits
        if low_bits[classes.max()]:  # they grow with the class
            num_bits = int(low_bits[classes].sum(dtype=np.int64))
            lows = _words(reader.take((num_bits + 15) // 16 * 2, "low bits"), 1)
            words = _words(reader.take(record.size - reader.at, "words"), _SPARE_WORDS)
            entries = self.wide_entries
            found = kernels.decode_wide(words, start, lows, entries, classes, low_bits, ends, steps, after, values)
        else:
            words = _words(reader.take(record.size - reader.at, "words"), _SPARE_WORDS)
            found = kernels.decode(words, start, self.entries, classes, ends, steps, after, values)
        if not found or record.size % 2:
            raise CorruptPayloadError(
                f"record of {describe()}: {record.size} bytes are not one encoding of {values.size} values"
            )
        if num_patches:
            _patch(np.frombuffer(patches, "<i4").reshape(-1, 2), ends, steps, values, describe)


def _words(data: Bytes, spare: int) -> NDArray[np.uint16]:
    """Copy little-endian words, with some to spare: kernels read ahead."""
    words = np.zeros(data.size // 2 + spare, np.uint16)
    words[: data.size // 2] = np.frombuffer(data[: data.size // 2 * 2].tobytes(), "<u2")
    return words


def _patch(
    patches: NDArray[np.int32],
    ends: NDArray[np.int64],
    steps: NDArray[np.float32],
    values: NDArray[np.float32],
    describe: Describe,
) -> None:
    places, multiples = patches[:, 0].astype(np.int64), patches[:, 1].astype(np.int64)
    ordered = (np.diff(places) > 0).all() and places[0] >= 0 and places[-1] < values.size
    if not ordered or np.abs(multiples).max() > MAX_MULTIPLE:
        raise CorruptPayloadError(f"record of {describe()}: patches out of order or range")
    values[places] = multiples.astype(np.float32) * steps[np.searchsorted(ends, places, side="right")]


assert NUM_LANES == 8  # lanes in the header of a record
