"""Runs a case on real processes, does the parts of faults that come from outside, and judges how every rank ended."""

import multiprocessing
import os
import re
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from threading import Lock, Timer
from typing import Any

from benchmarks.faults.cases import CONTINUES, GRACE_S, Case
from benchmarks.faults.network import Cluster
from benchmarks.faults.worker import Place, serve

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["benchmarks.faults.preload"])
_TRAIN_S = 90.0  # what an undisturbed case may take on a busy machine, processes' start included


@dataclass
class Ending:
    """How a rank ended: finished, left, raised, died or silent, what it said, and when."""

    how: str
    said: dict[str, Any]
    at: float


@dataclass(frozen=True)
class Verdict:
    """Whether a case ended as expected.

    found: what happened, in words.
    seconds: of the whole case. error_s: from the fault to the last error of a living rank.
    """

    case: Any  # a Case, or what else can `run`
    passed: bool
    found: str
    seconds: float
    error_s: float | None = None


def run_case(case: Case) -> Verdict:
    """Run one case and, where it must equal the undisturbed run, that one too."""
    begin = time.monotonic()
    endings, fault_at, resent = _run(case)
    seconds = time.monotonic() - begin
    if case.fault and not fault_at:
        return Verdict(case, False, "the fault never struck: " + _summary(endings), seconds)
    if case.expected == CONTINUES:
        return Verdict(case, *_judge_continuation(case, endings, resent), seconds)
    problem, error_s = _judge_error(case, endings, fault_at)
    return Verdict(case, not problem, problem or _first_error(case, endings), seconds, error_s)


def _judge_continuation(case: Case, endings: list[Ending], resent: int) -> tuple[bool, str]:
    if any(ending.how != "finished" for ending in endings):
        return False, _summary(endings)
    if len({ending.said["parameters"] for ending in endings}) > 1:
        return False, "parameters differ between ranks"
    if any(ending.said["nonfinite_steps"] != case.nonfinite_steps for ending in endings):
        return False, f"non-finite steps: {[ending.said['nonfinite_steps'] for ending in endings]}"
    if case.loss and not resent:
        return False, "no packet was lost"
    if case.exact:
        if [ending.said["everything"] for ending in endings] != undisturbed(case):
            return False, "ranks agree, but differ from the undisturbed run"
        return True, "finished, bit-identical to the undisturbed run" + (
            f"; {resent} segments sent again" if case.loss else ""
        )
    return True, "finished, ranks bit-identical"


def _judge_error(case: Case, endings: list[Ending], fault_at: float) -> tuple[str, float]:
    bound = case.timeout_s + GRACE_S
    last = 0.0
    apart = [endings[rank] for rank in case.apart]
    if any(ending.how != "finished" for ending in apart) or len({ending.said["parameters"] for ending in apart}) > 1:
        return f"the group apart did not finish alike: {_summary(endings)}", last
    for rank, ending in enumerate(endings):
        if rank in case.fallen or rank in case.apart:
            continue
        if ending.how != "raised":
            return f"rank {rank} {ending.how}, expected an error; all: {_summary(endings)}", last
        last = max(last, ending.at - fault_at)
        if case.raises not in ending.said["types"] or not re.search(case.says, ending.said["text"]):
            return f"rank {rank} said: {ending.said['text'][:300]}", last
    return ("" if last <= bound else f"errors came {last:.1f} s after the fault, bound {bound:g} s"), last


def _first_error(case: Case, endings: list[Ending]) -> str:
    rank = next(rank for rank in range(case.world_size) if rank not in (*case.fallen, *case.apart))
    return f"rank {rank}: {endings[rank].said['text'][:160]}"


def _summary(endings: list[Ending]) -> str:
    return "; ".join(f"rank {k} {e.how} {e.said.get('text', '')[:200]}" for k, e in enumerate(endings))


_REFERENCES: dict[Case, list[str]] = {}
_LOCK = Lock()  # cases run on several threads


