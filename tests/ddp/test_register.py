import pytest
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

import trafficzip.ddp
from tests.ddp.training import FEATURES, TARGETS, Training, mlp
from trafficzip.ddp import Phase, Schedule
from trafficzip.ddp.config import Config
from trafficzip.ddp.schedule import constant
from trafficzip.errors import CollectiveError, ConfigError, TrafficzipError
from trafficzip.presets import BFLOAT16, FLOAT32, THREE_LC, THREE_LC_RANS, with_multiplier


def message_of(expected, call):
    try:
        call()
    except expected as error:
        return str(error)
    return None


def _disagree(rank, world_size, which):
    """Rank 1 alone is told something else."""
    other = {
        "multiplier": {"compressor": with_multiplier(THREE_LC_RANS, 1.5)},
        "codec": {"compressor": THREE_LC},
        "schedule": {"compressor": Schedule(phases=(Phase(until=0.5), Phase(compressor=THREE_LC_RANS)), total_steps=9)},
        "small": {"small": FLOAT32},
        "small_elements": {"small_elements": 200},
        "exchange": {"exchange": "all_gather"},
    }
    options = {"exchange": "two_phase", "timeout_s": 30.0} | (other.get(which, {}) if rank == 1 else {})
    net = mlp()
    if which == "parameters" and rank == 1:
        net.append(nn.Linear(TARGETS, 3))
    if which == "names" and rank == 1:
        net = nn.Sequential(net)
    model = DistributedDataParallel(net, init_sync=False)
    return message_of(CollectiveError, lambda: trafficzip.ddp.register(model, **options))


@pytest.mark.parametrize(
    ("which", "key"),
    [
        ("multiplier", "schedule"),
        ("codec", "schedule"),
        ("schedule", "schedule"),
        ("small", "small"),
        ("small_elements", "small_elements"),
        ("exchange", "exchange"),
        ("parameters", "parameters"),
        ("names", "parameters"),
    ],
)
def test_ranks_that_disagree_are_told_on_what(ranks, which, key):
    for message in ranks(3, _disagree, which):
        assert message is not None
        assert f"ranks disagree about {key}: rank 0 has" in message
        assert "rank 1 has" in message


def _agree(rank, world_size):
    Training(rank, register={"small_elements": 100, "num_threads": 1 + rank, "timeout_s": 30.0 + rank})
    return "agreed"


def test_ranks_that_agree_go_on(ranks):
    assert ranks(3, _agree) == ["agreed"] * 3


class Embeddings(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, FEATURES, sparse=True)
        self.last = nn.Linear(FEATURES, TARGETS)


def _misuse(rank, world_size):
    found = {"not DDP": message_of(ConfigError, lambda: trafficzip.ddp.register(mlp()))}
    sparse = DistributedDataParallel(Embeddings())
    found["sparse"] = message_of(ConfigError, lambda: trafficzip.ddp.register(sparse))
    double = mlp()
    double[2][0].double()
    double = DistributedDataParallel(double)
    found["float64"] = message_of(ConfigError, lambda: trafficzip.ddp.register(double))
    model = DistributedDataParallel(mlp())
    found["exchange"] = message_of(ConfigError, lambda: trafficzip.ddp.register(model, exchange="ring"))
    found["small_elements"] = message_of(ConfigError, lambda: trafficzip.ddp.register(model, small_elements=-1))
    trafficzip.ddp.register(model)
    found["twice"] = message_of(ConfigError, lambda: trafficzip.ddp.register(model))
    other = DistributedDataParallel(mlp())
    other.register_comm_hook(None, allreduce_hook)
    if rank == 1:  # alone: a rank that refuses makes no group and waits for nobody
        found["other hook"] = message_of(ConfigError, lambda: trafficzip.ddp.register(other))
    return found


def test_wrong_use_raises_and_names_the_cause(ranks):
    results = ranks(2, _misuse)
    assert "has the communication hook allreduce_hook already" in results[1]["other hook"]
    for found in results:
        assert "got Sequential" in found["not DDP"]
        assert "table has sparse gradients" in found["sparse"]
        assert "2.0.weight has dtype torch.float64" in found["float64"]
        assert "'ring'" in found["exchange"]
        assert "-1" in found["small_elements"]
        assert "has the communication hook hook already" in found["twice"]


def _refuse_on_one(rank, world_size):
    model = DistributedDataParallel(mlp())
    elements = -1 if rank == 1 else 256
    return message_of(TrafficzipError, lambda: trafficzip.ddp.register(model, small_elements=elements))


def test_rank_that_refuses_tells_the_others(ranks):
    messages = ranks(3, _refuse_on_one)
    assert "small_elements must be >= 0, got -1" in messages[1]
    for rank in (0, 2):
        assert messages[rank].startswith("rank 1 refused to register: small_elements")


def _frozen(rank, world_size):
    net = mlp()
    net[0].double().requires_grad_(False)
    state = trafficzip.ddp.register(DistributedDataParallel(net))
    return [parameter.name for parameter in state.parameters]


def test_what_is_not_trained_may_have_any_dtype(ranks):
    for names in ranks(2, _frozen):
        assert "1.0.weight" in names
        assert "0.0.weight" not in names


def _lossless(rank, world_size, exchange):
    training = Training(rank, exchange=exchange, register={"compressor": FLOAT32, "small": FLOAT32})
    plain = Training(rank, exchange=None)
    return training.steps(0, 10), plain.steps(0, 10), bool(training.hook.exchange.worker.residual.any())


@pytest.mark.parametrize("exchange", ["all_gather", "two_phase"])
def test_lossless_compressor_trains_like_plain_ddp(ranks, exchange):
    for losses, plain, residual in ranks(3, _lossless, exchange):
        assert losses == pytest.approx(plain, rel=1e-5)  # sums in rank order here, in ring order there
        assert not residual


@pytest.mark.parametrize(
    ("exchange", "world_size", "chosen"),
    [("auto", 2, "all_gather"), ("auto", 3, "all_gather"), ("auto", 4, "two_phase"), ("two_phase", 2, "two_phase")],
)
def test_auto_gathers_up_to_three_ranks(exchange, world_size, chosen):
    config = Config(schedule=constant(THREE_LC), small=BFLOAT16, small_elements=256, exchange=exchange)
    assert config.exchange_for(world_size) == chosen
