"""Frames written by every release so far are read, and written again byte for byte by the version that made them."""

from pathlib import Path

import numpy as np
import pytest

from trafficzip.kernels import Groups
from trafficzip.presets import PRESETS
from trafficzip.wire.frame import VERSION, unpack_frame

CASES = sorted((Path(__file__).parents[1] / "golden").glob("v*.npz"))


def test_there_are_cases_for_every_preset():
    assert {str(np.load(path)["preset"]) for path in CASES} == set(PRESETS)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_golden_frame(path):
    case = np.load(path)
    groups = Groups(case["sizes"].tolist())
    preset = PRESETS[str(case["preset"])]
    frame, end = unpack_frame(case["frame"])
    assert end == case["frame"].size
    assert preset.decompress(frame, groups).tobytes() == case["decoded"].tobytes()
    if path.stem.startswith(f"v{VERSION}_"):
        lost = np.zeros_like(case["values"])
        written = preset.compress(case["values"], groups, residual=case["residual"], out=lost)
        assert written.pack().tobytes() == case["frame"].tobytes()
        assert lost.tobytes() == case["lost"].tobytes()
