import lzma
from pathlib import Path

import numpy as np
import pytest
import torch

from trafficzip import ConfigError
from trafficzip.demo.data import crop_and_flip, load_cifar10, load_digits

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def plain_arrays(n=12, *, channels_last=False):
    images = np.random.default_rng(0).integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)
    images = images.transpose(0, 2, 3, 1) if channels_last else images
    return {
        "train_images": images,
        "train_labels": np.arange(n) % 10,
        "test_images": images[:5],
        "test_labels": np.arange(5, dtype=np.uint8),
    }


def save(folder, arrays):
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def test_digits_are_split_the_same_every_time():
    data, again = load_digits(), load_digits()
    assert data.train_images.shape == (1437, 1, 8, 8)
    assert data.test_images.shape == (360, 1, 8, 8)
    assert torch.equal(data.test_images, again.test_images)
    assert set(data.test_labels.tolist()) == set(range(10))
    assert data.normalize(data.train_images).mean().abs() < 1e-4


@pytest.mark.parametrize("channels_last", [False, True])
def test_plain_arrays_are_read(tmp_path, channels_last):
    save(tmp_path, plain_arrays(channels_last=channels_last))
    data = load_cifar10(tmp_path)
    assert torch.equal(data.train_images, torch.from_numpy(plain_arrays()["train_images"]))
    assert data.train_labels.dtype == torch.int64
    assert data.augment


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("test_images", np.zeros((5, 3, 28, 28), np.uint8), "test images"),
        ("train_images", np.zeros((12, 3, 32, 32), np.float32), "train images"),
        ("train_labels", np.zeros(11, np.uint8), "train labels"),
        ("test_labels", np.full(5, 10), "test labels"),
        ("test_labels", np.array([{}] * 5), "cannot read"),
    ],
)
def test_wrong_arrays_raise(tmp_path, name, array, message):
    save(tmp_path, plain_arrays() | {name: array})
    with pytest.raises(ConfigError, match=message):
        load_cifar10(tmp_path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match="is not a folder"):
        load_cifar10(tmp_path / "nowhere")
    save(tmp_path, {key: value for key, value in plain_arrays().items() if key != "test_labels"})
    with pytest.raises(ConfigError, match=r"lacks test_labels.npy; expected either"):
        load_cifar10(tmp_path)


def test_differenced_planes_are_restored(tmp_path):
    images = plain_arrays(n=4)["train_images"]
    planes = images.transpose(1, 0, 2, 3).copy()
    planes[0] -= planes[1]
    planes[2] -= planes[1]
    for axis in (3, 2):
        planes = np.diff(planes, axis=axis, prepend=np.uint8(0)).astype(np.uint8)
    for name in [*(f"train_{i}" for i in range(1, 6)), "test"]:
        with lzma.open(tmp_path / f"cifar10_{name}.npy.xz", "wb") as file:
            np.save(file, planes)
    labels = np.arange(20, dtype=np.uint8) % 10
    np.savez(tmp_path / "cifar10_labels.npz", train=labels, test=labels[:4])
    data = load_cifar10(tmp_path)
    assert torch.equal(data.train_images[8:12], torch.from_numpy(images))
    (tmp_path / "cifar10_test.npy.xz").write_bytes(b"no xz file")
    with pytest.raises(ConfigError, match=r"cannot read .*cifar10_test"):
        load_cifar10(tmp_path)


@pytest.mark.skipif(not (SHARED / "cifar10_test.npy.xz").exists(), reason=f"no CIFAR-10 in {SHARED}")
def test_cifar10_has_its_known_mean():
    from trafficzip.demo.data import _load_planes

    images = _load_planes(SHARED / "cifar10_test.npy.xz")
    assert images.shape == (10000, 3, 32, 32)
    # The test images' well-known channel means; the training images' are (0.4914, 0.4822, 0.4465).
    assert images.mean((0, 2, 3)) / 255 == pytest.approx([0.4942, 0.4851, 0.4504], abs=1e-3)


def test_crop_and_flip_keeps_the_middle():
    generator = torch.Generator().manual_seed(0)
    images = torch.arange(64 * 3 * 32 * 32).remainder(251).to(torch.uint8).reshape(64, 3, 32, 32)
    moved = crop_and_flip(images, generator)
    assert moved.shape == images.shape
    assert moved.dtype == torch.uint8
    for image, result in zip(images, moved, strict=True):
        padded = torch.nn.functional.pad(image, [4] * 4)
        windows = [padded[:, y : y + 32, x : x + 32] for y in range(9) for x in range(9)]
        assert any(torch.equal(result, w) or torch.equal(result, w.flip(2)) for w in windows)
