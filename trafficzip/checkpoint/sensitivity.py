"""What an error in a tensor counts, found without data.

Where every layer's relative error adds about the same to the error of the output, a tensor of n elements and root mean
square s deserves a weight of 1 / (n s**2): every tensor, not every element, then has a like share of it. Residual
streams and normalisation make it less than relative; 1 / (n s) was best over Transformers and convolutional networks.
"""

from collections.abc import Sequence
from math import sqrt

import numpy as np

from trafficzip.checkpoint.tensors import Array, Source, TensorInfo
from trafficzip.checkpoint.trellis.scales import num_matrices

_WIDEST = 2.0**10  # ratio of weights to the mean one: steps differ by at most 2**5 either way
_BLOCK = 1 << 20


def sensitivities(source: Source, infos: Sequence[TensorInfo]) -> dict[str, float]:
    """Give a weight of squared errors per tensor; their mean over elements is about 1."""
    weights = {}
    for info in infos:
        elements = info.num_elements // max(num_matrices(info.shape), 1)
        weights[info.name] = 1 / (elements * root_mean_square(source.read(info.name))) if elements else 1.0
    finite = {name: weight for name, weight in weights.items() if weight < np.inf}
    total = sum(info.num_elements for info in infos if info.name in finite)
    mean = sum(finite[info.name] * info.num_elements for info in infos if info.name in finite) / max(total, 1)
    return {name: min(max(weight / (mean or 1), 1 / _WIDEST), _WIDEST) for name, weight in weights.items()}


def root_mean_square(array: Array) -> float:
    """Give the root mean square of values, summed in blocks in one order; at least a tiny number."""
    flat = array.reshape(-1)
    total = 0.0
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK].astype(np.float64)
        total += float(np.square(block).sum())
    return sqrt(total / max(flat.size, 1)) or 1e-30
