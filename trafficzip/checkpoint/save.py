"""Save tensors as a compressed checkpoint."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil
from typing import IO, Any

from trafficzip.checkpoint.allocate import Allocation, allocate
from trafficzip.checkpoint.calibrate import Gram, round_to_data
from trafficzip.checkpoint.coders.delta import Base, Delta
from trafficzip.checkpoint.estimate import Estimate, estimate
from trafficzip.checkpoint.open import open_base
from trafficzip.checkpoint.recipe import RECIPES, Recipe
from trafficzip.checkpoint.sinks import atomic_file
from trafficzip.checkpoint.sources import MemorySource, open_source
from trafficzip.checkpoint.tensors import Source
from trafficzip.checkpoint.trellis.scales import STEPS_PER_OCTAVE
from trafficzip.checkpoint.writer import Assignment, Progress, write_checkpoint
from trafficzip.errors import ConfigError
from trafficzip.metrics import bits_per_element
from trafficzip.wire.container import write_all

_BLOCK_BYTES = 1 << 20
_CLOSE = 0.01  # of the bits asked for
_MAX_SHRINKS = 8  # steps, of 2 % of an octave each, that a file above the wanted size may be off by


@dataclass(frozen=True, slots=True)
class Saved:
    """What was written: bytes of the file, elements and bytes of the tensors, and how they were stored."""

    size: int
    num_elements: int
    original_bytes: int
    allocation: Allocation

    @property
    def bits_per_element(self) -> float:
        """Bits of the whole file per element of all tensors."""
        return bits_per_element(self.size, self.num_elements) if self.num_elements else 0.0


def save(
    tensors: Any,
    target: str | os.PathLike[str] | IO[bytes],
    recipe: str | Recipe = "balanced",
    *,
    metadata: Mapping[str, str] | None = None,
    weights: Mapping[str, float] | None = None,
    grams: Mapping[str, Gram] | None = None,
    allocation: Allocation | None = None,
    base: str | os.PathLike[str] | Base | None = None,
    num_threads: int | None = None,
    progress: Progress = lambda _: None,
) -> Saved:
    """Compress tensors into a file, which appears whole or not at all, or into a stream.

    tensors: a path that `open_source` reads, an open source, a module, or arrays or PyTorch tensors by name.
    recipe: one of RECIPES, by name, or your own.  metadata: replaces that of the tensors' file.
    weights: of squared errors, by name of a tensor, instead of the recipe's own rule.
    grams: by name of a weight [out, in, ...], the Gram matrix [in, in] of its inputs, to which it is rounded
    (`collect_grams`).
    allocation: steps that were chosen before, as by `allocate_for_accuracy`, instead of those for the recipe's target.
    base: an earlier checkpoint, compressed or not, to store differences from it where that is smaller; it is needed to
    load the file, which gives the same tensors as without it.
    The same tensors and recipe give the same bytes, whatever num_threads is (default: one per CPU).

    Raises:
        ConfigError: a tensor or the recipe cannot be stored, or the recipe's target cannot be met.
    """
    recipe = recipe_of(recipe)
    num_threads = num_threads or os.cpu_count() or 1
    with as_source(tensors) as source:
        earlier = open_base(base)
        text = source.metadata if metadata is None else metadata
        bits = recipe.bits if allocation is None else None
        if allocation is None:
            allocation = allocate(source, recipe, num_threads=num_threads, weights=weights, grams=grams)
        for _ in range(_MAX_SHRINKS):
            rounded, assignments = source, allocation.assignments
            if grams:
                rounded, assignments, allocation = _round(source, allocation, grams, bits, num_threads)
            if earlier is not None:
                assignments = tuple(replace(a, coder=Delta(inner=a.coder, base=earlier)) for a in assignments)
            try:
                with _sink(target, limited=recipe.size is not None) as file:
                    size = write_checkpoint(
                        file, rounded, assignments, metadata=text, num_threads=num_threads, progress=progress
                    )
                    over = 0 if recipe.size is None else size - recipe.size
                    if over > 0:
                        raise _TooLargeError
            except _TooLargeError:
                if allocation.base is None:
                    break
                elements = max(sum(a.info.num_elements for a in assignments if a.step is not None), 1)
                allocation = allocation.moved(ceil(STEPS_PER_OCTAVE * 8 * over / elements))
                continue
            elements, original = (sum(numbers) for numbers in zip(*_sizes(source), strict=True))
            return Saved(size, elements, original, replace(allocation, assignments=assignments))
        raise ConfigError(
            f"{target}: found {size} bytes, expected {recipe.size}; {_MAX_SHRINKS} wider steps did not help"
        )


def plan(
    tensors: Any,
    recipe: str | Recipe = "balanced",
    *,
    weights: Mapping[str, float] | None = None,
    num_threads: int | None = None,
) -> tuple[Allocation, Estimate]:
    """Choose how tensors would be saved, and estimate what that would give; nothing is written.

    Raises:
        ConfigError: as `save` does.
    """
    num_threads = num_threads or os.cpu_count() or 1
    with as_source(tensors) as source:
        allocation = allocate(source, recipe_of(recipe), num_threads=num_threads, weights=weights)
        return allocation, allocation.estimate or estimate(source, allocation.assignments, num_threads)


def recipe_of(recipe: str | Recipe) -> Recipe:
    """Give the recipe of a name, or the one given.

    Raises:
        ConfigError: there is none of that name.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if recipe not in RECIPES:
        raise ConfigError(f"recipe {recipe!r}: expected one of {', '.join(RECIPES)}, or a Recipe")
    return RECIPES[recipe]


