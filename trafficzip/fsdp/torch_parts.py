"""What this package takes from inside FSDP2: the reduce-scatter interface, and which parameters a module reduces."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, Replicate, Shard

from trafficzip.errors import ConfigError

try:
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
    from torch.distributed.fsdp._fully_shard._fsdp_api import ReduceScatter
except ImportError as error:
    raise ImportError(
        "trafficzip.fsdp needs FSDP2's interface for custom reduce-scatters (torch >= 2.9, < 2.14: ReduceScatter in "
        f"torch.distributed.fsdp._fully_shard._fsdp_api), which torch {torch.__version__} does not have"
    ) from error

__all__ = ["FSDPModule", "ReduceScatter", "ShardedParameter", "premultiplier", "sharded_modules", "sharded_parameters"]

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True, eq=False)
class ShardedParameter:
    """A parameter as its module's reduce-scatter lays it out.

    name: within the model.
    num_elements, num_dims: of the whole parameter.
    chunk: its elements in each rank's chunk, padding included.
    sizes: per rank, its elements there, padding not included.
    shard_dim: which dimension is cut; where it is not 0, whole parameters are laid out by rank, not in their own order.
    """

    name: str
    num_elements: int
    num_dims: int
    chunk: int
    sizes: tuple[int, ...]
    shard_dim: int
    owner: Any

    @property
    def trainable(self) -> bool:
        """Whether it takes part in reductions now."""
        return bool(self.owner.sharded_param.requires_grad)


def sharded_modules(model: nn.Module) -> dict[str, FSDPModule]:
    """Give the FSDP2 modules of a model that hold parameters of their own, by name, in the model's order.

    Raises:
        ConfigError: the model has none, or one that this release cannot serve.
    """
    if isinstance(model, FullyShardedDataParallel):
        raise ConfigError("model is FullyShardedDataParallel (FSDP1): shard it with fully_shard (FSDP2)")
    found = {name: module for name, module in model.named_modules() if isinstance(module, FSDPModule)}
    if not found:
        raise ConfigError(f"{type(model).__name__} has no FSDP2 module: call fully_shard on it first")
    for name, module in found.items():
        groups = _groups(module)
        if len(groups) > 1:
            raise ConfigError(
                f"module {name or '(root)'} has {len(groups)} parameter groups, where FSDP2 takes no hooks"
            )
    return {name: module for name, module in found.items() if _groups(module)}


def parameter_group(module: FSDPModule) -> Any:
    """Give FSDP2's record of what a module reduces."""
    (group,) = _groups(module)
    return group


def sharded_parameters(model: nn.Module, module: FSDPModule) -> list[ShardedParameter]:
    """Give a module's own parameters in the order of its reduce-scatter.

    Raises:
        ConfigError: one that cannot be compressed.
    """
    names = {id(inner): name for name, inner in model.named_modules()}
    group = parameter_group(module)
    reduce_dtype = group.mp_policy.reduce_dtype
    found = []
    for inner in group.fsdp_params:
        prefix = names[id(inner._module_info.module)]
        name = f"{prefix}.{inner._module_info.param_name}" if prefix else inner._module_info.param_name
        _check(name, inner.sharded_param, reduce_dtype)
        size, dim = tuple(inner._orig_size), inner.fsdp_placement.dim
        world_size = shard_group(inner.sharded_param).size()
        total = inner._orig_size.numel()
        row = total // max(size[0], 1)
        per_rank = -(-size[0] // world_size)
        rows = [max(0, min(per_rank, size[0] - rank * per_rank)) for rank in range(world_size)]
        sizes = tuple(count * row for count in rows) if dim == 0 else (total // world_size,) * world_size
        chunk = per_rank * row if dim == 0 else total // world_size
        found.append(ShardedParameter(name, total, len(size), chunk, sizes, dim, inner))
    return found


def shard_group(parameter: DTensor) -> dist.ProcessGroup:
    """Give the group over which a parameter is sharded.

    Raises:
        ConfigError: it is sharded over several dimensions of its mesh, as in tensor parallelism.
    """
    dims = [dim for dim, placement in enumerate(parameter.placements) if isinstance(placement, Shard)]
    others = [p for p in parameter.placements if not isinstance(p, Shard | Replicate)]
    if len(dims) != 1 or others:
        raise ConfigError(f"placements {parameter.placements}: only parameters sharded over one mesh dimension fit")
    group: dist.ProcessGroup = parameter.device_mesh.get_group(dims[0])
    return group


def premultiplier(op: Any) -> float | None:
    """Give the factor of a PREMUL_SUM, None for other operations.

    Raises:
        ConfigError: the factor is a tensor.
    """
    if op != dist.ReduceOp.PREMUL_SUM:
        return None
    factor = op.__getstate__()[1]
    if not isinstance(factor, float):
        raise ConfigError(f"PREMUL_SUM by {type(factor).__name__}: only a number can be handled")
    return factor


def _groups(module: FSDPModule) -> list[Any]:
    state = module._get_fsdp_state()
    if hasattr(state, "_fsdp_param_groups"):
        return list(state._fsdp_param_groups)
    group = getattr(state, "_fsdp_param_group", None)  # before torch 2.12
    return [] if group is None else [group]


def _check(name: str, parameter: Any, reduce_dtype: torch.dtype | None) -> None:
    if not isinstance(parameter, DTensor):
        raise ConfigError(f"parameter {name} is {type(parameter).__name__}, expected a DTensor: shard it before")
    if parameter.device_mesh.device_type != "cpu":
        raise ConfigError(
            f"parameter {name} is on a {parameter.device_mesh.device_type} mesh: this release compresses on CPUs only"
        )
    if hasattr(parameter._local_tensor, "fsdp_pre_all_gather"):
        raise ConfigError(f"parameter {name} is {type(parameter._local_tensor).__name__}: float8 and others do not fit")
    for what, dtype in (("dtype", parameter.dtype), ("reduce dtype", reduce_dtype)):
        if dtype is not None and dtype not in _DTYPES and parameter.requires_grad:
            raise ConfigError(f"parameter {name} has {what} {dtype}, expected one of {_DTYPES}")
