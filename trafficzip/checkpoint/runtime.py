"""Tensors as they are computed with: integers and scales, without a pass through floating point."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficzip.checkpoint.coders.blockwise import Blockwise
from trafficzip.checkpoint.coders.ternary import Ternary
from trafficzip.checkpoint.reader import CheckpointFile
from trafficzip.checkpoint.tensors import TensorInfo
from trafficzip.checkpoint.trellis.coder import Trellis
from trafficzip.checkpoint.trellis.scales import step_of
from trafficzip.errors import ConfigError


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedTensor:
    """Integers of a tensor's shape; the flattened elements starts[k] to starts[k + 1] - 1 are multiples of scales[k].

    values: int8 or int32 [...].  scales: float32 [k].  starts: int64 [k + 1].
    """

    info: TensorInfo
    values: NDArray[Any]
    scales: NDArray[np.float32]
    starts: NDArray[np.int64]

    def dequantize(self) -> NDArray[np.float32]:
        """Give float32 values, as decoding a float32 tensor gives them."""
        wide = np.repeat(self.scales, np.diff(self.starts)).reshape(self.values.shape)
        found: NDArray[np.float32] = self.values.astype(np.float32) * wide
        return found


def read_quantized(file: CheckpointFile, name: str) -> QuantizedTensor:
    """Decode a tensor that was stored by trellis (int32, one scale), blockwise or ternary (int8, a scale per block).

    Raises:
        KeyError: there is no tensor of that name.
        ConfigError: it was stored in another way.
        CorruptPayloadError: a record of it is damaged.
    """
    entry = file.entry(name)
    coder, info = file.coders[entry.coder], entry.info
    if isinstance(coder, Trellis):
        step = step_of(entry.params[0])
        multiples = np.rint(file.read_as(name, np.float32) / step).astype(np.int32)
        return QuantizedTensor(info, multiples, np.array([step], np.float32), np.array([0, info.num_elements]))
    if not isinstance(coder, Blockwise | Ternary):
        raise ConfigError(f"{info}: stored by {coder.kind}, which has no integers and scales")
    values = np.empty(info.num_elements, np.int8)
    scales: list[NDArray[np.float32]] = []
    starts: list[NDArray[np.int64]] = []
    for infos, piece, place, record, describe in file.records_of(name):
        segment, found = piece[place], coder.integers(infos, piece, record, describe)[place]
        values[segment.start : segment.stop] = found.integers
        scales.append(found.scales)
        starts.append(segment.start + np.arange(found.scales.size) * found.block)
    ends = np.array([info.num_elements])
    every = np.concatenate(scales) if scales else np.zeros(0, np.float32)
    return QuantizedTensor(info, values.reshape(info.shape), every, np.concatenate([*starts, ends]))
