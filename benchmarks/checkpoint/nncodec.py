"""NNCodec (ISO/IEC 15938-17), run in an environment of its own that nncodec_env.sh makes."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from safetensors.numpy import load_file, save_file

from benchmarks.checkpoint.outcome import Outcome

WORKER = Path(__file__).with_name("nncodec_worker.py")


def nncodec(
    tensors: Mapping[str, np.ndarray], *, qp: int, lambda_scale: float = 0, python: str | Path | None = None
) -> Outcome:
    """Encode and decode float32 tensors with NNCodec's default settings at one qp; smaller is finer.

    lambda_scale: above 0 chooses levels by rate and distortion (RDOQ), which only NNCodec's lower interface offers.
    """
    with TemporaryDirectory() as folder:
        source, target = Path(folder, "in.safetensors"), Path(folder, "out.safetensors")
        save_file(dict(tensors), source)
        # -P: NNCodec's package has the name of this module, which lies beside the worker
        command = [python or default_python(), "-P", WORKER, source, target, qp, lambda_scale]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, cwd=folder)
        if done.returncode:
            raise RuntimeError(f"NNCodec failed with {done.returncode}: {done.stderr[-2000:]}")
        decoded = load_file(target)
    missing = tensors.keys() - decoded.keys()
    if missing:
        raise RuntimeError(f"NNCodec gave back no {', '.join(sorted(missing))}")
    decoded = {name: decoded[name].reshape(value.shape) for name, value in tensors.items()}
    return Outcome(decoded=decoded, **json.loads(done.stdout.splitlines()[-1]))


def default_python() -> Path:
    """Give TRAFFICZIP_NNCODEC_PYTHON, or the Python of ~/.cache/trafficzip/nncodec."""
    path = Path(os.environ.get("TRAFFICZIP_NNCODEC_PYTHON", "~/.cache/trafficzip/nncodec/bin/python")).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"no {path}: sh benchmarks/checkpoint/nncodec_env.sh ~/.cache/trafficzip/nncodec")
    return path
