"""Tensors into a container, as a stream: one coder after another, a few pieces in memory at a time."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import IO

import numpy as np

from trafficzip.checkpoint.coders.base import Coder, Encoding, Job
from trafficzip.checkpoint.layout import Entry, Header, stored_info, write_header
from trafficzip.checkpoint.pieces import Piece, pieces
from trafficzip.checkpoint.tensors import Array, Source, TensorInfo, check_names
from trafficzip.kernels.threads import run_in_threads
from trafficzip.wire.container import ContainerWriter

Progress = Callable[[int], None]  # told how many elements are done, in addition to those told before
_PIECES_PER_THREAD = 4  # in memory at a time


@dataclass(frozen=True, slots=True)
class Assignment:
    """How a tensor is stored.

    step: an index (`trellis.scales.step_of`), for coders that need one.  transposed: whether the matrix of its
    first axis against the others is stored column by column.  exact: whether its values are multiples of the step.
    """

    info: TensorInfo
    coder: Coder
    step: int | None = None
    transposed: bool = False
    exact: bool = False


def write_checkpoint(
    sink: IO[bytes],
    source: Source,
    assignments: Sequence[Assignment],
    *,
    metadata: Mapping[str, str] | None = None,
    num_threads: int = 1,
    progress: Progress = lambda _: None,
) -> int:
    """Write tensors to a sink that needs only `write`, and give the size of the file.

    The bytes depend on tensors, assignments and metadata only, not on the number of threads.

    Raises:
        ConfigError: two tensors share a name, or a coder cannot store what it was given.
    """
    check_names((assignment.info for assignment in assignments), "checkpoint")
    for assignment in assignments:
        assignment.coder.check(assignment.info)
    writer = ContainerWriter(sink)
    coders = tuple(dict.fromkeys(assignment.coder for assignment in assignments))
    params: dict[str, object] = {}
    for coder in coders:
        own = [assignment for assignment in assignments if assignment.coder == coder]
        job = make_job(source, own, num_threads)
        encoding = coder.plan(job)
        if encoding.shared is not None:
            writer.add(encoding.shared)
        for record in _records(job, encoding, progress):
            writer.add(record)
        params |= {info.name: found for info, found in zip(job.infos, encoding.params, strict=True)}
    entries = tuple(
        Entry(a.info, coders.index(a.coder), params[a.info.name], transposed=a.transposed) for a in assignments
    )
    return writer.finish(write_header(Header(coders, entries, dict(metadata or {}))))


def make_job(source: Source, assignments: Iterable[Assignment], num_threads: int) -> Job:
    """Give the tensors of one coder as its job."""
    assignments = tuple(assignments)
    infos = tuple(stored_info(a.info, transposed=a.transposed) for a in assignments)
    last: list[tuple[int, Array]] = []  # a source may have to unpack a tensor that is read again for its next piece

    def read(place: int) -> Array:
        for held, array in last:
            if held == place:
                return array
        array = source.read(infos[place].name)
        if assignments[place].transposed:
            array = np.ascontiguousarray(array.reshape(array.shape[0], -1).T)
        last[:] = [(place, array)]
        return array

    steps, exact = tuple(a.step for a in assignments), tuple(a.exact for a in assignments)
    return Job(infos, read, steps, num_threads, exact)


def piece_arrays(job: Job, piece: Piece) -> list[Array]:
    """Give the flat slices of a piece."""
    return [job.read(segment.tensor).reshape(-1)[segment.start : segment.stop] for segment in piece]


def _records(job: Job, encoding: Encoding, progress: Progress) -> Iterator[bytes]:
    left = pieces(job.infos)
    while batch := list(islice(left, _PIECES_PER_THREAD * job.num_threads)):
        jobs = [(piece, [np.ascontiguousarray(array) for array in piece_arrays(job, piece)]) for piece in batch]
        yield from run_in_threads(encoding.encode, jobs, job.num_threads)
        progress(sum(segment.stop - segment.start for piece in batch for segment in piece))
