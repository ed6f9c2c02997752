"""A model's tensors as flat arrays: what is exchanged, and how all ranks begin with the same model."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trafficzip.comm.transport import Transport
from trafficzip.errors import ConfigError, CorruptPayloadError

F32 = NDArray[np.float32]
Tensors = Mapping[str, torch.Tensor]
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def trained_parameters(model: nn.Module) -> dict[str, torch.Tensor]:
    """Give the parameters that require gradients, by name, each once.

    Raises:
        ConfigError: there is none, or one cannot be exchanged.
    """
    found: dict[str, torch.Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not found:
        raise ConfigError("model has no parameter that requires gradients")
    for name, parameter in found.items():
        if parameter.device.type not in ("cpu", "cuda") or type(parameter) is not nn.Parameter:
            raise ConfigError(
                f"parameter {name} is a {type(parameter).__name__} on {parameter.device}, "
                "expected a plain parameter on cpu or cuda: sharded models are not supported"
            )
        if parameter.dtype not in _DTYPES:
            raise ConfigError(f"parameter {name} has dtype {parameter.dtype}, expected one of {_DTYPES}")
    return found


def averaged_buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    """Give the floating-point buffers, such as running statistics; counters and masks are not averaged."""
    return {name: b for name, b in model.named_buffers() if b.is_floating_point() and b.numel()}


def read(tensors: Tensors) -> F32:
    """Copy all tensors, one after the other, to float32 [n]."""
    out = np.empty(sum(tensor.numel() for tensor in tensors.values()), np.float32)
    flat = torch.from_numpy(out)
    at = 0
    for tensor in tensors.values():
        flat[at : at + tensor.numel()].view(tensor.shape).copy_(tensor.detach())
        at += tensor.numel()
    return out


def write(values: F32, tensors: Tensors) -> None:
    """Copy float32 [n] to all tensors, rounded to their dtypes."""
    flat = torch.from_numpy(values)
    at = 0
    with torch.no_grad():
        for tensor in tensors.values():
            tensor.copy_(flat[at : at + tensor.numel()].view(tensor.shape))
            at += tensor.numel()


def round_to(values: F32, tensors: Tensors) -> F32:
    """Give float32 [n] as the tensors' dtypes would hold it; the array itself where all of them are float32."""
    if all(tensor.dtype == torch.float32 for tensor in tensors.values()):
        return values
    out = np.empty_like(values)
    at = 0
    for tensor in tensors.values():
        part = torch.from_numpy(values[at : at + tensor.numel()])
        torch.from_numpy(out[at : at + tensor.numel()]).copy_(part.to(tensor.dtype))
        at += tensor.numel()
    return out


def all_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Give every parameter and buffer by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def share_first(transport: Transport, tensors: Tensors) -> None:
    """Give every rank the tensors of rank 0, bit for bit; a collective call.

    Raises:
        CorruptPayloadError: rank 0 sent another number of bytes.
    """
    own = [_bytes(tensor) for tensor in tensors.values()]
    size = sum(part.size for part in own)
    mine = np.concatenate([np.zeros(0, np.uint8), *own]) if transport.rank == 0 else np.zeros(0, np.uint8)
    received = transport.all_gather(mine, limit=size)[0]
    if received.size != size:
        raise CorruptPayloadError(f"rank 0 sent a model of {received.size} bytes, expected {size}")
    if transport.rank == 0:
        return
    at = 0
    with torch.no_grad():
        for tensor, part in zip(tensors.values(), own, strict=True):
            data = torch.from_numpy(received[at : at + part.size].copy())
            tensor.copy_(data.view(tensor.dtype).view(tensor.shape))
            at += part.size


def _bytes(tensor: torch.Tensor) -> NDArray[np.uint8]:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return np.asarray(flat.view(torch.uint8).numpy()) if flat.numel() else np.zeros(0, np.uint8)


def mean_of_ranks(transport: Transport, values: F32) -> F32:
    """Average float32 [n] over all ranks, uncompressed, added up in rank order; a collective call.

    Raises:
        CorruptPayloadError: a rank sent another number of bytes.
    """
    received = transport.all_gather(values.view(np.uint8), limit=values.nbytes)
    total = np.zeros_like(values)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is noticed by the caller
        for sender, message in zip(transport.ranks, received, strict=True):
            if message.size != values.nbytes:
                raise CorruptPayloadError(
                    f"message from rank {sender}: {message.size} bytes of buffers, expected {values.nbytes}"
                )
            total += message.view(np.float32)
    total /= np.float32(transport.world_size)
    return total
