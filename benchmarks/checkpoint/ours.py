"""This project's files, on one thread."""

import io
from collections.abc import Mapping
from dataclasses import replace
from time import perf_counter, process_time

import numpy as np

from benchmarks.checkpoint.outcome import Outcome
from trafficzip.checkpoint.open import open_checkpoint
from trafficzip.checkpoint.recipe import RECIPES, Recipe
from trafficzip.checkpoint.save import save

BITS = (1.75, 2, 2.25, 2.5, 2.75, 3, 3.5, 4, 5)
Arrays = Mapping[str, np.ndarray]


def recipe_for(bits: float, *, sensitivity: str = "auto") -> Recipe:
    """Give the recipe `small` with another size; sensitivity "none" is for equal squared error."""
    return replace(RECIPES["small"].with_target(bits=bits), sensitivity=sensitivity)


def trafficzip_file(tensors: Arrays, recipe: Recipe, grams: Arrays | None = None) -> Outcome:
    """Save to memory and load again, once; encoding includes the search of steps."""
    sink = io.BytesIO()
    begin = perf_counter(), process_time()
    save(tensors, sink, recipe, grams=grams, num_threads=1)
    middle = perf_counter(), process_time()
    decoded = open_checkpoint(sink.getvalue(), num_threads=1).read_many()
    end = perf_counter(), process_time()
    return Outcome(
        bytes=len(sink.getvalue()),
        decoded=decoded,
        encode_s=middle[0] - begin[0],
        decode_s=end[0] - middle[0],
        encode_cpu_s=middle[1] - begin[1],
        decode_cpu_s=end[1] - middle[1],
    )
