"""A table of training runs beside each other: accuracy, traffic, time."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

_COLUMNS = (
    "run",
    "test\nacc. %",
    "bytes on\nthe wire",
    "library\ncounts",
    "ratio",
    "bits/\nelement",
    "codec\ns",
    "exchange\ns",
    "step\nms",
    "ranks bit-\nidentical",
)
_UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One run. None stands for what was not measured and is shown as n/a, or as a dash where it has no meaning.

    accuracy: share of the test images classified correctly.
    wire_bytes: what the interface counted.  counted_bytes: what the library counted; a dash for a dense run.
    ratio: how many times fewer bytes than the dense run.  bits_per_element: sent by one rank in one step.
    codec_s, exchange_s: of the whole run; a dash for a dense run.  step_s: one step, the median.
    """

    name: str
    accuracy: float
    wire_bytes: int | None
    counted_bytes: int | None
    ratio: float | None
    bits_per_element: float | None
    codec_s: float | None
    exchange_s: float | None
    step_s: float
    identical: bool


def traffic_table(rows: Sequence[Row], *, title: str) -> Table:
    """Lay rows out, one line each."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=0)
    table.show_edge = False  # 80 columns in all
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column == "run" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row), style=None if row.identical else "red")
    return table


def format_bytes(num_bytes: float) -> str:
    """Give a size with three or four digits and a decimal unit.

    >>> format_bytes(999), format_bytes(5_106_614), format_bytes(513_950_021)
    ('999 B', '5.11 MB', '514 MB')
    """
    size, unit = float(num_bytes), 0
    while size >= 999.5 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    digits = 0 if unit == 0 or size >= 99.95 else 1 if size >= 9.995 else 2
    return f"{size:.{digits}f} {_UNITS[unit]}"


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.name,
        f"{100 * row.accuracy:.2f}",
        "n/a" if row.wire_bytes is None else format_bytes(row.wire_bytes),
        "–" if row.counted_bytes is None else format_bytes(row.counted_bytes),
        "n/a" if row.ratio is None else f"{row.ratio:.1f}x",
        "n/a" if row.bits_per_element is None else f"{row.bits_per_element:.3f}",
        "–" if row.codec_s is None else f"{row.codec_s:.2f}",
        "–" if row.exchange_s is None else f"{row.exchange_s:.2f}",
        f"{1000 * row.step_s:.{0 if row.step_s >= 0.1 else 1}f}",
        "yes" if row.identical else "NO",
    )
