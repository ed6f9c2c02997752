"""What the tests of the hook train: small networks on random data, the same in every run, different on every rank."""

import hashlib
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import trafficzip.ddp

FEATURES = 64
TARGETS = 10
MANY_BUCKETS_MB = 0.001  # every weight matrix of `mlp` ends a bucket
ONE_BUCKET_MB = 100.0


def mlp() -> nn.Module:
    """Give a network of ten parameters; the largest is cut into pieces of several owners, some are small."""
    torch.manual_seed(1)
    widths = [FEATURES, 384, 352, 32, 16, TARGETS]
    layers = [nn.Sequential(nn.Linear(*pair), nn.Tanh()) for pair in zip(widths, widths[1:], strict=False)]
    return nn.Sequential(*layers)


def batch(rank: int, step: int, *, size: int = 16, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Give inputs and targets that a network can learn; every rank has its own."""
    generator = torch.Generator().manual_seed(1000 * step + rank)
    inputs = torch.randn(size, FEATURES, generator=generator)
    teacher = torch.linspace(-1, 1, FEATURES * TARGETS).reshape(FEATURES, TARGETS).sin()
    return inputs.to(dtype), torch.tanh(inputs @ teacher / 4).to(dtype)


class Training:
    """A model, its hook and its optimizer on one rank."""

    def __init__(
        self,
        rank: int,
        *,
        network: Any = mlp,
        exchange: str | None = "two_phase",
        bucket_cap_mb: float = MANY_BUCKETS_MB,
        momentum: float = 0.9,
        lr: float = 0.05,
        ddp: dict[str, Any] | None = None,
        register: dict[str, Any] | None = None,
    ) -> None:
        self.rank = rank
        self.net = network() if not isinstance(network, nn.Module) else network
        self.model = DistributedDataParallel(self.net, bucket_cap_mb=bucket_cap_mb, **(ddp or {}))
        if exchange is not None:
            options = {"exchange": exchange, "timeout_s": 60.0} | (register or {})
            if exchange == "hierarchical":
                options = {"nodes": [other % 2 for other in range(dist.get_world_size())]} | options
            self.hook = trafficzip.ddp.register(self.model, **options)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(trained, lr=lr, momentum=momentum)
        self.first_loss = self.test_loss()

    def loss(self, step: int, *, forward: Any = None) -> torch.Tensor:
        dtype = next(self.net.parameters()).dtype
        inputs, targets = batch(self.rank, step, dtype=dtype)
        return ((self.model if forward is None else forward)(inputs).float() - targets.float()).square().mean()

    def test_loss(self) -> float:
        """Give the loss on data that the network is not trained on, equal on every rank."""
        inputs, targets = batch(0, 10**6, size=512, dtype=next(self.net.parameters()).dtype)
        with torch.no_grad():
            return float((self.net(inputs).float() - targets.float()).square().mean())

    def step(self, step: int) -> float:
        self.optimizer.zero_grad()
        loss = self.loss(step)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def steps(self, begin: int, end: int) -> list[float]:
        return [self.step(k) for k in range(begin, end)]

    def digest(self) -> str:
        return digest(self.net.parameters())

    def residuals(self) -> str:
        exchange = self.hook.exchange
        return digest([torch.from_numpy(exchange.worker.residual), torch.from_numpy(exchange.owner.residual)])


def digest(tensors: Any) -> str:
    """Give a text that two lists of tensors share only if every bit is equal."""
    sha = hashlib.sha256()
    for tensor in tensors:
        data = tensor.detach().contiguous().reshape(-1).view(torch.uint8) if tensor.numel() else torch.zeros(0)
        sha.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
        sha.update(data.numpy().tobytes())
    return sha.hexdigest()


def all_equal(values: Any) -> bool:
    """Say whether all values are equal, and that there are some."""
    found = list(values)
    return bool(found) and all(value == found[0] for value in found)
