"""Transports: byte arrays of any length between ranks, in order, with failures told to every rank."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from datetime import timedelta
from time import monotonic
from typing import Any, Protocol, Self

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from trafficzip.comm.meeting import connect_together
from trafficzip.errors import CollectiveError
from trafficzip.metrics import TrafficMeter

Bytes = NDArray[np.uint8]
Work = tuple[Any, torch.Tensor]
HEADER_BYTES = 8
_SIZE_BITS = 40  # of a head; its other bits number the messages between two ranks
_NUM_NUMBERS = 1 << 23
_FIRST_BYTES = 1 << 18  # how much of a message, length included, goes with its length
_MAX_REASON_BYTES = 2000
_FAREWELL_S = 5.0  # how long a failing rank waits for the others to take its reason


class Transport(Protocol):
    """What exchanges need. Every rank calls the same methods in the same order; `meter` counts what crosses.

    rank: this rank's place among `ranks`.
    ranks: all members, as messages name them.
    """

    rank: int
    world_size: int
    ranks: Sequence[int]
    meter: TrafficMeter

    def among(self, members: Sequence[int], *, meter: TrafficMeter) -> Self:
        """Give a transport between some of the ranks, this one included: places in `ranks`, the same on each of them.

        It uses this transport's connections and needs no collective call; `fail` reaches its members too.
        """

    def all_to_all(self, payloads: Sequence[Bytes], *, limit: int) -> list[Bytes]:
        """Send payloads[r] to rank r; give what every rank sent here, in rank order, this rank's own included.

        Raises:
            CollectiveError: a rank failed, left, was silent too long, or sent more than `limit` bytes.
        """

    def all_gather(self, payload: Bytes, *, limit: int) -> list[Bytes]:
        """Send one payload to every rank; give every rank's, in rank order."""

    def fail(self, reason: str) -> None:
        """Tell every other rank, in place of this rank's next payload, why this rank cannot go on."""

    def check(self) -> None:
        """Raise CollectiveError where an earlier exchange failed, so that none can follow; moves nothing."""


