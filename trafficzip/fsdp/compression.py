"""What both kinds of compression for FSDP2 share: configuration, switches, counters and saved state."""

import hashlib
import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from trafficzip.comm.exchange import Codecs, Exchange
from trafficzip.comm.transport import Transport
from trafficzip.compressor import Compressor
from trafficzip.errors import ConfigError
from trafficzip.fsdp.layout import Unit
from trafficzip.fsdp.state import check_metadata, check_state, make_state, rank_key
from trafficzip.fsdp.torch_parts import ShardedParameter, sharded_modules, sharded_parameters
from trafficzip.version import __version__


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a model was registered with; equal on every rank, which is checked once.

    compressor: what gradients go through.
    small: compressor of small tensors.
    small_elements: a parameter with fewer elements, or with one dimension, is small.
    """

    compressor: Compressor
    small: Compressor
    small_elements: int

    def __post_init__(self) -> None:
        for what, found in (("compressor", self.compressor), ("small", self.small)):
            if not isinstance(found, Compressor):
                raise ConfigError(f"{what} must be a Compressor, got {type(found).__name__}")
        if self.small_elements < 0:
            raise ConfigError(f"small_elements must be >= 0, got {self.small_elements}")

    def codecs(self) -> Codecs:
        """Give what an exchange needs to know."""
        return Codecs(push=self.compressor, pull=self.compressor, small=self.small)

    def is_small(self, parameter: ShardedParameter) -> bool:
        """Say whether a parameter travels through `small`."""
        return parameter.num_dims <= 1 or parameter.num_elements < self.small_elements


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts of one rank since registration. A call is one module's reduction in one step.

    calls: compressed_calls of them went through the exchange, nonfinite_calls more did so in vain because some rank's
        gradients were not finite, and dense_calls were not compressed (their bytes are torch's own, not counted here).
    num_elements: of the parameters whose gradients are compressed, whole.
    bytes_sent, bytes_received: given to and taken from the transport, headers included.
    dense_bytes_sent: what the calls that went through the exchange would have sent uncompressed, in the dtype in which
        FSDP2 reduces, if every element crossed once to each rank that needs it.
    codec_s, exchange_s: seconds spent in compression, and in waiting for bytes.
    residual_bytes: memory of this rank's residuals.
    """

    compressed_calls: int
    nonfinite_calls: int
    dense_calls: int
    num_elements: int
    bytes_sent: int
    bytes_received: int
    dense_bytes_sent: int
    codec_s: float
    exchange_s: float
    residual_bytes: int


