import copy
import io

import numpy as np
import pytest
import torch
import torch.distributed as dist

from tests.ddp.training import Training, all_equal, digest, mlp
from trafficzip.ddp import merge_state_dicts
from trafficzip.errors import ConfigError

EXCHANGES = ["all_gather", "two_phase", "hierarchical"]


def _resume(rank, world_size, exchange, dtype):
    """Twenty steps without a stop, and ten that are saved and go on in a new model with a new hook."""

    def network():
        return mlp().to(dtype)

    whole = Training(rank, network=network, exchange=exchange)
    whole.steps(0, 20)
    first = Training(rank, network=network, exchange=exchange)
    first.steps(0, 10)
    file = io.BytesIO()
    torch.save(
        {"model": first.net.state_dict(), "optimizer": first.optimizer.state_dict(), "hook": first.hook.state_dict()},
        file,
    )
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second = Training(rank, network=network, exchange=exchange)
    second.net.load_state_dict(saved["model"])
    second.optimizer.load_state_dict(saved["optimizer"])
    second.hook.load_state_dict(saved["hook"])
    second.steps(10, 20)
    forgetful = Training(rank, network=network, exchange=exchange)
    forgetful.net.load_state_dict(saved["model"])
    forgetful.optimizer.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True)["optimizer"])
    forgetful.steps(10, 20)
    return {
        "whole": (whole.digest(), whole.residuals(), whole.hook.step),
        "resumed": (second.digest(), second.residuals(), second.hook.step),
        "forgetful": forgetful.digest(),
    }


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize(
    ("world_size", "dtype"), [(2, torch.float32), (3, torch.float32), (4, torch.float32), (2, torch.bfloat16)]
)
def test_resumed_run_equals_the_uninterrupted_one(ranks, exchange, world_size, dtype):
    results = ranks(world_size, _resume, exchange, dtype)
    assert all_equal(r["resumed"][0] for r in results)
    for r in results:
        assert r["resumed"] == r["whole"]
        assert r["forgetful"] != r["whole"][0]  # the residuals matter


def _save(rank, world_size, exchange):
    """Train; give the saved state and what is pending."""
    training = Training(rank, exchange=exchange)
    training.steps(0, 10)
    state = copy.deepcopy(training.hook.state_dict())
    pending = training.hook.take_pending()
    return state, {name: part.numpy() for name, part in pending.items()}


def _load(rank, world_size, exchange, merged):
    training = Training(rank, exchange=exchange)
    training.hook.load_state_dict(merged)
    step = training.hook.step
    pending = {name: part.numpy() for name, part in training.hook.take_pending().items()}
    training.hook.load_state_dict(merged)
    training.steps(10, 13)
    return pending, step, training.digest()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((4, "two_phase"), (2, "two_phase")),
        ((2, "two_phase"), (3, "two_phase")),
        ((3, "all_gather"), (2, "two_phase")),
        ((3, "two_phase"), (2, "all_gather")),
        ((4, "hierarchical"), (3, "two_phase")),
        ((3, "hierarchical"), (4, "hierarchical")),
        ((2, "all_gather"), (4, "hierarchical")),
    ],
)
def test_merged_state_keeps_what_is_pending_at_any_world_size(ranks, before, after):
    saved = ranks(before[0], _save, before[1])
    merged = merge_state_dicts([state for state, _ in saved][::-1])
    file = io.BytesIO()
    torch.save(merged, file)
    file.seek(0)
    loaded = ranks(after[0], _load, after[1], torch.load(file, weights_only=True))
    expected = saved[0][1]
    assert all_equal(digest_of for _, _, digest_of in loaded)
    for pending, step, _ in loaded:
        assert step == 10
        for name, mean in expected.items():
            # residuals of every rank, and the owner's, are summed and divided once more on either side
            peaks = [float(part.abs().max()) for state, _ in saved for part in state["worker"].get(name, {}).values()]
            total = sum(peaks) + np.abs(mean).max()
            assert np.abs(mean).max() > 0
            assert np.abs(pending[name] - mean).max() <= 2 * (before[0] + after[0]) * 2**-24 * total


