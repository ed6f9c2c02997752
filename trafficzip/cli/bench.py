"""`trafficzip bench cluster`: what each method costs and saves, over shaped links or on a real cluster."""

import sys
from collections.abc import Iterable
from contextlib import closing
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from trafficzip.cluster.hosts import HostsUnavailableError
from trafficzip.cluster.jobs import METHOD_NAMES, Job, Task, plan
from trafficzip.cluster.links import Link
from trafficzip.cluster.rows import RowFile, command_line
from trafficzip.errors import ConfigError, TrafficzipError

if TYPE_CHECKING:
    from trafficzip.cluster.sweep import Setup

bench = typer.Typer(help="Benchmarks to run on your own machines.", no_args_is_help=True)

_QUICK = "dense,fp16,powersgd_r2,int8,three_lc_s1.0,default"


class Mode(StrEnum):
    """Where the ranks are."""

    AUTO = "auto"
    LOCAL = "local"
    CLUSTER = "cluster"


@bench.command()
def cluster(
    mode: Annotated[
        Mode,
        typer.Option(
            help="local: hosts made of network namespaces on this machine, which needs root and Linux. "
            "cluster: this process is one rank, started by torchrun or srun. auto: whichever it is."
        ),
    ] = Mode.AUTO,
    workloads: Annotated[
        str, typer.Option(help="exchange (gradients alone), training (time of steps), accuracy (whole runs); commas.")
    ] = "exchange,training",
    methods: Annotated[str, typer.Option(help=f"Some of {', '.join(METHOD_NAMES)}, with commas, or all.")] = _QUICK,
    rates: Annotated[
        str,
        typer.Option(
            help="Rates of all links, such as 10mbit,100mbit,none. In cluster mode, the one rate of the links that are "
            "there: it is written down and nothing is shaped."
        ),
    ] = "10mbit,100mbit,1gbit",
    hosts: Annotated[int, typer.Option(help="Hosts to make in local mode.")] = 4,
    ranks_per_host: Annotated[int, typer.Option(help="Ranks on each of them.")] = 1,
    delay_ms: Annotated[float, typer.Option(help="One-way delay of every link; packets cross two.")] = 0.0,
    loss: Annotated[float, typer.Option(help="Share of packets that every link drops.")] = 0.0,
    mtu: Annotated[int, typer.Option(help="Bytes of the largest packet.")] = 1500,
    megabytes: Annotated[str, typer.Option(help="Gradient sizes of the workload exchange, with commas.")] = "25",
    data: Annotated[str, typer.Option(help="digits, or cifar10 with --path.")] = "digits",
    path: Annotated[Path | None, typer.Option(help="Folder with CIFAR-10's image arrays.")] = None,
    width: Annotated[int, typer.Option(help="Channels of ResNet-20's first stage; parameters: 1054 x width^2.")] = 40,
    patch: Annotated[int, typer.Option(help="Pixels' side that the first layer takes at once: less compute.")] = 1,
    batch: Annotated[int, typer.Option(help="Images of each worker in a step.")] = 16,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 0.5,
    momentum: Annotated[float, typer.Option(help="Of SGD.")] = 0.5,
    steps: Annotated[int, typer.Option(help="Steps of an accuracy run.")] = 400,
    target: Annotated[
        float, typer.Option(help="Percent at which an accuracy run ends before its steps; 0: never.")
    ] = 0.0,
    seeds: Annotated[str, typer.Option(help="Seeds of accuracy runs, with commas.")] = "0",
    seconds: Annotated[float, typer.Option(help="How long each figure is timed, at least 5 rounds.")] = 10.0,
    timeout: Annotated[float, typer.Option(help="Seconds that a rank waits for another.")] = 900.0,
    backend: Annotated[str, typer.Option(help="In cluster mode: gloo or nccl.")] = "gloo",
    interface: Annotated[
        str | None, typer.Option(help="In cluster mode: whose bytes are counted [default: Gloo's, or the route's].")
    ] = None,
    rerun: Annotated[bool, typer.Option(help="Measure again what has a row already.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for cluster.csv, index.html, plots and cluster.log.")] = Path(
        "trafficzip-cluster"
    ),
) -> None:
    """Put methods beside each other: seconds, bytes at the interface, accuracy. Goes on where a killed sweep ended."""
    if find_spec("jinja2") is None:  # now, not after an hour
        _fail("the report needs jinja2: pip install 'trafficzip[bench]'", 2)
    from trafficzip.cluster.sweep import Setup, is_rank  # here: importing torch takes seconds

    try:
        local = mode is Mode.LOCAL or (mode is Mode.AUTO and not is_rank())
        jobs = plan(
            workloads=workloads.split(","),
            methods=METHOD_NAMES if methods == "all" else methods.split(","),
            rates=rates.split(","),
            megabytes=_numbers("--megabytes", megabytes, float),
            task=Task(
                data=data,
                path=None if path is None else str(path.resolve()),
                width=width,
                patch=patch,
                batch=batch,
                peak_lr=lr,
                momentum=momentum,
            ),
            steps=steps,
            target=target,
            seeds=_numbers("--seeds", seeds, int),
            budget_s=seconds,
        )
        setup = Setup(
            command=command_line(),
            hosts=hosts,
            ranks_per_host=ranks_per_host,
            link=Link(delay_ms=delay_ms, loss=loss, mtu=mtu),
            timeout_s=timeout,
            backend=backend,
            interface=interface,
            rerun=rerun,
        )
        if local:
            _run_local(jobs, setup, out)
            _write_report(out)
        elif _run_cluster(jobs, setup, out, rates=rates):
            _write_report(out)
    except HostsUnavailableError as error:
        _fail(
            f"{error}\nLocal mode cannot run here. On real machines start every rank with torchrun or srun, e.g.\n"
            "  torchrun --nnodes=4 --nproc-per-node=1 --rdzv-endpoint=HOST:29400 --rdzv-backend=c10d \\\n"
            "    --no-python trafficzip bench cluster --mode cluster --rates 1gbit",
            2,
        )
    except ConfigError as error:
        _fail(str(error), 2)
    except (TrafficzipError, OSError) as error:
        _fail(str(error), 1)


