"""Rows: one CSV line for each finished job, with where and how it was measured; what is there is not measured again."""

import csv
import fcntl
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

from trafficzip.cluster.jobs import Job
from trafficzip.demo.process import processor
from trafficzip.errors import ConfigError
from trafficzip.version import __version__

COLUMNS = (
    *("date", "commit", "command", "trafficzip", "python", "torch", "numpy", "numba", "cpu", "cores"),
    *("mode", "backend", "hosts", "ranks", "rate", "delay_ms", "loss", "mtu", "relayed", "workload", "method"),
    *("megabytes", "elements", "network", "data", "batch", "rounds", "step_s", "spread", "compute_s", "codec_s"),
    *("exchange_s", "wire_bytes", "counted_bytes", "payload_bytes", "steps", "target", "seed", "peak_lr", "momentum"),
    *("accuracy", "final_loss", "identical", "curve", "plan", "error"),
)


def environment(command: str) -> dict[str, str]:
    """Say where a row is measured: commit (a + behind it: uncommitted changes), versions, hardware."""
    return {
        "date": date.today().isoformat(),
        "commit": _commit(),
        "command": command,
        "trafficzip": __version__,
        "python": platform.python_version(),
        "torch": version("torch"),
        "numpy": version("numpy"),
        "numba": version("numba"),
        "cpu": processor(),
        "cores": str(num_cores()),
    }


class RowFile:
    """The rows of a sweep, in a CSV file that is rewritten whole, beside the target and then renamed.

    Several programs may add rows to one file at once.

    Raises:
        ConfigError: the file is there and is something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = _read(path)

    def has(self, job: Job, place: Mapping[str, str]) -> bool:
        """Say whether the job is measured in this place (columns that a row must share), without an error."""
        return any(
            _key(row) == job.key() and not row["error"] and all(row[name] == place[name] for name in place)
            for row in self.rows
        )

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row to what the file holds by now, and write it.

        Raises:
            ConfigError: a column that there is none of.
        """
        unknown = row.keys() - set(COLUMNS)
        if unknown:
            raise ConfigError(f"no column {', '.join(sorted(unknown))}")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_name(self.path.name + ".part")
        with _locked(self.path.parent):
            self.rows = [*_read(self.path), {name: str(row.get(name, "")) for name in COLUMNS}]
            with beside.open("w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows(self.rows)
            beside.replace(self.path)


def _read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    names = reader.fieldnames or ()
    if not set(names) <= set(COLUMNS) or "workload" not in names:
        raise ConfigError(f"{path} holds other rows than this benchmark's: {list(names)[:5]}...")
    return [{name: row.get(name, "") for name in COLUMNS} for row in rows]


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other programs out of a folder while a file in it is rewritten; the lock goes with this process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def job_columns(job: Job) -> dict[str, Any]:
    """Give the columns that a job fills before it has run."""
    training = job.workload != "exchange"
    return {
        "workload": job.workload,
        "method": job.method,
        "rate": job.rate,
        "megabytes": "" if training else f"{job.megabytes:g}",
        "network": job.task.network if training else "",
        "data": job.task.data,
        "batch": job.task.batch if training else "",
        "peak_lr": job.task.peak_lr if training else "",
        "momentum": job.task.momentum if training else "",
        "steps": job.steps if job.workload == "accuracy" else "",
        "target": f"{job.target:g}" if job.workload == "accuracy" else "",
        "seed": job.seed if job.workload == "accuracy" else "",
    }


def _key(row: Mapping[str, str]) -> tuple[str, ...]:
    training = row["workload"] != "exchange"
    return (
        row["workload"],
        row["method"],
        row["rate"],
        "" if training else f"{row['megabytes']} {row['data']}",
        " ".join(row[name] for name in ("network", "data", "batch", "peak_lr", "momentum")) if training else "",
        f"{row['steps']} {row['target'] or 0} {row['seed']}" if row["workload"] == "accuracy" else "",
    )


def num_cores() -> int:
    """Give how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _commit() -> str:
    here = Path(__file__).resolve().parents[1]
    commit = _git(here, "rev-parse", "--short=12", "HEAD")
    return commit + ("+" if commit and _git(here, "status", "--porcelain", "--", ".") else "") or "none"


def _git(folder: Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", *words], capture_output=True, text=True, cwd=folder, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def command_line(arguments: Sequence[str] | None = None) -> str:
    """Give the command by which this program was started, but for the folder where it writes."""
    words = list(sys.argv if arguments is None else arguments)
    name = Path(words[0]).name
    kept = [word for before, word in pairwise(words) if "--out" not in (before, word.partition("=")[0])]
    return " ".join(["trafficzip" if name == "__main__.py" else name, *kept])
