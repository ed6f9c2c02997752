"""Second-order rounding: the error of each input of a layer is made up for by the inputs that come after it.

Source: Frantar, Ashkboos, Hoefler, Alistarh 2023 (GPTQ), section 3; here every column of weights goes through the
trellis, which goes on from the state in which the column before left it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficzip.checkpoint.pieces import Segment, pieces
from trafficzip.checkpoint.tensors import Array, Source, TensorInfo
from trafficzip.checkpoint.trellis.coder import Trellis
from trafficzip.checkpoint.trellis.search import Search
from trafficzip.checkpoint.writer import Assignment, make_job
from trafficzip.errors import ConfigError
from trafficzip.kernels import numba_cpu_trellis
from trafficzip.kernels.reference_trellis import NUM_LANES, POLYNOMIALS

DAMPING = 0.01  # of the mean of the diagonal, added to it
_BLOCK = 128  # columns whose feedback is put off for the others
Gram = NDArray[np.floating[Any]]


class RoundedSource:
    """A source some of whose tensors have been rounded."""

    def __init__(self, source: Source, rounded: Mapping[str, Array]) -> None:
        self._source, self._rounded = source, rounded
        self.infos = source.infos
        self.metadata = source.metadata

    def read(self, name: str) -> Array:
        """Give a tensor, rounded if it has been."""
        return self._rounded[name] if name in self._rounded else self._source.read(name)


def round_to_data(
    source: Source, assignments: Sequence[Assignment], grams: Mapping[str, Gram], num_threads: int = 1
) -> tuple[Source, tuple[Assignment, ...]]:
    """Round the weights of which the Gram matrix of their inputs is known, and give what then is to be stored.

    grams: by name of a weight of shape [out, in, ...], the sum of x x^T over inputs x: [in, in].

    Raises:
        ConfigError: a Gram matrix is of no weight, not of its shape, or not of finite numbers.
    """
    check_grams(source.infos, grams)
    marked = [replace(a, transposed=_is_trellis(a) and a.info.name in grams) for a in assignments]
    rounded: dict[str, Array] = {}
    done: dict[str, Assignment] = {}
    for coder in dict.fromkeys(a.coder for a in marked if a.transposed):
        assert isinstance(coder, Trellis)
        own = [a for a in marked if a.coder == coder]
        job = make_job(source, own, num_threads)
        _, steps, search = coder.prepare(job)
        for place, assignment in enumerate(own):
            if assignment.transposed:
                name, dtype, shape = assignment.info.name, job.infos[place].dtype, assignment.info.shape
                values = round_columns(job.read(place).astype(np.float32), place, job.infos, search, grams[name])
                rounded[name] = np.ascontiguousarray(values.T).reshape(shape).astype(dtype)
                done[name] = replace(assignment, step=steps[place], exact=dtype == "float32")
    return RoundedSource(source, rounded), tuple(done.get(a.info.name, a) for a in marked)


def round_columns(
    columns: NDArray[np.float32], place: int, infos: Sequence[TensorInfo], search: Search, gram: Gram
) -> NDArray[np.float32]:
    """Round a matrix column by column.

    columns: float32 [in, out], the transpose of the weight.  place: of the tensor in infos and the search.
    gram: [in, in].  Returns: float32 [in, out], multiples of the step.
    """
    step = search.layout.steps[place]
    scaled: NDArray[np.float32] = columns / step
    upper = _feedback(gram)
    rounded = np.empty_like(scaled)
    slope, height = search.slopes[place], columns.shape[1]
    own = [piece[0] for piece in pieces(infos) if piece[0].tensor == place]
    ends = {segment.start // height for segment in own}
    states, at = numba_cpu_trellis.START.copy(), 0
    for start in range(0, columns.shape[0], _BLOCK):
        stop = min(start + _BLOCK, columns.shape[0])
        errors = np.empty((stop - start, height), np.float32)
        for column in range(start, stop):
            if column in ends:  # a record begins
                states, at = numba_cpu_trellis.START.copy(), 0
            whole = (Segment(place, column * height, (column + 1) * height),)
            classes = search.layout.classes(whole)[:height]
            turned = np.roll(states, -(at % NUM_LANES))
            levels = search.search(scaled[column], classes, slope, turned)
            multiples, after = _follow(levels, turned, search.num_states)
            states, at = np.roll(after, at % NUM_LANES), at + height
            rounded[column] = multiples
            errors[column - start] = (scaled[column] - multiples) / upper[column, column]
            scaled[column + 1 : stop] -= upper[column, column + 1 : stop, None] * errors[column - start]
        scaled[stop:] -= upper[start:stop, stop:].T @ errors
    rounded *= step
    return rounded


def check_grams(infos: Sequence[TensorInfo], grams: Mapping[str, Gram]) -> None:
    """Check that Gram matrices are those of weights.

    Raises:
        ConfigError: one is not.
    """
    known = {info.name: info for info in infos}
    for name, gram in grams.items():
        if name not in known:
            raise ConfigError(f"calibration: no tensor is called {name!r}")
        info = known[name]
        width = info.num_elements // info.shape[0] if len(info.shape) > 1 and info.shape[0] else 0
        if np.shape(gram) != (width, width) or not width:
            raise ConfigError(f"calibration: {info}: Gram matrix is {list(np.shape(gram))}, expected {[width, width]}")
        if not np.isfinite(gram).all():
            raise ConfigError(f"calibration: {info}: Gram matrix has values that are not finite")


def _feedback(gram: Gram) -> NDArray[np.float32]:
    """Give the upper Cholesky factor of the inverse of a Gram matrix, which is damped until it has one."""
    matrix = np.array(gram, np.float64)
    diagonal = np.einsum("ii->i", matrix)
    mean = float(diagonal.mean()) or 1.0
    diagonal[diagonal == 0] = mean  # an input that never was: round it as it is
    damping = DAMPING
    while True:
        try:
            inverse = np.linalg.inv(matrix + np.eye(matrix.shape[0]) * damping * mean)
            return np.linalg.cholesky((inverse + inverse.T) / 2).T.astype(np.float32)
        except np.linalg.LinAlgError as error:
            damping *= 10
            if damping > 1e6:
                raise ConfigError("calibration: a Gram matrix is not positive semidefinite") from error


def _follow(
    levels: NDArray[np.int16], states: NDArray[np.int64], num_states: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Give the multiples that levels mean from given states of the lanes on, and the states after them."""
    check0, check1 = POLYNOMIALS[num_states]
    after = states.copy()
    multiples = np.empty(levels.size, np.float32)
    for first in range(0, levels.size, NUM_LANES):
        part = levels[first : first + NUM_LANES].astype(np.int64)
        unions = after[: part.size] & 1
        multiples[first : first + NUM_LANES] = 2 * part - unions * np.sign(part)
        after[: part.size] = (after[: part.size] >> 1) ^ unions * (check0 >> 1) ^ (part & 1) * (check1 >> 1)
    return multiples, after


def _is_trellis(assignment: Assignment) -> bool:
    return isinstance(assignment.coder, Trellis)
