"""Parameter shapes of models that people train, without the models, and the bucket that DDP would fill first."""

from collections.abc import Mapping
from math import prod

Shapes = dict[str, tuple[int, ...]]  # in the order of the model


def resnet50() -> Shapes:
    """Give the 25,557,032 parameters of ResNet-50 with its classifier of 1,000 classes."""
    shapes: Shapes = {"conv1": (64, 3, 7, 7), **_norm("bn1", 64)}
    inputs = 64
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), 1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            convolutions = ((width, inputs, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1))
            for k, shape in enumerate(convolutions, 1):
                shapes |= {f"{name}.conv{k}": shape, **_norm(f"{name}.bn{k}", shape[0])}
            if block == 0:
                shapes |= {f"{name}.down": (4 * width, inputs, 1, 1), **_norm(f"{name}.down_bn", 4 * width)}
            inputs = 4 * width
    return shapes | {"fc.weight": (1000, inputs), "fc.bias": (1000,)}


def transformer(*, layers: int = 12, width: int = 768, vocabulary: int = 50257, context: int = 1024) -> Shapes:
    """Give the parameters of a decoder-only transformer; by default the 124,439,808 of GPT-2 small."""
    shapes: Shapes = {"wte": (vocabulary, width), "wpe": (context, width)}
    for layer in range(layers):
        name = f"h.{layer}"
        shapes |= _norm(f"{name}.ln_1", width)
        shapes |= _linear(f"{name}.attn.c_attn", width, 3 * width) | _linear(f"{name}.attn.c_proj", width, width)
        shapes |= _norm(f"{name}.ln_2", width)
        shapes |= _linear(f"{name}.mlp.c_fc", width, 4 * width) | _linear(f"{name}.mlp.c_proj", 4 * width, width)
    return shapes | _norm("ln_f", width)


def tiny() -> Shapes:
    """Give a model small enough for Triton's interpreter."""
    return {"first": (16, 27), "norm": (16,), "second": (25, 41), "bias": (25,), "third": (20, 31), "few": (3, 3)}


MODELS = {"resnet50": resnet50, "transformer": transformer, "tiny": tiny}


def bucket(shapes: Mapping[str, tuple[int, ...]], *, num_bytes: float) -> Shapes:
    """Take float32 parameters from the model's end until the bucket has `num_bytes`; give them in the model's order."""
    chosen: list[str] = []
    size = 0
    for name in reversed(shapes):
        if size >= num_bytes:
            break
        chosen.append(name)
        size += 4 * prod(shapes[name])
    return {name: shapes[name] for name in reversed(chosen)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (inputs, outputs), f"{name}.bias": (outputs,)}
