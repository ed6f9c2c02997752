import copy

import pytest
import torch
import torch.distributed as dist

from tests.ddp.training import Training, all_equal, mlp
from trafficzip.ddp import Phase, Schedule
from trafficzip.errors import ConfigError
from trafficzip.presets import BFLOAT16, THREE_LC, THREE_LC_RANS

WARM_UP = Schedule(phases=(Phase(until=0.25), Phase(compressor=THREE_LC_RANS, multiplier=(1.0, 1.8))), total_steps=20)


def multipliers(schedule, step):
    pair = schedule.at(step)
    return None if pair is None else tuple(compressor.quantizer.multiplier for compressor in pair)


def test_phases_begin_and_ramp_where_they_say():
    found = [multipliers(WARM_UP, step) for step in range(30)]
    assert found[:5] == [None] * 5
    for step in range(5, 20):
        assert found[step] == pytest.approx([1 + 0.8 * (step - 5) / 15] * 2)
    assert found[20:] == [(1.8, 1.8)] * 10


def test_pull_multiplier_has_its_own_ramp():
    phase = Phase(compressor=THREE_LC, multiplier=(1.0, 1.5), pull_multiplier=(0.5, 1.0))
    schedule = Schedule(phases=(phase,), total_steps=10)
    assert multipliers(schedule, 0) == (1.0, 0.5)
    assert multipliers(schedule, 5) == (1.25, 0.75)
    assert multipliers(schedule, 99) == (1.5, 1.0)


def test_schedule_that_makes_no_sense_raises():
    for make in (
        lambda: Phase(until=0.0),
        lambda: Phase(until=1.5),
        lambda: Phase(multiplier=(1.0, 1.5)),
        lambda: Phase(compressor=BFLOAT16, multiplier=(1.0, 1.5)),
        lambda: Phase(compressor=THREE_LC, multiplier=(1.0, 2.0)),
        lambda: Schedule(phases=()),
        lambda: Schedule(phases=(Phase(until=0.5),)),
        lambda: Schedule(phases=(Phase(until=0.5), Phase(until=0.5)), total_steps=10),
        lambda: Schedule(phases=(Phase(until=0.5), Phase())),
        lambda: Schedule(phases=(Phase(compressor=THREE_LC, multiplier=(1.0, 1.5)),)),
        lambda: Schedule(phases=(Phase(),), total_steps=0),
    ):
        with pytest.raises(ConfigError):
            make()


def _follow(rank, world_size, exchange):
    """Train through a dense warm-up and a ramp, next to plain DDP; say what each step sent."""
    training = Training(rank, exchange=exchange, register={"compressor": WARM_UP})
    plain = Training(rank, exchange=None)
    sent, same = [], []
    for step in range(20):
        training.step(step)
        plain.step(step)
        same.append(training.digest() == plain.digest())
        last = training.hook._last[0].codecs.push.quantizer.multiplier if training.hook._last else None
        sent.append((training.hook.stats().last_step.bytes_sent, last))
    return {"digest": training.digest(), "same": same, "sent": sent}


@pytest.mark.parametrize("exchange", ["all_gather", "two_phase"])
def test_dense_warm_up_equals_plain_ddp_and_compression_follows(ranks, exchange):
    results = ranks(3, _follow, exchange)
    assert all_equal(r["digest"] for r in results)
    for r in results:
        assert r["same"] == [True] * 5 + [False] * 15
        assert [sent for sent, _ in r["sent"][:5]] == [0] * 5
        assert [last for _, last in r["sent"][5:]] == pytest.approx(
            [1 + 0.8 * (step - 5) / 15 for step in range(5, 20)]
        )
        assert 0 < r["sent"][-1][0] < r["sent"][5][0]


def _switch(rank, world_size, exchange, dtype, as_view):
    """Steps 0-4 compressed, 5-9 off, 10-14 on; while it is off, a plain DDP model makes the same steps."""
    network = mlp().to(dtype)
    options = {"gradient_as_bucket_view": as_view}
    training = Training(rank, network=network, exchange=exchange, ddp=options)
    training.steps(0, 5)
    kept, bytes_sent = training.residuals(), training.hook.stats().bytes_sent
    training.hook.disable()
    assert not training.hook.enabled
    plain = Training(rank, network=mlp().to(dtype), exchange=None, ddp=options)
    plain.steps(0, 5)  # its buckets must have been rebuilt too: the order in which all-reduce sums depends on them
    plain.net.load_state_dict(training.net.state_dict())
    plain.optimizer.load_state_dict(copy.deepcopy(training.optimizer.state_dict()))
    same = []
    for step in range(5, 10):
        training.step(step)
        plain.step(step)
        same.append(training.digest() == plain.digest())
    unchanged = kept == training.residuals() and training.hook.stats().bytes_sent == bytes_sent
    training.hook.enable()
    training.steps(10, 15)
    stats = training.hook.stats()
    dist.barrier()
    return {
        "digest": training.digest(),
        "same": same,
        "unchanged": unchanged,
        "moved": kept != training.residuals(),
        "steps": (stats.steps, stats.compressed_steps),
    }


@pytest.mark.parametrize("exchange", ["all_gather", "two_phase"])
@pytest.mark.parametrize(
    ("world_size", "dtype", "as_view"),
    [(2, torch.bfloat16, False), (3, torch.float32, False), (3, torch.float32, True), (3, torch.float16, False)],
)
def test_switched_off_steps_equal_plain_ddp(ranks, exchange, world_size, dtype, as_view):
    results = ranks(world_size, _switch, exchange, dtype, as_view)
    assert all_equal(r["digest"] for r in results)
    for r in results:
        assert r["same"] == [True] * 5
        assert r["unchanged"]
        assert r["moved"]
        assert r["steps"] == (15, 10)
