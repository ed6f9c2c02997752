"""Rows of the cluster benchmark, read from text: every number checked, and the last row of each key kept."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trafficzip.errors import ConfigError

WORKLOADS = ("exchange", "training", "accuracy")
_ENVIRONMENT = ("date", "commit", "trafficzip", "python", "torch", "numpy", "numba", "cpu", "cores")
_RATE_UNITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a row was measured, the link's rate left out. None or empty stands for what the row does not say.

    delay_ms: one way, of each link.  loss: share of packets that each link drops, in [0, 1).  mtu: bytes.
    relayed: whether delay and loss were made by a relay, not by the kernel.
    """

    mode: str
    backend: str
    hosts: int
    ranks: int
    delay_ms: float | None
    loss: float | None
    mtu: int | None
    relayed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row. None stands for what was not measured.

    number: place among the rows, from 1.  environment: (column, text) of versions and hardware.
    rate_bits_per_s: of the link; None where it was not shaped.  megabytes: 10^6 bytes of float32 in an exchange.
    step_s and its parts, spread: medians in seconds, and the interquartile range of step_s over step_s.
    wire_bytes: sent per host and step, counted at the interface.  counted_bytes: per rank and step, by the library;
    payload_bytes: of these the codes alone.
    identical: whether all ranks ended with the same parameters.  plan: what a method says that it did.
    accuracy: percent.  curve: (step, accuracy in percent or None), steps ascending.
    """

    number: int
    environment: tuple[tuple[str, str], ...]
    command: str
    place: Place
    rate_bits_per_s: float | None
    workload: str
    method: str
    megabytes: float | None
    network: str
    data: str
    batch: int | None
    rounds: int | None
    step_s: float | None
    spread: float | None
    compute_s: float | None
    codec_s: float | None
    exchange_s: float | None
    wire_bytes: float | None
    counted_bytes: float | None
    payload_bytes: float | None
    steps: int | None
    seed: int | None
    peak_lr: float | None
    momentum: float | None
    accuracy: float | None
    identical: bool | None
    curve: tuple[tuple[int, float | None], ...]
    plan: str
    error: str

    @property
    def key(self) -> tuple[object, ...]:
        """Give what a later row must share to replace this one."""
        if self.workload == "exchange":
            return (self.workload, self.place, self.rate_bits_per_s, self.method, self.megabytes)
        what = (self.workload, self.method, self.network, self.data, self.batch)
        if self.workload == "training":
            return (*what, self.place, self.rate_bits_per_s)
        return (*what, self.place.ranks, self.steps, self.seed)


def read_rows(rows: Sequence[Mapping[str, str]]) -> tuple[Row, ...]:
    """Read rows as `csv.DictReader` gives them, and keep the last of each key, in the order of first appearance.

    Raises:
        ConfigError: a value cannot be read or is out of range; names row and column.
    """
    kept: dict[tuple[object, ...], Row] = {}
    for number, values in enumerate(rows, start=1):
        row = _read_row(_Reader(values, number))
        kept[row.key] = row
    return tuple(kept.values())


class _Reader:
    """One row's text, with errors that say where."""

    def __init__(self, values: Mapping[str, str], number: int) -> None:
        self.row = number
        self._values = values

    def error(self, column: str, expected: str) -> ConfigError:
        return ConfigError(f"row {self.row}, column {column}: expected {expected}, got {self.text(column)[:80]!r}")

    def text(self, column: str) -> str:
        value = self._values.get(column)
        return "" if value is None else str(value).strip()

    def number(self, column: str, *, low: float = 0.0, high: float = math.inf) -> float | None:
        text = self.text(column)
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and low <= value <= high):
            limit = f"in [{low:g}, {high:g}]" if high < math.inf else f">= {low:g}"
            raise self.error(column, f"a finite number {limit}")
        return value

    def positive(self, column: str) -> float | None:
        value = self.number(column)
        if value == 0:
            raise self.error(column, "a number > 0")
        return value

    def count(self, column: str, *, low: int = 0) -> int | None:
        value = self.number(column, low=low)
        if value is not None and value != int(value):
            raise self.error(column, "a whole number")
        return None if value is None else int(value)

    def required_count(self, column: str) -> int:
        value = self.count(column, low=1)
        if value is None:
            raise self.error(column, "a whole number >= 1")
        return value

    def truth(self, column: str) -> bool | None:
        text = self.text(column)
        if text not in ("", "True", "False"):
            raise self.error(column, "True or False")
        return None if not text else text == "True"

    def rate(self) -> float | None:
        text = self.text("rate").lower()
        if text == "none" or (not text and (self.text("workload") == "accuracy" or self.text("error"))):
            return None
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(kbit|mbit|gbit)", text)
        if not found or not float(found[1]):
            raise self.error("rate", "a number > 0 and kbit, mbit or gbit, such as 100mbit, or none")
        return float(found[1]) * _RATE_UNITS[found[2]]

    def curve(self) -> tuple[tuple[int, float | None], ...]:
        if not self.text("curve"):
            return ()
        expected = "a JSON list of [step, accuracy or null, training loss], steps ascending"
        try:
            points = json.loads(self.text("curve"))
            curve = tuple((int(step), None if share is None else float(share)) for step, share, *_ in points)
        except (ValueError, TypeError, RecursionError, OverflowError) as error:
            raise self.error("curve", expected) from error
        steps = [step for step, _ in curve]
        if steps != sorted(set(steps)) or any(s < 0 for s in steps):
            raise self.error("curve", expected)
        if not all(share is None or 0 <= share <= 100 for _, share in curve):
            raise self.error("curve", "accuracies in [0, 100]")
        return curve


def _read_row(reader: _Reader) -> Row:
    workload, method = reader.text("workload"), reader.text("method")
    if workload not in WORKLOADS:
        raise reader.error("workload", " or ".join(WORKLOADS))
    if not method:
        raise reader.error("method", "a name")
    megabytes, error = reader.positive("megabytes"), reader.text("error")
    if workload == "exchange" and megabytes is None and not error:
        raise reader.error("megabytes", "a number > 0")
    return Row(
        number=reader.row,
        environment=tuple((column, reader.text(column)) for column in _ENVIRONMENT),
        command=reader.text("command"),
        place=Place(
            mode=reader.text("mode"),
            backend=reader.text("backend"),
            hosts=reader.required_count("hosts"),
            ranks=reader.required_count("ranks"),
            delay_ms=reader.number("delay_ms"),
            loss=reader.number("loss", high=1),
            mtu=reader.count("mtu"),
            relayed=reader.truth("relayed") is True,
        ),
        rate_bits_per_s=reader.rate(),
        workload=workload,
        method=method,
        megabytes=megabytes,
        network=reader.text("network"),
        data=reader.text("data"),
        batch=reader.count("batch", low=1),
        rounds=reader.count("rounds"),
        step_s=reader.positive("step_s"),
        spread=reader.number("spread"),
        compute_s=reader.number("compute_s"),
        codec_s=reader.number("codec_s"),
        exchange_s=reader.number("exchange_s"),
        wire_bytes=reader.number("wire_bytes"),
        counted_bytes=reader.number("counted_bytes"),
        payload_bytes=reader.number("payload_bytes"),
        steps=reader.count("steps"),
        seed=reader.count("seed"),
        peak_lr=reader.number("peak_lr"),
        momentum=reader.number("momentum"),
        accuracy=reader.number("accuracy", high=100),
        identical=reader.truth("identical"),
        curve=reader.curve(),
        plan=reader.text("plan"),
        error=error,
    )
