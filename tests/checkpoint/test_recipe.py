"""Recipes: the first rule that matches decides, files keep to their target, and mistakes are said in a line."""

import io
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from trafficzip.checkpoint import allocate as allocate_module
from trafficzip.checkpoint.allocate import allocate
from trafficzip.checkpoint.coders.cast import Cast
from trafficzip.checkpoint.coders.planes import Planes
from trafficzip.checkpoint.estimate import estimate
from trafficzip.checkpoint.inspect import differences
from trafficzip.checkpoint.reader import CheckpointFile
from trafficzip.checkpoint.recipe import RECIPES, SMALL_MODEL, Recipe, Rule, weights_and_rest
from trafficzip.checkpoint.recipe_file import read_recipe, recipe_from_dict
from trafficzip.checkpoint.save import save
from trafficzip.checkpoint.sources import MemorySource
from trafficzip.checkpoint.tensors import DTYPES, FLOATS, TensorInfo
from trafficzip.checkpoint.trellis.coder import Trellis
from trafficzip.errors import ConfigError

QUICK = Trellis(num_states=4)
WEIGHTS = (Rule(coder=QUICK, dtypes=("float",), min_dims=2), Rule(coder=Planes()))


def info(name="w", dtype="float32", shape=(4, 5)):
    return TensorInfo(name, dtype, shape)


def compress(tensors, recipe, **options):
    sink = io.BytesIO()
    saved = save(tensors, sink, recipe, num_threads=2, **options)
    assert saved.size == len(sink.getvalue())
    return sink.getvalue(), saved


def error_of(tensors, data):
    found = [d for d in differences(tensors, data) if not d.equal]
    return (sum(d.squared_error for d in found) / sum(d.squared_norm for d in found)) ** 0.5


@pytest.fixture(scope="module")
def million():
    rng = np.random.default_rng(0)
    tensors = {f"w{i}": rng.standard_normal((256, 1024)) * 0.02 * 4.0 ** (i % 3) for i in range(3)}
    tensors["conv"] = rng.standard_t(4, (128, 64, 5, 5)) * 0.1
    tensors["bias"] = rng.standard_normal(300)
    return {name: array.astype(np.float32) for name, array in tensors.items()}


def test_the_first_rule_that_matches_decides():
    recipe = Recipe(
        rules=(
            Rule(coder=Cast(mantissa_bits=1), name="head.*"),
            Rule(coder=Cast(mantissa_bits=2), name="*.[wv]eight", dtypes=("float16", "float32"), min_dims=2),
            Rule(coder=Cast(mantissa_bits=3), dtypes=("float",), min_elements=100),
            Rule(coder=Cast(mantissa_bits=4), dtypes=("float",), max_model=1000),
            Rule(coder=Planes()),
        )
    )
    cases = {
        1: [info("head.weight"), info("head.x", "int8")],
        2: [info("a.weight"), info("b.c.veight", "float16")],
        3: [info("a.weight", shape=(100,)), info("A.Weight", "bfloat16", (10, 10)), info("w", "float64", (100,))],
        4: [info("a.weight", "bfloat16"), info("a.height"), info("a.Weight"), info("weight"), info("w", shape=())],
    }
    for bits, infos in cases.items():
        for found in infos:
            assert recipe.rule_for(found, 1000).coder == Cast(mantissa_bits=bits), found
    assert recipe.rule_for(info("a.weight", "bfloat16"), 1001).coder == Planes()
    assert recipe.rule_for(info("w", "int64", (500,)), 1000).coder == Planes()


def test_float_means_every_floating_point_dtype_and_no_other():
    rule = Rule(coder=Planes(), dtypes=("float",))
    assert {name for name in DTYPES if rule.matches(info(dtype=name), 1)} == FLOATS
    assert "complex64" not in FLOATS


