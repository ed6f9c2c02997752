import numpy as np
import pytest

pytest.importorskip("tokenizers", reason="the benchmarks of checkpoints need tokenizers")
pytest.importorskip("zstandard")
pytest.importorskip("gguf")

from benchmarks.checkpoint.quality import relative_l2
from benchmarks.checkpoint.simple_peers import GGUF_TYPES, gguf_file, safetensors_bf16, usq_step, usq_zstd


@pytest.fixture
def tensors():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(64, 96)).astype(np.float32)
    matrix[0, 0] = 400  # needs 16 bits at small steps
    kernel = rng.normal(size=(64, 32, 3, 3)).astype(np.float32)
    return {"matrix": matrix, "kernel": kernel, "bias": rng.normal(size=7).astype(np.float32)}


def test_bf16_keeps_eight_bits(tensors):
    outcome = safetensors_bf16(tensors)
    for name, value in tensors.items():
        assert (np.abs(outcome.decoded[name] - value) <= np.abs(value) * 2**-8).all()
    assert 2 * sum(value.size for value in tensors.values()) < outcome.bytes


@pytest.mark.parametrize("step", [1.0, 0.01])
def test_usq_errs_by_half_a_step(tensors, step):
    decoded = usq_zstd(tensors, step).decoded
    for name in ("matrix", "kernel"):
        # half a step, and float32's rounding of the quotient and the product
        assert np.abs(decoded[name] - tensors[name]).max() <= step * 0.5 + 400 * 2**-22
    assert decoded["bias"].shape == (7,)


def test_step_gives_the_wanted_bits(tensors):
    step = usq_step(tensors, 3)
    num_parameters = sum(value.size for value in tensors.values())
    assert 2.95 < 8 * usq_zstd(tensors, step).bytes / num_parameters <= 3


@pytest.mark.parametrize("kind", GGUF_TYPES)
def test_gguf_keeps_shapes(tensors, kind):
    del tensors["matrix"]
    decoded = gguf_file(tensors, kind).decoded
    assert {name: value.shape for name, value in decoded.items()} == {n: v.shape for n, v in tensors.items()}
    assert relative_l2(tensors, decoded) < {"Q8_0": 0.01, "Q5_0": 0.06, "Q4_0": 0.12}[kind]
    assert np.array_equal(decoded["bias"], tensors["bias"])
