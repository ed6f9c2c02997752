"""Runs test functions on several processes at once, joined by a Gloo process group on the loopback interface.

A case is a top-level function `case(rank, world_size, *args)`; its results come back by rank, or all tracebacks do.
Processes are started once per world size and are used until a case fails on one of them. Cases that break processes
take fresh ones: `start` gives a pool whose processes the caller may kill.
"""

import multiprocessing
import os
import signal
import time
import traceback
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any

_GRACE_S = 20.0  # once a rank has failed, how long the others may take to say why they did
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.ddp.preload", "hypothesis", "pytest"])


@dataclass(frozen=True)
class Outcome:
    """How a case ended on one rank: a value, or a traceback, or neither where the process died or never answered."""

    value: Any = None
    error: str = ""
    answered: bool = True
    seconds: float = 0.0


class Pool:
    """`world_size` processes that wait for cases."""

    def __init__(self, world_size: int) -> None:
        from torch.distributed import TCPStore

        self.world_size = world_size
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._num_cases = 0
        self._ends: list[Connection] = []
        self.processes = []
        for rank in range(world_size):
            ours, theirs = _CONTEXT.Pipe()
            process = _CONTEXT.Process(target=_serve, args=(theirs, rank, world_size, self._store.port), daemon=True)
            process.start()
            theirs.close()
            self._ends.append(ours)
            self.processes.append(process)

    def submit(self, case: Any, *args: Any) -> None:
        """Start a case on all ranks."""
        self._num_cases += 1
        for end in self._ends:
            end.send((case, args, self._num_cases))

    def outcomes(self, *, timeout_s: float, grace_s: float = _GRACE_S, silent: int | None = None) -> list[Outcome]:
        """Wait for the submitted case, at most `timeout_s`, and `grace_s` once one rank has failed.

        silent: a rank that is not waited for, because it will never answer.
        """
        begin = time.monotonic()
        deadline = begin + timeout_s
        found: list[Outcome | None] = [None] * self.world_size
        while time.monotonic() < deadline:
            open_ends = {end: rank for rank, end in enumerate(self._ends) if found[rank] is None and rank != silent}
            if not open_ends:
                break
            for end in wait(list(open_ends), timeout=max(0.0, deadline - time.monotonic())):
                rank = open_ends[end]
                try:
                    value, error = end.recv()
                    found[rank] = Outcome(value, error, seconds=time.monotonic() - begin)
                except (EOFError, ConnectionError):
                    found[rank] = Outcome(error=f"process of rank {rank} died", answered=False)
                if found[rank].error:
                    deadline = min(deadline, time.monotonic() + grace_s)
        return [
            outcome or Outcome(error=f"rank {rank} did not answer in {time.monotonic() - begin:.0f} s", answered=False)
            for rank, outcome in enumerate(found)
        ]

    def close(self) -> None:
        for end in self._ends:
            end.close()
        for process in self.processes:
            process.kill()  # also where it is stopped
        for process in self.processes:
            process.join(10)


class Ranks:
    """The pools of a test session: `ranks(3, case, *args)` gives the results of three ranks, in rank order."""

    def __init__(self) -> None:
        self._pools: dict[int, Pool] = {}

    def __call__(self, world_size: int, case: Any, *args: Any, timeout_s: float = 120.0) -> list[Any]:
        pool = self._pools.get(world_size) or self._pools.setdefault(world_size, Pool(world_size))
        pool.submit(case, *args)
        outcomes = pool.outcomes(timeout_s=timeout_s)
        if any(outcome.error for outcome in outcomes):
            self._pools.pop(world_size).close()
            raise AssertionError("\n".join(f"rank {k}: {o.error}" for k, o in enumerate(outcomes) if o.error))
        return [outcome.value for outcome in outcomes]

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()


def run_fresh(
    world_size: int, case: Any, *args: Any, timeout_s: float = 90.0, silent: int | None = None
) -> list[Outcome]:
    """Run a case that may fail on processes of its own, and say how it ended on each rank."""
    pool = Pool(world_size)
    try:
        pool.submit(case, *args)
        return pool.outcomes(timeout_s=timeout_s, grace_s=timeout_s, silent=silent)
    finally:
        pool.close()


def die() -> None:
    """Kill this process at once, as the kernel does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def freeze() -> None:
    """Stop this process: its connections stay open, and nothing answers."""
    os.kill(os.getpid(), signal.SIGSTOP)


def _serve(end: Connection, rank: int, world_size: int, port: int) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    while True:
        try:
            case, args, number = end.recv()
        except (EOFError, ConnectionError):
            return
        try:
            torch.manual_seed(0)
            dist.init_process_group(
                "gloo",
                store=dist.PrefixStore(f"case{number}", store),
                rank=rank,
                world_size=world_size,
                timeout=timedelta(seconds=60),
            )
            answer = (case(rank, world_size, *args), "")
            dist.barrier()  # no rank closes its connections while another still uses them
        except BaseException:  # noqa: BLE001 the traceback travels to the test
            answer = (None, traceback.format_exc())
        try:
            end.send(answer)
        except ConnectionError:
            return
        if answer[1]:
            continue  # the group is broken: the test's end kills this process
        dist.destroy_process_group()
