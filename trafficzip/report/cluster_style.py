"""How the cluster report's figures look: panels, axes, number labels, legends; and figures as PNG bytes."""

import io
from collections.abc import Callable, Collection, Mapping
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

from trafficzip.report.cluster_methods import Look

INK = "#24292f"
SOFT = "#6a737d"
GRID = "#e3e6e8"
WIDTH = 12.5  # inches of every figure
_PANELS = 4  # beside each other
_LEGEND_LETTERS = 150  # beside each other, a marker taken as 8


def panels(count: int, *, height: float, share_y: bool, legend_height: float = 0.0) -> tuple[Figure, list[Any]]:
    """Make a figure of `count` panels, at most four beside each other, each `height` inches high."""
    columns = min(count, _PANELS)
    rows = -(-count // columns)
    size = (WIDTH, rows * height + legend_height)
    figure = Figure(figsize=size, dpi=140, layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, wspace=0.03))
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=share_y)
    axes = [grid[index // columns][index % columns] for index in range(rows * columns)]
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def style(axes: Any, *, title: str = "", x: str = "", y: str = "") -> None:
    """Give axes a title, axis titles with units, a light grid and no box."""
    axes.set_title(title, loc="left", fontsize=10.5, color=INK, fontweight="bold")
    axes.set_xlabel(x, color=INK, fontsize=9.5)
    axes.set_ylabel(y, color=INK, fontsize=9.5)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, which="both", length=0, labelsize=9)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)


def plain(text: str) -> str:
    """Make text safe to draw: no formulas, no control characters, at most 32 characters.

    >>> plain("$x$")
    '\\\\$x\\\\$'
    """
    kept = "".join(c if c.isprintable() else " " for c in text)
    return (kept if len(kept) <= 32 else kept[:31] + "…").replace("$", r"\$")


def log_axis(axis: Any, low: float, high: float, text: Callable[[float], str]) -> None:
    """Make an axis logarithmic from low to high, with plain numbers at 1, 2 and 5, at 1, or fewer where it is long."""
    if axis.axis_name == "x":
        axis.axes.set_xscale("log")
        axis.axes.set_xlim(low, high)
    else:
        axis.axes.set_yscale("log")
        axis.axes.set_ylim(low, high)
    ratio = high / low
    subs = (1, 2, 5) if ratio < 30 else (1, 3) if ratio < 300 else (1,)
    axis.set_major_locator(LogLocator(10, subs=subs, numticks=9))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(lambda value, _: text(value))


def method_axis(axes: Any, looks: Mapping[str, Look]) -> None:
    """Name methods down the y-axis, first on top, ours bold."""
    axes.set_ylim(len(looks) - 0.45, -0.55)
    axes.set_yticks(range(len(looks)), [plain(look.label) for look in looks.values()])
    for tick, look in zip(axes.yaxis.get_major_ticks(), looks.values(), strict=True):
        tick.label1.set_fontweight("bold" if look.ours else "normal")
    axes.grid(False, axis="y")


def line(look: Look) -> dict[str, Any]:
    """Give the line style of a method: ours solid and filled, peers dashed and hollow."""
    return {
        "color": look.color,
        "marker": look.marker,
        "markersize": 5.5 if look.ours else 5,
        "markerfacecolor": look.color if look.ours else "white",
        "markeredgecolor": look.color,
        "linewidth": 2 if look.ours else 1.4,
        "linestyle": "-" if look.ours else (0, (4, 1.6)),
        "zorder": 3 if look.ours else 2,
    }


def legend(figure: Figure, looks: Collection[Look]) -> None:
    """Put one legend of all methods below the panels."""
    handles, labels = [], []
    for look in looks:
        handles.append(Line2D([], [], **line(look)))
        labels.append(plain(look.label))
    columns = _legend_columns(looks)
    figure.legend(handles, labels, loc="outside lower left", ncols=columns, frameon=False, fontsize=9, labelcolor=INK)


def legend_height(looks: Collection[Look]) -> float:
    """Give the inches that a legend of these methods needs."""
    return 0.25 + 0.22 * -(-len(looks) // _legend_columns(looks))


def _legend_columns(looks: Collection[Look]) -> int:
    longest = max((len(plain(look.label)) for look in looks), default=0)
    return max(1, min(6, _LEGEND_LETTERS // (longest + 8)))


def number(value: float) -> str:
    """Give a number with three digits and no exponent.

    >>> number(0.001234), number(12345.6), number(2.0)
    ('0.00123', '12,300', '2')
    """
    return f"{float(f'{value:.3g}'):,.10g}"


def png(figure: Figure) -> bytes:
    """Give the figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
