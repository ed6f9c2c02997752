"""Recipes as TOML files.

preset = "small"            # a named recipe, whose rules come after those below
bits = 2.8                  # or size, in bytes, or max_error
sensitivity = "none"
non_finite = "keep"

[[rule]]
name = "*.word_embeddings.weight"
weight = 0.25               # coarser than the rest
coder = { kind = "trellis", num_states = 64 }

[[rule]]
name = "classifier.*"
coder = { kind = "planes" } # lossless
"""

import os
import tomllib
from dataclasses import fields, replace
from typing import Any

from trafficzip.checkpoint.coders.table import make_coder
from trafficzip.checkpoint.recipe import RECIPES, Recipe, Rule
from trafficzip.errors import ConfigError

_TARGETS = ("bits", "size", "max_error")


def read_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Read a recipe from a TOML file.

    Raises:
        ConfigError: there is no such file, or it is no recipe; it says in which place.
    """
    try:
        with open(path, "rb") as file:
            found = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"recipe {path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {path}: not TOML: {error}") from error
    try:
        return recipe_from_dict(found)
    except ConfigError as error:
        raise ConfigError(f"recipe {path}: {error}") from error


def recipe_from_dict(found: dict[str, Any]) -> Recipe:
    """Make a recipe of what a TOML file says.

    Raises:
        ConfigError: a field is not known, missing, or out of range.
    """
    left = dict(found)
    preset, rules = left.pop("preset", None), left.pop("rule", [])
    if preset is not None and not (isinstance(preset, str) and preset in RECIPES):
        raise ConfigError(f"preset {preset!r}: expected one of {', '.join(RECIPES)}")
    start = RECIPES[preset] if preset is not None else Recipe(rules=())
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        raise ConfigError("rule: expected tables that begin with [[rule]]")
    values = _checked(left, Recipe, "recipe", without=("rules",))
    if any(target in values for target in _TARGETS):
        values = {**dict.fromkeys(_TARGETS), **values}
    own = tuple(_rule(rule, number) for number, rule in enumerate(rules, 1))
    return replace(start, rules=own + start.rules, **values)


def _rule(found: dict[str, Any], number: int) -> Rule:
    left = dict(found)
    coder = left.pop("coder", None)
    if not isinstance(coder, dict):
        raise ConfigError(f'rule {number}: coder is {coder!r}, expected a table such as {{ kind = "planes" }}')
    try:
        values = _checked(left, Rule, "it", without=("coder",))
        return Rule(coder=make_coder(coder), **values)
    except ConfigError as error:
        raise ConfigError(f"rule {number}: {error}") from error


def _checked(found: dict[str, Any], owner: type, what: str, without: tuple[str, ...]) -> dict[str, Any]:
    known: dict[str, Any] = {field.name: field.type for field in fields(owner) if field.name not in without}
    values: dict[str, Any] = {}
    for name, value in found.items():
        if name not in known:
            raise ConfigError(f"{what} has no field {name!r}; known are {', '.join(known)}")
        if known[name] == tuple[str, ...]:
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                raise ConfigError(f"{name} is {value!r}, expected a list of strings")
            values[name] = tuple(value)
        elif type(value) is int and known[name] in (float, float | None):
            values[name] = float(value)
        elif isinstance(value, bool) or not isinstance(value, known[name]):
            raise ConfigError(f"{name} is {value!r}, expected {getattr(known[name], '__name__', known[name])}")
        else:
            values[name] = value
    return values
