"""Image data sets as tensors: scikit-learn's digits, and CIFAR-10 from arrays in a folder."""

import lzma
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trafficzip.errors import ConfigError

_PLAIN = ("train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy")
_PACKED = (*(f"cifar10_train_{i}.npy.xz" for i in range(1, 6)), "cifar10_test.npy.xz", "cifar10_labels.npz")
_EXPECTED = (
    f"either {', '.join(_PLAIN)} (images uint8 [n, 3, 32, 32] or [n, 32, 32, 3]; labels in 0..9, [n]), "
    "or cifar10_train_1.npy.xz ... cifar10_train_5.npy.xz, cifar10_test.npy.xz and cifar10_labels.npz"
)
_TEST_DIGITS = 360  # a fifth of the 1797


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Images as bytes, and how they become the network's input.

    train_images, test_images: uint8 [n, channels, height, width].  train_labels, test_labels: int64 [n], in 0..9.
    mean, std: float32 [channels], in bytes.  augment: training images may be shifted and mirrored.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    mean: Tensor
    std: Tensor
    augment: bool

    def normalize(self, images: Tensor) -> Tensor:
        """Give float32 images with mean 0 and deviation 1."""
        return (images.float() - self.mean[:, None, None]) / self.std[:, None, None]


def load_digits() -> Dataset:
    """Load scikit-learn's 1797 handwritten digits of 8 x 8 pixels; the same 360 are always held out for the test."""
    from sklearn.datasets import load_digits as load

    digits = load()
    images = torch.from_numpy(digits.images.astype(np.uint8))[:, None]
    labels = torch.from_numpy(digits.target.astype(np.int64))
    order = torch.from_numpy(np.random.RandomState(0).permutation(len(labels)))  # RandomState's stream never changes
    train, test = order[_TEST_DIGITS:], order[:_TEST_DIGITS]
    return _dataset((images[train], labels[train]), (images[test], labels[test]), augment=False)


def load_cifar10(folder: str | Path) -> Dataset:
    """Load CIFAR-10 from plain arrays, or from xz files of differenced colour planes.

    Raises:
        ConfigError: the folder, a file or an array is missing or not as expected; the message says what was.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(f"--path {folder} is not a folder; it should hold {_EXPECTED}")
    present = {path.name for path in folder.iterdir()}
    if present.issuperset(_PLAIN):
        train, test = (_load_plain(folder, part) for part in ("train", "test"))
    elif present.issuperset(_PACKED):
        labels = _read(folder / "cifar10_labels.npz")
        train = np.concatenate([_load_planes(folder / name) for name in _PACKED[:5]]), labels["train"]
        test = _load_planes(folder / _PACKED[5]), labels["test"]
    else:
        found = [[name for name in names if name not in present] for names in (_PLAIN, _PACKED)]
        closest = min(found, key=len)
        raise ConfigError(f"{folder} lacks {', '.join(closest)}; expected {_EXPECTED}")
    return _dataset(_check(folder, "train", *train), _check(folder, "test", *test), augment=True)


def crop_and_flip(images: Tensor, generator: torch.Generator, *, padding: int = 4) -> Tensor:
    """Shift each image by up to `padding` pixels each way, filling with 0, and mirror half of them.

    images: [n, channels, height, width], any dtype.  Returns: the same.
    Source: He, Zhang, Ren, Sun 2015, section 4.2.
    """
    n, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, [padding] * 4)
    down, right = torch.randint(0, 2 * padding + 1, (2, n, 1), generator=generator)
    mirrored = torch.rand((n, 1), generator=generator) < 0.5
    columns = torch.where(mirrored, width - 1 - torch.arange(width), torch.arange(width)) + right
    rows = torch.arange(height) + down
    return padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _load_plain(folder: Path, part: str) -> tuple[NDArray[Any], NDArray[Any]]:
    images = _read(folder / f"{part}_images.npy")
    if images.ndim == 4 and images.shape[3] == 3:
        images = images.transpose(0, 3, 1, 2)
    return images, _read(folder / f"{part}_labels.npy")


def _load_planes(path: Path) -> NDArray[np.uint8]:
    """Undo the differences along x and y, then those of red and blue from green; all modulo 256."""
    planes = _read(path)
    if planes.dtype != np.uint8 or planes.ndim != 4 or planes.shape[0] != 3:
        raise ConfigError(f"{path} holds {planes.dtype} {list(planes.shape)}, expected uint8 [3, n, 32, 32]")
    planes = planes.cumsum(2, dtype=np.uint8).cumsum(3, dtype=np.uint8)
    planes[0] += planes[1]
    planes[2] += planes[1]
    return np.ascontiguousarray(planes.transpose(1, 0, 2, 3))


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".xz":
            with lzma.open(path) as file:
                return np.load(file, allow_pickle=False)
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, lzma.LZMAError) as error:
        raise ConfigError(f"cannot read {path}: {error}; expected {_EXPECTED}") from error


def _check(folder: Path, part: str, images: NDArray[Any], labels: NDArray[Any]) -> tuple[Tensor, Tensor]:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (3, 32, 32) or len(images) == 0:
        raise ConfigError(
            f"{part} images in {folder} are {images.dtype} {list(images.shape)}, expected uint8 [n, 3, 32, 32]"
        )
    if labels.shape != (len(images),) or labels.min() < 0 or labels.max() > 9:
        raise ConfigError(
            f"{part} labels in {folder} have shape {list(labels.shape)}, expected {len(images)} numbers in 0..9"
        )
    return torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels.astype(np.int64))


def _dataset(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], *, augment: bool) -> Dataset:
    pixels = train[0][:5000].float()  # plenty for two numbers a channel
    return Dataset(*train, *test, mean=pixels.mean((0, 2, 3)), std=pixels.std((0, 2, 3)), augment=augment)
