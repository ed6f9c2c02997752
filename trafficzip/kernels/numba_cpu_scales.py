"""Compiled row and column scales of a matrix, and the class that they give every value.

A scale is a whole number of quarter octaves: the base-2 logarithm of a mean square, rounded. Sums run in one order, so
that scales do not depend on the machine.
"""

import numpy as np
from numpy.typing import NDArray

from trafficzip.kernels.numba_cpu_jit import jit


@jit
def row_means(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Give the mean square of each row of float32 [rows, columns]; NaN or infinite where a value is."""
    means = np.zeros(values.shape[0], np.float64)
    partial = np.zeros(8, np.float64)
    for row in range(values.shape[0]):
        partial[:] = 0
        whole = values.shape[1] // 8 * 8
        for column in range(0, whole, 8):  # eight sums side by side: one vector, and still one order
            for lane in range(8):
                value = np.float64(values[row, column + lane])
                partial[lane] += value * value
        total = 0.0
        for lane in range(8):
            total += partial[lane]
        for column in range(whole, values.shape[1]):
            value = np.float64(values[row, column])
            total += value * value
        means[row] = total / values.shape[1]
    return means


@jit
def column_means(values: NDArray[np.float32], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the mean square of each column, rows weighted by `weights`, float64 [rows]."""
    totals = np.zeros(values.shape[1], np.float64)
    for row in range(values.shape[0]):
        weight = weights[row]
        for column in range(values.shape[1]):
            value = np.float64(values[row, column])
            totals[column] += value * value * weight
    for column in range(values.shape[1]):
        totals[column] /= values.shape[0]
    return totals


@jit
def fill_classes(
    rows: NDArray[np.int16], columns: NDArray[np.int16], start: int, last_class: int, classes: NDArray[np.uint8]
) -> None:
    """Write the class of elements `start` and on: row plus column number, but at least 0 and at most last_class.

    rows: int16 [rows].  columns: int16 [columns].  classes: uint8 [n], written.
    """
    width = columns.size
    low, high = columns.min(), columns.max()
    row, column = start // width, start % width
    at = 0
    while at < classes.size:
        count = min(width - column, classes.size - at)
        part, own, offset = classes[at : at + count], columns[column : column + count], np.int64(rows[row])
        if low == high:
            part[:] = min(max(offset + low, 0), last_class)
        elif offset + low >= 0 and offset + high <= last_class:
            for j in range(count):  # modulo 256: whole vectors of bytes
                part[j] = np.uint8(np.uint8(offset) + np.uint8(own[j]))
        else:
            for j in range(count):
                part[j] = min(max(offset + own[j], 0), last_class)
        at += count
        row, column = row + 1, 0


@jit
def sum_squares(
    values: NDArray[np.float32],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    sums: NDArray[np.float64],
    counts: NDArray[np.int64],
) -> None:
    """Add squares, and how many they are, by row plus column number.

    values: float32 [rows, columns].  rows: int64 [rows].  columns: int64 [columns].  sums, counts: written.
    """
    for row in range(values.shape[0]):
        for column in range(values.shape[1]):
            kind = rows[row] + columns[column]
            value = np.float64(values[row, column])
            sums[kind] += value * value
            counts[kind] += 1
