"""Zero runs and rANS alone, on the quartic bytes of a whole bucket: what other entropy coders are compared with."""

import torch

from benchmarks.gpu.cases import Case
from benchmarks.gpu.timing import Clock
from benchmarks.gpu.workload import Workload, ternary
from trafficzip.gpu import GpuCodec
from trafficzip.gpu.layout import KIND_TERNARY
from trafficzip.kernels.segments import Segments
from trafficzip.kernels.triton_gpu import on_device
from trafficzip.kernels.triton_gpu_rans import rans_encode
from trafficzip.kernels.triton_gpu_rans_decode import rans_decode
from trafficzip.kernels.triton_gpu_zero_run import TILE, zero_run_decode, zero_run_encode


def stage_cases(work: Workload, clock: Clock, *, multiplier: float) -> list[Case]:
    """Give zero runs and rANS alone, on the quartic bytes of the whole bucket as one segment."""
    symbols = quartic_bytes(work, clock, multiplier=multiplier)
    sets, size, device = len(symbols), symbols[0].numel(), work.device
    segments = Segments([0], [size])
    tiles = on_device(segments.tiles(TILE), device)
    places = on_device([0], device), on_device([size], device)
    outs = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(sets)]
    runs = [torch.empty_like(symbols[0]) for _ in range(sets)]
    run_sizes = [int(zero_run_encode(symbols[k], tiles, 1, runs[k])) for k in range(sets)]
    run_tiles = [on_device(Segments([0], [n]).tiles(TILE), device) for n in run_sizes]
    status = torch.zeros(1, dtype=torch.int32, device=device)
    coded = [rans_encode(one, segments) for one in symbols]

    def zero_runs(k: int) -> torch.Tensor:
        return zero_run_encode(symbols[k], tiles, 1, outs[k])

    def expand(k: int) -> torch.Tensor:
        zero_run_decode(runs[k], run_tiles[k], outs[k], *places, status)
        return outs[k]

    def rans(k: int) -> torch.Tensor:
        return rans_encode(symbols[k], segments)[0]

    def rans_back(k: int) -> torch.Tensor:
        data, sizes = coded[k]
        rans_decode(data, Segments([0], sizes), outs[k], [0], [size])
        return outs[k]

    expand(0)
    assert torch.equal(outs[0], symbols[0])
    outs[0].zero_()
    rans_back(0)
    assert torch.equal(outs[0], symbols[0])
    run_size, rans_size = run_sizes[0], coded[0][1][0]
    m = multiplier
    return [
        Case("encode_bytes", "zero_run", zero_runs, sets, size + run_size, multiplier=m, output_bytes=run_size),
        Case("decode_bytes", "zero_run", expand, sets, size + run_size, multiplier=m, output_bytes=run_size),
        Case("encode_bytes", "rans", rans, sets, size + rans_size, {}, True, m, rans_size),
        Case("decode_bytes", "rans", rans_back, sets, size + rans_size, {}, True, m, rans_size),
    ]


def quartic_bytes(work: Workload, clock: Clock, *, multiplier: float) -> list[torch.Tensor]:
    """Give sets of the quartic bytes of the bucket's large tensors."""
    codec = GpuCodec(work.gathered(ternary(multiplier)), work.device)
    frame = codec.layout.frames[0]
    size = frame.start + frame.size - frame.code_start
    assert frame.kind == KIND_TERNARY
    found = []
    for k in range(clock.num_sets(size)):
        values, residual = work.buffer(codec, k)
        data = codec.quantize(values, residual).data
        found.append(data[frame.code_start : frame.code_start + size].clone())
    return found
