"""Compile GPU kernels ahead of time, without a GPU.

`python -m tests.kernels.compile_gpu record > launches.json` runs the kernels interpreted and notes their launches;
`python -m tests.kernels.compile_gpu launches.json 90` compiles them for sm_90: what compiles is what is launched.
"""

import json
import sys
from contextlib import contextmanager

TYPES = {
    "torch.float32": "*fp32", "torch.float16": "*fp16", "torch.bfloat16": "*bf16", "torch.uint8": "*u8",
    "torch.int8": "*i8", "torch.int32": "*i32", "torch.int64": "*i64", "torch.uint32": "*u32", "torch.uint64": "*u64",
    "torch.int16": "*i16", "torch.uint16": "*u16",
}  # fmt: skip
OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion", "maxnreg")


@contextmanager
def record(launches):
    """Note every launch of an interpreted kernel in the set `launches`, as JSON text."""
    from triton.runtime import interpreter

    run = interpreter.InterpretedFunction.run

    def recorded(self, *args, grid, warmup, **kwargs):
        names = self.arg_names
        given = dict(zip(names, args, strict=False)) | {k: v for k, v in kwargs.items() if k in names}
        constants = {n for n in names if "constexpr" in str(self.fn.__annotations__.get(n, ""))}
        signature, values = {}, {}
        for name in names:
            value = given.get(name)
            if name in constants or value is None:
                signature[name], values[name] = "constexpr", getattr(value, "value", value)
            elif hasattr(value, "data_ptr"):
                signature[name] = TYPES[str(value.dtype)]
            elif isinstance(value, float):
                signature[name] = "fp32"
            elif value == 1:  # what the launcher makes a constant
                signature[name], values[name] = "constexpr", 1
            else:
                signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
        options = {k: v for k, v in kwargs.items() if k in OPTIONS}
        entry = {
            "module": self.fn.__module__, "kernel": self.fn.__name__, "signature": signature, "constants": values,
            "options": options,
        }  # fmt: skip
        launches.add(json.dumps(entry, sort_keys=True))
        return run(self, *args, grid=grid, warmup=warmup, **kwargs)

    interpreter.InterpretedFunction.run = recorded
    try:
        yield
    finally:
        interpreter.InterpretedFunction.run = run


def compile_all(launches, sm):
    """Compile each launch for one architecture; give kernel, registers, spills and bytes of shared memory."""
    import importlib

    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    rows = []
    for text in sorted(launches):
        entry = json.loads(text)
        kernel = getattr(importlib.import_module(entry["module"]), entry["kernel"])
        pointers = [name for name, kind in entry["signature"].items() if kind.startswith("*")]
        attributes = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in pointers}
        source = ASTSource(kernel, entry["signature"], entry["constants"], attributes)
        compiled = triton.compile(source, target=GPUTarget("cuda", sm, 32), options=entry["options"])
        ptx = compiled.asm["ptx"]
        rows.append(
            {
                "kernel": entry["kernel"], "module": entry["module"], "constants": entry["constants"],
                "shared": compiled.metadata.shared, "fma": "fma.rn.f32" in ptx, "ftz": ".ftz" in ptx,
                "approximate": "div.full" in ptx or "div.approx" in ptx, "cubin_bytes": len(compiled.asm["cubin"]),
                **resources(compiled.asm["cubin"]),
            }
        )  # fmt: skip
    return rows


def resources(cubin):
    """Give registers and bytes of stack (spills) of a kernel, as its machine code says."""
    import re
    import subprocess
    import tempfile
    from pathlib import Path

    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return {name.lower(): int(re.findall(rf"{name}:(\d+)", text)[-1]) for name in ("REG", "STACK")}


def record_all():
    """Run everything that a GPU's codec launches, interpreted, with the sizes that it has on a device."""
    import os

    os.environ["TRITON_INTERPRET"] = "1"
    from trafficzip.kernels import triton_gpu

    triton_gpu.INTERPRETED = False  # before the modules that choose their sizes by it
    import numpy as np
    import torch

    from tests.gpu.test_codec import SMALL, TERNARY, bucket
    from trafficzip.codecs import Quartic, Rans, ZeroRun
    from trafficzip.compressor import Compressor
    from trafficzip.gpu import GpuCodec, VariableCodec
    from trafficzip.kernels import Groups
    from trafficzip.kernels.segments import Segments
    from trafficzip.kernels.triton_gpu_rans_decode import rans_decode

    launches = set()
    with record(launches):
        for last in (None, ZeroRun(), Rans(chunk_symbols=256)):
            large = TERNARY if last is None else Compressor(quantizer=TERNARY.quantizer, codecs=(Quartic(), last))
            for small, dtype in zip(SMALL, (torch.float32, torch.bfloat16, torch.float16, torch.float32), strict=True):
                given = bucket(1)
                codec = GpuCodec(given.messages(large, small), torch.device("cpu"))
                variable = None if last is None else VariableCodec(codec)
                values, residual = torch.from_numpy(given.values), torch.from_numpy(given.residual)
                coded = codec.quantize(values.to(dtype), residual, residual)
                if variable is None:
                    received = codec.unpack(codec.pack(coded).repeat(3), copies=3)
                else:
                    message, sizes = variable.pack(coded)
                    received = variable.unpack(message.repeat(3), [sizes] * 3)
                for out_type, divisor in ((torch.float32, 3), (torch.bfloat16, 1), (torch.float16, 2)):
                    codec.decode(received, values.to(out_type), divisor=divisor)
                codec.quantize_mean(received, residual, values)
                codec.quantize(values, None, values, out_like_residual=False)
                if last is not None:
                    break  # small tensors are as before
        codec = GpuCodec([[(TERNARY, Groups([20]))]], torch.device("cpu"))  # one of everything
        message = codec.pack(codec.quantize(torch.ones(20)))
        codec.decode(codec.unpack(message), torch.ones(20))
        codec.quantize_mean(codec.unpack(message.repeat(2), copies=2), torch.ones(20), torch.ones(20))
        plain = torch.from_numpy(
            Rans().encode(np.arange(243, dtype=np.uint8))
        )  # what no frame has, but a decoder reads
        rans_decode(plain, Segments([0], [plain.numel()]), torch.empty(243, dtype=torch.uint8), [0], [243])
    return sorted(launches)


if __name__ == "__main__":
    if sys.argv[1] == "record":
        json.dump(record_all(), sys.stdout)
    else:
        with open(sys.argv[1]) as file:
            json.dump(compile_all(json.load(file), int(sys.argv[2])), sys.stdout)
