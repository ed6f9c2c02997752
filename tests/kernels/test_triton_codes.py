"""GPU kernels of all quantizers equal the plain definitions, bit for bit, at any tile size."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.gpu import DEVICE, off, on  # before triton is imported
from tests.quantizers.test_quantizers import MULTIPLIERS, problems
from trafficzip.codecs import Quartic
from trafficzip.compressor import Compressor
from trafficzip.gpu.layout import MessageLayout, frame_table
from trafficzip.kernels import Groups, reference
from trafficzip.kernels import triton_gpu_codes as codes_gpu
from trafficzip.kernels import triton_gpu_decode as decode_gpu
from trafficzip.kernels import triton_gpu_scales as scales_gpu
from trafficzip.quantizers import CastBfloat16, CastFloat32, Int8, Int8Blockwise, Ternary

few = settings(max_examples=20)
OTHERS = [CastBfloat16(), CastFloat32(), Int8(), Int8Blockwise(block=16)]


class Device:
    """One frame's kernels, launched as the codec launches them."""

    def __init__(self, quantizer, groups, rows):
        codecs = (Quartic(),) if isinstance(quantizer, Ternary) else ()
        (self.frame,) = MessageLayout([[(Compressor(quantizer=quantizer, codecs=codecs), groups)]]).frames
        self.rows, self.tiles = rows, on(self.frame.tiles(15 * rows))
        self.groups = on(self.frame.scale_table())
        self.frames, self.headers = on(frame_table([self.frame])), on(self.frame.headers()[None])
        self.message = torch.zeros(self.frame.size, dtype=torch.uint8, device=DEVICE)
        self.zero = torch.zeros(1, dtype=torch.int32, device=DEVICE)

    def find_scales(self, values, residual):
        count = self.groups.shape[0]
        peaks = torch.zeros((2, count), dtype=torch.int32, device=DEVICE)
        scales = torch.zeros(count, dtype=torch.float32, device=DEVICE)
        if self.frame.block > 1:
            tile = 8 * self.rows  # shorter than a block, and longer
            tiles = on(self.frame.tiles(tile))
            scales_gpu.block_peaks(values, residual, tiles, peaks, tile=tile, block=self.frame.block)
        else:
            scales_gpu.group_peaks(values, residual, self.tiles, peaks, tile=15 * self.rows)
        flag = torch.zeros(1, dtype=torch.int32, device=DEVICE)
        scales_gpu.find_scales(peaks, self.groups, scales, self.message, flag, self.frames, self.headers)
        return scales, flag

    def quantize(self, values, residual, out, scales, *, like_residual):
        codes_gpu.quantize(
            values, residual, out, self.tiles, scales, self.zero, self.message,
            kind=self.frame.kind, rows=self.rows, out_like_residual=like_residual, block=self.frame.block,
        )  # fmt: skip
        return off(self.message)[self.frame.code_start :]


@pytest.mark.parametrize("quantizer", [Ternary(), *OTHERS], ids=repr)
@few
@given(problems(), st.sampled_from(MULTIPLIERS), st.booleans(), st.sampled_from(["values", "residual", "none"]),
       st.sampled_from([1, 4, 64]))  # fmt: skip
def test_scales_codes_and_what_is_lost(quantizer, problem, multiplier, with_residual, out_name, rows):
    values, residual, groups = problem
    if isinstance(quantizer, Ternary):
        quantizer = Ternary(multiplier=multiplier)
    kept = residual if with_residual else None
    out_name = out_name if with_residual else "none"
    like = out_name == "residual"
    expected_scales = quantizer.find_scales(values, kept, groups)
    device = Device(quantizer, groups, rows)
    v, r = on(values), on(residual)
    scales, flag = device.find_scales(v, r if with_residual else None)
    assert bool(flag.item()) == (expected_scales is None)
    if expected_scales is None:
        return
    assert off(scales).tobytes() == expected_scales.tobytes()
    expected_values, expected_residual = values.copy(), residual.copy()
    out = {"values": v, "residual": r, "none": None}[out_name]
    expected_out = {"values": expected_values, "residual": expected_residual, "none": None}[out_name]
    expected = quantizer.quantize(
        expected_values, groups, scales=expected_scales, residual=expected_residual if with_residual else None,
        out=expected_out, out_like_residual=like,
    ).codes  # fmt: skip
    if isinstance(quantizer, Ternary):
        expected = reference.quartic_pack(expected)
    if isinstance(quantizer, Int8Blockwise):
        expected = expected[4 * len(expected_scales) :]
    codes = device.quantize(v, r if with_residual else None, out, scales, like_residual=like)
    assert codes.tobytes() == expected.tobytes()
    assert off(v).tobytes() == expected_values.tobytes()
    assert off(r).tobytes() == expected_residual.tobytes()


