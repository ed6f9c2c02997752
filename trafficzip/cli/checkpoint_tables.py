"""Tables of checkpoints for a terminal."""

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

from rich import box
from rich.table import Table

from trafficzip.checkpoint.allocate import Allocation
from trafficzip.checkpoint.estimate import Estimate
from trafficzip.checkpoint.inspect import Difference, FileReport, coder_text
from trafficzip.checkpoint.save import Saved
from trafficzip.checkpoint.trellis.scales import step_of
from trafficzip.report.table import format_bytes


def plan_table(planned: Allocation, expected: Estimate) -> Table:
    """Show how each tensor would be stored."""
    size = expected.size
    elements = sum(a.info.num_elements for a in planned.assignments)
    original = sum(a.info.num_bytes for a in planned.assignments)
    title = f"about {format_bytes(size)} of {format_bytes(original)}"
    if elements:
        title += f", {8 * size / elements:.3f} bits per element"
    if expected.squared_norm:
        title += f", relative error {expected.relative_error:.3g}"
    table = _table(title, ("tensor", "dtype", "shape", "elements", "coder", "step"))
    for assignment in planned.assignments:
        info, step = assignment.info, assignment.step
        table.add_row(
            info.name,
            info.dtype,
            _shape(info.shape),
            f"{info.num_elements:,}",
            coder_text(assignment.coder),
            "" if step is None else f"{float(step_of(step)):.3g}",
        )
    return table


def file_table(report: FileReport, errors: Mapping[str, Difference], name: str) -> Table:
    """Show what a file holds; with errors where they are known."""
    title = f"{name}: {format_bytes(report.size)}, {report.bits_per_element:.3f} bits per element, {report.ratio:.2f} x"
    if errors:
        lost, norm = (sum(getattr(d, field) for d in errors.values()) for field in ("squared_error", "squared_norm"))
        title += f", relative error {(lost / norm) ** 0.5 if norm else 0:.3g}"
    columns = ("tensor", "dtype", "shape", "coder", "step", "size", "bits", *(("error",) if errors else ()))
    table = _table(title, columns)
    for tensor in report.tensors:
        cells = [
            tensor.name,
            tensor.dtype,
            _shape(tensor.shape),
            tensor.coder,
            "" if tensor.step is None else f"{tensor.step:.3g}",
            format_bytes(round(tensor.size)),
            f"{tensor.bits_per_element:.2f}" if prod(tensor.shape) else "",
        ]
        if errors:
            found = errors.get(tensor.name)
            cells.append("" if found is None else found.problem or f"{found.relative_error:.3g}")
        table.add_row(*cells)
    for key, text in report.metadata.items():
        table.caption = f"{table.caption or ''}{key}: {text}\n"
    return table


def difference_table(found: Sequence[Difference], first: str, second: str) -> Table:
    """Show which tensors differ, and by how much."""
    equal = sum(d.equal for d in found)
    table = _table(
        f"{first} against {second}: {equal} of {len(found)} tensors are equal", ("tensor", "error", "largest")
    )
    for d in found:
        if not d.equal:
            cells = (d.problem, "") if d.problem else (f"{d.relative_error:.4g}", f"{d.largest:.4g}")
            table.add_row(d.name, *cells)
    return table


def summary(saved: Saved, path: Path) -> str:
    """Tell in a line what was written."""
    ratio = saved.original_bytes / saved.size
    return (
        f"{path}: {format_bytes(saved.original_bytes)} to {format_bytes(saved.size)}, {ratio:.2f} x, "
        f"{saved.bits_per_element:.3f} bits per element"
    )


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.show_edge = False
    for column in columns:
        left = column in ("tensor", "dtype", "shape", "coder")
        table.add_column(column, justify="left" if left else "right", overflow="fold")
    return table


def _shape(shape: Sequence[int]) -> str:
    return "x".join(str(length) for length in shape) or "scalar"
