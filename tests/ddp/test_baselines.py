"""The baselines run through the same hook: ranks stay bit-identical, and the loss falls."""

import pytest

from tests.ddp.training import Training, all_equal
from trafficzip import INT8_BLOCKWISE, ONE_BIT, TOP_K

CASES = {
    "TOP_K": (TOP_K, 0.01),
    "ONE_BIT": (ONE_BIT, 1.0),
    "INT8_BLOCKWISE": (INT8_BLOCKWISE, None),
}


def _train(rank, world_size, compressor, exchange):
    training = Training(rank, exchange=exchange, lr=0.02, register={"compressor": compressor})
    training.steps(0, 60)
    stats = training.hook.stats()
    shares = {name: p.nonzero_share for name, p in stats.parameters.items() if not p.small}
    return training.digest(), training.first_loss, training.test_loss(), stats.bits_per_element_sent, shares


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("world_size", "exchange"), [(2, "all_gather"), (3, "two_phase")])
def test_baselines_train(ranks, name, world_size, exchange):
    compressor, share = CASES[name]
    results = ranks(world_size, _train, compressor, exchange)
    assert all_equal(digest for digest, *_ in results)
    for _, first, last, bits, shares in results:
        assert last < 0.8 * first
        assert bits > 0
        for found in shares.values():
            assert share is None or share <= found < share + 0.01  # rounded up in each piece
