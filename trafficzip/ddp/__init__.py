"""Compressed gradients for DistributedDataParallel: one call registers the communication hook.

>>> import trafficzip.ddp
>>> trafficzip.ddp.register.__name__
'register'
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch._C._distributed_c10d import GradBucket
from torch.nn.parallel import DistributedDataParallel

from trafficzip.comm.agreement import agree, refusing
from trafficzip.comm.nodes import Nodes, gather_nodes
from trafficzip.comm.transport import GlooTransport
from trafficzip.compressor import Compressor
from trafficzip.ddp.config import Auto, Config, ExchangeName, Overlap
from trafficzip.ddp.forward import guard_forward
from trafficzip.ddp.hook import GradientCompression
from trafficzip.ddp.schedule import DEFAULT_SCHEDULE, Phase, Schedule, constant
from trafficzip.ddp.state import merge_state_dicts
from trafficzip.ddp.stats import ParameterStats, Stats
from trafficzip.ddp.step import TensorFuture
from trafficzip.errors import ConfigError
from trafficzip.presets import INT8

__all__ = [
    "DEFAULT_SCHEDULE",
    "Auto",
    "GradientCompression",
    "ParameterStats",
    "Phase",
    "Schedule",
    "Stats",
    "hook",
    "merge_state_dicts",
    "register",
]

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def register(
    model: DistributedDataParallel,
    compressor: Compressor | Schedule | Auto | Literal["auto"] = DEFAULT_SCHEDULE,
    *,
    small: Compressor = INT8,
    small_elements: int = 256,
    exchange: ExchangeName = "auto",
    nodes: Sequence[int] | None = None,
    overlap: Overlap = "auto",
    grad_scaler: Any = None,
    num_threads: int = 1,
    timeout_s: float = 300.0,
) -> GradientCompression:
    """Make `model` exchange compressed gradients, and give the handle that controls and reports it.

    A collective call: every rank of the model's process group makes it, with the same arguments. Call it right after
    wrapping the model, before the first backward pass. A model takes one communication hook in its life.

    compressor: what gradients go through, or a Schedule of compressors over the run; by default THREE_LC_RANS, workers
        at s = 1.0, owners at s = 0.9.
    small: what parameters with one dimension or fewer than `small_elements` elements go through.
    exchange: "all_gather", "two_phase", "hierarchical" (dense inside nodes, compressed between them), or "auto":
        hierarchical where there are several nodes and some have several ranks, else all-gather up to 3 ranks and
        two-phase beyond.
    nodes: the node of each rank, under any numbers; by default ranks on one host and of one torchrun agent share one.
    overlap: True exchanges all buckets but the last on a thread while the backward pass goes on, False does not, and
        "auto" runs a few steps each way in turn, once there are several buckets, and keeps the faster. The bits are the
        same.
    grad_scaler: the GradScaler of the run, if it uses one, so that residuals follow its scale.
    num_threads: cores for the codec; the bytes do not depend on it.
    timeout_s: bound, in seconds, of every wait for another rank.

    Raises:
        ConfigError: the model is not DDP, has a communication hook already, is not on the CPU, or has parameters whose
            gradients cannot be compressed.
        CollectiveError: ranks disagree about the configuration, the model or the version, or another rank refused; on
            every rank.
    """
    if not isinstance(model, DistributedDataParallel):
        raise ConfigError(f"model must be DistributedDataParallel, got {type(model).__name__}: wrap it first")
    _check_no_hook(model)
    transport = GlooTransport(model.process_group, timeout_s=timeout_s)
    found = gather_nodes(transport)
    with refusing(transport):
        auto = _auto(compressor)
        config = Config(
            schedule=auto.schedule if auto else _schedule(compressor),
            auto=auto,
            small=small,
            small_elements=small_elements,
            exchange=exchange,
            nodes=found if nodes is None else Nodes(nodes),
            overlap=overlap,
        )
        _check_model(model)
        state = GradientCompression(model, config, transport, grad_scaler=grad_scaler, num_threads=num_threads)
    agree(transport, config.describe(state.parameters))
    model.register_comm_hook(state, hook)
    guard_forward(model, state)
    return state


def hook(state: GradientCompression, bucket: GradBucket) -> TensorFuture:
    """Exchange one bucket: what `register` gives to DistributedDataParallel.register_comm_hook."""
    return state.on_bucket(bucket)


def _auto(compressor: Any) -> Auto | None:
    if isinstance(compressor, str):
        if compressor != "auto":
            raise ConfigError(f'compressor must be a Compressor, a Schedule, an Auto or "auto", got {compressor!r}')
        return Auto()
    return compressor if isinstance(compressor, Auto) else None


def _schedule(compressor: Any) -> Schedule:
    return compressor if isinstance(compressor, Schedule) else constant(compressor)


def _check_no_hook(model: DistributedDataParallel) -> None:
    """Refuse a second hook before any group is made; torch would refuse it only afterwards."""
    hooks = getattr(model, "_comm_hooks", ())
    if hooks:
        name = getattr(hooks[0][0], "__qualname__", repr(hooks[0][0]))
        raise ConfigError(f"model has the communication hook {name} already: a model takes one, once; wrap it anew")


def _check_model(model: DistributedDataParallel) -> None:
    for name, parameter in model.module.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.device.type != "cpu":
            raise ConfigError(f"parameter {name} is on {parameter.device}: this release compresses on the CPU only")
        if parameter.dtype not in _DTYPES:
            raise ConfigError(f"parameter {name} has dtype {parameter.dtype}, expected one of {_DTYPES}")
    for name, module in model.module.named_modules():
        if getattr(module, "sparse", False) and isinstance(module, torch.nn.Embedding | torch.nn.EmbeddingBag):
            raise ConfigError(f"{name} has sparse gradients, which cannot be compressed: give it sparse=False")
