"""Exchanges: how ranks turn their values into one mean over compressed frames.

A bucket goes through two halves. `start` compresses, moves frames and changes no residual; it ends with every rank
holding the same final frames, and knowing whether any input of any rank was not finite. `finish` commits: residuals
take what was lost and the bucket takes the mean. A step of several buckets is thus kept or dropped as a whole.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from trafficzip.comm.layout import Section, Shard
from trafficzip.comm.transport import Transport
from trafficzip.compressor import Compressor
from trafficzip.error_feedback import ErrorFeedback
from trafficzip.errors import CorruptPayloadError
from trafficzip.metrics import TrafficMeter
from trafficzip.wire.frame import HEADER_BYTES, Frame, unpack_frame

F32 = NDArray[np.float32]
Bytes = NDArray[np.uint8]

_MOST_KEPT = 1 << 19  # elements of a shard whose loss an owner keeps until it commits, and need not decode again


@dataclass(frozen=True, slots=True)
class Codecs:
    """How sections are compressed: small tensors, and the others by workers (push) and by owners (pull).

    `push` and `pull` differ in their sparsity multiplier only, which a receiver does not need to know.
    """

    push: Compressor
    pull: Compressor
    small: Compressor

    def of(self, section: Section, *, pull: bool = False) -> Compressor:
        """Give the compressor of a section."""
        return self.small if section.small else self.pull if pull else self.push


@dataclass(slots=True, eq=False)
class Pending:
    """A bucket between `start` and `finish`.

    values: float32 [n], the bucket or a copy of it; holds what the worker's compression lost.
    shards: what this rank compresses.
    sent: this rank's own frames, by owner and section.
    received, owned: for a two-phase owner, every rank's frames for its shard, and those it made of their mean.
    owner_lost: what the owner's compression lost, float32 [elements of its shard], if that is small enough to keep.
    final: the frames that every rank decodes, by sender and section.
    decoded: in the hierarchical exchange, the shards of the final frames.
    nonfinite: some input of some rank was not finite, so there are no final frames.
    """

    values: F32
    shards: list[Shard]
    codecs: Codecs
    sent: list[list[Frame]]
    received: list[list[Frame]] = field(default_factory=list)
    owned: list[Frame] = field(default_factory=list)
    owner_lost: F32 | None = None
    final: list[list[Frame]] = field(default_factory=list)
    decoded: list[Shard] = field(default_factory=list)
    nonfinite: bool = False


class Exchange(ABC):
    """Holds the transport and both residuals; every rank's results are bit-identical.

    transport: moves bytes and counts them.
    worker: residual of the values that this rank compresses, keyed by parameter.
    owner: residual of the means that this rank owns, keyed by parameter.
    """

    def __init__(
        self, transport: Transport, worker: ErrorFeedback, owner: ErrorFeedback, *, num_threads: int = 1
    ) -> None:
        self.transport = transport
        self.worker = worker
        self.owner = owner
        self.num_threads = num_threads
        self.inside_meter = TrafficMeter()  # bytes inside nodes, where an exchange tells them apart

    @abstractmethod
    def start(self, values: F32, shards: list[Shard], codecs: Codecs) -> Pending:
        """Compress `values`, exchange frames, and leave in `values` what compression lost; residuals stay.

        Raises:
            CollectiveError: another rank failed.
            CorruptPayloadError: bytes arrived damaged.
        """

    def compressed_here(self, shards: list[Shard]) -> list[Shard]:
        """Give those shards of a bucket that this rank compresses."""
        return shards

    def finish(self, pending: Pending) -> None:
        """Commit: update the residuals and write the mean of all ranks to pending.values."""
        with self._codec_time():
            for shard in pending.shards:
                for section in shard.sections:
                    self.worker.keep(pending.values, section.groups)
            self._finish_owner(pending)
            self._decode_final(pending, pending.values)

    @abstractmethod
    def _finish_owner(self, pending: Pending) -> None: ...

    @abstractmethod
    def _decode_final(self, pending: Pending, out: F32) -> None: ...

    def decode(self, pending: Pending, out: F32) -> None:
        """Write the mean of all ranks to `out`, laid out like the bucket, and change nothing else."""
        with self._codec_time():
            self._decode_final(pending, out)

    def _compress_worker(self, values: F32, shards: Sequence[Shard], codecs: Codecs) -> list[list[Frame]]:
        """Compress every shard; if any input is not finite, every frame says so, to every owner."""
        with self._codec_time():
            sent = [
                [
                    codecs.of(section).compress(
                        values,
                        section.groups,
                        residual=self.worker.residual,
                        out=values,
                        out_like_residual=False,
                        num_threads=self.num_threads,
                    )
                    for section in shard.sections
                ]
                for shard in shards
            ]
            if any(frame.nonfinite for frames in sent for frame in frames):
                sent = [[_nonfinite(frame) for frame in frames] for frames in sent]
        return sent

    def _accumulate(self, frames: Sequence[Frame], shard: Shard, codecs: Codecs, out: F32, *, owned: bool) -> None:
        for frame, section in zip(frames, shard.sections, strict=True):
            groups = section.owned if owned else section.groups
            codecs.of(section).accumulate(frame, groups, out, num_threads=self.num_threads)

    def _unpack_all(self, messages: Sequence[Bytes], shards: Sequence[Shard]) -> list[list[Frame]]:
        senders = zip(messages, shards, self.transport.ranks, strict=True)
        return [unpack_message(data, shard.sections, sender) for data, shard, sender in senders]

    @contextmanager
    def _codec_time(self) -> Iterator[None]:
        begin = perf_counter()
        try:
            yield
        finally:
            self.transport.meter.codec_s += perf_counter() - begin

    @contextmanager
    def _exchange_time(self) -> Iterator[None]:
        begin = perf_counter()
        try:
            yield
        finally:
            self.transport.meter.exchange_s += perf_counter() - begin


class AllGather(Exchange):
    """Every rank sends its frames to every other; each decodes all of them. For few ranks: one quantization only."""

    def start(self, values: F32, shards: list[Shard], codecs: Codecs) -> Pending:
        """Compress `values` as one shard and gather every rank's frames."""
        (shard,) = shards
        sent = self._compress_worker(values, shards, codecs)
        pending = Pending(values, shards, codecs, sent)
        message = pack_message(sent[0])
        with self._exchange_time():
            messages = self.transport.all_gather(message, limit=message_limit(shard.sections))
        pending.final = self._unpack_all(messages, [shard] * len(messages))
        pending.nonfinite = any(frame.nonfinite for frames in pending.final for frame in frames)
        return pending

    def _finish_owner(self, pending: Pending) -> None:
        """There is no owner."""

    def _decode_final(self, pending: Pending, out: F32) -> None:
        out[:] = 0
        for frames in pending.final:
            self._accumulate(frames, pending.shards[0], pending.codecs, out, owned=False)
        out /= np.float32(self.transport.world_size)


