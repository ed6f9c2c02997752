import pytest

from trafficzip.errors import ConfigError
from trafficzip.report.break_even import break_even, fit

RATES = (1e7, 1e8, 1e9)


def times(fixed_s, link_bits, rates=RATES):
    return {rate: fixed_s + link_bits / rate for rate in rates}


@pytest.mark.parametrize("rates", [RATES[:2], RATES, RATES[::-1]])
def test_exact_times_give_back_their_two_parts(rates):
    found = fit(times(0.1, 13e6, rates))
    assert found.fixed_s == pytest.approx(0.1, rel=1e-9)
    assert found.link_bits == pytest.approx(13e6, rel=1e-9)
    assert found.miss == pytest.approx(0, abs=1e-9)
    assert found.seconds(5e7) == pytest.approx(0.36)


def test_the_miss_is_relative_to_what_was_measured():
    bent = times(0.1, 13e6) | {1e8: 1.2 * (0.1 + 0.13)}
    found = fit(bent)
    assert found.miss == pytest.approx(max(abs(found.seconds(rate) / bent[rate] - 1) for rate in RATES))
    assert 0.05 < found.miss < 0.2


def test_a_fast_link_weighs_as_much_as_a_slow_one():
    found = fit(times(0.1, 1e9) | {1e7: 1.01 * (0.1 + 100)})  # absolute errors of 1 s would drown the fixed 0.1 s
    assert found.seconds(1e9) == pytest.approx(1.1, rel=0.01)


def test_one_rate_is_not_enough_to_fit():
    with pytest.raises(ConfigError, match="at least two, got 1"):
        fit({1e7: 1.0})


@pytest.mark.parametrize(
    ("method", "crossing", "verdict", "extrapolated"),
    [
        ((0.15, 3e6), 2e8, "pays below 200 Mbit/s", False),  # 0.05 s more, 10 Mbit fewer
        ((0.101, 3e6), 1e10, "always in the measured range", True),
        ((2.1, 3e6), 5e6, "never in the measured range", True),
        ((0.1, 3e6), None, "always in the measured range", False),
        ((0.05, 13e6), None, "always in the measured range", False),
        ((0.1, 23e6), None, "never in the measured range", False),
        ((0.2, 13e6), None, "never in the measured range", False),
        ((0.05, 18e6), 1e8, "pays above 100 Mbit/s", False),
        ((0.05, 13.05e6), 1e6, "always in the measured range", True),
        ((0.099, 113e6), 1e11, "never in the measured range", True),
    ],
)
def test_where_a_method_pays(method, crossing, verdict, extrapolated):
    found = break_even(times(*method, rates=(2.0**23, 2.0**27, 2.0**30)), times(0.1, 13e6, (2.0**23, 2.0**27, 2.0**30)))
    if crossing is None:
        # equal parts may differ in their last bits, which puts the crossing out of all reach
        assert found.crossing_bits_per_s is None or not 1e-3 < found.crossing_bits_per_s < 1e15
    else:
        assert found.crossing_bits_per_s == pytest.approx(crossing, rel=1e-6)
        assert found.extrapolated == extrapolated
    assert found.verdict == verdict
    assert not found.contradicted


def test_only_rates_measured_with_both_count():
    found = break_even(times(0.15, 3e6, (1e7, 1e9, 5e9)), times(0.1, 13e6, (1e7, 1e8, 1e9)))
    assert found.rates == (1e7, 1e9)
    assert break_even(times(0.15, 3e6, (1e7, 5e9)), times(0.1, 13e6, (1e7, 1e8, 1e9))) is None


def test_a_fit_that_denies_a_measurement_says_so():
    dense = times(0.1, 13e6, (1e7, 1e8, 1e9, 1e10))
    method = times(0.11, 1e6, (1e7, 1e8, 1e9, 1e10)) | {1e9: dense[1e9] * 1.001}
    assert break_even(method, dense).contradicted == (1e9,)
