"""The exchanges that one hook may choose from, bucket by bucket."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trafficzip.comm.assembly import ExchangeKind, make_exchange
from trafficzip.comm.exchange import Exchange
from trafficzip.comm.layout import Layout, Parameter, Shard
from trafficzip.comm.nodes import Nodes
from trafficzip.comm.transport import Transport


@dataclass(slots=True, eq=False)
class _Lane:
    exchange: Exchange
    layout: Layout
    shards: dict[tuple[tuple[str, int], ...], list[Shard]] = field(default_factory=dict)


class Exchanges:
    """Holds the exchange whose residuals are saved, and others that share its worker's residual.

    kind: the main exchange; the hierarchical one has no others.
    others: other kinds to have at hand.
    """

    def __init__(
        self,
        kind: ExchangeKind,
        transport: Transport,
        parameters: Sequence[Parameter],
        *,
        nodes: Nodes | None,
        num_threads: int,
        others: Sequence[ExchangeKind] = (),
    ) -> None:
        self._lanes: dict[ExchangeKind, _Lane] = {}
        for name in (kind, *others):
            exchange, layout = make_exchange(name, transport, parameters, nodes=nodes, num_threads=num_threads)
            self._lanes[name] = _Lane(exchange, layout)
        self.main = self._lanes[kind].exchange
        self.layout = self._lanes[kind].layout
        for name in others:
            exchange, layout = self._lanes[name].exchange, self._lanes[name].layout
            assert layout.worker == self.layout.worker, f"{name} keeps other residuals than {kind}"
            exchange.worker = self.main.worker

    def of_bucket(self, kind: ExchangeKind, starts: Mapping[str, int]) -> tuple[Exchange, list[Shard]]:
        """Give an exchange and how it cuts a bucket; computed once for each way in which DDP fills a bucket.

        starts: where each parameter begins in the bucket.
        """
        lane = self._lanes[kind]
        key = tuple(starts.items())
        if key not in lane.shards:
            lane.shards[key] = lane.layout.bucket(starts)
        return lane.exchange, lane.shards[key]
