"""Payload: the bytes of codes alone that an exchange had to move, without any header, scale or length."""

from typing import Any

import torch
import torch.distributed as dist

from trafficzip.comm.exchange import TwoPhase
from trafficzip.ddp import GradientCompression


class PayloadCounter:
    """Adds up the codes of a hook's two-phase exchanges; of other methods it knows nothing.

    `count` after every step; `per_rank` is a collective call.
    """

    def __init__(self, handle: Any) -> None:
        two_phase = isinstance(handle, GradientCompression) and type(handle.exchange) is TwoPhase
        self._handle = handle if two_phase else None
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self._pushed = self._pulled = self._steps = 0

    def count(self) -> None:
        """Add the last step's codes."""
        if self._handle is not None:
            last = self._handle._last
            self._pushed += sum(f.payload.size for p in last for frames in p.sent for f in frames)
            self._pulled += sum(f.payload.size for p in last for f in p.owned)
            self._steps += 1

    def per_rank(self) -> int | str:
        """Give (N - 1) / N x (codes pushed by a rank + codes pulled) per step, mean over ranks; "" where not counted.

        For equal shards that is 2 (N - 1) / N x the payload of one compressed gradient.
        """
        if self._handle is None or not self._steps:
            return ""
        total = torch.tensor([float(self._pushed), float(self._pulled)], dtype=torch.float64)
        dist.all_reduce(total)
        ranks = dist.get_world_size()
        return round((ranks - 1) / ranks * (float(total[0]) / ranks + float(total[1])) / self._steps)
