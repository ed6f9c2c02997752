"""Rounding to data: outputs get nearer, and the file holds exactly what was rounded."""

import io

import numpy as np
import pytest
import torch

from trafficzip.checkpoint.calibrate import round_to_data
from trafficzip.checkpoint.coders.planes import Planes
from trafficzip.checkpoint.grams import collect_grams
from trafficzip.checkpoint.pieces import PIECE_ELEMENTS
from trafficzip.checkpoint.reader import CheckpointFile
from trafficzip.checkpoint.recipe import Recipe, Rule
from trafficzip.checkpoint.save import save
from trafficzip.checkpoint.sources import MemorySource
from trafficzip.checkpoint.trellis.coder import Trellis
from trafficzip.checkpoint.writer import Assignment, write_checkpoint
from trafficzip.errors import ConfigError


def problem(out, width, seed=0):
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((width, width)) * np.exp(-np.arange(width) / (width / 4))
    inputs = (rng.standard_normal((4 * width, width)) @ mixed).astype(np.float32)
    return rng.standard_normal((out, width)).astype(np.float32), inputs


def stored(tensors, assignments, grams):
    source, chosen = round_to_data(MemorySource(tensors), assignments, grams)
    sink = io.BytesIO()
    write_checkpoint(sink, source, chosen)
    return source, CheckpointFile(sink.getvalue())


@pytest.mark.parametrize("context", [False, True])
@pytest.mark.parametrize("shape", [(40, 24), (13, 6, 3, 3), (7, 300)])
def test_outputs_get_nearer_and_values_are_kept(shape, context):
    out, width = shape[0], int(np.prod(shape[1:]))
    weight, inputs = problem(out, width)
    tensors = {"w": weight.reshape(shape), "other": weight[:5, :5]}
    coder = Trellis(context=context, num_states=8)
    assignments = [Assignment(info, coder, -32) for info in MemorySource(tensors).infos]
    source, file = stored(tensors, assignments, {"w": inputs.T @ inputs})
    _, plain = stored(tensors, assignments, {})
    found = file["w"]
    np.testing.assert_array_equal(found, source.read("w"))
    np.testing.assert_array_equal(file.read_rows("w", 2, 5), found[2:5])
    assert set(np.unique(2 * found)) <= set(range(-40, 41))

    def lost(w):
        return np.linalg.norm(inputs @ (w.reshape(out, width) - weight).T)

    assert lost(found) < 0.75 * lost(plain["w"])


def test_records_of_a_large_tensor_start_anew():
    out = 1000
    width = 2 * PIECE_ELEMENTS // out + 3
    weight, inputs = problem(out, width)
    assignments = [Assignment(info, Trellis(num_states=8), 0) for info in MemorySource({"w": weight}).infos]
    source, file = stored({"w": weight}, assignments, {"w": inputs.T @ inputs})
    assert file._container.num_records == 1 + 3
    np.testing.assert_array_equal(file["w"], source.read("w"))


def test_half_precision_is_rounded_too():
    weight, inputs = problem(32, 24)
    half = weight.astype(np.float16)
    assignments = [Assignment(info, Trellis(num_states=8), -9) for info in MemorySource({"w": half}).infos]
    source, file = stored({"w": half}, assignments, {"w": inputs.T @ inputs})
    assert file["w"].dtype == np.float16
    gap = file["w"].astype(np.float32) - source.read("w").astype(np.float32)
    assert np.abs(gap).max() < 2 * 2 ** (-9 / 32)


def test_inputs_that_never_were_and_repeated_ones_are_rounded_as_they_are():
    weight, inputs = problem(16, 24)
    inputs[:, 3] = 0
    inputs[:, 5] = inputs[:, 4]
    assignments = [Assignment(info, Trellis(num_states=8), 0) for info in MemorySource({"w": weight}).infos]
    source, file = stored({"w": weight}, assignments, {"w": inputs.T @ inputs})
    np.testing.assert_array_equal(file["w"], source.read("w"))
    assert np.abs(file["w"] - weight)[:, 3].max() < 4


@pytest.mark.parametrize(
    ("grams", "message"),
    [
        ({"v": np.eye(4)}, "no tensor is called 'v'"),
        ({"w": np.eye(5)}, r"w float32\[3, 4\]: Gram matrix is \[5, 5\], expected \[4, 4\]"),
        ({"w": np.full((4, 4), np.nan)}, "not finite"),
        ({"b": np.eye(3)}, r"b float32\[3\]: Gram matrix"),
        ({"w": -np.eye(4)}, "not positive semidefinite"),
    ],
)
def test_wrong_gram_matrices_are_refused(grams, message):
    tensors = {"w": np.ones((3, 4), np.float32), "b": np.ones(3, np.float32)}
    infos = MemorySource(tensors).infos
    chosen = [Assignment(infos[0], Trellis(), 0), Assignment(infos[1], Planes())]
    with pytest.raises(ConfigError, match=message):
        round_to_data(MemorySource(tensors), chosen, grams)


def test_lossless_tensors_stay_as_they_are():
    tensors = {"w": np.ones((3, 4), np.float32)}
    chosen = [Assignment(MemorySource(tensors).infos[0], Planes())]
    source, file = stored(tensors, chosen, {"w": np.eye(4)})
    assert source.read("w") is not None
    np.testing.assert_array_equal(file["w"], tensors["w"])


def test_grams_are_those_of_the_inputs():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 3, stride=2, padding=1), torch.nn.Flatten(), torch.nn.Linear(12, 4)
    )
    batches = [torch.randn(5, 2, 4, 4) for _ in range(3)]
    model.train()
    grams = collect_grams(model, batches, convolutions=True)
    assert model.training
    assert {name: gram.shape for name, gram in grams.items()} == {"0.weight": (18, 18), "2.weight": (12, 12)}
    hidden = torch.cat([model[1](model[0](batch)) for batch in batches]).detach()
    torch.testing.assert_close(torch.from_numpy(grams["2.weight"]), hidden.T @ hidden)
    weight = model[0].weight.detach().reshape(3, -1)
    energy = (model[0](torch.cat(batches)).detach() - model[0].bias.detach()[:, None, None]).square().sum((0, 2, 3))
    torch.testing.assert_close((weight @ torch.from_numpy(grams["0.weight"]) @ weight.T).diagonal(), energy)
    assert set(collect_grams(model, batches)) == {"2.weight"}
    with pytest.raises(ConfigError, match="no layer"):
        collect_grams(model, [])


def test_save_rounds_to_data():
    weight, inputs = problem(200, 64)
    recipe = Recipe(rules=(Rule(coder=Trellis(num_states=8)),), size=200 * 64 * 3 // 8)
    sizes = []
    for grams in (None, {"w": inputs.T @ inputs}):
        sink = io.BytesIO()
        sizes.append(save({"w": weight}, sink, recipe, grams=grams).size)
        assert sizes[-1] == len(sink.getvalue()) <= 200 * 64 * 3 // 8
    assert sizes[0] != sizes[1]
