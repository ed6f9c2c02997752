"""Timing side by side, the record of where a row was measured, and the writer of rows."""

import csv
import platform
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from trafficzip.cluster.rows import num_cores
from trafficzip.demo.process import processor

RESULTS = Path(__file__).parent / "results"


def time_together(
    functions: dict[str, Callable[[], Any]], *, rounds: int = 31, before: Callable[[], Any] | None = None
) -> dict[str, list[float]]:
    """Time each function once per round, so that all see the same machine; seconds, one per round.

    before: called untimed before every timed call, to restore inputs.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():  # warm up: caches, compiled code, page tables
        if before:
            before()
        function()
    for _ in range(rounds):
        for name, function in functions.items():
            if before:
                before()
            begin = perf_counter()
            function()
            seconds[name].append(perf_counter() - begin)
    return seconds


def ratios(seconds: list[float], baseline: list[float]) -> dict[str, float]:
    """Compare medians; the spread is the interquartile range over the median of the pairwise ratios."""
    pairs = sorted(a / b for a, b in zip(seconds, baseline, strict=True))
    quarter = len(pairs) // 4
    return {
        "ratio": median(seconds) / median(baseline),
        "spread": (pairs[-1 - quarter] - pairs[quarter]) / median(pairs),
    }


def environment() -> dict[str, str]:
    """Say what was measured where: commit, versions, hardware."""
    commit = _run("git", "rev-parse", "--short=12", "HEAD")
    dirty = "+" if _run("git", "status", "--porcelain", "--", "trafficzip") else ""
    return {
        "date": date.today().isoformat(),
        "commit": commit + dirty,
        "command": " ".join(["python -m", *_module(), *sys.argv[1:]]),
        "python": platform.python_version(),
        "torch": version("torch"),
        "numpy": version("numpy"),
        "numba": version("numba"),
        "cpu": processor(),
        "cores": str(num_cores()),
    }


def write_rows(what: str, rows: list[dict[str, Any]]) -> Path:
    """Append rows, each with its environment, to results/<what>_<hardware>_<date>.csv."""
    record = environment()
    path = results_path(what)
    path.parent.mkdir(parents=True, exist_ok=True)
    old: list[dict[str, Any]] = []
    if path.exists():
        with path.open(newline="") as file:
            old = list(csv.DictReader(file))
    everything = old + [{**record, **row} for row in rows]
    columns = list(dict.fromkeys(key for row in everything for key in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(everything)
    return path


def results_path(what: str) -> Path:
    """Give results/<what>_<hardware>_<date>.csv."""
    record = environment()
    hardware = "".join(c if c.isalnum() else "-" for c in record["cpu"].lower()).strip("-")
    return RESULTS / f"{what}_{hardware}-{record['cores']}c_{record['date']}.csv"


def _module() -> list[str]:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return [spec.name] if spec else [Path(sys.argv[0]).name]


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent, check=False)
    return done.stdout.strip()
