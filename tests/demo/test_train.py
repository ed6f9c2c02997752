import pytest
import torch
import torch.distributed as dist

from trafficzip.demo.data import load_digits
from trafficzip.demo.measure import all_reduce_bytes, loopback_bytes, parameter_digest
from trafficzip.demo.networks import DigitsNet
from trafficzip.demo.settings import RECIPES
from trafficzip.demo.train import Compression, learning_rate_share, train
from trafficzip.presets import THREE_LC


@pytest.fixture
def group_of_one(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("compression", [None, Compression(compressor=THREE_LC)])
def test_one_rank_trains(group_of_one, compression):
    torch.manual_seed(0)
    seen = []
    result = train(
        DigitsNet(),
        load_digits(),
        RECIPES["digits"],
        num_steps=3,
        seed=0,
        compression=compression,
        on_step=lambda step, loss: seen.append((step, loss)),
    )
    assert seen == [(step + 1, loss) for step, loss in enumerate(result.losses)]
    assert result.identical
    assert result.expected_bytes == 0
    assert 0 <= result.accuracy <= 1
    assert (result.counted_bytes is None) == (compression is None)


def test_learning_rate_rises_then_falls():
    shares = [learning_rate_share(step, 100, warmup=0.1) for step in range(100)]
    top = shares.index(max(shares))
    assert 0 < shares[0] < 0.2
    assert 8 <= top <= 11
    assert shares[:top] == sorted(shares[:top])
    assert shares[top:] == sorted(shares[top:], reverse=True)
    assert 0 < shares[-1] < 0.01


def test_digest_sees_one_bit():
    network = torch.nn.Linear(3, 2)
    before = parameter_digest(network)
    with torch.no_grad():
        network.bias[1] = -network.bias[1]
    assert parameter_digest(network) != before


def test_ring_sends_twice_all_but_one_share():
    assert all_reduce_bytes(10, world_size=2) == 2 * 40  # two ranks, each 40 bytes
    assert all_reduce_bytes(10, world_size=1) == 0


def test_missing_counters_are_none(monkeypatch, tmp_path):
    monkeypatch.setattr("trafficzip.demo.measure._COUNTERS", tmp_path / "dev")
    assert loopback_bytes() is None
    (tmp_path / "dev").write_text("Inter-| Receive\n face |bytes packets\n  eth0: 5 1\n    lo: 1234 7 0\n")
    assert loopback_bytes() == 1234
