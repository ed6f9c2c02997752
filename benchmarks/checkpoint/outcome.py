"""What encoding and decoding a model gave."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from time import perf_counter, process_time
from typing import Any

import numpy as np

from benchmarks.checkpoint.quality import quality, relative_l2


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A size, the decoded tensors, and median seconds: wall, and of the processor."""

    bytes: int
    decoded: dict[str, np.ndarray]
    encode_s: float
    decode_s: float
    encode_cpu_s: float
    decode_cpu_s: float

    def row(self, model: str, original: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Give the columns of a row of results that follow from this outcome."""
        parameters = sum(value.size for value in original.values())
        return {
            "bytes": self.bytes,
            "bits_per_weight": round(8 * self.bytes / parameters, 4),
            "rel_l2": round(relative_l2(original, self.decoded), 5),
            "rel_l2_all": round(relative_l2(original, self.decoded, min_dims=0), 5),
            "quality": round(quality(model, self.decoded), 5),
            **{
                name: round(getattr(self, name), 4) for name in ("encode_s", "decode_s", "encode_cpu_s", "decode_cpu_s")
            },
        }


def measure(
    encode: Callable[[], bytes | bytearray | memoryview], decode: Callable[[Any], dict[str, np.ndarray]]
) -> Outcome:
    """Encode to the bytes of a file and decode them, three times; seconds are medians."""
    seconds = []
    for _ in range(3):
        begin = perf_counter(), process_time()
        content = encode()
        middle = perf_counter(), process_time()
        decoded = decode(content)
        end = perf_counter(), process_time()
        seconds.append([b - a for a, b in ((begin[0], middle[0]), (middle[0], end[0]))])
        seconds[-1] += [b - a for a, b in ((begin[1], middle[1]), (middle[1], end[1]))]
    names = ("encode_s", "decode_s", "encode_cpu_s", "decode_cpu_s")
    medians = {name: median(column) for name, column in zip(names, zip(*seconds, strict=True), strict=True)}
    return Outcome(bytes=len(content), decoded=decoded, **medians)
