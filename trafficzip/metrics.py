"""Sizes, errors, and the meter that counts bytes and seconds."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trafficzip.errors import ConfigError


def bits_per_element(num_bytes: int, num_elements: int) -> float:
    """Give 8 * bytes / elements.

    Raises:
        ConfigError: there are no elements.
    """
    if num_elements < 1:
        raise ConfigError(f"bits per element of {num_elements} elements")
    return 8 * num_bytes / num_elements


def compression_ratio(num_bytes: int, num_elements: int, *, bytes_per_element: int = 4) -> float:
    """Give how many times smaller the bytes are than the elements at `bytes_per_element` each."""
    return 8 * bytes_per_element / bits_per_element(num_bytes, num_elements)


def relative_error(values: NDArray[np.floating], decoded: NDArray[np.floating]) -> float:
    """Give |values - decoded| / |values| in the Euclidean norm; 0 where both are all zero."""
    norm = float(np.linalg.norm(values))
    error = float(np.linalg.norm(values - decoded))
    return error / norm if norm else float("inf") if error else 0.0


@dataclass(slots=True)
class TrafficMeter:
    """Counts what was sent and received and where the time went. Bytes are counted where they meet the transport."""

    bytes_sent: int = 0
    bytes_received: int = 0
    codec_s: float = 0.0
    exchange_s: float = 0.0

    def minus(self, earlier: "TrafficMeter") -> "TrafficMeter":
        """Give what was added since `earlier`."""
        return TrafficMeter(
            self.bytes_sent - earlier.bytes_sent,
            self.bytes_received - earlier.bytes_received,
            self.codec_s - earlier.codec_s,
            self.exchange_s - earlier.exchange_s,
        )

    def copy(self) -> "TrafficMeter":
        """Give a snapshot."""
        return TrafficMeter(self.bytes_sent, self.bytes_received, self.codec_s, self.exchange_s)
