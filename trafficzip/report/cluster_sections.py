"""Sections of the cluster report: one training setting, one place of the exchange, one study of accuracy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trafficzip.report.cluster_best import other_plan
from trafficzip.report.cluster_curves import accuracy_bytes_plot, accuracy_time_plot
from trafficzip.report.cluster_groups import Exchange, Study, Training
from trafficzip.report.cluster_methods import BASELINE, Look, in_order
from trafficzip.report.cluster_plots import break_even_plot, bytes_plot, exchange_plot, split_plot
from trafficzip.report.cluster_rows import Row
from trafficzip.report.cluster_tables import (
    Table,
    accuracy_table,
    exchange_table,
    figures_table,
)
from trafficzip.report.cluster_text import place_name, rate_name, setting_name
from trafficzip.report.cluster_verdicts import break_even_table, speed_up_table

_FIT = (
    "Step time is fitted as T = a + b / bandwidth by least squares of the relative error over the shaped links: "
    "a is what does not depend on the link, b the bits a step waits for; "
    "the break-even bandwidth is where the fits of two methods take equal time; * lies beyond the measured rates."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A plot. name: of its file, without folder.  alt: what it shows, in words."""

    name: str
    alt: str
    png: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A title, a paragraph on what is shown, figures, tables; folded tables are opened by a click."""

    title: str
    text: str = ""
    picture: Picture | None = None
    tables: Sequence[Table] = ()
    folded: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Parts with one title. name: for links and file names, [a-z0-9-]."""

    name: str
    title: str
    subtitle: str
    parts: Sequence[Part]


def training_section(name: str, training: Training, study: Study | None, every: Mapping[str, Look]) -> Section:
    """Lay out one training setting, with the accuracy runs that belong to it.

    every: the look of each method on the page.
    """
    timed = {m: every[m] for m in in_order(training.methods, every)}
    named = {m: every[m] for m in in_order([*timed, *(study.runs if study else ())], every)}
    parts = [
        Part(
            title="Speed-up, bytes and accuracy",
            tables=[speed_up_table(training, study, named)],
            text=_sources(training, study, every),
        ),
        Part(
            title="Where a step's time goes",
            text="Median step on each link. Each panel has its own scale; bars too long for it are cut. "
            "Parts that overlap in time end with the step.",
            picture=Picture(
                name=f"{name}-split.png",
                alt="Step time by part, per method and link",
                png=split_plot(_links(training), timed, what="step"),
            ),
        ),
        Part(
            title="All figures of every link",
            tables=[figures_table(link, rows, timed, step="step") for link, rows in _links(training)],
            folded="Step time, its parts and bytes, link by link",
        ),
    ]
    if any(training.wire_bytes(m) for m in timed):
        text = "Headers, acknowledgements and retransmissions included; median over the links. The axis is logarithmic."
        picture = Picture(name=f"{name}-bytes.png", alt="Bytes per host and step", png=bytes_plot(training, timed))
        parts.append(Part(title="Bytes at the interface", text=text, picture=picture))
    else:
        parts.append(Part(title="Bytes at the interface", text="Not measured."))
    parts += _accuracy_parts(name, training, study, every)
    table, figure = break_even_table(training, timed), break_even_plot(training, timed)
    if table is None:
        text = "Not measured: a fit needs step times on shaped links of at least two rates."
        parts.append(Part(title="Break-even bandwidth", text=text))
    else:
        alt = "Speed-up over dense against rate"
        shown = Picture(name=f"{name}-break-even.png", alt=alt, png=figure) if figure else None
        parts.append(Part(title="Break-even bandwidth", text=_FIT, tables=[table], picture=shown))
    title = f"Training: {setting_name(training)}"
    return Section(name=name, title=title, subtitle=place_name(training.place), parts=parts)


def exchange_section(name: str, exchange: Exchange, every: Mapping[str, Look]) -> Section:
    """Lay out the exchange alone at one place."""
    looks = {m: every[m] for m in in_order(exchange.methods, every)}
    tables = [exchange_table(exchange, looks, rate) for rate in exchange.rates]
    text = "Median time of one exchange of gradients, nothing else running."
    cells = [
        (f"{rate_name(rate)}, {size:g} MB", {m: row for (m, *at), row in exchange.cells.items() if at == [rate, size]})
        for rate in exchange.rates
        for size in exchange.sizes
    ]
    if len(exchange.sizes) > 1:
        title, png = "Time against size", exchange_plot(exchange, looks)
    else:
        title, png = "Where an exchange's time goes", split_plot(cells, looks, what="exchange")
        text += " Each panel has its own scale; bars too long for it are cut."
    parts = [
        Part(title=title, text=text, picture=Picture(name=f"{name}.png", alt=title, png=png), tables=tables),
        Part(
            title="All figures of every size",
            tables=[figures_table(cell, rows, looks, step="exchange") for cell, rows in cells],
            folded="Time, its parts and bytes, size by size",
        ),
    ]
    return Section(name=name, title="Exchange alone", subtitle=place_name(exchange.place), parts=parts)


