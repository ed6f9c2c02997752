"""The program of one rank: `python -m trafficzip.cluster.worker FOLDER`, started by torchrun on every host.

It runs the jobs of the control folder one after the other. It leaves as soon as its standard input ends.
"""

import os
import sys
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from trafficzip.cluster.control import Control
from trafficzip.cluster.exchange import Recorded, run_exchange
from trafficzip.cluster.jobs import Job
from trafficzip.cluster.training import run_accuracy, run_training
from trafficzip.demo.process import leave_with_parent, tell_errors
from trafficzip.errors import ConfigError


def main() -> None:
    """Run this rank's part of a session."""
    control = Control(Path(sys.argv[1]))
    jobs, settings = control.read_jobs()
    current = [-1]
    rank = int(os.environ.get("RANK", "0"))
    tell_errors(lambda text: control.report("error", job=current[0], rank=rank, text=text))
    leave_with_parent()
    join(settings["backend"], timeout_s=settings["timeout_s"])
    runner = Runner(interface=settings["interface"], timeout_s=settings["timeout_s"])
    for number, job in enumerate(jobs):
        current[0] = number
        if dist.get_rank() == 0:
            control.report("ready", job=number)
        control.await_go(number)

        def on_step(done: int, loss: float, number: int = number) -> None:
            if dist.get_rank() == 0:
                control.report("step", job=number, done=done, loss=loss)

        columns = runner.run(job, on_step)
        if dist.get_rank() == 0:
            control.report("row", job=number, columns=columns)
    dist.barrier()
    dist.destroy_process_group()


def join(backend: str, *, timeout_s: float) -> None:
    """Join the process group that the environment describes."""
    warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)  # 2.9 has no other name
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    else:
        torch.set_num_threads(1)
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))


class Runner:
    """Runs jobs in a process group that is there."""

    def __init__(self, *, interface: str | None, timeout_s: float) -> None:
        nccl = dist.get_backend() == "nccl"
        self.device = torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")
        self.interface = interface
        self.timeout_s = timeout_s
        self._recorded = Recorded()

    def run(self, job: Job, on_step: Callable[[int, float], None]) -> dict[str, Any]:
        """Run one job; gives a row's columns: what was measured or, where the method cannot be had, why. Collective."""
        place: dict[str, Any] = {
            "interface": self.interface,
            "device": self.device,
            "timeout_s": self.timeout_s,
        }
        try:
            if job.workload == "exchange":
                return run_exchange(job, self._recorded, **place)
            if job.workload == "training":
                return run_training(job, **place)
            return run_accuracy(job, on_step=on_step, **place)
        except ConfigError as error:  # raised on every rank alike: what a method needs does not differ between them
            return {"error": str(error)}


if __name__ == "__main__":
    main()
