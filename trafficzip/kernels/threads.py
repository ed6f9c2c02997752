"""Run kernels that release the GIL in several threads."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

Result = TypeVar("Result")


def run_in_threads(function: Callable[..., Result], jobs: Sequence[tuple[Any, ...]], num_threads: int) -> list[Result]:
    """Call `function` with each tuple of arguments and give the results in the order of `jobs`.

    The calling thread works too, so `num_threads` threads run in all; one job or one thread starts nothing.
    Raises: what `function` raises, for the first failing job of a thread.
    """
    workers = min(num_threads, len(jobs))
    if workers <= 1:
        return [function(*job) for job in jobs]
    results: list[Result | None] = [None] * len(jobs)
    remaining = iter(range(len(jobs)))  # `next` on it is atomic: threads take jobs as they become free

    def work() -> None:
        for index in remaining:
            results[index] = function(*jobs[index])

    futures = [_pool(workers - 1).submit(work) for _ in range(workers - 1)]
    try:
        work()
    finally:
        for future in futures:
            future.exception()  # waits: no thread may still write when this returns
    for future in futures:
        future.result()
    return results  # type: ignore[return-value]


@cache
def _pool(num_workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(num_workers, thread_name_prefix="trafficzip")


os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork
