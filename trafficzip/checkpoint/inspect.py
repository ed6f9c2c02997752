"""What is in a compressed checkpoint, and how it differs from other tensors."""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from trafficzip.checkpoint.coders.base import Coder
from trafficzip.checkpoint.coders.delta import Delta
from trafficzip.checkpoint.open import open_base
from trafficzip.checkpoint.reader import CheckpointFile
from trafficzip.checkpoint.save import as_source
from trafficzip.checkpoint.tensors import Array, TensorInfo
from trafficzip.checkpoint.trellis.scales import step_of

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class TensorReport:
    """One tensor of a file. size: its share of the bytes of its records.  step: of its quantization, if it has one."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    coder: str
    size: float
    bits_per_element: float
    step: float | None


@dataclass(frozen=True, slots=True)
class FileReport:
    """A file: its bytes, those of its tensors decompressed, metadata, and all tensors in order."""

    size: int
    num_elements: int
    original_bytes: int
    metadata: dict[str, str]
    tensors: tuple[TensorReport, ...]

    @property
    def bits_per_element(self) -> float:
        """Bits of the whole file per element."""
        return 8 * self.size / self.num_elements if self.num_elements else 0.0

    @property
    def ratio(self) -> float:
        """Bytes of the tensors over bytes of the file."""
        return self.original_bytes / self.size

    def to_dict(self) -> dict[str, Any]:
        """Give everything as JSON."""
        return {**asdict(self), "bits_per_element": self.bits_per_element, "ratio": self.ratio}


def inspect(path: str | os.PathLike[str] | bytes) -> FileReport:
    """Report what a file holds, from its header and index; nothing is decoded.

    Raises:
        ConfigError: there is no such file.
        CorruptPayloadError, UnsupportedFormatError: it is damaged, or no checkpoint.
    """
    with CheckpointFile(path) as file:
        sizes = file.tensor_bytes()
        tensors = []
        for info in file.infos:
            entry = file.entry(info.name)
            coder = file.coders[entry.coder]
            size = sizes[info.name]
            bits = 8 * size / info.num_elements if info.num_elements else 0.0
            inner = coder.inner if isinstance(coder, Delta) else coder
            step = float(step_of(entry.params[0])) if inner.kind == "trellis" else None
            tensors.append(TensorReport(info.name, info.dtype, info.shape, coder_text(coder), size, bits, step))
        return FileReport(
            size=file.size,
            num_elements=sum(info.num_elements for info in file.infos),
            original_bytes=sum(info.num_bytes for info in file.infos),
            metadata=file.metadata,
            tensors=tuple(tensors),
        )


def coder_text(coder: Coder) -> str:
    """Give a coder in a few words."""
    if isinstance(coder, Delta):
        return f"delta of {coder_text(coder.inner)}"
    fields = {name: value for name, value in coder.to_dict().items() if name not in ("kind", "slope", "passes")}
    words = [name if value is True else f"{name}={value}" for name, value in fields.items() if value is not False]
    return " ".join([coder.kind, *words])


@dataclass(frozen=True, slots=True)
class Difference:
    """How a tensor differs in two places. problem: why its values cannot be compared, or "".

    equal: whether all bits are.  relative_error: norm of the difference over norm of the first.  largest: the largest
    absolute difference; both are infinite where NaN or infinity is in one place only.  squared_error, squared_norm: of
    floating point tensors, else 0; the norm is that of finite values.
    """

    name: str
    problem: str
    equal: bool
    relative_error: float
    largest: float
    squared_error: float
    squared_norm: float


def differences(first: Any, second: Any) -> Iterator[Difference]:
    """Compare tensors by name: those of the first place in order, then those that only the second one has.

    first, second: what `save` takes, or a compressed checkpoint.
    """
    with open_tensors(first) as one, open_tensors(second) as two:
        others = {info.name: info for info in two.infos}
        for info in one.infos:
            other = others.pop(info.name, None)
            if other is None:
                yield _problem(info.name, "only in the first")
            elif other.shape != info.shape:
                yield _problem(info.name, f"shape {list(info.shape)} against {list(other.shape)}")
            else:
                yield _compare(info, one.read(info.name), two.read(info.name))
        for name in others:
            yield _problem(name, "only in the second")


def open_tensors(tensors: Any) -> Any:
    """Open a compressed checkpoint or anything that `save` takes, as a context manager of a source."""
    return open_base(tensors) if isinstance(tensors, bytes | str | os.PathLike) else as_source(tensors)


def _problem(name: str, problem: str) -> Difference:
    return Difference(
        name, problem, equal=False, relative_error=np.inf, largest=np.inf, squared_error=0, squared_norm=0
    )


def _compare(info: TensorInfo, one: Array, two: Array) -> Difference:
    equal = one.dtype == two.dtype and one.tobytes() == two.tobytes()
    a, b = one.reshape(-1), two.reshape(-1)
    error = norm = largest = 0.0
    wide: Any = np.complex128 if "c" in (one.dtype.kind, two.dtype.kind) else np.float64
    for start in range(0, a.size, _BLOCK):
        x, y = a[start : start + _BLOCK].astype(wide), b[start : start + _BLOCK].astype(wide)
        with np.errstate(invalid="ignore", over="ignore"):
            gap = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0, np.abs(x - y))
            gap[np.isnan(gap)] = np.inf
            error += float(np.square(gap).sum())
            norm += float(np.square(np.abs(x[np.isfinite(x)])).sum())
            largest = max(largest, float(gap.max()))
    relative = 0.0 if not error else (error / norm) ** 0.5 if norm and np.isfinite(error) else np.inf
    counted = info.is_float
    return Difference(info.name, "", equal, relative, largest, error if counted else 0.0, norm if counted else 0.0)
