"""What a hook reports: counters that are always on, and per-parameter figures computed when asked for."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trafficzip.comm.exchange import Pending
from trafficzip.comm.layout import Parameter
from trafficzip.error_feedback import ErrorFeedback
from trafficzip.metrics import TrafficMeter


@dataclass(frozen=True, slots=True)
class ParameterStats:
    """One parameter in the last compressed step of this rank.

    nonzero_share: of its elements that this rank compressed, the share sent as something else than zero; 1 for small
        tensors.
    residual_norm: Euclidean norm of what this rank keeps as a worker; in the hierarchical exchange, of its part of the
        parameter.
    """

    num_elements: int
    small: bool
    nonzero_share: float
    residual_norm: float


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts of one rank. Bytes are those given to and taken from the transport, headers included.

    bytes_sent, bytes_received: all of them but, in the hierarchical exchange, those inside nodes, which are
        inside_bytes_sent and inside_bytes_received.

    steps: synchronised backward passes; compressed_steps of them went through the exchange, nonfinite_steps more did
        so in vain because some rank's gradients were not finite, and the rest were dense (their bytes are DDP's own
        and not counted here).
    bits_per_element_sent, bits_per_element_received: of the last step, over all elements of the model.
    plan: how the last step's gradients travelled.
    decisions: what was measured and chosen so far, and why.
    """

    steps: int
    compressed_steps: int
    nonfinite_steps: int
    num_elements: int
    bytes_sent: int
    bytes_received: int
    inside_bytes_sent: int
    inside_bytes_received: int
    codec_s: float
    exchange_s: float
    last_step: TrafficMeter
    bits_per_element_sent: float
    bits_per_element_received: float
    plan: str
    decisions: tuple[str, ...]
    parameters: dict[str, ParameterStats]


def make_stats(
    *,
    meter: TrafficMeter,
    inside_meter: TrafficMeter,
    last_step: TrafficMeter,
    steps: int,
    compressed_steps: int,
    nonfinite_steps: int,
    parameters: Sequence[Parameter],
    plan: str,
    decisions: tuple[str, ...],
    last: Sequence[Pending],
    worker: ErrorFeedback,
) -> Stats:
    """Put a hook's counters together."""
    num_elements = sum(p.size for p in parameters)
    nonzeros = _nonzeros(last)
    return Stats(
        steps=steps,
        compressed_steps=compressed_steps,
        nonfinite_steps=nonfinite_steps,
        num_elements=num_elements,
        bytes_sent=meter.bytes_sent,
        bytes_received=meter.bytes_received,
        inside_bytes_sent=inside_meter.bytes_sent,
        inside_bytes_received=inside_meter.bytes_received,
        codec_s=meter.codec_s,
        exchange_s=meter.exchange_s,
        last_step=last_step.copy(),
        bits_per_element_sent=8 * last_step.bytes_sent / max(num_elements, 1),
        bits_per_element_received=8 * last_step.bytes_received / max(num_elements, 1),
        plan=plan,
        decisions=decisions,
        parameters={
            p.name: ParameterStats(
                num_elements=p.size,
                small=p.small,
                nonzero_share=1.0 if p.small else nonzeros.get(p.name, 0.0),
                residual_norm=float(np.linalg.norm(worker[p.name])) if p.name in worker.sizes else 0.0,
            )
            for p in parameters
        },
    )


def _nonzeros(last: Sequence[Pending]) -> dict[str, float]:
    """Give the share of values that are not 0 in this rank's own frames of a step, by parameter."""
    nonzeros: Counter[str] = Counter()
    sent: Counter[str] = Counter()
    for pending in last:
        for shard, frames in zip(pending.shards, pending.sent, strict=True):
            for section, frame in zip(shard.sections, frames, strict=True):
                if section.small or frame.nonfinite:
                    continue
                values = pending.codecs.of(section).decompress(frame, section.groups)
                at = 0
                for piece in section.pieces:
                    name = piece.parameter.name
                    nonzeros[name] += int(np.count_nonzero(values[at : at + piece.size]))
                    sent[name] += piece.size
                    at += piece.size
    return {name: nonzeros[name] / size for name, size in sent.items()}
