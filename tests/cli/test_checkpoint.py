"""Checkpoints on the command line: what each command does, its exit code, and one line for what is wrong."""

import json
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
from typer.testing import CliRunner

from trafficzip.checkpoint.folder import compress_folder
from trafficzip.checkpoint.recipe import RECIPES
from trafficzip.cli.app import app
from trafficzip.errors import ConfigError

NAMES = ("layers[0].weight", "a[/b].bias", ":smile:", "mask")  # as Rich would not show them if it read them as markup


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "in" / "m.safetensors"
    path.parent.mkdir()
    rng = np.random.default_rng(0)
    arrays = (rng.standard_normal((60, 40)), rng.standard_normal(40), np.arange(5), np.array([True]))
    tensors = dict(zip(NAMES, arrays, strict=True))
    tensors = {name: array.astype(np.float32) if array.dtype == float else array for name, array in tensors.items()}
    safetensors.numpy.save_file(tensors, path, metadata={"format": "pt"})
    return path


def run(*arguments, code=0):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == code, done.output
    return done


def fails(*arguments, code=2, text=""):
    done = run(*arguments, code=code)
    assert done.stderr.startswith("trafficzip: ")
    assert done.stderr.count("\n") == 1
    assert text in done.stderr
    assert done.stdout == ""


@pytest.fixture
def small(model, tmp_path):
    run("compress", model, "-o", tmp_path / "m.tzip", "--recipe", "small")
    return tmp_path / "m.tzip"


def test_there_and_back(model, tmp_path):
    done = run("compress", model, "-o", tmp_path / "m.tzip", "--recipe", "lossless", "--threads", "2")
    assert done.stdout.replace("\n", "").startswith(str(tmp_path / "m.tzip"))
    assert "bits per element" in done.stdout
    done = run("verify", tmp_path / "m.tzip")
    size = (tmp_path / "m.tzip").stat().st_size
    assert f"4 tensors, {size} bytes, all sound" in done.stdout.replace("\n", " ")
    run("decompress", tmp_path / "m.tzip", "-o", tmp_path / "back.safetensors")
    assert "4 of 4 tensors are equal" in " ".join(run("diff", model, tmp_path / "back.safetensors").stdout.split())
    with safetensors.safe_open(tmp_path / "back.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_by_name(model, tmp_path, recipe):
    run("compress", model, "-o", tmp_path / "m.tzip", "--recipe", recipe)
    run("diff", model, tmp_path / "m.tzip", code=0 if recipe == "lossless" else 1)


def test_targets(model, tmp_path):
    out = tmp_path / "m.tzip"
    run("compress", model, "-o", out, "--target-size", "2kB")
    assert 1700 < out.stat().st_size <= 2000
    run("compress", model, "-o", out, "--recipe", "small", "--target-bits", "6")
    assert json.loads(run("inspect", out, "--json").stdout)["bits_per_element"] == pytest.approx(6, rel=0.1)
    run("compress", model, "-o", out, "--recipe", "small", "--max-error", "0.05")
    found = json.loads(run("inspect", out, "--json", "--original", model).stdout)
    errors = {tensor["name"]: tensor["relative_error"] for tensor in found["tensors"]}
    assert 0.045 < errors[NAMES[0]] <= 0.05
    (tmp_path / "own.toml").write_text('preset = "tiny"\nbits = 5')
    run("compress", model, "-o", out, "--recipe", tmp_path / "own.toml")
    assert json.loads(run("inspect", out, "--json").stdout)["bits_per_element"] == pytest.approx(5, rel=0.1)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--recipe", "huge"], "recipe 'huge': expected one of"),
        (["--recipe", "gone.toml"], "gone.toml: cannot be read"),
        (["--target-size", "5 apples"], "size '5 apples': expected a number of bytes"),
        (["--target-size", "inf"], "size 'inf': expected a number of bytes"),
        (["--target-size", "0"], "size is 0, expected a positive number"),
        (["--target-size", "60"], "60 cannot be reached"),
        (["--target-bits", "nan"], "bits is nan"),
        (["--target-bits", "3", "--max-error", "0.1"], "bits and max_error are given"),
    ],
)
def test_options_that_are_wrong(model, tmp_path, options, text):
    fails("compress", model, "-o", tmp_path / "m.tzip", *options, text=text)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_options_of_the_wrong_type_are_usage_errors(model, tmp_path):
    for options in (["--threads", "0"], ["--threads", "-1"], ["--target-bits", "x"], ["--colour"]):
        assert "Usage" in run("compress", model, "-o", tmp_path / "m.tzip", *options, code=2).stderr
    fails("compress", model, text="expected --output FILE, or --dry-run")


