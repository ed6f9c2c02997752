"""A link with delay and loss in user space, for kernels without netem: one process for each host.

python relay.py HOST_NAMESPACE HOST_DEVICE SWITCH_NAMESPACE SWITCH_PORT DELAY_MS LOSS

Makes a TAP device in each namespace and carries frames between them. Runs until its standard input ends. Rates are the
kernel's work. Good to about 100 Mbit/s.
"""

import ctypes
import fcntl
import os
import random
import select
import struct
import sys
import time
from collections import deque

_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_TAP_WITHOUT_HEADER = 0x0002 | 0x1000
_LARGEST_FRAME = 65_600


def main() -> None:
    """Carry frames until the starting process is gone."""
    host, device, switch, port, delay_ms, loss = sys.argv[1:7]
    ends = (_tap(host, device), _tap(switch, port))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    _carry(ends, float(delay_ms) / 1e3, float(loss))


def _tap(namespace: str, device: str) -> int:
    descriptor = os.open(namespace, os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"setns {namespace}")
    os.close(descriptor)
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _TAP_WITHOUT_HEADER))
    return tap


def _carry(ends: tuple[int, int], delay_s: float, loss: float) -> None:
    other = {ends[0]: ends[1], ends[1]: ends[0]}
    waiting: dict[int, deque[tuple[float, bytes]]] = {end: deque() for end in ends}
    poll = select.epoll()
    for end in (*ends, 0):
        poll.register(end, select.EPOLLIN)
    while True:
        due = min((frames[0][0] for frames in waiting.values() if frames), default=None)
        for end, _ in poll.poll(-1 if due is None else max(0.0, due - time.monotonic())):
            if end == 0:
                if not os.read(0, 1):
                    return
                continue
            for frame in _frames(end):
                if random.random() >= loss:
                    waiting[other[end]].append((time.monotonic() + delay_s, frame))
        now = time.monotonic()
        for end, frames in waiting.items():
            while frames and frames[0][0] <= now:
                try:
                    os.write(end, frames.popleft()[1])
                except OSError:
                    continue  # a full queue drops the frame, as a link does


def _frames(end: int) -> list[bytes]:
    found = []
    for _ in range(64):
        try:
            found.append(os.read(end, _LARGEST_FRAME))
        except BlockingIOError:
            break
        except OSError:
            break  # the interface is down
    return found


if __name__ == "__main__":
    main()
