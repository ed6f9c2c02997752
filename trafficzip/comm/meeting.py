"""Meeting: ranks check in before they connect, so that one that never comes is named instead of waited for in vain."""

import hashlib
from collections.abc import Callable, Sequence
from datetime import timedelta
from time import monotonic, sleep
from typing import Any, TypeVar

import torch.distributed as dist

from trafficzip.errors import CollectiveError

_GRACE_S = 3.0  # once connecting has failed, how long other ranks may take to notice it too
_Connected = TypeVar("_Connected")


def connect_together(ranks: Sequence[int], connect: Callable[[], _Connected], *, timeout_s: float) -> _Connected:
    """Call `connect` once all of `ranks` (global ranks) have come, and give its result; a collective call.

    Ranks check in at the default process group's store. Repeated calls by the same ranks are told apart by number.

    Raises:
        CollectiveError: a rank did not come in `timeout_s`, or was lost while ranks connected; names it.
    """
    store = dist.distributed_c10d._get_default_store()
    me = dist.get_rank()
    group = hashlib.sha256(repr(list(ranks)).encode()).hexdigest()[:16]
    try:
        number = store.add(f"trafficzip/{group}/{me}", 1)
        desk = _Desk(store, f"trafficzip/{group}/{number}", [rank for rank in ranks if rank != me])
        store.set(desk.key("came", me), "1")
        desk.await_all(timeout_s)
        try:
            connected = connect()
        except RuntimeError as error:
            store.set(desk.key("ended", me), "1")
            lost = desk.not_ended()
            names = f"{_named(lost)} was lost" if lost else "no rank was lost"
            raise CollectiveError(f"ranks could not connect, {names}: {_first_line(error)}") from error
        store.set(desk.key("ended", me), "1")
    except RuntimeError as error:
        if isinstance(error, CollectiveError):
            raise
        raise CollectiveError(f"the process group's store does not answer: {_first_line(error)}") from error
    return connected


class _Desk:
    """One meeting's keys in the store."""

    def __init__(self, store: Any, prefix: str, others: Sequence[int]) -> None:
        self.store = store
        self.prefix = prefix
        self.others = others

    def key(self, what: str, rank: int) -> str:
        return f"{self.prefix}/{what}/{rank}"

    def _missing(self, what: str) -> list[int]:
        return [rank for rank in self.others if not self.store.check([self.key(what, rank)])]

    def await_all(self, timeout_s: float) -> None:
        if not self.others:
            return
        try:
            self.store.wait([self.key("came", rank) for rank in self.others], timedelta(seconds=timeout_s))
        except RuntimeError as error:
            missing = self._missing("came")
            if not missing:
                return  # the last one came this moment
            raise CollectiveError(
                f"{_named(missing)} did not register with this one's group in {timeout_s:g} s: it exited, is stuck, "
                "or takes the group to be another one"
            ) from error

    def not_ended(self) -> list[int]:
        deadline = monotonic() + _GRACE_S
        while (missing := self._missing("ended")) and monotonic() < deadline:
            sleep(0.05)
        return missing


def _named(ranks: Sequence[int]) -> str:
    return " and ".join(f"rank {rank}" for rank in ranks[:8]) + (f" and {len(ranks) - 8} more" if ranks[8:] else "")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["no message"])[0]
