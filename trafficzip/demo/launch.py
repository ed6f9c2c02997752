"""Starts the worker processes through torchrun, on this machine only, and hands on what they report."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from trafficzip.demo.settings import Settings
from trafficzip.errors import CollectiveError

_POLL_S = 0.1
_GRACE_S = 10.0  # workers leave at once when their input is closed, torchrun soon after


def launch(settings: Settings, log: Path) -> Generator[dict[str, Any], None, None]:
    """Yield the workers' events while they run; closing the iterator, or leaving this process, ends them.

    log: file for everything the processes print.

    Raises:
        CollectiveError: a worker failed; the message is its error.
    """
    with tempfile.TemporaryDirectory(prefix="trafficzip-demo-") as folder, log.open("wb") as output:
        config, path = Path(folder, "settings.json"), Path(folder, "events.jsonl")
        config.write_text(json.dumps(settings.to_dict()))
        path.touch()
        process = subprocess.Popen(
            _command(settings.workers, config, path),
            stdin=subprocess.PIPE,  # never written to: its end tells the workers to leave
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | _environment(),
            start_new_session=True,  # Ctrl-C reaches this process only, which then ends the others
        )
        try:
            with path.open() as events:
                yield from _follow(process, events, log)
        finally:
            _end(process)


def _command(workers: int, *arguments: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        *("--nnodes=1", f"--nproc-per-node={workers}", "--max-restarts=0", "--monitor-interval=0.2"),
        *("--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"),  # 0: any free port
        *("--module", "trafficzip.demo.worker", *map(str, arguments)),
    ]


def _environment() -> dict[str, str]:
    """Keep all traffic on the loopback interface, whatever the host is called, and the log short."""
    names = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    return {
        **({"GLOO_SOCKET_IFNAME": names[0]} if names else {}),
        "OMP_NUM_THREADS": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "PYTHONUNBUFFERED": "1",
    }


def _follow(process: "subprocess.Popen[bytes]", events: Any, log: Path) -> Iterator[dict[str, Any]]:
    errors: list[dict[str, Any]] = []
    finished = False
    rest = ""
    while True:
        running = process.poll() is None  # before reading: what a process wrote before it ended is then read
        *lines, rest = (rest + events.read()).split("\n")
        for line in lines:
            event = json.loads(line)
            if event["event"] == "error":
                errors.append(event)
            else:
                finished = finished or event["event"] == "result"
                yield event
        if not running:
            break
        time.sleep(_POLL_S)
    if process.returncode != 0 or errors or not finished:
        raise CollectiveError(_reason(errors, process.returncode, log))


def _reason(errors: list[dict[str, Any]], status: int, log: Path) -> str:
    """Say why the workers failed; ranks with the same error are named together."""
    if not errors:
        return f"a worker was killed or crashed without a message (torchrun's exit status {status}); see {log}"
    ranks: dict[str, list[str]] = {}
    for error in errors:
        ranks.setdefault(error["text"], []).append(str(error["rank"]))
    return "; ".join(f"worker {', '.join(sorted(who))}: {text}" for text, who in ranks.items()) + f" (log: {log})"


def _end(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
