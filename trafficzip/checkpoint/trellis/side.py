"""What all records of a trellis coder share: the scales of its tensors and the tables (FORMAT.md, trellis)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficzip.checkpoint.tensors import TensorInfo
from trafficzip.checkpoint.trellis.scales import DEPTH, Scales, matrix_shape
from trafficzip.checkpoint.trellis.tables import MAX_CLASSES, Tables
from trafficzip.errors import CorruptPayloadError
from trafficzip.kernels.numba_cpu_context import decode_integers, encode_integers
from trafficzip.kernels.reference_tables import TABLE_SIZE, ZERO
from trafficzip.wire.cursor import Bytes, Reader, pack_u8s

NONE, ROWS, COLUMNS, BOTH = range(4)
LOWEST_CLASS = -10  # below, nearly all levels are 0 anyway
_MAX_SCALE = 600
_SPREADS = np.array([18, 10, 10, 10], np.uint8)  # of contexts: whole tensors, rows, columns, frequencies
_WHOLE, _ROW, _COLUMN, _FREQUENCY = range(4)


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """The scales of each tensor; what class 0 is; how many classes there are; tables, if levels are coded by them."""

    scales: tuple[Scales, ...]
    lowest: int
    num_classes: int
    tables: Tables | None


def scale_kind(scales: Scales) -> int:
    """Tell which sides have scales."""
    return ROWS * (scales.rows.size > 1) + COLUMNS * (scales.columns.size > 1)


def pack_side(side: Side) -> bytes:
    """Write lowest class, number of classes and lengths of tables as bytes, the rest by the context coder."""
    numbers: list[NDArray[Any]] = []
    contexts: list[NDArray[np.uint8]] = []

    def add(values: NDArray[Any], context: int) -> None:
        numbers.append(values)
        contexts.append(np.full(values.size, context, np.uint8))

    for scales in side.scales:
        for part, context in zip((scales.rows, scales.columns), (_ROW, _COLUMN), strict=True):
            middle = int(np.median(part))
            add(np.array([middle]), _WHOLE)
            if part.size > 1:
                add(part.astype(np.int64) - middle, context)
    halves = [half for pair in side.tables.halves for half in pair] if side.tables else []
    for half in halves:
        add(np.diff(np.array((0, *half), np.int64)), _FREQUENCY)
    head = pack_u8s(side.lowest - LOWEST_CLASS, side.num_classes, *(len(half) for half in halves))
    coded = encode_integers(
        np.concatenate(numbers).astype(np.int32) if numbers else np.zeros(0, np.int32),
        np.concatenate(contexts) if contexts else np.zeros(0, np.uint8),
        _SPREADS,
    )
    return head + coded.tobytes()


def unpack_side(record: Bytes, infos: Sequence[TensorInfo], kinds: Sequence[int], *, has_tables: bool) -> Side:
    """Read what `pack_side` wrote.

    Raises:
        CorruptPayloadError: it is not that.
    """
    reader = Reader(record, what="scales and tables of the trellis")
    above, num_classes = reader.fields("<2B", "classes")
    if not 1 <= num_classes <= MAX_CLASSES:
        raise CorruptPayloadError(f"trellis: {num_classes} classes, expected 1 to {MAX_CLASSES}")
    lengths = reader.take(2 * num_classes, "lengths of tables").tolist() if has_tables else []
    if max(lengths, default=0) >= ZERO:
        raise CorruptPayloadError(f"trellis: table of {max(lengths)} frequencies, expected less than {ZERO}")
    sizes: list[int] = []
    contexts: list[int] = []
    for info, kind in zip(infos, kinds, strict=True):
        num_rows, num_columns = matrix_shape(info)
        for bit, size, context in ((ROWS, num_rows, _ROW), (COLUMNS, num_columns, _COLUMN)):
            sizes += [1, size] if kind & bit else [1]
            contexts += [_WHOLE, context] if kind & bit else [_WHOLE]
    sizes += lengths
    contexts += [_FREQUENCY] * len(lengths)
    numbers = np.empty(sum(sizes), np.int32)
    every = np.repeat(np.array(contexts, np.uint8), sizes)
    if not decode_integers(record[reader.at :], every, _SPREADS, numbers):
        raise CorruptPayloadError(
            f"trellis: {record.size - reader.at} bytes are not {numbers.size} scales and frequencies"
        )
    parts = np.split(numbers, np.cumsum(sizes)[:-1]) if sizes else []
    scales, at = [], 0
    for info, kind in zip(infos, kinds, strict=True):
        sides = []
        for bit in (ROWS, COLUMNS):
            middle = parts[at]
            sides.append(_checked(middle + parts[at + 1] if kind & bit else middle, info))
            at += 2 if kind & bit else 1
        scales.append(Scales(*sides))
    halves = [tuple(np.cumsum(part).tolist()) for part in parts[at:]]
    if any(not 0 <= frequency <= TABLE_SIZE for half in halves for frequency in half):
        raise CorruptPayloadError(f"trellis: a frequency is not in 0..{TABLE_SIZE}")
    tables = Tables(above + LOWEST_CLASS, tuple(zip(halves[::2], halves[1::2], strict=True))) if has_tables else None
    return Side(tuple(scales), above + LOWEST_CLASS, num_classes, tables)


def _checked(scales: NDArray[np.int32], info: TensorInfo) -> NDArray[np.int16]:
    if scales.max() > _MAX_SCALE or scales.min() < -_MAX_SCALE or scales.max() - scales.min() > DEPTH:
        raise CorruptPayloadError(f"trellis: scales of {info} are out of range")
    return scales.astype(np.int16)
