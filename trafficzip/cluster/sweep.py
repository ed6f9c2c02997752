"""A sweep: the jobs that have no row yet, run here or on hosts made for them, each a row as soon as it is done."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trafficzip.cluster.jobs import Job
from trafficzip.cluster.launch import run_local
from trafficzip.cluster.links import Link
from trafficzip.cluster.place import is_rank, run_here
from trafficzip.cluster.rows import RowFile, environment, job_columns

__all__ = ["Setup", "is_rank", "pending_jobs", "run_on_cluster", "run_on_hosts"]

OnEvent = Callable[[Job, dict[str, Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Where a sweep runs.

    link: of every host in local mode, but for the rate, which is each job's.
    rerun: measure also what has a row.
    """

    command: str
    hosts: int = 4
    ranks_per_host: int = 1
    link: Link = field(default_factory=Link)
    timeout_s: float = 900.0
    backend: str = "gloo"
    interface: str | None = None
    rerun: bool = False


def pending_jobs(rows: RowFile, jobs: Sequence[Job], where: dict[str, str], *, rerun: bool) -> list[Job]:
    """Give the jobs that have no row of this place."""
    return [job for job in jobs if rerun or not rows.has(job, where)]


def run_on_hosts(
    rows: RowFile, jobs: Sequence[Job], setup: Setup, *, log: Path
) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Run in local mode; yield every job's events, its row last. Closing it ends all processes.

    Raises:
        HostsUnavailableError: hosts cannot be made here; says why.
        CollectiveError: workers failed before their first job.
    """
    where = {
        "mode": "local",
        "hosts": str(setup.hosts),
        "ranks": str(setup.hosts * setup.ranks_per_host),
        "delay_ms": f"{setup.link.delay_ms:g}",
        "loss": f"{setup.link.loss:g}",
        "mtu": str(setup.link.mtu),
    }
    to_do = pending_jobs(rows, jobs, where, rerun=setup.rerun)
    if not to_do:
        return
    shared: dict[str, Any] = {**environment(setup.command), **where, "backend": "gloo"}
    events = run_local(
        to_do,
        hosts=setup.hosts,
        ranks_per_host=setup.ranks_per_host,
        link=setup.link,
        timeout_s=setup.timeout_s,
        log=log,
    )
    with closing(events):  # type: ignore[type-var]
        for number, event in events:
            if event["event"] == "hosts":
                shared["relayed"] = event["relayed"]
                continue
            if event["event"] == "row":
                rows.add({**shared, **job_columns(to_do[number]), **event["columns"]})
            yield to_do[number], event


def run_on_cluster(path: Path, jobs: Sequence[Job], setup: Setup, on_event: OnEvent) -> bool:
    """Run as one rank of a real cluster; rank 0 keeps the rows and hears of events. Says whether this is rank 0."""
    where: dict[str, str] = {}
    rows: list[RowFile] = []

    def pending(found: dict[str, Any]) -> list[Job]:
        where.update({"mode": "cluster", **{name: str(value) for name, value in found.items()}})
        rows.append(RowFile(path))
        return pending_jobs(rows[0], jobs, where, rerun=setup.rerun)

    def on_row(job: Job, event: dict[str, Any]) -> None:
        if event["event"] == "row":
            own = {**environment(setup.command), **where, "backend": setup.backend}
            rows[0].add({**own, **job_columns(job), **event["columns"]})
        on_event(job, event)

    run_here(
        jobs,
        backend=setup.backend,
        interface=setup.interface,
        timeout_s=setup.timeout_s,
        pending=pending,
        on_event=on_row,
    )
    return bool(rows)
