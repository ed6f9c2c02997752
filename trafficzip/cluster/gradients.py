"""Gradients of a real training, recorded once, and a model that hands them to DDP without computing."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trafficzip.cluster.jobs import Task
from trafficzip.demo.data import Dataset, crop_and_flip, load_cifar10, load_digits
from trafficzip.demo.networks import ResNet20

_WARM_STEPS = 15
_KEPT = 4
_LARGE_ELEMENTS = 10_000_000
_ELEMENTS_PER_SQUARED_WIDTH = 1053.6  # of ResNet-20: parameters / width^2


def make_network(task: Task) -> ResNet20:
    """Give a task's network, its weights drawn from torch's generator."""
    return ResNet20(width=task.width, in_channels=1 if task.data == "digits" else 3, patch=task.patch)


def load_data(task: Task) -> Dataset:
    """Load a task's images; those loaded last are kept, for the next job."""
    return _load(task.data, task.path)


@lru_cache(maxsize=1)
def _load(data: str, path: str | None) -> Dataset:
    return load_digits() if data == "digits" else load_cifar10(path or "")


def width_for(megabytes: float) -> int:
    """Give the even width at which ResNet-20 has closest to this many 10^6 bytes of float32 gradient."""
    return max(2, 2 * round(math.sqrt(megabytes * 1e6 / 4 / _ELEMENTS_PER_SQUARED_WIDTH) / 2))


def record(task: Task, dataset: Dataset, *, rank: int) -> list[list[Tensor]]:
    """Train alone for some steps, and give the gradients of the next ones, one list of tensors for each step.

    Every rank begins with the same weights and sees other images.
    """
    torch.manual_seed(0)
    network = make_network(task)
    large = sum(p.numel() for p in network.parameters()) > _LARGE_ELEMENTS
    generator = torch.Generator().manual_seed(1 + rank)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9)
    kept = []
    alone, kept_steps = (_WARM_STEPS // 5, _KEPT // 2) if large else (_WARM_STEPS, _KEPT)
    for step in range(alone + kept_steps):
        chosen = torch.randint(0, len(dataset.train_labels), (8 if large else task.batch,), generator=generator)
        images = dataset.train_images[chosen]
        images = dataset.normalize(crop_and_flip(images, generator) if dataset.augment else images)
        optimizer.zero_grad()
        functional.cross_entropy(network(images), dataset.train_labels[chosen]).backward()  # type: ignore[no-untyped-call]
        if step >= alone:
            kept.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
        optimizer.step()
    return kept


class Replay(nn.Module):
    """A model whose gradients are those that it is called with."""

    def __init__(self, like: Sequence[Tensor], device: torch.device) -> None:
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.zeros_like(t, device=device)) for t in like])

    def forward(self, gradients: Sequence[Tensor]) -> Tensor:
        """Give a zero, whose backward pass puts `gradients` into the parameters.

        gradients: one tensor for each parameter, of its shape.
        """
        total: Tensor = sum(_Give.apply(w, g) for w, g in zip(self.weights, gradients, strict=True))  # type: ignore[no-untyped-call, assignment]
        return total


class _Give(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, weight: Tensor, gradient: Tensor) -> Tensor:
        context.gradient = gradient
        return weight.new_zeros(())

    @staticmethod
    def backward(context: Any, *outputs: Tensor) -> tuple[Tensor, None]:
        return context.gradient, None
