"""Where the values of a piece lie in its record, and the class, neighbours and step of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficzip.checkpoint.pieces import Piece
from trafficzip.checkpoint.tensors import Array, TensorInfo
from trafficzip.checkpoint.trellis.scales import (
    CLASSES_PER_OCTAVE,
    MAX_KERNEL,
    STEPS_PER_OCTAVE,
    Scales,
    matrix_shape,
    step_of,
)
from trafficzip.kernels import numba_cpu_scales as kernels
from trafficzip.kernels.reference_trellis import NUM_LANES

_HALF_CLASS = STEPS_PER_OCTAVE // CLASSES_PER_OCTAVE // 2


def class_offset(step_index: int) -> int:
    """Give what is subtracted from a scale, so that it counts quarter octaves above the step."""
    return (step_index + _HALF_CLASS) * CLASSES_PER_OCTAVE // STEPS_PER_OCTAVE


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The tensors of a coder as matrices.

    rows, columns: per tensor int16 [rows] and [columns]; their sum is the class of an element, before it is limited to
    0..num_classes - 1.  steps: float32 [tensors].  neighbours: per tensor one period of distances, uint8 [kernel].
    unit: every segment of a record is filled up to a multiple of it.
    """

    rows: tuple[NDArray[np.int16], ...]
    columns: tuple[NDArray[np.int16], ...]
    steps: NDArray[np.float32]
    neighbours: tuple[NDArray[np.uint8], ...]
    num_classes: int
    unit: int = NUM_LANES

    def starts(self, piece: Piece) -> list[int]:
        """Give where each segment starts in the record, and where the last one ends."""
        starts = [0]
        for segment in piece:
            starts.append(starts[-1] - (segment.start - segment.stop) // self.unit * self.unit)
        return starts

    def classes(self, piece: Piece) -> NDArray[np.uint8]:
        """Give the class of every value of a record: uint8 [n]; those that only fill up are in class 0."""
        starts = self.starts(piece)
        classes = np.empty(starts[-1], np.uint8)
        for segment, start, stop in zip(piece, starts, starts[1:], strict=False):
            end = start + segment.stop - segment.start
            rows, columns = self.rows[segment.tensor], self.columns[segment.tensor]
            kernels.fill_classes(rows, columns, segment.start, self.num_classes - 1, classes[start:end])
            classes[end:stop] = 0
        return classes

    def distances(self, piece: Piece) -> NDArray[np.uint8]:
        """Give the neighbours of every value of a record as the context coder has them: uint8 [n]."""
        starts = self.starts(piece)
        distances = np.zeros(starts[-1], np.uint8)
        for segment, start in zip(piece, starts, strict=False):
            kernel = self.neighbours[segment.tensor]
            if kernel.size > 1:
                count = segment.stop - segment.start
                first = segment.start % kernel.size
                periods = -(-(first + count) // kernel.size)
                distances[start : start + count] = np.tile(kernel, periods)[first : first + count]
        return distances

    def scaled(self, piece: Piece, arrays: Sequence[Array]) -> NDArray[np.float32]:
        """Give the values of a piece in steps, as its record has them: float32 [n]."""
        starts = self.starts(piece)
        values = np.zeros(starts[-1], np.float32)
        for segment, array, start in zip(piece, arrays, starts, strict=False):
            part = values[start : start + array.size]
            np.multiply(array.astype(np.float32, copy=False), np.float32(1) / self.steps[segment.tensor], out=part)
        return values

    def piece_steps(self, piece: Piece) -> NDArray[np.float32]:
        """Give the step of each segment: float32 [segments]."""
        return self.steps[[segment.tensor for segment in piece]]

    def ends(self, piece: Piece) -> NDArray[np.int64]:
        """Give where each segment ends in the record: int64 [segments]."""
        return np.array(self.starts(piece)[1:], np.int64)


def make_layout(
    infos: Sequence[TensorInfo],
    scales: Sequence[Scales],
    step_indices: Sequence[int],
    *,
    lowest: int,
    num_classes: int,
    unit: int,
) -> Layout:
    """Lay tensors out; class 0 is `lowest` quarter octaves above the step."""
    rows, columns = [], []
    for info, scale, index in zip(infos, scales, step_indices, strict=True):
        num_rows, num_columns = matrix_shape(info)
        rows.append(_full(scale.rows, num_rows) - np.int16(class_offset(index) + lowest))
        columns.append(_full(scale.columns, num_columns))
    return Layout(
        rows=tuple(rows),
        columns=tuple(columns),
        steps=np.array([step_of(index) for index in step_indices], np.float32),
        neighbours=tuple(kernel_neighbours(info.shape) for info in infos),
        num_classes=num_classes,
        unit=unit,
    )


def kernel_neighbours(shape: Sequence[int]) -> NDArray[np.uint8]:
    """Give the distances to the left neighbour and to the one above inside a convolution kernel; one 0 for others.

    shape: of a weight, [out, in, width] or [out, in, ..., height, width].  Returns: uint8 [height * width].
    """
    height, width = (shape[-2] if len(shape) > 3 else 1, shape[-1]) if len(shape) > 2 else (1, 1)
    if height * width == 1 or width > MAX_KERNEL or height > 2 * MAX_KERNEL:
        return np.zeros(1, np.uint8)
    left = np.arange(width) > 0
    above = (np.arange(height) > 0) * width
    return (left[None, :] + (above[:, None] << 4)).astype(np.uint8).ravel()


def _full(scales: NDArray[np.int16], length: int) -> NDArray[np.int16]:
    return np.full(length, scales[0], np.int16) if scales.size == 1 else scales


def class_range(scales: Sequence[Scales], step_indices: Sequence[int]) -> tuple[int, int]:
    """Give the lowest and the highest class of any element, in quarter octaves above the step."""
    bounds: list[Any] = [(0, 0)] if not scales else []
    for scale, index in zip(scales, step_indices, strict=True):
        offset = class_offset(index)
        bounds.append(
            (scale.rows.min() + scale.columns.min() - offset, scale.rows.max() + scale.columns.max() - offset)
        )
    return int(min(low for low, _ in bounds)), int(max(high for _, high in bounds))
