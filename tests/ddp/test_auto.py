"""The automatic policy over real processes, most of them on simulated links: what is chosen, when, and what is kept."""

import logging
from contextlib import contextmanager

import pytest
import torch
import torch.distributed as dist

import trafficzip.ddp.chooser
from tests.ddp.training import Training, all_equal
from tests.distributed import run_fresh
from trafficzip.ddp import Auto, merge_state_dicts
from trafficzip.ddp.plan import Mode, Plan
from trafficzip.ddp.state import fold_owner
from trafficzip.ddp.trials import StepLog
from trafficzip.errors import ConfigError

SLOW, FAST = (1e-3, 1e5), (1e-5, 1e10)  # seconds of a tiny exchange, bytes a second
BITS = {"float32": 32, "bfloat16": 16, "quartic": 1.6, "zero_run": 0.7, "rans": 0.4}
CODEC_S = {"float32": 1e-9, "bfloat16": 1e-9, "quartic": 1e-9, "zero_run": 2e-9, "rans": 3e-9}  # of one element
MOST_STEPS = 800
SOON_S = 60.0


def simulated_s(plan, sizes, link, world_size):
    """Give the seconds of a step on a link that is not there."""
    latency_s, rate = link
    if plan.dense:
        return 0.01 + 2 * latency_s + 2 * (world_size - 1) / world_size * 4 * sum(sizes) / rate
    total = 0.01
    for size in sizes:
        mode = plan.mode_for(size)
        num_bytes = BITS[mode.codec] * size / 8
        if mode.exchange == "all_gather":
            total += latency_s + (world_size - 1) * num_bytes / rate + world_size * CODEC_S[mode.codec] * size
        else:
            total += (
                2 * latency_s + 2 * (world_size - 1) / world_size * num_bytes / rate + 3 * CODEC_S[mode.codec] * size
            )
    return total


