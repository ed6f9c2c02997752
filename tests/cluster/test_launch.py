"""The benchmark on real processes: over shaped links between namespaces, and as ranks that something else started."""

import csv
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.cluster.test_hosts import needs_hosts
from trafficzip.cluster.jobs import Job, Task, plan
from trafficzip.cluster.launch import run_local
from trafficzip.cluster.links import Link
from trafficzip.cluster.place import adopt_slurm
from trafficzip.errors import ConfigError

SMALL = Task(width=8, batch=4)
COMMAND = [
    *(sys.executable, "-m", "trafficzip.cli", "bench", "cluster", "--workloads", "training", "--width", "8"),
    *("--batch", "4", "--seconds", "0.1"),
]


def rows_of(jobs, tmp_path, **options):
    options = {"hosts": 2, "ranks_per_host": 1, "link": Link(), "timeout_s": 60.0} | options
    events = run_local(jobs, log=tmp_path / "log", **options)
    return [(number, event["columns"]) for number, event in events if event["event"] == "row"]


@needs_hosts
def test_shaped_links_are_measured_method_by_method(tmp_path):
    methods = ["dense", "default", "powersgd_r1", "top_k"]
    jobs = plan(
        workloads=["exchange", "training", "accuracy"],
        methods=methods,
        rates=["20mbit"],
        megabytes=[0.5],
        task=SMALL,
        steps=24,
        seeds=[0],
        budget_s=0.2,
    )
    jobs.append(Job(workload="training", method="local_h16", rate="none", task=SMALL, budget_s=0.1))
    jobs.append(Job(workload="accuracy", method="dense", rate="none", task=SMALL, steps=60, target=1.0))
    rows = rows_of(jobs, tmp_path)
    assert [number for number, _ in rows] == list(range(len(jobs)))
    found = {(jobs[number].workload, jobs[number].method): columns for number, columns in rows}
    assert not any(columns.get("error") for columns in found.values()), found
    dense, ours = found["exchange", "dense"], found["exchange", "default"]
    assert dense["wire_bytes"] == pytest.approx(4 * dense["elements"], rel=0.05)  # a ring of two sends everything once
    assert float(dense["step_s"]) > 0.8 * 8 * dense["wire_bytes"] / 20e6
    assert ours["counted_bytes"] < ours["wire_bytes"] < dense["wire_bytes"] / 15
    assert float(ours["codec_s"]) > 0
    assert all(columns["identical"] for (what, _), columns in found.items() if what == "accuracy")
    assert rows[-1][1]["rounds"] < 60  # one percent of the digits is reached before
    assert found["training", "local_h16"]["wire_bytes"] < found["training", "dense"]["wire_bytes"] / 100


@needs_hosts
def test_failing_worker_gives_a_row_with_the_reason_and_the_next_job_runs(tmp_path):
    good = Job(workload="training", method="dense", rate="none", task=SMALL, budget_s=0.1)
    bad = Job(workload="exchange", method="dense", rate="none", task=SMALL, megabytes=-1.0, budget_s=0.1)
    rows = rows_of([bad, good], tmp_path)
    assert [number for number, _ in rows] == [0, 1]
    assert "rank 0, 1: ValueError" in rows[0][1]["error"]
    assert float(rows[1][1]["step_s"]) > 0


@needs_hosts
def test_killed_sweep_goes_on(tmp_path):
    command = [*COMMAND, "--mode", "local", "--methods", "dense,fp16", "--rates", "none", "--hosts", "2"]
    command += ["--out", str(tmp_path)]
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    rows = tmp_path / "cluster.csv"
    deadline = time.monotonic() + 60
    while not rows.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    before = rows.read_text()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert rows.read_text().startswith(before)
    with rows.open(newline="") as file:
        assert [row["method"] for row in csv.DictReader(file)] == ["dense", "fp16"]
    assert (tmp_path / "index.html").exists()


def test_ranks_started_by_others_measure_without_shaping(tmp_path):
    command = [*COMMAND, "--methods", "dense,default", "--rates", "1gbit", "--out", str(tmp_path)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "RANK"))}
    slurm = {"SLURM_NTASKS": "2", "SLURM_NNODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29477"}
    slurm |= {"GLOO_SOCKET_IFNAME": "lo"}
    ranks = [
        subprocess.Popen(
            command,
            env=environment | slurm | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": "0", "SLURM_NODEID": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    with (tmp_path / "cluster.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["mode"], row["ranks"], row["rate"]) for row in rows] == [
        ("dense", "cluster", "2", "1gbit"),
        ("default", "cluster", "2", "1gbit"),
    ]


def test_slurm_without_an_address_says_what_to_set(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK", "GROUP_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_NODELIST": "node[1-4]"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="set MASTER_ADDR"):
        adopt_slurm()
