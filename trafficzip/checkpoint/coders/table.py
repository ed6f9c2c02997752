"""All coders by kind, and a coder from its entry in a file's header or in a recipe."""

from dataclasses import fields
from typing import Any

from trafficzip.checkpoint.coders.base import Coder
from trafficzip.checkpoint.coders.blockwise import Blockwise
from trafficzip.checkpoint.coders.cast import Cast
from trafficzip.checkpoint.coders.codebook import Codebook
from trafficzip.checkpoint.coders.delta import Delta
from trafficzip.checkpoint.coders.general import General
from trafficzip.checkpoint.coders.planes import Planes
from trafficzip.checkpoint.coders.ternary import Ternary
from trafficzip.checkpoint.trellis.coder import Trellis
from trafficzip.errors import ConfigError, CorruptPayloadError, UnsupportedFormatError

CODERS: dict[str, type[Coder]] = {
    coder.kind: coder for coder in (Trellis, Planes, Cast, Blockwise, Ternary, Codebook, General)
}


def make_coder(entry: dict[str, Any]) -> Coder:
    """Make a coder of `kind` and those fields that are given; others have their default.

    Raises:
        ConfigError: there is no such kind or field, or a value is out of range.
    """
    left = dict(entry)
    kind = left.pop("kind", None)
    if kind == Delta.kind:
        inner = left.pop("inner", None)
        if left or not isinstance(inner, dict) or inner.get("kind") == Delta.kind:
            raise ConfigError(f"coder delta: found {entry!r:.200}, expected another coder as inner")
        return Delta(inner=make_coder(inner))
    if not isinstance(kind, str) or kind not in CODERS:
        raise ConfigError(f"coder {kind!r:.100}: expected one of {', '.join(CODERS)}")
    known: dict[str, Any] = {field.name: field.type for field in fields(CODERS[kind])}  # type: ignore[arg-type]
    for name, value in left.items():
        if name not in known:
            raise ConfigError(f"coder {kind}: has no field {name!r}; known are {', '.join(known) or 'none'}")
        if known[name] is float and type(value) is int:
            left[name] = float(value)
        elif type(value) is not known[name]:
            raise ConfigError(f"coder {kind}: {name} is {value!r}, expected {known[name].__name__}")
    return CODERS[kind](**left)


def coder_from_dict(entry: Any) -> Coder:
    """Make the coder that a file names, with all of its fields.

    Raises:
        CorruptPayloadError: a field is missing or out of range.
        UnsupportedFormatError: this release knows no such coder.
    """
    if not isinstance(entry, dict):
        raise CorruptPayloadError(f"header: coder {entry!r:.100} is no object")
    if not isinstance(entry.get("kind"), str) or entry["kind"] not in (*CODERS, Delta.kind):
        raise UnsupportedFormatError(f"header: coder {entry.get('kind')!r:.50} is not known to this release")
    try:
        coder = make_coder(entry)
    except ConfigError as error:
        raise CorruptPayloadError(f"header: {error}") from error
    if coder.to_dict() != entry:
        raise CorruptPayloadError(f"header: coder {entry!r:.200}: expected {coder.to_dict()}")
    return coder
