"""A case: what is trained, which fault strikes whom, and how it must end."""

from dataclasses import dataclass, field
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
        ERROR: every rank that lives raises a trafficzip error that matches `says`, within timeout_s + 15 s.
    struck: ranks on which the fault strikes.
    fallen: ranks that may end in any way, because the fault is that they die, stop or raise.
    says: what the error of each other rank must contain (a regular expression).
    group_timeout_s: timeout of the default process group; the hook's if None.
    catches: errors that the training loop catches before it gives up.
    scaler, confirms: train with a GradScaler; call `confirm` after the last step.
    network: every rank has a host of its own; loss, delay_ms: of every link (trafficzip.cluster.links.Link).
    """

    name: str
    expected: str
    fault: Fault | None = None
    exchange: str = "all_gather"
    world_size: int = 3
    compressor: Any = THREE_LC_RANS
    steps: int = 8
    timeout_s: float = 20.0
    group_timeout_s: float | None = None
    struck: tuple[int, ...] = (1,)
    fallen: tuple[int, ...] = ()
    says: str = r"rank 1\b"
    exact: bool = True
    scaler: bool = False
    confirms: bool = False
    stays: bool = False
    catches: int = 0
    network: bool = False
    loss: float = 0.0
    delay_ms: float = 0.0
    nonfinite_steps: int = 0
    tags: tuple[str, ...] = field(default=())