def test_values_that_are_not_finite(tmp_path):
    path = tmp_path / "m.npz"
    array = np.ones((20, 20), np.float32)
    array[0, 0] = np.nan
    np.savez(path, w=array)
    fails("compress", path, "-o", tmp_path / "m.tzip", text="NaN or infinite")
    run("compress", path, "-o", tmp_path / "m.tzip", "--keep-non-finite")
    run("diff", path, tmp_path / "m.tzip")
    found = json.loads(run("inspect", tmp_path / "m.tzip", "--json", "--original", path).stdout)
    assert found["tensors"][0]["relative_error"] == 0
    np.savez(tmp_path / "other.npz", w=np.ones((20, 20), np.float32), v=np.ones(2))
    (w, v) = json.loads(run("diff", path, tmp_path / "other.npz", "--json", code=1).stdout)
    assert (w["relative_error"], v["problem"], v["largest"]) == (None, "only in the second", None)
    found = json.loads(run("inspect", tmp_path / "m.tzip", "--json", "--original", tmp_path / "other.npz").stdout)
    assert found["tensors"][0]["relative_error"] is None


def test_inspect(small, model, tmp_path):
    text = run("inspect", small, "--original", model, "--plot", tmp_path / "bits").stdout
    for word in (*NAMES, "trellis num_states=256 context", "60x40", "format: pt", "relative error"):
        assert word in text
    assert (tmp_path / "bits").read_bytes().startswith(b"\x89PNG\r\n")
    found = json.loads(run("inspect", small, "--json").stdout)
    assert found["size"] == small.stat().st_size
    assert [tensor["name"] for tensor in found["tensors"]] == list(safetensors.numpy.load_file(model))
    assert "relative_error" not in found["tensors"][0]


def test_a_dry_run_writes_nothing(model, tmp_path):
    text = run("compress", model, "--dry-run", "-o", tmp_path / "m.tzip").stdout
    for word in (*NAMES, "planes", "bits per element"):
        assert word in text
    run("compress", model.parent, "--dry-run")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert [path.name for path in model.parent.iterdir()] == ["m.safetensors"]


def test_diff_tells_what_differs(small, model):
    text = run("diff", model, small, code=1).stdout
    assert NAMES[0] in text
    assert NAMES[2] not in text
    found = json.loads(run("diff", model, small, "--json", code=1).stdout)
    assert {d["name"]: d["equal"] for d in found} == dict(zip(NAMES, (False, False, True, True), strict=True))
    run("diff", small, small)


def test_files_that_are_wrong(small, model, tmp_path):
    gone, cut, text = tmp_path / "gone", tmp_path / "cut.tzip", tmp_path / "notes.txt"
    text.write_text("hello")
    cut.write_bytes(small.read_bytes()[:-5])
    out = tmp_path / "out"
    for path in (gone, text, tmp_path / "in" / "m.safetensors" / "x"):
        for command in (["compress", path, "-o", out], ["compress", path, "--dry-run"]):
            fails(*command, text=path.name)
    for command in (["decompress"], ["verify"], ["inspect"]):
        options = ["-o", out] if command == ["decompress"] else []
        fails(*command, gone, *options, text="No such file")
        fails(*command, text, *options, code=1, text="not a trafficzip container")
        fails(*command, cut, *options, code=1, text="container")
    flipped = bytearray(small.read_bytes())
    flipped[40] ^= 1
    cut.write_bytes(flipped)
    fails("verify", cut, code=1, text="checksum does not match")
    fails("decompress", cut, "-o", out, code=1, text="checksum does not match")
    fails("diff", model, cut, code=1, text="checksum does not match")
    fails("diff", model, gone, text="no such file")
    fails("compress", model, "-o", tmp_path / "no" / "m.tzip", text="its folder does not exist")
    fails("compress", model, "-o", tmp_path, text="found a folder, expected a file or none")
    assert not out.exists()


