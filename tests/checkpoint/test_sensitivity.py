"""Weights of errors: less for large tensors, less where inputs meet large weights, and the same for any order."""

import numpy as np
import pytest

from trafficzip.checkpoint.sensitivity import root_mean_square, sensitivities
from trafficzip.checkpoint.sources import MemorySource


def weights(tensors, grams=None):
    source = MemorySource(tensors)
    return sensitivities(source, source.infos, grams)


def normal(*shape, scale=1.0):
    return (np.random.default_rng(0).standard_normal(shape) * scale).astype(np.float32)


def test_weights_fall_with_size_and_scale():
    found = weights({"small": normal(20, 30), "large": normal(200, 30), "loud": normal(20, 30, scale=4)})
    assert found["small"] / found["large"] == pytest.approx(10, rel=0.05)
    assert found["small"] / found["loud"] == pytest.approx(4, rel=0.01)
    mean = (600 * found["small"] + 6000 * found["large"] + 600 * found["loud"]) / 7200
    assert mean == pytest.approx(1)


def test_stacked_matrices_count_one_by_one():
    found = weights({"stack": np.stack([normal(20, 30)] * 5), "one": normal(20, 30)})
    assert found["stack"] == pytest.approx(found["one"])


def test_weights_have_limits_and_zeros_are_no_trouble():
    found = weights(
        {
            "tiny": normal(2, 2, scale=1e-9),
            "large": normal(300, 300),
            "zeros": np.zeros((4, 4)),
            "none": np.zeros((0, 2)),
        }
    )
    assert all(2**-10 <= weight <= 2**10 for weight in found.values())
    assert root_mean_square(np.zeros(3)) > 0


def test_inputs_that_meet_large_weights_make_errors_count_less():
    weight = normal(20, 30)
    _, _, directions = np.linalg.svd(weight)
    along, across = (np.outer(directions[i], directions[i]) for i in (0, -1))
    tensors = {"w": weight, "other": normal(20, 30)}
    even = weights(tensors, {"w": np.eye(30)})
    assert even["w"] == pytest.approx(even["other"])
    assert weights(tensors, {"w": along})["w"] < 0.8 * even["w"]
    assert weights(tensors, {"w": across})["w"] > 1.2 * even["w"]
