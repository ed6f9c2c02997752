"""The model of the rANS codec: how likely each quartic byte is, and how a payload says so."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trafficzip import kernels
from trafficzip.codecs.base import Bytes
from trafficzip.errors import CorruptPayloadError
from trafficzip.kernels.reference_rans import NUM_SYMBOLS


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Model:
    """Frequencies of the symbols and the bytes that carry them.

    frequencies: int64 [243], 0 where a symbol does not occur, sum 2**precision_bits.
    data: uint8 [m], the model as it stands at the start of a payload.
    Source: FORMAT.md, rANS, model.
    """

    frequencies: NDArray[np.int64]
    precision_bits: int
    data: Bytes


def fit_model(counts: NDArray[np.int64]) -> Model:
    """Choose the model that makes model and symbols shortest.

    counts: int64 [243 or more], at least two > 0 and all of those among the first 243.
    """
    data, frequencies, precision_bits = kernels.rans_fit(counts)
    return Model(frequencies=frequencies, precision_bits=precision_bits, data=data)


def read_model(data: Bytes) -> Model:
    """Read the model at the start of `data`, which is not empty; `Model.data` has as many bytes as it took.

    Raises:
        CorruptPayloadError: `data` does not start with a model.
    """
    frequencies = np.zeros(NUM_SYMBOLS, np.int64)
    size, precision_bits = kernels.rans_read_model(data, frequencies)
    if size < 0:
        raise CorruptPayloadError("rANS payload at byte 0: found no model, expected one of FORMAT.md, rANS, model")
    return Model(frequencies=frequencies, precision_bits=precision_bits, data=data[:size])
