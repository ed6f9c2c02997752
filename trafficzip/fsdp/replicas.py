"""Compressed all-reduce between replicas of a sharded model: dense inside a shard group, compressed between groups."""

import torch
import torch.distributed as dist
from torch import nn

from trafficzip.comm.agreement import failing
from trafficzip.comm.assembly import ExchangeKind, make_exchange
from trafficzip.comm.exchange import Exchange
from trafficzip.comm.layout import Parameter, Shard
from trafficzip.comm.transport import Transport
from trafficzip.fsdp.compression import Compression, Config, as_float32, names_of, write_back
from trafficzip.fsdp.layout import Unit, chunk_starts
from trafficzip.fsdp.torch_parts import ShardedParameter
from trafficzip.kernels import as_array

_ALL_GATHER_UP_TO = 3  # replicas: beyond, gathering every replica's frames costs more bytes than two phases


class ReplicaCompression(Compression):
    """Compression between the ranks that hold the same shard; `register_replicas` makes it.

    shard_rank: which chunk this rank owns; equal on all ranks of the replica group.
    Residuals have the size of this rank's shard.
    """

    kind = "replicas"

    def __init__(
        self, model: nn.Module, config: Config, transport: Transport, *, shard_rank: int, num_threads: int = 1
    ) -> None:
        super().__init__(model, config, transport)
        self.shard_rank = shard_rank
        local = [
            Parameter(p.name, p.sizes[shard_rank], self.small[p.name]) for p in self.parameters if p.sizes[shard_rank]
        ]
        kind: ExchangeKind = "all_gather" if transport.world_size <= _ALL_GATHER_UP_TO else "two_phase"
        self._exchange, self._layout = make_exchange(kind, transport, local, num_threads=num_threads)
        self._buckets: dict[tuple[str, ...], list[Shard]] = {}

    @property
    def exchange(self) -> Exchange:
        """What moves frames and holds residuals."""
        return self._exchange

    def bucket(self, parameters: tuple[ShardedParameter, ...]) -> list[Shard]:
        """Give where these parameters lie in a reduce-scatter's output."""
        key = names_of(parameters)
        if key not in self._buckets:
            starts = chunk_starts(parameters)
            here = {p.name: starts[p.name] for p in parameters if p.sizes[self.shard_rank]}
            self._buckets[key] = self._layout.bucket(here)
        return self._buckets[key]


class ReplicaHook:
    """What FSDP2 calls with one module's reduce-scatter output."""

    def __init__(self, compression: ReplicaCompression, unit: Unit, group: dist.ProcessGroup) -> None:
        self.compression = compression
        self.unit = unit
        self.group = group

    def __call__(self, gradient: torch.Tensor) -> None:
        """Replace the shard's gradient by its mean over all replicas.

        gradient: float32, float16 or bfloat16 [chunk].
        Raises:
            CollectiveError: another replica failed.
        """
        compression = self.compression
        parameters = compression.known(self.unit, gradient.numel())
        if parameters is None:
            compression.count_dense()
            dist.all_reduce(gradient, op=dist.ReduceOp.SUM, group=self.group)
            gradient /= compression.transport.world_size
            return
        with failing(compression.transport):
            self._reduce(gradient, compression.bucket(parameters))

    def _reduce(self, gradient: torch.Tensor, shards: list[Shard]) -> None:
        compression = self.compression
        world_size = compression.transport.world_size
        if not any(shard.sections for shard in shards):  # only padding lies here, on every replica of this shard
            return
        exchange = compression.exchange
        values = as_array(as_float32(gradient))
        pending = exchange.start(values, shards, compression.codecs)
        both_ways = 2 * (world_size - 1) * gradient.numel() * gradient.element_size() // world_size
        compression.count(finite=not pending.nonfinite, dense_bytes=both_ways)
        if pending.nonfinite:
            gradient.fill_(float("nan"))
            return
        exchange.finish(pending)
        write_back(pending.values, gradient)
