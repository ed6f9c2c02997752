"""Time on a GPU: events around replays of a CUDA graph, or around plain calls where the host must wait.

A call is given the number of the buffers to use, so that many sets take turns and the cache holds none of them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any, Protocol

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

Call = Callable[[int], Any]
Kernels = dict[str, tuple[float, float]]  # name: microseconds and launches, per call
_CACHES = 4  # times the cache that all sets of buffers have together, at least
_NOT_KERNELS = (  # which a profile may also list under the device
    *("Activity Buffer Request", "Buffer Flush", "Command Buffer Full", "Lazy Function Loading"),
    *("Context Sync", "Event Sync", "Stream Sync", "Stream Wait Event"),
)


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one call took, in microseconds.

    us, spread: median and interquartile range over it, from start to end on the device, its gaps included.
    wall_us: median on the host until the device is done, where the host waits.
    method: "graph", "calls", or "host" on a CPU.
    """

    us: float
    spread: float
    method: str
    wall_us: float | None = None


class Clock(Protocol):
    """What measures calls."""

    def num_sets(self, num_bytes: int) -> int:
        """Say how many sets of buffers of `num_bytes` must take turns."""

    def graph(self, call: Call, sets: int) -> Timing:
        """Time calls that never wait."""

    def calls(self, call: Call, sets: int) -> Timing:
        """Time calls that may wait."""

    def kernels(self, call: Call, sets: int) -> Kernels:
        """Time each kernel of a call."""


@dataclass(frozen=True, slots=True)
class CudaClock:
    """Measures on the current CUDA device."""

    rounds: int = 40

    def num_sets(self, num_bytes: int) -> int:
        cache = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
        return max(2, -(-_CACHES * cache // num_bytes))

    def graph(self, call: Call, sets: int) -> Timing:
        """Capture one call for each set, and divide; what calls return stays, so that each writes memory of its own.

        Raises:
            RuntimeError: a call cannot be captured.
        """
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for k in range(max(3, sets)):  # compiles
                call(k % sets)
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            kept = [call(k) for k in range(sets)]
        times = [us / sets for us in self._events(lambda _: graph.replay(), warm=5)]
        del kept
        graph.reset()
        torch.cuda.empty_cache()
        return Timing(median(times), _spread(times), "graph")

    def calls(self, call: Call, sets: int) -> Timing:
        times = self._events(lambda k: call(k % sets), warm=max(3, sets))
        walls = []
        for k in range(self.rounds):
            torch.cuda.synchronize()
            begin = perf_counter()
            call(k % sets)
            torch.cuda.synchronize()
            walls.append(1e6 * (perf_counter() - begin))
        torch.cuda.empty_cache()
        return Timing(median(times), _spread(times), "calls", median(walls))

    def kernels(self, call: Call, sets: int) -> Kernels:
        for k in range(sets):
            call(k)
        torch.cuda.synchronize()
        calls = max(10, sets)
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            for k in range(calls):
                call(k % sets)
            torch.cuda.synchronize()
        found = kernel_times(profiler.events(), calls)
        if not found:
            raise RuntimeError("the profiler saw no kernel")
        return found

    def _events(self, call: Call, *, warm: int) -> list[float]:
        """Give microseconds between events before and after each call, without waiting between calls."""
        for k in range(warm):
            call(k)
        begins, ends = ([torch.cuda.Event(enable_timing=True) for _ in range(self.rounds)] for _ in range(2))
        torch.cuda.synchronize()
        for k, (begin, end) in enumerate(zip(begins, ends, strict=True)):
            begin.record()
            call(k)
            end.record()
        torch.cuda.synchronize()
        return [1e3 * begin.elapsed_time(end) for begin, end in zip(begins, ends, strict=True)]


@dataclass(frozen=True, slots=True)
class HostClock:
    """Runs the same calls on a CPU, with Triton's interpreter, so that they are tested; its times mean nothing."""

    rounds: int = 1

    def num_sets(self, num_bytes: int) -> int:
        return 1

    def graph(self, call: Call, sets: int) -> Timing:
        return self.calls(call, sets)

    def calls(self, call: Call, sets: int) -> Timing:
        times = []
        for k in range(self.rounds):
            begin = perf_counter()
            call(k % sets)
            times.append(1e6 * (perf_counter() - begin))
        return Timing(median(times), _spread(times), "host", median(times))

    def kernels(self, call: Call, sets: int) -> Kernels:
        return {}


def clock_for(device: torch.device, *, rounds: int) -> Clock:
    return CudaClock(rounds) if device.type == "cuda" else HostClock()


def kernel_times(events: Iterable[Any], calls: int) -> Kernels:
    """Sum the device's part of a profile by kernel, per call; copies and fills count as kernels."""
    found: Kernels = {}
    for event in events:
        if event.device_type != DeviceType.CUDA or getattr(event, "is_user_annotation", False):
            continue
        if event.name.startswith(_NOT_KERNELS):
            continue
        us, launches = found.get(event.name, (0.0, 0.0))
        found[event.name] = us + event.time_range.elapsed_us() / calls, launches + 1 / calls
    return found


def _spread(times: list[float]) -> float:
    ordered = sorted(times)
    quarter = len(ordered) // 4
    return (ordered[-1 - quarter] - ordered[quarter]) / median(ordered)