class Compression(ABC):
    """A registered model's controls; `register` and `register_replicas` make it.

    `enable`, `disable` and `load_state_dict` must be called on all ranks between the same two steps. It is a Stateful
    of torch.distributed.checkpoint: give it to `save` and `load` beside the model and the optimizer.
    """

    kind = ""

    def __init__(self, model: nn.Module, config: Config, transport: Transport) -> None:
        self.config = config
        self.transport = transport
        self.units = [
            Unit(name, tuple(sharded_parameters(model, module))) for name, module in sharded_modules(model).items()
        ]
        self.parameters = [p for unit in self.units for p in unit.parameters if p.trainable]
        self.small = {p.name: config.is_small(p) for p in self.parameters}
        self.codecs = config.codecs()
        self._enabled = True
        self._compressed_calls = 0
        self._nonfinite_calls = 0
        self._dense_calls = 0
        self._dense_bytes = 0

    @property
    @abstractmethod
    def exchange(self) -> Exchange:
        """What moves frames and holds residuals."""

    @property
    def enabled(self) -> bool:
        """Whether gradients are compressed."""
        return self._enabled

    def enable(self) -> None:
        """Compress again from the next reduction on, with the residuals kept since `disable`."""
        self._enabled = True

    def disable(self) -> None:
        """Reduce dense gradients from the next reduction on; residuals are kept."""
        self._enabled = False

    def stats(self) -> Stats:
        """Give counts since registration."""
        meter = self.transport.meter
        return Stats(
            compressed_calls=self._compressed_calls,
            nonfinite_calls=self._nonfinite_calls,
            dense_calls=self._dense_calls,
            num_elements=sum(p.num_elements for p in self.parameters),
            bytes_sent=meter.bytes_sent,
            bytes_received=meter.bytes_received,
            dense_bytes_sent=self._dense_bytes,
            codec_s=meter.codec_s,
            exchange_s=meter.exchange_s,
            residual_bytes=self.exchange.worker.residual.nbytes + self.exchange.owner.residual.nbytes,
        )

    def describe(self) -> dict[str, Any]:
        """Give everything that must be equal on all ranks, as plain data."""
        shapes = json.dumps([[u.name, [[p.name, p.num_elements, p.chunk] for p in u.parameters]] for u in self.units])
        return {
            "version": __version__,
            "kind": self.kind,
            "compressor": self.config.compressor.to_dict(),
            "small": self.config.small.to_dict(),
            "small_elements": self.config.small_elements,
            "parameters": f"{len(self.parameters)} ({hashlib.sha256(shapes.encode()).hexdigest()[:16]})",
        }

    # ---- saved state ----

    def state_dict(self) -> dict[str, Any]:
        """Give this rank's residuals, float32 tensors by parameter, under a key of this rank.

        Save every rank's: with torch.distributed.checkpoint, which keeps all keys apart, or each to a file of its own.
        """
        return {
            rank_key(dist.get_rank()): make_state(
                self.kind, self.transport.world_size, self.exchange.worker, self.exchange.owner
            )
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave on this rank; the run goes on bit for bit as it would have.

        Raises:
            ConfigError: the state is of another world size, another rank or another model; nothing has changed.
        """
        mine = check_state(state, kind=self.kind, world_size=self.transport.world_size, rank=dist.get_rank())
        worker, owner = self.exchange.worker, self.exchange.owner
        kept = owner.state_dict()
        owner.load_state_dict({name: part.numpy() for name, part in mine["owner"].items()})
        try:
            worker.load_state_dict({name: part.numpy() for name, part in mine["worker"].items()})
        except ConfigError:
            owner.load_state_dict(kept)
            raise

    def check_checkpoint(self, metadata: Any) -> None:
        """Check that a checkpoint was saved by as many ranks as there are now, before `load` fails on missing keys.

        metadata: what FileSystemReader(path).read_metadata() gives.
        Raises:
            ConfigError: the checkpoint holds no residuals of this kind, or those of another number of ranks.
        """
        check_metadata(metadata, kind=self.kind, world_size=dist.get_world_size())

    # ---- for the objects that FSDP2 calls ----

    def known(self, unit: Unit, chunk_elements: int) -> tuple[ShardedParameter, ...] | None:
        """Give the parameters that a reduction holds; None where it must be dense, with a warning if that is news."""
        if not self._enabled or self.transport.world_size == 1:
            return None
        parameters = unit.reduced(chunk_elements)
        if parameters is not None and all(p.name in self.small for p in parameters):
            return parameters
        warnings.warn(
            f"module {unit.name or '(root)'}: some of its parameters had no gradient, or were frozen at the time of "
            "registration, so trafficzip cannot know what lies where and reduces it uncompressed; call "
            "model.set_reduce_scatter_unused_params(True), or freeze parameters that are never used",
            stacklevel=2,
        )
        return None

    def count(self, *, finite: bool, dense_bytes: int) -> None:
        """Count a reduction that went through the exchange."""
        self._compressed_calls += finite
        self._nonfinite_calls += not finite
        self._dense_bytes += dense_bytes

    def count_dense(self) -> None:
        """Count a reduction that did not."""
        self._dense_calls += 1


def as_float32(tensor: torch.Tensor) -> torch.Tensor:
    """Give the tensor itself if it is float32, a copy otherwise.

    Raises:
        ConfigError: its dtype is none that can be compressed.
    """
    if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ConfigError(f"FSDP2 reduces in {tensor.dtype}, expected float32, float16 or bfloat16")
    return tensor.detach().float()


def write_back(sums: np.ndarray[Any, np.dtype[np.float32]], out: torch.Tensor) -> None:
    """Copy float32 values to a tensor of any floating dtype."""
    out.copy_(torch.from_numpy(sums).view(out.shape))


def names_of(parameters: Sequence[ShardedParameter]) -> tuple[str, ...]:
    """Give the names, which tell layouts apart."""
    return tuple(parameter.name for parameter in parameters)
