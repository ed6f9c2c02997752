"""Sizes, errors and what models are worth after the formats of others.

python -m benchmarks.checkpoint.bench_peers --models resnet20 minilm --methods nncodec usq

NNCodec runs in an environment that nncodec_env.sh makes, libraries in that of peers_env.sh; all on one thread.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
import torch

from benchmarks.checkpoint.models import MODELS, load_model
from benchmarks.checkpoint.nncodec import nncodec
from benchmarks.checkpoint.outcome import Outcome
from benchmarks.checkpoint.simple_peers import (
    GGUF_TYPES,
    USQ_BITS,
    gguf_file,
    safetensors_bf16,
    usq_step,
    usq_zstd,
)
from benchmarks.checkpoint.worker import environment_python, run_worker
from benchmarks.harness import write_rows

Tensors = Mapping[str, np.ndarray]
Settings = Iterator[tuple[str, str, Outcome]]  # method, setting, what it gave

QPS = (-32, -28, -24, -20)
LIBRARIES = {
    "bitsandbytes": ("int8", "nf4", "fp4"),
    "blosc2": ("5", "3"),
    # without "all", only what quantize_ takes by itself; its int4 needs CUDA, so intx4 and less fill one int8 each
    "torchao": ("int8", "int8 all", "intx8 all", "intx4 all", "intx3 all", "intx4 g32 all", "intx3 g32 all"),
    "zipnn": ("bf16",),
}
_MORE_QPS = {"minilm": (-32, -28, -26, -24, -22, -20)}


def nncodec_settings(model: str, tensors: Tensors) -> Settings:
    for qp in _MORE_QPS.get(model, QPS):
        yield "nncodec", f"qp={qp}", nncodec(tensors, qp=qp)
        yield "nncodec_rdoq", f"qp={qp} lambda_scale=1", nncodec(tensors, qp=qp, lambda_scale=1)


def bf16_settings(_: str, tensors: Tensors) -> Settings:
    yield "safetensors_bf16", "", safetensors_bf16(tensors)


def usq_settings(_: str, tensors: Tensors) -> Settings:
    for bits in USQ_BITS:
        step = usq_step(tensors, bits)
        yield "usq_zstd1", f"step={step:.6g}", usq_zstd(tensors, step)


def gguf_settings(_: str, tensors: Tensors) -> Settings:
    for kind in GGUF_TYPES:
        yield "gguf", kind, gguf_file(tensors, kind)


def library_settings(library: str, _: str, tensors: Tensors) -> Settings:
    for setting in LIBRARIES[library]:
        outcome = run_worker("library_worker.py", environment_python("peers"), tensors, library, setting)
        kept = float32_share(tensors, outcome.decoded)
        yield library, setting + (f", {100 * kept:.3g} % of weights left float32" if kept else ""), outcome


def float32_share(original: Tensors, decoded: Tensors) -> float:
    """Measure the share of weights, the elements of matrices and kernels, in tensors that came back bit for bit."""
    sizes = {name: value.size for name, value in original.items() if value.ndim > 1}
    kept = sum(size for name, size in sizes.items() if np.array_equal(original[name], decoded[name]))
    return kept / sum(sizes.values())


METHODS: dict[str, Callable[[str, Tensors], Settings]] = {
    "nncodec": nncodec_settings,
    "bf16": bf16_settings,
    "usq": usq_settings,
    "gguf": gguf_settings,
    **{library: partial(library_settings, library) for library in LIBRARIES},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for model in arguments.models:
        tensors = load_model(model)
        for method in arguments.methods:
            for name, setting, outcome in METHODS[method](model, tensors):
                row = {"model": model, "method": name, "setting": setting, **outcome.row(model, tensors)}
                print(row, flush=True)
                path = write_rows("checkpoint_peers", [row])
    print(path)


if __name__ == "__main__":
    main()
