"""Figures of accuracy: against the time of steps on each link, and against bytes sent."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from trafficzip.report.cluster_best import speaks_for
from trafficzip.report.cluster_groups import Rate, Study, Training
from trafficzip.report.cluster_methods import Look
from trafficzip.report.cluster_style import SOFT, legend, legend_height, line, log_axis, number, panels, png, style
from trafficzip.report.cluster_text import rate_name, round_bytes


def accuracy_time_plot(training: Training, study: Study, looks: Mapping[str, Look]) -> bytes | None:
    """Draw accuracy against steps times the link's step time, a panel per rate; None where no curve can be drawn."""

    def step_s(method: str, rate: Rate) -> float | None:
        return training.step_s(method, rate) if speaks_for(study, training, method, rate) else None

    return _plot(
        study,
        looks,
        [(rate_name(rate), partial(step_s, rate=rate)) for rate in training.rates],
        x="training time on this link, s",
        text=number,
    )


def accuracy_bytes_plot(
    study: Study, looks: Mapping[str, Look], wire_bytes: Mapping[str, float | None]
) -> bytes | None:
    """Draw accuracy against bytes sent per host; None where no curve can be drawn.

    wire_bytes: per host and step, by method.
    """
    return _plot(study, looks, [("", wire_bytes.get)], x="bytes sent per host since the first step", text=round_bytes)


def _plot(
    study: Study,
    looks: Mapping[str, Look],
    costs: Sequence[tuple[str, Callable[[str], float | None]]],
    *,
    x: str,
    text: Callable[[float], str],
) -> bytes | None:
    """Draw a panel per entry of costs: its title, and what one step costs a method."""
    figure, all_axes = panels(len(costs), height=3.6, share_y=True, legend_height=legend_height(looks.values()))
    drawn: list[str] = []
    for axes, (title, cost) in zip(all_axes, costs, strict=True):
        style(axes, title=title, x=x, y="test accuracy, %" if axes is all_axes[0] else "")
        lines = {m: [(s * c, a) for s, a in study.curve(m) if s] for m in looks if (c := cost(m))}
        lines = {m: points for m, points in lines.items() if points}
        for method, points in lines.items():
            _draw(axes, points, looks[method])
        drawn += lines
        spent = [at for points in lines.values() for at, _ in points]
        if spent:
            log_axis(axes.xaxis, min(spent) / 1.3, max(spent) * 1.3, text)
        else:
            axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=SOFT)
    if not drawn:
        return None
    legend(figure, [look for method, look in looks.items() if method in drawn])
    return png(figure)


def _draw(axes: Any, points: list[tuple[float, Any]], look: Look) -> None:
    """Draw the mean over seeds and a band from the lowest to the highest, with a marker at the end."""
    at = [x for x, _ in points]
    axes.plot(at, [a.mean for _, a in points], **(line(look) | {"markevery": [len(at) - 1], "linewidth": 1.6}))
    if any(a.seeds > 1 for _, a in points):
        low, high = [a.low for _, a in points], [a.high for _, a in points]
        axes.fill_between(at, low, high, color=look.color, alpha=0.12, linewidth=0)
