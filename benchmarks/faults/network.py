"""Where the ranks of a link case live: a host each, on links that can be cut or that drop packets."""

import re
import subprocess
from contextlib import ExitStack
from threading import Thread
from typing import Any, Self

from benchmarks.faults.worker import Place
from trafficzip.cluster.hosts import INTERFACE, Hosts, HostsUnavailableError, check_available, enter
from trafficzip.cluster.links import Link

_RETRANSMITTED = 11  # of the fields of /proc/net/snmp's Tcp line that hold numbers


class Cluster:
    """`world_size` hosts and a store on the first one; a context manager.

    loss: share of packets that each link drops, each way; a packet between two hosts crosses two links.
    delay_ms: one way, of each link.
    """

    def __init__(self, world_size: int, *, loss: float = 0.0, delay_ms: float = 0.0) -> None:
        self._stack = ExitStack()
        self.hosts = self._stack.enter_context(Hosts(world_size, Link(loss=loss, delay_ms=delay_ms)))
        try:
            self.store = _store_on(self.hosts)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.store = None
        self._stack.close()

    def places(self) -> list[Place]:
        """Give where each rank runs."""
        return [
            Place(
                store_host=self.hosts.address(0),
                store_port=self.store.port,
                interface=INTERFACE,
                namespace=str(self.hosts.namespace(host)),
            )
            for host in range(self.hosts.count)
        ]

    def set_link(self, rank: int, *, up: bool) -> None:
        """Cut a rank's host off, or join it again."""
        self.hosts.set_link(rank, up=up)

    def retransmitted(self) -> int:
        """Give the TCP segments that hosts have sent again so far."""
        total = 0
        for host in range(self.hosts.count):
            command = self.hosts.command(host, ["cat", "/proc/net/snmp"])
            text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            total += int(re.findall(r"^Tcp: (.*)$", text, re.M)[1].split()[_RETRANSMITTED])
        return total


def why_no_network() -> str:
    """Say why hosts cannot be made here; empty where they can."""
    try:
        check_available()
        with Hosts(1, Link()):
            return ""
    except HostsUnavailableError as error:
        return str(error)


def _store_on(hosts: Hosts) -> Any:
    """Start the store on the first host: on a thread that has moved there, so that this program stays where it is."""
    from torch.distributed import TCPStore

    made: list[Any] = []

    def make() -> None:
        enter(hosts.namespace(0))
        made.append(TCPStore(hosts.address(0), 0, is_master=True, wait_for_workers=False))

    thread = Thread(target=make)
    thread.start()
    thread.join()
    if not made:
        raise HostsUnavailableError("the store did not start on the first host")
    return made[0]