class GlooTransport:
    """Point-to-point messages over two Gloo process groups.

    Gloo's connection between two ranks carries one direction at a time, so lower ranks send on one group and higher
    ranks on the other. A message is an 8-byte head, then the bytes. The head holds the length and a running number, by
    which lost, repeated and leftover messages are told; a negative head announces a failure's text.
    Up to 256 KiB of it go in one piece, the rest in a second. The receiver's buffer for the first piece has room for
    all of that: Gloo takes pieces shorter than the buffer that awaits them, and refuses longer ones only. It is posted
    as soon as the message before has come, so that the next one leaves without asking whether it may.

    Creating it is a collective call over `group` (the default group if None). `timeout_s` bounds every wait.
    """

    def __init__(self, group: Any = None, *, timeout_s: float = 300.0) -> None:
        base = group if group is not None else dist.group.WORLD
        self.rank = dist.get_rank(base)
        self.world_size = dist.get_world_size(base)
        self.ranks: Sequence[int] = dist.get_process_group_ranks(base)
        self.meter = TrafficMeter()
        self.timeout_s = timeout_s
        local = len(self.ranks) < dist.get_world_size()
        self._groups = connect_together(
            self.ranks,
            lambda: [
                dist.new_group(
                    self.ranks, backend="gloo", timeout=timedelta(seconds=timeout_s), use_local_synchronization=local
                )
                for _ in range(2)
            ],
            timeout_s=timeout_s,
        )
        self._in_flight: list[Work] = []
        # Shared with the transports that `among` gives: messages sent to and taken from each rank, the pieces awaited
        # from each, and why it broke.
        self._num_sent: Counter[int] = Counter()
        self._num_taken: Counter[int] = Counter()
        self._awaited: dict[int, tuple[Bytes, Work]] = {}
        self._broken: list[str] = []

    def among(self, members: Sequence[int], *, meter: TrafficMeter) -> Self:
        """Give a transport between some of the ranks, over the same two groups."""
        part = copy(self)
        part.rank = list(members).index(self.rank)
        part.world_size = len(members)
        part.ranks = [self.ranks[member] for member in members]
        part.meter = meter
        part._in_flight = []
        return part

    def all_gather(self, payload: Bytes, *, limit: int) -> list[Bytes]:
        """Send one payload to every rank; give every rank's, in rank order."""
        return self.all_to_all([payload] * self.world_size, limit=limit)

    def all_to_all(self, payloads: Sequence[Bytes], *, limit: int) -> list[Bytes]:
        """Send payloads[r] to rank r; give what every rank sent here, in rank order."""
        self.check()
        me, n = self.rank, self.world_size
        received = list(payloads)
        firsts = {}
        for step in range(1, n):
            peer = (me - step) % n
            firsts[peer] = self._first_of(peer)
        sends = []
        for step in range(1, n):
            peer = (me + step) % n
            try:
                sends += [(peer, work) for work in self._send_message(payloads[peer].size, payloads[peer], peer)]
            except CollectiveError:
                self._raise_reason(firsts)
                raise
            self.meter.bytes_sent += HEADER_BYTES + payloads[peer].size
        rests = []
        for peer, (first, work) in firsts.items():
            try:
                self._wait(work, peer)
            except CollectiveError as error:
                raise CollectiveError(f"{error}{self._also_silent(firsts, peer)}") from error
            size = self._announced(first, peer, limit)
            body = np.empty(size, np.uint8)
            received[peer] = body
            self.meter.bytes_received += HEADER_BYTES + size
            here = min(size, _FIRST_BYTES - HEADER_BYTES)
            body[:here] = first[HEADER_BYTES:][:here]
            self._await_next(peer, first)
            if here < size:
                rests.append((peer, self._receive(_tensor(body[here:]), peer, tag=1)))
        for peer, work in rests + sends:
            self._wait(work, peer)
        self._in_flight.clear()
        return received

    def fail(self, reason: str) -> None:
        """Tell every other rank why this rank cannot go on; gives up on a rank after a few seconds.

        From then on every exchange of this rank raises CollectiveError: messages of the failed one may still come.
        """
        if self._broken:
            return
        self._broken.append(reason)
        text = reason.encode(errors="replace")[:_MAX_REASON_BYTES] or b"?"
        works = []
        for peer in range(self.world_size):
            if peer != self.rank:
                try:
                    works += self._send_message(-len(text), np.frombuffer(text, np.uint8), peer)
                except (RuntimeError, CollectiveError):
                    continue  # that rank is gone: it needs no reason
        deadline = monotonic() + _FAREWELL_S
        for work in works:
            try:
                work[0].wait(timedelta(seconds=max(deadline - monotonic(), 0.001)))
            except RuntimeError:
                continue

    def check(self) -> None:
        """Raise CollectiveError where an earlier exchange failed."""
        if self._broken:
            raise CollectiveError(f"an earlier exchange failed, and no other can follow: {self._broken[0]}")

    def _await_first(self, peer: int, room: Bytes) -> None:
        """Begin to receive the first piece of a rank's next message into `room`."""
        self._awaited[self.ranks[peer]] = room, self._receive(_tensor(room), peer, tag=0)

    def _await_next(self, peer: int, room: Bytes) -> None:
        """Await a message that may never be sent: a rank may leave once it has sent its last one."""
        with suppress(CollectiveError):  # an exchange that needs that rank will raise it
            self._await_first(peer, room)

    def _first_of(self, peer: int) -> tuple[Bytes, Work]:
        """Give where the first piece of a rank's next message comes, and the work that receives it."""
        if self.ranks[peer] not in self._awaited:
            self._await_first(peer, np.empty(_FIRST_BYTES, np.uint8))
        return self._awaited.pop(self.ranks[peer])

    def _raise_reason(self, firsts: dict[int, tuple[Bytes, Work]]) -> None:
        """Raise why a rank failed if that has come: it may have left since, so that nothing can be sent to it."""
        for peer, (first, work) in firsts.items():
            try:
                work[0].wait(timedelta(milliseconds=1))
            except RuntimeError:
                continue
            if int(first[:HEADER_BYTES].view(np.int64)[0]) < 0:
                self._announced(first, peer, 0)

    def _announced(self, first: Bytes, peer: int, limit: int) -> int:
        """Read a message's head: its size, once it is known to be the one that is awaited."""
        rank = self.ranks[peer]
        head = int(first[:HEADER_BYTES].view(np.int64)[0])
        if head < 0:
            reason = first[HEADER_BYTES:][: min(-head, _MAX_REASON_BYTES)].tobytes().decode(errors="replace")
            raise CollectiveError(f"rank {rank} failed: {reason}")
        number, size = head >> _SIZE_BITS, head % (1 << _SIZE_BITS)
        expected = self._num_taken[rank] % _NUM_NUMBERS
        self._num_taken[rank] += 1
        if number != expected:
            raise CollectiveError(f"rank {rank}: message {number} came where {expected} was due: one was lost or twice")
        if size > limit:
            raise CollectiveError(f"rank {rank} announced {size} bytes, expected at most {limit}")
        return size

    def _send_message(self, announced: int, data: Bytes, peer: int) -> list[Work]:
        here = _FIRST_BYTES - HEADER_BYTES
        if announced >= 0:
            announced |= self._num_sent[self.ranks[peer]] % _NUM_NUMBERS << _SIZE_BITS
            self._num_sent[self.ranks[peer]] += 1
        first = np.concatenate([np.array([announced], np.int64).view(np.uint8), data[:here]])
        works = [self._send(_tensor(first), peer, tag=0)]
        if here < data.size:
            works.append(self._send(_tensor(np.ascontiguousarray(data[here:])), peer, tag=1))
        return works

    # Work and tensor must live until the message is through, and Gloo drops a message whose work dies: also one that a
    # rank began before it failed, for which others wait. So all that was begun is kept until an exchange is complete.

    def _send(self, tensor: torch.Tensor, peer: int, *, tag: int) -> Work:
        group = self._groups[0 if self.ranks[self.rank] < self.ranks[peer] else 1]
        try:
            return self._keep(dist.isend(tensor, self.ranks[peer], group=group, tag=tag), tensor)
        except RuntimeError as error:
            raise CollectiveError(f"cannot send to rank {self.ranks[peer]}: {_first_line(error)}") from error

    def _receive(self, tensor: torch.Tensor, peer: int, *, tag: int) -> Work:
        group = self._groups[0 if self.ranks[peer] < self.ranks[self.rank] else 1]
        try:
            return self._keep(dist.irecv(tensor, self.ranks[peer], group=group, tag=tag), tensor)
        except RuntimeError as error:
            raise CollectiveError(f"cannot receive from rank {self.ranks[peer]}: {_first_line(error)}") from error

    def _keep(self, handle: Any, tensor: torch.Tensor) -> Work:
        self._in_flight.append((handle, tensor))
        return handle, tensor

    def _wait(self, work: Work, peer: int) -> None:
        try:
            work[0].wait()
        except RuntimeError as error:
            raise CollectiveError(
                f"exchange with rank {self.ranks[peer]} broke off (it exited, or was silent for {self.timeout_s:g} s, "
                f"perhaps because it waits for another rank): {_first_line(error)}"
            ) from error

    def _also_silent(self, firsts: dict[int, tuple[Bytes, Work]], peer: int) -> str:
        """Name the ranks after `peer` whose messages are missing too: `peer` may wait for one of them in vain."""
        after = list(firsts)[list(firsts).index(peer) + 1 :]  # Gloo takes no second wait for what has come
        missing = []
        for other in after:
            try:
                firsts[other][1][0].wait(timedelta(milliseconds=1))
            except RuntimeError:
                missing.append(self.ranks[other])
        return "".join(f"; nothing came from rank {rank} either" for rank in missing)


def _tensor(array: Bytes) -> torch.Tensor:
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["no message"])[0]
