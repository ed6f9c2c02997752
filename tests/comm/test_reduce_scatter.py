"""The reduce-scatter exchange: sums, residuals, non-finite inputs and damaged messages, on in-process ranks."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from trafficzip.comm.exchange import Codecs
from trafficzip.comm.layout import Parameter, Piece, Section, Shard
from trafficzip.comm.local import local_transports
from trafficzip.comm.reduce_scatter import ReduceScatter
from trafficzip.error_feedback import ErrorFeedback
from trafficzip.errors import CorruptPayloadError
from trafficzip.kernels import Groups
from trafficzip.presets import BFLOAT16, FLOAT32, THREE_LC, THREE_LC_RANS

CHUNK = 64  # of which 40 elements are a's, 5 b's, the rest padding; the last rank's chunk is padding only


def shards(world_size):
    found = []
    for rank in range(world_size - 1):
        sections = []
        for name, small, at, size in (("a", False, 0, 40), ("b", True, 50, 5)):
            piece = Piece(Parameter(name, size * (world_size - 1), small), rank * size, size, rank)
            kept = rank * size + (0 if name == "a" else 40 * (world_size - 1))
            groups = Groups([size], value_starts=[rank * CHUNK + at], residual_starts=[kept])
            sections.append(Section(small, (piece,), groups, Groups([size], value_starts=[at])))
        found.append(Shard(tuple(sections), CHUNK))
    return [*found, Shard((), CHUNK)]


class Rank:
    def __init__(self, transport, compressor):
        world_size = transport.world_size
        worker = ErrorFeedback({"a": 40 * (world_size - 1), "b": 5 * (world_size - 1)})
        self.exchange = ReduceScatter(transport, worker)
        self.codecs = Codecs(push=compressor, pull=compressor, small=BFLOAT16)
        self.shards = shards(world_size)

    def reduce(self, values):
        pending = self.exchange.start(values, self.shards, self.codecs)
        if pending.nonfinite:
            return None
        out = np.full(CHUNK, 7.0, np.float32)
        self.exchange.decode(pending, out)
        self.exchange.finish(pending)
        return out


def run(world_size, compressor, inputs):
    """Reduce inputs[step][rank]; give the outputs likewise, and the ranks."""
    ranks = [Rank(t, compressor) for t in local_transports(world_size)]
    with ThreadPoolExecutor(world_size) as pool:
        steps = [
            list(pool.map(lambda pair: pair[0].reduce(pair[1].copy()), zip(ranks, step, strict=True)))
            for step in inputs
        ]
    return steps, ranks


def inputs(world_size, steps=3, seed=0):
    generator = np.random.default_rng(seed)
    values = generator.standard_normal((steps, world_size, world_size * CHUNK)).astype(np.float32)
    return values * np.float32(10.0) ** generator.integers(-3, 3, (steps, world_size, 1)).astype(np.float32)


@pytest.mark.parametrize("world_size", [2, 4])
def test_uncompressed_sum_is_taken_in_rank_order(world_size):
    values = inputs(world_size)
    steps, _ = run(world_size, FLOAT32, values)
    for step, given in zip(steps, values, strict=True):
        for owner in range(world_size - 1):
            expected = np.zeros(40, np.float32)
            for rank in range(world_size):
                expected += given[rank][owner * CHUNK : owner * CHUNK + 40]
            assert np.array_equal(step[owner][:40], expected)


@pytest.mark.parametrize("compressor", [THREE_LC, THREE_LC_RANS])
@pytest.mark.parametrize("world_size", [2, 4])
def test_what_is_sent_and_kept_is_what_came_in(world_size, compressor):
    values = inputs(world_size, steps=6)
    steps, ranks = run(world_size, compressor, values)
    for owner in range(world_size - 1):
        sent = np.sum([step[owner][:40].astype(np.float64) for step in steps], axis=0)
        kept = np.sum([r.exchange.worker["a"][owner * 40 :][:40].astype(np.float64) for r in ranks], axis=0)
        came = values[:, :, owner * CHUNK :][:, :, :40].astype(np.float64).sum((0, 1))
        largest = np.abs(values).max() * 4  # a residual stays below twice the scale
        assert np.abs(sent + kept - came).max() <= 6 * (world_size + 1) * 2**-23 * largest
        assert np.abs(kept).max() > 0


def test_padding_is_neither_sent_nor_received():
    values = inputs(3)
    changed = values.copy()
    for owner in range(3):
        for begin, end in ((40, 50), (55, CHUNK)):
            changed[:, :, owner * CHUNK + begin : owner * CHUNK + end] = np.nan
    changed[:, :, 2 * CHUNK :] = np.inf
    plain, first = run(3, THREE_LC, values)
    other, second = run(3, THREE_LC, changed)
    assert np.array_equal(plain, other)
    assert all(
        np.array_equal(a.exchange.worker.residual, b.exchange.worker.residual)
        for a, b in zip(first, second, strict=True)
    )
    for step in plain:
        assert not step[2].any()
        assert not step[0][40:50].any()
        assert not step[0][55:].any()


@pytest.mark.parametrize("bad_rank", [0, 1, 2])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nonfinite_input_is_known_to_every_rank_and_changes_no_residual(bad_rank, bad):
    values = inputs(3, steps=4)
    values[1, bad_rank, CHUNK + 52] = bad  # in b, owned by rank 1; rank 2 owns nothing
    steps, ranks = run(3, THREE_LC, values)
    assert [[out is None for out in step] for step in steps] == [[k == 1] * 3 for k in range(4)]
    without, other = run(3, THREE_LC, np.delete(values, 1, axis=0))
    assert all(
        np.array_equal(a.exchange.worker.residual, b.exchange.worker.residual)
        for a, b in zip(ranks, other, strict=True)
    )
    assert np.array_equal(steps[3], without[2])


@pytest.mark.parametrize("damage", ["empty", "status", "flagged with frames", "truncated", "flipped", "longer"])
def test_damaged_message_is_refused(damage):
    ranks = [Rank(t, THREE_LC) for t in local_transports(3, timeout_s=5)]
    plain = ranks[0].exchange.transport.all_to_all

    def damaged(payloads, *, limit):
        received = plain(payloads, limit=limit)
        data = received[1].copy()
        if damage in ("status", "flagged with frames"):
            data[0] = 9 if damage == "status" else 1
        elif damage == "flipped":
            data[30] ^= 4
        received[1] = {"empty": data[:0], "truncated": data[:-1], "longer": np.append(data, np.uint8(0))}.get(
            damage, data
        )
        return received

    ranks[0].exchange.transport.all_to_all = damaged
    values = inputs(3)[0]
    with ThreadPoolExecutor(3) as pool:
        ends = [pool.submit(rank.reduce, given) for rank, given in zip(ranks, values, strict=True)]
        with pytest.raises(CorruptPayloadError, match="message from rank 1"):
            ends[0].result()
        for end in ends[1:]:
            end.result()
    assert not ranks[0].exchange.worker.residual.any()


def test_message_is_a_status_byte_and_frames():
    values = inputs(2, steps=1)
    _, ranks = run(2, FLOAT32, values)
    # rank 1 sends a's 40 float32 and b's 5 bfloat16 in a frame each to rank 0; rank 0 sends a status to rank 1
    assert ranks[1].exchange.transport.meter.bytes_sent == 8 + 1 + 24 + 160 + 24 + 10
    assert ranks[0].exchange.transport.meter.bytes_sent == 8 + 1