@contextmanager
def simulated(hook, links):
    """Let probes and step times be those of links[0], which may be replaced."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trafficzip.ddp.chooser, "measure_link", lambda link, control: links[0])
        end_step = StepLog.end_step

        def simulated_end(log, sizes, *, exchange_s, committed):
            end_step(log, sizes, exchange_s=exchange_s, committed=committed)
            log.period_s = simulated_s(hook.plan(), sizes, links[0], hook.transport.world_size)

        patch.setattr(StepLog, "end_step", simulated_end)
        yield


def train_until(training, condition, begin=0):
    step = begin
    while not condition() and step < begin + MOST_STEPS:
        training.step(step)
        step += 1
    assert condition()
    return step


def make(rank, **options):
    return Training(rank, exchange="auto", bucket_cap_mb=0.1, register={"compressor": "auto", **options})


def _choose(rank, world_size, links):
    training = make(rank)
    with simulated(training.hook, [links[rank]]):
        begin = train_until(training, lambda: training.hook.decided)
        training.steps(begin, begin + 3)
    return {
        "digest": training.digest(),
        "plan": str(training.hook.plan()),
        "decisions": training.hook.stats().decisions,
        "pending": bool(training.hook.exchange.worker.residual.any() or training.hook.exchange.owner.residual.any()),
    }


def test_slow_link_takes_the_fewest_bytes(ranks):
    results = ranks(4, _choose, [SLOW] * 4)
    assert all_equal(r["digest"] for r in results)
    assert all_equal(r["plan"] for r in results)
    assert results[0]["plan"].removesuffix(", overlapped").endswith("two_phase rans")
    assert all(r["pending"] for r in results)


def test_fast_link_takes_dense_gradients(ranks):
    results = ranks(4, _choose, [FAST] * 4)
    assert all_equal(r["digest"] for r in results)
    assert all(r["plan"] == "dense" and not r["pending"] for r in results)


def test_one_rank_with_a_slow_link_decides_for_all(ranks):
    results = ranks(3, _choose, [FAST, (0.01, 1e4), FAST])
    assert all_equal(r["digest"] for r in results)
    assert all_equal(r["plan"] for r in results)
    assert results[0]["plan"] != "dense"
    for r in results:
        measured = [text for text in r["decisions"] if text.startswith("measured: 0.08 Mbit/s, 10 ms")]
        assert len(measured) == 1


def _account(rank, world_size):
    """Sum up the dense means beside what the hook gave, from the first step to some steps after a dense choice."""
    training = make(rank)
    parameters = list(training.net.parameters())
    own, given = (torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64) for _ in range(2))
    steps, largest, after = 0, 0.0, 3
    with simulated(training.hook, [FAST]):
        while after and steps < MOST_STEPS:
            gradients = torch.autograd.grad(training.loss(steps, forward=training.net), parameters)
            own += flat(gradients)
            training.step(steps)
            given += flat([p.grad for p in parameters])
            largest = max(largest, *(float(g.abs().max()) for g in gradients), float(given.abs().max()) / 10)
            after -= training.hook.decided
            steps += 1
    dist.all_reduce(own)
    kept = training.hook.exchange
    return {
        "plan": str(training.hook.plan()),
        "error": float((own / world_size - given).abs().max()),
        "bound": steps * 16 * largest * 2**-24,
        "sent": float(given.abs().max()),
        "pending": bool(kept.worker.residual.any() or kept.owner.residual.any()),
    }


def flat(tensors):
    return torch.cat([tensor.detach().reshape(-1).double() for tensor in tensors])


def test_dense_choice_sends_all_that_is_pending(ranks):
    for r in ranks(2, _account):
        assert r["plan"] == "dense"
        assert not r["pending"]
        assert r["error"] <= 10 * r["bound"]
        assert r["sent"] > 1000 * r["bound"]  # else nothing would be shown


def _nonfinite_flush(rank, world_size):
    training = make(rank)
    hook, seen = training.hook, []

    def poison(gradient):
        if str(hook.plan()) != "two_phase float32":
            return gradient
        seen.append((hook.exchange.worker.residual.copy(), hook.exchange.owner.residual.copy()))
        return torch.full_like(gradient, torch.inf) if len(seen) <= 2 and rank == 1 else gradient

    training.net[0][0].weight.register_hook(poison)
    with simulated(hook, [FAST]):
        for step in range(MOST_STEPS):
            training.optimizer.zero_grad()
            training.loss(step).backward()
            if all(bool(p.grad.isfinite().all()) for p in training.net.parameters()):
                training.optimizer.step()
            if hook.decided:
                break
    kept = [all((a == b).all() for a, b in zip(seen[0], later, strict=True)) for later in seen]
    return {
        "plan": str(hook.plan()),
        "kept": kept,
        "had": bool(seen[0][0].any()),
        "skipped": hook.stats().nonfinite_steps,
        "pending": bool(hook.exchange.worker.residual.any() or hook.exchange.owner.residual.any()),
        "digest": training.digest(),
    }


def test_step_that_is_not_finite_keeps_what_a_dense_choice_should_send(ranks):
    results = ranks(2, _nonfinite_flush)
    assert all_equal(r["digest"] for r in results)
    for r in results:
        assert r["plan"] == "dense"
        assert r["kept"] == [True] * 3
        assert r["had"]
        assert r["skipped"] == 2
        assert not r["pending"]


def _links_change(rank, world_size):
    training = make(rank, compressor=Auto(recheck_steps=100), overlap=False)
    hook, links, plans, step = training.hook, [SLOW], [], 0
    state = None
    with simulated(hook, links):
        for link in (SLOW, FAST, SLOW):
            links[0] = link
            checks = len(hook.stats().decisions)

            def checked(checks=checks):
                return len(hook.stats().decisions) > checks and hook.decided

            step = train_until(training, checked, step)
            training.steps(step, step + 2)
            step += 2
            plans.append(str(hook.plan()))
            if link == SLOW and state is None:
                state = hook.state_dict()
            if link == FAST:  # what comes from a saved state must not wait for the next choice
                hook.load_state_dict(state)
                training.step(step)
                loaded = [str(hook.plan()), bool(hook.exchange.worker.residual.any())]
                training.step(step + 1)
                loaded += [str(hook.plan())]
                step += 2
    return {"digest": training.digest(), "plans": plans, "loaded": loaded}


def test_later_checks_follow_the_links(ranks):
    results = ranks(4, _links_change)
    assert all_equal(r["digest"] for r in results)
    for r in results:
        slow, fast, again = r["plans"]
        assert slow.endswith("two_phase rans")
        assert fast == "dense"
        assert again.endswith("two_phase rans")
        assert r["loaded"] == ["two_phase float32", False, "dense"]


def _log(rank, world_size):
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append((record.levelname, record.getMessage()))
    logger = logging.getLogger("trafficzip")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    training = make(rank)
    with simulated(training.hook, [SLOW]):
        train_until(training, lambda: training.hook.decided)
    logger.removeHandler(handler)
    return messages, training.hook.stats().decisions


def test_rank_0_logs_what_was_measured_and_why(ranks):
    (messages, decisions), (others, same) = ranks(2, _log)
    assert [text for _, text in messages] == list(decisions)
    assert decisions == same
    assert not others
    assert {level for level, _ in messages} == {"INFO"}
    measured, predicted, chosen, overlap = decisions
    assert overlap.startswith("overlap o")
    assert "because steps took" in overlap
    assert measured.startswith("measured: 0.8 Mbit/s, 1 ms, rest ")
    assert "rans" in measured
    assert "bits per element" in measured
    assert predicted.startswith("predicted: dense: ")
    assert chosen.startswith("chosen: ")
    assert ", because " in chosen


def _fail_in_probe(rank, world_size):
    training = make(rank, timeout_s=120.0)
    if rank == 1:

        def fail(link, control):
            raise MemoryError("no room to measure")

        trafficzip.ddp.chooser.measure_link = fail
    training.steps(0, MOST_STEPS)


def test_rank_that_fails_while_measuring_fails_all():
    outcomes = run_fresh(3, _fail_in_probe)
    assert "MemoryError: no room to measure" in outcomes[1].error
    for rank in (0, 2):
        assert "rank 1 failed: MemoryError: no room to measure" in outcomes[rank].error
        assert outcomes[rank].seconds < SOON_S


def _measured(rank, world_size, exchange, scaled):
    """Nothing is simulated: real links, codecs and step times."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=20, enabled=scaled)
    training = Training(rank, exchange=exchange, register={"compressor": "auto", "grad_scaler": scaler})
    step, after = 0, 3
    while after and step < MOST_STEPS:
        training.optimizer.zero_grad()
        factor = 1e38 if step in (8, 9, 40) and rank == 1 and scaled else 1.0
        scaler.scale(factor * training.loss(step)).backward()
        scaler.step(training.optimizer)
        scaler.update()
        step += 1
        after -= training.hook.decided
    return training.digest(), str(training.hook.plan()), training.first_loss > training.test_loss()


