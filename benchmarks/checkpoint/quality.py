"""What a model is worth with given weights, and the inputs of its layers that calibrate a compressor."""

from collections.abc import Mapping

import numpy as np

from benchmarks.checkpoint import minilm, resnet, stories
from benchmarks.checkpoint.sentences import CALIBRATION_SENTENCES, TEST_SENTENCES

__all__ = ["CALIBRATION_SENTENCES", "TEST_SENTENCES", "calibration_inputs", "quality", "relative_l2"]


def quality(name: str, tensors: Mapping[str, np.ndarray]) -> float:
    """Judge one of MODELS with these weights, float32 and complete.

    minilm: mean cosine of the test sentences' embeddings to the original ones.  resnet*: percent of the 10,000 test
    images of CIFAR-10.  stories260k: nats a token, lower is better.
    """
    if name == "minilm":
        return minilm.mean_cosine(tensors)
    if name == "stories260k":
        return stories.cross_entropy(tensors)
    return resnet.accuracy(tensors)


def calibration_inputs(tensors: Mapping[str, np.ndarray], name: str = "minilm") -> dict[str, np.ndarray]:
    """Give X^T X of each linear weight's inputs on calibration data, which never judges.

    float32 [in, in] by the weight's name; for a convolution in = channels * 9, for stories260k [layers, in, in].
    """
    module = {"minilm": minilm, "stories260k": stories}.get(name, resnet)
    return module.calibration_inputs(tensors)


def relative_l2(original: Mapping[str, np.ndarray], decoded: Mapping[str, np.ndarray], *, min_dims: int = 2) -> float:
    """Give |decoded - original| / |original| over all tensors of at least min_dims dimensions, taken as one vector."""
    error = energy = 0.0
    for name, value in original.items():
        if value.ndim >= min_dims:
            exact = value.astype(np.float64)
            error += float(np.square(decoded[name] - exact).sum())
            energy += float(np.square(exact).sum())
    return float(np.sqrt(error / energy))
