"""Gradients: recorded from a real training, handed to DDP as they are."""

import pytest
import torch

from trafficzip.cluster.gradients import Replay, load_data, make_network, record, width_for
from trafficzip.cluster.jobs import Task


@pytest.mark.parametrize("megabytes", [1, 10, 25, 100, 400])
def test_width_gives_the_size_asked_for(megabytes):
    with torch.device("meta"):
        network = make_network(Task(width=width_for(megabytes)))
    size = 4e-6 * sum(p.numel() for p in network.parameters())
    assert size == pytest.approx(megabytes, rel=0.1)


def test_recorded_gradients_are_real_and_differ_between_ranks_and_steps():
    torch.set_num_threads(1)  # small convolutions on busy cores: threads would wait for each other
    task = Task(width=4, batch=4)
    dataset = load_data(task)
    first, second = record(task, dataset, rank=0), record(task, dataset, rank=1)
    assert all(torch.equal(a, b) for a, b in zip(first[0], record(task, dataset, rank=0)[0], strict=True))
    assert not torch.equal(first[0][0], second[0][0])
    assert not torch.equal(first[0][0], first[1][0])
    assert [t.shape for t in first[0]] == [p.shape for p in make_network(task).parameters()]
    assert all(bool(t.isfinite().all()) for step in first for t in step)


def test_replay_gives_the_gradients_and_keeps_them():
    gradients = [torch.randn(3, 5), torch.randn(7)]
    kept = [t.clone() for t in gradients]
    model = Replay(gradients, torch.device("cpu"))
    model(gradients).backward()
    for parameter, gradient in zip(model.parameters(), kept, strict=True):
        assert torch.equal(parameter.grad, gradient)
        parameter.grad.zero_()  # what DDP does to its buckets does not reach the recorded ones
    assert all(torch.equal(a, b) for a, b in zip(gradients, kept, strict=True))
