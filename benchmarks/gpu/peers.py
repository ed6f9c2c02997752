"""What others do with the same bucket: plain torch, PowerSGD's arithmetic, 8-bit blocks, nvCOMP's ANS."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import torch

from benchmarks.gpu import plain
from benchmarks.gpu.cases import Case
from benchmarks.gpu.powersgd import PowerSgd, gram_schmidt, qr
from benchmarks.gpu.stages import quartic_bytes
from benchmarks.gpu.timing import Clock
from benchmarks.gpu.workload import WORLD_SIZE, Workload, ternary
from trafficzip.gpu import GpuCodec
from trafficzip.gpu.layout import KIND_TERNARY

COMPILED = "torch.compile"  # in its default mode, shapes static


def torch_cases(work: Workload, clock: Clock, *, compiled: bool) -> list[Case]:
    """Give plain torch for what `encode` and `sum_8` do; what it makes is checked against ours.

    Raises:
        AssertionError: it makes something else.
    """
    encode, decode, method = plain.encode, plain.decode, "torch eager"
    if compiled:
        torch.compiler.reset()  # so that no bucket is one too many for its cache
        encode, decode = (torch.compile(one, dynamic=False, fullgraph=True) for one in (plain.encode, plain.decode))
        method = COMPILED
    codec = GpuCodec(work.pushed(ternary()), work.device)
    frames = [frame for frame in codec.layout.frames if frame.kind == KIND_TERNARY]
    tables = plain.tables_of(frames, work.num_elements, work.device)
    values, residuals = work.buffers(codec, clock.num_sets(8 * work.num_elements))
    _check_encode(work, codec, tables, encode, values[0], residuals[0])
    sent, scales = encode(values[0], residuals[0], tables, 1.0)
    read = WORLD_SIZE * sent.numel()
    sets = clock.num_sets(4 * work.num_elements + read)
    received = [(sent.repeat(WORLD_SIZE, 1), scales.repeat(WORLD_SIZE, 1)) for _ in range(sets)]
    _check_decode(work, tables, decode, *received[0])
    return [
        Case("encode", method, lambda k: encode(values[k], residuals[k], tables, 1.0), len(values)),
        Case(f"sum_{WORLD_SIZE}", method, lambda k: decode(*received[k], tables), sets),
    ]


def _check_encode(
    work: Workload,
    codec: GpuCodec,
    tables: plain.Tables,
    encode: Callable[..., tuple[torch.Tensor, torch.Tensor]],
    values: torch.Tensor,
    residual: torch.Tensor,
) -> None:
    ours, theirs = residual.clone(), residual.clone()
    data = codec.quantize(values, ours, ours).data
    frames = [frame for frame in codec.layout.frames if frame.kind == KIND_TERNARY]
    expected = torch.cat([data[frame.code_start : frame.start + frame.size] for frame in frames])
    symbols, scales = encode(values, theirs, tables, 1.0)
    assert torch.equal(symbols, expected), "codes of plain torch differ from ours"
    kept = tables.kept_at
    assert torch.equal(theirs[kept], ours[kept]), "residuals of plain torch differ from ours"
    sent = torch.cat([data[frame.scale_start : frame.code_start] for frame in frames])
    assert torch.equal(scales.view(torch.uint8), sent), "scales of plain torch differ from ours"


def _check_decode(
    work: Workload,
    tables: plain.Tables,
    decode: Callable[..., torch.Tensor],
    symbols: torch.Tensor,
    scales: torch.Tensor,
) -> None:
    codec = GpuCodec(work.pushed(ternary()), work.device)
    frames = [frame for frame in codec.layout.frames if frame.kind == KIND_TERNARY]
    coded = codec.quantize(torch.zeros(work.num_elements, device=work.device))
    code = group = 0
    for frame in frames:  # as a message of ours, to be read by ours
        size = frame.start + frame.size - frame.code_start
        coded.data[frame.code_start : frame.start + frame.size] = symbols[0, code : code + size]
        own = scales[0, group : group + frame.num_scales].view(torch.uint8)
        coded.data[frame.scale_start : frame.code_start] = own
        code, group = code + size, group + frame.num_scales
    message = codec.pack(coded)
    received = codec.unpack(message.repeat(WORLD_SIZE), copies=WORLD_SIZE)
    assert received.is_finite()
    ours = torch.zeros(work.num_elements, device=work.device)
    codec.decode(received, ours, divisor=WORLD_SIZE)
    theirs = decode(symbols, scales, tables)
    large = tables.value_of
    assert torch.equal(ours[large], theirs[large]), "values of plain torch differ from ours"


def powersgd_cases(work: Workload, clock: Clock) -> list[Case]:
    """Give the arithmetic of PowerSGD at rank 4 over the bucket's matrices, without its two exchanges."""
    sets = clock.num_sets(8 * work.num_elements)
    values = [work.gradients(k) for k in range(sets)]
    errors = [torch.zeros_like(one) for one in values]
    cases = []
    for name, orthogonalize, waits in (("QR", qr, True), ("Gram-Schmidt", gram_schmidt, False)):
        states = [PowerSgd(work, orthogonalize) for _ in range(sets)]

        def step(k: int, states: list[PowerSgd] = states) -> torch.Tensor:
            return states[k](values[k], errors[k])

        cases.append(Case("encode_decode", f"PowerSGD rank 4, {name}", step, sets, waits=waits))
    return cases


