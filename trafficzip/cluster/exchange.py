"""The workload "exchange": gradients of a real training pass through DDP and a method, and nothing else is done."""

from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from trafficzip.cluster.gradients import Replay, load_data, record, width_for
from trafficzip.cluster.jobs import Job
from trafficzip.cluster.methods import describe, meter_of, method_named, settle
from trafficzip.cluster.payload import PayloadCounter
from trafficzip.cluster.timing import rounds_for, time_rounds

_DEFAULT_BUCKET = 25.0  # 10^6 bytes; a gradient up to that size is one bucket


@dataclass
class Recorded:
    """The gradients of the last size asked for; recording takes much longer than one exchange of them."""

    megabytes: float = 0.0
    gradients: list[list[Tensor]] | None = None

    def get(self, job: Job) -> list[list[Tensor]]:
        """Give some steps' gradients of the job's size."""
        if self.gradients is None or self.megabytes != job.megabytes:
            self.gradients = None  # before the next ones: they are large
            task = replace(job.task, width=width_for(job.megabytes))
            self.gradients = record(task, load_data(task), rank=dist.get_rank())
            self.megabytes = job.megabytes
        return self.gradients


def run_exchange(
    job: Job, recorded: Recorded, *, interface: str | None, device: torch.device, timeout_s: float
) -> dict[str, Any]:
    """Measure one method on one size; gives a row's columns. A collective call.

    Raises:
        ConfigError: the method cannot be had here.
    """
    method = method_named(job.method)
    gradients = [[t.to(device) for t in tensors] for tensors in recorded.get(job)]
    elements = sum(t.numel() for t in gradients[0])
    whole = method.one_bucket or 4e-6 * elements <= _DEFAULT_BUCKET * 1.02
    model = DistributedDataParallel(
        Replay(gradients[0], device),
        gradient_as_bucket_view=True,
        bucket_cap_mb=4 * elements / 2**20 + 1 if whole else None,
    )
    handle = method.attach(model, timeout_s)
    payload = PayloadCounter(None if job.method == "auto" else handle)  # whose steps may be dense
    steps = cycle(gradients)

    def step() -> None:
        for parameter in model.parameters():
            parameter.grad = None
        model(next(steps)).backward()
        payload.count()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def compute() -> None:
        with model.no_sync():
            step()

    last_s = settle(step, method, handle=handle, one_bucket=whole)
    payload.reset()
    rounds = rounds_for(job.budget_s, last_s, at_least=job.min_rounds)
    timed = time_rounds(step, rounds, interface=interface, meter=lambda: meter_of(handle))
    codes = payload.per_rank()
    alone = time_rounds(compute, 5, interface=None)
    codec_s = timed.meter.codec_s if timed.meter else None
    return {
        "elements": elements,
        "rounds": rounds,
        "step_s": f"{timed.median_s:.6g}",
        "spread": f"{timed.spread:.3g}",
        "compute_s": f"{alone.median_s:.6g}",
        "codec_s": "" if codec_s is None else f"{codec_s:.6g}",
        "exchange_s": f"{max(timed.median_s - alone.median_s - (codec_s or 0.0), 0.0):.6g}",
        "wire_bytes": "" if timed.wire_bytes is None else round(timed.wire_bytes),
        "counted_bytes": timed.meter.bytes_sent if timed.meter else "",
        "payload_bytes": codes,
        "plan": describe(handle),
    }
