"""Cluster mode: this process is one rank of a job that torchrun or Slurm has started on real machines."""

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from trafficzip.cluster.jobs import Job
from trafficzip.cluster.worker import Runner, join
from trafficzip.errors import ConfigError

_PORT = "29400"
_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def is_rank() -> bool:
    """Whether torchrun, or Slurm with several tasks, started this process."""
    return "RANK" in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) > 1


def adopt_slurm() -> None:
    """Give torch.distributed what it needs from what Slurm has set; torchrun has set it itself.

    Raises:
        ConfigError: Slurm's variables do not say who and where rank 0 is.
    """
    environment = os.environ
    if "RANK" not in environment:
        for ours, slurm in {
            "RANK": "SLURM_PROCID",
            "WORLD_SIZE": "SLURM_NTASKS",
            "LOCAL_RANK": "SLURM_LOCALID",
            "GROUP_RANK": "SLURM_NODEID",
        }.items():
            if slurm in environment:
                environment[ours] = environment[slurm]
        if "SLURM_NTASKS" in environment and "SLURM_NNODES" in environment:
            tasks, nodes = int(environment["SLURM_NTASKS"]), int(environment["SLURM_NNODES"])
            environment.setdefault("LOCAL_WORLD_SIZE", str(max(1, tasks // max(1, nodes))))
        environment.setdefault("MASTER_PORT", _PORT)
        if "MASTER_ADDR" not in environment and "SLURM_JOB_NODELIST" in environment:
            environment["MASTER_ADDR"] = _first_node(environment["SLURM_JOB_NODELIST"])
    missing = [name for name in _NEEDED if name not in environment]
    if missing:
        raise ConfigError(f"cluster mode needs torchrun or srun: {', '.join(missing)} not set")


def run_here(
    jobs: Sequence[Job],
    *,
    backend: str,
    interface: str | None,
    timeout_s: float,
    pending: Callable[[dict[str, Any]], list[Job]],
    on_event: Callable[[Job, dict[str, Any]], None],
) -> None:
    """Run jobs as one rank of this cluster; a collective call. Nothing is shaped.

    interface: whose bytes are counted; by default that of GLOO_SOCKET_IFNAME, or of the default route.
    pending: on rank 0, given the place, says which jobs are still to do.
    on_event: called on rank 0 with {"event": "step" or "row", ...}.
    """
    adopt_slurm()
    join(backend, timeout_s=timeout_s)
    try:
        interface = interface or default_interface()
        names: list[str] = [""] * dist.get_world_size()
        dist.all_gather_object(names, socket.gethostname())
        place = {"hosts": len(set(names)), "ranks": len(names)}
        shared: list[Any] = [pending(place) if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(shared, src=0)
        runner = Runner(interface=interface, timeout_s=timeout_s)
        for job in shared[0]:

            def on_step(done: int, loss: float, job: Job = job) -> None:
                if dist.get_rank() == 0:
                    on_event(job, {"event": "step", "done": done, "loss": loss})

            columns = runner.run(job, on_step)
            if dist.get_rank() == 0:
                on_event(job, {"event": "row", "columns": columns | place})
        dist.barrier()
    finally:
        dist.destroy_process_group()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def default_interface() -> str | None:
    """Give the interface by which ranks talk: GLOO_SOCKET_IFNAME's, NCCL_SOCKET_IFNAME's or the default route's."""
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        name = os.environ.get(variable, "").split(",")[0].lstrip("=^")
        if name:
            return name
    try:
        lines = Path("/proc/net/route").read_text().splitlines()[1:]
    except OSError:
        return None
    return next((line.split()[0] for line in lines if line.split()[1] == "00000000"), None)


def _first_node(node_list: str) -> str:
    if not shutil.which("scontrol"):
        raise ConfigError("scontrol is not on the PATH, so rank 0's node is not known: set MASTER_ADDR to its address")
    done = subprocess.run(["scontrol", "show", "hostnames", node_list], capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout.split():
        raise ConfigError(f"scontrol cannot read SLURM_JOB_NODELIST {node_list!r}: {done.stderr.strip()}")
    return done.stdout.split()[0]
