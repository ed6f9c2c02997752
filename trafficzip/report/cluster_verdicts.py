"""The tables that judge: speed-up, bytes and accuracy with the best marked, and break-even bandwidths."""

from collections.abc import Mapping

from trafficzip.report.break_even import BreakEven, Fit, break_even, fit, format_mbit
from trafficzip.report.cluster_best import POINTS, best, eligible, other_plan
from trafficzip.report.cluster_groups import Study, Training
from trafficzip.report.cluster_methods import BASELINE, HALF, Look
from trafficzip.report.cluster_rows import Row
from trafficzip.report.cluster_tables import Cell, Table, noise
from trafficzip.report.cluster_text import NONE, byte_unit, fixed, milliseconds, rate_name


def speed_up_table(training: Training, study: Study | None, looks: Mapping[str, Look]) -> Table:
    """Lay out the paper's table: speed-up per rate, bytes and accuracy; the best of each column marked."""
    near, low = eligible(looks, study)
    foreign = other_plan(training, study)
    near, low = near - foreign, low - foreign
    speed_ups = {rate: {m: training.speed_up(m, rate) for m in looks} for rate in training.rates}
    fewer = {m: training.fewer(m) for m in looks}
    accuracies = {m: study.accuracy(m) if study else None for m in looks}
    winners = {rate: best(values, near) for rate, values in speed_ups.items()}
    fewest = best(fewer, near)
    highest = best({m: a.mean if a else None for m, a in accuracies.items()}, near)
    unit = byte_unit([training.wire_bytes(m) for m in looks])
    lines = []
    for method, look in looks.items():
        cells = [
            Cell("failed", "see below")
            if (method, rate) in training.failed
            else Cell(fixed(values[method], 2), _step_note(training.cells.get((method, rate))), method in winners[rate])
            for rate, values in speed_ups.items()
        ]
        sent, accuracy = training.wire_bytes(method), accuracies[method]
        bounds = training.wire_range(method)
        span = f"{unit.text(bounds[0])} to {unit.text(bounds[1])}" if bounds else ""
        cells.append(Cell(unit.text(sent), span))
        cells.append(Cell(fixed(fewer[method], 1), best=method in fewest))
        spread = f"{accuracy.low:.2f} to {accuracy.high:.2f}" if accuracy and accuracy.seeds > 1 else ""
        cells.append(Cell(fixed(accuracy.mean if accuracy else None, 2), spread, method in highest))
        cells.append(Cell(fixed(study.difference(method) if study else None, 2, sign=method != BASELINE)))
        cells.append(Cell(str(accuracy.seeds) if accuracy else NONE))
        lines.append((look, cells))
    return Table(
        groups=(
            ("", 1),
            ("speed-up over dense, and step time", len(training.rates)),
            ("bytes at the interface", 2),
            ("test accuracy", 3),
        ),
        heads=(
            ("method", ""),
            *((rate_name(rate).replace(" ", "\xa0"), "×") for rate in training.rates),
            ("per host and step", unit.name),
            ("fewer than dense", "×"),
            ("mean", "%"),
            ("against dense", "points"),
            ("seeds", ""),
        ),
        lines=lines,
        notes=_mark_notes(study, near, low, foreign, looks),
    )


def break_even_table(training: Training, looks: Mapping[str, Look]) -> Table | None:
    """Lay out fits, and where a method costs what dense and float16 cost; None where nothing can be fitted."""
    shaped = {m: training.shaped(m) for m in looks}
    if not any(len(times) >= 2 for times in shaped.values()):
        return None
    lines = []
    for method, look in looks.items():
        cells = _fit_cells(fit(shaped[method]) if len(shaped[method]) >= 2 else None)
        for other in (BASELINE, HALF):
            pair = None if method == other else break_even(shaped[method], shaped.get(other, {}))
            cells += _verdict_cells(pair, same=method == other)
        lines.append((look, cells))
    return Table(
        groups=(("", 1), ("fit T = a + b / bandwidth", 3), ("against dense float32", 2), ("against float16", 2)),
        heads=(
            ("method", ""),
            ("a", "ms"),
            ("b", "Mbit"),
            ("largest miss", "%"),
            *(2 * (("break\u2011even", "Mbit/s"), ("the method", ""))),
        ),
        lines=lines,
    )


def _fit_cells(found: Fit | None) -> list[Cell]:
    if found is None:
        return [Cell(NONE)] * 3
    miss = fixed(100 * found.miss, 1) if found.miss else NONE
    return [Cell(fixed(1000 * found.fixed_s, 1)), Cell(fixed(found.link_bits / 1e6, 2)), Cell(miss)]


def _verdict_cells(pair: BreakEven | None, *, same: bool) -> list[Cell]:
    if pair is None:
        return [Cell(NONE), Cell("is the baseline" if same else "not measured at two rates", words=True)]
    crossing = pair.crossing_bits_per_s
    notes = []
    if pair.extrapolated and crossing is not None:
        notes.append(f"extrapolated: pays {'below' if pair.pays_below else 'above'} {format_mbit(crossing)}")
    if pair.contradicted:
        notes.append("measured otherwise at " + ", ".join(rate_name(rate) for rate in pair.contradicted))
    text = NONE if crossing is None else format_mbit(crossing) + (" *" if pair.extrapolated else "")
    return [Cell(text), Cell(pair.verdict, "; ".join(notes), words=True)]


def _mark_notes(
    study: Study | None, near: frozenset[str], low: frozenset[str], foreign: frozenset[str], looks: Mapping[str, Look]
) -> list[str]:
    if study is None:
        return ["No column has a best: accuracy was not measured for this network, batch and number of ranks."]
    if not near:
        return ["No column has a best: dense training has no accuracy to compare with, or its ranks differ."]
    differing = {m for m in looks if study.diverged(m)}
    notes = [f"Best of each column marked, among methods at most {POINTS} points of accuracy below dense."]
    for text, methods in (
        ("Not considered, because its ranks ended with different parameters: ", differing),
        ("Not considered, because its accuracy runs chose another plan than some of the links: ", foreign),
        ("Not considered, because accuracy was not measured: ", set(looks) - near - low - differing - foreign),
        (f"Not considered, because accuracy is more than {POINTS} points below dense: ", low),
    ):
        if methods:
            notes.append(text + ", ".join(look.label for m, look in looks.items() if m in methods) + ".")
    return notes


def _step_note(row: Row | None) -> str:
    if row is None or row.step_s is None:
        return ""
    return f"{milliseconds(row.step_s)} ms {noise(row)}".rstrip()
