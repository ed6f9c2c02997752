"""Imported once by the process that test processes are forked from: what is slow is loaded before, not by each."""

import numpy as np
import torch._dynamo  # noqa: F401 the first optimizer imports it

import trafficzip.ddp  # noqa: F401
from trafficzip.kernels import Groups
from trafficzip.presets import PRESETS

_VALUES = np.linspace(-1, 1, 500, dtype=np.float32)
_GROUPS = Groups([_VALUES.size])

for _compressor in PRESETS.values():
    _out = _VALUES.copy()
    _frame = _compressor.compress(_VALUES, _GROUPS, residual=_out, out=_out, num_threads=1)
    _compressor.accumulate(_frame, _GROUPS, _out, num_threads=1)
    _compressor.accumulate(_compressor.compress(_out, _GROUPS, residual=_out), _GROUPS, _out)
