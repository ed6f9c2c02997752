"""What all Triton kernels share: how they are launched, and small pieces of device code."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import triton
from numpy.typing import NDArray

INTERPRETED = bool(triton.knobs.runtime.interpret)  # Triton's interpreter runs kernels on CPU tensors, for tests


def on_device(table: NDArray[Any] | Sequence[int], device: torch.device) -> torch.Tensor:
    """Copy a table that the host made to the device, without waiting for it."""
    host = torch.from_numpy(np.array(table))
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host
