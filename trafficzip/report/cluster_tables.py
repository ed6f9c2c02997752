"""Tables of the cluster report, as text in cells; the template lays them out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trafficzip.report.cluster_groups import Exchange, Study
from trafficzip.report.cluster_methods import BASELINE, HALF, Look
from trafficzip.report.cluster_rows import Row
from trafficzip.report.cluster_text import NONE, ByteUnit, byte_unit, fixed, milliseconds, place_name, rate_name

_NOISY = 0.1  # spread above which a time is shown with it


@dataclass(frozen=True, slots=True)
class Cell:
    """Text, a smaller note below it, and whether it is the best of its column. words: left-aligned."""

    text: str
    note: str = ""
    best: bool = False
    words: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table: groups of columns (title, number of columns), heads (title, unit), and lines of a method each."""

    heads: Sequence[tuple[str, str]]
    lines: Sequence[tuple[Look | None, Sequence[Cell]]]
    groups: Sequence[tuple[str, int]] = ()
    notes: Sequence[str] = field(default=())


def figures_table(title: str, rows: Mapping[str, Row], looks: Mapping[str, Look], *, step: str) -> Table:
    """Lay out every figure of some rows by method: the step, its parts and spread, bytes of each count.

    step: what was timed, a step or an exchange.
    """
    unit = byte_unit([b for row in rows.values() for b in (row.wire_bytes, row.counted_bytes, row.payload_bytes)])
    plans = any(row.plan for row in rows.values())
    return Table(
        groups=((title, 1), (f"time of one {step}", 5), (f"bytes sent per {step}", 3), ("", 1 + plans)),
        heads=(
            ("method", ""),
            *((part, "ms") for part in ("whole", "compute", "codec", "exchange")),
            ("spread", "%"),
            ("per host, interface", unit.name),
            ("per rank, library", unit.name),
            ("per rank, codes alone", unit.name),
            ("timed", ""),
            *([("what it did", "")] if plans else []),
        ),
        lines=[
            (look, [*_figures(rows[m], unit), *([Cell(rows[m].plan or NONE, words=True)] if plans else [])])
            for m, look in looks.items()
            if m in rows
        ],
    )


def exchange_table(exchange: Exchange, looks: Mapping[str, Look], rate: float | None) -> Table:
    """Lay out one link: for each size the time, and the speed-up over dense and over float16."""
    lines = []
    for method, look in looks.items():
        cells = []
        for size in exchange.sizes:
            ours = exchange.seconds(method, rate, size)
            row = exchange.cells.get((method, rate, size))
            cells.append(Cell(milliseconds(ours), noise(row)))
            for other in (BASELINE, HALF):
                theirs = exchange.seconds(other, rate, size)
                cells.append(Cell(fixed(theirs / ours if ours and theirs else None, 2)))
        lines.append((look, cells))
    return Table(
        groups=((rate_name(rate), 1), *((f"{size:g} MB", 3) for size in exchange.sizes)),
        heads=(("method", ""), *(len(exchange.sizes) * (("time", "ms"), ("over dense", "×"), ("over fp16", "×")))),
        lines=lines,
    )


def failure_table(rows: Sequence[Row], looks: Mapping[str, Look]) -> Table | None:
    """Lay out what could not run: equal reasons of one method at one place share a line; None where all ran."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row.error:
            found.setdefault((row.method, row.workload, place_name(row.place), row.network, row.error), []).append(row)
    lines = []
    for method, workload, place, network, error in found:
        group = found[method, workload, place, network, error]
        links = dict.fromkeys(rate_name(row.rate_bits_per_s) for row in group)
        sizes = dict.fromkeys(f"{row.megabytes:g} MB" for row in group if row.megabytes is not None)
        what = ", ".join([workload, *([network] if network else []), *sizes])
        cells = [Cell(text, words=True) for text in (what, place, ", ".join(links), error)]
        lines.append((looks[method], cells))
    heads = (("method", ""), ("workload", ""), ("place", ""), ("links", ""), ("reason", ""))
    return Table(heads=heads, lines=lines) if lines else None


def accuracy_table(study: Study, looks: Mapping[str, Look]) -> Table:
    """Lay out accuracy and bytes of runs that belong to no timed training."""
    unit = byte_unit([study.wire_bytes(m) for m in looks])
    dense = study.wire_bytes(BASELINE)
    lines = []
    for method, look in looks.items():
        accuracy, sent = study.accuracy(method), study.wire_bytes(method)
        spread = f"{accuracy.low:.2f} to {accuracy.high:.2f}" if accuracy and accuracy.seeds > 1 else ""
        cells = [
            Cell(fixed(accuracy.mean if accuracy else None, 2), spread),
            Cell(fixed(study.difference(method), 2, sign=method != BASELINE)),
            Cell(str(accuracy.seeds) if accuracy else NONE),
            Cell(unit.text(sent)),
            Cell(fixed(dense / sent if dense and sent else None, 1)),
        ]
        lines.append((look, cells))
    return Table(
        groups=(("", 1), ("test accuracy", 3), ("bytes at the interface", 2)),
        heads=(
            ("method", ""),
            *(("mean", "%"), ("against dense", "points"), ("seeds", "")),
            *(("per host and step", unit.name), ("fewer than dense", "×")),
        ),
        lines=lines,
    )


def _figures(row: Row, unit: ByteUnit) -> list[Cell]:
    times = (row.step_s, row.compute_s, row.codec_s, row.exchange_s)
    sent = (row.wire_bytes, row.counted_bytes, row.payload_bytes)
    return [
        *(Cell(milliseconds(seconds)) for seconds in times),
        Cell(fixed(None if row.spread is None else 100 * row.spread, 1)),
        *(Cell(unit.text(count)) for count in sent),
        Cell(NONE if row.rounds is None else f"{row.rounds:,}"),
    ]


def noise(row: Row | None) -> str:
    """Give the spread of a time in parentheses, where it is above a tenth."""
    return f"({100 * row.spread:.0f} %)" if row and row.spread is not None and row.spread > _NOISY else ""
