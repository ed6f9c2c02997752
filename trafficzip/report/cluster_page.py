"""The report of the cluster benchmark: rows in, one self-contained HTML page and its plots out."""

import base64
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from importlib import resources
from itertools import accumulate
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from trafficzip.errors import ConfigError
from trafficzip.report.cluster_best import study_of
from trafficzip.report.cluster_groups import exchanges, studies, trainings
from trafficzip.report.cluster_methods import looks
from trafficzip.report.cluster_rows import Place, Row, read_rows
from trafficzip.report.cluster_sections import Section, exchange_section, study_section, training_section
from trafficzip.report.cluster_tables import Table, failure_table
from trafficzip.report.cluster_text import place_name, rate_name
from trafficzip.version import __version__


def write_report(rows: Sequence[Mapping[str, str]], folder: Path) -> list[Path]:
    """Write folder/index.html, which needs no other file and no network, and its plots as folder/*.png.

    rows: as `csv.DictReader` gives them; an empty text is what was not measured, and the last row of a key wins.
    Returns: the page, then the plots. Every file is written beside its target and then renamed.

    Raises:
        ConfigError: there are no rows, or a value in one cannot be read; names row and column.
    """
    if not rows:
        raise ConfigError("report: there are no rows to show")
    kept = read_rows(rows)
    sections = lay_out(kept)
    pictures = [part.picture for section in sections for part in section.parts if part.picture]
    page = render(kept, sections)
    folder.mkdir(parents=True, exist_ok=True)
    plots = [_replace(folder / picture.name, picture.png) for picture in pictures]
    return [_replace(folder / "index.html", page.encode()), *plots]


def lay_out(rows: Sequence[Row]) -> list[Section]:
    """Arrange rows: a section per training setting, exchange place and left-over study of accuracy, in this order."""
    every = looks(row.method for row in rows)
    found, sections, used, names = studies(rows), [], [], _Names()
    for training in trainings(rows):
        study = study_of(training, found)
        used += [study] if study else []
        name = names.give(f"training-{training.network}-{_short(training.place)}")
        sections.append(training_section(name, training, study, every))
    for exchange in exchanges(rows):
        name = names.give(f"exchange-{_short(exchange.place)}")
        sections.append(exchange_section(name, exchange, every))
    for study in found:
        if study not in used:
            name = names.give(f"accuracy-{study.network}-{study.ranks}-ranks")
            sections.append(study_section(name, study, every))
    return sections


def render(rows: Sequence[Row], sections: Sequence[Section]) -> str:
    """Fill the template; all text is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["data"] = lambda png: "data:image/png;base64," + base64.b64encode(png).decode()
    environment.globals["edges"] = _edges
    text = (resources.files("trafficzip.report") / "cluster_page.html.j2").read_text(encoding="utf-8")
    measured = {row.workload for row in rows if not row.error}
    return environment.from_string(text).render(
        sections=sections,
        facts=_facts(rows),
        environments=_environments(rows),
        missing=[workload for workload in ("training", "exchange", "accuracy") if workload not in measured],
        failures=failure_table(rows, looks(row.method for row in rows)),
        num_rows=len(rows),
        version=__version__,
    )


def _facts(rows: Sequence[Row]) -> list[tuple[str, list[str]]]:
    shaped = sorted({row.rate_bits_per_s for row in rows if row.rate_bits_per_s is not None})
    links = [rate_name(rate) for rate in (*shaped, *([None] if any(r.rate_bits_per_s is None for r in rows) else []))]
    facts = [
        ("Places", sorted({place_name(row.place) for row in rows})),
        ("Links", [", ".join(links)]),
        ("Commands", list(dict.fromkeys(row.command for row in rows if row.command))),
    ]
    return [(name, lines) for name, lines in facts if lines]


def _environments(rows: Sequence[Row]) -> tuple[list[str], list[tuple[list[str], int]]]:
    """Give the columns of the environment, and each distinct environment with its number of rows."""
    counts: dict[tuple[tuple[str, str], ...], int] = {}
    for row in rows:
        counts[row.environment] = counts.get(row.environment, 0) + 1
    columns = [column for column, _ in rows[0].environment]
    return columns, [([text for _, text in found], count) for found, count in counts.items()]


def _edges(table: Table) -> set[int]:
    """Give the columns at which a group of columns begins, the first group left out."""
    starts = accumulate(width for _, width in table.groups)
    return set(list(starts)[:-1])


def _short(place: Place) -> str:
    delay = "" if place.delay_ms is None else f"-{place.delay_ms:g}-ms"
    return f"{place.hosts}-hosts-{place.ranks}-ranks{delay}"


class _Names:
    """Names for files and links that hold nothing but [a-z0-9-], each given once."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def give(self, text: str) -> str:
        base = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60]
        name, number = base, 1
        while name in self._given:
            number += 1
            name = f"{base}-{number}"
        self._given.add(name)
        return name


def _replace(path: Path, data: bytes) -> Path:
    """Write a file beside its target, then rename it, so that no reader sees half of one."""
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(beside, 0o666 & ~umask)  # mkstemp's files are for their owner only
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise
    return path
