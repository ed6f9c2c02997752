"""Layers over a dictionary of tensors, which can record the second moments of what goes into them."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


class Network:
    """The tensors of a model, with its linear and 3 x 3 convolution layers by name.

    grams: where record is set, float32 [in, in] per weight: X^T X summed over all inputs X so far.
    """

    def __init__(self, tensors: Mapping[str, np.ndarray], *, record: bool = False) -> None:
        self.tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in tensors.items()}
        self.record = record
        self.grams: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def linear(self, name: str, x: Tensor) -> Tensor:
        """Apply <name>.weight [out, in], and <name>.bias where there is one, to x [..., in]."""
        if self.record:
            self.add_gram(f"{name}.weight", x)
        return functional.linear(x, self[f"{name}.weight"], self.tensors.get(f"{name}.bias"))

    def convolve(self, name: str, x: Tensor, *, stride: int = 1) -> Tensor:
        """Apply <name>.weight [out, in, 3, 3] and <name>.bias to x [n, in, h, w], padded by 1.

        It is recorded as [out, in * 9].
        """
        if self.record:
            self.add_gram(f"{name}.weight", functional.unfold(x, 3, padding=1, stride=stride).transpose(1, 2))
        return functional.conv2d(x, self[f"{name}.weight"], self[f"{name}.bias"], stride=stride, padding=1)

    def add_gram(self, weight: str, x: Tensor) -> None:
        """Add X^T X of x [..., in] to what is recorded for a weight."""
        rows = x.reshape(-1, x.shape[-1])
        gram = rows.T @ rows
        self.grams[weight] = self.grams[weight] + gram if weight in self.grams else gram
