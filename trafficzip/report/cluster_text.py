"""How places, settings and figures are written on the cluster report."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import floor, log10

from trafficzip.report.break_even import format_mbit
from trafficzip.report.cluster_groups import Rate, Study, Training
from trafficzip.report.cluster_rows import Place
from trafficzip.report.table import format_bytes

NONE = "–"
_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))


def rate_name(rate: Rate) -> str:
    """Name a link's rate.

    >>> rate_name(1e8), rate_name(2.5e9), rate_name(None)
    ('100 Mbit/s', '2.5 Gbit/s', 'unshaped')
    """
    if rate is None:
        return "unshaped"
    return f"{rate / 1e9:.4g} Gbit/s" if rate >= 1e9 else f"{format_mbit(rate)} Mbit/s"


def place_name(place: Place) -> str:
    """Say where rows were measured: hosts, ranks, delay, loss."""
    parts = [_count(place.hosts, "host"), _count(place.ranks, "rank")]
    if place.delay_ms is not None:
        parts.append(f"{place.delay_ms:g} ms delay")
    if place.loss:
        parts.append(f"{100 * place.loss:g} % packet loss")
    if place.mtu is not None and place.mtu != 1500:
        parts.append(f"MTU {place.mtu}")
    parts += ["delay and loss by a relay"] if place.relayed and (place.delay_ms or place.loss) else []
    parts += [text for text in (place.mode, place.backend) if text]
    return ", ".join(parts)


def setting_name(setting: Training | Study) -> str:
    """Say what was trained: network, data, batch."""
    parts = [setting.network or "network not named"]
    if setting.data:
        parts.append(f"on {setting.data}")
    if setting.batch is not None:
        parts.append(f"batch {setting.batch} per worker")
    return ", ".join(parts)


def milliseconds(seconds: float | None) -> str:
    """Give milliseconds with three digits.

    >>> milliseconds(0.0012345), milliseconds(12.345), milliseconds(None)
    ('1.23', '12,345', '–')
    """
    return NONE if seconds is None else three_digits(1000 * seconds)


def three_digits(value: float) -> str:
    """Give a number with at least three digits, two of them at most after the point.

    >>> three_digits(97.0), three_digits(1457.2), three_digits(2)
    ('97.0', '1,457', '2.00')
    """
    return f"{value:,.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f}"


def round_bytes(size: float) -> str:
    """Give a round size, as ticks have it.

    >>> round_bytes(1e7), round_bytes(3e5)
    ('10 MB', '300 kB')
    """
    return format_bytes(size).replace(".00", "").replace(".0", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteUnit:
    """The unit of one column, and the decimals that give its smallest size three digits."""

    name: str
    size: float
    digits: int

    def text(self, size: float | None) -> str:
        """Give a size in this unit, without its name."""
        return fixed(None if size is None else size / self.size, self.digits)


def byte_unit(sizes: Iterable[float | None]) -> ByteUnit:
    """Choose the unit of a column: the largest in which its smallest size is at least a tenth.

    >>> byte_unit([26_387, 1_686_889]).text(26_387), byte_unit([5_368, None]).text(1_686_889)
    ('26.4', '1,686.89')
    """
    smallest = min((size for size in sizes if size), default=1e6)
    size, name = next((unit for unit in _UNITS if smallest >= unit[0] / 10), _UNITS[-1])
    return ByteUnit(name=name, size=size, digits=min(3, max(0, 2 - floor(log10(smallest / size)))))


def fixed(value: float | None, digits: int, *, sign: bool = False) -> str:
    """Give a number with so many decimals, a true minus, and a dash for None.

    >>> fixed(-0.5, 2), fixed(12345.678, 1), fixed(0.1, 2, sign=True), fixed(None, 2)
    ('−0.50', '12,345.7', '+0.10', '–')
    """
    if value is None:
        return NONE
    return f"{value:{'+' if sign else ''},.{digits}f}".replace("-", "−")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
