"""Mutated files: errors of the library only, no large allocation, nothing changed in silence."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.checkpoint.hostile import mutate_files

ROOT = Path(__file__).parents[2]


def test_mutated_files_are_refused_or_sound():
    found = mutate_files(600, seed=1)
    assert found["files"] == 600
    assert found["crashes"] == found["silent"] == found["hangs"] == 0
    assert found["allocation"] <= 1


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_fuzzing_finds_nothing(tmp_path):
    pytest.importorskip("atheris")
    command = [sys.executable, "-m", "tests.checkpoint.fuzz_reader", tmp_path / "corpus", "-max_total_time=120"]
    done = subprocess.run(
        [*map(str, command), "-max_len=8192", "-timeout=5", "-rss_limit_mb=2000", f"-artifact_prefix={tmp_path}/"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done " in done.stderr
