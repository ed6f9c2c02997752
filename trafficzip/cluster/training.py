"""The workloads "training" and "accuracy": a real network trained by a method, for its time and for its accuracy."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from trafficzip.cluster.gradients import load_data, make_network
from trafficzip.cluster.jobs import Job
from trafficzip.cluster.methods import (
    Attached,
    Method,
    describe,
    local_steps,
    meter_of,
    method_named,
    settle,
)
from trafficzip.cluster.timing import rounds_for, time_rounds
from trafficzip.demo.train import learning_rate_share, rank_batches, test_accuracy
from trafficzip.local_sgd import LocalSteps

_WEIGHT_DECAY = 1e-4
_WARMUP = 0.15  # share of the run over which the learning rate rises
_POINTS = 6  # of an accuracy curve; a test takes as long as many steps


@dataclass(slots=True, eq=False)
class Trainer:
    """One network, its data and its method."""

    job: Job
    method: Method
    network: nn.Module
    model: nn.Module
    handle: Attached
    device: torch.device

    @classmethod
    def make(cls, job: Job, *, device: torch.device, timeout_s: float) -> "Trainer":
        """Build it; a collective call.

        Raises:
            ConfigError: the method cannot be had here.
        """
        method = method_named(job.method)
        torch.manual_seed(job.seed)
        network = make_network(job.task).to(device)
        if method.every > 1:
            handle: Attached = local_steps(network, every=method.every, timeout_s=timeout_s)
            return cls(job, method, network, network, handle, device)
        elements = sum(p.numel() for p in network.parameters())
        model = DistributedDataParallel(
            network,
            broadcast_buffers=False,  # batch-norm statistics stay local: nothing but gradients is on the wire
            gradient_as_bucket_view=True,
            bucket_cap_mb=4 * elements / 2**20 + 1 if method.one_bucket else None,
        )
        return cls(job, method, network, model, method.attach(model, timeout_s), device)

    def steps(self, total: int) -> Callable[[], Tensor]:
        """Give a function that trains one step and returns its loss; the learning rate's schedule has `total` steps."""
        task = self.job.task
        optimizer = torch.optim.SGD(
            self.network.parameters(), lr=task.peak_lr, momentum=task.momentum, weight_decay=_WEIGHT_DECAY
        )
        batches = rank_batches(load_data(task), task.batch, seed=self.job.seed)
        done = 0

        def step() -> Tensor:
            nonlocal done
            for group in optimizer.param_groups:
                group["lr"] = task.peak_lr * learning_rate_share(done % total, total, warmup=_WARMUP)
            images, labels = next(batches)
            optimizer.zero_grad()
            loss = functional.cross_entropy(self.model(images.to(self.device)), labels.to(self.device))
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if isinstance(self.handle, LocalSteps):
                self.handle.step()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            done += 1
            return loss.detach()

        return step


def run_training(job: Job, *, interface: str | None, device: torch.device, timeout_s: float) -> dict[str, Any]:
    """Time training steps; gives a row's columns. A collective call.

    Raises:
        ConfigError: the method cannot be had here.
    """
    trainer = Trainer.make(job, device=device, timeout_s=timeout_s)
    method, every = trainer.method, trainer.method.every
    step = trainer.steps(10_000)  # the learning rate is still rising: gradients are those of early training

    def block() -> None:
        for _ in range(every):
            step()

    if every == 1:
        last_s = settle(block, method, handle=trainer.handle, one_bucket=method.one_bucket)
    else:
        begin = perf_counter()
        block()
        last_s = perf_counter() - begin
    rounds = rounds_for(job.budget_s, last_s, at_least=job.min_rounds if every == 1 else 2)
    timed = time_rounds(block, rounds, interface=interface, meter=lambda: meter_of(trainer.handle))
    compute_s = _compute_s(trainer, step)
    step_s = timed.median_s / every
    codec_s = timed.meter.codec_s / every if timed.meter else None
    return {
        "elements": sum(p.numel() for p in trainer.network.parameters()),
        "rounds": rounds,
        "step_s": f"{step_s:.6g}",
        "spread": f"{timed.spread:.3g}",
        "compute_s": f"{compute_s:.6g}",
        "codec_s": "" if codec_s is None else f"{codec_s:.6g}",
        "exchange_s": f"{max(step_s - compute_s - (codec_s or 0.0), 0.0):.6g}",
        "wire_bytes": "" if timed.wire_bytes is None else round(timed.wire_bytes / every),
        "counted_bytes": round(timed.meter.bytes_sent / every) if timed.meter else "",
        "plan": describe(trainer.handle),
    }


def _compute_s(trainer: Trainer, step: Callable[[], Tensor]) -> float:
    """Time steps that exchange nothing, on all ranks at once."""
    if isinstance(trainer.model, DistributedDataParallel):
        with trainer.model.no_sync():
            step()
            return time_rounds(step, 8, interface=None).median_s
    return time_rounds(step, trainer.method.every - 1, interface=None).median_s  # one short of the next round


def run_accuracy(
    job: Job,
    *,
    interface: str | None,
    device: torch.device,
    timeout_s: float,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> dict[str, Any]:
    """Train for the job's steps, or to its target, and measure accuracy on the way; gives a row's columns. Collective.

    Raises:
        ConfigError: the method cannot be had here.
    """
    trainer = Trainer.make(job, device=device, timeout_s=timeout_s)
    dataset = load_data(job.task)
    step = trainer.steps(job.steps)
    every = max(1, job.steps // _POINTS)
    curve: list[tuple[int, float, float]] = []
    loss = torch.zeros(())
    sent = 0.0
    for done in range(0, job.steps, every):
        now = min(every, job.steps - done)
        losses: list[Tensor] = []

        def work(losses: list[Tensor] = losses) -> None:
            losses.append(step())

        timed = time_rounds(work, now, interface=interface)
        sent += (timed.wire_bytes or 0.0) * now
        if isinstance(trainer.handle, LocalSteps) and (job.target or done + now == job.steps):
            trainer.handle.agree()
        loss = torch.stack(losses).mean()
        dist.all_reduce(loss)
        loss /= dist.get_world_size()
        curve.append((done + now, round(100 * _accuracy(trainer, dataset), 2), round(float(loss), 4)))
        on_step(done + now, float(loss))
        if job.target and curve[-1][1] >= job.target:
            break
    return {
        "elements": sum(p.numel() for p in trainer.network.parameters()),
        "rounds": curve[-1][0],
        "wire_bytes": round(sent / curve[-1][0]) if interface else "",
        "accuracy": curve[-1][1],
        "final_loss": curve[-1][2],
        "identical": _identical(trainer.network),
        "curve": json.dumps(curve),
        "plan": describe(trainer.handle),
    }


def _accuracy(trainer: Trainer, dataset: Any) -> float:
    """Test with all ranks' mean statistics, and leave every rank its own."""
    kept = {name: buffer.clone() for name, buffer in trainer.network.named_buffers()}
    found = test_accuracy(trainer.network, dataset)
    for name, buffer in trainer.network.named_buffers():
        buffer.copy_(kept[name])
    return found


def _identical(network: nn.Module) -> bool:
    """Say whether every rank holds the same bits in all parameters."""
    digest = hashlib.sha256()
    for parameter in network.parameters():
        digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    digests = [""] * dist.get_world_size()
    dist.all_gather_object(digests, digest.hexdigest())
    return len(set(digests)) == 1
