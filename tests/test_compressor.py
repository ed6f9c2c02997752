"""Compressors: what is sent plus what is kept is what came in; fused paths equal their stages."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.contract import rounding_of
from tests.quantizers.test_quantizers import problems
from trafficzip import (
    BFLOAT16,
    FLOAT32,
    QUARTIC,
    THREE_LC,
    THREE_LC_RANS,
    Compressor,
    ConfigError,
    Groups,
    UnsupportedFormatError,
    compressor,
    with_multiplier,
)
from trafficzip.codecs import Quartic, Rans, ZeroRun
from trafficzip.presets import PRESETS
from trafficzip.quantizers import CastBfloat16, Ternary
from trafficzip.wire.frame import unpack_frame

ALL = sorted(PRESETS)


@pytest.mark.parametrize("name", ALL)
@given(problems(), st.sampled_from(["residual", "values", "other"]))
def test_sent_plus_kept_is_what_came_in(name, problem, target):
    values, residual, groups = problem
    total = [
        values[v : v + n] + residual[r : r + n]
        for n, v, r in zip(groups.sizes, groups.value_starts, groups.residual_starts, strict=True)
    ]
    chosen = PRESETS[name]
    out = {"residual": residual, "values": values, "other": np.full_like(residual, np.nan)}[target]
    frame = chosen.compress(values, groups, residual=residual, out=out, out_like_residual=target != "values")
    read, _ = unpack_frame(frame.pack())
    decoded = chosen.decompress(read, groups)
    at = 0
    for k, size in enumerate(groups.sizes):
        start = (groups.value_starts if target == "values" else groups.residual_starts)[k]
        back = decoded[at : at + size].astype(np.float64) + out[start : start + size]
        bound = rounding_of(chosen.quantizer) * np.abs(out[start : start + size])
        assert (np.abs(back - total[k]) <= bound).all()
        at += size


@given(problems(), st.sampled_from([0.5, 1.0, 1.75]), st.booleans())
def test_fused_equals_stages(problem, multiplier, with_residual):
    values, residual, groups = problem
    kept = residual if with_residual else None
    chosen = with_multiplier(QUARTIC, multiplier)
    results = []
    for fused in (True, False):
        out = np.full_like(residual, 7.0) if with_residual else None
        tables = (compressor._FUSED_ENCODE, compressor._FUSED_ACCUMULATE)
        saved = [dict(table) for table in tables]
        try:
            if not fused:
                for table in tables:
                    table.clear()
            frame = chosen.compress(values, groups, residual=kept, out=out)
            decoded = chosen.decompress(frame, groups)
        finally:
            for table, entries in zip(tables, saved, strict=True):
                table.update(entries)
        results.append((frame.pack().tobytes(), decoded.tobytes(), None if out is None else out.tobytes()))
    assert results[0] == results[1]


@pytest.mark.parametrize("name", ALL)
def test_threads_do_not_change_bytes(name):
    rng = np.random.default_rng(0)
    values = rng.standard_normal(2_000_003).astype(np.float32)
    residual = rng.standard_normal(values.size).astype(np.float32)
    groups = Groups([5, 1_400_000, values.size - 1_400_005])
    seen = set()
    for num_threads in (1, 2, 5):
        out = np.zeros_like(residual)
        frame = PRESETS[name].compress(values, groups, residual=residual, out=out, num_threads=num_threads)
        decoded = PRESETS[name].decompress(frame, groups, num_threads=num_threads)
        seen.add((frame.pack().tobytes(), out.tobytes(), decoded.tobytes()))
    assert len(seen) == 1


@pytest.mark.parametrize("name", ALL)
def test_not_finite_changes_nothing(name):
    values = np.array([1, 2, np.nan, 4, 5], np.float32)
    residual = np.array([1, 1, 1, 1, 1], np.float32)
    frame = PRESETS[name].compress(values, Groups([2, 3]), residual=residual, out=residual)
    assert frame.nonfinite
    assert residual.tolist() == [1, 1, 1, 1, 1]


@given(problems(), st.sampled_from(ALL))
def test_accumulate_adds_with_sign(problem, name):
    values, _, groups = problem
    chosen = PRESETS[name]
    frame = chosen.compress(values, groups)
    out = np.zeros_like(values)
    chosen.accumulate(frame, groups, out)
    chosen.accumulate(frame, groups, out, sign=-1.0)
    assert not out.any()


@given(problems(), st.sampled_from(ALL))
def test_accumulate_follows_either_layout(problem, name):
    values, residual, groups = problem
    frame = PRESETS[name].compress(values, groups)
    like_values, like_residual = np.zeros_like(values), np.zeros_like(residual)
    PRESETS[name].accumulate(frame, groups, like_values)
    PRESETS[name].accumulate(frame, groups, like_residual, out_like_residual=True)
    for size, value, kept in zip(groups.sizes, groups.value_starts, groups.residual_starts, strict=True):
        assert like_values[value : value + size].tobytes() == like_residual[kept : kept + size].tobytes()


def test_rans_preset_sends_the_same_values_in_fewer_bytes():
    values = np.random.default_rng(1).standard_normal(100_000).astype(np.float32)
    groups = Groups([60_000, 40_000])
    frames = [preset.compress(values, groups) for preset in (QUARTIC, THREE_LC, THREE_LC_RANS)]
    decoded = [p.decompress(f, groups) for p, f in zip((QUARTIC, THREE_LC, THREE_LC_RANS), frames, strict=True)]
    assert decoded[0].tobytes() == decoded[1].tobytes() == decoded[2].tobytes()
    sizes = [frame.payload.size for frame in frames]
    assert sizes[0] > 2 * sizes[1] > 2 * sizes[2]


def test_stage_that_cannot_shrink_is_stored():
    rng = np.random.default_rng(0)
    values = rng.choice(np.array([-1, 1], np.float32), 40) * rng.uniform(0.9, 1, 40).astype(np.float32)
    frame = THREE_LC_RANS.compress(values, Groups([40]))
    assert frame.stored == (False, True)
    assert frame.payload.size == 8
    read, _ = unpack_frame(frame.pack())
    assert (
        THREE_LC_RANS.decompress(read, Groups([40])).tobytes()
        == QUARTIC.decompress(QUARTIC.compress(values, Groups([40])), Groups([40])).tobytes()
    )


def test_empty_tensor():
    for preset in PRESETS.values():
        frame, _ = unpack_frame(preset.compress(np.zeros(0, np.float32), Groups([])).pack())
        assert preset.decompress(frame, Groups([])).size == 0


@pytest.mark.parametrize("name", ALL)
def test_dict_round_trip_and_fingerprint(name):
    chosen = PRESETS[name]
    again = Compressor.from_dict(chosen.to_dict())
    assert again == chosen
    assert again.fingerprint() == chosen.fingerprint()
    others = {preset.fingerprint() for key, preset in PRESETS.items() if key != name}
    assert chosen.fingerprint() not in others


class _General(ZeroRun):
    input_alphabet = 256


def test_wrong_configurations_raise():
    with pytest.raises(ConfigError, match="Rans reads symbols below 243"):
        Compressor(quantizer=CastBfloat16(), codecs=(Rans(),))
    with pytest.raises(ConfigError, match="ZeroRun must be the last codec"):
        Compressor(quantizer=Ternary(), codecs=(ZeroRun(), _General()))
    with pytest.raises(ConfigError, match="Quartic reads symbols below 3, ZeroRun gives 256 kinds"):
        Compressor(quantizer=Ternary(), codecs=(ZeroRun(), Quartic()))
    with pytest.raises(ConfigError, match="at most 2 codecs"):
        Compressor(quantizer=Ternary(), codecs=(Quartic(), ZeroRun(), Rans()))
    with pytest.raises(ConfigError, match="has no sparsity multiplier"):
        with_multiplier(FLOAT32, 1.0)
    with pytest.raises(UnsupportedFormatError, match="no stage with id 77"):
        Compressor.from_dict({"quantizer": {"id": 77}, "codecs": []})
    with pytest.raises(ConfigError, match="not a compressor description"):
        Compressor.from_dict({"quantizer": {"id": 1, "speed": 3}, "codecs": []})
    with pytest.raises(ConfigError, match="groups end at element 9"):
        BFLOAT16.compress(np.zeros(8, np.float32), Groups([9]))
    with pytest.raises(ConfigError, match=">= 1"):
        Groups([3, 0])
