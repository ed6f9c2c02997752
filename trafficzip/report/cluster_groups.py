"""Rows that belong beside each other: one training setting, one size sweep of the exchange, one study of accuracy."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np

from trafficzip.report.cluster_methods import BASELINE
from trafficzip.report.cluster_rows import Place, Row

Rate = float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Test accuracy over seeds, percent."""

    mean: float
    low: float
    high: float
    seeds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Accuracy runs of equal length and setting. runs: rows by method, one per seed, without those that failed."""

    ranks: int
    network: str
    data: str
    batch: int | None
    steps: int | None
    runs: Mapping[str, tuple[Row, ...]]

    def accuracy(self, method: str) -> Accuracy | None:
        """Average over seeds; None where there are none."""
        found = [row.accuracy for row in self.runs.get(method, ()) if row.accuracy is not None]
        if not found:
            return None
        return Accuracy(mean=fmean(found), low=min(found), high=max(found), seeds=len(found))

    def difference(self, method: str) -> float | None:
        """Give percentage points above dense; None where either was not measured."""
        ours, dense = self.accuracy(method), self.accuracy(BASELINE)
        return ours.mean - dense.mean if ours and dense else None

    def settings(self, method: str) -> str:
        """Say with which learning rate and momentum a method was trained; empty where rows do not."""
        pairs = {(row.peak_lr, row.momentum) for row in self.runs.get(method, ())}
        known = sorted((lr, momentum) for lr, momentum in pairs if lr is not None and momentum is not None)
        return " and ".join(f"peak learning rate {lr:g}, momentum {momentum:g}" for lr, momentum in known)

    def diverged(self, method: str) -> bool:
        """Say whether ranks of any run ended with different parameters."""
        return any(row.identical is False for row in self.runs.get(method, ()))

    def curve(self, method: str) -> list[tuple[int, Accuracy]]:
        """Average accuracy over seeds at the steps of the seed that measured it least often.

        The others' is read off the straight lines between their points; steps that are not between any are left out.
        """
        curves = [[(s, share) for s, share in row.curve if share is not None] for row in self.runs.get(method, ())]
        curves = [sorted(curve) for curve in curves if curve]
        if not curves:
            return []
        first, last = max(curve[0][0] for curve in curves), min(curve[-1][0] for curve in curves)
        points = []
        for step in (step for step, _ in min(curves, key=len) if first <= step <= last):
            shares = [float(np.interp(step, [s for s, _ in curve], [share for _, share in curve])) for curve in curves]
            points.append((step, Accuracy(mean=fmean(shares), low=min(shares), high=max(shares), seeds=len(shares))))
        return points

    def wire_bytes(self, method: str, *, hosts: int | None = None) -> float | None:
        """Give bytes per host and step, the mean over seeds; with hosts, only of runs over so many."""
        rows = [row for row in self.runs.get(method, ()) if hosts in (None, row.place.hosts)]
        found = [row.wire_bytes for row in rows if row.wire_bytes is not None]
        return fmean(found) if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """One network trained at one place over links of several rates.

    rates: ascending, the unshaped link (None) last.  cells: rows by (method, rate), without those that failed.
    failed: (method, rate) of these.
    """

    place: Place
    network: str
    data: str
    batch: int | None
    rates: tuple[Rate, ...]
    methods: tuple[str, ...]
    cells: Mapping[tuple[str, Rate], Row]
    failed: frozenset[tuple[str, Rate]]

    def step_s(self, method: str, rate: Rate) -> float | None:
        """Give the seconds of a step, where they were measured."""
        row = self.cells.get((method, rate))
        return row.step_s if row else None

    def speed_up(self, method: str, rate: Rate) -> float | None:
        """Give dense step time over the method's, on the same link."""
        ours, dense = self.step_s(method, rate), self.step_s(BASELINE, rate)
        return dense / ours if ours and dense else None

    def shaped(self, method: str) -> dict[float, float]:
        """Give step seconds by rate, of shaped links."""
        return {rate: s for rate in self.rates if rate is not None and (s := self.step_s(method, rate)) is not None}

    def wire_bytes(self, method: str) -> float | None:
        """Give bytes per host and step, the median over the links."""
        found = [row.wire_bytes for (m, _), row in self.cells.items() if m == method and row.wire_bytes is not None]
        return median(found) if found else None

    def wire_range(self, method: str) -> tuple[float, float] | None:
        """Give the fewest and most bytes per host and step over the links; None where they are within a tenth."""
        found = [row.wire_bytes for (m, _), row in self.cells.items() if m == method and row.wire_bytes is not None]
        return (min(found), max(found)) if found and max(found) > 1.1 * min(found) else None

    def fewer(self, method: str) -> float | None:
        """Give how many times fewer bytes than dense."""
        ours, dense = self.wire_bytes(method), self.wire_bytes(BASELINE)
        return dense / ours if ours and dense else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """The exchange alone at one place. cells: rows by (method, rate, megabytes), those that failed left out."""

    place: Place
    rates: tuple[Rate, ...]
    sizes: tuple[float, ...]
    methods: tuple[str, ...]
    cells: Mapping[tuple[str, Rate, float], Row]

    def seconds(self, method: str, rate: Rate, megabytes: float) -> float | None:
        """Give the seconds of one exchange, where they were measured."""
        row = self.cells.get((method, rate, megabytes))
        return row.step_s if row else None