def test_a_tensor_without_a_rule_is_an_error():
    recipe = Recipe(rules=(Rule(coder=Planes(), name="a*"),))
    with pytest.raises(ConfigError, match=r"b float32\[2\]: no rule of the recipe matches"):
        allocate(MemorySource({"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float32)}), recipe)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bits": 3.0, "size": 5}, "bits and size are given"),
        ({"bits": 0.0}, "bits is 0.0, expected a positive"),
        ({"bits": float("nan")}, "bits is nan"),
        ({"max_error": float("inf")}, "max_error is inf"),
        ({"size": -1}, "size is -1"),
        ({"sensitivity": "some"}, "sensitivity is 'some'"),
        ({"non_finite": "drop"}, "non_finite is 'drop'"),
    ],
)
def test_values_out_of_range(values, message):
    with pytest.raises(ConfigError, match=message):
        Recipe(rules=(), **values)


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_weights_are_positive(weight):
    with pytest.raises(ConfigError, match="expected a positive number"):
        Rule(coder=Planes(), weight=weight)
    with pytest.raises(ConfigError, match=r"its error has weight .*, expected a positive number"):
        compress({"w": np.ones((4, 4), np.float32)}, Recipe(rules=WEIGHTS, bits=3), weights={"w": weight})


def test_a_target_is_needed_where_something_is_quantized():
    with pytest.raises(ConfigError, match="has none of bits, size and max_error"):
        compress({"w": np.ones((4, 4), np.float32)}, Recipe(rules=WEIGHTS))
    compress({"w": np.ones(4, np.float32)}, Recipe(rules=WEIGHTS))


@pytest.mark.parametrize("bits", [2, 5])
def test_bits_are_met_within_two_percent(million, bits):
    _, saved = compress(million, Recipe(rules=WEIGHTS, bits=bits))
    assert saved.num_elements > 900_000
    assert saved.bits_per_element == pytest.approx(bits, rel=0.02)


@pytest.mark.parametrize("size", [301_111])
def test_the_size_is_never_exceeded_and_well_used(million, size):
    data, _ = compress(million, Recipe(rules=WEIGHTS, size=size))
    assert 0.97 * size < len(data) <= size


def test_a_size_that_the_estimate_misses_is_met_by_wider_steps(million, monkeypatch):
    def optimist(*arguments):
        found = estimate(*arguments)
        return replace(found, size=0.97 * found.size)

    monkeypatch.setattr(allocate_module, "estimate", optimist)
    data, saved = compress({"w": million["w0"]}, Recipe(rules=WEIGHTS, size=100_000))
    assert 97_000 < len(data) <= 100_000
    assert saved.allocation.estimate is None  # steps were widened after the trials


def test_the_error_is_never_exceeded_and_well_used(million):
    data, _ = compress(million, Recipe(rules=WEIGHTS, max_error=0.1))
    assert 0.095 < error_of(million, data) <= 0.1


def test_sizes_and_errors_of_a_small_model_are_kept_to():
    tensors = {"w": np.random.default_rng(2).standard_normal((60, 80)).astype(np.float32)}
    for part in range(5):
        size = 2000 + 90 * part
        assert 0.95 * size < compress(tensors, Recipe(rules=WEIGHTS, size=size))[1].size <= size
        error = 0.05 * 1.01**part
        assert 0.95 * error < error_of(tensors, compress(tensors, Recipe(rules=WEIGHTS, max_error=error))[0]) <= error


def test_targets_that_cannot_be_met():
    tensors = {"w": np.random.default_rng(0).standard_normal((30, 30)).astype(np.float32)}
    with pytest.raises(ConfigError, match="recipe: 50 cannot be reached"):
        compress(tensors, Recipe(rules=WEIGHTS, size=50))
    with pytest.raises(ConfigError, match=r"found 3\d+ bytes, expected 50; "):
        compress(tensors, RECIPES["lossless"].with_target(size=50))
    with pytest.raises(ConfigError, match="recipe: 1e-09 cannot be reached"):
        compress({"w": tensors["w"].astype(np.float16)}, Recipe(rules=WEIGHTS, max_error=1e-9))


