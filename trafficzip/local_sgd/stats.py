"""What local steps report."""

from dataclasses import dataclass

from trafficzip.metrics import TrafficMeter


@dataclass(frozen=True, slots=True)
class LocalStats:
    """Counts of one rank since registration. Bytes are those given to and taken from the transport, headers included.

    steps: inner steps.
    rounds: rounds that moved the agreed model; skipped_rounds more changed nothing, because some rank's model was not
        finite.
    codec_s, exchange_s: seconds spent compressing and decoding, and exchanging.
    last_round: bytes and seconds of the last round, averaged buffers included.
    bits_per_element_sent: of the last round, over all trained elements.
    residual_norm: Euclidean norm of this rank's residual.
    """

    steps: int
    rounds: int
    skipped_rounds: int
    num_elements: int
    bytes_sent: int
    bytes_received: int
    codec_s: float
    exchange_s: float
    last_round: TrafficMeter
    bits_per_element_sent: float
    residual_norm: float
