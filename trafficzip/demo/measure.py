"""What is measured from outside the library: bytes through the loopback interface, and whether ranks are equal."""

import hashlib
from pathlib import Path

from torch import nn

_COUNTERS = Path("/proc/net/dev")


def loopback_bytes() -> int | None:
    """Give the bytes received so far by the loopback interface, by any program; None where nothing counts them.

    Each byte on loopback is received once, whoever sent it, so this counts the traffic of all local ranks together.
    """
    try:
        lines = _COUNTERS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, counters = line.partition(":")
        if name.strip() == "lo":
            return int(counters.split()[0])
    return None


def parameter_digest(network: nn.Module) -> str:
    """Give the SHA-256 of all parameters' bytes, in order."""
    digest = hashlib.sha256()
    for parameter in network.parameters():
        digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def all_reduce_bytes(num_elements: int, *, world_size: int) -> int:
    """Give what all ranks together send in one ring all-reduce of float32 elements."""
    return 2 * (world_size - 1) * 4 * num_elements
