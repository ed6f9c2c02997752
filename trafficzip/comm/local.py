"""An in-process stand-in for the transport, for tests and simulations: each rank is a thread."""

import threading
from collections.abc import Sequence
from typing import Any, Self

from trafficzip.comm.transport import HEADER_BYTES, Bytes
from trafficzip.errors import CollectiveError
from trafficzip.metrics import TrafficMeter


class LocalTransport:
    """One rank, made by `local_transports`."""

    def __init__(self, rank: int, rooms: "_Rooms", ranks: Sequence[int], meter: TrafficMeter) -> None:
        self.rank = rank
        self.world_size = len(ranks)
        self.ranks: Sequence[int] = list(ranks)
        self.meter = meter
        self._rooms = rooms
        self._mailboxes, self._barrier = rooms.enter(tuple(ranks))

    def among(self, members: Sequence[int], *, meter: TrafficMeter) -> Self:
        """Give a transport between some of the ranks."""
        ranks = [self.ranks[member] for member in members]
        return type(self)(list(members).index(self.rank), self._rooms, ranks, meter)

    def all_gather(self, payload: Bytes, *, limit: int) -> list[Bytes]:
        """Send one payload to every rank; give every rank's, in rank order."""
        return self.all_to_all([payload] * self.world_size, limit=limit)

    def all_to_all(self, payloads: Sequence[Bytes], *, limit: int) -> list[Bytes]:
        """Send payloads[r] to rank r; give what every rank sent here, in rank order."""
        received = self._swap([payload.copy() for payload in payloads])
        for peer, payload in enumerate(received):
            if isinstance(payload, str):
                raise CollectiveError(f"rank {self.ranks[peer]} failed: {payload}")
            if payload.size > limit:
                raise CollectiveError(
                    f"rank {self.ranks[peer]} announced {payload.size} bytes, expected at most {limit}"
                )
        others = [peer for peer in range(self.world_size) if peer != self.rank]
        self.meter.bytes_sent += sum(HEADER_BYTES + payloads[peer].size for peer in others)
        self.meter.bytes_received += sum(HEADER_BYTES + received[peer].size for peer in others)
        return received

    def fail(self, reason: str) -> None:
        """Tell every other rank why this rank cannot go on."""
        self._swap([reason] * self.world_size)

    def check(self) -> None:
        """Never raise: a rank that has failed leaves its thread."""

    def _swap(self, payloads: list[Any]) -> list[Any]:
        self._mailboxes[self.rank] = payloads
        try:
            self._barrier.wait()
            received = [self._mailboxes[peer][self.rank] for peer in range(self.world_size)]
            self._barrier.wait()
        except threading.BrokenBarrierError:
            raise CollectiveError("a rank of the in-process transport left or was silent too long") from None
        return received


class _Rooms:
    """Where threads meet: mailboxes and a barrier for each set of ranks."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._rooms: dict[tuple[int, ...], tuple[list[list[Any]], threading.Barrier]] = {}

    def enter(self, ranks: tuple[int, ...]) -> tuple[list[list[Any]], threading.Barrier]:
        with self._lock:
            empty: list[list[Any]] = [[] for _ in ranks]
            return self._rooms.setdefault(ranks, (empty, threading.Barrier(len(ranks), timeout=self._timeout_s)))


def local_transports(world_size: int, *, timeout_s: float = 30.0) -> list[LocalTransport]:
    """Give the transports of `world_size` ranks in this process; use each from a thread of its own."""
    rooms = _Rooms(timeout_s)
    return [LocalTransport(rank, rooms, range(world_size), TrafficMeter()) for rank in range(world_size)]
