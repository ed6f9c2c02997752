"""Run a worker in another environment on a model."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from safetensors.numpy import load_file, save_file

from benchmarks.checkpoint.outcome import Outcome

_HERE = Path(__file__).parent


def run_worker(worker: str, python: str | Path, tensors: Mapping[str, np.ndarray], *arguments: object) -> Outcome:
    """Run a worker of this folder: it reads tensors, writes decoded ones, and prints bytes and seconds as JSON."""
    with TemporaryDirectory() as folder:
        source, target = Path(folder, "in.safetensors"), Path(folder, "out.safetensors")
        save_file(dict(tensors), source)
        # -P: modules of this folder have the names of packages
        command = [python, "-P", _HERE / worker, source, target, *arguments]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, cwd=folder)
        if done.returncode:
            raise RuntimeError(f"{worker} failed with {done.returncode}: {done.stderr[-2000:]}")
        decoded = load_file(target)
    missing = tensors.keys() - decoded.keys()
    if missing:
        raise RuntimeError(f"{worker} gave back no {', '.join(sorted(missing))}")
    decoded = {name: decoded[name].reshape(value.shape) for name, value in tensors.items()}
    return Outcome(decoded=decoded, **json.loads(done.stdout.splitlines()[-1]))


def environment_python(name: str) -> Path:
    """Give the Python of TRAFFICZIP_<NAME>_PYTHON, or of ~/.cache/trafficzip/<name>."""
    path = Path(os.environ.get(f"TRAFFICZIP_{name.upper()}_PYTHON", f"~/.cache/trafficzip/{name}/bin/python"))
    path = path.expanduser()
    if not path.exists():
        raise FileNotFoundError(f"no {path}: sh benchmarks/checkpoint/{name}_env.sh ~/.cache/trafficzip/{name}")
    return path
