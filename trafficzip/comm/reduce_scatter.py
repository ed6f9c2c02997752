"""Reduce-scatter: every rank ends with the sum, over all ranks, of the one chunk that it owns."""

import numpy as np

from trafficzip.comm.exchange import F32, Bytes, Codecs, Exchange, Pending, message_limit, pack_message
from trafficzip.comm.layout import Shard
from trafficzip.comm.transport import Transport
from trafficzip.error_feedback import ErrorFeedback
from trafficzip.errors import CorruptPayloadError

_FINITE, _NONFINITE = 0, 1


class ReduceScatter(Exchange):
    """Chunks go compressed to their owners, which decode and sum them in rank order.

    There is one quantization and so one residual, the worker's: an owner keeps its sum and compresses nothing. A
    message is one status byte, then the frames; after status 1 (some input of the sender is not finite) there are none.
    The status reaches every rank, also one that owns no element of the call.
    """

    def __init__(self, transport: Transport, worker: ErrorFeedback, *, num_threads: int = 1) -> None:
        super().__init__(transport, worker, ErrorFeedback({}), num_threads=num_threads)

    def start(self, values: F32, shards: list[Shard], codecs: Codecs) -> Pending:
        """Compress `values` per owner, send the frames, leave in `values` what was lost; the residual stays.

        values: float32 [n], all chunks, read where the shards' groups lie.
        shards: one per rank; a shard may be empty.
        """
        sent = self._compress_worker(values, shards, codecs)
        pending = Pending(values, shards, codecs, sent)
        finite = not any(frame.nonfinite for frames in sent for frame in frames)
        payloads = [_message(pack_message(frames), finite=finite) for frames in sent]
        mine = shards[self.transport.rank]
        with self._exchange_time():
            messages = self.transport.all_to_all(payloads, limit=1 + message_limit(mine.sections))
        finite_senders = [_check_status(data, sender) for sender, data in enumerate(messages)]
        pending.nonfinite = not all(finite_senders)
        if not pending.nonfinite:
            pending.received = self._unpack_all([data[1:] for data in messages], [mine] * len(messages))
        return pending

    def finish(self, pending: Pending) -> None:
        """Commit: the worker's residual takes what was lost. The sum is had by `decode`, before or after."""
        with self._codec_time():
            for shard in pending.shards:
                for section in shard.sections:
                    self.worker.keep(pending.values, section.groups)

    def decode(self, pending: Pending, out: F32) -> None:
        """Write the sum over all ranks of this rank's chunk to `out`; zero where no parameter lies.

        out: float32 [chunk].
        """
        super().decode(pending, out)

    def _finish_owner(self, pending: Pending) -> None:
        """An owner compresses nothing."""

    def _decode_final(self, pending: Pending, out: F32) -> None:
        out[:] = 0
        mine = pending.shards[self.transport.rank]
        for frames in pending.received:
            self._accumulate(frames, mine, pending.codecs, out, owned=True)


def _message(frames: Bytes, *, finite: bool) -> Bytes:
    if not finite:
        return np.array([_NONFINITE], np.uint8)
    return np.concatenate([np.array([_FINITE], np.uint8), frames])


def _check_status(data: Bytes, sender: int) -> bool:
    """Give whether the sender's input was finite."""
    if not data.size or data[0] not in (_FINITE, _NONFINITE) or (data[0] == _NONFINITE and data.size > 1):
        found = "nothing" if not data.size else f"status {data[0]} and {data.size - 1} bytes"
        raise CorruptPayloadError(f"message from rank {sender}: {found}, expected status 0 and frames, or status 1")
    return bool(data[0] == _FINITE)
