"""Formats that users reach for first: bfloat16, one step with zstd, and gguf's blocks."""

import json
import struct
from collections.abc import Iterator, Mapping
from math import exp2, prod
from pathlib import Path
from tempfile import TemporaryDirectory

import gguf
import ml_dtypes
import numpy as np
import torch
import zstandard
from safetensors.torch import load, save

from benchmarks.checkpoint.outcome import Outcome, measure

GGUF_TYPES = ("Q8_0", "Q5_0", "Q4_0")
USQ_BITS = (2, 2.5, 3, 3.5, 4, 5)
_ROUNDS = 10  # of the search of a step


def safetensors_bf16(tensors: Mapping[str, np.ndarray]) -> Outcome:
    """Round everything to bfloat16 in a safetensors file."""
    return measure(
        lambda: save({name: torch.from_numpy(value).bfloat16() for name, value in tensors.items()}),
        lambda content: {name: value.float().numpy() for name, value in load(content).items()},
    )


def usq_zstd(tensors: Mapping[str, np.ndarray], step: float) -> Outcome:
    """Round matrices to multiples of one step, the rest to bfloat16, and compress all of it with zstd -1."""
    return measure(lambda: _usq_encode(tensors, step), _usq_decode)


def usq_step(tensors: Mapping[str, np.ndarray], bits: float) -> float:
    """Find the step at which a file takes so many bits a weight, within about 0.01."""
    num_bits = bits * sum(value.size for value in tensors.values())
    largest = max(float(np.abs(value).max()) for value in tensors.values())
    low, high = np.log2(largest) - 14, np.log2(largest) + 1
    for _ in range(_ROUNDS + 3):
        middle = (low + high) / 2
        if 8 * len(_usq_encode(tensors, exp2(middle))) > num_bits:
            low = middle
        else:
            high = middle
    return exp2(high)


def _usq_encode(tensors: Mapping[str, np.ndarray], step: float) -> bytes:
    """Lay out a JSON header and each tensor's levels: the narrowest integers as planes of low to high bytes."""
    entries, parts = {}, []
    for name, value in tensors.items():
        if value.ndim < 2:
            entries[name] = [list(value.shape), "bf16"]
            parts.append(value.astype(ml_dtypes.bfloat16).tobytes())
            continue
        levels = np.rint(value.ravel() / np.float32(step))
        most = np.abs(levels).max()
        kind = next(kind for kind in ("int8", "int16", "int32") if most <= np.iinfo(kind).max)
        entries[name] = [list(value.shape), kind]
        levels = levels.astype(kind)
        parts.append(levels.view(np.uint8).reshape(levels.size, -1).T.tobytes())
    header = json.dumps({"step": step, "tensors": entries}).encode()
    return zstandard.compress(b"".join([struct.pack("<I", len(header)), header, *parts]), 1)


def _usq_decode(content: bytes) -> dict[str, np.ndarray]:
    data = zstandard.decompress(content)
    at = 4 + struct.unpack_from("<I", data)[0]
    header = json.loads(data[4:at])
    decoded = {}
    for name, (shape, kind) in header["tensors"].items():
        size = prod(shape)
        if kind == "bf16":
            value = np.frombuffer(data, ml_dtypes.bfloat16, size, at).astype(np.float32)
        else:
            planes = np.frombuffer(data, np.uint8, size * np.dtype(kind).itemsize, at).reshape(-1, size)
            value = np.ascontiguousarray(planes.T).view(kind).ravel() * np.float32(header["step"])
        decoded[name] = value.reshape(shape)
        at += size * (2 if kind == "bf16" else np.dtype(kind).itemsize)
    return decoded


def gguf_file(tensors: Mapping[str, np.ndarray], kind: str) -> Outcome:
    """Write a gguf file of one block type.

    Kernels count as rows [out, in * height * width]; rows that are no multiple of a block become float16, vectors
    stay float32.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder, "model.gguf")
        return measure(lambda: _gguf_encode(tensors, kind, path), lambda _: dict(_gguf_decode(tensors, path)))


def _gguf_encode(tensors: Mapping[str, np.ndarray], kind: str, path: Path) -> bytes:
    quantized = gguf.GGMLQuantizationType[kind]
    block = gguf.GGML_QUANT_SIZES[quantized][0]
    writer = gguf.GGUFWriter(path, "none")
    for name, value in tensors.items():
        rows = _rows(value)
        if value.ndim < 2:
            writer.add_tensor(name, rows)
        elif rows.shape[-1] % block:
            writer.add_tensor(name, rows.astype(np.float16))
        else:
            writer.add_tensor(name, gguf.quants.quantize(rows, quantized), raw_dtype=quantized)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def _gguf_decode(tensors: Mapping[str, np.ndarray], path: Path) -> Iterator[tuple[str, np.ndarray]]:
    for tensor in gguf.GGUFReader(path).tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        yield tensor.name, np.array(values, np.float32).reshape(tensors[tensor.name].shape)


def _rows(value: np.ndarray) -> np.ndarray:
    return value.reshape(len(value), -1) if value.ndim == 4 else value
