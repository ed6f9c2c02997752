"""Local mode: hosts on this machine, a torchrun agent on each, and workers that run jobs over shaped links."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trafficzip.cluster.control import Control
from trafficzip.cluster.hosts import INTERFACE, Hosts
from trafficzip.cluster.jobs import Job
from trafficzip.cluster.links import Link, parse_rate
from trafficzip.errors import CollectiveError

_POLL_S = 0.05
_GRACE_S = 10.0
_PORT = 29_500  # free: every session has namespaces of its own

Event = tuple[int, dict[str, Any]]


def run_local(
    jobs: Sequence[Job],
    *,
    hosts: int,
    ranks_per_host: int,
    link: Link,
    timeout_s: float,
    log: Path,
) -> Iterator[Event]:
    """Run jobs on hosts made for them; yield (index of the job, event) as they come. Closing it ends all processes.

    A job whose workers fail gives a row with the error, and new workers go on with the next job.

    link: of every host; its rate is that of each job in turn.
    log: file for everything the processes print.

    Raises:
        HostsUnavailableError: hosts cannot be made here; says why.
        CollectiveError: workers failed before their first job.
    """
    at = 0
    with Hosts(hosts, link) as network:
        yield 0, {"event": "hosts", "relayed": network.relayed}
        while at < len(jobs):
            begin = at
            for number, event in _session(network, jobs[begin:], ranks_per_host, timeout_s, log):
                yield begin + number, event
                if event["event"] == "row":
                    at = begin + number + 1
            if at == begin:
                raise CollectiveError(f"workers failed before they had finished a job; see {log}")


def _session(network: Hosts, jobs: Sequence[Job], ranks_per_host: int, timeout_s: float, log: Path) -> Iterator[Event]:
    """Run jobs with one set of workers, up to the first that fails."""
    with tempfile.TemporaryDirectory(prefix="trafficzip-cluster-") as folder, log.open("ab") as output:
        control = Control(Path(folder))
        settings = {"backend": "gloo", "interface": INTERFACE, "timeout_s": timeout_s}
        control.write_jobs(list(jobs), settings)
        agents = [
            subprocess.Popen(
                network.command(
                    host, [*_on_cores(host, network.count), *_agent(network, host, ranks_per_host, folder)]
                ),
                stdin=subprocess.PIPE,  # never written to: its end tells the workers to leave
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | _environment(),
                start_new_session=True,  # Ctrl-C reaches this process only, which then ends the others
            )
            for host in range(network.count)
        ]
        try:
            yield from _follow(network, jobs, control, agents, log)
            _await_end(agents)
        finally:
            for agent in agents:
                assert agent.stdin is not None
                agent.stdin.close()
            for agent in agents:
                _end(agent)


def _follow(
    network: Hosts, jobs: Sequence[Job], control: Control, agents: Sequence["subprocess.Popen[bytes]"], log: Path
) -> Iterator[Event]:
    network.shape(replace(network.link, rate_bits_per_s=None))  # workers meet, and load, over free links
    current = 0
    errors: dict[int, str] = {}
    while True:
        running = all(agent.poll() is None for agent in agents)
        for event in control.new_events():
            current = max(current, int(event["job"]))
            if event["event"] == "ready":
                network.shape(replace(network.link, rate_bits_per_s=parse_rate(jobs[current].rate)))
                control.let_go(current)
            if event["event"] == "error":
                errors.setdefault(int(event["rank"]), str(event["text"]))
            else:
                yield int(event["job"]), event
                if event["event"] == "row" and int(event["job"]) == len(jobs) - 1:
                    return
        if not running:
            break
        time.sleep(_POLL_S)
    time.sleep(_GRACE_S if not errors else 1.0)  # the other ranks may still be saying why
    for event in control.new_events():
        if event["event"] == "error":
            errors.setdefault(int(event["rank"]), str(event["text"]))
    yield current, {"event": "row", "job": current, "columns": {"error": _reason(errors, log)}}


def _reason(errors: dict[int, str], log: Path) -> str:
    """Say why the workers failed; ranks with the same error are named together."""
    if not errors:
        return f"a worker was killed or crashed without a message; see {log}"
    ranks: dict[str, list[str]] = {}
    for rank, text in sorted(errors.items()):
        ranks.setdefault(text, []).append(str(rank))
    return "; ".join(f"rank {', '.join(who)}: {text}" for text, who in ranks.items())


def _on_cores(host: int, hosts: int) -> list[str]:
    """Give each host its share of the cores, or one that it shares: left to itself, the kernel moves ranks about."""
    cores = sorted(os.sched_getaffinity(0))
    share = len(cores) // hosts
    own = cores[host * share : (host + 1) * share] if share else [cores[host % len(cores)]]
    return ["taskset", "--cpu-list", ",".join(map(str, own))]


def _agent(network: Hosts, host: int, ranks_per_host: int, folder: str) -> list[str]:
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        *(f"--nnodes={network.count}", f"--node-rank={host}", f"--nproc-per-node={ranks_per_host}"),
        *(f"--master-addr={network.address(0)}", f"--master-port={_PORT}", f"--local-addr={network.address(host)}"),
        *("--max-restarts=0", "--monitor-interval=0.2"),
        *("--module", "trafficzip.cluster.worker", folder),
    ]


def _environment() -> dict[str, str]:
    return {
        "GLOO_SOCKET_IFNAME": INTERFACE,
        "TP_SOCKET_IFNAME": INTERFACE,
        "OMP_NUM_THREADS": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "PYTHONUNBUFFERED": "1",
    }


def _await_end(agents: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Let workers that have nothing left to do leave by themselves."""
    deadline = time.monotonic() + _GRACE_S
    while any(agent.poll() is None for agent in agents) and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _end(agent: "subprocess.Popen[bytes]") -> None:
    try:
        agent.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        agent.kill()
        agent.wait()
