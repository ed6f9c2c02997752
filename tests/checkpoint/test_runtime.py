"""Integers and scales are what the decoded values are made of."""

import io

import ml_dtypes
import numpy as np
import pytest

from trafficzip.checkpoint.calibrate import round_to_data
from trafficzip.checkpoint.coders.blockwise import Blockwise
from trafficzip.checkpoint.coders.planes import Planes
from trafficzip.checkpoint.coders.ternary import Ternary
from trafficzip.checkpoint.pieces import PIECE_ELEMENTS
from trafficzip.checkpoint.reader import CheckpointFile
from trafficzip.checkpoint.runtime import read_quantized
from trafficzip.checkpoint.sources import MemorySource
from trafficzip.checkpoint.trellis.coder import Trellis
from trafficzip.checkpoint.writer import Assignment, write_checkpoint
from trafficzip.errors import ConfigError, CorruptPayloadError


def written(tensors, coder, step=None, grams=None):
    source = MemorySource(tensors)
    chosen = [Assignment(info, coder, step) for info in source.infos]
    if grams:
        source, chosen = round_to_data(source, chosen, grams)
    sink = io.BytesIO()
    write_checkpoint(sink, source, chosen)
    return sink.getvalue()


def weights(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("coder", "step", "dtype"),
    [
        (Trellis(num_states=8), -70, np.int32),
        (Blockwise(bits=4, block_size=48), None, np.int8),
        (Blockwise(bits=8, block_size=0), None, np.int8),
        (Ternary(), None, np.int8),
    ],
)
def test_integers_times_scales_are_the_values(coder, step, dtype):
    tensors = {
        "a": weights(30, 50),
        "b": weights(9),
        "large": weights(3, PIECE_ELEMENTS // 2 + 7),
        "none": weights(0, 4),
    }
    file = CheckpointFile(written(tensors, coder, step))
    for name in tensors:
        found = read_quantized(file, name)
        assert found.values.dtype == dtype
        assert found.values.shape == tensors[name].shape
        assert found.starts[-1] == found.values.size
        np.testing.assert_array_equal(found.dequantize(), file[name])


def test_half_precision_and_columns():
    half = weights(40, 20).astype(ml_dtypes.bfloat16)
    found = read_quantized(CheckpointFile(written({"w": half}, Trellis(num_states=8), -70)), "w")
    np.testing.assert_array_equal(np.abs(found.dequantize() - half.astype(np.float32)).max() < 1, True)
    turned = CheckpointFile(written({"w": weights(40, 20)}, Trellis(num_states=8), -70, {"w": np.eye(20)}))
    np.testing.assert_array_equal(read_quantized(turned, "w").dequantize(), turned["w"])


def test_others_and_damage_are_errors():
    data = written({"w": weights(8, 8)}, Planes())
    with pytest.raises(ConfigError, match=r"w float32\[8, 8\]: stored by planes, which has no integers"):
        read_quantized(CheckpointFile(data), "w")
    with pytest.raises(KeyError, match="no tensor is called 'v'"):
        read_quantized(CheckpointFile(data), "v")
    damaged = bytearray(written({"w": weights(8, 8)}, Blockwise(bits=4)))
    damaged[20] ^= 1
    with pytest.raises(CorruptPayloadError, match="w"):
        read_quantized(CheckpointFile(bytes(damaged)), "w")
