"""Hosts: network namespaces on this machine, joined by a switch over shaped links.

Every namespace belongs to a process that leaves when this one does, however it ends; the kernel then removes the
namespace with all that is in it. Interfaces are made and named inside these namespaces only, so no interface of the
machine is seen, let alone changed.
"""

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from trafficzip.cluster.links import Link
from trafficzip.errors import ConfigError

INTERFACE = "tz0"  # of every host
_NETWORK = "10.77.0"
_CLONE_NEWNET = 0x40000000
_TOOLS = {"unshare": "util-linux", "nsenter": "util-linux", "taskset": "util-linux", "ip": "iproute2", "tc": "iproute2"}


class HostsUnavailableError(ConfigError):
    """This machine or user cannot make hosts; says why."""


class _Namespace:
    """A network namespace and the process that holds it."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--", "sh", "-c", "echo ready; read -r _"],  # reads until this process is gone
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._holder.stdout is not None
        assert self._holder.stderr is not None
        if self._holder.stdout.readline().strip() != "ready":
            reason = self._holder.stderr.read().strip()
            self.close()
            raise HostsUnavailableError(f"cannot make a network namespace: {reason or 'unshare gave no reason'}")
        self.pid = self._holder.pid
        self.run("ip", "link", "set", "lo", "up")

    def enter(self) -> list[str]:
        """Give the words before a command that runs it in this namespace."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--"]

    def run(self, *command: str, may_fail: bool = False) -> bool:
        """Run a command in the namespace; say whether it succeeded."""
        done = subprocess.run([*self.enter(), *command], capture_output=True, text=True, check=False)
        if done.returncode and not may_fail:
            raise HostsUnavailableError(f"{' '.join(command)!r} failed: {done.stderr.strip()}")
        return done.returncode == 0

    def close(self) -> None:
        for pipe in (self._holder.stdin, self._holder.stdout, self._holder.stderr):
            if pipe:
                pipe.close()
        self._holder.wait()


