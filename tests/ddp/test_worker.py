"""The thread of overlapped exchanges."""

import gc
import threading
import weakref

import pytest

from trafficzip.ddp.worker import Worker

LONG_S = 60.0


def test_jobs_run_in_order_on_one_other_thread():
    worker = Worker()
    done = []
    for k in range(50):
        worker.submit(lambda k=k: done.append((k, threading.get_ident())))
    worker.drain()
    assert [k for k, _ in done] == list(range(50))
    assert len({thread for _, thread in done} | {threading.get_ident()}) == 2


def test_nothing_starts_before_the_first_job():
    worker = Worker()
    worker.drain()
    worker.abandon()
    assert worker._thread is None


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

    def fail():
        raise ValueError("wrong")

    def submit_until_it_raises():  # as soon as the thread has run the job
        while True:
            worker.submit(lambda: None)

    worker.submit(fail)
    with pytest.raises(ValueError, match="wrong"):
        submit_until_it_raises()


def test_abandoned_jobs_do_not_run_and_raise_nothing():
    worker = Worker()
    begun, gate, done = threading.Event(), threading.Event(), []

    def first():
        begun.set()
        gate.wait()
        raise ValueError("wrong")

    worker.submit(first)
    worker.submit(lambda: done.append(1))
    begun.wait()
    threading.Timer(0.1, gate.set).start()  # the worker is abandoned by then
    worker.abandon()
    assert gate.is_set()  # it has waited for the running job
    assert not done
    worker.submit(lambda: done.append(2))
    worker.drain()
    assert done == [2]


def test_forgotten_worker_ends_its_thread():
    worker = Worker()
    worker.submit(lambda: None)
    worker.drain()
    thread, gone = worker._thread, weakref.ref(worker)
    del worker
    gc.collect()
    assert gone() is None
    thread.join(LONG_S)
    assert not thread.is_alive()
