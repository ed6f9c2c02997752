"""Hosts: namespaces that come and go without a trace, and links that hold what was asked for."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trafficzip.cluster import hosts as hosts_module
from trafficzip.cluster.hosts import INTERFACE, Hosts, HostsUnavailableError, check_available, enter
from trafficzip.cluster.links import Link
from trafficzip.errors import ConfigError


def _why_not():
    try:
        with Hosts(1, Link()):
            return ""
    except HostsUnavailableError as error:
        return str(error)


needs_hosts = pytest.mark.skipif(bool(_why_not()), reason=_why_not() or "hosts can be made")


def interfaces():
    return subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout


def run_on(hosts, host, *command):
    return subprocess.run(hosts.command(host, command), capture_output=True, text=True, check=True).stdout


@needs_hosts
def test_interfaces_of_the_machine_stay_as_they_were():
    before = interfaces()
    with Hosts(3, Link(rate_bits_per_s=1e7)) as hosts:
        assert interfaces() == before
        assert f"{INTERFACE}@" in run_on(hosts, 2, "ip", "-o", "link")
    assert interfaces() == before


def send(hosts, num_bytes, *, start=0, to=1):
    """Send bytes over TCP from one host to another; give the seconds it took."""
    server = subprocess.Popen(
        hosts.command(
            to,
            [
                sys.executable,
                "-c",
                "import socket; s = socket.create_server(('', 9000)); print('up', flush=True); c, _ = s.accept()\n"
                "while c.recv(65536): pass\nc.sendall(b'x')",
            ],
        ),
        stdout=subprocess.PIPE,
    )
    server.stdout.readline()
    code = (
        f"import socket, time; c = socket.create_connection(('{hosts.address(to)}', 9000)); t = time.monotonic()\n"
        f"c.sendall(bytes({num_bytes})); c.shutdown(1); c.recv(1); print(time.monotonic() - t)"
    )
    seconds = float(run_on(hosts, start, sys.executable, "-c", code))
    server.wait(10)
    return seconds


@needs_hosts
def test_rate_holds_and_changes():
    with Hosts(2, Link(rate_bits_per_s=8e6)) as hosts:
        assert send(hosts, 500_000) > 0.4  # 0.5 s at 8 Mbit/s; a token bucket starts full
        hosts.shape(Link(rate_bits_per_s=8e5))
        assert send(hosts, 200_000) > 1.2
        hosts.shape(Link())
        assert send(hosts, 500_000) < 0.4
        with pytest.raises(ConfigError, match="only the rate"):
            hosts.shape(Link(loss=0.5))


@needs_hosts
def test_delay_and_loss_hold():
    with Hosts(2, Link(delay_ms=40)) as hosts:
        assert send(hosts, 1) > 0.15  # there and back over two links each
    with Hosts(2, Link(loss=0.05)) as hosts:
        send(hosts, 500_000)
        counted = run_on(hosts, 0, "cat", "/proc/net/netstat") + run_on(hosts, 0, "cat", "/proc/net/snmp")
        assert int(re.findall(r"^Tcp: (.*)$", counted, re.M)[1].split()[11]) > 0  # segments sent again


@needs_hosts
def test_cut_link_carries_nothing_until_it_is_back():
    with Hosts(2, Link()) as hosts:
        hosts.set_link(1, up=False)
        with pytest.raises(subprocess.CalledProcessError):
            run_on(
                hosts,
                0,
                sys.executable,
                "-c",
                f"import socket; socket.create_connection(('{hosts.address(1)}', 9), timeout=0.5)",
            )
        hosts.set_link(1, up=True)
        assert send(hosts, 1000) < 30


@needs_hosts
def test_killed_program_leaves_nothing_behind():
    program = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import time\nfrom trafficzip.cluster.hosts import Hosts\nfrom trafficzip.cluster.links import Link\n"
            "hosts = Hosts(2, Link(delay_ms=1))\nprint(*[n.pid for n in hosts._namespaces], "
            "*[r.pid for r in hosts._relays], flush=True)\ntime.sleep(60)",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    pids = program.stdout.readline().split()
    assert len(pids) >= 3
    os.kill(program.pid, signal.SIGKILL)
    program.wait()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@needs_hosts
def test_processes_enter_a_host():
    with Hosts(2, Link()) as hosts:
        child = os.fork()
        if child == 0:
            enter(hosts.namespace(1))
            os._exit(0 if hosts_module.interface_bytes(INTERFACE) is not None else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        gone = hosts.namespace(0)
    with pytest.raises(HostsUnavailableError, match="no host behind"):
        enter(gone)


def test_without_root_says_so(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(hosts_module.shutil, "which", lambda tool: f"/sbin/{tool}")
    with pytest.raises(HostsUnavailableError, match=r"needs root.*1000"):
        Hosts(2, Link())


def test_without_tools_names_them(monkeypatch):
    monkeypatch.setattr(hosts_module.shutil, "which", lambda tool: None if tool == "tc" else "/bin/x")
    with pytest.raises(HostsUnavailableError, match=r"tc \(package iproute2\)"):
        check_available()
