"""The encoder's search: which levels a piece gets, and the tables that levels are worth."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from trafficzip.checkpoint.coders.base import Job
from trafficzip.checkpoint.pieces import Piece, sample_pieces
from trafficzip.checkpoint.tensors import Array
from trafficzip.checkpoint.trellis.layout import Layout
from trafficzip.checkpoint.trellis.tables import Tables, fit_tables, guess_tables
from trafficzip.kernels import numba_cpu_tables, numba_cpu_trellis
from trafficzip.kernels.reference_tables import NUM_SYMBOLS
from trafficzip.kernels.reference_trellis import following, predecessors
from trafficzip.kernels.threads import run_in_threads

FIT_PIECES = 24  # tables of a large file are fitted to so many pieces, those of a small one to all


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """What decides on levels.

    slopes: float32 [tensors], squared error, in squared steps, that a bit may cost.  tables: what codes levels.
    rates: bits of levels that the search reckons with; of the tables before the last fit, as a fit to what a search
    found would not be one to what the next search finds.
    """

    layout: Layout
    num_states: int
    slopes: NDArray[np.float32]
    tables: Tables
    rates: NDArray[np.float32]

    def levels(self, piece: Piece, arrays: Sequence[Array]) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
        """Give the classes and the levels of a record."""
        classes = self.layout.classes(piece)
        values = self.layout.scaled(piece, arrays)
        return classes, self.search(values, classes, self.slopes[piece[0].tensor], numba_cpu_trellis.START)

    def search(
        self,
        values: NDArray[np.float32],
        classes: NDArray[np.uint8],
        slope: np.float32,
        starts: NDArray[np.int64],
    ) -> NDArray[np.int16]:
        """Give the levels of values in steps, from these states of the lanes on."""
        before = _before(self.num_states)
        return numba_cpu_trellis.quantize(values, classes, np.float32(1), slope, self.rates, before, starts)


def fit_search(job: Job, layout: Layout, *, lowest: int, num_states: int, slope: float, passes: int) -> Search:
    """Fit rates and tables to some pieces, `passes` times for the rates and once more for the tables."""
    sample = sample_pieces(job.infos, FIT_PIECES)
    tables = guess_tables(lowest, layout.num_classes)
    slopes = np.where(job.exact or (False,) * len(job.infos), 0, slope).astype(np.float32)
    for _ in range(passes + 1):
        search = Search(layout, num_states, slopes, tables, tables.rates())
        jobs = [(search, piece, job) for piece, _ in sample]
        counts = np.zeros((layout.num_classes, 2, NUM_SYMBOLS), np.int64)
        for (_, share), found in zip(sample, run_in_threads(_count, jobs, job.num_threads), strict=True):
            counts += found * round(share)
        tables = fit_tables(lowest, counts)
    return Search(layout, num_states, slopes, tables, search.rates)


def _count(search: Search, piece: Piece, job: Job) -> NDArray[np.int64]:
    counts = np.zeros((search.layout.num_classes, 2, NUM_SYMBOLS), np.int64)
    arrays = [job.read(segment.tensor).reshape(-1)[segment.start : segment.stop] for segment in piece]
    classes, levels = search.levels(piece, arrays)
    numba_cpu_tables.count(levels, classes, search.tables.low_bits, following(search.num_states), counts)
    return counts


@cache
def _before(num_states: int) -> NDArray[np.int64]:
    return np.array(predecessors(num_states), np.int64)
