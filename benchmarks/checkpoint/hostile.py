"""Mutated files: what a reader does with them."""

import io
import tracemalloc
from collections.abc import Iterator
from time import perf_counter

import ml_dtypes
import numpy as np

from trafficzip.checkpoint.coders.blockwise import Blockwise
from trafficzip.checkpoint.coders.cast import Cast
from trafficzip.checkpoint.coders.codebook import Codebook
from trafficzip.checkpoint.coders.planes import Planes
from trafficzip.checkpoint.coders.ternary import Ternary
from trafficzip.checkpoint.open import open_checkpoint
from trafficzip.checkpoint.sources import MemorySource
from trafficzip.checkpoint.trellis.coder import Trellis
from trafficzip.checkpoint.writer import Assignment, write_checkpoint
from trafficzip.errors import TrafficzipError
from trafficzip.wire.container import ContainerReader, ContainerWriter

_SLACK = 1 << 22  # bytes: coding tables, and the interpreter's own


def example() -> tuple[bytes, dict[str, np.ndarray]]:
    """Give a small file with a tensor of each coder, and what it holds."""
    rng = np.random.default_rng(0)
    tensors = {
        "trellis": rng.standard_normal((24, 20)).astype(np.float32),
        "context": rng.standard_normal((6, 5, 3, 3)).astype(np.float32),
        "planes": rng.standard_normal((30, 5)).astype(ml_dtypes.bfloat16),
        "integers": rng.integers(-5, 900, 77),
        "cast": rng.standard_normal(50).astype(np.float32),
        "blockwise": rng.standard_normal((8, 40)).astype(np.float32),
        "ternary": rng.standard_normal((8, 40)).astype(np.float32),
        "codebook": rng.standard_normal((8, 40)).astype(np.float32),
    }
    coders = {
        "trellis": Trellis(num_states=8),
        "context": Trellis(num_states=8, context=True),
        "cast": Cast(mantissa_bits=7),
        "blockwise": Blockwise(bits=4),
        "ternary": Ternary(),
        "codebook": Codebook(bits=3),
    }
    source = MemorySource(tensors)
    chosen = [
        Assignment(i, coders.get(i.name, Planes()), -40 if i.name in ("trellis", "context") else None)
        for i in source.infos
    ]
    sink = io.BytesIO()
    write_checkpoint(sink, source, chosen)
    data = sink.getvalue()
    return data, open_checkpoint(data, num_threads=1).read_many()


def mutations(data: bytes, count: int, seed: int = 0) -> Iterator[tuple[bytes, bool]]:
    """Give changed files, and whether their checksums are right, so that what is behind them is tried too."""
    rng = np.random.default_rng(seed)
    reader = ContainerReader(np.frombuffer(data, np.uint8))
    records = [reader.record(number).tobytes() for number in range(reader.num_records)]
    for number in range(count):
        if number % 2:
            yield _mutated(data, rng), False
            continue
        changed = list(records)
        place = int(rng.integers(len(changed)))
        changed[place] = _mutated(changed[place], rng)
        header = reader.header
        if rng.random() < 0.3:
            header = _mutated_header(header, rng)
        sink = io.BytesIO()
        writer = ContainerWriter(sink)
        for record in changed:
            writer.add(record)
        writer.finish(header)
        yield sink.getvalue(), True


def _mutated(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        kind, at = rng.random(), int(rng.integers(len(changed) + 1))
        if kind < 0.5 and at < len(changed):
            changed[at] ^= 1 << int(rng.integers(8))
        elif kind < 0.65 and at < len(changed):
            changed[at] = int(rng.integers(256))
        elif kind < 0.75:
            del changed[at : at + int(rng.integers(1, 9))]
        elif kind < 0.85:
            changed[at:at] = rng.integers(0, 256, int(rng.integers(1, 9)), np.uint8).tobytes()
        elif kind < 0.95:
            changed[at : at + 4] = int(rng.integers(2**32)).to_bytes(4, "little")[: max(len(changed) - at, 0)]
        else:
            del changed[at:]
    return bytes(changed)


def _mutated_header(header: dict, rng: np.random.Generator) -> dict:
    entries = [list(entry) for entry in header["tensors"]]
    entry = entries[int(rng.integers(len(entries)))]
    kind = int(rng.integers(6))
    if kind == 0:
        entry[2] = [int(rng.integers(0, 2 ** int(rng.integers(1, 40)))) for _ in range(int(rng.integers(0, 4)))]
    elif kind == 1:
        entry[1] = str(rng.choice(["float32", "float64", "int8", "bool", "complex128", "float8_e5m2"]))
    elif kind == 2:
        entry[3] = int(rng.integers(0, len(header["coders"])))
    elif kind == 3:
        entry[4] = [None, [0, 3], [-3000, 1], 5, [40, 2], [10, 0]][int(rng.integers(6))]
    elif kind == 4:
        entries.reverse()
    else:
        entries.pop()
    return {**header, "tensors": entries}


def mutate_files(count: int, seed: int = 0) -> dict[str, float]:
    """Read mutated files: how many failed in other ways than by the library's errors, or changed values in silence.

    A change of values counts where checksums were left as they were: with right ones it is another file. Memory is
    what Python and NumPy allocate, against twice the bytes of the file and of the tensors that its header declares.
    """
    data, expected = example()
    crashes = hangs = silent = files = 0
    allocation = 0.0
    tracemalloc.start()
    for changed, rewritten in mutations(data, count, seed):
        files += 1
        declared = max(len(changed), 1)
        tracemalloc.reset_peak()
        before, begin = tracemalloc.get_traced_memory()[0], perf_counter()
        try:
            file = open_checkpoint(changed, num_threads=1)
            declared += sum(info.num_bytes for info in file.infos)
            found = file.read_many()
        except TrafficzipError:
            found = None
        except Exception as error:  # noqa: BLE001
            crashes += 1
            print(f"{type(error).__name__}: {error}")
            found = None
        hangs += perf_counter() - begin > 1
        allocation = max(allocation, (tracemalloc.get_traced_memory()[1] - before - _SLACK) / (2 * declared))
        if found is not None and not rewritten and not _same(found, expected):
            silent += 1
    tracemalloc.stop()
    return {"files": files, "crashes": crashes, "hangs": hangs, "silent": silent, "allocation": allocation}


def _same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    return found.keys() == expected.keys() and all(found[n].tobytes() == v.tobytes() for n, v in expected.items())
