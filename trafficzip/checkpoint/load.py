"""Load a compressed checkpoint as PyTorch tensors, or into a module."""

import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from trafficzip.checkpoint.coders.delta import Base
from trafficzip.checkpoint.open import open_checkpoint
from trafficzip.checkpoint.tensors import DTYPES, Array, TensorInfo
from trafficzip.errors import ConfigError

_BITS: dict[int, Any] = {1: np.uint8, 2: np.int16}  # dtypes that NumPy lacks are handed over as integers of their size


def load(
    path: str | os.PathLike[str] | bytes,
    *,
    names: Iterable[str] | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    base: str | os.PathLike[str] | bytes | Base | None = None,
    num_threads: int | None = None,
) -> dict[str, torch.Tensor]:
    """Decode tensors of a file, all by default, as PyTorch tensors.

    dtype: what floating point tensors are converted to; as stored by default.  base: what the file was compressed
    against, if it was.

    Raises:
        ConfigError: there is no such file, or a dtype that this PyTorch lacks.
        CorruptPayloadError, UnsupportedFormatError: the file is damaged, or no checkpoint.
        KeyError: there is no tensor of a name.
    """
    with open_checkpoint(path, base=base, num_threads=num_threads) as file:
        if torch.device(device).type == "cpu" and dtype is None:
            return {name: _tensor(array, name) for name, array in file.read_many(names).items()}
        wanted = file if names is None else names
        return {name: _moved(_tensor(file[name], name), device, dtype) for name in wanted}  # one on this side at a time


def load_into(
    module: torch.nn.Module,
    path: str | os.PathLike[str] | bytes,
    *,
    strict: bool = True,
    base: str | os.PathLike[str] | bytes | Base | None = None,
    num_threads: int | None = None,
) -> tuple[list[str], list[str]]:
    """Decode a file into the parameters and buffers of a module, in place where it is on the CPU.

    Elsewhere, and where dtypes differ, one tensor at a time is decoded and copied. Nothing is written unless names and
    shapes fit; a record that is damaged may leave some tensors written.

    strict: whether names must be the same.  base: what the file was compressed against, if it was.
    Returns: names that the file lacks, and names that the module lacks.

    Raises:
        ConfigError: names or shapes do not fit, or a tensor of the module has no memory.
        CorruptPayloadError, UnsupportedFormatError: the file is damaged, or no checkpoint.
    """
    with open_checkpoint(path, base=base, num_threads=num_threads) as file:
        state = _tensors_of(module)
        missing, unexpected = [n for n in state if n not in file], [n for n in file if n not in state]
        if strict and (missing or unexpected):
            raise ConfigError(f"{path!r:.200}: lacks {missing[:8]} of the module, which lacks {unexpected[:8]}")
        infos = {info.name: info for info in file.infos if info.name in state}
        for name, info in infos.items():
            if tuple(state[name].shape) != info.shape:
                raise ConfigError(f"{path!r:.200}: {info}, expected shape {list(state[name].shape)} of the module")
        last = {_place(state[name]): name for name in infos}  # of tied tensors, the last one counts
        infos = {name: info for name, info in infos.items() if last[_place(state[name])] == name}
        direct = {name: _memory(state[name]) for name, info in infos.items() if _fits(state[name], info)}
        file.read_many(direct, outs=direct)
        for name in infos:
            if name not in direct:
                state[name].copy_(_tensor(file[name], name))
        return missing, unexpected


def _tensors_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Give parameters and buffers by name, without what else a state dict may hold."""
    every = module.state_dict(keep_vars=True)
    state = {name: tensor.detach() for name, tensor in every.items() if isinstance(tensor, torch.Tensor)}
    for name, tensor in state.items():
        if tensor.is_meta:
            raise ConfigError(f"{name} is on the meta device, which holds no data; give the module memory by to_empty")
    return state


def _place(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Tell tied tensors: they have the same memory."""
    return tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _fits(tensor: torch.Tensor, info: TensorInfo) -> bool:
    """Tell whether the tensor's memory can be decoded into."""
    same = str(tensor.dtype).removeprefix("torch.") == info.dtype
    return same and tensor.device.type == "cpu" and tensor.is_contiguous() and type(tensor) is torch.Tensor


def _memory(tensor: torch.Tensor) -> Array:
    dtype = DTYPES[str(tensor.dtype).removeprefix("torch.")]
    if dtype.isbuiltin == 1:
        return tensor.numpy()
    bits: Array = tensor.view({1: torch.uint8, 2: torch.int16}[tensor.element_size()]).numpy()
    return bits.view(dtype)


def _tensor(array: Array, name: str) -> torch.Tensor:
    dtype = getattr(torch, array.dtype.name, None)
    if not isinstance(dtype, torch.dtype):
        raise ConfigError(f"{name}: this PyTorch has no dtype {array.dtype.name}; open() gives it as a NumPy array")
    if array.dtype.isbuiltin == 1:
        return torch.from_numpy(array)
    return torch.from_numpy(array.view(_BITS[array.dtype.itemsize])).view(dtype)


def _moved(tensor: torch.Tensor, device: str | torch.device, dtype: torch.dtype | None) -> torch.Tensor:
    return tensor.to(device, dtype if tensor.is_floating_point() else None)
