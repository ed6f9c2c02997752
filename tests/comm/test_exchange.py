"""Exchanges against the algorithm written out with the reference kernels, bit for bit."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trafficzip.comm.assembly import make_exchange
from trafficzip.comm.exchange import Codecs
from trafficzip.comm.layout import Parameter
from trafficzip.comm.local import local_transports
from trafficzip.error_feedback import starts_of
from trafficzip.errors import CollectiveError, CorruptPayloadError
from trafficzip.kernels import Groups, reference
from trafficzip.presets import BFLOAT16, QUARTIC, THREE_LC, THREE_LC_RANS, with_multiplier

KINDS = ["all_gather", "two_phase"]
SIZES = st.one_of(st.integers(1, 40), st.sampled_from([5, 14, 70, 319, 320, 321, 16_384, 131_100]))


class Simulation:
    """All ranks of an exchange in one process, in plain NumPy: no frame, no codec, no transport."""

    def __init__(self, pieces, world_size, *, push, pull, two_phase):
        self.pieces, self.world_size, self.two_phase = pieces, world_size, two_phase
        self.multipliers = np.float32(push), np.float32(pull)
        total = {piece.parameter.name: piece.parameter.size for piece in pieces}
        self.worker = [{name: np.zeros(size, np.float32) for name, size in total.items()} for _ in range(world_size)]
        self.owner = {name: np.zeros(size, np.float32) for name, size in total.items()}

    def _quantize(self, value, residual, multiplier, *, small):
        """Give what is sent, and what is left of value + residual."""
        groups, lost = Groups([value.size]), np.zeros_like(value)
        peaks = reference.group_peaks(value, residual, groups)
        sent = np.zeros_like(value)
        if small:
            codes = reference.cast_bfloat16(value, residual, lost, groups, peaks, out_like_residual=True)
            reference.cast_accumulate(codes, 1.0, sent, groups, like_residual=False)
        else:
            scales = peaks * multiplier
            codes = reference.ternarize(value, residual, lost, groups, scales, out_like_residual=True)
            reference.ternary_accumulate(codes, scales, sent, groups, like_residual=False)
        return sent, lost

    def step(self, gradients):
        """Give the mean by name; gradients: by rank and name."""
        means = {name: np.zeros_like(value) for name, value in gradients[0].items()}
        for piece in self.pieces:
            name, small = piece.parameter.name, piece.parameter.small
            part = slice(piece.start, piece.start + piece.size)
            mean = np.zeros(piece.size, np.float32)
            for rank in range(self.world_size):
                kept = self.worker[rank][name]
                sent, lost = self._quantize(gradients[rank][name][part], kept[part], self.multipliers[0], small=small)
                kept[part] = lost
                mean += sent
            mean /= np.float32(self.world_size)
            if self.two_phase:
                kept = self.owner[name]
                sent, _ = self._quantize(mean, kept[part], self.multipliers[1], small=small)
                kept[part] += mean
                kept[part] -= sent
                mean = np.zeros(piece.size, np.float32) + sent
            means[name][part] = mean
        return means


class Rank:
    """One rank of the real exchange."""

    def __init__(self, transport, parameters, *, codecs, kind, nodes=None):
        self.parameters, self.codecs, self.transport = parameters, codecs, transport
        self.exchange, self.layout = make_exchange(kind, transport, parameters, nodes=nodes)
        self.pieces = [piece for part in self.layout.parts for piece in part.pieces]

    def start(self, gradient, names):
        """Start one bucket that holds the named parameters."""
        starts = starts_of({p.name: p.size for p in self.parameters if p.name in names})
        shards = self.layout.bucket(starts)
        values = np.concatenate([np.zeros(0, np.float32), *(gradient[name] for name in starts)])
        return starts, self.exchange.start(values, shards, self.codecs)

    def step(self, gradient, buckets):
        """Give the mean by name."""
        pending = [self.start(gradient, names) for names in buckets]
        means = {}
        for starts, bucket in pending:
            early = np.full_like(bucket.values, np.nan)
            self.exchange.decode(bucket, early)
            self.exchange.finish(bucket)
            assert early.tobytes() == bucket.values.tobytes()
            means |= {name: bucket.values[start:][: gradient[name].size] for name, start in starts.items()}
        return means


def in_threads(functions):
    """Run one function per rank at the same time; give results, or the exceptions in their place."""
    results = [None] * len(functions)

    def work(rank):
        try:
            results[rank] = functions[rank]()
        except (CollectiveError, CorruptPayloadError, AssertionError, ValueError) as error:
            results[rank] = error

    threads = [threading.Thread(target=work, args=(rank,), daemon=True) for rank in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


@st.composite
def problems(draw):
    world_size = draw(st.integers(1, 5))
    sizes = draw(st.lists(st.tuples(SIZES, st.booleans()), min_size=1, max_size=4))
    parameters = [Parameter(f"p{k}", size, small) for k, (size, small) in enumerate(sizes)]
    cut = draw(st.integers(0, len(parameters)))
    names = [p.name for p in parameters]
    buckets = [bucket for bucket in (names[cut:], names[:cut]) if bucket]
    multipliers = draw(st.sampled_from([(1.0, 1.0), (1.75, 1.0), (0.5, 1.9), (1.3, 1.3)]))
    return world_size, parameters, buckets, multipliers, draw(st.integers(0, 2**32 - 1))


def make_gradients(rng, parameters, world_size):
    """Give gradients with zeros, unused parameters and very different magnitudes."""
    return [
        {
            p.name: (rng.standard_normal(p.size) * 10.0 ** rng.integers(-6, 3) * (rng.random() > 0.2)).astype(
                np.float32
            )
            for p in parameters
        }
        for _ in range(world_size)
    ]


@settings(max_examples=40)
@given(problems(), st.sampled_from([QUARTIC, THREE_LC, THREE_LC_RANS]))
@pytest.mark.parametrize("kind", KINDS)
def test_exchange_equals_the_algorithm_in_plain_numpy(kind, problem, compressor):
    world_size, parameters, buckets, (push, pull), seed = problem
    codecs = Codecs(push=with_multiplier(compressor, push), pull=with_multiplier(compressor, pull), small=BFLOAT16)
    members = [Rank(t, parameters, codecs=codecs, kind=kind) for t in local_transports(world_size)]
    expected = Simulation(members[0].pieces, world_size, push=push, pull=pull, two_phase=kind == "two_phase")
    rng = np.random.default_rng(seed)
    for _ in range(4):
        gradients = make_gradients(rng, parameters, world_size)
        means = expected.step(gradients)
        found = in_threads([lambda r=r, m=m, g=gradients: m.step(g[r], buckets) for r, m in enumerate(members)])
        for rank, member in enumerate(members):
            assert not isinstance(found[rank], Exception), found[rank]
            for p in parameters:
                assert found[rank][p.name].tobytes() == means[p.name].tobytes()
                assert member.exchange.worker[p.name].tobytes() == expected.worker[rank][p.name].tobytes()
            for piece in member.pieces:
                if kind == "two_phase" and piece.owner == rank:
                    kept = expected.owner[piece.parameter.name][piece.start : piece.start + piece.size]
                    assert member.exchange.owner[piece.parameter.name].tobytes() == kept.tobytes()


PARAMETERS = [Parameter("a", 700, False), Parameter("b", 140_000, False), Parameter("c", 9, True)]


def three_ranks(*, kind):
    codecs = Codecs(push=THREE_LC_RANS, pull=THREE_LC_RANS, small=BFLOAT16)
    return [Rank(t, PARAMETERS, codecs=codecs, kind=kind) for t in local_transports(3, timeout_s=5.0)]


def residuals(member):
    return member.exchange.worker.residual.tobytes() + member.exchange.owner.residual.tobytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["a", "b", "c"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_nonfinite_input_is_known_to_every_rank_and_start_keeps_residuals(kind, name, value):
    members = three_ranks(kind=kind)
    rng = np.random.default_rng(0)
    names = ["a", "b", "c"]
    gradients = make_gradients(rng, PARAMETERS, 3)
    in_threads([lambda r=r, m=m: m.step(gradients[r], [names]) for r, m in enumerate(members)])
    before = [residuals(member) for member in members]
    assert any(kept.strip(b"\0") for kept in before)
    gradients = make_gradients(rng, PARAMETERS, 3)
    gradients[1][name][-1] = value
    found = in_threads([lambda r=r, m=m: m.start(gradients[r], names)[1] for r, m in enumerate(members)])
    assert [pending.nonfinite for pending in found] == [True] * 3
    assert [residuals(member) for member in members] == before


@pytest.mark.parametrize("kind", KINDS)
def test_mean_that_overflows_is_nonfinite_on_every_rank(kind):
    members = three_ranks(kind=kind)
    gradients = [{p.name: np.full(p.size, 3e38, np.float32) for p in PARAMETERS} for _ in range(3)]
    found = in_threads([lambda r=r, m=m: m.start(gradients[r], ["a", "b", "c"]) for r, m in enumerate(members)])
    for _, pending in found:
        if not pending.nonfinite:  # the sum of ranks overflows where it is decoded
            out = np.zeros_like(pending.values)
            members[0].exchange.decode(pending, out)
            assert not np.isfinite(out).all()
    assert len({result[1].nonfinite for result in found}) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", [0, 10, 23, -1])
def test_damaged_message_names_its_sender(kind, at):
    members = three_ranks(kind=kind)
    gradients = make_gradients(np.random.default_rng(1), PARAMETERS, 3)
    transport = members[0].exchange.transport
    plain = transport.all_to_all

    def damaged(payloads, *, limit):
        received = plain(payloads, limit=limit)
        received[1] = received[1].copy()
        received[1][at] ^= 1
        return received

    transport.all_to_all = damaged

    def start(rank):
        try:
            return members[rank].start(gradients[rank], ["a", "b", "c"])
        except CorruptPayloadError as error:
            if kind != "all_gather":
                members[rank].exchange.transport.fail(str(error))
            raise

    found = in_threads([lambda r=r: start(r) for r in range(3)])
    assert isinstance(found[0], CorruptPayloadError)
    assert "message from rank 1" in str(found[0])
    if kind != "all_gather":
        for error in found[1:]:
            assert isinstance(error, CollectiveError)
            assert "rank 0 failed: message from rank 1" in str(error)


@pytest.mark.parametrize("kind", KINDS)
def test_no_message_is_larger_than_its_limit(kind):
    """Values that do not compress, in one-element parameters: the worst case for headers and scales."""
    parameters = [Parameter(f"p{k}", 1, k % 2 == 0) for k in range(40)]
    codecs = Codecs(push=THREE_LC_RANS, pull=THREE_LC_RANS, small=BFLOAT16)
    members = [Rank(t, parameters, codecs=codecs, kind=kind) for t in local_transports(2)]
    gradients = make_gradients(np.random.default_rng(2), parameters, 2)
    found = in_threads([lambda r=r, m=m: m.step(gradients[r], [list(gradients[0])]) for r, m in enumerate(members)])
    assert not any(isinstance(result, Exception) for result in found), found
