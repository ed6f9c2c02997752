"""The picture of a run: what share of a copy's bandwidth ours reach, and how long others take for the same bucket."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.record import Row, read_rows
from benchmarks.harness import RESULTS

_OPERATIONS = {
    "encode": "encode, checksums included",
    "decode": "decode, judged",
    "sum_8": "decode and sum 8, judged",
    "owner_step": "owner's step: sum 8, encode the mean",
}
_MODELS = {"resnet50": ("ResNet-50", "#2b6cb0"), "transformer": ("12-layer transformer", "#dd8452")}
_BAR = 60  # % of a copy


def newest() -> Path:
    """Give the newest file of rows that were measured on a GPU.

    Raises:
        FileNotFoundError: there is none.
    """
    paths = sorted(RESULTS.glob("gpu_*.csv"), key=lambda path: path.stat().st_mtime)
    if not paths:
        raise FileNotFoundError(f"no rows in {RESULTS}/gpu_*.csv: run python -m benchmarks.bench_gpu on a GPU")
    return paths[-1]


def draw(rows_path: Path, picture: Path) -> None:
    """Draw the largest buckets of a file of rows; the last row of each kind counts."""
    from matplotlib import pyplot as plt

    rows = [row for row in read_rows(rows_path) if not row.get("error")]
    size = max(float(row["megabytes"]) for row in rows if row.get("model"))
    chosen = [row for row in rows if row.get("model") and float(row["megabytes"]) == size]
    copies = [float(row["gb_per_s"]) for row in rows if row["operation"] == "copy"]
    models = list(dict.fromkeys(row["model"] for row in chosen))
    shares, times = _shares(chosen), _times(chosen)
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 1.6 + 0.36 * max(len(shares), len(times), 6)))
    _bars(left, shares, models, log=False)
    left.axvline(_BAR, color="#555555", linewidth=1, linestyle="--")
    left.axvline(100, color="#555555", linewidth=1)
    left.set_xlim(0, max([105.0, *(1.05 * share for of in shares.values() for share in of.values())]))
    left.set_xlabel(f"% of a copy's bandwidth, {copies[-1]:,.0f} GB/s read and written; dashed: the bar")
    left.set_title("Ours, and each of its kernels", loc="left", fontsize=11)
    _bars(right, times, models, log=True)
    right.set_xlabel("microseconds a bucket, on the device")
    right.set_title("The same bucket through others", loc="left", fontsize=11)
    figure.legend(*left.get_legend_handles_labels(), loc="upper right", ncols=2, frameon=False, fontsize=9)
    figure.suptitle(f"One {size:g} MB bucket of float32 gradients, {rows[-1]['gpu']}", x=0.01, ha="left")
    figure.tight_layout()
    figure.savefig(picture, dpi=150)
    plt.close(figure)


def _shares(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Give, by label and model, % of the copy: each operation, then the kernels of which bytes were counted."""
    found: dict[str, dict[str, float]] = {}
    for operation, label in _OPERATIONS.items():
        of = [row for row in rows if row["operation"] == operation and row["method"] == "quartic" and row.get("share")]
        kernels = list(dict.fromkeys(row["kernel"] for row in of if row.get("kernel")))
        for kernel in ["", *kernels]:
            for row in of:
                if (row.get("kernel") or "") == kernel:
                    name = (
                        f"{kernel.strip('_').replace('_', ' ')} in {operation.replace('_', ' ')}" if kernel else label
                    )
                    found.setdefault(name, {})[row["model"]] = 100 * float(row["share"])
    return found


def _times(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Give, by label and model, microseconds of whole operations, ours first."""
    found: dict[str, dict[str, float]] = {}
    wanted = ("encode", "decode", "sum_8", "encode_decode", "encode_bytes", "decode_bytes")
    for operation in wanted:
        for row in rows:
            if row["operation"] != operation or row.get("kernel") or float(row["multiplier"]) != 1.0:
                continue
            method = row["method"] if row["method"] not in ("quartic", "zero_run", "rans") else f"ours, {row['method']}"
            label = f"{operation.replace('_', ' ')}: {method.replace('_', ' ')}"
            found.setdefault(label, {})[row["model"]] = float(row["us"])
    return found


def _bars(axes: Any, values: dict[str, dict[str, float]], models: Sequence[str], *, log: bool) -> None:
    """Draw a group of horizontal bars for each label, one for each model, with their figures."""
    height = 0.8 / len(models)
    for k, model in enumerate(models):
        name, colour = _MODELS.get(model, (model, "#888888"))
        places = [at + k * height for at, of in enumerate(values.values()) if model in of]
        widths = [of[model] for of in values.values() if model in of]
        drawn = axes.barh(places, widths, height, color=colour, label=name)
        axes.bar_label(drawn, fmt="%.0f", padding=2, fontsize=7)
    axes.set_yticks([at + 0.4 - height / 2 for at in range(len(values))], list(values), fontsize=8)
    axes.invert_yaxis()
    if log:
        axes.set_xscale("log")
    axes.spines[["top", "right"]].set_visible(False)
