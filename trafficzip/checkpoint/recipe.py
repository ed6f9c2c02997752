"""Which coder stores which tensor, how small the file is to be, and named recipes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from trafficzip.checkpoint.coders.base import Coder
from trafficzip.checkpoint.coders.cast import Cast
from trafficzip.checkpoint.coders.planes import Planes
from trafficzip.checkpoint.coders.ternary import Ternary
from trafficzip.checkpoint.tensors import TensorInfo
from trafficzip.checkpoint.trellis.coder import Trellis
from trafficzip.errors import ConfigError

SMALL_MODEL = 1 << 22  # elements: so few are decoded by contexts in a moment
_LARGE_VECTOR = 1 << 16  # elements: no norm or bias, but weights that were flattened


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Which tensors a coder stores: those for which all conditions hold.

    name: a pattern with *, ? and [...], case-sensitive.  dtypes: names of dtypes, or "float" for all floating point;
    empty for any.  min_dims, min_elements: of the tensor.  max_model: elements of all tensors, 0 for any number.
    weight: what squared error in these tensors counts against the same in others; with 4 the step is half as wide.

    Raises:
        ConfigError: the weight is not positive.
    """

    coder: Coder
    name: str = "*"
    dtypes: tuple[str, ...] = ()
    min_dims: int = 0
    min_elements: int = 0
    max_model: int = 0
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.weight < float("inf"):
            raise ConfigError(f"rule for {self.name!r}: weight is {self.weight}, expected a positive number")

    def matches(self, info: TensorInfo, model_elements: int) -> bool:
        """Tell whether the rule is for a tensor of a model with so many elements."""
        return (
            fnmatchcase(info.name, self.name)
            and (not self.dtypes or info.dtype in self.dtypes or ("float" in self.dtypes and info.is_float))
            and len(info.shape) >= self.min_dims
            and info.num_elements >= self.min_elements
            and (not self.max_model or model_elements <= self.max_model)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Ordered rules, of which the first that matches decides, and the size or error that sets all steps.

    bits: of the whole file per element.  size: of the whole file, in bytes.  max_error: squared error over squared norm
    of all that is quantized, its root.  At most one of them is given, and one is if a rule's coder needs steps.
    sensitivity: "auto" for steps by a rule that needs no data, "none" for one step but for the rules' weights.
    non_finite: "refuse" NaN and infinite values in tensors to be quantized, or "keep" these tensors losslessly.

    Raises:
        ConfigError: a value is out of range, or two targets are given.
    """

    rules: tuple[Rule, ...]
    bits: float | None = None
    size: int | None = None
    max_error: float | None = None
    sensitivity: str = "auto"
    non_finite: str = "refuse"

    def __post_init__(self) -> None:
        targets = {"bits": self.bits, "size": self.size, "max_error": self.max_error}
        given = {name: value for name, value in targets.items() if value is not None}
        if len(given) > 1:
            raise ConfigError(f"recipe: {' and '.join(given)} are given, expected one of them")
        for name, value in given.items():
            if not 0 < value < float("inf"):
                raise ConfigError(f"recipe: {name} is {value}, expected a positive number")
        if self.sensitivity not in ("auto", "none"):
            raise ConfigError(f'recipe: sensitivity is {self.sensitivity!r}, expected "auto" or "none"')
        if self.non_finite not in ("refuse", "keep"):
            raise ConfigError(f'recipe: non_finite is {self.non_finite!r}, expected "refuse" or "keep"')

    def with_target(
        self, *, bits: float | None = None, size: int | None = None, max_error: float | None = None
    ) -> "Recipe":
        """Give the recipe with another target."""
        return replace(self, bits=bits, size=size, max_error=max_error)

    def rule_for(self, info: TensorInfo, model_elements: int) -> Rule:
        """Give the first rule that matches a tensor.

        Raises:
            ConfigError: none does.
        """
        for rule in self.rules:
            if rule.matches(info, model_elements):
                return rule
        raise ConfigError(f"{info}: no rule of the recipe matches; end it with a rule for everything")


def weights_and_rest(quantize: Sequence[Coder], vectors: Coder) -> tuple[Rule, ...]:
    """Give rules that quantize weights, cast norms and biases, and keep everything else.

    quantize: for small models, then for others.
    """
    weights = [Rule(coder=Planes(), dtypes=("float8_e8m0fnu",))]  # powers of two, which scale blocks of other tensors
    for coder, max_model in zip(quantize, (SMALL_MODEL, 0), strict=True):
        weights.append(Rule(coder=coder, dtypes=("float",), min_dims=2, max_model=max_model))
        weights.append(Rule(coder=coder, dtypes=("float",), min_elements=_LARGE_VECTOR, max_model=max_model))
    return (*weights, Rule(coder=vectors, dtypes=("float",)), Rule(coder=Planes()))


def _trellis(bits: float, *, vector_bits: int = 7, num_states: int = 256) -> Recipe:
    coders = [Trellis(num_states=num_states, context=context) for context in (True, False)]
    return Recipe(rules=weights_and_rest(coders, Cast(mantissa_bits=vector_bits)), bits=bits)


RECIPES: dict[str, Recipe] = {
    "lossless": Recipe(rules=(Rule(coder=Planes()),)),
    "near-lossless": _trellis(8.0, vector_bits=15, num_states=64),
    "balanced": _trellis(4.0, vector_bits=9),
    "small": _trellis(3.0),
    "tiny": _trellis(2.0),
    "ternary": Recipe(rules=weights_and_rest([Ternary(), Ternary()], Cast(mantissa_bits=7))),
}
