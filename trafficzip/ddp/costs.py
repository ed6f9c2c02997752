"""Costs: what was measured of links and codecs, and what a step of a plan would take."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trafficzip.comm.assembly import ExchangeKind
from trafficzip.ddp.plan import CodecName, Mode, Plan

_RING_GAIN = 1.2  # a ring all-reduce fills a link better than messages between all pairs do

_SAME_LINK = 3.0  # times: measurements of one link differ by less


@dataclass(frozen=True, slots=True)
class Linear:
    """A cost of n elements: fixed + per_element * n."""

    fixed: float
    per_element: float

    @classmethod
    def through(cls, points: Mapping[int, float]) -> "Linear":
        """Put a line through the costs of the smallest and the largest number of elements; neither part is negative."""
        (few, low), (many, high) = (point(points.items()) for point in (min, max))
        if few == many:
            return cls(0.0, high / many)
        slope = min(max((high - low) / (many - few), 0.0), high / many)
        return cls(high - slope * many, slope)

    def __call__(self, num_elements: float) -> float:
        """Give the cost of so many elements."""
        return self.fixed + self.per_element * num_elements


@dataclass(frozen=True, slots=True)
class CodecCosts:
    """Seconds of one thread and bytes of a bucket that a rank compresses for all owners."""

    encode_s: Linear
    decode_s: Linear
    num_bytes: Linear


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What all ranks agree to have measured, the slowest rank's.

    latency_s: of an exchange of tiny messages.
    bytes_per_s: of what a rank sends while all send.
    rest_s: of a step without its exchanges.
    num_workers: ranks that exchange compressed frames with each other; num_parts: how many such sets there are.
    """

    latency_s: float
    bytes_per_s: float
    rest_s: float
    num_workers: int
    num_parts: int
    codecs: Mapping[CodecName, CodecCosts]

    def bucket_s(self, mode: Mode, num_elements: int) -> float:
        """Predict the seconds of one bucket's exchange, without what passes inside nodes."""
        return self.codec_s(mode, num_elements) + self.link_s(mode, num_elements)

    def codec_s(self, mode: Mode, num_elements: int) -> float:
        """Predict the seconds in which one bucket is compressed and decompressed."""
        costs, w = self.codecs[mode.codec], self.num_workers
        n = num_elements / self.num_parts
        if mode.exchange == "all_gather":
            return costs.encode_s(n) + w * costs.decode_s(n)
        # An owner encodes its share once more; it decodes the frames for its share, again when it commits, and the end.
        return costs.encode_s(n) + costs.encode_s(n / w) + 2 * costs.decode_s(n) + costs.decode_s(num_elements)

    def link_s(self, mode: Mode, num_elements: int) -> float:
        """Predict the seconds for which one bucket's exchange waits for links."""
        w = self.num_workers
        sent_s = (w - 1) * self.codecs[mode.codec].num_bytes(num_elements / self.num_parts) / self.bytes_per_s
        return self.latency_s + sent_s if mode.exchange == "all_gather" else 2 * (self.latency_s + sent_s / w)

    def dense_s(self, bucket_sizes: Sequence[int]) -> float:
        """Predict the seconds of all buckets' float32 all-reduces, at best."""
        ranks = self.num_workers * self.num_parts
        sent = 2 * (ranks - 1) / ranks * 4 * sum(bucket_sizes)
        return 2 * self.latency_s * len(bucket_sizes) + sent / (self.bytes_per_s * self.num_parts * _RING_GAIN)

    def step_s(self, plan: Plan, bucket_sizes: Sequence[int]) -> float:
        """Predict the seconds of a step; with overlap links are waited for while cores compute or compress.

        Of the dense plan these are the fewest possible, since how much DDP's all-reduces overlap is not known.
        """
        if plan.dense:
            return max(self.rest_s, self.dense_s(bucket_sizes))
        codec_s = sum(self.codec_s(plan.mode_for(size), size) for size in bucket_sizes)
        link_s = sum(self.link_s(plan.mode_for(size), size) for size in bucket_sizes)
        return max(self.rest_s + codec_s, link_s) if plan.overlap else self.rest_s + codec_s + link_s

    def best_modes(
        self, kinds: Sequence[ExchangeKind], codecs: Sequence[CodecName], bucket_sizes: Sequence[int], *, overlap: bool
    ) -> Plan:
        """Give the plan that takes the fastest of some modes for each size of bucket."""
        modes: list[tuple[int, Mode]] = []
        for size in sorted(set(bucket_sizes)):
            found = min((Mode(kind, codec) for codec in codecs for kind in kinds), key=lambda m: self.bucket_s(m, size))
            if modes and modes[-1][1] == found:
                modes.pop()
            modes.append((size, found))
        return Plan(tuple(modes), overlap)

    def has_another_link(self, earlier: "Costs") -> bool:
        """Say whether links are much faster or slower than they were."""
        pairs = ((self.latency_s, earlier.latency_s), (self.bytes_per_s, earlier.bytes_per_s))
        return any(max(pair) > _SAME_LINK * min(pair) for pair in pairs)

    def __str__(self) -> str:
        link = f"{8e-6 * self.bytes_per_s:.4g} Mbit/s, {1000 * self.latency_s:.3g} ms, rest {1000 * self.rest_s:.4g} ms"
        codecs = (
            f"{name} {1e9 * c.encode_s.per_element:.2f} + {1e9 * c.decode_s.per_element:.2f} ns, "
            f"{8 * c.num_bytes.per_element:.3g} bits per element"
            for name, c in self.codecs.items()
        )
        return "; ".join([link, *codecs])


def combine(answers: Sequence[Mapping[str, Any]], *, num_workers: int, num_parts: int) -> Costs:
    """Make one set of costs of what all ranks measured: the slowest rank's time, the largest bytes.

    answers: of each rank, as plain data: link [latency_s, bytes_per_s], rest_s, and by codec and number of elements
        [encode_s, decode_s, num_bytes]. A rank that exchanges with no other has no link.
    """
    links = [answer["link"] for answer in answers if answer["link"]]
    codecs = {}
    for name in answers[0]["codecs"]:
        lines = []
        for index in range(3):
            largest: dict[int, float] = {}
            for answer in answers:
                for size, found in answer["codecs"].get(name, {}).items():
                    largest[int(size)] = max(largest.get(int(size), 0.0), float(found[index]))
            lines.append(Linear.through(largest))
        codecs[name] = CodecCosts(*lines)
    return Costs(
        latency_s=max(link[0] for link in links),
        bytes_per_s=min(link[1] for link in links),
        rest_s=max(float(answer["rest_s"]) for answer in answers),
        num_workers=num_workers,
        num_parts=num_parts,
        codecs=codecs,
    )
