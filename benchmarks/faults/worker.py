"""One rank of a case: joins the group, trains, lets the case's fault strike, and reports how it ended."""

import os
import signal
import time
import traceback
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from trafficzip.cluster.hosts import enter
from trafficzip.errors import TrafficzipError


class LeaveEarlyError(Exception):
    """Ends a rank's training early, as a loop that has run out of data does."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a rank runs: the store's address, the network interface and, for cases over links, the namespace."""

    store_host: str
    store_port: int
    interface: str
    namespace: str | None = None


class Run:
    """What a fault sees and changes on its rank."""

    def __init__(self, pipe: Connection, rank: int, case: Any) -> None:
        self.pipe = pipe
        self.rank = rank
        self.case = case
        self.options: dict[str, Any] = {
            "compressor": case.compressor,
            "exchange": case.exchange,
            "timeout_s": case.timeout_s,
            "overlap": case.overlap,
            **({"nodes": case.nodes} if case.nodes else {}),
        }
        self.hidden = 160
        self.group: Any = None
        self.poison = False
        self.training: Any = None

    def announce(self, what: str = "fault", argument: Any = None, *, wait: bool = False) -> None:
        """Tell the runner that the fault strikes now; with `wait`, wait until the runner has done its part."""
        self.pipe.send(("event", what, argument, time.monotonic()))
        if wait:
            self.pipe.recv()

    def act(self, action: str, seconds: float | None = None) -> None:
        """Do to this rank what the fault says."""
        if action == "cut":
            self.announce("cut", seconds, wait=True)
            return
        self.announce(action, seconds)
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif action == "freeze":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif action == "raise":
            raise RuntimeError("a fault in user code")
        elif action == "leave":
            raise LeaveEarlyError


def serve(pipe: Connection, rank: int, case: Any, place: Place) -> None:
    """Run one rank of `case` and send ("finished", values) or ("raised", names of types, text, time)."""
    import torch.distributed as dist

    try:
        answer: tuple[Any, ...] = ("finished", _train(pipe, rank, case, place), time.monotonic())
    except LeaveEarlyError:
        answer = ("left", {}, time.monotonic())
    except BaseException as error:  # noqa: BLE001 how it ended is what the case is about
        names = [kind.__name__ for kind in type(error).__mro__]
        answer = ("raised", {"types": names, "text": f"{type(error).__name__}: {error}"}, time.monotonic())
        if not isinstance(error, TrafficzipError):
            answer[1]["trace"] = traceback.format_exc()
    pipe.send(answer)
    if answer[0] == "raised":
        os._exit(1)  # at once, as a program whose exception nobody caught
    dist.destroy_process_group()
    os._exit(0)


def _train(pipe: Connection, rank: int, case: Any, place: Place) -> dict[str, Any]:
    import torch
    import torch.distributed as dist

    if place.namespace:
        enter(Path(place.namespace))
    os.environ["GLOO_SOCKET_IFNAME"] = place.interface
    torch.set_num_threads(1)
    run = Run(pipe, rank, case)
    store = dist.TCPStore(place.store_host, place.store_port, is_master=False)
    timeout = timedelta(seconds=case.timeout_s)
    dist.init_process_group(
        "gloo", store=dist.PrefixStore("case", store), rank=rank, world_size=case.world_size, timeout=timeout
    )
    fault = case.fault if rank in case.struck else None
    if fault:
        fault.before_model(run)
    training = run.training = _make(case, rank, run)
    if fault:
        fault.before_register(run)
    if run.options:
        training.register(run.options)
    caught = 0
    for step in range(case.steps):
        if fault:
            fault.before_step(run, step)
        try:
            training.step(step, poison=run.poison)
        except TrafficzipError:
            caught += 1
            if caught > case.catches:
                raise
            if caught == 1:
                run.announce("caught")
    return {**training.digests(), "nonfinite_steps": training.nonfinite_steps(), "caught": caught}


def _make(case: Any, rank: int, run: Run) -> Any:
    if case.kind == "fsdp":
        from benchmarks.faults.sharded import ShardedTraining

        return ShardedTraining(rank)
    if case.kind == "local":
        from benchmarks.faults.local import LocalTraining

        return LocalTraining(rank)
    from benchmarks.faults.training import Training

    return Training(rank, hidden=run.hidden, group=run.group, scaler=case.scaler)
