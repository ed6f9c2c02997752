"""Encodes arrays by a coder and decodes them again, without a file around them."""

import numpy as np

from trafficzip.checkpoint.coders.base import Job
from trafficzip.checkpoint.pieces import pieces
from trafficzip.checkpoint.tensors import TensorInfo


class Records:
    """The pieces of some arrays, and what a coder makes of them."""

    def __init__(self, coder, arrays):
        self.coder = coder
        self.arrays = arrays
        self.infos = tuple(TensorInfo(f"t{place}", a.dtype.name, a.shape) for place, a in enumerate(arrays))
        self.pieces = tuple(pieces(self.infos))
        encoding = coder.plan(Job(self.infos, lambda place: arrays[place], (None,) * len(arrays)))
        self.params, self.shared = encoding.params, encoding.shared
        flat = [array.reshape(-1) for array in arrays]
        slices = [[flat[s.tensor][s.start : s.stop] for s in piece] for piece in self.pieces]
        self.records = [encoding.encode(piece, part) for piece, part in zip(self.pieces, slices, strict=True)]

    def decoded(self, records=None):
        """Decode records, those of the arrays by default."""
        outs = [np.zeros(info.shape, array.dtype) for info, array in zip(self.infos, self.arrays, strict=True)]
        shared = None if self.shared is None else np.frombuffer(self.shared, np.uint8)
        decode = self.coder.decoder(self.infos, self.params, shared)
        for piece, record in zip(self.pieces, self.records if records is None else records, strict=True):
            slices = [outs[s.tensor].reshape(-1)[s.start : s.stop] for s in piece]
            decode(piece, np.frombuffer(record, np.uint8), slices, lambda: "the piece")
        return outs


def bits(array):
    """The bytes of an array: NaN compare by their payloads."""
    return np.ascontiguousarray(array).tobytes()
