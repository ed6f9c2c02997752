"""Trials of plans, in one process."""

import threading
from dataclasses import replace

import pytest

from trafficzip.comm.local import local_transports
from trafficzip.ddp.plan import DENSE, Mode, Plan
from trafficzip.ddp.trials import LEAST_ROUNDS, MOST_ROUNDS, TIMED_STEPS, UNTIMED_STEPS, StepLog, try_plans
from trafficzip.errors import CollectiveError

BLOCK = UNTIMED_STEPS + TIMED_STEPS
A, B, C = (Plan.of(Mode("two_phase", codec)) for codec in ("rans", "zero_run", "quartic"))


def run(seconds_of_rank, candidates_of_rank):
    """Run trials on two ranks, each with its own seconds by plan; give results and the plans of all steps."""
    found = [None, None]

    def rank(transport):
        log, plans = StepLog(), []
        trials = try_plans(candidates_of_rank[transport.rank], log, transport)
        try:
            while True:
                plans.append(next(trials))
                seconds = seconds_of_rank[transport.rank][plans[-1]]
                log.period_s = seconds(len(plans)) if callable(seconds) else seconds
        except StopIteration as stop:
            found[transport.rank] = stop.value, plans
        except CollectiveError as error:
            found[transport.rank] = error, plans

    threads = [threading.Thread(target=rank, args=(transport,)) for transport in local_transports(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found


def test_slowest_rank_decides_and_all_ranks_agree():
    (first, plans), (second, other_plans) = run([{A: 1.0, B: 2.0}, {A: 3.0, B: 2.0}], [[A, B]] * 2)
    assert first == second
    assert first.best == B
    assert first.step_s == {A: 3.0, B: 2.0}
    assert plans == other_plans


def test_first_of_equally_fast_plans_is_taken():
    for candidates in ([A, B], [B, A]):
        (result, plans), _ = run([{A: 1.0, B: 1.02}] * 2, [candidates] * 2)
        assert result.best == candidates[0]
        assert len(plans) <= MOST_ROUNDS * 2 * BLOCK


def test_slow_plan_leaves_after_the_first_round():
    (result, plans), _ = run([{A: 1.0, B: 1.05, C: 3.1}] * 2, [[C, A, B]] * 2)
    assert result.best == A
    assert plans.count(C) == BLOCK
    assert plans.count(A) >= LEAST_ROUNDS * BLOCK


def test_first_steps_of_a_block_and_bursts_of_load_do_not_count():
    def disturbed(step):
        block, place = divmod(step - 1, BLOCK)
        return 10.0 if place < UNTIMED_STEPS or block % 4 == 2 else 1.0

    (result, _), _ = run([{A: disturbed, B: 1.2}] * 2, [[B, A]] * 2)
    assert result.best == A
    assert result.step_s[A] == 1.0


def test_steps_that_are_fast_while_a_burst_lasts_do_not_stand_for_all():
    def bursts(step):
        return 0.5 if (step - 1) % BLOCK < BLOCK - 2 else 3.0

    (result, _), _ = run([{A: bursts, B: 1.0}] * 2, [[A, B]] * 2)
    assert result.best == B


def test_ranks_with_other_plans_are_refused():
    (first, _), (second, _) = run([{A: 1.0, B: 2.0}, {A: 1.0, C: 2.0}], [[A, B], [A, C]])
    assert isinstance(first, CollectiveError)
    assert isinstance(second, CollectiveError)
    assert "rank 1 tried ['two_phase rans', 'two_phase quartic']" in str(first)


@pytest.mark.parametrize(
    ("plan", "text"),
    [
        (DENSE, "dense"),
        (replace(A, overlap=True), "two_phase rans, overlapped"),
        (
            Plan(((10_000, Mode("all_gather", "quartic")), (7_000_000, Mode("two_phase", "rans")))),
            "up to 10,000 elements: all_gather quartic, larger ones: two_phase rans",
        ),
    ],
)
def test_plans_say_what_they_are(plan, text):
    assert str(plan) == text


def test_buckets_take_the_mode_of_their_size():
    plan = Plan(((10, Mode("all_gather", "quartic")), (100, Mode("two_phase", "rans"))))
    found = [str(plan.mode_for(size)) for size in (1, 10, 11, 1000)]
    assert found == ["all_gather quartic"] * 2 + ["two_phase rans"] * 2
