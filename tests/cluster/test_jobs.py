"""Jobs and rows: a sweep's order, what is refused, and what a killed sweep does not measure again."""

import csv

import pytest

from trafficzip.cluster.jobs import METHOD_NAMES, Job, Task, plan
from trafficzip.cluster.methods import METHODS
from trafficzip.cluster.rows import COLUMNS, RowFile, command_line, job_columns
from trafficzip.cluster.sweep import pending_jobs
from trafficzip.errors import ConfigError

SWEEP = {
    "workloads": ["exchange", "training", "accuracy"],
    "methods": ["dense", "default", "local_h16"],
    "rates": ["10mbit", "none"],
    "megabytes": [1.0, 25.0],
    "task": Task(),
    "steps": 100,
    "seeds": [0, 1],
    "budget_s": 1.0,
}
PLACE = {"mode": "local", "hosts": "4", "ranks": "4"}


def test_every_method_can_be_asked_for():
    assert tuple(METHODS) == METHOD_NAMES


def test_links_change_seldom_and_accuracy_comes_last():
    jobs = plan(**SWEEP)
    rates = [job.rate for job in jobs]
    assert sum(a != b for a, b in zip(rates, rates[1:], strict=False)) == 1
    assert [job.workload for job in jobs[-6:]] == ["accuracy"] * 6
    assert {job.method for job in jobs if job.workload == "exchange"} == {"dense", "default"}
    assert len(set(map(Job.key, jobs))) == len(jobs) == 2 * (4 + 3) + 6


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"workloads": ["speed"]}, "workload.*'speed'"),
        ({"methods": ["dense", "zip"]}, "method.*'zip'"),
        ({"rates": ["quick"]}, "rate.*'quick'"),
    ],
)
def test_unknown_names_are_refused(change, says):
    with pytest.raises(ConfigError, match=says):
        plan(**(SWEEP | change))


@pytest.mark.parametrize(
    "options", [{"data": "mnist"}, {"data": "cifar10"}, {"path": "x"}, {"width": 5}, {"batch": 0}, {"momentum": 1.0}]
)
def test_impossible_tasks_are_refused(options):
    with pytest.raises(ConfigError):
        Task(**options)


def test_jobs_survive_being_written():
    for job in plan(**SWEEP):
        assert Job.from_dict(job.to_dict()) == job


def test_sweep_goes_on_where_it_ended(tmp_path):
    jobs = plan(**SWEEP)
    rows = RowFile(tmp_path / "rows.csv")
    for job in jobs[:5]:
        rows.add({**PLACE, **job_columns(job), "step_s": 1.0})
    rows.add({**PLACE, **job_columns(jobs[5]), "error": "it failed"})
    found = RowFile(tmp_path / "rows.csv")
    assert pending_jobs(found, jobs, PLACE, rerun=False) == jobs[5:]  # a failed job is tried again
    assert pending_jobs(found, jobs, PLACE | {"hosts": "8"}, rerun=False) == jobs
    assert pending_jobs(found, jobs, PLACE, rerun=True) == jobs
    others = plan(**(SWEEP | {"workloads": ["training"], "task": Task(peak_lr=0.1)}))
    assert pending_jobs(found, others, PLACE, rerun=False) == others


def test_command_leaves_out_the_folder():
    words = ["/usr/bin/trafficzip", "bench", "cluster", "--out", "/home/me/x", "--hosts", "2", "--out=/y"]
    assert command_line(words) == "trafficzip bench cluster --hosts 2"


def test_rows_are_written_whole(tmp_path):
    rows = RowFile(tmp_path / "rows.csv")
    rows.add({"workload": "exchange", "error": 'commas, "quotes"\nand lines'})
    rows.add({"workload": "training"})
    with (tmp_path / "rows.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["workload"] for row in found] == ["exchange", "training"]
    assert found[0]["error"] == 'commas, "quotes"\nand lines'
    assert tuple(found[0]) == COLUMNS
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


def test_programs_add_rows_to_one_file_at_once(tmp_path):
    one, other = RowFile(tmp_path / "rows.csv"), RowFile(tmp_path / "rows.csv")
    one.add({"workload": "exchange"})
    other.add({"workload": "training"})
    one.add({"workload": "accuracy"})
    assert [row["workload"] for row in RowFile(tmp_path / "rows.csv").rows] == ["exchange", "training", "accuracy"]


def test_unknown_columns_and_other_files_are_refused(tmp_path):
    rows = RowFile(tmp_path / "rows.csv")
    with pytest.raises(ConfigError, match="no column speed"):
        rows.add({"speed": 1})
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match="other rows"):
        RowFile(tmp_path / "other.csv")
