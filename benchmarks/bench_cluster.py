"""Methods beside each other over shaped links: 4 hosts that are network namespaces of this machine. Needs root.

python -m benchmarks.bench_cluster training accuracy     # what bar 3 reads; an hour
python -m benchmarks.bench_cluster exchange              # gradients of 25 MB alone; half an hour
python -m benchmarks.bench_cluster page                  # the page and plots from all rows

A job that has its row is not measured again; --rerun measures it.

Training is near the paper's ratio of compute to traffic. Its table gives that ratio, taken as time = computing + codec
+ traffic / rate: the speed-ups of s = 1.90 over 100 Mbit/s and 1 Gbit/s (9.22, 1.55) solve to a dense step over
100 Mbit/s that takes 16.8 times as long as computing, which then also gives 8.1 and 1.51 for s = 1.00 (the table: 7.97
and 1.53). A 4 x 4 patch layer and the batch size set it: 16.0 at width 64 (4.3 million parameters), whose times bar 3
reads. Accuracy is that of the same network at width 32, a quarter of the work. `ratio` measures the ratio.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from benchmarks.harness import RESULTS, results_path
from trafficzip.cluster.jobs import METHOD_NAMES, Job, Task, plan
from trafficzip.cluster.links import Link
from trafficzip.cluster.rows import RowFile
from trafficzip.cluster.sweep import Setup, run_on_hosts

RATES = ("10mbit", "100mbit", "1gbit")
HOSTS = 4
PAPER = {"10mbit": 15.9, "100mbit": 7.97, "1gbit": 1.53}  # speed-up of 3LC at s = 1.00
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
TASK = Task(data="cifar10", path=str(DATA), width=32, patch=4, batch=12, peak_lr=0.4, momentum=0.5)
TIMED = replace(TASK, width=64)
DIGITS = Task(data="digits", width=32, batch=12)
STEPS = 2000
SAME_VALUES = {"three_lc_rans_s1.0": "three_lc_s1.0"}  # other bytes for the same values, so the same accuracy
Row = dict[str, str]


def results_file() -> RowFile:
    """Open the newest file of rows measured on this hardware; today's if there is none."""
    today = results_path("cluster")
    same = sorted(RESULTS.glob(f"{today.stem.rsplit('_', 1)[0]}_*.csv"))
    return RowFile(same[-1] if same else today)


def sweep(jobs: list[Job], *, hosts: int = HOSTS, link: Link | None = None, rerun: bool = False) -> list[Row]:
    """Run the jobs that have no row, print a line each, and give all rows."""
    rows = results_file()
    words = ["python -m benchmarks.bench_cluster", *sys.argv[1:]]
    if not sys.argv[0].endswith("bench_cluster.py"):
        words[0] = "python -m benchmarks.bars"
    setup = Setup(command=" ".join(words), hosts=hosts, link=link or Link(), rerun=rerun)
    log = Path(tempfile.gettempdir()) / "trafficzip-bench-cluster.log"
    with closing(run_on_hosts(rows, jobs, setup, log=log)) as events:  # type: ignore[type-var]
        for job, event in events:
            if event["event"] == "row":
                names = ("step_s", "compute_s", "codec_s", "wire_bytes", "accuracy", "error")
                found = {name: event["columns"][name] for name in names if event["columns"].get(name, "") != ""}
                print(job.workload, job.megabytes or "", job.rate, job.method, found, flush=True)
    return rows.rows


def exchange_jobs(
    methods: Sequence[str], rates: Sequence[str], *, megabytes: Sequence[float] = (25.0,), task: Task = TASK
) -> list[Job]:
    return plan(
        workloads=["exchange"],
        methods=methods,
        rates=rates,
        megabytes=megabytes,
        task=task,
        steps=0,
        seeds=[],
        budget_s=8.0,
    )


def training_jobs(
    workload: str, methods: Sequence[str], seeds: Sequence[int], rates: Sequence[str], *, task: Task = TASK
) -> list[Job]:
    return plan(
        workloads=[workload],
        methods=methods,
        rates=rates,
        megabytes=[],
        task=task,
        steps=STEPS,
        seeds=seeds,
        budget_s=8.0,
    )


def newest(rows: Sequence[Row], **columns: str) -> Row:
    """Give the last row that has these values.

    Raises:
        LookupError: there is none without an error.
    """
    found = [row for row in rows if not row["error"] and all(row[name] == value for name, value in columns.items())]
    if not found:
        raise LookupError(f"no row with {columns}")
    return found[-1]


