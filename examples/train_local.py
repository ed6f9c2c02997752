"""Train alone for some steps, then agree on a model, compressed; save, resume, also with another number of ranks.

torchrun --nproc-per-node 2 examples/train_local.py --checkpoint /tmp/checkpoint
"""

import argparse
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

import trafficzip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=256)
    parser.add_argument("--every", type=int, default=16, help="steps between two rounds")
    parser.add_argument("--checkpoint", type=Path)
    arguments = parser.parse_args()

    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 10))  # plain: no DistributedDataParallel
    local = trafficzip.local_sgd.LocalSteps(model, every=arguments.every)  # the first line
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)

    start = 0
    if arguments.checkpoint and (arguments.checkpoint / "latest").exists():
        start = load(arguments.checkpoint, model, optimizer, local)

    target = torch.randn(64, 10, generator=torch.Generator().manual_seed(1))
    done = None
    for step in range(start, start + arguments.steps):
        generator = torch.Generator().manual_seed(1_000_000 * rank + step)
        inputs = torch.randn(32, 64, generator=generator)
        loss = nn.functional.cross_entropy(model(inputs), (inputs @ target).argmax(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        done = local.step()  # the second line: a round with all ranks after every 16th step
        if done and arguments.checkpoint:
            save(arguments.checkpoint, step + 1, model, optimizer, local)
    if done is None:
        local.agree()  # the last steps too; from here on all ranks hold the same model

    if rank == 0:
        stats = local.stats()
        total = sum(p.double().sum().item() for p in model.parameters())
        print(
            f"step {stats.steps}: loss {loss.item():.3f}, {stats.rounds} rounds, {stats.bits_per_element_sent:.2f} "
            f"bits per element in the last, sum of parameters {total:.9f}"
        )
    dist.destroy_process_group()


def save(root: Path, step: int, model: nn.Module, optimizer: Any, local: trafficzip.local_sgd.LocalSteps) -> None:
    """Save every rank's state between two rounds; "latest" names the checkpoint once all ranks have written theirs."""
    folder = root / f"step{step}-ranks{dist.get_world_size()}"
    folder.mkdir(parents=True, exist_ok=True)
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "local": local.state_dict()}
    torch.save(state, folder / f"rank{dist.get_rank()}.pt")
    dist.barrier()
    if dist.get_rank() == 0:
        (root / "new").write_text(folder.name)
        (root / "new").replace(root / "latest")


def load(root: Path, model: nn.Module, optimizer: Any, local: trafficzip.local_sgd.LocalSteps) -> int:
    """Load the latest checkpoint and give its step. Ranks may have joined or left since it was saved."""
    folder = root / (root / "latest").read_text()
    files = sorted(folder.glob("rank*.pt"))
    rank, world_size = dist.get_rank(), dist.get_world_size()
    own = torch.load(folder / f"rank{rank % len(files)}.pt", weights_only=True)
    model.load_state_dict(own["model"])
    optimizer.load_state_dict(own["optimizer"])  # each rank's own moments; a rank that joins borrows another's
    if len(files) == world_size:
        local.load_state_dict(own["local"])
    else:
        states = [torch.load(file, weights_only=True)["local"] for file in files]
        local.load_state_dict(trafficzip.local_sgd.merge_state_dicts(states))  # also puts the agreed model in place
    return int(own["local"]["steps"])


if __name__ == "__main__":
    main()
