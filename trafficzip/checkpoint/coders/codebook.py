"""The nearest of a few numbers that k-means chose for the tensor (FORMAT.md section 11)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from trafficzip.checkpoint.coders.base import Coder, Decode, Describe, Encoding, Job
from trafficzip.checkpoint.coders.values import check_params, check_quantizable, finite_slices, to_float32
from trafficzip.checkpoint.packed_codes import pack_codes, read_codes
from trafficzip.checkpoint.pieces import Piece
from trafficzip.checkpoint.tensors import DTYPES, Array, TensorInfo
from trafficzip.errors import ConfigError, CorruptPayloadError
from trafficzip.kernels import numba_cpu_codebook as kernels
from trafficzip.kernels.threads import run_in_threads
from trafficzip.wire.cursor import Bytes, Reader, pack_float32s, pack_u8s

_PASSES = 200
_Centers = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Codebook(Coder):
    """Store which of at most 2**bits numbers is nearest; each tensor has its own ones, fitted by k-means.

    A tensor of no more different numbers comes back exactly, with -0 as 0.

    bits: 1 to 8.

    Raises:
        ConfigError: bits is out of range.
    """

    kind: ClassVar[str] = "codebook"
    has_shared: ClassVar[bool] = True
    bits: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise ConfigError(f"codebook: bits is {self.bits}, expected 1 to 8")

    def check(self, info: TensorInfo) -> None:
        """Check that the tensor is of floating point numbers, 0 among them."""
        check_quantizable(info)

    def plan(self, job: Job) -> Encoding:
        """Fit the numbers of each tensor."""

        def fit(place: int) -> _Centers:
            info, array = job.infos[place], job.read(place)
            centers = fit_codebook(info, array, 1 << self.bits)
            return np.unique(to_float32(centers.astype(DTYPES[info.dtype])))

        books = run_in_threads(fit, [(place,) for place in range(len(job.infos))], job.num_threads)

        def encode(piece: Piece, arrays: Sequence[Array]) -> bytes:
            codes = [nearest(books[segment.tensor], array) for segment, array in zip(piece, arrays, strict=True)]
            return pack_codes(np.concatenate(codes), self.bits)

        shared = b"".join(pack_u8s(book.size - 1) + pack_float32s(book) for book in books if book.size)
        return Encoding((None,) * len(job.infos), shared, encode)

    def decoder(self, infos: Sequence[TensorInfo], params: Sequence[Any], shared: Bytes | None) -> Decode:
        """Read the numbers of each tensor."""
        check_params(infos, params)
        assert shared is not None
        books = _read_books(infos, shared, 1 << self.bits)

        def decode(piece: Piece, record: Bytes, outs: Sequence[Array], describe: Describe) -> None:
            reader = Reader(record, what=lambda: f"record of {describe()}")
            codes = read_codes(reader, sum(segment.stop - segment.start for segment in piece), self.bits, describe)
            at = 0
            for segment, out in zip(piece, outs, strict=True):
                info, book, part = infos[segment.tensor], books[segment.tensor], codes[at : at + out.size]
                if int(part.max()) >= book.size:
                    raise CorruptPayloadError(f"{reader.what}: {info} has code {part.max()} of {book.size} numbers")
                with np.errstate(over="ignore"):
                    out[...] = book.astype(DTYPES[info.dtype])[part]
                at += out.size

        return decode


def fit_codebook(info: TensorInfo, array: Array, size: int) -> _Centers:
    """Give at most `size` numbers that have a small mean squared distance to those of a tensor, rising.

    Raises:
        ConfigError: a value is NaN, infinite, or beyond float32.
    """
    found, count = np.empty(size, np.float32), 0
    counts, sums = np.zeros(kernels.NUM_BINS, np.int64), np.zeros(kernels.NUM_BINS, np.float64)
    for part in finite_slices(info, array):
        values = np.require(part, requirements=["C", "A", "W"])  # kernels are compiled for this kind of array alone
        if count >= 0:
            count = kernels.add_distinct(values, found, count)
        kernels.add_histogram(values, counts, sums)
    if count >= 0:
        return found[:count]
    return np.unique(kernels.fit_centers(counts, sums, size, _PASSES).astype(np.float32))


def nearest(centers: _Centers, array: Array) -> NDArray[np.uint8]:
    """Give the place of the nearest center of each number; of two, the lower one."""
    wide = centers.astype(np.float64)
    middles = (wide[:-1] + wide[1:]) / 2
    return np.searchsorted(middles, to_float32(array).astype(np.float64), side="left").astype(np.uint8)


def _read_books(infos: Sequence[TensorInfo], shared: Bytes, most: int) -> list[_Centers]:
    reader = Reader(shared, what="codebooks")
    books = []
    for info in infos:
        count = 0
        if info.num_elements:
            count = 1 + reader.fields("<B", f"numbers of {info}")[0]
            if count > min(most, info.num_elements):
                raise CorruptPayloadError(f"codebook of {info}: {count} numbers, expected at most {most}")
        book = reader.float32s(count, f"codebook of {info}")
        if not np.isfinite(book).all() or (book[1:] <= book[:-1]).any():
            raise CorruptPayloadError(f"codebook of {info}: numbers do not rise, or are not finite")
        books.append(book)
    if reader.at != shared.size:
        raise CorruptPayloadError(f"codebooks: {shared.size - reader.at} bytes are left over")
    return books
