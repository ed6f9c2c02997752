"""Train with compressed gradients; save every rank's hook state; go on from there after a failure.

torchrun --nproc-per-node 2 --max-restarts 2 examples/train_ddp.py --checkpoint /tmp/checkpoint

When a rank dies, torchrun starts all of them again, and they resume bit for bit from the latest checkpoint.
"""

import argparse
import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import trafficzip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help="of the whole run, restarts included")
    parser.add_argument("--save-every", type=int, default=20, help="steps between two checkpoints")
    parser.add_argument("--checkpoint", type=Path)
    arguments = parser.parse_args()

    join()
    rank = dist.get_rank()
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 10)))
    compression = trafficzip.ddp.register(model)  # the one line
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    start = 0
    if arguments.checkpoint and (arguments.checkpoint / "latest").exists():
        start = load(arguments.checkpoint, model, optimizer, compression)
    if rank == 0:
        print(f"starts at step {start}", flush=True)

    target = torch.randn(64, 10, generator=torch.Generator().manual_seed(1))
    for step in range(start, arguments.steps):
        generator = torch.Generator().manual_seed(1_000_000 * rank + step)
        images = torch.randn(32, 64, generator=generator)
        loss = nn.functional.cross_entropy(model(images), (images @ target).argmax(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if arguments.checkpoint and ((step + 1) % arguments.save_every == 0 or step + 1 == arguments.steps):
            save(arguments.checkpoint, step + 1, model, optimizer, compression)

    compression.flush(optimizer)  # apply what is still pending, before evaluation
    if rank == 0 and start < arguments.steps:
        stats = compression.stats()
        print(f"loss {loss.item():.3f}, {stats.bits_per_element_sent:.2f} bits per element sent in the last step")
    dist.destroy_process_group()


def join() -> None:
    """Join the process group by a name of this attempt's own.

    After a restart, torchrun's store still holds the addresses at which the ranks of the last attempt listened.
    """
    store, rank, world_size = next(dist.rendezvous("env://"))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = dist.PrefixStore(f"attempt{attempt}", store)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)


def save(
    root: Path,
    step: int,
    model: DistributedDataParallel,
    optimizer: torch.optim.Optimizer,
    compression: trafficzip.ddp.GradientCompression,
) -> None:
    """Save every rank's state; "latest" names a checkpoint only once all ranks have written theirs."""
    folder = root / f"step{step}-ranks{dist.get_world_size()}"
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        "model": model.module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "compression": compression.state_dict(),  # each rank's own residuals
        "step": step,
    }
    torch.save(state, folder / f"rank{dist.get_rank()}.pt")
    dist.barrier()
    if dist.get_rank() == 0:
        (root / "new").write_text(folder.name)
        (root / "new").replace(root / "latest")


def load(
    root: Path,
    model: DistributedDataParallel,
    optimizer: torch.optim.Optimizer,
    compression: trafficzip.ddp.GradientCompression,
) -> int:
    """Load the latest checkpoint, saved by any number of ranks, and give its step."""
    folder = root / (root / "latest").read_text()
    files = sorted(folder.glob("rank*.pt"))
    rank = dist.get_rank()
    state = torch.load(folder / f"rank{rank % len(files)}.pt", weights_only=True)
    model.module.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if len(files) == dist.get_world_size():
        compression.load_state_dict(state["compression"])
    else:
        states = [torch.load(file, weights_only=True)["compression"] for file in files]
        compression.load_state_dict(trafficzip.ddp.merge_state_dicts(states))  # each takes the mean of what was pending
    return int(state["step"])


if __name__ == "__main__":
    main()
