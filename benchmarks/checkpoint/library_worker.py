"""Encode and decode one model with bitsandbytes, blosc2, torchao or zipnn, in the environment that peers_env.sh makes.

python library_worker.py IN.safetensors OUT.safetensors METHOD SETTING

Writes the decoded tensors and prints one line of JSON: bytes, and median seconds of three rounds.
"""

import contextlib
import io
import json
import struct
import sys
from collections.abc import Callable
from math import prod
from statistics import median
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, load_file, save, save_file
from torch import Tensor, nn

Tensors = dict[str, Tensor]
_BLOCK = {"nf4": 64, "fp4": 64, "int8": 256}
_WEIGHT = ".bnb."  # between a tensor's name and the name of a part of its state


def bitsandbytes_encode(tensors: Tensors, kind: str) -> bytes:
    """Quantize matrices in blocks with bitsandbytes, the 4-bit kinds with nested scales; the rest becomes bfloat16."""
    from bitsandbytes import functional

    file = {}
    for name, value in tensors.items():
        if value.ndim < 2:
            file[name] = value.bfloat16()
            continue
        flat = value.ravel()  # with rows that are no multiple of a block, 0.50.2 decodes wrong values on a CPU
        if kind == "int8":
            levels, state = functional.quantize_blockwise(flat, blocksize=_BLOCK[kind])
            parts = {"absmax": state.absmax, "quant_map": state.code}
        else:
            levels, state = functional.quantize_4bit(
                flat, blocksize=_BLOCK[kind], quant_type=kind, compress_statistics=True
            )
            parts = state.as_dict(packed=True)
        file[name] = levels
        file |= {f"{name}{_WEIGHT}{part}": tensor for part, tensor in parts.items()}
    return save({name: value.contiguous() for name, value in file.items()})


def bitsandbytes_decode(content: bytes, shapes: dict[str, torch.Size], kind: str) -> Tensors:
    from bitsandbytes import functional

    file = load(content)
    decoded = {}
    for name, shape in shapes.items():
        parts = {key.split(_WEIGHT)[1]: value for key, value in file.items() if key.startswith(name + _WEIGHT)}
        if not parts:
            value = file[name].float()
        elif kind == "int8":
            value = functional.dequantize_blockwise(
                file[name], absmax=parts["absmax"], code=parts["quant_map"], blocksize=_BLOCK[kind]
            )
        else:
            state = functional.QuantState.from_dict(parts, device=torch.device("cpu"))
            value = functional.dequantize_4bit(file[name], state)
        decoded[name] = value.reshape(shape)
    return decoded


def blosc2_encode(tensors: Tensors, bits: str) -> bytes:
    """Cut float32 to so many bits of mantissa, shuffle bits, and compress with zstd at level 5."""
    import blosc2

    flat = torch.cat([value.ravel() for value in tensors.values()]).numpy()
    packed = blosc2.compress2(
        flat,
        typesize=4,
        codec=blosc2.Codec.ZSTD,
        clevel=5,
        nthreads=1,
        filters=[blosc2.Filter.TRUNC_PREC, blosc2.Filter.BITSHUFFLE],
        filters_meta=[int(bits), 0],
    )
    return _header(tensors) + packed


def blosc2_decode(content: bytes, shapes: dict[str, torch.Size], _: str) -> Tensors:
    import blosc2

    flat = np.frombuffer(blosc2.decompress2(_body(content)), np.float32)
    return _split(torch.from_numpy(flat.copy()), shapes)


def torchao_encode(tensors: Tensors, setting: str) -> bytes:
    """Quantize what torchao does by itself, or with "all" every module that it accepts, and save the state dict."""
    from torchao.quantization import quantize_

    modules = {name: _module(name, value) for name, value in tensors.items() if value.ndim > 1 and "norm" not in name}
    config, accepts = _torchao_config(setting)
    quantize_(nn.ModuleList(modules.values()), config, filter_fn=accepts)
    file = io.BytesIO()
    torch.save({name: modules[name].weight.data if name in modules else value for name, value in tensors.items()}, file)
    return file.getvalue()


