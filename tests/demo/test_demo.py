"""The whole command, as a user runs it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

COMMAND = [sys.executable, "-m", "trafficzip.cli", "demo"]


def run(*options: str, out: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, *options, "--out", str(out)], capture_output=True, text=True, timeout=240, check=False
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple["subprocess.CompletedProcess[str]", Path]:
    out = tmp_path_factory.mktemp("demo") / "new" / "folder"
    return run("--steps", "30", "--seed", "3", out=out), out


def test_table_has_one_row_dense_and_one_compressed(finished):
    done, _ = finished
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(("dense", "compressed"))]
    assert [row[0] for row in rows] == ["dense", "compressed"]
    assert all(row[-1] == "yes" for row in rows)
    assert "30 steps" in done.stdout
    assert done.stderr == ""


def test_json_holds_all_numbers(finished):
    _, out = finished
    record = json.loads((out / "demo.json").read_text())
    assert record["settings"]["steps"] == 30
    assert record["settings"]["seed"] == 3
    assert record["environment"]["torch"]
    dense, compressed = record["runs"]["dense"], record["runs"]["compressed"]
    for result in (dense, compressed):
        assert result["identical"]
        assert len(set(result["digests"])) == 1
        assert len(result["digests"]) == 2
        assert len(result["losses"]) == len(result["step_s"]) == 30
    assert dense["losses"][0] == pytest.approx(compressed["losses"][0], rel=1e-6)  # same weights, same images
    assert dense["digests"] != compressed["digests"]
    assert dense["expected_bytes"] == 30 * 2 * 4 * dense["num_elements"]
    assert 0 < compressed["counted_bytes"] < dense["expected_bytes"] / 15


@pytest.mark.skipif(not Path("/proc/net/dev").exists(), reason="this system does not count loopback bytes")
def test_interface_counts_at_least_what_was_sent(finished):
    _, out = finished
    for result in json.loads((out / "demo.json").read_text())["runs"].values():
        assert result["wire_bytes"] == sorted(result["wire_bytes"])
        assert result["wire_bytes"][-1] >= result["expected_bytes"]


def test_plot_is_a_png_of_1200_by_500_pixels(finished):
    _, out = finished
    image = (out / "demo.png").read_bytes()
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    assert [int.from_bytes(image[at : at + 4], "big") for at in (16, 20)] == [1200, 500]


def test_failing_worker_is_a_clear_error(tmp_path):
    begin = time.monotonic()
    done = run("--data", "cifar10", "--path", str(tmp_path / "nowhere"), out=tmp_path)
    assert done.returncode == 1
    assert time.monotonic() - begin < 60
    assert f"{tmp_path / 'nowhere'} is not a folder; it should hold" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_wrong_option_starts_no_worker(tmp_path):
    done = run("--multiplier", "2.5", out=tmp_path / "out")
    assert done.returncode == 2
    assert "multiplier" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_ended_command_leaves_no_process(tmp_path):
    signals = [signal.SIGINT, signal.SIGKILL]
    commands = [
        subprocess.Popen(
            [*COMMAND, "--steps", "100000", "--out", str(tmp_path / how.name)],
            stdout=subprocess.DEVNULL,
            preexec_fn=hear_interrupts,
        )
        for how in signals
    ]
    started = [process for command in commands for process in children(command.pid, number=3)]  # torchrun, two workers
    try:
        for command, how in zip(commands, signals, strict=True):
            command.send_signal(how)
            assert command.wait(30) != 0
        _, alive = psutil.wait_procs(started, timeout=30)
        assert alive == []
    finally:
        for command in commands:
            command.kill()  # workers leave when it is gone


def hear_interrupts() -> None:
    """Undo what a shell does to commands it starts in the background, such as a whole test run."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def children(pid: int, *, number: int) -> list[psutil.Process]:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        found = psutil.Process(pid).children(recursive=True)
        if len(found) == number:
            return found
        time.sleep(0.1)
    raise AssertionError(f"process {pid} has not started {number} others")
