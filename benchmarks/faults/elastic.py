"""Restarts under torchrun: examples/train_ddp.py must end as if nothing had happened, to the last bit of its state."""

import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.faults.cases import CONTINUES, ERROR
from benchmarks.faults.runner import Verdict
from benchmarks.faults.training import digest

WORKER = Path(__file__).with_name("restarted.py")
_STEPS = 50
_SAVE_EVERY = 20


@dataclass(frozen=True, kw_only=True)
class Restart:
    """A run of the example under torchrun.

    faults: as `restarted` reads them.
    expected: CONTINUES: all ranks' last checkpoints (parameters, momentum, residuals) equal those of a run without
        faults; ERROR: torchrun fails, and what ranks said matches `says`.
    starts: the step at which each attempt must start, in turn.
    """

    name: str
    faults: str
    expected: str = CONTINUES
    starts: tuple[int, ...] = (0, 20)
    world_size: int = 2
    max_restarts: int = 2
    timeout_s: float = 150.0
    says: str = r"CollectiveError: .*rank 1\b"
    exchange: str = ""

    def run(self) -> Verdict:
        """Run it, and judge."""
        begin = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            try:
                done = run_example(Path(folder), self)
            except subprocess.TimeoutExpired:
                return Verdict(self, False, f"still running after {self.timeout_s:g} s", time.monotonic() - begin)
            seconds = time.monotonic() - begin
            text = done.stdout + done.stderr
            starts = tuple(int(step) for step in re.findall(r"starts at step (\d+)", text))
            if starts != self.starts:
                return Verdict(self, False, f"attempts started at steps {starts}: {text[-1500:]}", seconds)
            if self.expected == ERROR:
                found = re.search(self.says, text)
                passed = done.returncode != 0 and found is not None
                return Verdict(self, passed, found[0][:200] if found else text[-1500:], seconds)
            if done.returncode:
                return Verdict(self, False, f"torchrun failed: {text[-1500:]}", seconds)
            if checkpoint(Path(folder), self.world_size) != undisturbed(self.world_size):
                return Verdict(self, False, "the last checkpoint differs from the undisturbed run's", seconds)
        return Verdict(self, True, f"started at steps {starts}; last checkpoint bit-identical", seconds)


def restart_cases() -> list[Restart]:
    """Give the cases; each starts processes at least twice."""
    return [
        Restart(name="restarted: killed between checkpoints", faults="0:1:step:33:kill"),
        Restart(name="restarted: raises between checkpoints", faults="0:1:step:33:raise"),
        Restart(name="restarted: killed while others wait for its checkpoint", faults="0:1:save:2:kill"),
        Restart(name="restarted: killed before any checkpoint", faults="0:1:step:7:kill", starts=(0, 0)),
        Restart(
            name="restarted: killed twice",
            faults="0:1:step:33:kill,1:0:step:25:kill",
            starts=(0, 20, 40),
            max_restarts=2,
        ),
        Restart(name="restarted: killed, four ranks", faults="0:1:step:33:kill", world_size=4),
        Restart(
            name="restarted: killed, no restart left",
            faults="0:1:step:33:kill",
            expected=ERROR,
            starts=(0,),
            max_restarts=0,
            says=r"restarted.py FAILED",
        ),
    ]


def run_example(folder: Path, case: Restart) -> "subprocess.CompletedProcess[str]":
    """Run the example under torchrun, with its checkpoints in `folder`."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", str(case.world_size), "--max-restarts", str(case.max_restarts)),
            *(str(WORKER), case.faults),
            *("--steps", str(_STEPS), "--save-every", str(_SAVE_EVERY), "--checkpoint", str(folder)),
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "TORCH_CPP_LOG_LEVEL": "ERROR"},
        capture_output=True,
        text=True,
        timeout=case.timeout_s,
        check=False,
    )


def checkpoint(folder: Path, world_size: int) -> list[str]:
    """Give a digest of every rank's last checkpoint."""
    import torch

    latest = folder / (folder / "latest").read_text()
    files = [latest / f"rank{rank}.pt" for rank in range(world_size)]
    return [digest(_tensors(torch.load(file, weights_only=True))) for file in files]


@cache
def undisturbed(world_size: int) -> list[str]:
    """Give the digests of a run without faults."""
    case = Restart(name="undisturbed", faults="none", world_size=world_size)
    with tempfile.TemporaryDirectory() as folder:
        done = run_example(Path(folder), case)
        if done.returncode:
            raise RuntimeError(f"the undisturbed run failed: {done.stderr[-1500:]}")
        return checkpoint(Path(folder), world_size)


def _tensors(state: Any) -> list[Any]:
    """Give all tensors and numbers in a nest of dicts and lists, in order, as tensors."""
    import torch

    if isinstance(state, dict):
        return [tensor for key in state for tensor in _tensors(state[key])]
    if isinstance(state, list | tuple):
        return [tensor for entry in state for tensor in _tensors(entry)]
    if isinstance(state, torch.Tensor):
        return [state]
    return [torch.tensor(state, dtype=torch.float64)] if isinstance(state, int | float) else []