def study_section(name: str, study: Study, every: Mapping[str, Look]) -> Section:
    """Lay out accuracy runs for which no step was timed."""
    looks = {m: every[m] for m in in_order(study.runs, every)}
    text = f"Runs of {study.steps:,} steps." if study.steps is not None else ""
    parts = [Part(title="Accuracy and bytes", text=text, tables=[accuracy_table(study, looks)])]
    figure = accuracy_bytes_plot(study, looks, {m: study.wire_bytes(m) for m in looks})
    if figure:
        picture = Picture(name=f"{name}-bytes.png", alt="Accuracy against bytes sent", png=figure)
        parts.append(Part(title="Accuracy against bytes", picture=picture))
    subtitle = (
        f"{study.ranks} ranks; steps of this setting were not timed, or other runs of it stand with its step times"
    )
    return Section(name=name, title=f"Accuracy: {setting_name(study)}", subtitle=subtitle, parts=parts)


def _accuracy_parts(name: str, training: Training, study: Study | None, every: Mapping[str, Look]) -> list[Part]:
    if study is None:
        text = "Not measured for this network, batch and number of ranks."
        return [Part(title="Accuracy against time and bytes", text=text)]
    looks = {m: every[m] for m in in_order(study.runs, every)}
    sent = {m: study.wire_bytes(m, hosts=training.place.hosts) or training.wire_bytes(m) for m in looks}
    band = " Lines are means over seeds, bands reach from the lowest to the highest." if _many(study, looks) else ""
    absent = " A method is left out on links on which it chose another plan than in its accuracy runs."
    absent = absent if other_plan(training, study) else ""
    shown = (
        (
            "Accuracy against time",
            f"Steps of the accuracy runs times the median step on each link, without evaluation.{band}{absent}",
            "time",
            accuracy_time_plot(training, study, looks),
        ),
        (
            "Accuracy against bytes",
            "Steps of the accuracy runs times bytes per host and step, as sent by these or else by the timed steps.",
            "accuracy-bytes",
            accuracy_bytes_plot(study, looks, sent),
        ),
    )
    return [
        Part(title=title, text=text, picture=Picture(name=f"{name}-{file}.png", alt=title, png=figure))
        if figure
        else Part(title=title, text="Not measured.")
        for title, text, file, figure in shown
    ]


def _optimizer(study: Study, every: Mapping[str, Look]) -> str:
    """Say how the runs were trained; where methods differ in that, which was trained how."""
    groups: dict[str, list[str]] = {}
    for method in in_order(study.runs, every):
        groups.setdefault(study.settings(method) or "settings not named", []).append(every[method].label)
    if len(groups) == 1:
        (setting,) = groups
        return f" SGD: {setting}." if study.settings(next(iter(study.runs))) else ""
    common = max(groups, key=lambda setting: len(groups[setting]))
    parts = [f"{setting} ({', '.join(labels)})" for setting, labels in groups.items() if setting != common]
    return f" SGD: {'; '.join([*parts, f'{common} (all others)'])}."


def _links(training: Training) -> list[tuple[str, dict[str, Row]]]:
    return [
        (rate_name(rate), {m: row for (m, at), row in training.cells.items() if at == rate}) for rate in training.rates
    ]


def _many(study: Study, looks: Mapping[str, Look]) -> bool:
    return any((accuracy := study.accuracy(m)) and accuracy.seeds > 1 for m in looks)


def _sources(training: Training, study: Study | None, every: Mapping[str, Look]) -> str:
    text = "Speed-up is dense step time over the method's on the same link."
    if BASELINE not in training.methods:
        text = "Speed-up is not known: dense training was not timed here."
    if study is None:
        return text
    length = f" of {study.steps:,} steps" if study.steps is not None else ""
    text += f" Accuracy is from runs{length} over links that do not limit it."
    text += _optimizer(study, every)
    if study.data != training.data:
        text += f" These used the data {study.data or 'not named'}, the timed steps {training.data or 'not named'}."
    return text
