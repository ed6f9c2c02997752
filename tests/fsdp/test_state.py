"""Saved residuals: a resumed run equals the uninterrupted one, and what does not fit is refused."""

import copy
import io
import tempfile

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from tests.fsdp.training import Training
from trafficzip.errors import ConfigError


def shared_folder():
    """Give one new folder that all ranks know."""
    names = [tempfile.mkdtemp()] if dist.get_rank() == 0 else [None]
    dist.broadcast_object_list(names)
    return names[0]


def save(training, folder):
    model, optimizer = get_state_dict(training.net, training.optimizer)
    dcp.save({"model": model, "optimizer": optimizer, "compression": training.handle}, checkpoint_id=folder)


def load(training, folder):
    model, optimizer = get_state_dict(training.net, training.optimizer)
    training.handle.check_checkpoint(dcp.FileSystemReader(folder).read_metadata())
    dcp.load({"model": model, "optimizer": optimizer, "compression": training.handle}, checkpoint_id=folder)
    set_state_dict(training.net, training.optimizer, model_state_dict=model, optim_state_dict=optimizer)


def _resume(rank, world_size):
    whole = Training(rank)
    whole.steps(0, 6)
    folder = shared_folder()
    save(whole, folder)
    whole.steps(6, 12)
    second = Training(rank, seed=1)  # other weights, which the checkpoint replaces
    load(second, folder)
    second.steps(6, 12)
    forgetful = Training(rank, seed=2)
    load(forgetful, folder)
    forgetful.handle.exchange.worker.reset()
    forgetful.steps(6, 12)
    return [(t.digest(), t.residuals().tobytes()) for t in (whole, second, forgetful)]


@pytest.mark.parametrize("world_size", [2, 4])
def test_run_resumed_from_a_distributed_checkpoint_equals_the_uninterrupted_one(ranks, world_size):
    for whole, resumed, forgetful in ranks(world_size, _resume):
        assert whole == resumed
        assert whole[0] != forgetful[0]  # the residuals matter


def _own_files(rank, world_size):
    whole = Training(rank)
    whole.steps(0, 3)
    file = io.BytesIO()
    torch.save(whole.handle.state_dict(), file)
    file.seek(0)
    second = Training(rank)
    second.handle.load_state_dict(torch.load(file, weights_only=True))
    return whole.residuals().tobytes() == second.residuals().tobytes(), bool(whole.residuals().any())


def test_state_goes_through_plain_files(ranks):
    assert ranks(2, _own_files) == [(True, True)] * 2


def _write(rank, world_size, folder):
    training = Training(rank)
    training.steps(0, 2)
    save(training, folder)


def _read(rank, world_size, folder):
    training = Training(rank)
    before = training.residuals()
    try:
        load(training, folder)
    except ConfigError as error:
        return str(error), np.array_equal(before, training.residuals())
    return "loaded", False


@pytest.mark.parametrize(("before", "after"), [(4, 2), (2, 4)])
def test_checkpoint_of_another_world_size_is_refused(ranks, tmp_path, before, after):
    ranks(before, _write, str(tmp_path))
    for message, unchanged in ranks(after, _read, str(tmp_path)):
        assert message.startswith(f"checkpoint holds reduce_scatter residuals of {before} ranks, this run has {after}")
        assert unchanged


def _shrunk(rank, world_size, folder):
    """Load without checking first: where the saved run was larger, all keys of this rank are there."""
    training = Training(rank)
    try:
        dcp.load({"compression": training.handle}, checkpoint_id=folder)
    except ConfigError as error:
        return str(error)
    return "loaded"


def test_larger_run_is_noticed_also_without_the_check(ranks, tmp_path):
    ranks(4, _write, str(tmp_path))
    for rank, message in enumerate(ranks(2, _shrunk, str(tmp_path))):
        assert message.startswith(f"residuals of rank{rank} were saved with 4 ranks, this run has 2")


def _refuse(rank, world_size):
    training = Training(rank)
    training.steps(0, 2)
    handle = training.handle
    good = handle.state_dict()
    key = f"rank{rank}"
    mine = good[key]
    states = [None] * world_size
    dist.all_gather_object(states, good)
    name = next(iter(mine["worker"]))
    residual = mine["worker"][name]

    def with_worker(**changes):
        return {key: {**mine, "worker": {**mine["worker"], **changes}}}

    wrong = {
        "another rank": states[1 - rank],
        "another world size": {key: {**mine, "world_size": 3}},
        "another version": {key: {**mine, "version": 2}},
        "another kind": {key: {**mine, "kind": "replicas"}},
        "nothing": {},
        "not a mapping": [1],
        "a part that is none": {key: 3},
        "a key too many": {key: {**mine, "more": 1}},
        "no worker": {key: {**mine, "worker": None}},
        "an owner": {key: {**mine, "owner": {"more": torch.zeros(3)}}},
        "another model": with_worker(more=torch.zeros(3)),
        "a parameter less": {key: {**mine, "worker": {n: t for n, t in mine["worker"].items() if n != name}}},
        "another size": with_worker(**{name: torch.zeros(residual.numel() + 1)}),
        "another dtype": with_worker(**{name: residual.double()}),
        "nan": with_worker(**{name: residual * float("nan")}),
        "a list": with_worker(**{name: [0.0]}),
    }
    before = training.residuals()
    ends = {}
    for what, state in wrong.items():
        try:
            handle.load_state_dict(copy.deepcopy(state))
            ends[what] = "accepted"
        except ConfigError:
            ends[what] = "refused"
        if not np.array_equal(before, training.residuals()):
            ends[what] += ", changed"
    return ends


def test_state_that_does_not_fit_is_refused_and_changes_nothing(ranks):
    for ends in ranks(2, _refuse):
        assert {what: end for what, end in ends.items() if end != "refused"} == {}
        assert len(ends) == 16


def _copies(rank, world_size):
    training = Training(rank)
    training.steps(0, 2)
    before = training.residuals()
    for part in training.handle.state_dict()[f"rank{rank}"]["worker"].values():
        part.zero_()
    return np.array_equal(before, training.residuals()) and bool(before.any())


def test_saved_tensors_are_copies(ranks):
    assert ranks(2, _copies) == [True, True]