def test_weights_widen_or_narrow_steps():
    array = np.random.default_rng(0).standard_normal((30, 30)).astype(np.float32)
    rules = (Rule(coder=QUICK, name="fine", weight=4), Rule(coder=QUICK, name="coarse", weight=1 / 16), *WEIGHTS)
    source = MemorySource(dict.fromkeys(("plain", "fine", "coarse"), array))
    recipe = Recipe(rules=rules, bits=4, sensitivity="none")
    for weights, expected in ((None, [0, -32, 64]), ({"plain": 16.0}, [-64, -32, 64])):
        found = allocate(source, recipe, weights=weights)
        assert [a.step - found.base for a in found.assignments] == expected


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e5m2", "float64"])
def test_values_that_are_not_finite(bad, dtype):
    good = np.random.default_rng(0).standard_normal((30, 30)).astype(DTYPES[dtype])
    array = good.copy()
    array[7, 9] = bad
    recipe = Recipe(rules=WEIGHTS, bits=9)
    with pytest.raises(ConfigError, match=rf'bad {dtype}\[30, 30\]: has NaN or infinite values; non_finite = "keep"'):
        compress({"good": good, "bad": array}, recipe)
    data, _ = compress({"good": good, "bad": array}, Recipe(rules=WEIGHTS, bits=9, non_finite="keep"))
    file = CheckpointFile(data)
    assert file["bad"].tobytes() == array.tobytes()
    assert file.coders[file.entry("good").coder] == QUICK


def mixed():
    rng = np.random.default_rng(3)
    dtypes = [name for name in sorted(FLOATS) if name != "float8_e8m0fnu"]
    tensors = {f"weight.{name}": rng.standard_normal((80, 64)).astype(DTYPES[name]) for name in dtypes}
    tensors |= {f"bias.{name}": rng.standard_normal(20).astype(DTYPES[name]) for name in dtypes}
    tensors["block_scales"] = np.ldexp(1.0, rng.integers(-30, 30, (24, 20))).astype(ml_dtypes.float8_e8m0fnu)
    tensors["ids"] = np.arange(40).reshape(8, 5)
    tensors["mask"] = rng.random((5, 5)) < 0.5
    tensors["phases"] = np.exp(1j * rng.standard_normal((5, 5))).astype(np.complex64)
    tensors["scalar"] = np.float32(0.1).reshape(())
    tensors["empty"] = np.zeros((0, 7), np.float32)
    return tensors


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_store_every_dtype(name):
    tensors = mixed()
    found = {d.name: d for d in differences(tensors, compress(tensors, name)[0])}
    lossless = {"block_scales", "ids", "mask", "phases", "empty"}
    for tensor, difference in found.items():
        if name == "lossless" or tensor in lossless:
            assert difference.equal, difference
        elif tensor.startswith("weight."):
            assert 0 < difference.relative_error < {"near-lossless": 0.1}.get(name, 0.6), difference
        else:
            assert difference.relative_error < 0.01, difference


def test_powers_of_two_are_not_quantized():
    with pytest.raises(ConfigError, match="cannot be quantized; store it losslessly"):
        Trellis().check(info(dtype="float8_e8m0fnu"))


def test_small_models_and_vectors_have_coders_of_their_own():
    recipe = Recipe(rules=weights_and_rest([QUICK, Trellis(num_states=8)], Cast(mantissa_bits=7)))
    for shape in ((2, 3), (1 << 16,)):
        assert recipe.rule_for(info(shape=shape), SMALL_MODEL).coder == QUICK
        assert recipe.rule_for(info(shape=shape), SMALL_MODEL + 1).coder == Trellis(num_states=8)
    assert recipe.rule_for(info(shape=(65535,)), 100).coder == Cast(mantissa_bits=7)


