"""The smallest file within an accuracy budget, by a user's own evaluation."""

import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from trafficzip.checkpoint.allocate import Allocation, allocate
from trafficzip.checkpoint.calibrate import Gram, round_to_data
from trafficzip.checkpoint.reader import CheckpointFile
from trafficzip.checkpoint.recipe import Recipe
from trafficzip.checkpoint.tensors import Array, Source
from trafficzip.checkpoint.trellis.scales import STEPS_PER_OCTAVE
from trafficzip.checkpoint.writer import write_checkpoint
from trafficzip.errors import ConfigError

Evaluate = Callable[[dict[str, Array]], float]  # of tensors by name; more is better
_STRIDE = STEPS_PER_OCTAVE // 2  # half a bit: the first stride of the search
_LAST_STRIDE = 2  # a sixteenth of a bit
_MAX_STRIDES = 24


def allocate_for_accuracy(
    source: Source,
    recipe: Recipe,
    evaluate: Evaluate,
    max_drop: float,
    *,
    num_threads: int = 1,
    weights: Mapping[str, float] | None = None,
    grams: Mapping[str, Gram] | None = None,
    told: Callable[[float, float], None] = lambda _bits, _drop: None,
) -> Allocation:
    """Find the widest steps with which a model loses no more than `max_drop`, from the recipe's own ones on.

    evaluate: takes tensors by name and gives a number, more of which is better; it is called about ten times.
    told: is called after each trial with bits per element and what was lost.

    Raises:
        ConfigError: max_drop is negative, the recipe quantizes nothing, evaluate gives no number, or more is lost even
            with steps 2**12 times as narrow.
    """
    if not max_drop >= 0:
        raise ConfigError(f"max_drop is {max_drop}, expected a number of at least 0")
    start = allocate(source, recipe, num_threads=num_threads, weights=weights, grams=grams)
    if start.base is None:
        raise ConfigError("max_drop: the recipe quantizes nothing, so there is nothing to search")
    whole = {info.name: source.read(info.name) for info in source.infos}
    reference = _number(evaluate(dict(whole)))

    def holds(by: int) -> bool:
        rounded, assignments = source, start.moved(by).assignments
        if grams:
            rounded, assignments = round_to_data(source, assignments, grams, num_threads)
        sink = io.BytesIO()
        size = write_checkpoint(sink, rounded, assignments, num_threads=num_threads)
        found = _number(evaluate(CheckpointFile(sink.getvalue(), num_threads=num_threads).read_many()))
        told(8 * size / max(sum(info.num_elements for info in source.infos), 1), reference - found)
        return reference - found <= max_drop

    return replace(start.moved(widest(holds)), estimate=None)


def widest(holds: Callable[[int], bool]) -> int:
    """Find the largest whole number, to the last stride, up from which `holds` fails; it holds for the one given.

    Raises:
        ConfigError: it holds nowhere.
    """
    at, stride = 0, _STRIDE
    up = holds(at)
    for _ in range(_MAX_STRIDES):  # to where it changes
        if holds(at + stride if up else at - stride) != up:
            break
        at += stride if up else -stride
    else:
        if not up:
            raise ConfigError("max_drop: more is lost even with the narrowest steps")
        return at
    low = at if up else at - stride
    while stride > _LAST_STRIDE:
        stride //= 2
        if holds(low + stride):
            low += stride
    return low


def _number(found: Any) -> float:
    try:
        number = float(found)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"evaluate gave {found!r:.100}, expected a number") from error
    if number != number:
        raise ConfigError("evaluate gave NaN, expected a number")
    return number
