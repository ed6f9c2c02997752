"""Agreement: ranks check once that they share one configuration, and tell each other why one of them gives up."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from trafficzip.comm.transport import Transport
from trafficzip.errors import CollectiveError, ConfigError, TrafficzipError

_REFUSED = "refused"
_MAX_BYTES = 1 << 20


def agree(transport: Transport, description: Mapping[str, Any]) -> None:
    """Check that all ranks share one configuration; a collective call.

    description: what must be equal, as plain data.
    Raises:
        CollectiveError: an entry differs, or a rank refused; on every rank.
    """
    others = gather_plain(transport, description)
    for rank, other in enumerate(others):
        if _REFUSED in other:
            raise CollectiveError(f"rank {rank} refused to register: {other[_REFUSED]}")
    for rank, other in enumerate(others):
        keys = description.keys() | others[0].keys() | other.keys()
        for key in sorted(keys, key=lambda key: (key == "parameters", key)):  # what follows from other keys comes last
            if other.get(key) != others[0].get(key):
                raise CollectiveError(
                    f"ranks disagree about {key}: rank 0 has {others[0].get(key)}, rank {rank} has {other.get(key)}"
                )


@contextmanager
def refusing(transport: Transport) -> Iterator[None]:
    """Tell the ranks that are about to `agree` that this one cannot, when the block raises ConfigError."""
    try:
        yield
    except ConfigError as error:
        gather_plain(transport, {_REFUSED: str(error)})  # the others must not wait for a rank that gives up
        raise


@contextmanager
def failing(transport: Transport) -> Iterator[None]:
    """Tell the ranks that are about to exchange why this one cannot, when the block raises."""
    try:
        yield
    except Exception as error:
        tell_failure(transport, error)
        raise


def tell_failure(transport: Transport, error: Exception) -> None:
    """Tell every other rank why this one cannot go on."""
    transport.fail(str(error) if isinstance(error, TrafficzipError) else f"{type(error).__name__}: {error}")


def gather_plain(transport: Transport, plain: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Give what every rank gave, plain data, in rank order; a collective call."""
    text = json.dumps(plain, sort_keys=True).encode()
    answers = transport.all_gather(np.frombuffer(text, np.uint8), limit=_MAX_BYTES)
    return [json.loads(answer.tobytes()) for answer in answers]
