import time

import numpy as np
import pytest

from tests.ddp.training import Training, mlp

NUM_ELEMENTS = sum(p.numel() for p in mlp().parameters())


def _count(rank, world_size, exchange):
    """Train, and count next to the transport what it is given and what it gives."""
    training = Training(rank, exchange=exchange)
    transport = training.hook.transport
    counted = {"sent": transport.meter.bytes_sent, "received": transport.meter.bytes_received}  # by registration
    plain = transport.all_to_all

    def counting(payloads, *, limit):
        received = plain(payloads, limit=limit)
        for peer in range(world_size):
            if peer != rank:
                counted["sent"] += 8 + payloads[peer].size
                counted["received"] += 8 + received[peer].size
        return received

    transport.all_to_all = counting
    training.steps(0, 9)
    before = training.hook.stats()
    training.step(9)
    residuals = training.residuals()
    begin = time.perf_counter()
    stats = training.hook.stats()
    elapsed_s = time.perf_counter() - begin
    worker = training.hook.exchange.worker
    return {
        "stats": stats,
        "before": before,
        "counted": counted,
        "elapsed_s": elapsed_s,
        "unchanged": residuals == training.residuals(),
        "norms": {name: float(np.linalg.norm(worker[name])) for name in worker.sizes},
    }


@pytest.mark.parametrize("exchange", ["all_gather", "two_phase"])
@pytest.mark.parametrize("world_size", [2, 3])
def test_stats_are_what_crossed_the_transport(ranks, exchange, world_size):
    results = ranks(world_size, _count, exchange)
    assert sum(r["stats"].bytes_sent for r in results) == sum(r["stats"].bytes_received for r in results)
    for r in results:
        stats, before = r["stats"], r["before"]
        assert (stats.bytes_sent, stats.bytes_received) == (r["counted"]["sent"], r["counted"]["received"])
        assert stats.last_step.bytes_sent == stats.bytes_sent - before.bytes_sent > 0
        assert stats.last_step.bytes_received == stats.bytes_received - before.bytes_received > 0
        assert (stats.steps, stats.compressed_steps, stats.nonfinite_steps) == (10, 10, 0)
        assert stats.num_elements == NUM_ELEMENTS
        assert stats.bits_per_element_sent == 8 * stats.last_step.bytes_sent / NUM_ELEMENTS
        assert 0 < stats.bits_per_element_sent < 2 * 1.6 * (world_size - 1)  # quartic bytes are 1.6 bits
        assert stats.codec_s > 0
        assert stats.exchange_s > 0
        assert r["unchanged"]
        assert r["elapsed_s"] < 1.0
        for name, parameter in stats.parameters.items():
            assert parameter.small == name.endswith("bias") or name == "4.0.weight"
            assert 0 < parameter.nonzero_share <= 1
            assert parameter.residual_norm == r["norms"][name]
            assert parameter.small == (parameter.nonzero_share == 1)
            assert parameter.residual_norm > 0


def _shares(rank, world_size, exchange):
    """Compare the shares of codes that are not zero with the gradient that a first step decodes to on one rank."""
    training = Training(rank, exchange=exchange)
    transport = training.hook.transport
    own = {}
    plain = training.hook.exchange._compress_worker

    def spying(values, shards, codecs):
        x = values.copy()
        frames = plain(values, shards, codecs)
        for shard in shards:
            for section in shard.sections:
                for piece, at in zip(section.pieces, section.groups.value_starts, strict=True):
                    sent = np.count_nonzero(x[at : at + piece.size] - values[at : at + piece.size])
                    own[piece.parameter.name] = own.get(piece.parameter.name, 0) + sent
        return frames

    training.hook.exchange._compress_worker = spying
    training.step(0)  # residuals are zero: what was sent is value - lost
    assert transport.rank == rank
    return own, training.hook.stats()


@pytest.mark.parametrize("exchange", ["all_gather", "two_phase"])
def test_nonzero_shares_are_those_of_the_codes(ranks, exchange):
    for own, stats in ranks(2, _shares, exchange):
        for name, parameter in stats.parameters.items():
            if not parameter.small:
                assert parameter.nonzero_share == own[name] / parameter.num_elements
