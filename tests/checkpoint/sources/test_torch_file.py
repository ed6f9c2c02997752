"""PyTorch files: tensors come back, nothing is executed, and what is no mapping of tensors is refused."""

import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from tests.checkpoint.sources.files import assert_same, contents, refused, torch_tensors
from trafficzip.checkpoint.sources import open_source


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt", ".model"])
def test_torch_files_of_every_dtype(tmp_path, suffix):
    arrays, tensors = torch_tensors()
    path = tmp_path / f"m{suffix}"
    torch.save(tensors, path)
    assert_same(contents(path), arrays)


def test_torch_views_tied_weights_and_parameters(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    state = OrderedDict(a=base, tied=base, column=base[:, 1], turned=base.t(), p=torch.nn.Parameter(base[1:]))
    torch.save(state, tmp_path / "m.pt")
    assert_same(contents(tmp_path / "m.pt"), {name: tensor.detach().numpy() for name, tensor in state.items()})


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
def test_the_weights_of_a_training_checkpoint(tmp_path, key):
    path = tmp_path / "m.ckpt"
    torch.save({"epoch": 3, key: {"w": torch.ones(2)}, "optimizer": {"lr": 0.1}}, path)
    assert_same(contents(path), {"w": np.ones(2, np.float32)})
    with open_source(path) as source:
        assert source.metadata == {"torch.left_out": "epoch, optimizer"}


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    trap = tmp_path / "trap"
    path = tmp_path / "m.pt"
    torch.save({"w": Evil(str(trap))}, path)
    refused(path, "cannot be read: .*io.open")
    assert not trap.exists()
    torch.load(path, weights_only=False)
    assert trap.exists()  # it would have


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(2)], "found a list, expected names and their tensors"),
        (torch.ones(2), "found a Tensor, expected names"),
        ({"w": 3}, "'w' is a builtins.int"),
        ({"w": {"v": torch.ones(2)}}, "'w' is a builtins.dict"),
        ({3: torch.ones(2)}, "the name of a tensor is 3, a int"),
        ({"model": {}, "state_dict": {}}, "found mappings under state_dict and model"),
        ({"w": torch.ones(2, 2).to_sparse()}, "'w' is a torch.sparse_coo tensor; expected a dense"),
        ({"w": torch.ones(2, device="meta")}, "'w' is on the meta device"),
        ({"w": torch.nn.Linear(2, 2)}, "cannot be read"),
    ],
)
def test_torch_files_of_something_else_are_refused(tmp_path, content, message):
    path = tmp_path / "m.pt"
    torch.save(content, path)
    refused(path, message)


def test_torch_files_that_are_damaged_or_old_are_refused(tmp_path):
    path = tmp_path / "m.pt"
    torch.save({"w": torch.arange(1000.0)}, path)
    data = path.read_bytes()
    for end in range(0, len(data), 61):
        path.write_bytes(data[:end])
        refused(path, "expected a file of torch.save of PyTorch 1.6 or later")
    torch.save({"w": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    refused(path, "no zip archive behind it")
    path.write_bytes(pickle.dumps({"w": 1}))
    refused(path, "no zip archive behind it")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
    refused(path, "member 'archive/data.pkl' is compressed")
