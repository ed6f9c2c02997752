"""What the ranks of an FSDP2 case train: the same network, sharded, two FSDP2 modules and the root."""

from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import trafficzip.fsdp
from benchmarks.faults.training import digest, loss_of, network


class ShardedTraining:
    """A sharded model and its optimizer."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.net: Any = network()
        mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
        for block in list(self.net)[1:3]:
            fully_shard(block, mesh=mesh)
        fully_shard(self.net, mesh=mesh)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.05, momentum=0.9)
        self.hook: Any = None

    def register(self, options: dict[str, Any]) -> None:
        """Compress the reduce-scatters; options that only DDP's exchanges have are left out."""
        taken = {key: value for key, value in options.items() if key not in ("exchange", "overlap", "nodes")}
        self.hook = trafficzip.fsdp.register(self.net, **taken)

    def step(self, step: int, *, poison: bool = False) -> None:
        """Take one step, or leave it out where its gradients are not finite: then no module's are, on any rank."""
        self.optimizer.zero_grad()
        loss = loss_of(self.net, self.rank, step)
        (loss * float("inf") if poison else loss).backward()
        if all(bool(p.grad.to_local().isfinite().all()) for p in self.net.parameters()):
            self.optimizer.step()

    def nonfinite_steps(self) -> int:
        """Give how many steps were left out on all ranks."""
        return self.hook.stats().nonfinite_calls // len(self.hook.units)

    def digests(self) -> dict[str, str]:
        """Give what must be equal on all ranks, and in all runs on one rank."""
        momentum = [self.optimizer.state[p]["momentum_buffer"].to_local() for p in self.net.parameters()]
        residual = torch.from_numpy(self.hook.exchange.worker.residual)
        parameters = digest(p.full_tensor() for p in self.net.parameters())
        return {"parameters": parameters, "everything": parameters + digest([*momentum, residual])}
