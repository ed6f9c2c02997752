"""Copies around a GPU's bucket: their order, with a stand-in for its streams; the real ones where there is a GPU."""

from contextlib import contextmanager

import pytest
import torch

from trafficzip.ddp.streams import CudaStreams, StagedBucket


class RecordedStreams:
    """Streams that run at once, and note what happens where."""

    device = torch.device("cpu")

    def __init__(self):
        self.events = []
        self.inside = False

    def follow(self):
        self.events.append("follow")

    @contextmanager
    def beside(self):
        self.inside = True
        self.events.append("side")
        yield
        self.events.append("end")
        self.inside = False

    def host_tensor(self, like):
        return torch.empty_like(like)

    def await_copies(self):
        assert not self.inside
        self.events.append("await")


def test_bucket_is_copied_beside_exchanged_and_completed_beside():
    streams = RecordedStreams()
    tensor = torch.arange(5.0)
    bucket = StagedBucket(tensor, streams)
    assert streams.events == ["follow", "side", "end"]
    bucket.exchange(lambda host: host.mul_(2))
    assert torch.equal(tensor, torch.arange(5.0))  # the bucket changes when it is given back
    future = torch.futures.Future()
    future.add_done_callback(lambda _: streams.events.append("completed"))
    bucket.give_back(future)
    assert torch.equal(future.value(), 2 * torch.arange(5.0))
    assert future.value() is tensor
    assert streams.events == ["follow", "side", "end", "await", "side", "completed", "end"]


@pytest.mark.gpu
def test_gpu_bucket_comes_back_with_what_the_host_made_of_it():
    device = torch.device("cuda", torch.cuda.current_device())
    tensor = torch.randn(1 << 20, device=device)
    expected = 3 * tensor.sin()
    tensor.sin_()  # still on its way when the copy is asked for
    bucket = StagedBucket(tensor, CudaStreams(device))
    bucket.exchange(lambda host: host.mul_(3))
    future = torch.futures.Future(devices=[device])
    bucket.give_back(future)
    assert torch.equal(future.wait(), expected)
