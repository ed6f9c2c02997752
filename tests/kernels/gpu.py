"""Where GPU kernels run in tests: on a CUDA device, or interpreted on CPU tensors where there is none (conftest.py)."""

import numpy as np
import pytest
import torch

DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")

pytest.importorskip("triton")


def on(array):
    """Give a tensor on DEVICE that shares nothing with the array."""
    return torch.from_numpy(np.array(array)).to(DEVICE)


def off(tensor):
    return tensor.cpu().numpy()
