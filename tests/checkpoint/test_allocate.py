"""The search of a step: few trials, on the side that was asked for, whatever form the gap has."""

import random

import numpy as np
import pytest

from trafficzip.checkpoint.allocate import find_step
from trafficzip.checkpoint.trellis.scales import MAX_STEP_INDEX, MIN_STEP_INDEX


@pytest.mark.parametrize("slope", [0.1, 0.25, 1, 4])
@pytest.mark.parametrize("zero", [-700.3, -1.5, 40.2, 2000.7])
def test_a_straight_gap_is_solved_in_few_trials(slope, zero):
    def gap(at):
        trials.append(at)
        return slope * (zero - at) / 32

    for prefer, expected in (("narrow", np.floor(zero)), ("wide", np.ceil(zero))):
        trials = []
        assert find_step(gap, 0, prefer=prefer) == expected
        assert len(trials) <= 8
    assert abs(gap(find_step(gap, 0, prefer="near"))) <= max(0.01, slope / 32)


GAPS = {
    "bent": lambda at: 2 ** (4 - at / 32) - 0.04,
    "noisy": lambda at: 3 - at / 32 + random.Random(at).uniform(-0.4, 0.4),
    "stairs": lambda at: 3.3 - at // 64,
    "cliff": lambda at: 2.0 if at < 77 else -2.0,
}


@pytest.mark.parametrize("name", GAPS)
def test_a_gap_of_another_form_is_kept_on_its_side(name):
    gap = GAPS[name]
    narrow, wide = find_step(gap, 0, prefer="narrow"), find_step(gap, 0, prefer="wide")
    assert gap(narrow) >= 0 >= gap(wide)
    assert abs(wide - narrow) <= 8


@pytest.mark.parametrize("value", [3.0, 0.02, -3.0])
def test_a_flat_gap_ends_somewhere(value):
    trials = []
    for count, prefer in enumerate(("narrow", "wide", "near"), 1):
        found = find_step(lambda at: trials.append(at) or value, 5, prefer=prefer)
        assert found in trials
        assert len(trials) <= 12 * count
    assert find_step(lambda at: 0.0, 10**9, prefer="near") == MAX_STEP_INDEX
    assert find_step(lambda at: 0.0, -(10**9), prefer="near") == MIN_STEP_INDEX
