"""ResNets of 20, 32 and 56 layers for CIFAR-10 (He, Zhang, Ren, Sun 2015, section 4.2, shortcut A)."""

import lzma
from collections.abc import Mapping
from functools import cache
from itertools import count

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.checkpoint.models import data_folder
from benchmarks.checkpoint.network import Network

_BATCH = 125
_CALIBRATION_IMAGES = 128
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


def accuracy(tensors: Mapping[str, np.ndarray], *, num_images: int = 10_000) -> float:
    """Give the share of the first test images whose class is found, in percent."""
    images, labels = _images("test")[:num_images], _labels()[:num_images]
    network = Network(_fold(tensors))
    correct = sum(
        int((_logits(network, batch).argmax(1) == label).sum())
        for batch, label in zip(images.split(_BATCH), labels.split(_BATCH), strict=True)
    )
    return 100 * correct / len(labels)


def calibration_inputs(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Give X^T X, float32 [in, in], of what goes into each layer for training images.

    A convolution's weight [out, in, 3, 3] counts as [out, in * 9].
    """
    network = Network(_fold(tensors), record=True)
    for batch in _images("train_1")[:_CALIBRATION_IMAGES].split(32):
        _logits(network, batch)
    return {name: gram.numpy() for name, gram in network.grams.items()}


def _fold(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Put each normalisation, with its running statistics, into the convolution before it."""
    folded = {name: value for name, value in tensors.items() if name.startswith("linear.")}
    for name in (name for name in tensors if "conv" in name):
        norm = name.removesuffix(".weight").replace("conv", "bn")
        gain = tensors[f"{norm}.weight"] / np.sqrt(tensors[f"{norm}.running_var"] + np.float32(1e-5))
        folded[name] = tensors[name] * gain[:, None, None, None]
        folded[name.replace("weight", "bias")] = tensors[f"{norm}.bias"] - tensors[f"{norm}.running_mean"] * gain
    return folded


@torch.inference_mode()
def _logits(network: Network, images: Tensor) -> Tensor:
    """Give logits, float32 [n, 10], of a folded network for images, uint8 [n, 3, 32, 32]."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (_MEAN, _STD))
    x = ((images.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)
    x = network.convolve("conv1", x).relu_()
    for layer in ("layer1", "layer2", "layer3"):
        for block in count():
            if f"{layer}.{block}.conv1.weight" not in network.tensors:
                break
            x = _block(network, f"{layer}.{block}", x)
    return network.linear("linear", x.mean((2, 3)))


def _block(network: Network, at: str, x: Tensor) -> Tensor:
    channels, in_channels = network[f"{at}.conv1.weight"].shape[:2]
    stride = channels // in_channels  # where the channels double, the image halves
    y = network.convolve(f"{at}.conv2", network.convolve(f"{at}.conv1", x, stride=stride).relu_())
    half = (channels - in_channels) // 2
    return y.add_(functional.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, half, half))).relu_()


@cache
def _images(part: str) -> Tensor:
    """Give uint8 [10000, 3, 32, 32] from planes R-G, G, B-G, differenced along x and y modulo 256."""
    with lzma.open(data_folder() / f"cifar10_{part}.npy.xz") as file:
        planes = np.load(file, allow_pickle=False)
    planes = planes.cumsum(2, dtype=np.uint8).cumsum(3, dtype=np.uint8)
    planes[0] += planes[1]
    planes[2] += planes[1]
    return torch.from_numpy(np.ascontiguousarray(planes.transpose(1, 0, 2, 3)))


@cache
def _labels() -> Tensor:
    return torch.from_numpy(np.load(data_folder() / "cifar10_labels.npz")["test"].astype(np.int64))
