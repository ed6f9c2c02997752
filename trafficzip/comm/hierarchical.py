"""The hierarchical exchange: dense sums inside a node, compressed frames between nodes.

Parameters are cut into parts, as many as the smallest node has ranks. Local rank k of every node adds up the node's
values of part k; these ranks, one per node, run the two phases among themselves; and inside a node the final frames
are shared as they are. So all local ranks use the links between nodes, and all ranks of the job decode the same bytes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trafficzip.comm.exchange import Codecs, Pending, TwoPhase, message_limit, pack_message, unpack_message
from trafficzip.comm.layout import Section, Shard
from trafficzip.comm.nodes import Nodes
from trafficzip.comm.transport import Transport
from trafficzip.error_feedback import ErrorFeedback
from trafficzip.errors import CorruptPayloadError
from trafficzip.wire.frame import Frame

F32 = NDArray[np.float32]
Bytes = NDArray[np.uint8]


class Hierarchical(TwoPhase):
    """Two phases over the means of nodes; a rank keeps the residuals of its part alone, or none without a part.

    The mean over nodes is the mean over ranks, also where nodes have different sizes: a node's sum is divided by the
    average number of ranks on a node. With one rank on each node every bit is TwoPhase's.

    transport: between all ranks; its meter counts the bytes between nodes, `inside_meter` those inside.
    worker, owner: residuals of the node's mean of this rank's part, and of the means of all nodes that it owns.

    Source: BytePS and Bagua reduce inside nodes and compress between them; 3LC's push and pull in the second place.
    """

    def __init__(
        self, transport: Transport, nodes: Nodes, worker: ErrorFeedback, owner: ErrorFeedback, *, num_threads: int = 1
    ) -> None:
        rank = transport.rank
        between = transport.among(nodes.between(rank), meter=transport.meter)
        super().__init__(between, worker, owner, num_threads=num_threads)
        self.nodes = nodes
        self.inside = transport.among(nodes.inside(rank), meter=self.inside_meter)
        self._ranks_per_node = np.float32(len(nodes.of_rank) / len(nodes.members))

    def start(self, values: F32, shards: list[Shard], codecs: Codecs) -> Pending:
        """Add up `values` inside the node, exchange the own part between nodes, share all final frames inside.

        shards: those of every part in turn.
        """
        parts = self._parts(shards)
        with self._exchange_time():
            self._reduce_inside(values, [_sections(part) for part in parts])
        if self.inside.rank < len(parts):
            pending = super().start(values, parts[self.inside.rank], codecs)
        else:
            pending = Pending(values, [], codecs, [])
        pending.decoded = shards
        with self._exchange_time():
            pending.final = self._share_inside(pending.final, parts)
        pending.nonfinite = any(frame.nonfinite for frames in pending.final for frame in frames)
        return pending

    def compressed_here(self, shards: list[Shard]) -> list[Shard]:
        """Give the shards of the own part."""
        parts = self._parts(shards)
        return parts[self.inside.rank] if self.inside.rank < len(parts) else []

    def _parts(self, shards: list[Shard]) -> list[list[Shard]]:
        count = len(self.nodes.members)
        return [shards[at : at + count] for at in range(0, len(shards), count)]

    def _reduce_inside(self, values: F32, parts: Sequence[Sequence[Section]]) -> None:
        """Write the node's mean of the own part over this rank's values; sums run in rank order."""
        me, size = self.inside.rank, self.inside.world_size
        messages = [np.zeros(0, np.uint8)] * size
        for local, sections in enumerate(parts):
            if local != me:
                messages[local] = _read(values, sections).view(np.uint8)
        own = parts[me] if me < len(parts) else ()
        num_bytes = 4 * sum(section.groups.num_elements for section in own)
        received = self.inside.all_to_all(messages, limit=num_bytes)
        if not own:
            return
        received[me] = _read(values, own).view(np.uint8)
        for sender, message in zip(self.inside.ranks, received, strict=True):
            if message.size != num_bytes:
                raise CorruptPayloadError(
                    f"message from rank {sender}: {message.size} bytes of values, expected {num_bytes}"
                )
        total = received[0].view(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is noticed where it is compressed
            for message in received[1:]:
                total += message.view(np.float32)
        total /= self._ranks_per_node
        at = 0
        for section in own:
            for length, start in zip(section.groups.sizes, section.groups.value_starts, strict=True):
                values[start : start + length] = total[at : at + length]
                at += length

    def _share_inside(self, final: list[list[Frame]], parts: Sequence[list[Shard]]) -> list[list[Frame]]:
        """Give the final frames of all parts; `final` holds those of the own part."""
        message = pack_message([frame for frames in final for frame in frames])
        limit = max(message_limit(_sections(part)) for part in parts)
        messages = self.inside.all_gather(message, limit=limit)
        gathered = []
        for part, data, sender in zip(parts, messages, self.inside.ranks, strict=False):
            frames = iter(unpack_message(data, _sections(part), sender))
            gathered += [[next(frames) for _ in shard.sections] for shard in part]
        return gathered

    def _finish_owner(self, pending: Pending) -> None:
        if pending.shards:
            super()._finish_owner(pending)

    def _decode_final(self, pending: Pending, out: F32) -> None:
        out[:] = 0
        for frames, shard in zip(pending.final, pending.decoded, strict=True):
            self._accumulate(frames, shard, pending.codecs, out, owned=False)


def _sections(shards: Sequence[Shard]) -> list[Section]:
    return [section for shard in shards for section in shard.sections]


def _read(values: F32, sections: Sequence[Section]) -> F32:
    """Copy the values of all sections, one after the other."""
    pieces = [
        values[start : start + length]
        for section in sections
        for length, start in zip(section.groups.sizes, section.groups.value_starts, strict=True)
    ]
    return np.concatenate([np.zeros(0, np.float32), *pieces])
