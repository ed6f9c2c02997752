"""Assembly: an exchange for a model's parameters, with its layout and its residuals."""

from collections.abc import Sequence
from typing import Literal

from trafficzip.comm.exchange import AllGather, Exchange, TwoPhase
from trafficzip.comm.hierarchical import Hierarchical
from trafficzip.comm.layout import Layout, Parameter, Piece, flat_layout, node_layout
from trafficzip.comm.nodes import Nodes
from trafficzip.comm.transport import Transport
from trafficzip.error_feedback import ErrorFeedback

ExchangeKind = Literal["all_gather", "two_phase", "hierarchical"]


def make_exchange(
    kind: ExchangeKind,
    transport: Transport,
    parameters: Sequence[Parameter],
    *,
    nodes: Nodes | None = None,
    num_threads: int = 1,
) -> tuple[Exchange, Layout]:
    """Build an exchange between all ranks of `transport`, its residuals zero, and say what each rank keeps.

    No collective call, but every rank must make it alike before the first bucket.
    nodes: the nodes of the ranks, which the hierarchical exchange needs; by default every rank has its own.
    """
    rank, world_size = transport.rank, transport.world_size
    if kind == "hierarchical":
        nodes = nodes or Nodes(range(world_size))
        layout = node_layout(parameters, rank=rank, nodes=nodes)
        worker, owner = _residuals(layout.worker), _residuals(layout.owner)
        return Hierarchical(transport, nodes, worker, owner, num_threads=num_threads), layout
    two_phase = kind == "two_phase"
    layout = flat_layout(parameters, rank=rank, world_size=world_size, owners=two_phase)
    worker, owner = _residuals(layout.worker), _residuals(layout.owner)
    return (TwoPhase if two_phase else AllGather)(transport, worker, owner, num_threads=num_threads), layout


def _residuals(pieces: Sequence[Piece]) -> ErrorFeedback:
    return ErrorFeedback({piece.parameter.name: piece.size for piece in pieces})
