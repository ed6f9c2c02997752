"""The accuracy budget: never overspent, and nearly used up."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trafficzip.checkpoint.accuracy import allocate_for_accuracy, widest
from trafficzip.checkpoint.reader import CheckpointFile
from trafficzip.checkpoint.recipe import RECIPES
from trafficzip.checkpoint.save import save
from trafficzip.checkpoint.sources import MemorySource
from trafficzip.errors import ConfigError


@given(limit=st.integers(-300, 300))
def test_the_widest_step_that_holds_is_found(limit):
    tried = []
    found = widest(lambda at: tried.append(at) or at <= limit)
    assert limit - 2 < found <= limit
    assert len(tried) < 30


def test_where_nothing_holds_is_an_error():
    with pytest.raises(ConfigError, match="more is lost even"):
        widest(lambda at: False)
    assert widest(lambda at: True) > 300


@pytest.mark.parametrize("grams", [None, {"w": np.eye(100)}])
@pytest.mark.parametrize("budget", [0.02, 0.3])
def test_the_budget_is_kept_and_used(budget, grams):
    rng = np.random.default_rng(0)
    tensors = {"w": rng.standard_normal((200, 100)).astype(np.float32), "b": np.ones(100, np.float32)}

    def evaluate(found):
        return 1 - np.linalg.norm(found["w"] - tensors["w"]) / np.linalg.norm(tensors["w"])

    told = []
    allocation = allocate_for_accuracy(
        MemorySource(tensors),
        RECIPES["small"],
        evaluate,
        budget,
        grams=grams,
        told=lambda bits, drop: told.append((bits, drop)),
    )
    sink = io.BytesIO()
    saved = save(tensors, sink, RECIPES["small"], allocation=allocation, grams=grams)
    lost = 1 - evaluate(CheckpointFile(sink.getvalue()).read_many())
    assert 0.8 * budget < lost <= budget
    assert any(abs(bits - saved.bits_per_element) < 1e-9 and drop == pytest.approx(lost) for bits, drop in told)


@pytest.mark.parametrize(
    ("recipe", "evaluate", "budget", "message"),
    [
        ("small", lambda t: 1.0, -1.0, "max_drop is -1.0"),
        ("small", lambda t: float("nan"), 1.0, "evaluate gave NaN"),
        ("small", lambda t: "good", 1.0, "evaluate gave 'good'"),
        ("lossless", lambda t: 1.0, 1.0, "quantizes nothing"),
    ],
)
def test_wrong_arguments_are_refused(recipe, evaluate, budget, message):
    source = MemorySource({"w": np.ones((8, 8), np.float32)})
    with pytest.raises(ConfigError, match=message):
        allocate_for_accuracy(source, RECIPES[recipe], evaluate, budget)
