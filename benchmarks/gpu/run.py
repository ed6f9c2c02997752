"""Runs all cases of a workload; one that fails is a row that says so, and costs no other."""

import traceback
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

import torch

from benchmarks.gpu.cases import MULTIPLIERS, Case, decode_cases, encode_cases, entropy_cases, owner_case
from benchmarks.gpu.peers import PEERS
from benchmarks.gpu.record import Row, append_rows, case_rows, copy_row, describe, missing_row
from benchmarks.gpu.stages import stage_cases
from benchmarks.gpu.timing import Clock
from benchmarks.gpu.workload import Workload

_CPU_COPY_BYTES = 4_000_000
OURS: dict[str, Callable[[Workload, Clock, float], list[Case]]] = {
    "encode": lambda work, clock, _: encode_cases(work, clock),
    "decode": lambda work, clock, _: decode_cases(work, clock),
    "owner step": lambda work, clock, _: [owner_case(work, clock)],
    "messages": lambda work, clock, multiplier: entropy_cases(work, clock, multiplier=multiplier),
    "bytes": lambda work, clock, multiplier: stage_cases(work, clock, multiplier=multiplier),
}
_BY_MULTIPLIER = ("messages", "bytes")


class Run:
    """Measures and keeps what was found, row by row.

    path: where rows go; None keeps them here alone.
    failed: what could not be measured though it should have been.
    """

    def __init__(self, clock: Clock, device: torch.device, path: Path | None) -> None:
        self.clock, self.device, self.path = clock, device, path
        self.rows: list[Row] = []
        self.failed: list[str] = []
        self.ceiling = self._copy()

    def workload(
        self, work: Workload, *, names: Collection[str] | None = None, multipliers: tuple[float, ...] = MULTIPLIERS
    ) -> None:
        """Measure ours, then the others, on one bucket.

        names: of OURS and PEERS; all by default.
        """
        clock = self.clock
        for name, make in OURS.items():
            if names is None or name in names:
                for multiplier in multipliers if name in _BY_MULTIPLIER else multipliers[:1]:
                    self._measure(name, partial(make, work, clock, multiplier), work, kernels=True)
        for name, make_peer in PEERS.items():
            if names is None or name in names:
                self._measure(name, partial(make_peer, work, clock), work, kernels=False)

    def finish(self) -> None:
        """Measure the copy once more, to show whether the machine has changed."""
        self._copy()

    def _measure(self, name: str, make: Callable[[], list[Case]], work: Workload, *, kernels: bool) -> None:
        try:
            for case in make():
                self._add(case_rows(case, work, self.clock, ceiling=self.ceiling, kernels=kernels))
        except ImportError as error:
            self._add([missing_row(name, f"not installed: {error}", work)])
        except Exception as error:  # noqa: BLE001 (others can still be measured; the run fails at its end)
            traceback.print_exc()
            self.failed.append(f"{name}, {work.model} {work.megabytes:g} MB: {type(error).__name__}: {error}")
            self._add([missing_row(name, f"failed: {type(error).__name__}: {error}"[:300], work)])
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _copy(self) -> float:
        if self.device.type == "cuda":
            row = copy_row(self.clock, self.device)
        else:
            row = copy_row(self.clock, self.device, num_bytes=_CPU_COPY_BYTES)
        self._add([row])
        return float(row["gb_per_s"])

    def _add(self, rows: list[Row]) -> None:
        self.rows += rows
        for row in rows:
            print(describe(row), flush=True)
        if self.path:
            append_rows(self.path, rows, self.device)
