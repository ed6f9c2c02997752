"""What the ranks of a case train: a small network in several buckets, the same in every run, other data per rank."""

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import trafficzip.ddp

FEATURES = 64
TARGETS = 10
BUCKET_MB = 0.05  # ends a bucket at each of the larger matrices


def network(hidden: int = 160) -> nn.Module:
    """Give four large matrices, some small parameters; 82 thousand elements at the default width."""
    torch.manual_seed(1)
    widths = [FEATURES, hidden, 2 * hidden, 48, TARGETS]
    layers = [nn.Sequential(nn.Linear(*pair), nn.Tanh()) for pair in zip(widths, widths[1:], strict=False)]
    return nn.Sequential(*layers)


def batch(rank: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1000 * step + rank)
    inputs = torch.randn(16, FEATURES, generator=generator)
    teacher = torch.linspace(-1, 1, FEATURES * TARGETS).reshape(FEATURES, TARGETS).sin()
    return inputs, torch.tanh(inputs @ teacher / 4)


def loss_of(model: nn.Module, rank: int, step: int) -> torch.Tensor:
    inputs, targets = batch(rank, step)
    return (model(inputs) - targets).square().mean()


class Training:
    """A model wrapped for DDP and its optimizer."""

    def __init__(self, rank: int, *, hidden: int = 160, group: Any = None, scaler: bool = False) -> None:
        self.rank = rank
        self.net = network(hidden)
        self.model = DistributedDataParallel(self.net, bucket_cap_mb=BUCKET_MB, process_group=group)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.05, momentum=0.9)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=3) if scaler else None
        self.hook: Any = None

    def register(self, options: dict[str, Any]) -> None:
        """Register the hook."""
        self.hook = trafficzip.ddp.register(self.model, **options, grad_scaler=self.scaler)

    def step(self, step: int, *, poison: bool = False) -> None:
        """Take one step; without a scaler, leave out one whose gradients are not finite, as users do."""
        self.optimizer.zero_grad()
        loss = loss_of(self.model, self.rank, step)
        if poison:
            loss = loss * float("inf")
        (self.scaler.scale(loss) if self.scaler else loss).backward()
        if self.scaler:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        elif all(bool(p.grad.isfinite().all()) for p in self.net.parameters()):
            self.optimizer.step()

    def nonfinite_steps(self) -> int:
        """Give how many steps were left out on all ranks."""
        return self.hook.stats().nonfinite_steps

    def digests(self) -> dict[str, str]:
        """Give what must be equal on all ranks (parameters), and in all runs on one rank (everything)."""
        exchange = self.hook.exchange
        momentum = [self.optimizer.state[p]["momentum_buffer"] for p in self.net.parameters()]
        residuals = [torch.from_numpy(part.residual) for part in (exchange.worker, exchange.owner)]
        parameters = digest(self.net.parameters())
        return {"parameters": parameters, "everything": parameters + digest([*momentum, *residuals])}


def digest(tensors: Iterable[torch.Tensor]) -> str:
    """Give a text that two lists of tensors share only if every bit is equal."""
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
        sha.update(tensor.detach().contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]
