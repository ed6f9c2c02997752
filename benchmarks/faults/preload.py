"""Imported once by the process that ranks are forked from, so that each starts in a moment."""

import numpy as np
import torch._dynamo  # noqa: F401 the first optimizer imports it

import benchmarks.faults.local
import benchmarks.faults.sharded
import benchmarks.faults.worker  # noqa: F401
import trafficzip.ddp  # noqa: F401
from trafficzip.kernels import Groups
from trafficzip.presets import BFLOAT16, THREE_LC, THREE_LC_RANS

_VALUES = np.linspace(-1, 1, 500, dtype=np.float32)
_GROUPS = Groups([_VALUES.size])

for _compressor in (BFLOAT16, THREE_LC, THREE_LC_RANS):
    _out = _VALUES.copy()
    _frame = _compressor.compress(_VALUES, _GROUPS, residual=_out, out=_out, num_threads=1)
    _compressor.accumulate(_frame, _GROUPS, _out, num_threads=1)
    _compressor.accumulate(_compressor.compress(_out, _GROUPS, residual=_out), _GROUPS, _out)
