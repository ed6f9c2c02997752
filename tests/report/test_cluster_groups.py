from tests.report.cluster_examples import SETTING, accuracy, exchange, row, training
from trafficzip.report.cluster_groups import exchanges, studies, trainings
from trafficzip.report.cluster_rows import read_rows


def test_speed_up_is_dense_over_the_method_on_the_same_link():
    rows = [
        *(training("dense", 8), training("default", 0.5), training("dense", 1, rate="1gbit")),
        *(training("default", 2, rate="1gbit"), training("default", 2, rate="none")),
    ]
    (found,) = trainings(read_rows(rows))
    assert found.rates == (1e7, 1e9, None)
    assert [found.speed_up("default", rate) for rate in found.rates] == [16, 0.5, None]
    assert found.shaped("default") == {1e7: 0.5, 1e9: 2}


def test_bytes_are_the_median_over_links():
    rows = [training("dense", 1, wire_bytes="900", rate=rate) for rate in ("10mbit", "100mbit")]
    rows += [training("x", 1, wire_bytes=b, rate=r) for b, r in (("9", "10mbit"), ("10", "1gbit"), ("90", "none"))]
    (found,) = trainings(read_rows(rows))
    assert (found.wire_bytes("x"), found.fewer("x"), found.fewer("never")) == (10, 90, None)


def test_places_and_settings_do_not_mix():
    rows = [training("dense", 1), training("dense", 2, hosts="8"), training("dense", 3, delay_ms="20")]
    rows += [training("dense", 4, network="ResNet-56"), exchange("dense", 5), exchange("dense", 6, delay_ms="20")]
    read = read_rows(rows)
    assert [found.step_s("dense", 1e7) for found in trainings(read)] == [1, 2, 3, 4]
    assert [found.seconds("dense", 1e7, 1) for found in exchanges(read)] == [5, 6]


def test_failures_are_named_and_hold_no_figures():
    (found,) = trainings(read_rows([training("dense", 1), row("training", "auto", **SETTING, error="no")]))
    assert found.failed == {("auto", 1e7)}
    assert found.step_s("auto", 1e7) is None
    assert trainings(read_rows([row("training", "auto", **SETTING, error="no")])) == ()


def test_accuracy_is_the_mean_of_seeds_with_their_range():
    rows = [accuracy("dense", 84), accuracy("dense", 86, seed="1"), accuracy("default", 84.5), accuracy("auto", "")]
    (study,) = studies(read_rows(rows))
    dense = study.accuracy("dense")
    assert (dense.mean, dense.low, dense.high, dense.seeds) == (85, 84, 86, 2)
    assert study.difference("default") == -0.5
    assert study.accuracy("auto") is None


def test_runs_of_another_length_are_not_averaged():
    assert len(studies(read_rows([accuracy("dense", 84), accuracy("dense", 90, steps="400", seed="1")]))) == 2


def test_a_curve_reads_seeds_between_their_points():
    rows = [accuracy("dense", 84), accuracy("dense", 86, seed="1", curve="[[50, 20, 3], [150, 50, 2], [200, 86, 1]]")]
    (study,) = studies(read_rows(rows))
    assert [(s, a.mean, a.low, a.high) for s, a in study.curve("dense")] == [(100, 37.5, 35, 40), (200, 85, 84, 86)]


def test_a_curve_ends_where_a_seed_measured_nothing():
    rows = [accuracy("dense", 84), accuracy("dense", 86, seed="1", curve="[[150, 50, 2], [200, 86, 1]]")]
    (study,) = studies(read_rows(rows))
    assert [s for s, _ in study.curve("dense")] == [200]
