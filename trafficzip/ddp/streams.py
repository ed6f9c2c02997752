"""Buckets on a GPU: copied to the host on a side stream, exchanged there, and copied back.

`register` does not take CUDA parameters yet: this order of streams was run with stand-ins for them, not on a GPU.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from trafficzip.ddp.step import TensorFuture


class Streams(Protocol):
    """What a bucket's copies need of a device: the stream that computes, and one beside it."""

    device: torch.device

    def follow(self) -> None:
        """Make the side stream wait for all that the computing stream has been given so far."""

    def beside(self) -> AbstractContextManager[Any]:
        """Give what is done within to the side stream."""

    def host_tensor(self, like: torch.Tensor) -> torch.Tensor:
        """Give an empty tensor of the host that the device can copy to and from by itself."""

    def await_copies(self) -> None:
        """Block the host until the side stream is done, and nothing else."""


class CudaStreams:
    """One side stream of a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def follow(self) -> None:
        """Make the side stream wait for the current one."""
        self._side.wait_stream(torch.cuda.current_stream(self.device))

    def beside(self) -> AbstractContextManager[Any]:
        """Give what is done within to the side stream."""
        context: AbstractContextManager[Any] = torch.cuda.stream(self._side)
        return context

    def host_tensor(self, like: torch.Tensor) -> torch.Tensor:
        """Give pinned memory."""
        return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)

    def await_copies(self) -> None:
        """Wait for an event at the side stream's end; the computing stream goes on."""
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(self._side)
        event.synchronize()


class StagedBucket:
    """A device's bucket and its copy on the host.

    Creating it, on the thread of the backward pass, begins the copy. `exchange` may run on another thread, in the
    order of buckets; the device computes on meanwhile.

    tensor: any dtype [n], on the streams' device.
    """

    def __init__(self, tensor: torch.Tensor, streams: Streams) -> None:
        self.tensor = tensor
        self.streams = streams
        self.host = streams.host_tensor(tensor)
        streams.follow()  # the bucket is filled by what the computing stream has been given
        with streams.beside():
            self.host.copy_(tensor, non_blocking=True)

    def exchange(self, start: Callable[[torch.Tensor], None]) -> None:
        """Wait for the copy and give it to `start`, which leaves in it what the bucket shall become."""
        self.streams.await_copies()
        start(self.host)

    def give_back(self, future: TensorFuture) -> None:
        """Copy the host's values to the bucket and complete `future`; no host waits.

        future: made for the streams' device. It is completed within the side stream, so that whoever waits for it, as
            DDP does at the end of the backward pass, waits for the copy.
        """
        with self.streams.beside():
            self.tensor.copy_(self.host, non_blocking=True)
            future.set_result(self.tensor)
