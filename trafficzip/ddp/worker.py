"""A thread that runs a hook's exchanges in order, while the backward pass goes on."""

import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue

Job = Callable[[], None]


@dataclass(slots=True, eq=False)
class _Shared:
    """What the thread knows. It does not know the worker, so a forgotten worker ends its thread.

    error: what a job raised; jobs after it are dropped until `drain` has raised it.
    """

    jobs: SimpleQueue[Job | threading.Event | None]
    error: Exception | None = None


class Worker:
    """Runs jobs one after the other, in the order given, on one daemon thread; starts with the first job.

    Use it from one thread at a time.
    """

    def __init__(self) -> None:
        self._shared = _Shared(SimpleQueue())
        self._thread: threading.Thread | None = None
        self._busy = False
        self._end = weakref.finalize(self, self._shared.jobs.put, None)

    def submit(self, job: Job) -> None:
        """Run `job` after those submitted before.

        Raises: what an earlier job raised, as `drain` does.
        """
        if self._shared.error is not None:
            self.drain()
        if self._thread is None or not self._thread.is_alive():  # a fork keeps no thread
            self._thread = threading.Thread(target=_serve, args=(self._shared,), name="trafficzip", daemon=True)
            self._thread.start()
        self._busy = True
        self._shared.jobs.put(job)

    def drain(self) -> None:
        """Wait until all jobs are done.

        Raises: what the first failing job raised; the jobs after it have not run.
        """
        if not self._busy:
            return
        done = threading.Event()
        self._shared.jobs.put(done)
        while not done.wait(1.0):
            if self._thread is None or not self._thread.is_alive():
                raise RuntimeError("the exchange's thread is gone: this process was forked during a backward pass")
        self._busy = False
        error, self._shared.error = self._shared.error, None
        if error is not None:
            raise error

    def abandon(self) -> None:
        """Wait for the job that runs; drop the others, and what any of them raised."""
        if self._busy:
            self._shared.error = self._shared.error or RuntimeError("abandoned")
            with suppress(Exception):
                self.drain()

    def close(self) -> None:
        """End the thread after the jobs that it has; it takes no more."""
        self._end()


def _serve(shared: _Shared) -> None:
    while (job := shared.jobs.get()) is not None:
        if isinstance(job, threading.Event):
            job.set()
        elif shared.error is None:
            try:
                job()
            except Exception as error:  # noqa: BLE001 drain raises it where the backward pass runs
                shared.error = error
        del job  # it holds tensors
