"""Links: rate, delay and loss of a host's connection, and the tc commands that shape one."""

import re
from dataclasses import dataclass

from trafficzip.errors import ConfigError

_UNITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
_QUEUE_MS = 200  # how long a packet may wait in a shaped link's queue before it is dropped


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What joins a host to the switch, the same in both directions.

    rate_bits_per_s: None leaves the link unshaped.
    delay_ms: one way, of this link; a packet between two hosts crosses two links.
    loss: share of packets that each link drops, each way, in [0, 1).
    mtu: bytes of the largest packet.

    Raises:
        ConfigError: a value is out of range.
    """

    rate_bits_per_s: float | None = None
    delay_ms: float = 0.0
    loss: float = 0.0
    mtu: int = 1500

    def __post_init__(self) -> None:
        if self.rate_bits_per_s is not None and not 1e4 <= self.rate_bits_per_s <= 1e12:
            raise ConfigError(f"link: rate must be in [10 kbit/s, 1 Tbit/s], got {self.rate_bits_per_s:g} bit/s")
        if not 0 <= self.delay_ms <= 10_000:
            raise ConfigError(f"link: delay must be in [0, 10000] ms, got {self.delay_ms:g}")
        if not 0 <= self.loss < 1:
            raise ConfigError(f"link: loss must be in [0, 1), got {self.loss:g}")
        if not 576 <= self.mtu <= 65_535:
            raise ConfigError(f"link: mtu must be in [576, 65535] bytes, got {self.mtu}")

    @property
    def name(self) -> str:
        """Give the rate as tc writes it, or "none"."""
        return format_rate(self.rate_bits_per_s)

    def tbf(self) -> list[str]:
        """Give the arguments of a token bucket that holds this rate.

        A bucket must refill within a timer tick, and 64 KiB keep one segment of TCP's offload whole on slow links.
        """
        assert self.rate_bits_per_s is not None
        burst = max(64 * 1024, int(self.rate_bits_per_s / 8 * 0.002))
        rate = f"{round(self.rate_bits_per_s)}bit"
        return ["tbf", "rate", rate, "burst", str(burst), "latency", f"{_QUEUE_MS}ms"]

    def netem(self) -> list[str]:
        """Give the arguments of the kernel's delay and loss, where it has them."""
        return ["netem", "limit", "100000", "delay", f"{self.delay_ms}ms", "loss", f"{100 * self.loss}%"]


def parse_rate(text: str) -> float | None:
    """Read "10mbit", "1gbit" or "none" as bits per second.

    >>> parse_rate("100mbit")
    100000000.0

    Raises:
        ConfigError: it is something else.
    """
    if text.lower() == "none":
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(kbit|mbit|gbit)", text.lower())
    if not found:
        raise ConfigError(f"rate must be a number and kbit, mbit or gbit, such as 100mbit, or none; got {text!r}")
    return float(found[1]) * _UNITS[found[2]]


def format_rate(rate_bits_per_s: float | None) -> str:
    """Give a rate as `parse_rate` reads it.

    >>> format_rate(1e9), format_rate(2.5e6), format_rate(None)
    ('1gbit', '2.5mbit', 'none')
    """
    if rate_bits_per_s is None:
        return "none"
    unit = max((u for u in _UNITS if _UNITS[u] <= rate_bits_per_s), key=lambda u: _UNITS[u], default="kbit")
    return f"{rate_bits_per_s / _UNITS[unit]:g}{unit}"