def blockwise_cases(work: Workload, clock: Clock) -> list[Case]:
    """Give bitsandbytes' blockwise 8-bit quantization of the bucket, without a residual.

    Raises:
        ImportError: it is not installed.
    """
    functional = import_module("bitsandbytes.functional")
    sets = clock.num_sets(4 * work.num_elements)
    values = [work.gradients(k) for k in range(sets)]
    coded = [functional.quantize_blockwise(one) for one in values]
    size = 5 * work.num_elements
    # Its first call makes a table on the host; whether later ones wait is theirs to know, so plain calls.
    name = "bitsandbytes 8-bit"
    return [
        Case("encode", name, lambda k: functional.quantize_blockwise(values[k]), sets, size, waits=True),
        Case("decode", name, lambda k: functional.dequantize_blockwise(*coded[k]), sets, size, waits=True),
    ]


def ans_cases(work: Workload, clock: Clock, *, multiplier: float) -> list[Case]:
    """Give nvCOMP's ANS over the quartic bytes of the bucket.

    Raises:
        ImportError: it is not installed.
    """
    nvcomp = import_module("nvidia.nvcomp")
    symbols = quartic_bytes(work, clock, multiplier=multiplier)
    side = torch.cuda.Stream(work.device)
    codec = nvcomp.Codec(algorithm="ANS", cuda_stream=side.cuda_stream, data_type="|u1")
    torch.cuda.synchronize()
    arrays = [nvcomp.as_array(one) for one in symbols]
    coded = [codec.encode(one) for one in arrays]
    torch.cuda.synchronize()

    def on_its_stream(function: Callable[[Any], Any], sources: list[Any], k: int) -> Any:
        side.wait_stream(torch.cuda.current_stream())  # between the events that the clock records
        result = function(sources[k])
        torch.cuda.current_stream().wait_stream(side)
        return result

    back = torch.from_dlpack(codec.decode(coded[0])).view(torch.uint8).reshape(-1)
    assert torch.equal(back, symbols[0]), "nvCOMP gives other bytes back"
    size = coded[0].buffer_size
    common: dict[str, Any] = {"waits": True, "multiplier": multiplier, "output_bytes": size}
    moved = size + symbols[0].numel()
    return [
        Case("encode_bytes", "nvCOMP ANS", partial(on_its_stream, codec.encode, arrays), len(arrays), moved, **common),
        Case("decode_bytes", "nvCOMP ANS", partial(on_its_stream, codec.decode, coded), len(arrays), moved, **common),
    ]


PEERS: dict[str, Callable[[Workload, Clock], list[Case]]] = {
    "torch eager": partial(torch_cases, compiled=False),
    COMPILED: partial(torch_cases, compiled=True),
    "PowerSGD rank 4": powersgd_cases,
    "bitsandbytes 8-bit": blockwise_cases,
    "nvCOMP ANS": partial(ans_cases, multiplier=1.0),
}