def torchao_decode(content: bytes, shapes: dict[str, torch.Size], _: str) -> Tensors:
    import torchao.quantization  # noqa: F401  # lets torch load its tensors

    file = torch.load(io.BytesIO(content), weights_only=True)
    decoded = {name: value if type(value) is Tensor else value.dequantize() for name, value in file.items()}
    return {name: decoded[name].reshape(shape) for name, shape in shapes.items()}


def _torchao_config(setting: str) -> tuple[Any, Callable[[nn.Module, str], bool] | None]:
    from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig
    from torchao.quantization.granularity import PerAxis, PerGroup

    kind, *options = setting.split()
    group = next((int(option[1:]) for option in options if option[0] == "g"), None)
    if kind == "int8":
        config: Any = Int8WeightOnlyConfig()
    else:
        granularity = PerGroup(group) if group else PerAxis(0)
        config = IntxWeightOnlyConfig(weight_dtype=getattr(torch, kind.replace("intx", "int")), granularity=granularity)

    def accepts(module: nn.Module, _: str) -> bool:
        weight = getattr(module, "weight", None)
        return weight is not None and (not group or weight.shape[1] % group == 0)  # of others, it raises

    return config, accepts if "all" in options else None


def _module(name: str, value: Tensor) -> nn.Module:
    """Make the module that holds a weight; a stack of layers becomes one, as its rows are quantized alike."""
    if value.ndim == 4:
        module: nn.Module = nn.Conv2d(value.shape[1], value.shape[0], value.shape[2:], bias=False, device="meta")
    else:
        value = value.flatten(0, -2)
        module = (nn.Embedding if "embed" in name else nn.Linear)(*value.shape, device="meta")
    module.weight = nn.Parameter(value, requires_grad=False)
    return module


def zipnn_encode(tensors: Tensors, _: str) -> bytes:
    """Round to bfloat16 and compress that without loss."""
    from zipnn import ZipNN

    flat = torch.cat([value.ravel() for value in tensors.values()]).bfloat16()
    content = flat.view(torch.uint8).numpy().tobytes()  # ZipNN reorders the bytes that it is given, even immutable ones
    return _header(tensors) + ZipNN(bytearray_dtype="bfloat16", threads=1).compress(content)


def zipnn_decode(content: bytes, shapes: dict[str, torch.Size], _: str) -> Tensors:
    from zipnn import ZipNN

    flat = ZipNN(bytearray_dtype="bfloat16", threads=1).decompress(_body(content))
    return _split(torch.frombuffer(bytearray(flat), dtype=torch.bfloat16).float(), shapes)


def _header(tensors: Tensors) -> bytes:
    header = json.dumps({name: list(value.shape) for name, value in tensors.items()}).encode()
    return struct.pack("<I", len(header)) + header


def _body(content: bytes) -> bytes:
    return content[4 + struct.unpack_from("<I", content)[0] :]


def _split(flat: Tensor, shapes: dict[str, torch.Size]) -> Tensors:
    parts = flat.split([prod(shape) for shape in shapes.values()])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


METHODS = {
    "bitsandbytes": (bitsandbytes_encode, bitsandbytes_decode),
    "blosc2": (blosc2_encode, blosc2_decode),
    "torchao": (torchao_encode, torchao_decode),
    "zipnn": (zipnn_encode, zipnn_decode),
}


def main() -> None:
    source, target, method, setting = sys.argv[1:]
    torch.set_num_threads(1)
    tensors = load_file(source)
    encode, decode = METHODS[method]
    shapes = {name: value.shape for name, value in tensors.items()}
    seconds = []
    with contextlib.redirect_stdout(sys.stderr):
        decode(encode(tensors, setting), shapes, setting)  # imports
        for _ in range(3):
            begin = perf_counter(), process_time()
            content = encode(tensors, setting)
            middle = perf_counter(), process_time()
            decoded = decode(content, shapes, setting)
            end = perf_counter(), process_time()
            clocks = zip(begin, middle, end, strict=True)
            seconds.append([span for a, b, c in clocks for span in (b - a, c - b)])
    save_file({name: value.contiguous() for name, value in decoded.items()}, target)
    names = ("encode_s", "decode_s", "encode_cpu_s", "decode_cpu_s")
    medians = dict(zip(names, (median(column) for column in zip(*seconds, strict=True)), strict=True))
    print(json.dumps({"bytes": len(content), **medians}))


if __name__ == "__main__":
    main()
