"""Policies: which plan each step follows. A policy is a generator that every rank advances before each same step."""

import logging
from collections.abc import Generator
from dataclasses import replace

from trafficzip.comm.transport import Transport
from trafficzip.ddp.config import Overlap
from trafficzip.ddp.plan import Plan
from trafficzip.ddp.trials import StepLog, try_plans

Plans = Generator[Plan, None, None]

WARM_UP_STEPS = 3  # DDP fills its buckets anew after the first one or two, and kernels compile
_logger = logging.getLogger("trafficzip")


def follow(plan: Plan, overlap: Overlap, log: StepLog, control: Transport) -> Plans:
    """Follow one plan; with overlap "auto", run it with and without in turn, once there are several buckets."""
    if overlap == "auto":
        plan = yield from choose_overlap(plan, log, control)
        while True:
            yield plan
    while True:
        yield replace(plan, overlap=overlap)


def choose_overlap(plan: Plan, log: StepLog, control: Transport) -> Generator[Plan, None, Plan]:
    """Yield the plans of a warm-up and of trials; return the faster of `plan` and `plan` overlapped."""
    for _ in range(WARM_UP_STEPS):
        yield plan
    while len(log.bucket_sizes) < 2:
        yield plan  # one bucket has nothing to overlap with
    result = yield from try_plans([plan, replace(plan, overlap=True)], log, control)
    report(control, f"overlap {'on' if result.best.overlap else 'off'}: {result}")
    return result.best


def report(control: Transport, message: str) -> None:
    """Log a decision, on rank 0."""
    if control.rank == 0:
        _logger.info(message)
