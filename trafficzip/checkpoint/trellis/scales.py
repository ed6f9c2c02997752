"""Row and column scales of a tensor: small integers that choose, with the step, the table of every value."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, log2

import numpy as np
from numpy.typing import NDArray

from trafficzip.checkpoint.tensors import TensorInfo
from trafficzip.kernels import numba_cpu_scales as kernels

STEPS_PER_OCTAVE = 32  # a step is 2**(index / 32)
CLASSES_PER_OCTAVE = 4
MAX_KERNEL = 15  # length of the last axis of a convolution kernel
_LARGEST = 600
DEPTH = 48  # a scale this far below the largest one says: nothing to speak of
_BOUNDS: tuple[float, float] = (2.0**-0.75, 2.0**-0.25)  # between quarter octaves, of a square
_STEP_TABLE = np.array([2.0 ** (i / STEPS_PER_OCTAVE) for i in range(STEPS_PER_OCTAVE)], np.float32)
MIN_STEP_INDEX, MAX_STEP_INDEX = -100 * STEPS_PER_OCTAVE, 100 * STEPS_PER_OCTAVE
Matrix = NDArray[np.float32]


def step_of(index: int) -> np.float32:
    """Give the step of an index: 2**(index / 32), correctly rounded to float32."""
    return np.float32(np.ldexp(_STEP_TABLE[index % STEPS_PER_OCTAVE], index // STEPS_PER_OCTAVE))


def matrix_shape(info: TensorInfo) -> tuple[int, int]:
    """Give rows and columns: the first axis against the rest; a vector or a number is one row.

    Of stacked matrices, the first two axes against the last one.
    """
    if len(info.shape) < 2 or info.num_elements == 0:
        return 1, info.num_elements
    rows = info.shape[0] * (info.shape[1] if num_matrices(info.shape) > 1 else 1)
    return rows, info.num_elements // rows


def num_matrices(shape: Sequence[int]) -> int:
    """Give how many matrices are stacked: three axes whose last one is longer than a convolution kernel are a stack."""
    return shape[0] if len(shape) == 3 and shape[2] > MAX_KERNEL else 1


@dataclass(frozen=True, slots=True)
class Scales:
    """Quarter octaves of rows and columns; an element's scale is the sum of both.

    rows: int16 [rows] or [1] for all.  columns: int16 [columns] or [1] for all.
    """

    rows: NDArray[np.int16]
    columns: NDArray[np.int16]


def fit_scales(values: Matrix, step_index: int) -> Scales:
    """Choose scales of a matrix: by rows, by columns, by both or one for all, whatever needs fewest bits.

    values: float32 [rows, columns], finite, not empty.
    """
    means = kernels.row_means(values)
    whole = np.array([fsum(means.tolist()) / means.size])
    none = np.zeros(1, np.int16)
    options = [(_value_bits(whole * values.size, np.array([values.size]), step_index), Scales(_logs(whole), none))]
    if min(values.shape) > 1:
        height, width = values.shape
        rows, across = _logs(means), kernels.column_means(values, np.ones(height))
        columns = _logs(across)
        options.append((_line_bits(rows, means, width, step_index), Scales(rows, none)))
        options.append((_line_bits(columns, across, height, step_index), Scales(none, columns)))
        both = Scales(rows, _logs(kernels.column_means(values, np.exp2(-0.5 * rows))))
        options.append((_cell_bits(both, values, step_index), both))
    return min(options, key=lambda option: round(option[0]))[1]


def _logs(means: NDArray[np.float64]) -> NDArray[np.int16]:
    """Round four times the base-2 logarithms of the roots of mean squares, exactly: no library decides a class."""
    fractions, exponents = np.frexp(means)
    logs = 2 * exponents - (fractions < _BOUNDS[0]) - (fractions < _BOUNDS[1])
    known: NDArray[np.int16] = np.where(means == 0, -_LARGEST, logs).astype(np.int16)
    return np.maximum(known, np.int16(known.max() - DEPTH))


def _side_bits(scales: NDArray[np.int16]) -> float:
    """Estimate bits of the scales of one side, at their entropy and a few for each that occurs."""
    if scales.size == 1:
        return 0.0
    _, counts = np.unique(scales, return_counts=True)
    return fsum(count * log2(scales.size / count) + 6 for count in counts.tolist())


def _value_bits(sums: NDArray[np.float64], counts: NDArray[np.int64], step_index: int) -> float:
    """Estimate bits of Gaussian values of every class, by the sum of their squares, at the distortion of the step."""
    noise = 2.0 ** (2 * step_index / STEPS_PER_OCTAVE) / 4
    return fsum(
        count * 0.5 * log2(1 + square / count / noise)
        for square, count in zip(sums.tolist(), counts.tolist(), strict=True)
        if count
    )


def _line_bits(scales: NDArray[np.int16], means: NDArray[np.float64], length: int, step_index: int) -> float:
    """Estimate bits of a matrix whose rows, or columns, of `length` values have scales and mean squares."""
    kinds = scales.astype(np.int64) - int(scales.min())
    sums = np.bincount(kinds, means * length).astype(np.float64)
    return _side_bits(scales) + _value_bits(sums, np.bincount(kinds) * length, step_index)


def _cell_bits(scales: Scales, values: Matrix, step_index: int) -> float:
    """Estimate bits of a matrix with scales of rows and columns."""
    rows, columns = (side.astype(np.int64) - int(side.min()) for side in (scales.rows, scales.columns))
    num_classes = int(rows.max() + columns.max()) + 1
    sums, counts = np.zeros(num_classes), np.zeros(num_classes, np.int64)
    kernels.sum_squares(values, rows, columns, sums, counts)
    return _side_bits(scales.rows) + _side_bits(scales.columns) + _value_bits(sums, counts, step_index)
