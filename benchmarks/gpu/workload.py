"""One bucket of a model among 8 ranks: its messages as the exchanges lay them out, and gradients to fill it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

import torch

from benchmarks.gpu.models import MODELS, Shapes, bucket
from trafficzip.codecs import Codec, Quartic
from trafficzip.comm.layout import Parameter, Section, Shard, flat_layout
from trafficzip.compressor import Compressor
from trafficzip.gpu import GpuCodec
from trafficzip.kernels import Groups
from trafficzip.presets import INT8
from trafficzip.quantizers import Ternary

WORLD_SIZE = 8
SMALL_ELEMENTS = 256  # as trafficzip.ddp.register has it by default
Messages = list[list[tuple[Compressor, Groups]]]


def ternary(multiplier: float = 1.0, last: Codec | None = None) -> Compressor:
    """Give quartic bytes, with zero runs or rANS behind them if asked for."""
    return Compressor(quantizer=Ternary(multiplier=multiplier), codecs=(Quartic(), *([last] if last else [])))


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """A bucket; parameters lie in it in reverse order, and in the residual in the order of the model.

    shapes: of the bucket's parameters, in the order of the model.
    starts: where each begins in the bucket.
    shards, whole: the sections that each owner gets, and those that go to everybody.
    """

    model: str
    megabytes: float
    device: torch.device
    shapes: Shapes = field(repr=False)
    starts: dict[str, int] = field(repr=False)
    shards: list[Shard] = field(repr=False)
    whole: list[Shard] = field(repr=False)

    @classmethod
    def of(cls, model: str, megabytes: float, device: torch.device) -> "Workload":
        """Take a bucket of 10^6 `megabytes` bytes from the end of a model."""
        shapes = bucket(MODELS[model](), num_bytes=megabytes * 1e6)
        starts: dict[str, int] = {}
        at = 0
        for name in reversed(shapes):
            starts[name] = at
            at += prod(shapes[name])
        parameters = [Parameter(name, prod(shape), is_small(shape)) for name, shape in shapes.items()]
        shards, whole = (
            flat_layout(parameters, rank=0, world_size=WORLD_SIZE, owners=owners).bucket(starts)
            for owners in (True, False)
        )
        return cls(model, megabytes, device, shapes, starts, shards, whole)

    @property
    def num_elements(self) -> int:
        return sum(prod(shape) for shape in self.shapes.values())

    @property
    def large(self) -> Shapes:
        """The shapes of what is not small."""
        return {name: shape for name, shape in self.shapes.items() if not is_small(shape)}

    def pushed(self, compressor: Compressor) -> Messages:
        """Give the messages of one rank to the 8 owners; what the owners send back lies alike."""
        return [[(_of(section, compressor), section.groups) for section in shard.sections] for shard in self.shards]

    def owned(self, compressor: Compressor) -> Messages:
        """Give the message of the first owner, where it keeps the parts that it owns."""
        return [[(_of(section, compressor), section.owned) for section in self.shards[0].sections]]

    def gathered(self, compressor: Compressor) -> Messages:
        """Give the one message of one rank to all others."""
        return [[(_of(section, compressor), section.groups) for section in shard.sections] for shard in self.whole]

    def gradients(self, seed: int) -> torch.Tensor:
        """Draw float32 [elements]: normal, of a variance that varies too, each parameter at a scale of its own."""
        generator = torch.Generator(self.device).manual_seed(seed)

        def normal() -> torch.Tensor:
            return torch.randn(self.num_elements, generator=generator, device=self.device)

        values = normal().mul_(normal().mul_(0.5).exp_())
        for number, (name, shape) in enumerate(self.shapes.items()):
            values[self.starts[name] : self.starts[name] + prod(shape)] *= 10 ** (-2 - number % 5 / 2)
        return values

    def buffers(self, codec: GpuCodec, count: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Give sets of values, and of residuals."""
        pairs = [self.buffer(codec, k) for k in range(count)]
        return [values for values, _ in pairs], [residual for _, residual in pairs]

    def buffer(self, codec: GpuCodec, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Give values, and what one step before has left as residual."""
        residual = torch.zeros(self.num_elements, device=self.device)
        codec.quantize(self.gradients(2 * number + 1), residual, residual)
        return self.gradients(2 * number), residual


def is_small(shape: Sequence[int]) -> bool:
    """Say whether a parameter travels as 8-bit integers."""
    return len(shape) <= 1 or prod(shape) < SMALL_ELEMENTS


def _of(section: Section, compressor: Compressor) -> Compressor:
    return INT8 if section.small else compressor
