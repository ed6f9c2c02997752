"""Predictions: of measured costs, in plain numbers."""

import pytest

from trafficzip.ddp.costs import Linear, combine
from trafficzip.ddp.plan import DENSE, Mode, Plan


def answer(latency_s, bytes_per_s, *, factor=1.0, rest_s=0.05):
    """Give what a rank measures: 2 ns to encode and 1 ns to decode an element; 16 bits or 0.4."""
    rows = {
        name: {str(n): [factor * ns * 1e-9 * n, factor * 1e-9 * n, bits * n / 8] for n in (1000, 1_000_000)}
        for name, ns, bits in (("bfloat16", 1, 16), ("quartic", 2, 1.6), ("rans", 4, 0.4))
    }
    return {"link": [latency_s, bytes_per_s], "rest_s": rest_s, "codecs": rows}


def costs(latency_s, bytes_per_s, *, workers=4):
    return combine([answer(latency_s, bytes_per_s)] * workers, num_workers=workers, num_parts=1)


def test_line_goes_through_both_points_and_is_never_negative():
    line = Linear.through({100: 3.0, 200: 4.0})
    assert (line(100), line(200), line(0)) == pytest.approx((3.0, 4.0, 2.0))
    assert Linear.through({100: 5.0}) == Linear(0.0, 0.05)
    assert Linear.through({100: 5.0, 200: 4.0}) == Linear(4.0, 0.0)
    assert Linear.through({100: 1.0, 200: 4.0})(0) >= 0


def test_slowest_rank_counts():
    found = combine(
        [answer(0.001, 1e9), answer(0.002, 1e8, rest_s=0.2), answer(0.0005, 1e9, factor=3.0)],
        num_workers=3,
        num_parts=1,
    )
    assert (found.latency_s, found.bytes_per_s, found.rest_s) == (0.002, 1e8, 0.2)
    assert found.codecs["rans"].encode_s(1_000_000) == pytest.approx(0.012)


def test_predicted_seconds_are_those_of_the_formula():
    found = costs(0.001, 1e6)
    n = 1_000_000
    all_gather = 0.004 + 4 * 0.001 + 0.001 + 3 * 0.05
    assert found.bucket_s(Mode("all_gather", "rans"), n) == pytest.approx(all_gather)
    two_phase = 0.004 + 0.001 + 3 * 0.001 + 2 * (0.001 + 3 / 4 * 0.05)
    assert found.bucket_s(Mode("two_phase", "rans"), n) == pytest.approx(two_phase)
    assert found.dense_s([n]) == pytest.approx(0.002 + 1.5 * 4 / 1.2)
    assert found.step_s(DENSE, [n]) == pytest.approx(found.dense_s([n]))
    plan = Plan.of(Mode("two_phase", "rans"))
    assert found.step_s(plan, [n]) == pytest.approx(0.05 + two_phase)


def test_links_and_sizes_choose_the_mode():
    kinds, codecs = ("two_phase", "all_gather"), ("rans", "quartic")
    slow = costs(0.001, 1e6).best_modes(kinds, codecs, [1_000_000, 20_000], overlap=False)
    assert str(slow.mode_for(1_000_000)) == "two_phase rans"
    far = costs(0.1, 1e9).best_modes(kinds, codecs, [1_000_000, 20_000], overlap=False)
    assert far.mode_for(1_000_000).exchange == far.mode_for(20_000).exchange == "all_gather"
    mixed = costs(0.001, 1e8).best_modes(kinds, ["rans"], [10_000_000, 20_000], overlap=False)
    assert [up_to for up_to, _ in mixed.modes] == [20_000, 10_000_000]
    assert [mode.exchange for _, mode in mixed.modes] == ["all_gather", "two_phase"]


def test_other_links_are_told_from_noise():
    first = costs(0.001, 1e6)
    assert not costs(0.0015, 0.7e6).has_another_link(first)
    assert costs(0.004, 1e6).has_another_link(first)
    assert costs(0.001, 1e7).has_another_link(first)
