"""Compressed reduce-scatter: gradients reach the ranks that own their shards in few bytes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from trafficzip.comm.agreement import failing
from trafficzip.comm.exchange import Exchange
from trafficzip.comm.layout import Shard
from trafficzip.comm.reduce_scatter import ReduceScatter as ReduceScatterExchange
from trafficzip.comm.transport import Transport
from trafficzip.error_feedback import ErrorFeedback
from trafficzip.errors import ConfigError
from trafficzip.fsdp.compression import Compression, Config, as_float32, names_of, write_back
from trafficzip.fsdp.layout import Unit, chunk_shards
from trafficzip.fsdp.torch_parts import ReduceScatter, ShardedParameter, premultiplier
from trafficzip.kernels import as_array


class ShardedCompression(Compression):
    """Compression of the reduce-scatters of a model; `register` makes it.

    Each rank keeps one residual of all gradients of the model, float32: as much memory as the unsharded model in
    float32 takes, since every rank's loss in every chunk must come back through that rank.
    """

    kind = "reduce_scatter"

    def __init__(self, model: nn.Module, config: Config, transport: Transport, *, num_threads: int = 1) -> None:
        super().__init__(model, config, transport)
        worker = ErrorFeedback({p.name: p.num_elements for p in self.parameters})
        self._exchange = ReduceScatterExchange(transport, worker, num_threads=num_threads)
        self._layouts: dict[tuple[str, ...], list[Shard]] = {}

    @property
    def exchange(self) -> Exchange:
        """What moves frames and holds residuals."""
        return self._exchange

    def layout(self, parameters: Sequence[ShardedParameter]) -> list[Shard]:
        """Give where these parameters lie in the chunks of a reduce-scatter."""
        key = names_of(parameters)
        if key not in self._layouts:
            self._layouts[key] = chunk_shards(
                parameters,
                world_size=self.transport.world_size,
                small=self.small,
                residual_starts=self._exchange.worker.starts,
            )
        return self._layouts[key]


class CompressedReduceScatter(ReduceScatter):
    """What FSDP2 calls for one module. It has no id there, so each module has an object of its own."""

    def __init__(self, compression: ShardedCompression, unit: Unit) -> None:
        self.compression = compression
        self.unit = unit

    def allocate(self, size: Sequence[int | torch.SymInt], *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """Give memory for an input or an output."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self,
        output_tensor: torch.Tensor,
        input_tensor: torch.Tensor,
        group: dist.ProcessGroup,
        op: Any,
        async_op: bool = False,
    ) -> None:
        """Write to `output_tensor` the reduction over all ranks of this rank's chunk.

        output_tensor: float32, float16 or bfloat16 [chunk].
        input_tensor: the same dtype, [ranks * chunk]; used as scratch memory.
        op: SUM, AVG or PREMUL_SUM. Sums are taken in float32, in rank order, and rounded once.
        async_op: there is nothing to wait for when this returns.
        Raises:
            CollectiveError: another rank failed.
            ConfigError: another operation or dtype.
        """
        compression = self.compression
        parameters = compression.known(self.unit, output_tensor.numel())
        if parameters is None:
            compression.count_dense()
            _dense(output_tensor, input_tensor, group, op)
            return
        with failing(compression.transport):
            self._reduce(output_tensor, input_tensor, op, compression.layout(parameters))

    def _reduce(self, output: torch.Tensor, values: torch.Tensor, op: Any, shards: list[Shard]) -> None:
        compression = self.compression
        world_size = compression.transport.world_size
        factor = premultiplier(op)
        if factor is None and op not in (dist.ReduceOp.SUM, dist.ReduceOp.AVG):
            raise ConfigError(f"reduce-scatter with {op}: only SUM, AVG and PREMUL_SUM can be compressed")
        exchange = compression.exchange
        pending = exchange.start(as_array(as_float32(values)), shards, compression.codecs)
        compression.count(
            finite=not pending.nonfinite, dense_bytes=(world_size - 1) * output.numel() * output.element_size()
        )
        if pending.nonfinite:
            output.fill_(float("nan"))
            return
        sums = np.empty(output.numel(), np.float32)
        exchange.decode(pending, sums)
        exchange.finish(pending)
        if factor is not None:
            sums *= np.float32(factor)
        elif op == dist.ReduceOp.AVG:
            sums /= np.float32(world_size)
        write_back(sums, output)


def _dense(output: torch.Tensor, values: torch.Tensor, group: dist.ProcessGroup, op: Any) -> None:
    """Reduce as FSDP2 does without compression; Gloo has no PREMUL_SUM, so its factor is applied before."""
    factor = premultiplier(op)
    if factor is not None:
        values.mul_(factor)
        op = dist.ReduceOp.SUM
    reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
    reduce_scatter(output, values, op=op, group=group)