@pytest.mark.parametrize(("exchange", "scaled"), [("auto", True), ("hierarchical", False), ("all_gather", False)])
def test_real_measurements_leave_ranks_identical(ranks, exchange, scaled):
    results = ranks(4 if exchange == "hierarchical" else 2, _measured, exchange, scaled)
    assert all_equal(results)
    assert results[0][2]


def _codecs_in_turn(rank, world_size, names):
    training = Training(rank, exchange="two_phase", register={"overlap": False})
    if names:
        training.hook._plans = (Plan.of(Mode("two_phase", names[k % len(names)])) for k in range(100))
    training.steps(0, 15)
    return training.digest(), training.residuals()


def test_switching_between_ternary_codecs_changes_no_bit(ranks):
    fixed, switching = ranks(2, _codecs_in_turn, []), ranks(2, _codecs_in_turn, ["rans", "zero_run", "quartic"])
    assert fixed == switching


def _fold(rank, world_size):
    training = Training(rank, exchange="two_phase")
    training.steps(0, 10)
    before = training.hook.state_dict()
    fold_owner(training.hook.exchange, training.hook.layout)
    return before, training.hook.state_dict(), bool(training.hook.exchange.owner.residual.any())


def test_folding_owners_keeps_the_mean_of_what_is_pending(ranks):
    results = ranks(3, _fold)
    before, after = (merge_state_dicts([r[k] for r in results])["worker"] for k in (0, 1))
    assert not any(r[2] for r in results)
    assert any(part.any() for r in results for parts in r[0]["owner"].values() for part in parts.values())
    for name, parts in before.items():
        largest = float(parts[0].abs().max())
        assert float((parts[0] - after[name][0]).abs().max()) <= 16 * largest * 2**-24  # a dozen roundings


def _one_rank(rank, world_size):
    training = make(rank)
    training.steps(0, 5)
    return str(training.hook.plan()), training.hook.stats().decisions


def test_one_rank_measures_nothing(ranks):
    assert ranks(1, _one_rank) == [("dense", ())]


def _refuse(rank, world_size):
    with pytest.raises(ConfigError, match="\"auto\", got 'automatic'"):
        make(rank, compressor="automatic")


def test_unknown_name_is_refused(ranks):
    ranks(2, _refuse)
    with pytest.raises(ConfigError, match="recheck_steps must be >= 100, got 5"):
        Auto(recheck_steps=5)
