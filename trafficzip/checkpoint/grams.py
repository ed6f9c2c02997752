"""Collect what calibration needs of a PyTorch model: the Gram matrices of the inputs of its layers."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trafficzip.errors import ConfigError

_PATCHES = 1 << 16  # of a convolution's input that are looked at in one batch


def collect_grams(
    model: torch.nn.Module,
    batches: Iterable[Any],
    run: Callable[[torch.nn.Module, Any], Any] = lambda model, batch: model(batch),
    *,
    convolutions: bool = False,
) -> dict[str, NDArray[np.float32]]:
    """Run a model over batches and sum x x^T over all inputs x of each Linear layer, and of convolutions if wanted.

    run: how the model runs on a batch.  A convolution's inputs are patches, of which a batch gives at most 2**16.
    Returns: by name of the weight, float32 [in, in]; for convolutions in is channels times kernel.

    Raises:
        ConfigError: no such layer was run.
    """
    grams: dict[str, torch.Tensor] = {}
    hooks = []

    def watch(name: str, module: torch.nn.Module) -> None:
        def see(_module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
            found = _rows(module, inputs[0].detach()).double()
            gram = found.T @ found
            grams[name] = grams[name] + gram if name in grams else gram

        hooks.append(module.register_forward_pre_hook(see))

    kinds = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d) if convolutions else (torch.nn.Linear,)
    for name, module in model.named_modules():
        if isinstance(module, kinds) and getattr(module, "groups", 1) == 1:
            watch(f"{name}.weight" if name else "weight", module)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                run(model, batch)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    if not grams:
        raise ConfigError("calibration: no layer with weights of its own was run")
    return {name: gram.float().cpu().numpy() for name, gram in grams.items()}


def _rows(module: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Give the inputs of a layer's matrix as rows: [n, in]."""
    if isinstance(module, torch.nn.Linear):
        return inputs.reshape(-1, inputs.shape[-1])
    assert isinstance(module, torch.nn.Conv1d | torch.nn.Conv2d)
    flat = isinstance(module, torch.nn.Conv1d)
    image = inputs.unsqueeze(-2) if flat else inputs

    def pair(value: Any, first: int) -> tuple[int, int]:
        return (first, *value) if flat else (value[0], value[1])

    if isinstance(module.padding, str):
        raise ConfigError(f"calibration: padding {module.padding!r} of a convolution; expected numbers")
    patches = torch.nn.functional.unfold(
        image,
        pair(module.kernel_size, 1),
        dilation=pair(module.dilation, 1),
        padding=pair(module.padding, 0),
        stride=pair(module.stride, 1),
    )
    rows = patches.transpose(1, 2).reshape(-1, patches.shape[1])
    return rows[:: max(1, rows.shape[0] // _PATCHES)]