def test_a_failed_command_leaves_the_old_file(model, small, tmp_path):
    before = small.read_bytes()
    fails("compress", model, "-o", small, "--target-size", "60")
    flipped = bytearray(before)
    flipped[-200] ^= 1
    (tmp_path / "bad.tzip").write_bytes(flipped)
    fails("decompress", tmp_path / "bad.tzip", "-o", small, code=1)
    assert small.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.tzip", "in", "m.tzip"]


def folder_of(model):
    folder = model.parent
    safetensors.numpy.save_file({"second": np.ones((30, 30), np.float32)}, folder / "n.safetensors")
    (folder / "config.json").write_text("{}")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "x.safetensors").write_bytes(b"kept as it is")
    return folder


def tree(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_folder_there_and_back(model, tmp_path):
    folder, packed, back = folder_of(model), tmp_path / "packed", tmp_path / "back"
    run("compress", folder, "-o", packed, "--recipe", "lossless")
    assert tree(packed) == ["config.json", "m.tzip", "n.tzip", "onnx/x.safetensors"]
    run("decompress", packed, "-o", back)
    assert tree(back) == tree(folder)
    for path in ("config.json", "onnx/x.safetensors"):
        assert (back / path).read_bytes() == (folder / path).read_bytes()
    for path in ("m.safetensors", "n.safetensors"):
        run("diff", folder / path, back / path)
    fails("compress", folder, "-o", packed, text="is there already")
    fails("decompress", packed, "-o", back, text="is there already")


def test_a_folder_that_cannot_be_made_leaves_nothing(model, tmp_path):
    folder, out = folder_of(model), tmp_path / "out"
    fails("compress", folder, "-o", tmp_path / "no" / "out", text="its folder does not exist")
    fails("compress", folder, "-o", folder / "out", text="is in ")
    fails("compress", folder, "-o", out, "--target-size", "2kB", text="a size is for one file")
    fails("compress", folder / "onnx", "-o", out, text="x.safetensors")
    fails("decompress", folder, "-o", out, text=".tzip")
    run("compress", folder, "-o", out, "--recipe", "lossless")
    data = bytearray((out / "n.tzip").read_bytes())
    data[20] ^= 1
    (out / "n.tzip").write_bytes(data)
    fails("decompress", out, "-o", tmp_path / "back", code=1, text="checksum")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    assert tree(folder) == ["config.json", "m.safetensors", "n.safetensors", "onnx/x.safetensors"]


def test_files_of_a_folder_are_not_replaced_by_what_is_made(model, tmp_path):
    folder = folder_of(model)
    (folder / "n.tzip").write_text("something else")
    fails("compress", folder, "-o", tmp_path / "out", text="n.tzip is beside it already")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_a_folder_is_removed_when_it_is_interrupted(model, tmp_path):
    def interrupt(count):
        assert len(list(tmp_path.iterdir())) == 2
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress_folder(folder_of(model), tmp_path / "out", RECIPES["lossless"], progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    with pytest.raises(ConfigError, match="no such folder"):
        compress_folder(tmp_path / "gone", tmp_path / "out", RECIPES["lossless"])


PROGRAM = """
import sys
from trafficzip.cli.app import app
app(sys.argv[2:], standalone_mode=False)
print([name for name in sys.argv[1].split(",") if name in sys.modules])
"""


def imported(names, *arguments):
    command = [sys.executable, "-c", PROGRAM, names, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines()[-1]


def test_compressing_imports_no_torch(model, tmp_path):
    out = tmp_path / "m.tzip"
    assert imported("torch,matplotlib,onnx,gguf", "compress", model, "-o", out) == "[]"
    assert imported("torch,matplotlib", "decompress", out, "-o", tmp_path / "x.safetensors") == "[]"
    assert imported("torch,matplotlib", "inspect", out, "--original", model) == "[]"


def test_help_imports_little():
    assert imported("numba,torch,safetensors,matplotlib", "compress", "--help") == "[]"
    assert imported("numba,torch,safetensors,matplotlib", "--help") == "[]"


def test_missing_extras_are_named(small, monkeypatch, tmp_path):
    monkeypatch.setattr("trafficzip.cli.find_spec", lambda name: None if name == "safetensors" else name)
    assert "needs safetensors: pip install 'trafficzip[checkpoint]'" in run("inspect", small, code=2).stderr
    monkeypatch.setattr("trafficzip.cli.find_spec", lambda name: None if name == "matplotlib" else name)
    assert "trafficzip[demo]" in run("inspect", small, "--plot", tmp_path / "bits.png", code=2).stderr