def _refuse(rank, world_size, exchange):
    """Say which of many wrong states were refused with a ConfigError, and whether anything changed."""
    training = Training(rank, exchange=exchange)
    training.steps(0, 3)
    good = training.hook.state_dict()
    states = [None] * world_size
    dist.all_gather_object(states, good)
    name, (start, kept) = next((name, next(iter(parts.items()))) for name, parts in good["worker"].items())
    owned = next(iter(good["owner"]), None)
    wrong = {
        "another rank": states[1 - rank],
        "another world size": {**good, "world_size": 3},
        "another exchange": {**good, "exchange": EXCHANGES[EXCHANGES.index(exchange) - 1]},
        "another version": {**good, "version": 3},
        "the version before": {**good, "version": 1},
        "other nodes": {**good, "nodes": [0, 0]},
        "nothing": {},
        "not a mapping": [1, 2],
        "a key too many": {**good, "more": 1},
        "another model": {**good, "worker": {**good["worker"], "more": {0: torch.zeros(3)}}},
        "a parameter less": {**good, "worker": {k: v for k, v in good["worker"].items() if k != name}},
        "another size": {**good, "worker": {**good["worker"], name: {start: torch.zeros(3)}}},
        "another start": {**good, "worker": {**good["worker"], name: {start + 5: kept}}},
        "a start that is no number": {**good, "worker": {**good["worker"], name: {"0": kept}}},
        "two starts": {**good, "worker": {**good["worker"], name: {start: kept, start + 5: kept}}},
        "another dtype": {**good, "worker": {**good["worker"], name: {start: kept.double()}}},
        "bfloat16": {**good, "worker": {**good["worker"], name: {start: kept.bfloat16()}}},
        "nan": {**good, "worker": {**good["worker"], name: {start: kept * float("nan")}}},
        "no start": {**good, "worker": {**good["worker"], name: kept}},
        "no worker": {**good, "worker": None},
        "a list as residual": {**good, "worker": {**good["worker"], name: {start: [0.0]}}},
        "no owner": {**good, "owner": 5},
        "no workers": {**good, "num_workers": 0},
        "no step": {**good, "step": "ten"},
        "negative step": {**good, "step": -1},
        "no loss scale": {**good, "loss_scale": "one"},
        "zero loss scale": {**good, "loss_scale": 0.0},
        "infinite loss scale": {**good, "loss_scale": float("inf")},
    }
    if owned is not None:
        part = next(iter(good["owner"][owned].values()))
        wrong["empty owner"] = {**good, "owner": {**good["owner"], owned: {}}}
        wrong["owner of another size"] = {**good, "owner": {**good["owner"], owned: {0: part[:-1].clone()}}}
        wrong["owner of another piece"] = {**good, "owner": {**good["owner"], owned: {12345: part}}}
        wrong["owner of nothing"] = {**good, "owner": {}}
    before = training.residuals(), training.hook.step, training.hook._loss_scale
    ends = {}
    for what, state in wrong.items():
        try:
            training.hook.load_state_dict(state)
            ends[what] = "accepted"
        except ConfigError:
            ends[what] = "refused"
        except Exception as error:  # noqa: BLE001 a wrong exception is what the test looks for
            ends[what] = repr(error)
        if before != (training.residuals(), training.hook.step, training.hook._loss_scale):
            ends[what] += ", changed"
            training.hook.load_state_dict(good)
    training.hook.load_state_dict(good)
    return ends


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_state_that_does_not_fit_is_refused_and_changes_nothing(ranks, exchange):
    for ends in ranks(2, _refuse, exchange):
        assert {what: end for what, end in ends.items() if end != "refused"} == {}
        assert len(ends) >= 21


def test_states_that_do_not_belong_together_are_not_merged(ranks):
    states = [state for state, _ in ranks(2, _save, "two_phase")]
    first, second = states
    name = next(iter(first["worker"]))
    for wrong in (
        [],
        [first],
        [first, first],
        [first, {**second, "step": 11}],
        [first, {**second, "loss_scale": 2.0}],
        [first, {**second, "exchange": "all_gather"}],
        [first, {**second, "worker": {**second["worker"], name: {0: torch.zeros(3)}}}],
        [first, {**second, "worker": {**second["worker"], name: {0: torch.zeros(3)}}, "num_workers": 1}],
        [first, {**second, "worker": {}}],
        [first, {**second, "owner": {**second["owner"], "more": {0: torch.zeros(3)}}}],
        [first, "garbage"],
    ):
        with pytest.raises(ConfigError):
            merge_state_dicts(wrong)


def _parts(states):
    return [
        part for state in states for side in ("worker", "owner") for p in state[side].values() for part in p.values()
    ]


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_merging_leaves_the_states_as_they_are(ranks, exchange):
    states = [state for state, _ in ranks(3, _save, exchange)]
    before = digest(_parts(states))
    merge_state_dicts(states)
    assert digest(_parts(states)) == before


def _other_nodes(rank, world_size):
    """Give a state of two nodes to hooks with other nodes; ranks 0 and 3 keep the same pieces under both."""
    states = Training(rank, exchange="hierarchical", register={"nodes": [0, 0, 1, 1]}).hook.state_dict()
    other = Training(rank, exchange="hierarchical", register={"nodes": [0, 1, 0, 1]})
    with pytest.raises(ConfigError, match="nodes"):
        other.hook.load_state_dict(states)
    same = Training(rank, exchange="hierarchical", register={"nodes": [7, 7, 3, 3]})
    same.hook.load_state_dict(states)
    return "refused"


def test_state_of_other_nodes_is_refused_on_every_rank(ranks):
    assert ranks(4, _other_nodes) == ["refused"] * 4
