"""Train a sharded model (FSDP2) with compressed gradients; save and resume with torch.distributed.checkpoint.

torchrun --nproc-per-node 2 examples/train_fsdp.py --checkpoint /tmp/checkpoint
"""

import argparse
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import trafficzip


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--checkpoint", type=Path)
    arguments = parser.parse_args()

    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), Block(128), Block(128), nn.Linear(128, 10))
    mesh = init_device_mesh("cpu", (world_size,))
    for block in model[1:3]:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    compression = trafficzip.fsdp.register(model)  # the one line
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.5)

    start = 0
    if arguments.checkpoint and (arguments.checkpoint / ".metadata").exists():
        weights, optimizer_state = get_state_dict(model, optimizer)
        state = {"model": weights, "optimizer": optimizer_state, "compression": compression, "step": 0}
        # Residuals belong to ranks: say so clearly where the number of ranks has changed, before loading.
        compression.check_checkpoint(dcp.FileSystemReader(arguments.checkpoint).read_metadata())
        dcp.load(state, checkpoint_id=arguments.checkpoint)
        set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=optimizer_state)
        start = state["step"]

    target = torch.randn(64, 10, generator=torch.Generator().manual_seed(1))
    for step in range(start, start + arguments.steps):
        generator = torch.Generator().manual_seed(1_000_000 * rank + step)
        inputs = torch.randn(32, 64, generator=generator)
        loss = nn.functional.cross_entropy(model(inputs), (inputs @ target).argmax(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    if arguments.checkpoint:
        weights, optimizer_state = get_state_dict(model, optimizer)
        state = {"model": weights, "optimizer": optimizer_state, "compression": compression}
        dcp.save({**state, "step": start + arguments.steps}, checkpoint_id=arguments.checkpoint)
    if rank == 0:
        stats = compression.stats()
        print(
            f"step {start + arguments.steps}: loss {loss.item():.3f}, {stats.bytes_sent} bytes sent in "
            f"reduce-scatters, dense {stats.dense_bytes_sent}"
        )
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
