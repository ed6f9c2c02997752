"""What an error in a tensor counts, found without data, and better with the inputs of layers.

Where every layer's relative error adds about the same to the error of the output, a tensor of n elements and root mean
square s deserves a weight of 1 / (n s**2): every tensor, not every element, then has a like share of it. Residual
streams and normalisation make it less than relative; 1 / (n s) was best over Transformers and convolutional networks.
Inputs that lie where the weights of a layer are large make its output larger than its weights tell, and errors in them
count less; again the root of that ratio was better than all of it.
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficzip.checkpoint.tensors import Array, Source, TensorInfo
from trafficzip.checkpoint.trellis.scales import num_matrices

_WIDEST = 2.0**10  # ratio of weights to the mean one: steps differ by at most 2**5 either way
_BLOCK = 1 << 20


def sensitivities(
    source: Source, infos: Sequence[TensorInfo], grams: Mapping[str, NDArray[np.floating[Any]]] | None = None
) -> dict[str, float]:
    """Give a weight of squared errors per tensor; their mean over elements is about 1.

    grams: by name of a weight [out, in, ...], the Gram matrix [in, in] of its inputs, where it is known.
    """
    weights = {}
    for info in infos:
        elements = info.num_elements // max(num_matrices(info.shape), 1)
        array = source.read(info.name)
        weights[info.name] = 1 / (elements * root_mean_square(array)) if elements else 1.0
        if grams and info.name in grams:
            weights[info.name] *= sqrt(_spread_over_output(array, grams[info.name]))
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


def _spread_over_output(array: Array, gram: NDArray[np.floating[Any]]) -> float:
    """Give the energy of a layer's output if its inputs had no directions, over that of its output; 0.1 to 10."""
    weight = array.reshape(array.shape[0], -1).astype(np.float64)
    matrix = np.asarray(gram, np.float64)
    output = float(np.vdot(weight @ matrix, weight))
    even = float(np.trace(matrix)) / matrix.shape[0] * float(np.vdot(weight, weight))
    return min(max(even / output, 0.1), 10.0) if output > 0 and even > 0 else 1.0
