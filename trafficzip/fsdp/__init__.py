"""Compressed gradients for FSDP2 (`fully_shard`): one call equips a whole sharded model.

>>> import trafficzip.fsdp
>>> trafficzip.fsdp.register.__name__
'register'
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from trafficzip.comm.agreement import agree, refusing
from trafficzip.comm.transport import GlooTransport, Transport
from trafficzip.compressor import Compressor
from trafficzip.errors import ConfigError
from trafficzip.fsdp.compression import Config, Stats
from trafficzip.fsdp.replicas import ReplicaCompression, ReplicaHook
from trafficzip.fsdp.sharded import CompressedReduceScatter, ShardedCompression
from trafficzip.fsdp.torch_parts import parameter_group, shard_group, sharded_modules
from trafficzip.presets import BFLOAT16, THREE_LC_RANS

__all__ = ["ReplicaCompression", "ShardedCompression", "Stats", "register", "register_replicas"]


def register(
    model: nn.Module,
    compressor: Compressor = THREE_LC_RANS,
    *,
    small: Compressor = BFLOAT16,
    small_elements: int = 256,
    num_threads: int = 1,
    timeout_s: float = 300.0,
) -> ShardedCompression:
    """Make every FSDP2 module of `model` reduce-scatter compressed gradients, and give the handle.

    A collective call: every rank of the model's mesh makes it, with the same arguments, after the last `fully_shard`
    and before the first backward pass. With a mesh of replicas and shards, the shard dimension is compressed and the
    replica dimension stays torch's; see `register_replicas` for the other way round.

    compressor: what gradients go through.
    small: what parameters with one dimension or fewer than `small_elements` elements go through.
    num_threads: cores for the codec; the bytes do not depend on it.
    timeout_s: bound, in seconds, of every wait for another rank.

    Raises:
        ConfigError: the model is not FSDP2, is not on the CPU, was registered before or has another custom
            reduce-scatter, has a module with several parameter groups, or parameters that cannot be compressed.
        CollectiveError: ranks disagree about the configuration, the model or the version, or another rank refused; on
            every rank.
    """
    transport = GlooTransport(_group_of(model), timeout_s=timeout_s)
    with refusing(transport):
        modules = sharded_modules(model)
        for name, module in modules.items():
            _check_free(name, "custom reduce-scatter", parameter_group(module)._reduce_scatter_comm)
        config = Config(compressor=compressor, small=small, small_elements=small_elements)
        compression = ShardedCompression(model, config, transport, num_threads=num_threads)
    agree(transport, compression.describe())
    for unit in compression.units:
        modules[unit.name].set_custom_reduce_scatter(CompressedReduceScatter(compression, unit))
    _stop_after_failure(model, compression.transport)
    return compression


def register_replicas(
    model: nn.Module,
    replica_group: dist.ProcessGroup,
    compressor: Compressor = THREE_LC_RANS,
    *,
    small: Compressor = BFLOAT16,
    small_elements: int = 256,
    num_threads: int = 1,
    timeout_s: float = 300.0,
) -> ReplicaCompression:
    """Make replicas of a model, each sharded over its own mesh of one dimension, average compressed gradients.

    FSDP2's own replica dimension cannot be compressed, so build the two by hand: a mesh of shape (replicas, shards),
    `fully_shard(..., mesh=mesh["shards"])`, and this with `mesh.get_group("replicas")`. Parameters must be equal on
    all replicas to begin with. Each module's reduce-scatter output goes through an exchange with error feedback between
    the ranks that hold the same shard: all-gather up to 3 replicas, two phases beyond. Gradients are averaged over
    replicas whatever the gradient divide factor. Gradient norms and finite checks must look at all shards, as in FSDP2.

    A collective call of all ranks of `replica_group`. Other arguments and errors: see `register`.
    """
    shards = _group_of(model)
    transport = GlooTransport(replica_group, timeout_s=timeout_s)
    with refusing(transport):
        modules = sharded_modules(model)
        for name, module in modules.items():
            _check_free(name, "all-reduce hook", parameter_group(module)._all_reduce_hook)
            _check_one_dimension(name, module)
        config = Config(compressor=compressor, small=small, small_elements=small_elements)
        compression = ReplicaCompression(
            model, config, transport, shard_rank=dist.get_rank(shards), num_threads=num_threads
        )
    agree(transport, {**compression.describe(), "shard": compression.shard_rank})
    for unit in compression.units:
        modules[unit.name].set_all_reduce_hook(ReplicaHook(compression, unit, replica_group))
    _stop_after_failure(model, compression.transport)
    return compression


def _group_of(model: nn.Module) -> dist.ProcessGroup:
    """Give the group over which all of a model is sharded."""
    groups: dict[tuple[int, ...], tuple[str, dist.ProcessGroup]] = {}
    for name, module in sharded_modules(model).items():
        for inner in parameter_group(module).fsdp_params:
            group = shard_group(inner.sharded_param)
            groups.setdefault(tuple(dist.get_process_group_ranks(group)), (name, group))
    if not groups:
        raise ConfigError("model has no sharded parameters")
    if len(groups) > 1:
        where = ", ".join(f"{name or '(root)'} over ranks {list(ranks)}" for ranks, (name, _) in groups.items())
        raise ConfigError(f"all modules must be sharded over the same ranks, found {where}")
    ((_, found),) = groups.values()
    return found


def _stop_after_failure(model: nn.Module, transport: Transport) -> None:
    """Make forward passes raise CollectiveError once an exchange has failed.

    The failure left each rank at another place of its backward pass, so FSDP2's next all-gather could meet another
    rank's leftover one: Gloo ends the process where sizes differ.
    """

    def before_forward(module: nn.Module, inputs: Any) -> None:
        transport.check()

    model.register_forward_pre_hook(torch.compiler.disable(before_forward), prepend=True)  # type: ignore[no-untyped-call]


def _check_free(name: str, what: str, found: Any) -> None:
    """Refuse to replace what the user, or an earlier call, has set."""
    if isinstance(found, CompressedReduceScatter | ReplicaHook):
        raise ConfigError(f"module {name or '(root)'} is registered already: use the handle that the first call gave")
    if found is not None and type(found).__name__ != "DefaultReduceScatter":
        raise ConfigError(f"module {name or '(root)'} has another {what} already: {type(found).__name__}")


def _check_one_dimension(name: str, module: Any) -> None:
    for inner in parameter_group(module).fsdp_params:
        if inner.sharded_param.device_mesh.ndim != 1:
            raise ConfigError(
                f"module {name or '(root)'} has a mesh of {inner.sharded_param.device_mesh.ndim} dimensions, whose "
                "replicas torch averages already: shard it over the mesh's shard dimension alone"
            )
