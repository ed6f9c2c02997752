"""What the tests of FSDP2 train: a small network of blocks whose parameters divide unevenly, on random data."""

import hashlib

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

import trafficzip.fsdp

FEATURES = 37
HIDDEN = 70
TARGETS = 3  # fewer rows than 4 ranks


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(FEATURES, HIDDEN)
        self.norm = nn.LayerNorm(HIDDEN)
        self.down = nn.Linear(HIDDEN, FEATURES)

    def forward(self, x):
        return x + self.down(torch.relu(self.norm(self.up(x))))


class Net(nn.Module):
    def __init__(self, *, spare=False):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(FEATURES, TARGETS)
        self.spare = nn.Linear(5, 5) if spare else None

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x * self.scale)


def build(*, mesh=None, seed=0, spare=False, reduce_dtype=None, reshard=True, placement=None):
    """Give the sharded network: a root with parameters of its own, and a module per block."""
    torch.manual_seed(seed)
    net = Net(spare=spare)
    mesh = mesh or init_device_mesh("cpu", (dist.get_world_size(),))
    options = {
        "mesh": mesh,
        "reshard_after_forward": reshard,
        "mp_policy": MixedPrecisionPolicy(reduce_dtype=reduce_dtype),
        "shard_placement_fn": placement,
    }
    for block in net.blocks:
        fully_shard(block, **options)
    return fully_shard(net, **options)


def batch(rank, step, *, size=8):
    generator = torch.Generator().manual_seed(1000 * step + rank)
    inputs = torch.randn(size, FEATURES, generator=generator)
    return inputs, inputs[:, :TARGETS].argmax(1)


class Training:
    """A network, its optimizer and its handle (None where gradients are dense)."""

    def __init__(self, rank, *, dense=False, lr=0.1, register=None, **options):
        self.rank = rank
        self.net = build(**options)
        self.handle = None if dense else trafficzip.fsdp.register(self.net, **(register or {}))
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=lr, momentum=0.9)

    def backward(self, step, *, micro_batches=1):
        self.optimizer.zero_grad()
        for k in range(micro_batches):
            self.net.set_requires_gradient_sync(k == micro_batches - 1)
            self.net.set_is_last_backward(k == micro_batches - 1)
            inputs, targets = batch(self.rank, step * micro_batches + k)
            loss = nn.functional.cross_entropy(self.net(inputs), targets) / micro_batches
            loss.backward()
        return float(loss.detach())

    def steps(self, first, last, **options):
        losses = []
        for step in range(first, last):
            losses.append(self.backward(step, **options))
            self.optimizer.step()
        return losses

    def gradients(self):
        """Give whole gradients by name, as this rank sees them; None where there is none."""
        return {
            name: None if p.grad is None else p.grad.full_tensor().clone() for name, p in self.net.named_parameters()
        }

    def digest(self):
        """Give a fingerprint of the whole model, gathered here."""
        return digest([p.full_tensor() for p in self.net.parameters()])

    def residuals(self):
        return self.handle.exchange.worker.residual.copy()


def digest(tensors):
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().contiguous().float().numpy().tobytes())
    return found.hexdigest()
