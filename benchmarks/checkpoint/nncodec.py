"""NNCodec (ISO/IEC 15938-17), run in an environment of its own that nncodec_env.sh makes."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.checkpoint.outcome import Outcome
from benchmarks.checkpoint.worker import environment_python, run_worker


def nncodec(
    tensors: Mapping[str, np.ndarray], *, qp: int, lambda_scale: float = 0, python: str | Path | None = None
) -> Outcome:
    """Encode and decode float32 tensors with NNCodec's default settings at one qp; smaller is finer.

    lambda_scale: above 0 chooses levels by rate and distortion (RDOQ), which only NNCodec's lower interface offers.
    python: of the environment with NNCodec; None for TRAFFICZIP_NNCODEC_PYTHON or ~/.cache/trafficzip/nncodec.
    """
    python = python or environment_python("nncodec")
    return run_worker("nncodec_worker.py", python, tensors, qp, lambda_scale)
