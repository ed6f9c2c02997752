import pytest

from tests.report.cluster_examples import accuracy, training
from trafficzip.report.cluster_best import best, eligible, other_plan, speaks_for, study_of
from trafficzip.report.cluster_groups import studies, trainings
from trafficzip.report.cluster_rows import read_rows


def test_a_study_belongs_to_its_network_ranks_and_batch():
    (timed,) = trainings(read_rows([training("dense", 1)]))
    for change in ({"network": "x"}, {"ranks": "2"}, {"batch": "8"}):
        assert study_of(timed, studies(read_rows([accuracy("dense", 84, **change)]))) is None
    found = studies(read_rows([accuracy("dense", 84, data="other"), accuracy("dense", 85, delay_ms="9", hosts="1")]))
    assert study_of(timed, found) is found[1]
    assert study_of(timed, found[:1]) is found[0]


@pytest.mark.parametrize(("percent", "may"), [(84.5, True), (84.49, False), (90, True), ("", False)])
def test_best_needs_an_accuracy_near_that_of_dense(percent, may):
    (study,) = studies(read_rows([accuracy("dense", 85), accuracy("default", percent)]))
    near, low = eligible(["dense", "default", "unknown"], study)
    assert ("default" in near) == may
    assert ("default" in low) == (not may and percent != "")
    assert "unknown" not in near | low


def test_nothing_is_best_where_dense_has_no_accuracy():
    (study,) = studies(read_rows([accuracy("default", 85)]))
    assert eligible(["dense", "default"], study) == (frozenset(), frozenset())
    assert eligible(["dense", "default"], None) == (frozenset(), frozenset())


def test_best_is_the_highest_of_those_considered():
    assert best({"a": 9.0, "b": 2.0, "c": 2.0, "d": None}, frozenset("bcd")) == {"b", "c"}
    assert best({"a": None}, frozenset("a")) == frozenset()


def test_ranks_that_differ_are_never_best():
    rows = [accuracy("dense", 85), accuracy("default", 90), accuracy("default", 90, seed="1", identical="False")]
    (study,) = studies(read_rows(rows))
    assert eligible(["dense", "default"], study) == (frozenset({"dense"}), frozenset())


def test_overlap_is_no_other_plan():
    rows = [
        *(training("default", 1, plan="two_phase schedule, overlapped"), training("dense", 1)),
        *(accuracy("default", 85, plan="two_phase schedule"), accuracy("dense", 85)),
    ]
    (timed,), (study,) = trainings(read_rows(rows)), studies(read_rows(rows))
    assert other_plan(timed, study) == frozenset()


def test_accuracy_runs_speak_only_for_links_on_which_the_plan_was_theirs():
    rows = [
        *(training("auto", 1, plan="quartic"), training("auto", 1, rate="1gbit", plan="dense"), training("dense", 1)),
        *(accuracy("auto", 85, plan="dense"), accuracy("dense", 85), accuracy("default", 85)),
    ]
    (timed,), (study,) = trainings(read_rows(rows)), studies(read_rows(rows))
    assert [speaks_for(study, timed, "auto", rate) for rate in timed.rates] == [False, True]
    assert other_plan(timed, study) == {"auto"}
    assert other_plan(timed, None) == frozenset()
    rows.append(accuracy("auto", 85, plan="quartic", seed="1"))
    assert not speaks_for(studies(read_rows(rows))[0], timed, "auto", 1e9)