@pytest.mark.parametrize("quantizer", [Ternary(multiplier=1.5), *OTHERS], ids=repr)
@few
@given(problems(), st.integers(0, 3), st.booleans(), st.sampled_from([1, 64]), st.sampled_from([1, 2, 3, 8]))
def test_accumulate_adds_frames_in_order_and_divides_once(quantizer, problem, num_frames, like_residual, rows, divisor):
    values, residual, groups = problem
    device = Device(quantizer, groups, rows)
    out = (residual if like_residual else values).copy()
    frames, scales, expected = [], [], np.zeros_like(out)
    for k in range(num_frames):
        given = (values * np.float32(1 + k)).astype(np.float32)
        found = quantizer.find_scales(given, None, groups)
        if found is None:
            return
        quantized = quantizer.quantize(given, groups, scales=found)
        data = quantized.codes
        quantizer.accumulate(data, quantized.scales, groups, expected, sign=1.0, out_like_residual=like_residual)
        data = reference.quartic_pack(data) if isinstance(quantizer, Ternary) else data
        frames.append(np.concatenate([np.zeros(device.frame.payload_start, np.uint8), data.view(np.uint8)]))
        scales.append(found)
    expected /= np.float32(divisor)
    size = device.frame.size
    count = device.groups.shape[0]
    data = on(np.concatenate([*frames, np.zeros(1, np.uint8)]))
    table = on(np.array(scales, np.float32).reshape(num_frames, count))
    got = on(out)
    tile = 5 * rows if isinstance(quantizer, Ternary) else rows
    decode_gpu.accumulate(
        data, table, got, on(device.frame.tiles(tile)), device.zero, kind=device.frame.kind, tile=tile, stride=size,
        out_like_residual=like_residual, divisor=divisor, block=device.frame.block,
    )  # fmt: skip
    starts = groups.residual_starts if like_residual else groups.value_starts
    for start, group_size in zip(starts, groups.sizes, strict=True):
        assert (off(got)[start : start + group_size] == expected[start : start + group_size]).all()
    outside = np.ones(out.size, bool)
    for start, group_size in zip(starts, groups.sizes, strict=True):
        outside[start : start + group_size] = False
    assert off(got)[outside].tobytes() == out[outside].tobytes()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reads_gradients_of_fewer_bits_as_float32(dtype):
    rng = np.random.default_rng(5)
    values = torch.from_numpy(rng.standard_normal(700).astype(np.float32)).to(dtype)
    residual = rng.standard_normal(700).astype(np.float32)
    groups = Groups([333, 367])
    device = Device(Ternary(), groups, 64)
    lost = on(residual)
    scales, _ = device.find_scales(values.to(DEVICE), lost)
    codes = device.quantize(values.to(DEVICE), lost, lost, scales, like_residual=True)
    plain = values.float().numpy()
    expected_scales = Ternary().find_scales(plain, residual, groups)
    expected_lost = residual.copy()
    expected = reference.ternarize(plain, residual, expected_lost, groups, expected_scales, out_like_residual=True)
    assert off(scales).tobytes() == expected_scales.tobytes()
    assert codes.tobytes() == reference.quartic_pack(expected).tobytes()
    assert off(lost).tobytes() == expected_lost.tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3.4e38])
@pytest.mark.parametrize("where", ["values", "residual"])
def test_what_is_not_finite_raises_the_flag(bad, where):
    values, residual = np.ones(50, np.float32), np.ones(50, np.float32)
    (values if where == "values" else residual)[33] = bad
    for quantizer in (Ternary(multiplier=1.5), *OTHERS):
        device = Device(quantizer, Groups([20, 30]), 4)
        _, flag = device.find_scales(on(values), on(residual))
        assert bool(flag.item()) == (quantizer.find_scales(values, residual, Groups([20, 30])) is None)
    device = Device(Ternary(multiplier=1.5), Groups([20, 30]), 4)
    scales, flag = device.find_scales(on(values), on(residual))
    device.zero = flag
    v, r = on(values), on(residual)
    device.message.fill_(7)
    assert not device.quantize(v, r, r, scales, like_residual=True).any()
    assert off(r).tobytes() == residual.tobytes()
