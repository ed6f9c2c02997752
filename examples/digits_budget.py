"""Compress a classifier by what it may lose: calibration and an evaluation that the command line calls.

    cd examples && python digits_budget.py                     # trains a network on scikit-learn's digits
    trafficzip compress digits.safetensors -o digits.tzip \\
        --calibrate digits_budget:grams --evaluate digits_budget:accuracy --max-drop 0.005

`grams` gives the Gram matrices of the layers' inputs on training images, `accuracy` the share of test images that are
classified correctly with the tensors it is given.
"""

from collections.abc import Mapping
from functools import cache

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import nn

import trafficzip

TEST_IMAGES = 500
WEIGHTS = "digits.safetensors"


@cache
def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Give all images, float32 [1797, 64], and their digits, in a fixed shuffled order."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    return torch.from_numpy(digits.data[order] / 16).float(), torch.from_numpy(digits.target[order]).long()


def network() -> nn.Sequential:
    """Make the network, untrained."""
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


def accuracy(tensors: Mapping[str, np.ndarray]) -> float:
    """Give the share of test images that these weights classify correctly."""
    model = network()
    model.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in tensors.items()})
    images, digits = data()
    with torch.no_grad():
        found = model(images[:TEST_IMAGES]).argmax(1)
    return float((found == digits[:TEST_IMAGES]).float().mean())


def grams(path: str = WEIGHTS) -> dict[str, np.ndarray]:
    """Give the Gram matrix of each layer's inputs on the training images."""
    model = network()
    model.load_state_dict(load_file(path))
    return trafficzip.collect_grams(model, data()[0][TEST_IMAGES:].split(256))


def train(path: str, steps: int = 400) -> None:
    """Train the network and save it as safetensors."""
    torch.manual_seed(0)
    model, (images, digits) = network(), data()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(steps):
        chosen = torch.randint(TEST_IMAGES, len(images), (128,))
        loss = nn.functional.cross_entropy(model(images[chosen]), digits[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_file(model.state_dict(), path)


if __name__ == "__main__":
    train(WEIGHTS)
