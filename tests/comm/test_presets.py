"""Every preset through every flat exchange: ranks agree on every bit, and what is not sent yet is kept."""

import numpy as np
import pytest

from tests.comm.test_exchange import KINDS, Rank, in_threads
from trafficzip.comm.exchange import Codecs
from trafficzip.comm.layout import Parameter
from trafficzip.comm.local import local_transports
from trafficzip.presets import BFLOAT16, PRESETS

PARAMETERS = [Parameter("a", 700, False), Parameter("b", 140_000, False), Parameter("c", 9, True)]
STEPS = 5
WORLD_SIZE = 3


def pending_of(members, name, size):
    """Give what was put in and has not come out: mean of the workers' residuals, and the owners'."""
    pending = np.mean([member.exchange.worker[name].astype(np.float64) for member in members], axis=0)
    for rank, member in enumerate(members):
        for piece in member.pieces:
            if piece.parameter.name == name and piece.owner == rank and member.exchange.owner.sizes:
                pending[piece.start : piece.start + piece.size] += member.exchange.owner[name]
    assert pending.size == size
    return pending


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_what_came_out_and_what_is_pending_is_what_went_in(name, kind):
    preset = PRESETS[name]
    codecs = Codecs(push=preset, pull=preset, small=BFLOAT16)
    members = [Rank(t, PARAMETERS, codecs=codecs, kind=kind) for t in local_transports(WORLD_SIZE)]
    rng = np.random.default_rng(3)
    given = {p.name: np.zeros(p.size) for p in PARAMETERS}
    got = {p.name: np.zeros(p.size) for p in PARAMETERS}
    for _ in range(STEPS):
        gradients = [
            {p.name: rng.standard_normal(p.size).astype(np.float32) for p in PARAMETERS} for _ in range(WORLD_SIZE)
        ]
        means = in_threads(
            [lambda r=r, m=m, g=gradients: m.step(g[r], [["b"], ["a", "c"]]) for r, m in enumerate(members)]
        )
        for p in PARAMETERS:
            assert not isinstance(means[0], Exception), means[0]
            assert len({mean[p.name].tobytes() for mean in means}) == 1
            given[p.name] += np.mean([gradient[p.name] for gradient in gradients], axis=0, dtype=np.float64)
            got[p.name] += means[0][p.name]
    for p in PARAMETERS:
        found = got[p.name] + pending_of(members, p.name, p.size)
        # fewer than 10 roundings a step, of numbers that residuals keep below 32: each at most 2**-24 of them
        assert np.abs(found - given[p.name]).max() <= STEPS * 10 * 32 * 2.0**-24
