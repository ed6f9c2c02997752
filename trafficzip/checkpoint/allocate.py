"""Steps for all tensors: one slope, weights of errors, and a search for the target of a recipe."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor, log2

import numpy as np

from trafficzip.checkpoint.calibrate import Gram, check_grams
from trafficzip.checkpoint.coders.cast import Cast
from trafficzip.checkpoint.coders.planes import Planes
from trafficzip.checkpoint.estimate import Estimate, estimate
from trafficzip.checkpoint.recipe import Recipe
from trafficzip.checkpoint.sensitivity import sensitivities
from trafficzip.checkpoint.tensors import Array, Source
from trafficzip.checkpoint.trellis.coder import Trellis
from trafficzip.checkpoint.trellis.scales import MAX_STEP_INDEX, MIN_STEP_INDEX, STEPS_PER_OCTAVE
from trafficzip.checkpoint.writer import Assignment
from trafficzip.errors import ConfigError

_MAX_TRIALS = 12
_CLOSE = 0.01  # of a bit: a third of what the next step index changes
_MIN_SLOPE, _MAX_SLOPE = 0.125, 4.0  # per octave, of what a trial is trusted with
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Allocation:
    """Assignments of all tensors, the step index that all of them follow, and what a trial of them gave."""

    assignments: tuple[Assignment, ...]
    base: int | None
    estimate: Estimate | None

    def moved(self, by: int) -> "Allocation":
        """Give the same with wider steps."""
        assert self.base is not None
        return replace(self, assignments=_moved(self.assignments, by), base=self.base + by, estimate=None)


def allocate(
    source: Source,
    recipe: Recipe,
    *,
    num_threads: int = 1,
    weights: Mapping[str, float] | None = None,
    grams: Mapping[str, Gram] | None = None,
) -> Allocation:
    """Choose the coder of every tensor, and steps so that the file is what the recipe asks for.

    weights: of errors, by name of a tensor, instead of the rule of the recipe.
    grams: by name of a weight, the Gram matrix of its inputs, which that rule uses where it is known.

    Raises:
        ConfigError: no rule matches a tensor, a coder cannot store it, or no step meets the target.
    """
    check_grams(source.infos, grams or {})
    model_elements = sum(info.num_elements for info in source.infos)
    assignments, chosen = [], []
    for info in source.infos:
        rule = recipe.rule_for(info, model_elements)
        rule.coder.check(info)
        coder = rule.coder
        if not coder.lossless and coder.kind != Cast.kind and not _is_finite(source.read(info.name)):
            if recipe.non_finite == "refuse":
                raise ConfigError(
                    f'{info}: has NaN or infinite values; non_finite = "keep" stores such tensors losslessly'
                )
            coder = Planes()
        assignments.append(Assignment(info, coder))
        chosen.append(rule.weight)
    stepped = [place for place, assignment in enumerate(assignments) if isinstance(assignment.coder, Trellis)]
    if not stepped:
        return Allocation(tuple(assignments), None, None)
    infos = [assignments[place].info for place in stepped]
    found = weights or (sensitivities(source, infos, grams) if recipe.sensitivity == "auto" else {})
    for place in stepped:
        weight = chosen[place] * found.get(assignments[place].info.name, 1.0)
        if not 0 < weight < np.inf:
            raise ConfigError(f"{assignments[place].info}: its error has weight {weight}, expected a positive number")
        step = round(-STEPS_PER_OCTAVE / 2 * log2(weight))
        assignments[place] = replace(assignments[place], step=step)
    return _search(source, tuple(assignments), recipe, num_threads)


def _search(source: Source, assignments: tuple[Assignment, ...], recipe: Recipe, num_threads: int) -> Allocation:
    """Find the step index of the target."""
    trials: dict[int, Estimate] = {}
    elements = sum(a.info.num_elements for a in assignments if a.step is not None)
    total = sum(a.info.num_elements for a in assignments)
    if recipe.max_error is None and recipe.bits is None and recipe.size is None:
        raise ConfigError("recipe: quantizes, but has none of bits, size and max_error")

    def gap(at: int) -> float:
        """Give by how many octaves steps are too narrow, about: a bit is an octave, and so is half the error."""
        if at not in trials:
            trials[at] = estimate(source, _moved(assignments, at), num_threads)
        if recipe.max_error is not None:
            return log2(recipe.max_error / max(trials[at].relative_error, 1e-9))
        size = recipe.size if recipe.size is not None else recipe.bits * total / 8 if recipe.bits else 0
        return (trials[at].size - size) * 8 / max(elements, 1)

    prefer = "narrow" if recipe.max_error is not None else "wide" if recipe.size is not None else "near"
    base = find_step(gap, _first(source, assignments, recipe), prefer=prefer)
    if recipe.bits is None and (trials[base].size > (recipe.size or np.inf) or gap(base) < 0 < (recipe.max_error or 0)):
        raise ConfigError(f"recipe: {recipe.size or recipe.max_error} cannot be reached: found {trials[base]}")
    return Allocation(_moved(assignments, base), base, trials[base])


def find_step(gap: Callable[[int], float], first: int, *, prefer: str) -> int:
    """Find the step index where `gap`, which falls with it by about 1 per octave, is nearest to 0.

    prefer: "narrow" for the widest step where gap is at least 0, "wide" for the narrowest where it is at most 0,
    "near" for one near to 0 on either side.
    """
    tried: dict[int, float] = {}
    low, high = MIN_STEP_INDEX, MAX_STEP_INDEX
    at = min(max(first, low), high)
    while at not in tried and len(tried) < _MAX_TRIALS:
        tried[at] = gap(at)
        if tried[at] == 0 or (prefer == "near" and abs(tried[at]) < _CLOSE):
            return at
        low, high = (at, high) if tried[at] > 0 else (low, at)
        at = _next(tried, at, low, high)
    sign = {"narrow": 1, "wide": -1, "near": 0}[prefer]
    sided = [place for place, found in tried.items() if sign and found * sign >= 0]
    return max(sided, key=lambda place: place * sign) if sided else min(tried, key=lambda place: abs(tried[place]))


def _next(tried: Mapping[int, float], at: int, low: int, high: int) -> int:
    """Follow the slope between the last trial and the one nearest to it; halve what is left where that is no help."""
    slope = 1.0
    if others := [place for place in tried if place != at]:
        near = min(others, key=lambda place: abs(place - at))
        slope = min(max((tried[near] - tried[at]) * STEPS_PER_OCTAVE / (at - near), _MIN_SLOPE), _MAX_SLOPE)
    move = tried[at] * STEPS_PER_OCTAVE / slope
    ideal = at + (ceil(move) if move > 0 else floor(move))
    first, last = low + (low in tried), high - (high in tried)
    slow = len({gap > 0 for gap in list(tried.values())[-2:]}) == 1  # two trials on one side of 0
    if low in tried and high in tried and (slow or not first <= ideal <= last):
        ideal = (low + high) // 2
    return min(max(ideal, first), last)


def _first(source: Source, assignments: Sequence[Assignment], recipe: Recipe) -> int:
    """Guess the step index from the mean square of the values."""
    squares = elements = 0.0
    for assignment in assignments:
        if assignment.step is not None:
            values = source.read(assignment.info.name).astype(np.float32)
            squares += float(np.vdot(values, values)) * 2.0 ** (-2 * assignment.step / STEPS_PER_OCTAVE)
            elements += assignment.info.num_elements
    if not 0 < squares < np.inf:
        return 0
    bits = recipe.bits or (8 * recipe.size / max(elements, 1) if recipe.size else -log2(recipe.max_error or 1))
    return round(STEPS_PER_OCTAVE * (log2(squares / elements) / 2 - bits + 1))


def _moved(assignments: Sequence[Assignment], by: int) -> tuple[Assignment, ...]:
    return tuple(a if a.step is None else replace(a, step=a.step + by) for a in assignments)


def _is_finite(array: Array) -> bool:
    """Tell whether all values are finite numbers, as float32 too."""
    flat = array.reshape(-1)
    with np.errstate(over="ignore"):
        return all(np.isfinite(flat[i : i + _BLOCK].astype(np.float32)).all() for i in range(0, flat.size, _BLOCK))
