"""The example runs as it says, in a folder of its own."""

import shutil
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits_budget.py"


def test_digits_within_a_budget(tmp_path):
    shutil.copy(EXAMPLE, tmp_path)
    run = {"cwd": tmp_path, "check": True, "capture_output": True, "text": True}
    subprocess.run([sys.executable, "digits_budget.py"], **run)
    options = ["--calibrate", "digits_budget:grams", "--evaluate", "digits_budget:accuracy", "--max-drop", "0.005"]
    command = [sys.executable, "-m", "trafficzip.cli", "compress", "digits.safetensors", "-o", "digits.tzip", *options]
    done = subprocess.run(command, **run)
    assert "bits per element" in done.stdout
    assert "lost" in done.stderr
    assert (tmp_path / "digits.safetensors").stat().st_size > 15 * (tmp_path / "digits.tzip").stat().st_size
