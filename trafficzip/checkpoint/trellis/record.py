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
_HEAD_BYTES = 36  # number of patches, states


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
        reader = Reader(record, what=lambda: f"record of {describe()}")
        num_patches, *lanes = reader.fields("<9I", "states")
        if num_patches > (record.size - _HEAD_BYTES) // 8:
            raise CorruptPayloadError(f"record of {describe()}: {record.size} bytes cannot hold {num_patches} patches")
        patches = reader.take(8 * num_patches, "patches")
        after, start = following(self.num_states), np.array(lanes, np.uint32)
        classes, ends, steps = self.layout.classes(piece), self.layout.ends(piece), self.layout.piece_steps(piece)
        low_bits, num_lows = self.low_bits, 0
        wide = bool(low_bits[-1]) and bool(low_bits[classes.max()])  # they grow with the class
        if wide:
            num_lows = (int(kernels.count_low_bits(classes, low_bits)) + 15) // 16
        if record.size % 2 or record.size - reader.at < 2 * num_lows:
            raise CorruptPayloadError(
                f"record of {describe()}: {record.size} bytes, expected an even number, {2 * num_lows} for low bits"
            )
        lows = _words(reader.take(2 * num_lows, "low bits"), 2)
        words = _words(reader.take(record.size - reader.at, "words"), _SPARE_WORDS)
        if wide:
            entries = self.wide_entries
            found = kernels.decode_wide(words, start, lows, entries, classes, low_bits, ends, steps, after, values)
        else:
            found = kernels.decode(words, start, self.entries, classes, ends, steps, after, values)
        if not found:
            raise CorruptPayloadError(
                f"record of {describe()}: {record.size} bytes are not one encoding of {values.size} values"
            )
        if num_patches and not kernels.patch(_integers(patches), ends, steps, MAX_MULTIPLE, values):
            raise CorruptPayloadError(f"record of {describe()}: patches out of order or range")


def _integers(data: Bytes) -> NDArray[np.int32]:
    """Copy little-endian pairs of integers."""
    pairs = np.empty((data.size // 8, 2), "<i4")
    pairs.reshape(-1).view(np.uint8)[...] = data
    return pairs


def _words(data: Bytes, spare: int) -> NDArray[np.uint16]:
    """Copy little-endian words, with some to spare: kernels read ahead."""
    size = data.size // 2
    words = np.empty(size + spare, "<u2")
    words[size:] = 0
    words[:size].view(np.uint8)[...] = data[: 2 * size]
    return words


assert NUM_LANES == 8  # lanes in the header of a record
