"""The bandwidth below which a method pays: step times fitted over the rates of links, and where two fits cross."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from trafficzip.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """T(B) = fixed_s + link_bits / B, B the link's rate in bits per second.

    miss: the largest |fit - measured| / measured; 0 with two rates, which a fit always meets.
    """

    fixed_s: float
    link_bits: float
    miss: float

    def seconds(self, rate_bits_per_s: float) -> float:
        """Give the fitted time of a step."""
        return self.fixed_s + self.link_bits / rate_bits_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakEven:
    """Where a method takes less time than its baseline.

    rates: measured with both, bits per second, ascending; at least two.
    crossing_bits_per_s: where both fits take equal time; None where they do so at no rate.
    pays_below: whether the method's fit is the faster one below the crossing; without a crossing, at every rate.
    contradicted: measured rates at which the faster one by the fits is the slower one as measured.
    """

    method: Fit
    baseline: Fit
    rates: tuple[float, ...]
    crossing_bits_per_s: float | None
    pays_below: bool
    contradicted: tuple[float, ...]

    @property
    def extrapolated(self) -> bool:
        """Say whether the crossing lies beyond the measured rates."""
        crossing = self.crossing_bits_per_s
        return crossing is not None and not self.rates[0] <= crossing <= self.rates[-1]

    @property
    def verdict(self) -> str:
        """Say in words where the method pays."""
        crossing = self.crossing_bits_per_s
        if crossing is None:
            return f"{'always' if self.pays_below else 'never'} in the measured range"
        if not self.extrapolated:
            return f"pays {'below' if self.pays_below else 'above'} {format_mbit(crossing)} Mbit/s"
        always = self.pays_below == (crossing > self.rates[-1])
        return f"{'always' if always else 'never'} in the measured range"


def fit(seconds: Mapping[float, float]) -> Fit:
    """Fit a + b / B to step times by least squares of the relative error.

    seconds: step time by rate in bits per second, all > 0.

    Relative, because the spread of a measured time grows with it, and the crossing often lies at the fast end.

    Raises:
        ConfigError: fewer than two rates.
    """
    if len(seconds) < 2:
        raise ConfigError(f"a fit over rates needs at least two, got {len(seconds)}")
    scale = min(seconds)  # keeps both columns near one
    rates, times = np.array(list(seconds)), np.array(list(seconds.values()))
    columns = np.stack([np.ones_like(rates), scale / rates], axis=1) / times[:, None]
    (fixed_s, link_s), *_ = np.linalg.lstsq(columns, np.ones_like(times), rcond=None)
    miss = float(np.abs(columns @ np.array([fixed_s, link_s]) - 1).max()) if len(seconds) > 2 else 0.0
    return Fit(fixed_s=float(fixed_s), link_bits=float(link_s * scale), miss=miss)


def break_even(method: Mapping[float, float], baseline: Mapping[float, float]) -> BreakEven | None:
    """Compare two fits over the rates measured with both; None if those are fewer than two.

    method, baseline: step seconds by rate in bits per second.
    """
    rates = tuple(sorted(method.keys() & baseline.keys()))
    if len(rates) < 2:
        return None
    ours = fit({rate: method[rate] for rate in rates})
    theirs = fit({rate: baseline[rate] for rate in rates})
    more_fixed_s, fewer_bits = ours.fixed_s - theirs.fixed_s, theirs.link_bits - ours.link_bits
    crossing = fewer_bits / more_fixed_s if more_fixed_s * fewer_bits > 0 else None
    # at slow rates the bits decide; where they are equal, the fixed part does
    pays_below = fewer_bits > 0 if fewer_bits else more_fixed_s < 0
    contradicted = tuple(
        rate
        for rate in rates
        if (ours.seconds(rate) - theirs.seconds(rate)) * (method[rate] - baseline[rate]) < 0
        and abs(method[rate] / baseline[rate] - 1) > 1e-9
    )
    return BreakEven(
        method=ours,
        baseline=theirs,
        rates=rates,
        crossing_bits_per_s=crossing,
        pays_below=pays_below,
        contradicted=contradicted,
    )


def format_mbit(rate_bits_per_s: float) -> str:
    """Give a rate in Mbit/s with three digits.

    >>> format_mbit(1.2345e9), format_mbit(45.67e6), format_mbit(1e5)
    ('1,230', '45.7', '0.1')
    """
    return f"{float(f'{rate_bits_per_s / 1e6:.3g}'):,.6g}"
