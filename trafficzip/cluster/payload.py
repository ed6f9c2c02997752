"""Payload: the bytes of codes alone that a step's exchange had to move, without any header, scale or length."""

from typing import Any

import torch
import torch.distributed as dist

from trafficzip.comm.exchange import TwoPhase
from trafficzip.ddp import GradientCompression


def payload_bytes(handle: Any) -> int | str:
    """Give (N - 1) / N x (the codes pushed by a rank + the codes pulled), mean over ranks, of the last step.

    For equal shards that is 2 (N - 1) / N x the payload of one compressed gradient. A collective call; gives "" for
    methods other than the hook's two-phase exchange.
    """
    if not isinstance(handle, GradientCompression) or type(handle.exchange) is not TwoPhase:
        return ""
    pushed = sum(f.payload.size for p in handle._last for frames in p.sent for f in frames)
    pulled = sum(f.payload.size for p in handle._last for f in p.owned)
    total = torch.tensor([float(pushed), float(pulled)], dtype=torch.float64)
    dist.all_reduce(total)
    ranks = dist.get_world_size()
    return round((ranks - 1) / ranks * (float(total[0]) / ranks + float(total[1])))
