"""Before each forward pass: what DDP would only say in words of its own, or not at all."""

from typing import Any

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from trafficzip.comm.agreement import failing
from trafficzip.ddp.hook import GradientCompression

_EMPTY = np.zeros(0, np.uint8)


def guard_forward(model: DistributedDataParallel, state: GradientCompression) -> None:
    """Make forward passes that record gradients raise CollectiveError where the one behind them cannot be exchanged.

    After a failed exchange they raise at once: DDP is left half-way, and would complain of its own bookkeeping. And
    before DDP rebuilds its buckets, in the pass after the first step (the second, of a static graph), ranks meet over
    the hook's transport, so that one that is lost is named instead of breaking torch's broadcast. Inside Join, ranks
    without inputs rebuild buckets without a forward pass, so there they do not meet.
    """
    meetings_left = 2 if model.static_graph else 1
    met_at = 0

    def before_forward(module: Any, inputs: Any) -> None:
        nonlocal meetings_left, met_at
        if not torch.is_grad_enabled():
            return
        state.transport.check()
        if meetings_left and state.exchanged_steps != met_at and not module._join_config.enable:
            meetings_left -= 1
            met_at = state.exchanged_steps
            with failing(state.transport):
                state.transport.all_gather(_EMPTY, limit=0)

    model.register_forward_pre_hook(torch.compiler.disable(before_forward))  # type: ignore[no-untyped-call]
