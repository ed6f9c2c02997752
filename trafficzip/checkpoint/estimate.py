"""What a file would be, from a sample: its size and its error."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from trafficzip.checkpoint.coders.base import Coder, Decode, Encoding, Job
from trafficzip.checkpoint.pieces import Piece, sample_pieces
from trafficzip.checkpoint.tensors import Source
from trafficzip.checkpoint.writer import Assignment, make_job, piece_arrays
from trafficzip.kernels.threads import run_in_threads

_RECORD_BYTES = 8  # in the index
_TENSOR_BYTES = 12  # in the packed header, about
_FILE_BYTES = 150


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes of a file; squared error and squared norm of all that has a step."""

    size: float
    squared_error: float
    squared_norm: float

    @property
    def relative_error(self) -> float:
        """Norm of the error over norm of the values."""
        return sqrt(self.squared_error / self.squared_norm) if self.squared_norm else 0.0


def estimate(source: Source, assignments: Sequence[Assignment], num_threads: int = 1) -> Estimate:
    """Encode the pieces of small coders and some of large ones, and decode them where that shows an error."""
    size = float(_FILE_BYTES + _TENSOR_BYTES * len(assignments))
    error = norm = 0.0
    for coder in dict.fromkeys(assignment.coder for assignment in assignments):
        own = [assignment for assignment in assignments if assignment.coder == coder]
        job = make_job(source, own, num_threads)
        sample = sample_pieces(job.infos)
        encoding = coder.plan(job)
        decode = None if own[0].step is None else _decoder(coder, job, encoding)
        found = run_in_threads(_measure, [(job, encoding, decode, piece) for piece, _ in sample], num_threads)
        for (_, share), (length, lost, squares) in zip(sample, found, strict=True):
            size += share * (length + _RECORD_BYTES)
            error += share * lost
            norm += share * squares
        if encoding.shared is not None:
            size += len(encoding.shared) + _RECORD_BYTES
    return Estimate(size, error, norm)


def _decoder(coder: Coder, job: Job, encoding: Encoding) -> Decode:
    shared = None if encoding.shared is None else np.frombuffer(encoding.shared, np.uint8)
    return coder.decoder(job.infos, encoding.params, shared)


def _measure(job: Job, encoding: Encoding, decode: Decode | None, piece: Piece) -> tuple[int, float, float]:
    """Give bytes, squared error and squared norm of a piece."""
    arrays = [np.ascontiguousarray(array) for array in piece_arrays(job, piece)]
    record = encoding.encode(piece, arrays)
    lost = norm = 0.0
    if decode is not None:
        outs = [np.empty(array.size, array.dtype) for array in arrays]
        decode(piece, np.frombuffer(record, np.uint8), outs, lambda: "a trial")
        for array, out in zip(arrays, outs, strict=True):
            values = array.astype(np.float64)
            norm += float(np.square(values).sum())
            lost += float(np.square(values - out.astype(np.float64)).sum())
    return len(record), lost, norm