def trainings(rows: Sequence[Row]) -> tuple[Training, ...]:
    """Collect training rows, one Training per place and setting, in the order of first appearance.

    Where every row failed there is no Training.
    """
    found: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        if row.workload == "training":
            found.setdefault((row.place, row.network, row.data, row.batch), []).append(row)
    return tuple(
        Training(
            place=group[0].place,
            network=group[0].network,
            data=group[0].data,
            batch=group[0].batch,
            rates=_sorted_rates(group),
            methods=tuple(dict.fromkeys(row.method for row in group)),
            cells={(row.method, row.rate_bits_per_s): row for row in group if not row.error},
            failed=frozenset((row.method, row.rate_bits_per_s) for row in group if row.error),
        )
        for group in found.values()
        if not all(row.error for row in group)
    )


def exchanges(rows: Sequence[Row]) -> tuple[Exchange, ...]:
    """Collect exchange rows, one Exchange per place, in the order of first appearance."""
    found: dict[Place, list[Row]] = {}
    for row in rows:
        if row.workload == "exchange" and not row.error:
            found.setdefault(row.place, []).append(row)
    return tuple(
        Exchange(
            place=place,
            rates=_sorted_rates(group),
            sizes=tuple(sorted({row.megabytes for row in group if row.megabytes is not None})),
            methods=tuple(dict.fromkeys(row.method for row in group)),
            cells={(row.method, row.rate_bits_per_s, row.megabytes): row for row in group if row.megabytes is not None},
        )
        for place, group in found.items()
    )


def studies(rows: Sequence[Row]) -> tuple[Study, ...]:
    """Collect accuracy rows, one Study per setting and number of steps, in the order of first appearance."""
    found: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        if row.workload == "accuracy" and not row.error:
            found.setdefault((row.place.ranks, row.network, row.data, row.batch, row.steps), []).append(row)
    return tuple(
        Study(
            ranks=group[0].place.ranks,
            network=group[0].network,
            data=group[0].data,
            batch=group[0].batch,
            steps=group[0].steps,
            runs={
                method: tuple(row for row in group if row.method == method)
                for method in dict.fromkeys(row.method for row in group)
            },
        )
        for group in found.values()
    )


def _sorted_rates(rows: Iterable[Row]) -> tuple[Rate, ...]:
    rates = {row.rate_bits_per_s for row in rows}
    shaped: tuple[Rate, ...] = tuple(sorted(rate for rate in rates if rate is not None))
    return (*shaped, None) if None in rates else shaped