@contextmanager
def as_source(tensors: Any) -> Iterator[Source]:
    """Open what has tensors: a path, a source, a module, or tensors by name.

    Raises:
        ConfigError: it has none.
    """
    if isinstance(tensors, str | os.PathLike):
        with open_source(tensors) as source:
            yield source
    elif isinstance(tensors, Mapping):
        yield MemorySource(tensors)
    elif hasattr(tensors, "state_dict"):
        yield MemorySource(tensors.state_dict())
    elif hasattr(tensors, "infos"):
        yield tensors
    else:
        raise ConfigError(f"found a {type(tensors).__qualname__}, expected a path, a module, or tensors by name")


def _round(
    source: Source, allocation: Allocation, grams: Mapping[str, Gram], bits: float | None, num_threads: int
) -> tuple[Source, tuple[Assignment, ...], Allocation]:
    """Round weights to data; where that makes the file miss its bits, once more with other steps."""
    rounded, assignments = round_to_data(source, allocation.assignments, grams, num_threads)
    elements = sum(a.info.num_elements for a in assignments if a.step is not None)
    if bits is not None and elements:
        total = sum(a.info.num_elements for a in assignments)
        gap = 8 * estimate(rounded, assignments, num_threads).size / elements - bits * total / elements
        if abs(gap) > _CLOSE * bits:
            allocation = allocation.moved(round(STEPS_PER_OCTAVE * gap))
            rounded, assignments = round_to_data(source, allocation.assignments, grams, num_threads)
    return rounded, assignments, allocation


class _TooLargeError(Exception):
    pass


@contextmanager
def _sink(target: str | os.PathLike[str] | IO[bytes], *, limited: bool) -> Iterator[Any]:
    """Open where a file goes that is to appear only if the block ends well; a stream that has no limit at once."""
    if isinstance(target, str | os.PathLike):
        with atomic_file(target) as file:
            yield file
    elif limited:
        with tempfile.TemporaryFile() as file:
            yield file
            file.seek(0)
            while block := file.read(_BLOCK_BYTES):
                write_all(target, block)
    else:
        yield target


def _sizes(source: Source) -> list[tuple[int, int]]:
    return [(0, 0), *((info.num_elements, info.num_bytes) for info in source.infos)]
