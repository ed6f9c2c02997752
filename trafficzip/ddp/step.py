"""A step in progress: its plan, and the buckets that have come."""

from dataclasses import dataclass, field

import numpy as np
import torch

from trafficzip.comm.exchange import Codecs, Exchange, Pending
from trafficzip.comm.layout import Shard
from trafficzip.compressor import Compressor
from trafficzip.ddp.plan import Plan
from trafficzip.kernels import as_array

TensorFuture = torch.futures.Future[torch.Tensor]


@dataclass(slots=True, eq=False)
class Bucket:
    """DDP's tensor, how it is exchanged, and the exchange's half-done work once it has started."""

    tensor: torch.Tensor
    exchange: Exchange
    shards: list[Shard]
    codecs: Codecs
    future: TensorFuture = field(default_factory=torch.futures.Future)
    pending: Pending | None = None

    def start(self) -> None:
        """Compress and exchange, and change nothing but the tensor."""
        values = self.tensor.detach()
        if values.dtype != torch.float32:
            values = values.float()  # a copy, which holds what was lost until the step is complete
        pending = self.exchange.start(as_array(values), self.shards, self.codecs)
        if self.tensor.dtype == torch.float16 and not pending.nonfinite:
            # A mean that is finite in float32 may overflow here; the loss scaler must then see it on every rank.
            mean = np.empty(pending.values.size, np.float32)
            self.exchange.decode(pending, mean)
            pending.nonfinite = bool(np.abs(mean).max(initial=0) > torch.finfo(torch.float16).max)
        self.pending = pending


@dataclass(slots=True, eq=False)
class Step:
    """pair: what the schedule says for workers and owners; None where the whole step is dense for its sake."""

    plan: Plan
    pair: tuple[Compressor, Compressor] | None
    buckets: list[Bucket] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def finish(self) -> list[Pending]:
        """Commit all buckets, or none: then every rank receives NaN and keeps its residuals."""
        done = [bucket.pending for bucket in self.buckets if bucket.pending is not None]
        assert len(done) == len(self.buckets), "a bucket has not been exchanged"
        nonfinite = any(pending.nonfinite for pending in done)
        for bucket, pending in zip(self.buckets, done, strict=True):
            if nonfinite:
                bucket.tensor.fill_(float("nan"))
                continue
            bucket.exchange.finish(pending)
            if bucket.tensor.dtype != torch.float32:
                bucket.tensor.copy_(torch.from_numpy(pending.values))
        for pending in done:
            pending.values = np.zeros(0, np.float32)  # DDP's memory, or a copy that is no longer needed
        return done

    def complete(self) -> None:
        """Give every bucket to DDP."""
        for bucket in self.buckets:
            bucket.future.set_result(bucket.tensor)
