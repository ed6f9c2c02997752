"""PyTorch tensors as NumPy arrays of the same bits."""

from typing import Any

import torch

from trafficzip.checkpoint.sources.lazy import Entry
from trafficzip.checkpoint.tensors import DTYPES, Array, TensorInfo
from trafficzip.errors import ConfigError

_PLAIN = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)
_BITS = {1: torch.uint8, 2: torch.int16}  # dtypes that NumPy lacks are handed over as integers of their size


def torch_entry(name: str, value: Any, where: str) -> Entry:
    """Give a dense PyTorch tensor as an entry of a source; it is detached, and copied from its device when read.

    Raises:
        ConfigError: it is no plain tensor, not dense, has no data, or has a dtype that cannot be stored.
    """
    _check_dense(value, where)
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise ConfigError(f"{where}: dtype {value.dtype} cannot be stored; known are {', '.join(DTYPES)}")
    tensor = value.detach()
    return TensorInfo(name, dtype, tuple(tensor.shape)), lambda: _to_numpy(tensor, dtype)


def _check_dense(value: Any, where: str) -> None:
    expected = "expected a dense tensor with data"
    if type(value) not in _PLAIN:  # a subclass may mean something else by its data, as DTensor does
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise ConfigError(f"{where} is a {kind}; {expected}")
    if value.is_quantized:
        raise ConfigError(f"{where} is a quantized tensor ({value.dtype}); dequantize it first; {expected}")
    if value.is_nested or value.layout != torch.strided:
        raise ConfigError(f"{where} is a {'nested' if value.is_nested else value.layout} tensor; {expected}")
    if value.device.type == "meta":
        raise ConfigError(f"{where} is on the meta device, which holds no data; {expected}")


def _to_numpy(tensor: torch.Tensor, dtype: str) -> Array:
    tensor = tensor.cpu().resolve_conj().resolve_neg()
    if DTYPES[dtype].isbuiltin == 1:
        return tensor.contiguous().numpy()
    bits: Array = tensor.view(_BITS[tensor.element_size()]).contiguous().numpy()
    return bits.view(DTYPES[dtype])