class TwoPhase(Exchange):
    """Shards go to their owners, which average them, compress the mean with their own residual, and share it.

    Source: 3LC's push and pull, in all-reduce form; Tang et al. 2019 (DoubleSqueeze).
    """

    def start(self, values: F32, shards: list[Shard], codecs: Codecs) -> Pending:
        """Compress `values` per owner, average the own shard, and gather every owner's frames."""
        sent = self._compress_worker(values, shards, codecs)
        pending = Pending(values, shards, codecs, sent)
        mine = shards[self.transport.rank]
        with self._exchange_time():
            messages = self.transport.all_to_all(
                [pack_message(frames) for frames in sent], limit=message_limit(mine.sections)
            )
        pending.received = self._unpack_all(messages, [mine] * len(messages))
        with self._codec_time():
            pending.owned = self._compress_mean(pending)
        limit = max(message_limit(shard.sections) for shard in shards)
        with self._exchange_time():
            messages = self.transport.all_gather(pack_message(pending.owned), limit=limit)
        pending.final = self._unpack_all(messages, shards)
        # A rank flags all its frames, so every owner that has a section flags its own: all ranks see the same flags.
        pending.nonfinite = any(frame.nonfinite for frames in pending.final for frame in frames)
        return pending

    def _mean(self, pending: Pending) -> F32:
        mine = pending.shards[self.transport.rank]
        mean = np.zeros(mine.num_elements, np.float32)
        for frames in pending.received:
            self._accumulate(frames, mine, pending.codecs, mean, owned=True)
        mean /= np.float32(self.transport.world_size)
        return mean

    def _compress_mean(self, pending: Pending) -> list[Frame]:
        mine = pending.shards[self.transport.rank]
        flagged = any(frame.nonfinite for frames in pending.received for frame in frames)
        if flagged:
            return [_nonfinite(frame) for frame in pending.received[self.transport.rank]]
        mean = self._mean(pending)
        pending.owner_lost = mean if mean.size <= _MOST_KEPT else None
        frames = [
            pending.codecs.of(section, pull=True).compress(
                mean,
                section.owned,
                residual=self.owner.residual,
                out=pending.owner_lost,
                out_like_residual=False,
                num_threads=self.num_threads,
            )
            for section in mine.sections
        ]
        return [_nonfinite(frame) for frame in frames] if any(frame.nonfinite for frame in frames) else frames

    def _finish_owner(self, pending: Pending) -> None:
        """Owner's residual := residual + mean - what was sent; made anew if keeping it would cost memory."""
        mine = pending.shards[self.transport.rank]
        if pending.owner_lost is not None:
            for section in mine.sections:
                self.owner.keep(pending.owner_lost, section.owned)
            return
        mean = self._mean(pending)
        for frame, section in zip(pending.owned, mine.sections, strict=True):
            owned = section.owned
            for size, value, kept in zip(owned.sizes, owned.value_starts, owned.residual_starts, strict=True):
                self.owner.residual[kept : kept + size] += mean[value : value + size]
            pending.codecs.of(section).accumulate(
                frame, owned, self.owner.residual, sign=-1.0, out_like_residual=True, num_threads=self.num_threads
            )

    def _decode_final(self, pending: Pending, out: F32) -> None:
        out[:] = 0
        for frames, shard in zip(pending.final, pending.shards, strict=True):
            self._accumulate(frames, shard, pending.codecs, out, owned=False)


