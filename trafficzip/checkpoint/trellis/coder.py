"""Trellis-coded quantization of tensors: row and column scales choose the table of every level."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2
from typing import Any, ClassVar

import numpy as np

from trafficzip.checkpoint.coders.base import Coder, Decode, Describe, Encoding, Job
from trafficzip.checkpoint.pieces import Piece
from trafficzip.checkpoint.tensors import Array, TensorInfo
from trafficzip.checkpoint.trellis.context_record import ContextRecords
from trafficzip.checkpoint.trellis.layout import Layout, class_range, make_layout
from trafficzip.checkpoint.trellis.record import TableRecords
from trafficzip.checkpoint.trellis.scales import (
    MAX_STEP_INDEX,
    MIN_STEP_INDEX,
    STEPS_PER_OCTAVE,
    Scales,
    fit_scales,
    matrix_shape,
    step_of,
)
from trafficzip.checkpoint.trellis.search import Search, fit_search
from trafficzip.checkpoint.trellis.side import (
    BOTH,
    COLUMNS,
    LOWEST_CLASS,
    ROWS,
    Side,
    pack_side,
    scale_kind,
    unpack_side,
)
from trafficzip.checkpoint.trellis.tables import MAX_CLASSES
from trafficzip.errors import ConfigError, CorruptPayloadError
from trafficzip.kernels.reference_trellis import NUM_LANES, POLYNOMIALS
from trafficzip.wire.cursor import Bytes

MAX_SCALED = 60_000  # steps: levels are int16


@dataclass(frozen=True, slots=True, kw_only=True)
class Trellis(Coder):
    """Quantize by a trellis and code the levels by tables, or by adaptive contexts that see neighbours.

    num_states: 1 (uniform quantization), 4, 8, 16, 32, 64, 256; encoding takes longer with more, decoding does not.
    context: code by contexts: about a tenth of the speed, 5 to 10 % smaller for small convolutional networks.
    slope: what a bit may cost in squared error, in squared steps.  passes: how often the search fits its rates.

    Raises:
        ConfigError: a field is out of range.
    """

    kind: ClassVar[str] = "trellis"
    has_shared: ClassVar[bool] = True
    num_states: int = 64
    context: bool = False
    slope: float = 0.4
    passes: int = 2

    def __post_init__(self) -> None:
        if self.num_states not in POLYNOMIALS:
            raise ConfigError(f"trellis: num_states is {self.num_states}, expected 1, 4, 8, 16, 32, 64 or 256")
        if not 0 <= self.slope <= 16 or not 0 <= self.passes <= 8:
            raise ConfigError(f"trellis: slope {self.slope} or passes {self.passes}: expected 0 to 16, and 0 to 8")

    def check(self, info: TensorInfo) -> None:
        """Check that the tensor is of floating point numbers."""
        if not info.is_float:
            raise ConfigError(f"{info}: only floating point numbers can be quantized; store it losslessly")
        if info.dtype == "float8_e8m0fnu":
            raise ConfigError(f"{info}: powers of two, without 0, cannot be quantized; store it losslessly")

    def plan(self, job: Job) -> Encoding:
        """Fit scales and tables to the tensors."""
        scales, steps, search = self.prepare(job)
        layout = search.layout
        side = Side(scales, search.tables.lowest, layout.num_classes, None if self.context else search.tables)
        records = self._records(layout, side)

        def encode(piece: Piece, arrays: Sequence[Array]) -> bytes:
            return records.pack(piece, *search.levels(piece, arrays))

        params = tuple([step, scale_kind(scale)] for step, scale in zip(steps, scales, strict=True))
        return Encoding(params, pack_side(side), encode)

    def prepare(self, job: Job) -> tuple[tuple[Scales, ...], tuple[int, ...], Search]:
        """Fit scales, steps and the search to the tensors.

        Raises:
            ConfigError: a tensor cannot be quantized.
        """
        fitted = [self._fit(info, job.read(place), job.steps[place]) for place, info in enumerate(job.infos)]
        scales, steps = tuple(scale for scale, _ in fitted), tuple(step for _, step in fitted)
        lowest, highest = class_range(scales, steps)
        lowest = max(lowest, LOWEST_CLASS)
        num_classes = min(max(highest - lowest + 1, 1), MAX_CLASSES)
        layout = self._layout(job.infos, steps, Side(scales, lowest, num_classes, None))
        search = fit_search(
            job, layout, lowest=lowest, num_states=self.num_states, slope=self.slope, passes=self.passes
        )
        return scales, steps, search

    def decoder(self, infos: Sequence[TensorInfo], params: Sequence[Any], shared: Bytes | None) -> Decode:
        """Read scales and tables."""
        assert shared is not None
        steps, kinds = _read_params(infos, params)
        side = unpack_side(shared, infos, kinds, has_tables=not self.context)
        layout = self._layout(infos, steps, side)
        records = self._records(layout, side)

        def decode(piece: Piece, record: Bytes, outs: Sequence[Array], describe: Describe) -> None:
            starts = layout.starts(piece)
            if len(outs) == 1 and outs[0].dtype == np.float32 and outs[0].size == starts[-1]:
                records.unpack(piece, record, outs[0], describe)
                return
            values = np.empty(starts[-1], np.float32)
            records.unpack(piece, record, values, describe)
            for out, start in zip(outs, starts, strict=False):
                with np.errstate(over="ignore"):
                    out[...] = values[start : start + out.size]

        return decode

    def _layout(self, infos: Sequence[TensorInfo], steps: Sequence[int], side: Side) -> Layout:
        unit = 1 if self.context else NUM_LANES
        return make_layout(infos, side.scales, steps, lowest=side.lowest, num_classes=side.num_classes, unit=unit)

    def _records(self, layout: Layout, side: Side) -> TableRecords | ContextRecords:
        if side.tables is None:
            return ContextRecords(layout, self.num_states, side.lowest)
        return TableRecords(layout, self.num_states, side.tables)

    def _fit(self, info: TensorInfo, array: Array, step: int | None) -> tuple[Scales, int]:
        if step is None:
            raise ConfigError(f"{info}: no step was chosen")
        if info.num_elements == 0:
            return Scales(np.zeros(1, np.int16), np.zeros(1, np.int16)), step
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(array.astype(np.float32, copy=False)).reshape(matrix_shape(info))
        largest = float(max(values.max(), -values.min()))
        if not largest < np.inf:  # NaN too
            raise ConfigError(f"{info}: has values that are NaN, infinite, or beyond float32; it cannot be quantized")
        if largest > 0:
            step = max(step, int(np.ceil(STEPS_PER_OCTAVE * log2(largest / MAX_SCALED))))
            while largest / float(step_of(step)) > MAX_SCALED:  # the logarithm above is not exact
                step += 1
        if not MIN_STEP_INDEX <= step <= MAX_STEP_INDEX:
            raise ConfigError(f"{info}: step 2**({step} / {STEPS_PER_OCTAVE}) is out of range")
        return fit_scales(values, step), step


def _read_params(infos: Sequence[TensorInfo], params: Sequence[Any]) -> tuple[list[int], list[int]]:
    steps, kinds = [], []
    for info, entry in zip(infos, params, strict=True):
        if not (isinstance(entry, list) and len(entry) == 2 and all(type(number) is int for number in entry)):
            raise CorruptPayloadError(f"{info}: parameters of the trellis are {entry!r}, expected two integers")
        step, kind = entry
        if not MIN_STEP_INDEX <= step <= MAX_STEP_INDEX or not 0 <= kind <= BOTH or not info.is_float:
            raise CorruptPayloadError(f"{info}: parameters of the trellis are {entry!r}: out of range")
        num_rows, num_columns = matrix_shape(info)
        if (kind & ROWS and num_rows < 2) or (kind & COLUMNS and num_columns < 2):
            raise CorruptPayloadError(f"{info}: parameters of the trellis are {entry!r}: no such scales")
        steps.append(step)
        kinds.append(kind)
    return steps, kinds
