"""Figures of step times and bytes: where a step's time goes, bytes at the interface, the exchange alone, break-even."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from trafficzip.report.break_even import break_even
from trafficzip.report.cluster_groups import Exchange, Training
from trafficzip.report.cluster_methods import BASELINE, Look
from trafficzip.report.cluster_rows import Row
from trafficzip.report.cluster_style import (
    GRID,
    INK,
    SOFT,
    legend,
    legend_height,
    line,
    log_axis,
    method_axis,
    number,
    panels,
    png,
    style,
)
from trafficzip.report.cluster_text import rate_name, round_bytes, three_digits
from trafficzip.report.table import format_bytes

_PARTS = {  # label, colour, hatch
    "compute": ("compute", "#9aa5b1", ""),
    "codec": ("codec", "#f08c00", ""),
    "exchange": ("exchange (the rest)", "#2e7d9a", ""),
    "both": ("codec and exchange, not told apart", "#2e7d9a", "////"),
    "step": ("not split", "#ced4da", "...."),
}
_CUT = 2.5  # bars longer than so many times the median are cut: dense on a slow link would flatten all others


def split_plot(links: Sequence[tuple[str, Mapping[str, Row]]], looks: Mapping[str, Look], *, what: str) -> bytes:
    """Draw each method's time as a stacked bar, a panel per link, with its own scale; long bars are cut.

    links: the link's name and its rows by method.  what: whose time it is, a step or an exchange.
    """
    figure, all_axes = panels(len(links), height=0.29 * len(looks) + 0.9, share_y=True, legend_height=0.35)
    used: dict[str, Any] = {}
    for axes, (name, rows) in zip(all_axes, links, strict=True):
        end = _bar_end([row.step_s for row in rows.values() if row.step_s])
        scale, unit = (1.0, "s") if end >= 1 else (1000.0, "ms")
        style(axes, title=name, x=f"{what} time, {unit}")
        for place, method in enumerate(looks):
            row = rows.get(method)
            if row is None or row.step_s is None:
                axes.text(end * scale * 0.01, place, "not measured", va="center", fontsize=8.5, color=SOFT)
            else:
                used |= _draw_bar(axes, row, place, end=end, scale=scale)
        method_axis(axes, looks)
        axes.set_xlim(0, end * scale * 1.24)  # room for the figure behind a bar
    order = [label for label, *_ in _PARTS.values() if label in used]
    bars = [used[label] for label in order]
    figure.legend(bars, order, loc="outside lower left", ncols=5, frameon=False, fontsize=9)
    return png(figure)


def split(row: Row) -> dict[str, float]:
    """Divide a row's step into parts; seconds by part's name. With overlap they may add up to more than the step."""
    if row.step_s is None:
        return {}
    if row.compute_s is None or row.exchange_s is None:
        return {"step": row.step_s}
    if row.codec_s is None and row.method != BASELINE:  # which has no codec
        return {"compute": row.compute_s, "both": row.exchange_s}
    return {"compute": row.compute_s, "codec": row.codec_s or 0.0, "exchange": row.exchange_s}


def _bar_end(totals: list[float]) -> float:
    """Choose where bars are cut, so that a few long ones do not flatten the others; seconds."""
    if not totals:
        return 1.0
    limit = _CUT * median(totals)
    if max(totals) <= limit * 1.2:
        return max(totals)
    return max(s for s in totals if s <= limit) * 1.15


def _draw_bar(axes: Any, row: Row, place: int, *, end: float, scale: float) -> dict[str, Any]:
    """Draw one step, cut at `end`, and its figure; give the bars by label."""
    assert row.step_s is not None
    length, cut = min(end, row.step_s), row.step_s > end
    left, bars = 0.0, {}
    for part, seconds in split(row).items():
        label, color, hatch = _PARTS[part]
        width = max(0.0, min(seconds, length - left))
        looks = {"height": 0.68, "color": color, "hatch": hatch, "edgecolor": "white", "linewidth": 0.4}
        bars[label] = axes.barh(place, width * scale, left=left * scale, **looks)
        left += width
    if cut:
        for share in (0.93, 0.955):
            axes.plot([(share + 0.01) * end * scale, (share - 0.01) * end * scale], [place - 0.42, place + 0.42], "w-")
    text = three_digits(row.step_s * scale)
    axes.text((left + end * 0.02) * scale, place, text, va="center", fontsize=8.5, color=INK)
    return bars


def bytes_plot(training: Training, looks: Mapping[str, Look]) -> bytes:
    """Draw bytes per host and step on a logarithmic axis, each with its figure."""
    figure, (axes,) = panels(1, height=0.27 * len(looks) + 0.8, share_y=False)
    sizes = {m: size for m in looks if (size := training.wire_bytes(m))}
    style(axes, x="bytes sent per host and step, counted at the interface")
    low, high = min(sizes.values()) / 2, max(sizes.values()) * 4
    for place, (method, look) in enumerate(looks.items()):
        size = sizes.get(method)
        if size is None:
            axes.text(low * 1.02, place, "not measured", va="center", fontsize=9, color=SOFT)
            continue
        axes.plot([low, size], [place, place], color=look.color, linewidth=2.5, alpha=0.55, solid_capstyle="butt")
        axes.plot([size], [place], **line(look))
        fewer = training.fewer(method)
        text = format_bytes(size) + (f"   {three_digits(fewer)} x fewer" if fewer and method != BASELINE else "")
        axes.annotate(text, (size, place), (9, 0), textcoords="offset points", va="center", fontsize=9, color=INK)
    method_axis(axes, looks)
    log_axis(axes.xaxis, low, high, round_bytes)
    return png(figure)


def exchange_plot(exchange: Exchange, looks: Mapping[str, Look]) -> bytes:
    """Draw time against size, both logarithmic, a panel per rate."""
    figure, all_axes = panels(
        len(exchange.rates), height=3.6, share_y=True, legend_height=legend_height(looks.values())
    )
    times = [row.step_s for row in exchange.cells.values() if row.step_s]
    for axes, rate in zip(all_axes, exchange.rates, strict=True):
        style(axes, title=rate_name(rate), x="gradient, MB of float32", y="exchange, ms" if axes is all_axes[0] else "")
        for method, look in looks.items():
            points = [(size, s * 1000) for size in exchange.sizes if (s := exchange.seconds(method, rate, size))]
            if points:
                axes.plot(*zip(*points, strict=True), **line(look))
        if exchange.sizes:
            log_axis(axes.xaxis, exchange.sizes[0] / 1.4, exchange.sizes[-1] * 1.4, number)
        if times:
            log_axis(axes.yaxis, min(times) * 1000 / 1.4, max(times) * 1000 * 1.4, number)
    legend(figure, looks.values())
    return png(figure)


def break_even_plot(training: Training, looks: Mapping[str, Look]) -> bytes | None:
    """Draw speed-up over dense against the rate: measured points, fits as lines; None where nothing can be fitted."""
    dense = training.shaped(BASELINE)
    found = {m: fit for m in looks if m != BASELINE and (fit := break_even(training.shaped(m), dense))}
    if not found:
        return None
    figure, (axes,) = panels(1, height=4.2, share_y=False, legend_height=legend_height([looks[m] for m in found]))
    style(axes, x="link rate, Mbit/s", y="speed-up over dense")
    low, high = min(f.rates[0] for f in found.values()), max(f.rates[-1] for f in found.values())
    seen = [1.0]
    for method, pair in found.items():
        look = line(looks[method]) | {"marker": ""}
        shown = {rate: dense[rate] / training.shaped(method)[rate] for rate in pair.rates}
        axes.plot([rate / 1e6 for rate in shown], list(shown.values()), **(line(looks[method]) | {"linestyle": ""}))
        seen += shown.values()
        for begin, end, extra in ((pair.rates[0], pair.rates[-1], {}), (pair.rates[-1], high * 4, {"linestyle": ":"})):
            rates = np.geomspace(begin, end, 80)
            ours, theirs = (np.array([fit.seconds(r) for r in rates]) for fit in (pair.method, pair.baseline))
            valid = (ours > 0) & (theirs > 0)
            axes.plot(rates[valid] / 1e6, theirs[valid] / ours[valid], **(look | extra))
    axes.axhline(1, color=INK, linewidth=1.2)
    axes.axvspan(low / 1e6, high / 1e6, color=GRID, alpha=0.35, zorder=0, linewidth=0)
    log_axis(axes.xaxis, low / 1e6 / 1.3, high * 4 / 1e6, number)
    log_axis(axes.yaxis, min(seen) / 1.4, max(seen) * 1.4, number)
    axes.text(high / 1e6 * 1.05, max(seen) * 1.2, "beyond the measured rates", fontsize=8.5, color=SOFT, va="center")
    axes.text(low / 1e6 / 1.27, 1.03, "dense", fontsize=8.5, color=INK, va="bottom")
    legend(figure, [looks[m] for m in found])
    return png(figure)
