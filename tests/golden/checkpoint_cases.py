"""What the golden checkpoints were made of, in integers and exact arithmetic, and how to add one.

    python -m tests.golden.checkpoint_cases NAME

writes tests/golden/checkpoints/v<version>_NAME.tzip, if there is none, and prints what it decodes to; a file that is
there is never replaced.
"""

import hashlib
import io
import sys
from pathlib import Path

import numpy as np

from trafficzip.checkpoint.coders.base import Coder
from trafficzip.checkpoint.coders.blockwise import Blockwise
from trafficzip.checkpoint.coders.cast import Cast
from trafficzip.checkpoint.coders.codebook import Codebook
from trafficzip.checkpoint.coders.delta import Delta
from trafficzip.checkpoint.coders.general import General
from trafficzip.checkpoint.coders.planes import Planes
from trafficzip.checkpoint.coders.ternary import Ternary
from trafficzip.checkpoint.layout import VERSION
from trafficzip.checkpoint.reader import CheckpointFile
from trafficzip.checkpoint.sources import MemorySource
from trafficzip.checkpoint.tensors import DTYPES
from trafficzip.checkpoint.trellis.coder import Trellis
from trafficzip.checkpoint.writer import Assignment, write_checkpoint

FOLDER = Path(__file__).parent / "checkpoints"


def bell(*shape: int, seed: int) -> np.ndarray:
    """Give float32 of a bell curve: sums of integers, times a power of two."""
    drawn = np.random.default_rng(seed).integers(-1000, 1001, (6, *shape)).sum(axis=0)
    return (drawn * 2.0**-14).astype(np.float32)


def matrices() -> dict[str, np.ndarray]:
    rows = 2.0 ** (np.arange(40) % 5)
    outlier = bell(30, 64, seed=2)
    outlier[3, 5] = 900
    return {
        "rows": bell(40, 30, seed=0) * rows[:, None].astype(np.float32),
        "kernel": bell(8, 6, 3, 3, seed=1),
        "outlier": outlier,
        "large": bell(300, 500, seed=3),
        "half": bell(20, 24, seed=4).astype(np.float16),
        "zeros": np.zeros((5, 7), np.float32),
    }


def all_dtypes() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    tensors = {}
    for name, dtype in DTYPES.items():
        raw = rng.integers(0, 2 if name == "bool" else 256, 6 * dtype.itemsize).astype(np.uint8)
        tensors[name] = raw.view(dtype).reshape(2, 3)
    return {**tensors, "scalar": np.array(7, np.int32), "empty": np.zeros((0, 3), np.float32)}


def _case(tensors: dict[str, np.ndarray], coder: Coder, step: int | None = None, **marks: bool) -> list:
    source = MemorySource(tensors)
    return [source, [Assignment(info, coder, step, **marks) for info in source.infos]]


CASES = {
    "trellis": lambda: _case(matrices(), Trellis(), -70),
    "trellis_wide": lambda: _case(matrices(), Trellis(num_states=8), -230),
    "trellis_context": lambda: _case(matrices(), Trellis(num_states=16, context=True), -100),
    "uniform": lambda: _case(matrices(), Trellis(num_states=1), -90),
    "transposed": lambda: _case({"w": bell(12, 5, 3, 3, seed=6)}, Trellis(), -80, transposed=True),
    "planes": lambda: _case({**all_dtypes(), "large": bell(300, 500, seed=7)}, Planes()),
    "cast": lambda: _case(matrices(), Cast(mantissa_bits=5)),
    "blockwise": lambda: _case(matrices(), Blockwise(bits=4, block_size=32)),
    "ternary": lambda: _case(matrices(), Ternary()),
    "codebook": lambda: _case(matrices(), Codebook(bits=3)),
    "huffman": lambda: _case(matrices(), General(codec="huffman")),
    "delta": lambda: _case({"w": bell(30, 40, seed=8)}, Delta(inner=Planes(), base=base())),
}


def base() -> MemorySource:
    """Give what the case of differences is against."""
    old = bell(30, 40, seed=8)
    old[::3] += np.float32(2.0**-20)
    return MemorySource({"w": old})


def write_case(name: str) -> bytes:
    """Give the bytes of a case as this version writes them."""
    source, assignments = CASES[name]()
    sink = io.BytesIO()
    write_checkpoint(sink, source, assignments, metadata={"case": name})
    return sink.getvalue()


def decoded_hash(data: bytes) -> str:
    """Give a hash of names, dtypes, shapes and values."""
    state = hashlib.sha256()
    for name, array in CheckpointFile(data, base=base()).read_many().items():
        state.update(f"{name} {array.dtype.name} {array.shape}\n".encode() + array.tobytes())
    return state.hexdigest()


if __name__ == "__main__":
    for wanted in sys.argv[1:]:
        path = FOLDER / f"v{VERSION}_{wanted}.tzip"
        with path.open("xb") as file:
            file.write(write_case(wanted))
        sys.stdout.write(f'    "{path.stem}": "{decoded_hash(path.read_bytes())}",\n')
