"""Nodes: which ranks share a machine, and so a fast link."""

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from trafficzip.comm.transport import Transport
from trafficzip.errors import ConfigError

_MAX_NAME_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Nodes:
    """The nodes of a job, 0, 1, ... in the order of their first ranks, and their ranks in ascending order.

    of_rank: the node of each rank, under any number or name.
    num_parts: ranks of the smallest node; so many parts a model is cut into, one for each local rank of every node.

    Raises:
        ConfigError: there is no rank, or a node is neither a number nor a name.
    """

    of_rank: tuple[int, ...]
    members: tuple[tuple[int, ...], ...] = field(init=False)

    def __init__(self, of_rank: Sequence[int | str]) -> None:
        if not of_rank:
            raise ConfigError("nodes: expected the node of each rank, got none")
        if not all(isinstance(node, int | str) for node in of_rank):
            raise ConfigError(f"nodes: expected a number or a name for each rank, got {of_rank!r:.100}")
        found: dict[int | str, list[int]] = {}
        for rank, node in enumerate(of_rank):
            found.setdefault(node, []).append(rank)
        indices = {node: index for index, node in enumerate(found)}
        object.__setattr__(self, "of_rank", tuple(indices[node] for node in of_rank))
        object.__setattr__(self, "members", tuple(tuple(ranks) for ranks in found.values()))

    @property
    def num_parts(self) -> int:
        """Ranks of the smallest node."""
        return min(len(ranks) for ranks in self.members)

    @property
    def are_worth_it(self) -> bool:
        """Whether there are links of both kinds: inside a node, and between nodes."""
        return 1 < len(self.members) < len(self.of_rank)

    def local_rank(self, rank: int) -> int:
        """Give a rank's place on its node."""
        return self.members[self.of_rank[rank]].index(rank)

    def inside(self, rank: int) -> tuple[int, ...]:
        """Give the ranks on the node of `rank`, itself included."""
        return self.members[self.of_rank[rank]]

    def between(self, rank: int) -> tuple[int, ...]:
        """Give the ranks that have the same part as `rank`, one per node; only itself where it has none."""
        part = self.local_rank(rank)
        return tuple(ranks[part] for ranks in self.members) if part < self.num_parts else (rank,)


def gather_nodes(transport: Transport) -> Nodes:
    """Ask every rank for its node; a collective call.

    A node is a host and, under torchrun, an agent, of which one host may have several.
    """
    names = transport.all_gather(np.frombuffer(_node_name().encode(), np.uint8), limit=_MAX_NAME_BYTES)
    return Nodes([name.tobytes().decode(errors="replace") for name in names])


def _node_name() -> str:
    return f"{socket.gethostname()}/{os.environ.get('GROUP_RANK', '')}"
