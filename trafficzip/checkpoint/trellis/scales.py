"""Row and column scales of a tensor: small integers that choose, with the step, the table of every value."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import frexp, fsum, log2

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
    whole = np.array([_log2(fsum(means.tolist()) / means.size)], np.int16)
    none = np.zeros(1, np.int16)
    options = [Scales(whole, none)]
    if min(values.shape) > 1:
        rows = _logs(means)
        options.append(Scales(rows, none))
        options.append(Scales(none, _logs(kernels.column_means(values, np.ones(values.shape[0])))))
        options.append(Scales(rows, _logs(kernels.column_means(values, np.exp2(-0.5 * rows)))))
    return min(options, key=lambda scales: _estimate(scales, values, step_index))


def _log2(mean: float) -> int:
    """Round four times the base-2 logarithm of the root of a mean square, exactly: no library decides a class."""
    if mean == 0:
        return -_LARGEST
    fraction, exponent = frexp(mean)
    return int(2 * exponent) - sum(fraction < bound for bound in _BOUNDS)


def _logs(means: NDArray[np.float64]) -> NDArray[np.int16]:
    logs = np.array([_log2(mean) for mean in means.tolist()], np.int16)
    return np.maximum(logs, np.int16(logs.max() - DEPTH))


def _estimate(scales: Scales, values: Matrix, step_index: int) -> float:
    """Estimate bits: of the scales, and of Gaussian values of every class at the distortion of the step."""
    bits = 0.0
    kinds = []
    for side, length in zip((scales.rows, scales.columns), values.shape, strict=True):
        if side.size > 1:
            _, counts = np.unique(side, return_counts=True)
            bits += fsum(count * log2(side.size / count) + 6 for count in counts.tolist())
        lowest = side.astype(np.int64) - int(side.min())
        kinds.append(np.full(length, lowest[0]) if side.size == 1 else lowest)
    num_classes = int(kinds[0].max() + kinds[1].max()) + 1
    sums, totals = np.zeros(num_classes), np.zeros(num_classes, np.int64)
    kernels.sum_squares(values, kinds[0], kinds[1], sums, totals)
    noise = 2.0 ** (2 * step_index / STEPS_PER_OCTAVE) / 4
    for square, count in zip(sums.tolist(), totals.tolist(), strict=True):
        if count:
            bits += count * 0.5 * log2(1 + square / count / noise)
    return float(round(bits))
