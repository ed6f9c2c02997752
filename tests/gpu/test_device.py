"""What only a GPU can show: no waiting, CUDA graphs, streams, and buckets of real size. Run with `pytest -m gpu`."""

import numpy as np
import pytest
import torch

from tests.gpu.test_codec import SMALL, TERNARY, bucket, cpu_decode, cpu_messages, flat
from tests.kernels.gpu import off, on
from trafficzip.codecs import Quartic, Rans, ZeroRun
from trafficzip.compressor import Compressor
from trafficzip.gpu import GpuCodec, VariableCodec
from trafficzip.kernels import Groups

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def step(codec, values, residual, lost, out):
    """Do all that a rank does with one bucket, as its own only peer."""
    message = codec.pack(codec.quantize(values, residual, residual))
    received = codec.unpack(message)
    mean = codec.pack(codec.quantize_mean(received, residual, lost))
    codec.decode(codec.unpack(mean), out)
    return message, mean


def prepare(seed):
    given = bucket(seed)
    codec = GpuCodec(given.messages(TERNARY, SMALL[0]), torch.device("cuda"))
    values, residual = on(given.values), on(given.residual)
    return codec, values, residual, torch.zeros_like(values), torch.zeros_like(values)


def test_fixed_size_messages_never_wait():
    arguments = prepare(1)
    step(*arguments)  # compiles
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(*arguments)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_step_is_captured_in_a_graph_and_replayed():
    codec, values, residual, lost, out = prepare(1)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step(codec, values, residual, lost, out)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(codec, values, residual, lost, out)
    for seed in (5, 6):
        given = bucket(seed)
        values.copy_(on(given.values))
        residual.copy_(on(given.residual))
        graph.replay()
        replayed = [off(part).tobytes() for part in (*captured, residual, lost, out)]
        values.copy_(on(given.values))
        residual.copy_(on(given.residual))
        direct = step(codec, values, residual, lost, out)
        assert replayed == [off(part).tobytes() for part in (*direct, residual, lost, out)]


def test_a_stream_of_its_own_gives_the_same_bytes():
    arguments = prepare(3)
    expected = [off(part).tobytes() for part in step(*arguments)]
    codec, values, residual, lost, out = prepare(3)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        found = step(codec, values, residual, lost, out)
    side.synchronize()
    assert [off(part).tobytes() for part in found] == expected


@pytest.mark.parametrize("last", [None, ZeroRun(), Rans(chunk_symbols=8192)], ids=["quartic", "zero_run", "rans"])
def test_a_bucket_of_25_million_elements(last):
    rng = np.random.default_rng(7)
    sizes = [2_359_296] * 9 + [1_048_576, 4_000_003, 17, 64]
    groups = Groups(sizes)
    values = (rng.standard_normal(sum(sizes)) ** 3).astype(np.float32)
    residual = rng.standard_normal(sum(sizes)).astype(np.float32)
    compressor = Compressor(quantizer=TERNARY.quantizer, codecs=(Quartic(), *([last] if last else [])))
    messages = [[(compressor, groups)]]
    codec = GpuCodec(messages, torch.device("cuda"))
    kept, out = on(residual), torch.empty(values.size, device="cuda")
    coded = codec.quantize(on(values), kept, kept)
    if last is None:
        message, sizes_of = codec.pack(coded), [codec.layout.num_bytes]
        codec.decode(codec.unpack(message.repeat(8), copies=8), out, divisor=8)
    else:
        variable = VariableCodec(codec)
        message, sizes_of = variable.pack(coded)
        codec.decode(variable.unpack(message.repeat(8), [sizes_of] * 8), out, divisor=8)
    (expected,) = cpu_messages(messages, values, residual, residual, like_residual=True)
    assert sizes_of == [expected.size]
    assert off(message).tobytes() == flat([expected]).tobytes()
    assert off(kept).tobytes() == residual.tobytes()
    mean = np.zeros_like(values)
    cpu_decode(messages, [[expected]] * 8, mean, 8)
    assert off(out).tobytes() == mean.tobytes()