def exchange_speedups(rates: Sequence[str]) -> dict[tuple[str, str], float]:
    """Give bars 1 and 2: the time of dense and of fp16 over that of THREE_LC_RANS, 25 MB, by rate.

    What has no row is measured.
    """
    methods = ("dense", "fp16", "three_lc_rans_s1.0")
    rows = sweep(exchange_jobs(methods, rates))
    found = {}
    for rate in rates:
        times = {
            m: float(newest(rows, workload="exchange", megabytes="25", rate=rate, hosts=str(HOSTS), method=m)["step_s"])
            for m in methods
        }
        for other in ("dense", "fp16"):
            found[rate, other] = times[other] / times["three_lc_rans_s1.0"]
    return found


def training_times(rows: Sequence[Row]) -> dict[tuple[str, str], float]:
    """Give seconds per step by rate and method, as far as they are measured."""
    found = {}
    for rate in RATES:
        for method in METHOD_NAMES:
            try:
                row = newest(rows, workload="training", network=TIMED.network, rate=rate, method=method)
            except LookupError:
                continue
            found[rate, method] = float(row["step_s"])
    return found


def accuracies(rows: Sequence[Row]) -> dict[str, list[float]]:
    """Give the test accuracies of all seeds by method."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        wanted = {"workload": "accuracy", "network": TASK.network, "batch": str(TASK.batch), "steps": str(STEPS)}
        if not row["error"] and all(row[name] == value for name, value in wanted.items()):
            found.setdefault(row["method"], {})[row["seed"]] = float(row["accuracy"])
    for method, same in SAME_VALUES.items():
        if method not in found and same in found:
            found[method] = found[same]
    return {method: list(seeds.values()) for method, seeds in found.items()}


def bytes_over_payload(hosts: Sequence[int]) -> dict[tuple[int, str], dict[str, float]]:
    """Measure bar 4: bytes at the interface over 2 (N - 1) / N x payload, by N and the data that is trained on.

    Gradients of digits are far sparser than those of photographs, so that what goes with each message weighs more.
    """
    found = {}
    for task in (DIGITS, TASK):
        for count in hosts:
            jobs = exchange_jobs(["two_phase"], ["none"], megabytes=[10.0], task=task)
            rows = sweep(jobs, hosts=count, link=Link(mtu=1500), rerun=True)
            chosen = {"workload": "exchange", "megabytes": "10", "method": "two_phase", "mtu": "1500"}
            row = newest(rows, hosts=str(count), data=task.data, **chosen)
            payload = float(row["payload_bytes"])
            found[count, task.data] = {
                "wire": float(row["wire_bytes"]) / payload,
                "counted": float(row["counted_bytes"]) / payload,
                "bits": 8 * payload / (2 * (count - 1) / count) / float(row["elements"]),
            }
    return found


def write_page() -> None:
    from trafficzip.report.cluster_page import write_report

    for path in write_report(results_file().rows, RESULTS / "cluster"):
        print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=["exchange", "training", "accuracy", "ratio", "page"])
    parser.add_argument("--methods", nargs="+", choices=METHOD_NAMES, default=METHOD_NAMES)
    parser.add_argument("--megabytes", type=float, nargs="+", default=[25.0])
    parser.add_argument("--rates", nargs="+", default=RATES)
    parser.add_argument("--width", type=int, default=TASK.width, help="of the network that is trained; 64 for bar 3")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rerun", action="store_true")
    arguments = parser.parse_args()
    for what in arguments.what:
        if what == "page":
            write_page()
        elif what == "ratio":
            rows = sweep(training_jobs("training", ["dense"], [], ["100mbit"], task=TIMED), rerun=True)
            row = newest(rows, workload="training", method="dense", rate="100mbit", network=TIMED.network)
            print(f"dense step / compute at 100 Mbit/s: {float(row['step_s']) / float(row['compute_s']):.2f}")
        elif what == "exchange":
            sweep(
                exchange_jobs(arguments.methods, arguments.rates, megabytes=arguments.megabytes), rerun=arguments.rerun
            )
        else:
            task = replace(TASK, width=arguments.width)
            jobs = training_jobs(what, arguments.methods, arguments.seeds, arguments.rates, task=task)
            sweep(jobs, rerun=arguments.rerun)


if __name__ == "__main__":
    main()
