"""The program of one worker process: `python -m trafficzip.demo.worker SETTINGS EVENTS`, started by torchrun.

It appends events to the file EVENTS, one JSON object a line; `launch` reads them:
{"event": "phase", "text"}, {"event": "step", "run", "step", "loss"}, {"event": "result", ...} from rank 0, and
{"event": "error", "rank", "text"} from any. It leaves as soon as its standard input ends.
"""

import json
import os
import platform
import sys
from collections.abc import Callable
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from trafficzip.compressor import Compressor
from trafficzip.demo.data import Dataset, load_cifar10, load_digits
from trafficzip.demo.networks import DigitsNet, ResNet20
from trafficzip.demo.process import leave_with_parent, processor, tell_errors
from trafficzip.demo.settings import Settings
from trafficzip.demo.train import Compression, RunResult, train
from trafficzip.kernels import Groups
from trafficzip.presets import BFLOAT16

Emit = Callable[..., None]


def main() -> None:
    """Run this process's part of the demo."""
    settings = Settings(**json.loads(Path(sys.argv[1]).read_text()))
    events = Path(sys.argv[2])
    rank = int(os.environ["RANK"])
    tell_errors(lambda text: _append(events, {"event": "error", "rank": rank, "text": text}))
    leave_with_parent()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=settings.timeout_s))

    def emit(event: str, **values: Any) -> None:
        if rank == 0:
            _append(events, {"event": event, **values})

    results = run_both(settings, emit)
    emit("result", environment=_environment(), **{name: result.to_dict() for name, result in results.items()})
    dist.destroy_process_group()


def run_both(settings: Settings, emit: Emit) -> dict[str, RunResult]:
    """Train dense, then compressed, with the same seeds; a collective call."""
    emit("phase", text="loading data")
    dataset = load_digits() if settings.data == "digits" else load_cifar10(settings.path or "")
    compression = Compression(
        compressor=settings.make_compressor(), exchange=settings.exchange, timeout_s=settings.timeout_s
    )
    results = {"dense": _run(settings, dataset, None, emit, name="dense")}
    emit("phase", text="compiling the codec (once after installation)")
    _compile(compression, settings.make_compressor())
    results["compressed"] = _run(settings, dataset, compression, emit, name="compressed")
    return results


def _run(settings: Settings, dataset: Dataset, compression: Compression | None, emit: Emit, *, name: str) -> RunResult:
    torch.manual_seed(settings.seed)
    emit("phase", text=f"training, {name}")
    every = max(1, settings.num_steps // 100)

    def on_step(step: int, loss: float) -> None:
        if step % every == 0 or step == settings.num_steps:
            emit("step", run=name, step=step, loss=loss)

    return train(
        DigitsNet() if settings.data == "digits" else ResNet20(),
        dataset,
        settings.recipe,
        num_steps=settings.num_steps,
        seed=settings.seed,
        compression=compression,
        on_step=on_step,
    )


def _compile(compression: Compression, compressor: Compressor) -> None:
    """Compile the codec before it is timed: first on rank 0 alone, from whose files on disk the others then load."""
    if dist.get_rank() == 0:
        groups = Groups([1000])
        for part in (compressor, BFLOAT16):
            values, residual = np.ones((2, 1000), np.float32)
            frame = part.compress(values, groups, residual=residual, out=values, out_like_residual=False)
            part.accumulate(frame, groups, residual)
    dist.barrier()
    model = DistributedDataParallel(nn.Linear(32, 32))
    compression.register(model)
    for _ in range(2):  # whatever else the exchange compiles
        model(torch.ones(1, 32)).sum().backward()


def _append(events: Path, event: dict[str, Any]) -> None:
    with events.open("a") as file:
        file.write(json.dumps(event) + "\n")  # one write of an appended line: ranks do not cut each other's


def _environment() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "numba": version("numba"),
        "platform": platform.platform(),
        "processor": processor(),
        "cpus": os.cpu_count(),
    }


if __name__ == "__main__":
    main()
