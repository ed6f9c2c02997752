"""Differences from a base: the same tensors as without one, small where little changed, and never from another base."""

import io

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checkpoint.test_trellis import job_of
from trafficzip.checkpoint.coders.delta import Delta, _gap, _undo_gap
from trafficzip.checkpoint.coders.planes import Planes
from trafficzip.checkpoint.coders.table import coder_from_dict
from trafficzip.checkpoint.pieces import pieces
from trafficzip.checkpoint.reader import CheckpointFile
from trafficzip.checkpoint.save import save
from trafficzip.checkpoint.sources import MemorySource
from trafficzip.checkpoint.tensors import DTYPES
from trafficzip.errors import ConfigError, CorruptPayloadError, UnsupportedFormatError


def saved(tensors, recipe="lossless", **options):
    sink = io.BytesIO()
    save(tensors, sink, recipe, **options)
    return sink.getvalue()


def series(dtype):
    rng = np.random.default_rng(0)
    old = (rng.standard_normal((300, 200)) * 0.05).astype(dtype)
    step = np.where(rng.random(old.shape) < 0.1, 1e-3, 0) * rng.standard_normal(old.shape)
    return {"w": old, "b": old[0]}, {"w": (old.astype(np.float32) + step).astype(dtype), "b": old[0], "new": old[:3]}


@given(
    dtype=st.sampled_from(sorted(DTYPES)),
    seed=st.integers(0, 999),
    size=st.integers(1, 40),
)
@settings(deadline=None)
def test_gaps_are_undone_for_all_bits(dtype, seed, size):
    raw = np.random.default_rng(seed).integers(0, 2 if dtype == "bool" else 256, (2, size * DTYPES[dtype].itemsize))
    new, old = raw.astype(np.uint8).view(DTYPES[dtype])
    assert _undo_gap(_gap(new, old), old).tobytes() == new.tobytes()


def test_gaps_of_neighbours_are_small():
    old = np.array([1.0, -1.0, 0.0, 1e30], np.float32)
    assert _gap(np.nextafter(old, np.float32(9)), old).max() <= 2
    assert _gap(old, old).max() == 0


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16])
def test_little_changes_are_small_and_exact(dtype):
    old, new = series(dtype)
    base = MemorySource(old)
    data = saved(new, base=base)
    assert len(data) < 0.4 * len(saved(new))
    found = CheckpointFile(data, base=base).read_many()
    for name, array in new.items():
        assert found[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("recipe", ["small", "near-lossless"])
def test_lossy_recipes_give_what_they_give_without_a_base(recipe):
    old, new = series(np.float32)
    base = CheckpointFile(saved(old, recipe))
    plain, data = saved(new, recipe), saved(new, recipe, base=base)
    found, expected = CheckpointFile(data, base=base).read_many(), CheckpointFile(plain).read_many()
    assert {name: array.tobytes() for name, array in found.items()} == {n: a.tobytes() for n, a in expected.items()}
    same = saved(old, recipe, base=base)
    assert len(same) < 0.15 * len(saved(old, recipe))


def test_a_base_is_needed_and_another_one_is_noticed():
    old, new = series(np.float32)
    data = saved(new, base=MemorySource(old))
    with pytest.raises(ConfigError, match=r"w float32\[300, 200\]: stored as a difference"):
        CheckpointFile(data).read_many()
    assert CheckpointFile(saved({"x": old["w"]}, base=MemorySource(old)))["x"].shape == (300, 200)
    other = {"w": old["w"] + np.float32(1e-6), "b": old["b"]}
    with pytest.raises(CorruptPayloadError, match=r"record of w.*: the base is not the one"):
        CheckpointFile(data, base=MemorySource(other)).read_many()
    other = {"w": old["w"], "b": old["b"][::-1].copy()}
    with pytest.raises(CorruptPayloadError, match="the base is not the one"):
        CheckpointFile(data, base=MemorySource(other)).read_many()
    for other in ({"w": np.zeros((2, 2), np.float32), "b": old["b"]}, {}):
        with pytest.raises(CorruptPayloadError, match="the base is not the one"):
            CheckpointFile(data, base=MemorySource(other)).read_many()


def test_calibrated_tensors_are_differences_too():
    old, _ = series(np.float32)
    grams = {"w": np.eye(200) + 0.5}
    base = CheckpointFile(saved(old, "small", grams=grams))
    data = saved(old, "small", grams=grams, base=base)
    assert len(data) < 0.2 * len(saved(old, "small", grams=grams))
    np.testing.assert_array_equal(CheckpointFile(data, base=base)["w"], base["w"])


def test_damage_is_refused():
    old, new = series(ml_dtypes.bfloat16)
    base = MemorySource(old)
    coder = Delta(inner=Planes(), base=base)

    job = job_of({"w": new["w"]}, None)
    encoding = coder.plan(job)
    assert encoding.shared is None
    (piece,) = pieces(job.infos)
    record = encoding.encode(piece, [new["w"].reshape(-1)])
    out = np.empty(new["w"].size, new["w"].dtype)
    run = coder.decoder(job.infos, [None], None)
    run(piece, np.frombuffer(record, np.uint8), [out], lambda: "w")
    assert out.tobytes() == new["w"].tobytes()
    for end in range(0, len(record), 97):
        with pytest.raises(CorruptPayloadError):
            run(piece, np.frombuffer(record[:end], np.uint8), [out], lambda: "w")
    with pytest.raises(CorruptPayloadError, match="form 3"):
        run(piece, np.frombuffer(b"\x03" + record[1:], np.uint8), [out], lambda: "w")


@pytest.mark.parametrize(
    "entry",
    [
        {"kind": "delta"},
        {"kind": "delta", "inner": {"kind": "delta", "inner": {"kind": "planes"}}},
        {"kind": "delta", "inner": {"kind": "planes"}, "base": 1},
        {"kind": "delta", "inner": []},
    ],
)
def test_wrong_entries_are_refused(entry):
    with pytest.raises((CorruptPayloadError, UnsupportedFormatError)):
        coder_from_dict(entry)
