"""Probes: short measurements of the links between ranks, and of codecs on the gradients of a step."""

from collections.abc import Sequence
from time import perf_counter, thread_time

import numpy as np

from trafficzip.comm.agreement import gather_plain
from trafficzip.comm.transport import Transport
from trafficzip.compressor import Compressor
from trafficzip.ddp.plan import CodecName, Mode
from trafficzip.ddp.step import Bucket
from trafficzip.kernels import as_array

_PINGS = 5
_FIRST_BYTES, _LAST_BYTES = 1 << 16, 1 << 22  # sent by each rank in one timed exchange
_LONG_S = 0.1  # no larger exchange follows one that took so long
_REPEATS = 2
_CODEC_REPEATS = 3  # of which the fastest counts; in processor time, which other load on the machine does not touch


def measure_link(link: Transport, control: Transport) -> tuple[float, float]:
    """Time tiny exchanges and growing ones; a collective call of all ranks of `control`.

    link: between this rank and those it will exchange frames with; measured by all ranks at the same time.
    Returns: seconds of a tiny exchange, and bytes a second that the slowest rank sent in the largest one.
    """
    latency_s = _slowest(min(_exchange_s(link, 8) for _ in range(_PINGS)), control)
    size = _FIRST_BYTES
    while True:
        elapsed_s = _slowest(min(_exchange_s(link, size) for _ in range(_REPEATS)), control)
        if elapsed_s > _LONG_S or size >= _LAST_BYTES:
            return latency_s, size / max(elapsed_s - latency_s, 0.1 * elapsed_s, 1e-9)
        size *= 4


def _exchange_s(link: Transport, num_bytes: int) -> float:
    each = num_bytes // max(link.world_size - 1, 1)
    payloads = [np.zeros(each, np.uint8)] * link.world_size
    begin = perf_counter()
    link.all_to_all(payloads, limit=each)
    return perf_counter() - begin


def _slowest(elapsed_s: float, control: Transport) -> float:
    return max(float(answer["s"]) for answer in gather_plain(control, {"s": elapsed_s}))


class CodecProbe:
    """Compresses the buckets of one step with several codecs, beside their exchange, and changes nothing.

    codecs: what to measure.
    sizes: elements of the buckets that are looked at.
    found: by codec and number of elements, [encode_s, decode_s, num_bytes]; nothing where gradients are not finite.
    """

    def __init__(self, codecs: Sequence[CodecName], sizes: Sequence[int], small: Compressor) -> None:
        self.found: dict[CodecName, dict[int, list[float]]] = {codec: {} for codec in codecs}
        self._sizes = set(sizes)
        self._small = small

    def look(self, bucket: Bucket, pair: tuple[Compressor, Compressor]) -> None:
        """Measure all codecs on a bucket that has not been exchanged, if one of its size is wanted still."""
        if bucket.tensor.numel() not in self._sizes:
            return
        self._sizes.remove(bucket.tensor.numel())
        for codec, found in self.found.items():
            measured = self._measure(bucket, pair, codec)
            if measured:
                size, costs = measured
                found[size] = costs

    def _measure(
        self, bucket: Bucket, pair: tuple[Compressor, Compressor], codec: CodecName
    ) -> tuple[int, list[float]] | None:
        exchange, values = bucket.exchange, as_array(bucket.tensor.detach().float())
        sections = [section for shard in exchange.compressed_here(bucket.shards) for section in shard.sections]
        codecs = Mode("two_phase", codec).codecs(pair, self._small)
        scratch = np.zeros_like(values)
        encode_s, decode_s, num_bytes = [], [], 0
        for _ in range(1 + _CODEC_REPEATS):  # the first compiles and warms up
            begin = thread_time()
            frames = [codecs.of(s).compress(values, s.groups, residual=exchange.worker.residual) for s in sections]
            num_bytes = sum(frame.pack().size for frame in frames)
            encode_s.append(thread_time() - begin)
            if not frames or any(frame.nonfinite for frame in frames):
                return None
            begin = thread_time()
            for section, frame in zip(sections, frames, strict=True):
                codecs.of(section).accumulate(frame, section.groups, scratch)
            decode_s.append(thread_time() - begin)
        size = sum(section.groups.num_elements for section in sections)
        return size, [min(encode_s[1:]), min(decode_s[1:]), float(num_bytes)]
