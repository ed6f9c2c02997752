"""Chunks: where each module's parameters lie in the input and in the output of its reduce-scatter.

FSDP2 cuts each parameter into equal parts, the last ones padded, and gives each rank a chunk: its part of every
parameter that has a gradient, one after the other, in the order of the module's parameters. A part of a parameter in
one chunk is one group with its own scale; padding belongs to no group and is not sent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trafficzip.comm.layout import Parameter, Piece, Section, Shard
from trafficzip.fsdp.torch_parts import ShardedParameter
from trafficzip.kernels import Groups


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """One FSDP2 module: the parameters that it reduces, in the order of its chunks."""

    name: str
    parameters: tuple[ShardedParameter, ...]

    def reduced(self, chunk_elements: int) -> tuple[ShardedParameter, ...] | None:
        """Give the parameters that a chunk of this size holds: all that are trainable now, or None if it holds others.

        FSDP2 leaves out parameters without a gradient and does not say which, so their places cannot be known then.
        """
        trainable = tuple(parameter for parameter in self.parameters if parameter.trainable)
        return trainable if sum(parameter.chunk for parameter in trainable) == chunk_elements else None


def chunk_starts(parameters: Sequence[ShardedParameter]) -> dict[str, int]:
    """Give where each parameter begins in every chunk."""
    starts = {}
    at = 0
    for parameter in parameters:
        starts[parameter.name] = at
        at += parameter.chunk
    return starts


def chunk_shards(
    parameters: Sequence[ShardedParameter],
    *,
    world_size: int,
    small: Mapping[str, bool],
    residual_starts: Mapping[str, int],
) -> list[Shard]:
    """Lay out a reduce-scatter: one shard per rank, whose `owned` groups lie in that rank's chunk.

    small: whether each parameter travels uncompressed.
    residual_starts: where each parameter begins in the residual, which has no padding.
    """
    starts = chunk_starts(parameters)
    chunk = sum(parameter.chunk for parameter in parameters)
    shards = []
    for rank in range(world_size):
        sections = []
        for kind in (False, True):
            chosen = [p for p in parameters if small[p.name] == kind and p.sizes[rank]]
            if not chosen:
                continue
            sizes = [p.sizes[rank] for p in chosen]
            before = [sum(p.sizes[:rank]) for p in chosen]
            kept = [residual_starts[p.name] + start for p, start in zip(chosen, before, strict=True)]
            pieces = tuple(
                Piece(Parameter(p.name, p.num_elements, kind), start, p.sizes[rank], rank)
                for p, start in zip(chosen, before, strict=True)
            )
            groups = Groups(sizes, value_starts=[rank * chunk + starts[p.name] for p in chosen], residual_starts=kept)
            owned = Groups(sizes, value_starts=[starts[p.name] for p in chosen])
            sections.append(Section(kind, pieces, groups, owned))
        shards.append(Shard(tuple(sections), chunk))
    return shards
