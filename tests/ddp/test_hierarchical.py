"""The hierarchical exchange under DDP: four processes as two nodes of two."""

import pytest
from torch.nn.parallel import DistributedDataParallel

import trafficzip.ddp
from tests.ddp.training import Training, all_equal, mlp
from tests.distributed import die, run_fresh
from trafficzip.comm.nodes import Nodes
from trafficzip.ddp.config import Config
from trafficzip.ddp.schedule import constant
from trafficzip.errors import CollectiveError, ConfigError
from trafficzip.presets import BFLOAT16, QUARTIC, THREE_LC

SOON_S = 45.0  # start of the processes, a few steps and the failure, on a busy machine
NODES = [0, 0, 1, 1]


def _train(rank, world_size, nodes, steps):
    training = Training(rank, exchange="hierarchical", register={"nodes": nodes, "compressor": QUARTIC})
    losses = training.steps(0, steps)
    stats = training.hook.stats()
    elements = sum(p.numel() for p in training.net.parameters())
    return {
        "digest": training.digest(),
        "losses": losses,
        "buckets": len(training.hook._last),
        "kept": training.hook.exchange.worker.residual.size / elements,
        "stats": stats,
        "inside_share": stats.inside_bytes_sent / (4 * elements * steps),
    }


@pytest.mark.parametrize("nodes", [NODES, [0, 1, 0, 1], [0, 1, 1, 1]])
def test_ranks_stay_bit_identical_and_count_bytes_inside_apart(ranks, nodes):
    results = ranks(4, _train, nodes, 30)
    assert all_equal(r["digest"] for r in results)
    assert sum(r["kept"] for r in results) == 2  # one residual of the whole model per node
    for kind in ("bytes", "inside_bytes"):
        sent, received = (sum(getattr(r["stats"], f"{kind}_{way}") for r in results) for way in ("sent", "received"))
        assert sent == received > 0
    for rank, r in enumerate(results):
        assert r["buckets"] >= 4
        assert r["losses"][-1] < 0.5 * r["losses"][0]
        if nodes == NODES:
            assert 0.3 < r["kept"] < 0.7
            assert 0.3 < r["inside_share"] < 0.8  # the other's part, dense, and final frames
        else:
            assert (r["kept"] == 0) == (nodes == [0, 1, 1, 1] and rank > 1)


def _count(rank, world_size, exchange):
    training = Training(rank, exchange=exchange, register={"nodes": NODES, "compressor": QUARTIC})
    crossed = 0
    plain = training.hook.exchange.transport.all_to_all

    def counting(payloads, *, limit):
        nonlocal crossed
        ranks = training.hook.exchange.transport.ranks
        crossed += sum(8 + p.size for peer, p in zip(ranks, payloads, strict=True) if NODES[peer] != NODES[rank])
        return plain(payloads, limit=limit)

    training.hook.exchange.transport.all_to_all = counting
    training.steps(0, 5)
    return crossed


def test_bytes_between_nodes_are_half_of_the_flat_exchange(ranks):
    flat, hierarchical = (sum(ranks(4, _count, exchange)) for exchange in ("two_phase", "hierarchical"))
    assert 0.45 < hierarchical / flat < 0.55


def _fail_in(where):
    def case(rank, world_size):
        training = Training(rank, exchange="hierarchical", register={"nodes": NODES, "timeout_s": 120.0})
        training.steps(0, 3)
        if rank == 1:
            exchange = training.hook.exchange

            def failing(*args, **kwargs):
                raise MemoryError("no room")

            setattr(exchange, where, failing)
        training.steps(3, 6)

    return case


def _fail_before(rank, world_size):
    _fail_in("_reduce_inside")(rank, world_size)


def _fail_between(rank, world_size):
    _fail_in("_compress_mean")(rank, world_size)


def _fail_after(rank, world_size):
    _fail_in("_share_inside")(rank, world_size)


@pytest.mark.parametrize("case", [_fail_before, _fail_between, _fail_after])
def test_error_on_one_local_rank_reaches_every_rank(case):
    outcomes = run_fresh(4, case)
    assert "MemoryError: no room" in outcomes[1].error
    for rank in (0, 2, 3):
        assert "CollectiveError: rank " in outcomes[rank].error
        assert "rank 1 failed: MemoryError: no room" in outcomes[rank].error
        assert outcomes[rank].seconds < SOON_S


def _die(rank, world_size):
    training = Training(rank, exchange="hierarchical", register={"nodes": NODES, "timeout_s": 120.0})
    training.steps(0, 3)
    if rank == 2:
        die()
    training.steps(3, 6)


def test_killed_local_rank_is_noticed_on_both_nodes():
    outcomes = run_fresh(4, _die)
    assert not outcomes[2].answered
    for rank in (0, 1, 3):
        assert "CollectiveError" in outcomes[rank].error
        assert outcomes[rank].seconds < SOON_S


def _disagree(rank, world_size, given):
    model = DistributedDataParallel(mlp())
    try:
        trafficzip.ddp.register(model, exchange="hierarchical", nodes=given[rank], timeout_s=30.0)
    except (CollectiveError, ConfigError) as error:
        return str(error)
    return "accepted"


def test_different_nodes_are_refused_on_every_rank(ranks):
    given = [NODES, NODES, [0, 1, 0, 1], NODES]
    for message in ranks(4, _disagree, given):
        assert "ranks disagree about nodes: rank 0 has [0, 0, 1, 1], rank 2 has [0, 1, 0, 1]" in message


def test_nodes_of_another_number_of_ranks_are_refused_on_every_rank(ranks):
    messages = ranks(4, _disagree, [NODES, NODES, NODES, [0, 0, 1]])
    assert "nodes of 3 ranks are given, expected 4" in messages[3]
    assert all("rank 3 refused to register: nodes of 3 ranks" in message for message in messages[:3])


@pytest.mark.parametrize(
    ("of_rank", "chosen"),
    [
        ([0, 0], "all_gather"),
        ([0, 0, 0, 0], "two_phase"),
        ([0, 1, 2, 3], "two_phase"),
        ([0, 0, 1, 1], "hierarchical"),
        ([0, 0, 1], "hierarchical"),
    ],
)
def test_auto_takes_the_hierarchy_where_there_are_two_kinds_of_links(of_rank, chosen):
    config = Config(
        schedule=constant(THREE_LC), small=BFLOAT16, small_elements=256, exchange="auto", nodes=Nodes(of_rank)
    )
    assert config.exchange_for(len(of_rank)) == chosen


def _found(rank, world_size, groups):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GROUP_RANK", str(groups[rank]))
        return Training(rank, exchange="auto").hook.config.nodes.of_rank


def test_nodes_are_found_by_host_and_torchrun_agent(ranks):
    assert ranks(3, _found, [4, 2, 4]) == [(0, 1, 0)] * 3