def pack_message(frames: Sequence[Frame]) -> Bytes:
    """Pack frames one after the other; frames end themselves."""
    return np.concatenate([frame.pack() for frame in frames]) if frames else np.zeros(0, np.uint8)


def unpack_message(data: Bytes, sections: Sequence[Section], sender: int) -> list[Frame]:
    """Read one frame per section.

    Raises:
        CorruptPayloadError: the message does not hold these frames, or more; says who sent it.
    """
    frames = []
    at = 0
    try:
        for section in sections:
            frame, at = unpack_frame(data, start=at, max_elements=section.groups.num_elements)
            frames.append(frame)
        if at != data.size:
            raise CorruptPayloadError(f"message has {data.size} bytes, its frames end at byte {at}")
    except CorruptPayloadError as error:
        raise CorruptPayloadError(f"message from rank {sender}: {error}") from error
    return frames


def message_limit(sections: Sequence[Section]) -> int:
    """No message of these frames is larger: every element as float32, every scale, every header."""
    return sum(HEADER_BYTES + 8 * section.groups.num_elements for section in sections)


def _nonfinite(frame: Frame) -> Frame:
    return Frame(
        quantizer_id=frame.quantizer_id,
        codec_ids=frame.codec_ids,
        num_elements=frame.num_elements,
        num_groups=frame.num_groups,
        scales=np.zeros(0, np.float32),
        payload=np.zeros(0, np.uint8),
        nonfinite=True,
    )
