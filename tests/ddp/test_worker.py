"""The thread of overlapped exchanges."""

import gc
import threading
import time
import weakref

import pytest

from trafficzip.ddp.worker import Worker


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "trafficzip"]


def wait_for_threads(count):
    deadline = time.monotonic() + 10
    while len(threads()) != count and time.monotonic() < deadline:
        time.sleep(0.01)
    return len(threads()) == count


def test_jobs_run_in_order_on_another_thread():
    worker = Worker()
    before = len(threads())
    done = []
    for k in range(50):
        worker.submit(lambda k=k: done.append((k, threading.get_ident())))
    worker.drain()
    assert [k for k, _ in done] == list(range(50))
    assert len({thread for _, thread in done} | {threading.get_ident()}) == 2
    assert len(threads()) == before + 1
    worker.close()
    assert wait_for_threads(before)


def test_nothing_starts_before_the_first_job():
    before = len(threads())
    worker = Worker()
    worker.drain()
    assert len(threads()) == before


def test_submit_does_not_wait_and_drain_does():
    worker = Worker()
    gate = threading.Event()
    done = []
    worker.submit(gate.wait)
    worker.submit(lambda: done.append(1))
    assert not done
    gate.set()
    worker.drain()
    assert done == [1]


def test_error_is_raised_once_and_later_jobs_are_dropped():
    worker = Worker()
    gate = threading.Event()
    done = []

    def fail():
        gate.wait()
        raise MemoryError("no room")

    worker.submit(fail)
    worker.submit(lambda: done.append(1))
    gate.set()
    with pytest.raises(MemoryError, match="no room"):
        worker.drain()
    assert not done
    worker.drain()
    worker.submit(lambda: done.append(2))
    worker.drain()
    assert done == [2]


def test_submit_raises_what_has_failed_already():
    worker = Worker()
    failed = threading.Event()

    def fail():
        failed.set()
        raise ValueError("wrong")

    worker.submit(fail)
    failed.wait()
    deadline = time.monotonic() + 10

    def submit_until_it_raises():
        while time.monotonic() < deadline:
            worker.submit(lambda: None)

    with pytest.raises(ValueError, match="wrong"):
        submit_until_it_raises()


def test_forgotten_worker_ends_its_thread():
    before = len(threads())
    worker = Worker()
    worker.submit(lambda: None)
    worker.drain()
    gone = weakref.ref(worker)
    del worker
    gc.collect()
    assert gone() is None
    assert wait_for_threads(before)
