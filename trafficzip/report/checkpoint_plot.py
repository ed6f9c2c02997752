"""A picture of a compressed checkpoint: bits per element of its tensors, by size."""

import os

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from trafficzip.checkpoint.inspect import FileReport


def plot_file(report: FileReport, path: str | os.PathLike[str]) -> None:
    """Draw each tensor as a bar as wide as its elements and as high as its bits per element, into a PNG."""
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    coders = list(dict.fromkeys(tensor.coder for tensor in report.tensors))
    start = 0.0
    labelled: set[str] = set()
    for tensor in report.tensors:
        if not tensor.bits_per_element:
            continue
        width = 8 * tensor.size / tensor.bits_per_element
        color = f"C{coders.index(tensor.coder) % 10}"
        label = None if tensor.coder in labelled else tensor.coder
        labelled.add(tensor.coder)
        axes.bar(
            start, tensor.bits_per_element, width, align="edge", color=color, edgecolor="white", lw=0.5, label=label
        )
        start += width
    axes.axhline(report.bits_per_element, color="black", lw=1, ls="--", label="whole file")
    axes.set(xlabel="elements, tensor after tensor", ylabel="bits per element", xlim=(0, start or 1))
    axes.legend(frameon=False)
    figure.savefig(path, format="png", dpi=120, metadata={"Software": None})
