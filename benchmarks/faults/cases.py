"""A case: what is trained, which fault strikes whom, and how it must end."""

from dataclasses import dataclass
from typing import Any

from benchmarks.faults.injections import Fault
from trafficzip.presets import THREE_LC_RANS

CONTINUES = "continues"
ERROR = "error"
GRACE_S = 15.0  # beyond the hook's own timeout, how soon every living rank must have raised


@dataclass(frozen=True, kw_only=True)
class Case:
    """One scripted case.

    expected: CONTINUES: all ranks finish with bit-identical parameters, equal to the undisturbed run if `exact`;
        ERROR: every rank that lives raises an error that matches `says`, within timeout_s + 15 s.
    kind: what is trained: "ddp", "fsdp" or "local" (local steps, a round after every second).
    struck: ranks on which the fault strikes.
    fallen: ranks that may end in any way, because the fault is that they die, stop or raise.
    apart: ranks that the fault leaves a whole group of their own, so they finish, with equal parameters.
    raises: the error's class: one of ours, except where a case says why torch's own must do.
    says: what the error of each other rank must contain (a regular expression).
    nodes, overlap: as `trafficzip.ddp.register` takes them.
    catches: errors that the training loop catches before it gives up.
    scaler: train with a GradScaler.
    network: every rank has a host of its own; loss, delay_ms: of every link (trafficzip.cluster.links.Link).
    """

    name: str
    expected: str
    fault: Fault | None = None
    kind: str = "ddp"
    exchange: str = "all_gather"
    world_size: int = 3
    compressor: Any = THREE_LC_RANS
    nodes: tuple[int, ...] = ()
    overlap: bool | str = "auto"
    steps: int = 8
    timeout_s: float = 20.0
    struck: tuple[int, ...] = (1,)
    fallen: tuple[int, ...] = ()
    apart: tuple[int, ...] = ()
    raises: str = "TrafficzipError"
    says: str = r"rank 1\b"
    exact: bool = True
    scaler: bool = False
    catches: int = 0
    network: bool = False
    loss: float = 0.0
    delay_ms: float = 0.0
    nonfinite_steps: int = 0
