"""Rows of what was measured, and the file that they go to: results/gpu_<gpu>_<date>.csv."""

import csv
import subprocess
from collections.abc import Sequence
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import torch
import triton

from benchmarks.gpu.cases import Case
from benchmarks.gpu.timing import Clock
from benchmarks.gpu.workload import Workload
from benchmarks.harness import RESULTS, environment

Row = dict[str, Any]
COPY_BYTES = 400_000_000
COLUMNS = (
    *("operation", "method", "multiplier", "model", "megabytes", "elements", "sets", "kernel", "launches", "us"),
    *("spread", "timing", "wall_us", "busy_us", "bytes", "gb_per_s", "share", "output_bytes", "error"),
)
_LONGEST_NAME = 80


def copy_row(clock: Clock, device: torch.device, *, num_bytes: int = COPY_BYTES) -> Row:
    """Measure torch's own copy of a float32 buffer: the ceiling, in 10^9 bytes per second read and written."""
    source = torch.ones(num_bytes // 4, device=device)
    target = torch.empty_like(source)
    timing = clock.graph(lambda _: target.copy_(source), 1)
    return {
        **{"operation": "copy", "method": "torch copy_", "megabytes": num_bytes / 1e6, "elements": source.numel()},
        **{"us": timing.us, "spread": timing.spread, "timing": timing.method, "bytes": 2 * num_bytes},
        **{"gb_per_s": 2 * num_bytes / timing.us / 1e3, "share": 1.0},
    }


def case_rows(case: Case, work: Workload, clock: Clock, *, ceiling: float, kernels: bool) -> list[Row]:
    """Time a case: a row for the whole, and one for each of its kernels if asked for.

    ceiling: 10^9 bytes per second of a copy.
    """
    timing = clock.calls(case.call, case.sets) if case.waits else clock.graph(case.call, case.sets)
    found = clock.kernels(case.call, case.sets)
    head = {
        **{"operation": case.operation, "method": case.method, "multiplier": case.multiplier},
        **{"model": work.model, "megabytes": work.megabytes, "elements": work.num_elements, "sets": case.sets},
    }
    whole = {
        **{**head, "us": timing.us, "spread": timing.spread, "timing": timing.method, "wall_us": timing.wall_us},
        **{"busy_us": sum(us for us, _ in found.values()) or None, "output_bytes": case.output_bytes},
        **_speed(case.num_bytes, timing.us, ceiling),
    }
    rows = [whole]
    if kernels:
        for name, (us, launches) in sorted(found.items(), key=lambda item: -item[1][0]):
            speed = _speed(case.kernel_bytes.get(name, 0), us, ceiling)
            rows.append(
                {**head, "kernel": name[:_LONGEST_NAME], "us": us, "launches": launches, "timing": "profile", **speed}
            )
    return rows


def missing_row(name: str, why: str, work: Workload) -> Row:
    """Say what was not measured, and why."""
    return {"operation": "none", "method": name, "model": work.model, "megabytes": work.megabytes, "error": why}


@cache
def gpu_environment(device: torch.device) -> dict[str, str]:
    """Say on which GPU, with which driver and libraries."""
    if device.type != "cuda":
        return {"gpu": "none, interpreted", "driver": "", "cuda": "", "triton": triton.__version__}
    return {
        "gpu": torch.cuda.get_device_name(device),
        "driver": _driver(),
        "cuda": torch.version.cuda or "",
        "triton": triton.__version__,
    }


def default_path(device: torch.device) -> Path:
    """Give results/gpu_<gpu>_<date>.csv."""
    name = gpu_environment(device)["gpu"].lower()
    return RESULTS / f"gpu_{''.join(c if c.isalnum() else '-' for c in name)}_{date.today().isoformat()}.csv"


def append_rows(path: Path, rows: Sequence[Row], device: torch.device) -> None:
    """Add rows, each with where it was measured; the file is written whole, with the columns of all."""
    everything: list[Row] = read_rows(path) if path.exists() else []
    record = {**_environment(), **gpu_environment(device)}
    everything += [{**record, **dict.fromkeys(COLUMNS), **row} for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in everything for key in row)))
        writer.writeheader()
        writer.writerows(everything)


def read_rows(path: Path) -> list[Row]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def describe(row: Row) -> str:
    """Put a row into a line for a reader."""
    where = f"{row.get('model', '')} {row.get('megabytes', 0):g} MB"
    what = f"{row['operation']}, {row['method']}"
    if row.get("multiplier", 1.0) != 1.0:
        what += f", s = {row['multiplier']}"
    if row.get("error"):
        return f"{where:20} {what}: {row['error']}"
    if row.get("kernel"):
        what = f"    {row['kernel'][:48]}"
    line = f"{where:20} {what:52} {row['us']:10.1f} us"
    if row.get("share"):
        line += f"  {row['gb_per_s']:7.0f} GB/s  {100 * row['share']:5.1f} % of copy"
    if row.get("wall_us"):
        line += f"  wall {row['wall_us']:.0f} us"
    if row.get("busy_us"):
        line += f"  kernels {row['busy_us']:.0f} us"
    return line


@cache
def _environment() -> dict[str, str]:
    return environment()


def _speed(num_bytes: int, us: float, ceiling: float) -> Row:
    if not num_bytes:
        return {}
    speed = num_bytes / us / 1e3
    return {"bytes": num_bytes, "gb_per_s": speed, "share": speed / ceiling}


def _driver() -> str:
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        return ""
    return done.stdout.split("\n")[0].strip()
