"""What launchers of Triton kernels share: where kernels run, and how tables get there."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import wraps
from typing import Any, TypeVar

import numpy as np
import torch
import triton
from numpy.typing import NDArray

INTERPRETED = bool(triton.knobs.runtime.interpret)  # Triton's interpreter runs kernels on CPU tensors, for tests


def can_launch(device: torch.device) -> bool:
    """Say whether kernels run on tensors of this device; on the CPU they do where they are interpreted."""
    return device.type == "cuda" or bool(triton.knobs.runtime.interpret)


Method = TypeVar("Method", bound=Callable[..., Any])


def on_its_device(method: Method) -> Method:
    """Make a method launch its kernels on the device that its object has in `device`, whichever is the current one."""

    @wraps(method)
    def launch(self: Any, *args: Any, **kwargs: Any) -> Any:
        with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
            return method(self, *args, **kwargs)

    return launch  # type: ignore[return-value]


def on_device(table: NDArray[Any] | Sequence[int], device: torch.device, *, wait: bool = True) -> torch.Tensor:
    """Copy a table that the host made to the device.

    wait: until it is there, so that any stream may read it; otherwise only the current stream may.
    """
    host = torch.from_numpy(np.array(table))
    if device.type != "cuda":
        return host
    return host.to(device) if wait else host.pin_memory().to(device, non_blocking=True)
