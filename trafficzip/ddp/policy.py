"""Policies: which plan each step follows. A policy is a generator that every rank advances before each same step."""

import logging
from collections.abc import Generator
from dataclasses import replace

from trafficzip.comm.transport import Transport
from trafficzip.ddp.config import Overlap
from trafficzip.ddp.plan import Plan
from trafficzip.ddp.trials import StepLog, try_plans

Plans = Generator[Plan, None, None]

WARM_UP_STEPS = 4  # DDP fills its buckets anew after the first one or two, and kernels compile
_logger = logging.getLogger("trafficzip")


def follow(plan: Plan, overlap: Overlap, log: StepLog, control: Transport) -> Plans:
    """Follow one plan; with overlap "auto", run it with and without in turn, once there are several buckets."""
    if overlap == "auto":
        yield from warm_up(plan)
        while len(log.bucket_sizes) < 2:
            yield plan  # one bucket has nothing to overlap with
        plan = yield from choose_overlap(plan, log, control)
    else:
        plan = replace(plan, overlap=overlap)
    log.decided = True
    while True:
        yield plan


def warm_up(plan: Plan) -> Plans:
    """Yield the plan of the first steps, which say little about later ones."""
    for _ in range(WARM_UP_STEPS):
        yield plan


def choose_overlap(plan: Plan, log: StepLog, control: Transport) -> Generator[Plan, None, Plan]:
    """Yield the plans of trials; return the faster of `plan` and `plan` overlapped."""
    result = yield from try_plans([plan, replace(plan, overlap=True)], log, control)
    report(control, log, f"overlap {'on' if result.best.overlap else 'off'}, because steps took {result}")
    return result.best


def report(control: Transport, log: StepLog, message: str) -> None:
    """Keep a decision, and log it on rank 0."""
    log.decisions.append(message)
    if control.rank == 0:
        _logger.info(message)
