"""Curves of bits against error and against worth, from the rows in results/."""

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks.harness import RESULTS

Row = dict[str, str]
_LOWER_IS_BETTER = ("stories260k",)


def rows_of(model: str, *methods: str) -> list[Row]:
    """Give the newest row of each setting, sorted by bits; of all methods if none is named."""
    newest: dict[tuple[str, str], Row] = {}
    for path in sorted(RESULTS.glob("checkpoint_peers_*.csv")) + sorted(RESULTS.glob("checkpoint_ours_*.csv")):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                if row["model"] == model and (not methods or row["method"] in methods):
                    newest[row["method"], row["setting"]] = row
    return sorted(newest.values(), key=lambda row: float(row["bits_per_weight"]))


def bits_at_error(rows: Sequence[Row], error: float) -> float:
    """Interpolate bits at a relative error; in its logarithm, in which curves are nearly straight."""
    return _at([float(row["rel_l2"]) for row in rows], rows, error, logarithmic=True)


def error_at_bits(rows: Sequence[Row], bits: float) -> float:
    """Interpolate the relative error at so many bits."""
    found = [float(row["bits_per_weight"]) for row in rows]
    logs = [np.log(float(row["rel_l2"])) for row in rows]
    if not min(found) <= bits <= max(found):
        raise ValueError(f"{bits} bits are outside of the rows, {min(found)} to {max(found)}")
    return float(np.exp(np.interp(bits, found, logs)))


def bits_at_quality(rows: Sequence[Row], quality: float) -> float:
    """Interpolate the bits that reach a quality, where it is last below it on the way down from many bits."""
    lower = rows[0]["model"] in _LOWER_IS_BETTER
    points = [(float(r["bits_per_weight"]), float(r["quality"]) * (-1 if lower else 1)) for r in rows]
    goal = -quality if lower else quality
    for (bits, value), (more, better) in zip(points[-2::-1], points[:0:-1], strict=True):
        if value < goal <= better:
            return bits + (more - bits) * (goal - value) / (better - value)
    if points[0][1] >= goal:
        return points[0][0]
    raise ValueError(f"quality {quality} is outside of the rows")


def _at(values: Sequence[float], rows: Sequence[Row], wanted: float, *, logarithmic: bool) -> float:
    scale = np.log if logarithmic else np.asarray
    order = np.argsort(values)
    found = np.array(values)[order]
    bits = np.array([float(row["bits_per_weight"]) for row in rows])[order]
    if not found[0] <= wanted <= found[-1]:
        raise ValueError(f"{wanted} is outside of the rows, {found[0]} to {found[-1]}")
    return float(np.interp(scale(wanted), scale(found), bits))


def print_table() -> None:
    """Print all rows, model by model."""
    console = Console(width=120)
    for model in ("minilm", "resnet20", "resnet32", "resnet56", "stories260k"):
        table = Table(title=model, title_justify="left")
        for column in ("method", "setting", "bits", "rel. error", "quality", "encode s", "decode s"):
            table.add_column(column, justify="left" if column in ("method", "setting") else "right")
        for row in rows_of(model):
            table.add_row(
                row["method"],
                row["setting"],
                f"{float(row['bits_per_weight']):.3f}",
                f"{float(row['rel_l2']):.4f}",
                f"{float(row['quality']):.4f}",
                f"{float(row['encode_s']):.2f}",
                f"{float(row['decode_s']):.3f}",
            )
        console.print(table)


def draw() -> Path:
    """Draw error and quality against bits for every model; lines of many settings, points of few."""
    models = ("minilm", "resnet20", "resnet56", "stories260k")
    figure = Figure(figsize=(15, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(models))
    shown: dict[str, str] = {}
    for column, model in enumerate(models):
        by_method: dict[str, list[Row]] = defaultdict(list)
        for row in rows_of(model):
            by_method[row["method"]].append(row)
        for method, rows in by_method.items():
            color = shown.setdefault(method, f"C{len(shown) % 10}")
            bits = [float(row["bits_per_weight"]) for row in rows]
            style = {"color": color, "marker": "o", "ms": 3, "lw": 1.2 if len(rows) > 3 else 0, "label": method}
            axes[0, column].semilogy(bits, [float(row["rel_l2"]) for row in rows], **style)
            axes[1, column].plot(bits, [float(row["quality"]) for row in rows], **style)
        best = [float(row["quality"]) for row in rows_of(model)]
        top, low = (min(best), max(best)) if model in _LOWER_IS_BETTER else (max(best), min(best))
        span = abs(top - low) or 1
        limits = (
            (top - 0.02 * span, top + 0.25 * span)
            if model in _LOWER_IS_BETTER
            else (top - 0.25 * span, top + 0.02 * span)
        )
        axes[0, column].set(title=model, xlim=(1.5, 6))
        axes[1, column].set(xlim=(1.5, 6), ylim=limits, xlabel="bits per weight, whole file")
    axes[0, 0].set_ylabel("relative error of matrices")
    axes[1, 0].set_ylabel("cosine, accuracy %, nats a token")
    axes[0, -1].legend(frameon=False, fontsize=7)
    path = RESULTS / "checkpoint_curves.png"
    figure.savefig(path, dpi=110)
    return path
