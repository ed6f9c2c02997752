"""Registration: what is refused, and with which words."""

import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

import trafficzip.fsdp
from tests.fsdp.training import Training, build
from trafficzip.errors import CollectiveError, ConfigError
from trafficzip.fsdp.torch_parts import FSDPModule, parameter_group, premultiplier
from trafficzip.presets import THREE_LC


def refused(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except ConfigError as error:
        return str(error)
    return "accepted"


def _refuse(rank, world_size):
    found = {}
    register = trafficzip.fsdp.register
    found["plain"] = refused(register, nn.Linear(2, 2))
    found["fsdp1"] = refused(register, FullyShardedDataParallel(nn.Linear(4, 4), device_id=torch.device("cpu")))
    net = build()
    register(net)
    before = net._get_fsdp_state()
    found["twice"] = refused(register, net)
    found["still registered"] = type(parameter_group(net)._reduce_scatter_comm).__name__
    assert before is net._get_fsdp_state()

    class Other:
        pass

    other = build()
    other.blocks[0].set_custom_reduce_scatter(Other())
    found["custom"] = refused(register, other)
    found["untouched"] = type(parameter_group(other)._reduce_scatter_comm).__name__
    found["compressor"] = refused(register, build(), "THREE_LC")
    found["small_elements"] = refused(register, build(), small_elements=-1)
    double = nn.Linear(4, 4).double()
    found["double"] = refused(register, fully_shard(double, mesh=init_device_mesh("cpu", (world_size,))))
    return found


def test_what_cannot_be_compressed_is_refused_clearly(ranks):
    for found in ranks(2, _refuse, timeout_s=60):
        assert found == {
            "plain": "Linear has no FSDP2 module: call fully_shard on it first",
            "fsdp1": "model is FullyShardedDataParallel (FSDP1): shard it with fully_shard (FSDP2)",
            "twice": "module (root) is registered already: use the handle that the first call gave",
            "still registered": "CompressedReduceScatter",
            "custom": "module blocks.0 has another custom reduce-scatter already: Other",
            "untouched": "DefaultReduceScatter",
            "compressor": "compressor must be a Compressor, got str",
            "small_elements": "small_elements must be >= 0, got -1",
            "double": "parameter weight has dtype torch.float64, expected one of "
            "(torch.float32, torch.float16, torch.bfloat16)",
        }


def _refuse_inside(rank, world_size):
    """Models that one process cannot build here, told by what FSDP2 records of them."""
    found = {}
    net = build()
    state = net._get_fsdp_state()
    groups = state._fsdp_param_groups
    state._fsdp_param_groups = [*groups, *groups]
    found["groups"] = refused(trafficzip.fsdp.register, net)
    state._fsdp_param_groups = groups

    parameter = groups[0].fsdp_params[0].sharded_param
    parameter._local_tensor.fsdp_pre_all_gather = lambda: None
    found["float8"] = refused(trafficzip.fsdp.register, net)
    del parameter._local_tensor.fsdp_pre_all_gather

    alone = init_device_mesh("cpu", (2, 1), mesh_dim_names=("a", "b"))["b"]
    mixed = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    fully_shard(mixed[0], mesh=alone)
    fully_shard(mixed, mesh=init_device_mesh("cpu", (2,)))
    found["meshes"] = refused(trafficzip.fsdp.register, mixed)
    return found


def test_models_with_unusual_modules_are_refused(ranks):
    for rank, found in enumerate(ranks(2, _refuse_inside)):
        assert found["groups"] == "module (root) has 2 parameter groups, where FSDP2 takes no hooks"
        assert found["float8"] == "parameter head.weight is Tensor: float8 and others do not fit"
        assert "all modules must be sharded over the same ranks, found " in found["meshes"]
        assert f"0 over ranks [{rank}]" in found["meshes"]
        assert "(root) over ranks [0, 1]" in found["meshes"]


def _disagree(rank, world_size, register, refuse):
    net = build()
    if refuse and rank == 1:
        net.blocks[1].set_custom_reduce_scatter(object())
    try:
        trafficzip.fsdp.register(net, **(register if rank == 1 else {}))
    except (CollectiveError, ConfigError) as error:
        kinds = {type(parameter_group(m)._reduce_scatter_comm).__name__ for m in net.modules() if is_fsdp(m)}
        return f"{type(error).__name__}: {error}", "CompressedReduceScatter" in kinds
    return "agreed", True


def is_fsdp(module):
    return isinstance(module, FSDPModule)


@pytest.mark.parametrize(
    ("register", "entry"),
    [({"compressor": THREE_LC}, "compressor"), ({"small_elements": 9}, "small_elements")],
)
def test_ranks_that_disagree_are_told_on_every_rank(ranks, register, entry):
    for message, changed in ranks(2, _disagree, register, False):
        assert message.startswith(f"CollectiveError: ranks disagree about {entry}: rank 0 has ")
        assert not changed


def test_a_rank_that_refuses_is_known_to_all(ranks):
    first, second = ranks(2, _disagree, {}, True)
    assert first[0].startswith("CollectiveError: rank 1 refused to register: module blocks.1 has another custom")
    assert second[0].startswith("ConfigError: module blocks.1 has another custom reduce-scatter already: object")


def _operations(rank, world_size):
    training = Training(rank)
    comm = parameter_group(training.net.blocks[0])._reduce_scatter_comm
    unit = comm.unit
    chunk = sum(p.chunk for p in unit.parameters)
    values = torch.ones(world_size * chunk)
    out = torch.empty(chunk)
    group = dist.group.WORLD
    comm(out, values.clone(), group, dist.ReduceOp.SUM)
    return float(out.max()), float(out.min()), refused(comm, out, values.clone(), group, dist.ReduceOp.MAX)


def test_sums_only(ranks):
    for largest, smallest, refusal in ranks(2, _operations):
        assert largest == 2
        assert smallest in (0, 2)  # zero where the chunk holds padding
        assert "only SUM, AVG and PREMUL_SUM can be compressed" in refusal


def test_premultiplier_is_read_from_the_operation():
    assert premultiplier(dist.ReduceOp.SUM) is None
    assert premultiplier(dist.ReduceOp.AVG) is None
    assert premultiplier(dist.ReduceOp.PREMUL_SUM(0.25)) == 0.25
    with pytest.raises(ConfigError, match="only a number"):
        premultiplier(dist._make_nccl_premul_sum(torch.ones(1)))


def _dtype(rank, world_size):
    training = Training(rank)
    comm = parameter_group(training.net.blocks[0])._reduce_scatter_comm
    chunk = sum(p.chunk for p in comm.unit.parameters)
    out = torch.empty(chunk, dtype=torch.float64)
    return refused(comm, out, torch.ones(2 * chunk, dtype=torch.float64), dist.group.WORLD, dist.ReduceOp.SUM)


def test_dtype_of_a_reduction_is_checked(ranks):
    for message in ranks(2, _dtype):
        assert message == "FSDP2 reduces in torch.float64, expected float32, float16 or bfloat16"


def test_missing_interface_is_said_at_import():
    code = (
        "import sys, torch.distributed.fsdp\n"
        "sys.modules['torch.distributed.fsdp._fully_shard._fsdp_api'] = None\n"
        "try:\n    import trafficzip.fsdp\n"
        "except ImportError as error:\n    sys.stdout.write(str(error))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "trafficzip.fsdp needs FSDP2's interface for custom reduce-scatters (torch >= 2.9, < 2.14" in found.stdout
    assert torch.__version__ in found.stdout
