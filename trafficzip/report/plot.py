"""A figure of training runs beside each other: loss and traffic over the steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from trafficzip.report.table import format_bytes

_COLORS = ("#5b6770", "#d1495b", "#2e7d9a", "#7a9e3f")
_INK = "#24292f"
_GRID = "#e3e6e8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One run, step by step.

    losses: training loss of each step.  sent_bytes: bytes sent from the first step to the end of each.
    """

    name: str
    losses: Sequence[float]
    sent_bytes: Sequence[float]


def save_plot(curves: Sequence[Curve], path: Path, *, title: str, bytes_title: str) -> None:
    """Draw loss and cumulative bytes over the steps, 1200 x 500 pixels, and write them as a PNG file.

    The first curve is the one that the others are compared with.
    """
    layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.12, wspace=0.04)
    figure = Figure(figsize=(12, 5), dpi=100, layout=layout)
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.012, ha="left", fontsize=13, fontweight="bold", color=_INK)
    losses, sizes = figure.subplots(1, 2)
    _style(losses, "training loss")
    _style(sizes, bytes_title)
    for curve, color in zip(curves, _COLORS, strict=False):
        _draw_loss(losses, curve, color)
        _draw_bytes(sizes, curve, color, dense_bytes=curves[0].sent_bytes[-1])
    losses.set_yscale("log")
    losses.legend(frameon=False, loc="upper right", labelcolor=_INK)
    sizes.set_yscale("log")
    sizes.yaxis.set_major_formatter(lambda size, _: format_bytes(size).replace(".00", "").replace(".0", ""))
    num_steps = max(len(curve.losses) for curve in curves)
    losses.set_xlim(0, num_steps * 1.02)
    sizes.set_xlim(0, num_steps * 1.3)  # room for the totals
    sizes.set_xticks([tick for tick in losses.get_xticks() if tick <= num_steps])
    low, high = sizes.get_ylim()
    sizes.set_ylim(low, high * 3)
    figure.savefig(path)


def _draw_loss(axes: Any, curve: Curve, color: str) -> None:
    """Draw every step faintly, and the mean of the steps around each."""
    losses = np.asarray(curve.losses, dtype=np.float64)
    steps = np.arange(1, losses.size + 1)
    axes.plot(steps, losses, color=color, alpha=0.22, linewidth=0.8)
    width = max(1, losses.size // 25)
    sums = np.cumsum(np.concatenate([[0.0], losses]))
    first, last = np.maximum(steps - 1 - width // 2, 0), np.minimum(steps + width // 2, losses.size)
    axes.plot(steps, (sums[last] - sums[first]) / (last - first), color=color, linewidth=2, label=curve.name)


def _draw_bytes(axes: Any, curve: Curve, color: str, *, dense_bytes: float) -> None:
    sent = np.asarray(curve.sent_bytes, dtype=np.float64)
    fewer = f"\n{dense_bytes / sent[-1]:.0f} x fewer" if dense_bytes > sent[-1] > 0 else ""
    axes.plot(np.arange(1, sent.size + 1), sent, color=color, linewidth=2)
    axes.annotate(
        f"{curve.name}\n{format_bytes(sent[-1])}{fewer}",
        (sent.size, sent[-1]),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        color=color,
        fontweight="bold",
        fontsize=10,
    )


def _style(axes: Any, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=_INK)
    axes.set_xlabel("step", color=_INK)
    axes.grid(True, color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, which="both", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_GRID)