_Number = TypeVar("_Number", int, float)


def _numbers(option: str, text: str, kind: type[_Number]) -> list[_Number]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{option} must be numbers with commas between them, got {text!r}") from None


def _run_local(jobs: list[Job], setup: "Setup", out: Path) -> None:
    from trafficzip.cluster.sweep import run_on_hosts

    out.mkdir(parents=True, exist_ok=True)
    rows = RowFile(out / "cluster.csv")
    console = Console(stderr=True)
    with closing(run_on_hosts(rows, jobs, setup, log=out / "cluster.log")) as events:  # type: ignore[type-var]
        done = _show(events, len(jobs), console)
    skipped = len(jobs) - done
    if skipped:
        console.print(f"{skipped} of {len(jobs)} jobs have rows already (--rerun measures them again)")


def _run_cluster(jobs: list[Job], setup: "Setup", out: Path, *, rates: str) -> bool:
    from trafficzip.cluster.sweep import run_on_cluster

    if "," in rates:
        raise ConfigError("cluster mode shapes nothing: give the one rate of the links that are there, --rates 1gbit")
    out.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)

    def on_event(job: Job, event: dict[str, Any]) -> None:
        if event["event"] == "row":
            console.print(_line(job, event["columns"]), highlight=False)

    return run_on_cluster(out / "cluster.csv", jobs, setup, on_event)


def _show(events: Iterable[tuple[Job, dict[str, Any]]], total: int, console: Console) -> int:
    """Follow the events: a bar on a terminal, a line for each row everywhere. Gives the number of rows."""
    rows = 0
    columns = (
        TextColumn("{task.description:<42}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        sweep = progress.add_task("jobs", total=total)
        running: TaskID | None = None
        for job, event in events:
            if event["event"] == "ready":
                running = progress.add_task(_title(job), total=job.steps or None)
            elif event["event"] == "step" and running is not None:
                progress.update(running, completed=event["done"])
            elif event["event"] == "row":
                rows += 1
                progress.console.print(_line(job, event["columns"]), highlight=False)
                progress.advance(sweep)
                if running is not None:
                    progress.remove_task(running)
                    running = None
    return rows


def _title(job: Job) -> str:
    size = f" {job.megabytes:g} MB" if job.workload == "exchange" else ""
    return f"{job.workload}{size} {job.rate} {job.method}"


def _line(job: Job, columns: dict[str, Any]) -> str:
    if columns.get("error"):
        return f"{_title(job)}: {columns['error']}"
    if job.workload == "accuracy":
        return f"{_title(job)}: {columns['accuracy']} % after {columns['rounds']} steps"
    wire = f", {int(columns['wire_bytes']):,} bytes sent by a host" if columns["wire_bytes"] != "" else ""
    return f"{_title(job)}: {1e3 * float(columns['step_s']):.1f} ms{wire}"


def _write_report(out: Path) -> None:
    from trafficzip.report.cluster_page import write_report  # here: importing matplotlib takes a second or two

    written = write_report(RowFile(out / "cluster.csv").rows, out)
    print(f"Written: {', '.join(str(path) for path in [out / 'cluster.csv', *written])}")


def _fail(text: str, status: int) -> None:
    print(f"trafficzip bench cluster: {text}", file=sys.stderr)
    raise typer.Exit(status)