class Hosts:
    """`count` hosts, each with one interface on one switch; a context manager.

    Addresses are 10.77.0.1 and up, in namespaces of their own: several of these clusters can run at once.

    Raises:
        HostsUnavailableError: not root, no namespaces, or a tool is missing; says which.
    """

    def __init__(self, count: int, link: Link) -> None:
        if not 1 <= count <= 64:
            raise ConfigError(f"hosts: expected 1 to 64, got {count}")
        check_available()
        self.count = count
        self.link = link
        self._namespaces: list[_Namespace] = []
        self._relays: list[subprocess.Popen[str]] = []
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def relayed(self) -> bool:
        """Whether delay and loss come from a relay in this machine's user space, because the kernel has no netem."""
        return bool(self._relays)

    def address(self, host: int) -> str:
        """Give a host's address."""
        return f"{_NETWORK}.{host + 1}"

    def command(self, host: int, command: Sequence[str]) -> list[str]:
        """Give the command that runs `command` on a host."""
        return [*self._namespaces[host].enter(), *command]

    def namespace(self, host: int) -> Path:
        """Give the file by which a process can `enter` a host."""
        return Path(f"/proc/{self._namespaces[host].pid}/ns/net")

    def shape(self, link: Link) -> None:
        """Give every link another rate.

        Raises:
            ConfigError: delay, loss or mtu differ: they are the same for the life of the hosts.
        """
        if (link.delay_ms, link.loss, link.mtu) != (self.link.delay_ms, self.link.loss, self.link.mtu):
            raise ConfigError(f"only the rate of links can change, got {link} in place of {self.link}")
        for host in range(self.count):
            for namespace, device in self._ends(host):
                self._shape(namespace, device, link)
        self.link = link

    def set_link(self, host: int, *, up: bool) -> None:
        """Cut a host off the switch, or join it again."""
        namespace, device = self._ends(host)[1]
        namespace.run("ip", "link", "set", device, "up" if up else "down")

    def close(self) -> None:
        """Remove all of it; processes that still run on a host keep its namespace until they end."""
        for relay in self._relays:
            relay.kill()
            relay.communicate()
        for namespace in self._namespaces:
            namespace.close()
        self._relays.clear()
        self._namespaces.clear()

    def _make(self) -> None:
        for _ in range(self.count + 1):  # the last one is the switch
            self._namespaces.append(_Namespace())
        switch = self._namespaces[-1]
        switch.run("ip", "link", "add", "br0", "type", "bridge")
        switch.run("ip", "link", "set", "br0", "up")
        relay = bool(self.link.delay_ms or self.link.loss) and not self._has_netem()
        for host in range(self.count):
            (mine, device), (_, port) = self._ends(host)
            if relay:
                self._relays.append(self._relay(mine, device, switch, port))
            else:
                switch.run(
                    *("ip", "link", "add", port, "type", "veth"),
                    *("peer", "name", device, "netns", str(mine.pid)),
                )
            for namespace, name in self._ends(host):
                namespace.run("ip", "link", "set", name, "mtu", str(self.link.mtu), "txqueuelen", "5000")
            switch.run("ip", "link", "set", port, "master", "br0", "up")
            mine.run("ip", "addr", "add", f"{self.address(host)}/24", "dev", device)
            mine.run("ip", "link", "set", device, "up")
            for namespace, name in self._ends(host):
                self._shape(namespace, name, self.link)

    def _ends(self, host: int) -> list[tuple[_Namespace, str]]:
        """Give the two ends of a host's link: its interface and the switch's port."""
        return [(self._namespaces[host], INTERFACE), (self._namespaces[-1], f"port{host}")]

    def _shape(self, namespace: _Namespace, device: str, link: Link) -> None:
        tc = ("tc", "qdisc")
        namespace.run(*tc, "del", "dev", device, "root", may_fail=True)
        netem = bool(link.delay_ms or link.loss) and not self._relays
        if netem:
            namespace.run(*tc, "add", "dev", device, "root", "handle", "1:", *link.netem())
        if link.rate_bits_per_s is not None:
            place = ("parent", "1:") if netem else ("root",)
            namespace.run(*tc, "add", "dev", device, *place, *link.tbf())

    def _has_netem(self) -> bool:
        add = ("tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms")
        found = self._namespaces[-1].run(*add, may_fail=True)
        self._namespaces[-1].run("tc", "qdisc", "del", "dev", "lo", "root", may_fail=True)
        return found

    def _relay(self, mine: _Namespace, device: str, switch: _Namespace, port: str) -> "subprocess.Popen[str]":
        ends = (f"/proc/{mine.pid}/ns/net", device, f"/proc/{switch.pid}/ns/net", port)
        process = subprocess.Popen(
            [
                sys.executable,
                str(Path(__file__).with_name("relay.py")),
                *ends,
                str(self.link.delay_ms),
                str(self.link.loss),
            ],
            stdin=subprocess.PIPE,  # its end tells the relay to leave
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            _, reason = process.communicate()
            raise HostsUnavailableError(
                f"delay and loss: the kernel has no netem, and the relay failed: {reason[-500:]}"
            )
        return process


def check_available() -> None:
    """Check that hosts can be made here.

    Raises:
        HostsUnavailableError: says what is missing.
    """
    if sys.platform != "linux":
        raise HostsUnavailableError(f"hosts are Linux network namespaces, which {sys.platform} does not have")
    missing = [f"{tool} (package {package})" for tool, package in _TOOLS.items() if not shutil.which(tool)]
    if missing:
        raise HostsUnavailableError(f"making hosts needs {', '.join(missing)}: not found on the PATH")
    if os.geteuid() != 0:
        raise HostsUnavailableError(
            f"making hosts needs root, for network namespaces and tc; this user has number {os.geteuid()}"
        )


def enter(namespace: Path) -> None:
    """Move the calling thread to a host; threads and processes that it starts from now on are there too.

    Raises:
        HostsUnavailableError: the host is gone, or the kernel refuses.
    """
    try:
        descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise HostsUnavailableError(f"no host behind {namespace}: {error.strerror}") from error
    try:
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET):
            raise HostsUnavailableError(f"cannot enter {namespace}: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(descriptor)


def interface_bytes(interface: str) -> tuple[int, int] | None:
    """Give the bytes that an interface of this process's namespace has received and sent, link headers included.

    None where the system counts none, or has no such interface.
    """
    try:
        lines = Path("/proc/self/net/dev").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, counters = line.partition(":")
        if name.strip() == interface:
            fields = counters.split()
            return int(fields[0]), int(fields[8])
    return None
