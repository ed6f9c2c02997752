"""Replicas of a sharded model: dense inside, compressed between; and compressed inside a mesh with replicas."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh

import trafficzip.fsdp
from tests.fsdp.training import Training, batch, build, digest
from trafficzip.errors import ConfigError
from trafficzip.presets import FLOAT32

EXACT = {"compressor": FLOAT32, "small": FLOAT32}


class Replicas(Training):
    """`replicas` copies of the network, each sharded over the other ranks."""

    def __init__(self, rank, *, replicas=2, inner=False, register=None, **options):
        self.mesh = init_device_mesh(
            "cpu", (replicas, dist.get_world_size() // replicas), mesh_dim_names=("replicas", "shards")
        )
        super().__init__(rank, dense=True, mesh=self.mesh["shards"], **options)
        self.handle = trafficzip.fsdp.register_replicas(self.net, self.mesh.get_group("replicas"), **(register or {}))
        self.inner = trafficzip.fsdp.register(self.net) if inner else None


def _gradients(rank, world_size, replicas):
    dense = Training(rank, dense=True)
    dense.backward(0)
    ours = Replicas(rank, replicas=replicas, register=EXACT)
    ours.backward(0)
    pairs = zip(dense.gradients().values(), ours.gradients().values(), strict=True)
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs), ours.handle.stats()


@pytest.mark.parametrize(("world_size", "replicas"), [(4, 2), (2, 2), (4, 4)])
def test_uncompressed_exchange_gives_the_mean_over_all_ranks(ranks, world_size, replicas):
    for error, stats in ranks(world_size, _gradients, replicas):
        assert error <= 4 * world_size * 2**-24
        assert stats.compressed_calls == 3


def _train(rank, world_size, inner):
    training = Replicas(rank, inner=inner)
    training.steps(0, 10)
    dense = Training(rank, dense=True)
    dense.steps(0, 10)
    local = digest([p.to_local() for p in training.net.parameters()])
    return local, training.digest(), dense.digest(), training.handle.stats(), training.inner and training.inner.stats()


@pytest.mark.parametrize("inner", [False, True])
def test_replicas_stay_bit_identical(ranks, inner):
    results = ranks(4, _train, inner)
    assert len({whole for _, whole, _, _, _ in results}) == 1
    assert results[0][0] == results[2][0]  # ranks 0 and 2 hold the same shard, 0 and 1 different ones
    assert results[1][0] == results[3][0]
    assert results[0][0] != results[1][0]
    assert results[0][1] != results[0][2]
    for _, _, _, stats, inside in results:
        assert stats.bytes_sent * 5 < stats.dense_bytes_sent
        assert (inside is None) != inner
        if inside:
            assert inside.compressed_calls == stats.compressed_calls == 30


def _nonfinite(rank, world_size):
    training = Replicas(rank, inner=True)
    training.steps(0, 2)
    before = training.residuals(), training.inner.exchange.worker.residual.copy()
    training.optimizer.zero_grad()
    inputs, targets = batch(rank, 2)
    if rank == 3:
        inputs[:] = float("nan")
    torch.nn.functional.cross_entropy(training.net(inputs), targets).backward()
    gradients = [p.grad.to_local() for p in training.net.parameters() if p.grad is not None]
    after = training.residuals(), training.inner.exchange.worker.residual
    # the inner exchange of ranks 0 and 1 saw finite gradients only
    return all(not g.isfinite().any() for g in gradients), [
        np.array_equal(a, b) for a, b in zip(before, after, strict=True)
    ]


def test_nonfinite_gradients_of_one_replica_reach_all(ranks):
    results = ranks(4, _nonfinite)
    assert [bad for bad, _ in results] == [True] * 4
    assert [outer for _, (outer, _) in results] == [True] * 4
    assert [inner for _, (_, inner) in results] == [False, False, True, True]


def _resume(rank, world_size, folder):
    first = Replicas(rank, inner=True, lr=0.05)
    first.optimizer = torch.optim.SGD(first.net.parameters(), lr=0.05)
    first.steps(0, 4)
    saved = {"model": first.net.state_dict(), "replicas": first.handle, "inner": first.inner}
    dcp.save(saved, checkpoint_id=folder)
    first.steps(4, 8)
    second = Replicas(rank, inner=True, seed=1)
    second.optimizer = torch.optim.SGD(second.net.parameters(), lr=0.05)
    state = second.net.state_dict()
    dcp.load({"model": state, "replicas": second.handle, "inner": second.inner}, checkpoint_id=folder)
    second.net.load_state_dict(state)
    second.steps(4, 8)
    return first.digest() == second.digest(), np.array_equal(first.residuals(), second.residuals())


def test_resumed_replicas_equal_the_uninterrupted_ones(ranks, tmp_path):
    assert ranks(4, _resume, str(tmp_path)) == [(True, True)] * 4


def _two_phase_state(rank, world_size):
    training = Replicas(rank, replicas=4)
    training.steps(0, 3)
    state = training.handle.state_dict()
    kept = training.residuals(), training.handle.exchange.owner.residual.copy()
    training.steps(3, 5)
    training.handle.load_state_dict(state)
    now = training.residuals(), training.handle.exchange.owner.residual
    owned = bool(kept[1].any()) or not kept[1].size
    return all(np.array_equal(a, b) for a, b in zip(kept, now, strict=True)), owned


def test_state_of_four_replicas_holds_both_residuals(ranks):
    assert ranks(4, _two_phase_state) == [(True, True)] * 4


def _off(rank, world_size):
    training = Replicas(rank)
    training.handle.disable()
    training.backward(0)
    dense = Training(rank, dense=True)
    dense.backward(0)
    pairs = zip(dense.gradients().values(), training.gradients().values(), strict=True)
    error = max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)
    return error, training.handle.stats().dense_calls


def test_disabled_replicas_are_averaged_by_torch(ranks):
    for error, dense_calls in ranks(4, _off):
        assert error <= 16 * 2**-24
        assert dense_calls == 3


def _native(rank, world_size):
    """FSDP2's own mesh of replicas and shards: the shard dimension is compressed, the other is torch's."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicas", "shards"))
    ours = Training(rank, mesh=mesh, register=EXACT)
    ours.backward(0)
    dense = Training(rank, dense=True, mesh=mesh)
    dense.backward(0)
    pairs = zip(dense.gradients().values(), ours.gradients().values(), strict=True)
    error = max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)
    compressed = Training(rank, mesh=mesh)
    compressed.steps(0, 5)
    return error, ours.handle.transport.world_size, compressed.digest()


def test_shard_dimension_of_a_mesh_with_replicas_is_compressed(ranks):
    results = ranks(4, _native)
    assert len({whole for _, _, whole in results}) == 1
    for error, world_size, _ in results:
        assert error <= 16 * 2**-24
        assert world_size == 2


def _refuse(rank, world_size):
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicas", "shards"))
    group = mesh.get_group("replicas")
    found = []
    registered = Replicas(rank)
    hooked = build(mesh=mesh["shards"])
    hooked.set_all_reduce_hook(print)
    for net in (build(mesh=mesh), registered.net, hooked):
        try:
            trafficzip.fsdp.register_replicas(net, group)
        except ConfigError as error:
            found.append(str(error))
    return found


def test_what_has_replicas_or_hooks_already_is_refused(ranks):
    for native, twice, hooked in ranks(4, _refuse):
        assert native.endswith("shard it over the mesh's shard dimension alone")
        assert twice == "module (root) is registered already: use the handle that the first call gave"
        assert hooked == "module (root) has another all-reduce hook already: builtin_function_or_method"
