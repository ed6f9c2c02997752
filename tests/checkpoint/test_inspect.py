"""Reports and differences: sizes add up, and every way in which tensors can differ is told."""

import os

import numpy as np
import pytest

from tests.checkpoint.test_save import SMALL, Net, data_of
from trafficzip.checkpoint.inspect import differences, inspect
from trafficzip.checkpoint.reader import CheckpointFile
from trafficzip.checkpoint.save import save


def test_the_sizes_of_a_report_add_up_to_the_file(tmp_path):
    path = tmp_path / "m.tzip"
    saved = save(Net(), path, SMALL, metadata={"a": "b"})
    report = inspect(path)
    assert report.size == os.path.getsize(path) == saved.size
    assert (report.num_elements, report.original_bytes) == (saved.num_elements, saved.original_bytes)
    container = CheckpointFile(path)._container
    records = sum(container.record_bytes(number) for number in range(container.num_records))
    assert sum(tensor.size for tensor in report.tensors) == pytest.approx(records)
    assert 0 < report.size - records < 700  # header, index, prefix and trailer
    assert [tensor.name for tensor in report.tensors] == list(Net().state_dict())
    steps = {tensor.name: tensor.step for tensor in report.tensors if tensor.step is not None}
    assert set(steps) == {"embed.weight", "linear.weight"}
    assert report.to_dict()["ratio"] == report.original_bytes / report.size
    assert {t.coder for t in report.tensors} == {"trellis num_states=4", "cast mantissa_bits=9", "planes"}


def test_differences():
    first = {
        "same": np.arange(4.0), "far": np.array([3.0, 4.0]), "shape": np.zeros((2, 3)), "gone": np.zeros(2),
        "kind": np.zeros(2, np.int32), "nan": np.array([np.nan, 1.0, np.inf]), "inf": np.array([1.0, np.inf]),
        "phase": np.array([3.0 + 0j]), "zero": np.zeros(2), "minus": np.zeros(2), "mask": np.array([True, False]),
    }  # fmt: skip
    second = {
        "same": np.arange(4.0), "far": np.array([3.0, 4.5]), "shape": np.zeros((3, 2)), "new": np.zeros(2),
        "kind": np.zeros(2, np.float32), "nan": np.array([np.nan, 1.0, np.inf]), "inf": np.array([np.nan, np.inf]),
        "phase": np.array([4j]), "zero": np.ones(2), "minus": -np.zeros(2), "mask": np.array([True, True]),
    }  # fmt: skip
    found = {d.name: d for d in differences(data_of(first), second)}
    assert list(found) == [*first, "new"]
    inf = float("inf")
    numbers = {name: (d.equal, d.relative_error, d.largest) for name, d in found.items()}
    assert numbers == {
        "same": (True, 0, 0), "far": (False, 0.1, 0.5), "shape": (False, inf, inf), "gone": (False, inf, inf),
        "kind": (False, 0, 0), "nan": (True, 0, 0), "inf": (False, inf, inf), "phase": (False, 5 / 3, 5),
        "zero": (False, inf, 1), "minus": (False, 0, 0), "mask": (False, 1, 1), "new": (False, inf, inf),
    }  # fmt: skip
    problems = {name: d.problem for name, d in found.items() if d.problem}
    assert problems == {
        "shape": "shape [2, 3] against [3, 2]", "gone": "only in the first", "new": "only in the second"
    }  # fmt: skip
    assert found["nan"].squared_norm == 1
    assert (found["far"].squared_error, found["far"].squared_norm) == (0.25, 25)
    assert (found["kind"].squared_error, found["mask"].squared_error) == (0, 0)


def test_differences_of_real_and_complex_numbers():
    (found,) = differences({"x": np.array([3.0])}, {"x": np.array([3 + 4j])})
    assert found.largest == 4
