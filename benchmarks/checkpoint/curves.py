"""Curves of bits against error and against worth, from the rows in results/."""

import csv
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
    order = sorted(rows, key=lambda row: float(row["rel_l2"]))
    errors, bits = ([float(row[column]) for row in order] for column in ("rel_l2", "bits_per_weight"))
    if not errors[0] <= error <= errors[-1]:
        raise ValueError(f"{error} is outside of the rows, {errors[0]} to {errors[-1]}")
    return float(np.interp(np.log(error), np.log(errors), bits))


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


_DRAWN = {  # method: name, color, whether settings are joined by a line
    "trafficzip": ("trafficzip", "C0", True),
    "trafficzip_calibrated": ("trafficzip, calibrated", "C2", True),
    "trafficzip_mse": ("trafficzip, one step for all", "C9", True),
    "nncodec": ("NNCodec", "C3", True),
    "nncodec_rdoq": ("NNCodec, RDOQ", "C1", True),
    "usq_zstd1": ("uniform steps, zstd -1", "C7", True),
    "bitsandbytes": ("bitsandbytes nf4, fp4, int8", "C4", False),
    "gguf": ("GGUF Q4_0, Q5_0, Q8_0", "C5", False),
}
_LIMITS = {"minilm": (0.85, 1.005), "resnet20": (88, 92.2), "resnet56": (90, 93.8)}
_TITLES = {"minilm": "all-MiniLM-L6-v2", "resnet20": "ResNet-20, CIFAR-10", "resnet56": "ResNet-56, CIFAR-10"}


def draw() -> Path:
    """Draw error and quality against bits for three models."""
    figure = Figure(figsize=(13, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(_LIMITS))
    for column, (model, limits) in enumerate(_LIMITS.items()):
        for method, (name, color, joined) in _DRAWN.items():
            rows = rows_of(model, method)
            bits = [float(row["bits_per_weight"]) for row in rows]
            style = {"color": color, "marker": "o", "ms": 3.5, "lw": 1.3 if joined else 0, "label": name}
            if method != "trafficzip_calibrated":  # it is not meant to keep this error small
                axes[0, column].semilogy(bits, [float(row["rel_l2"]) for row in rows], **style)
            axes[1, column].plot(bits, [float(row["quality"]) for row in rows], **style)
        axes[0, column].set(title=_TITLES[model], xlim=(1.5, 6), ylim=(0.02, 0.6))
        axes[1, column].set(xlim=(1.5, 6), ylim=limits, xlabel="bits per weight, whole file")
        axes[1, column].axhline(float(rows_of(model, "safetensors_fp32")[0]["quality"]), color="black", lw=0.7, ls=":")
    axes[0, 0].set_ylabel("relative error of the weights")
    axes[1, 0].set_ylabel("cosine of embeddings")
    axes[1, 1].set_ylabel("accuracy, %")
    axes[1, -1].legend(frameon=False, fontsize=8, loc="lower right")
    path = RESULTS / "checkpoint_curves.png"
    figure.savefig(path, dpi=100, metadata={"Software": None})
    return path
