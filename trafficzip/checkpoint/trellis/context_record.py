"""One record of trellis levels by the context coder (FORMAT.md, trellis, records of contexts)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trafficzip.checkpoint.coders.base import Describe
from trafficzip.checkpoint.pieces import Piece
from trafficzip.checkpoint.trellis.layout import Layout
from trafficzip.errors import CorruptPayloadError
from trafficzip.kernels import numba_cpu_context, numba_cpu_trellis
from trafficzip.kernels.context_priors import NUM_SPREADS
from trafficzip.kernels.reference_trellis import POLYNOMIALS
from trafficzip.wire.cursor import Bytes

_STEP_SPREAD = 8  # the spread of a deviation of one step


@dataclass(frozen=True, slots=True, eq=False)
class ContextRecords:
    """Records of levels that are coded by contexts; class 0 is `lowest` quarter octaves above the step."""

    layout: Layout
    num_states: int
    lowest: int

    @property
    def spreads(self) -> NDArray[np.uint8]:
        """The spread of each context, which is a pair of classes: uint8 [contexts]."""
        contexts = np.arange((self.layout.num_classes + 1) // 2)
        return np.clip(contexts + self.lowest // 2 + _STEP_SPREAD, 0, NUM_SPREADS - 1).astype(np.uint8)

    def pack(self, piece: Piece, classes: NDArray[np.uint8], levels: NDArray[np.int16]) -> bytes:
        """Encode the levels of a piece, int16 [n], of classes, uint8 [n]."""
        distances, checks = self.layout.distances(piece), POLYNOMIALS[self.num_states]
        return numba_cpu_context.encode_levels(
            levels, classes // np.uint8(2), distances, self.spreads, *checks
        ).tobytes()

    def unpack(self, piece: Piece, record: Bytes, values: NDArray[np.float32], describe: Describe) -> None:
        """Decode the record of a piece into values, float32 [n].

        Raises:
            CorruptPayloadError: it is not one encoding of n values.
        """
        classes, distances = self.layout.classes(piece), self.layout.distances(piece)
        checks = POLYNOMIALS[self.num_states]
        levels = np.empty(values.size, np.int16)
        if not numba_cpu_context.decode_levels(
            record, classes // np.uint8(2), distances, self.spreads, *checks, levels
        ):
            raise CorruptPayloadError(
                f"record of {describe()}: {record.size} bytes are not one encoding of {values.size} values"
            )
        values[:] = numba_cpu_trellis.dequantize(levels, np.float32(1), *checks)
        starts = self.layout.starts(piece)
        for start, end, step in zip(starts, starts[1:], self.layout.piece_steps(piece), strict=False):
            values[start:end] *= step
