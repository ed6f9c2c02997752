"""Control: the folder through which the launching process and its workers talk.

jobs.json         what the workers run, in order
go-<number>       made by the launcher when the links are ready for that job
events.jsonl      one JSON object a line, appended by the workers:
                  {"event": "ready", "job"}, {"event": "step", "job", "done", "loss"},
                  {"event": "row", "job", "columns"}, {"event": "error", "job", "rank", "text"}
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trafficzip.cluster.jobs import Job

_POLL_S = 0.02


class Control:
    """One session's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._events = folder / "events.jsonl"
        self._read_to = 0

    def write_jobs(self, jobs: list[Job], settings: dict[str, Any]) -> None:
        """Say what to run; before any worker starts."""
        (self.folder / "jobs.json").write_text(
            json.dumps({"jobs": [job.to_dict() for job in jobs], "settings": settings})
        )
        self._events.touch()

    def read_jobs(self) -> tuple[list[Job], dict[str, Any]]:
        """Give what to run."""
        found = json.loads((self.folder / "jobs.json").read_text())
        return [Job.from_dict(job) for job in found["jobs"]], found["settings"]

    def let_go(self, number: int) -> None:
        """Let the workers begin a job."""
        (self.folder / f"go-{number}").touch()

    def await_go(self, number: int) -> None:
        """Wait until the launcher lets a job begin; a launcher that is gone ends this process through its input."""
        path = self.folder / f"go-{number}"
        while not path.exists():
            time.sleep(_POLL_S)

    def report(self, event: str, **values: Any) -> None:
        """Append an event."""
        with self._events.open("a") as file:
            file.write(json.dumps({"event": event, **values}) + "\n")  # one write: ranks do not cut each other's lines

    def new_events(self) -> Iterator[dict[str, Any]]:
        """Give the events that have come since the last call."""
        with self._events.open() as file:
            file.seek(self._read_to)
            text = file.read()
        whole = text[: text.rfind("\n") + 1]
        self._read_to += len(whole.encode())
        for line in whole.splitlines():
            yield json.loads(line)
