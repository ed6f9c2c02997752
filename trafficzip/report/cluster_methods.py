"""What each method is called, in which order methods stand, and one colour and marker each on the whole page."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

BASELINE = "dense"
HALF = "fp16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How a method appears: ours in warm colours, drawn solid; peers in cool ones, dashed."""

    label: str
    ours: bool
    color: str
    marker: str


_PEERS = {  # label, colour, marker
    BASELINE: ("dense float32", "#24292f", "s"),
    HALF: ("float16", "#868e96", "D"),
    "bf16": ("bfloat16", "#adb5bd", "d"),
    "int8": ("8-bit integers", "#4c956c", "v"),
    "powersgd_r1": ("PowerSGD rank 1", "#8ecae6", "o"),
    "powersgd_r2": ("PowerSGD rank 2", "#3a86c8", "o"),
    "powersgd_r4": ("PowerSGD rank 4", "#1d4e89", "o"),
    "top_k": ("top-k", "#7b5ea7", "^"),
    "one_bit": ("1-bit", "#2a9d8f", "P"),
}
_OURS = {
    "three_lc_s1.0": ("3LC s = 1.0", "#f6bd60", "o"),
    "three_lc_s1.5": ("3LC s = 1.5", "#f3a03c", "^"),
    "three_lc_s1.75": ("3LC s = 1.75", "#e07a1f", "v"),
    "three_lc_s1.9": ("3LC s = 1.9", "#b85c0e", "D"),
    "three_lc_rans_s1.0": ("3LC rANS s = 1.0", "#e5679b", "P"),
    "default": ("trafficzip default", "#d00032", "o"),
    "auto": ("trafficzip auto", "#7a0026", "X"),
    "local_h16": ("local steps, every 16", "#9c6644", "s"),
}
_OTHER_OURS = ("#ff8c69", "#a0522d", "#c9184a", "#ffb703")
_OTHER_PEERS = ("#577590", "#90be6d", "#5e60ce", "#48bfe3", "#6c757d", "#264653")
_OTHER_MARKERS = ("*", "<", ">", "p", "h")


def looks(methods: Iterable[str]) -> dict[str, Look]:
    """Give the methods in the order in which they are shown: dense, peers, ours.

    Names not known here come last among peers or ours.

    methods: names as rows give them; one that starts with three_lc or local_ counts as ours.
    """
    names = list(dict.fromkeys(methods))
    found: dict[str, Look] = {}
    for ours, known, colors in ((False, _PEERS, _OTHER_PEERS), (True, _OURS, _OTHER_OURS)):
        for name in known:
            if name in names:
                label, color, marker = known[name]
                found[name] = Look(label=label, ours=ours, color=color, marker=marker)
        others = [name for name in names if name not in _PEERS and name not in _OURS and _is_ours(name) == ours]
        for index, name in enumerate(others):
            color, marker = colors[index % len(colors)], _OTHER_MARKERS[index % len(_OTHER_MARKERS)]
            found[name] = Look(label=name, ours=ours, color=color, marker=marker)
    return found


def in_order(methods: Iterable[str], order: Mapping[str, Look]) -> tuple[str, ...]:
    """Sort methods as `order` has them."""
    wanted = set(methods)
    return tuple(name for name in order if name in wanted)


def _is_ours(name: str) -> bool:
    return name.startswith(("three_lc", "local_")) or name in _OURS