GOOD = """
preset = "small"
max_error = 1
sensitivity = "none"
[[rule]]
name = "*.word.weight"
dtypes = ["float16", "float32"]
weight = 4
min_dims = 2
coder = { kind = "trellis", num_states = 8, slope = 1 }
[[rule]]
coder = { kind = "cast", mantissa_bits = 5 }
"""


def test_a_recipe_file(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(GOOD)
    recipe = read_recipe(path)
    first, second, *rest = recipe.rules
    coder = Trellis(num_states=8, slope=1.0)
    assert first == Rule(coder=coder, name="*.word.weight", dtypes=("float16", "float32"), weight=4.0, min_dims=2)
    assert second == Rule(coder=Cast(mantissa_bits=5))
    assert tuple(rest) == RECIPES["small"].rules
    assert (recipe.bits, recipe.size, recipe.max_error, recipe.sensitivity) == (None, None, 1.0, "none")
    assert recipe_from_dict({"preset": "tiny"}) == RECIPES["tiny"]
    assert recipe_from_dict({"preset": "tiny", "bits": 5}).bits == 5.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("preset =", "not TOML: Invalid value"),
        ("\udcff", "not TOML: 'utf-8' codec"),
        ('preset = "huge"', "preset 'huge': expected one of lossless, "),
        ('preset = ["small"]', r"preset \['small'\]: expected one of"),
        ("colour = 3", "recipe has no field 'colour'; known are bits, size, max_error, sensitivity, non_finite"),
        ("rules = []", "recipe has no field 'rules'"),
        ("rule = 3", r"rule: expected tables that begin with \[\[rule\]\]"),
        ("rule = [3]", "rule: expected tables"),
        ('bits = "3"', r"bits is '3', expected float \| None"),
        ("bits = true", "bits is True"),
        ("bits = nan", "bits is nan, expected a positive"),
        ("size = 2.5", "size is 2.5, expected int"),
        ("bits = 3\nsize = 100", "bits and size are given"),
        ('non_finite = "drop"', "non_finite is 'drop'"),
        ("[[rule]]", "rule 1: coder is None, expected a table such as"),
        ('[[rule]]\ncoder = "planes"', "rule 1: coder is 'planes', expected a table"),
        ('[[rule]]\ncoder = {kind = "magic"}', "rule 1: coder 'magic': expected one of trellis, planes, cast"),
        ("[[rule]]\ncoder = {kind = []}", r"rule 1: coder \[\]: expected one of"),
        ('[[rule]]\ncoder = {kind = "planes", x = 1}', "rule 1: coder planes: has no field 'x'; known are none"),
        ('[[rule]]\ncoder = {kind = "cast", mantissa_bits = 7.5}', "mantissa_bits is 7.5, expected int"),
        ('[[rule]]\ncoder = {kind = "cast", mantissa_bits = 99}', "mantissa_bits is 99, expected 0 to 52"),
        ('[[rule]]\ncoder = {kind = "planes"}\nnames = "x"', "rule 1: it has no field 'names'; known are name,"),
        ('[[rule]]\ncoder = {kind = "planes"}\nname = 3', "rule 1: name is 3, expected str"),
        ('[[rule]]\ncoder = {kind = "planes"}\nmin_dims = true', "rule 1: min_dims is True, expected int"),
        ('[[rule]]\ncoder = {kind = "planes"}\ndtypes = "float"', "dtypes is 'float', expected a list of strings"),
        ('[[rule]]\ncoder = {kind = "planes"}\ndtypes = [1]', r"dtypes is \[1\], expected a list of strings"),
        ('[[rule]]\ncoder = {kind = "planes"}\n[[rule]]\ncoder = {kind = "planes"}\nweight = 0', "rule 2: rule for"),
    ],
)
def test_mistakes_in_recipe_files(tmp_path, text, message):
    path = tmp_path / "own.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=rf"recipe .*own\.toml: .*{message}"):
        read_recipe(path)


def test_a_recipe_file_that_is_missing(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.toml: cannot be read: No such file"):
        read_recipe(tmp_path / "gone.toml")