def undisturbed(case: Case) -> list[str]:
    """Give every rank's digest of the same training without a fault, run once."""
    plain = replace(
        case, name="undisturbed", fault=None, network=False, loss=0.0, delay_ms=0.0, timeout_s=60.0, struck=(), says=""
    )
    with _LOCK:
        if plain not in _REFERENCES:
            endings, _, _ = _run(plain)
            if any(ending.how != "finished" for ending in endings):
                raise RuntimeError(f"the undisturbed run failed: {_summary(endings)}")
            _REFERENCES[plain] = [ending.said["everything"] for ending in endings]
        return _REFERENCES[plain]


def _run(case: Case) -> tuple[list[Ending], float, int]:
    from torch.distributed import TCPStore

    with ExitStack() as stack:
        cluster = None
        if case.network:
            cluster = stack.enter_context(Cluster(case.world_size, loss=case.loss, delay_ms=case.delay_ms))
            places, _store = cluster.places(), cluster.store
        else:
            _store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
            places = [Place(store_host="127.0.0.1", store_port=_store.port, interface="lo")] * case.world_size
        watch = _Watch(case, cluster)
        try:
            watch.start(places)
            watch.follow()
            resent = cluster.retransmitted() if cluster else 0
        finally:
            watch.close()
        return watch.endings, watch.fault_at, resent


class _Watch:
    """The processes of one case."""

    def __init__(self, case: Case, cluster: Any) -> None:
        self.case = case
        self.cluster = cluster
        self.ends: list[Connection] = []
        self.processes: list[Any] = []
        self.timers: list[Timer] = []
        self.fault_at = 0.0
        self.endings = [Ending("silent", {}, 0.0) for _ in range(case.world_size)]

    def start(self, places: list[Place]) -> None:
        for rank, place in enumerate(places):
            ours, theirs = _CONTEXT.Pipe()
            process = _CONTEXT.Process(target=serve, args=(theirs, rank, self.case, place), daemon=True)
            process.start()
            theirs.close()
            self.ends.append(ours)
            self.processes.append(process)

    def follow(self) -> None:
        """Read what ranks report until all have ended, or until the time for it is over."""
        deadline = time.monotonic() + _TRAIN_S + self.case.timeout_s + GRACE_S
        running = dict(enumerate(self.ends))
        while running and time.monotonic() < deadline:
            for end in wait(list(running.values()), timeout=max(0.0, deadline - time.monotonic())):
                rank = self.ends.index(end)
                try:
                    message = end.recv()
                except (EOFError, ConnectionError):
                    self.endings[rank] = Ending("died", {}, time.monotonic())
                    del running[rank]
                    continue
                if message[0] == "event":
                    self._on_event(rank, *message[1:])
                    if self.case.expected != CONTINUES:
                        deadline = min(deadline, self.fault_at + self.case.timeout_s + GRACE_S + 5)
                else:
                    self.endings[rank] = Ending(*message)
                    del running[rank]
            if not set(running) - set(self.case.fallen):
                deadline = min(deadline, time.monotonic() + 0.2)  # the fallen may never answer

    def _on_event(self, rank: int, what: str, argument: Any, at: float) -> None:
        self.fault_at = self.fault_at or at
        if what == "freeze" and argument:
            self._later(argument, lambda: os.kill(self.processes[rank].pid, signal.SIGCONT))
        elif what == "cut":
            self.cluster.set_link(rank, up=False)
            if argument:
                self._later(argument, lambda: self.cluster.set_link(rank, up=True))
            self.fault_at = time.monotonic()
            self.ends[rank].send("go")

    def _later(self, seconds: float, action: Any) -> None:
        timer = Timer(seconds, action)
        timer.daemon = True
        timer.start()
        self.timers.append(timer)

    def close(self) -> None:
        for timer in self.timers:
            timer.cancel()
        for process in self.processes:
            process.kill()  # also where it is stopped
        for process in self.processes:
            process.join(10)
        for end in self.ends:
            end.close()
