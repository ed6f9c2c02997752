"""Train with compressed gradients, save every rank's hook state, and resume.

torchrun --nproc-per-node 2 examples/train_ddp.py --checkpoint /tmp/checkpoint
"""

import argparse
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import trafficzip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--checkpoint", type=Path)
    arguments = parser.parse_args()

    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 10)))
    compression = trafficzip.ddp.register(model)  # the one line
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    start = 0
    saved = arguments.checkpoint / f"rank{rank}.pt" if arguments.checkpoint else None
    if saved and saved.exists():
        state = torch.load(saved, weights_only=True)
        model.module.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        compression.load_state_dict(state["compression"])  # each rank's own residuals
        start = state["step"]

    target = torch.randn(64, 10, generator=torch.Generator().manual_seed(1))
    for step in range(start, start + arguments.steps):
        generator = torch.Generator().manual_seed(1_000_000 * rank + step)
        images = torch.randn(32, 64, generator=generator)
        loss = nn.functional.cross_entropy(model(images), (images @ target).argmax(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    if saved:
        saved.parent.mkdir(parents=True, exist_ok=True)
        torch.save(
            {
                "model": model.module.state_dict(),
                "optimizer": optimizer.state_dict(),
                "compression": compression.state_dict(),
                "step": start + arguments.steps,
            },
            saved,
        )
    compression.flush(optimizer)  # apply what is still pending, before evaluation
    if rank == 0:
        stats = compression.stats()
        print(f"loss {loss.item():.3f}, {stats.bits_per_element_sent:.2f} bits per element sent in the last step")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
