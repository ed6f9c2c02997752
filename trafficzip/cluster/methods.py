"""Methods: the ways to exchange gradients that the benchmark puts beside each other."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from types import MappingProxyType
from typing import Any

import torch
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from trafficzip import ddp
from trafficzip.compressor import Compressor
from trafficzip.ddp.config import ExchangeName
from trafficzip.errors import ConfigError
from trafficzip.local_sgd import LocalSteps
from trafficzip.metrics import TrafficMeter
from trafficzip.presets import INT8_BLOCKWISE, ONE_BIT, THREE_LC, THREE_LC_RANS, TOP_K, with_multiplier

_MOST_TRIALS = 500  # steps

Attached = ddp.GradientCompression | LocalSteps | None
Attach = Callable[[DistributedDataParallel, float], Attached]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One method.

    attach: puts it on a wrapped model, with a timeout in seconds, and gives its handle, None for torch's own methods.
    one_bucket: the model must travel as one bucket.
    settle: rounds until its traffic is what it will be.
    decides: whether it begins by choosing what to do.
    every: steps between two exchanges; more than 1 means that the model is not wrapped, but trained by local steps.
    """

    attach: Attach
    one_bucket: bool = False
    settle: int = 2
    decides: bool = False
    every: int = 1


def meter_of(handle: Attached) -> TrafficMeter | None:
    """Give a snapshot of what the method has counted so far; None where it counts nothing."""
    return None if handle is None else handle.transport.meter.copy()


def local_steps(network: torch.nn.Module, *, every: int, timeout_s: float) -> LocalSteps:
    """Train by local steps, with their defaults."""
    return LocalSteps(network, every=every, timeout_s=timeout_s)


def _dense(model: DistributedDataParallel, timeout_s: float) -> None:
    """Leave DDP as it is."""


def _fp16(model: DistributedDataParallel, timeout_s: float) -> None:
    model.register_comm_hook(model.process_group, default_hooks.fp16_compress_hook)


def _power_sgd(rank: int) -> Attach:
    """PyTorch's PowerSGD, with error feedback and warm start, from the third step on.

    It starts collectives in callbacks of others, which Gloo carries safely for a single bucket only.
    """

    def attach(model: DistributedDataParallel, timeout_s: float) -> None:
        state = powerSGD_hook.PowerSGDState(
            process_group=model.process_group, matrix_approximation_rank=rank, start_powerSGD_iter=2
        )
        model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)

    return attach


def _ours(compressor: Compressor | ddp.Schedule | str, *, exchange: ExchangeName = "auto") -> Attach:
    def attach(model: DistributedDataParallel, timeout_s: float) -> ddp.GradientCompression:
        return ddp.register(model, compressor, exchange=exchange, timeout_s=timeout_s)  # type: ignore[arg-type]

    return attach


def _local(model: DistributedDataParallel, timeout_s: float) -> None:
    raise ConfigError("local steps exchange models, not gradients")


def _ternary(preset: Compressor, multiplier: float) -> Method:
    return Method(attach=_ours(with_multiplier(preset, multiplier)), settle=10)


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "dense": Method(attach=_dense),
        "fp16": Method(attach=_fp16),
        "powersgd_r1": Method(attach=_power_sgd(1), one_bucket=True, settle=4),
        "powersgd_r2": Method(attach=_power_sgd(2), one_bucket=True, settle=4),
        "powersgd_r4": Method(attach=_power_sgd(4), one_bucket=True, settle=4),
        "top_k": Method(attach=_ours(TOP_K), settle=4),
        "one_bit": Method(attach=_ours(ONE_BIT)),
        "int8": Method(attach=_ours(INT8_BLOCKWISE)),
        "three_lc_s1.0": _ternary(THREE_LC, 1.0),
        "three_lc_s1.5": _ternary(THREE_LC, 1.5),
        "three_lc_s1.75": _ternary(THREE_LC, 1.75),
        "three_lc_s1.9": _ternary(THREE_LC, 1.9),
        "three_lc_rans_s1.0": _ternary(THREE_LC_RANS, 1.0),
        "default": Method(attach=_ours(ddp.DEFAULT_SCHEDULE), settle=10),
        "two_phase": Method(attach=_ours(THREE_LC_RANS, exchange="two_phase"), settle=10),
        "auto": Method(attach=_ours("auto"), settle=10, decides=True),
        "local_h16": Method(attach=_local, every=16),
    }
)


def method_named(name: str) -> Method:
    """Give a method.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in METHODS:
        raise ConfigError(f"no method {name!r}; known: {', '.join(METHODS)}")
    return METHODS[name]


def settle(step: Callable[[], object], method: Method, *, handle: Attached, one_bucket: bool) -> float:
    """Take the steps that are left out of what is timed; give the seconds of the last one. A collective call.

    A hook of ours first tries overlap on and off, where there are several buckets, and "auto" tries much more.
    """
    deciding = isinstance(handle, ddp.GradientCompression) and (method.decides or not one_bucket)
    done = 0
    while deciding and done < _MOST_TRIALS and not handle.decided:  # type: ignore[union-attr]
        step()
        done += 1
    seconds = 0.0
    for _ in range(method.settle):
        begin = perf_counter()
        step()
        seconds = perf_counter() - begin
    return seconds


def describe(handle: Any) -> str:
    """Say how a method came to do what it does, where it tells."""
    return str(handle.plan()) if hasattr(handle, "plan") else ""
