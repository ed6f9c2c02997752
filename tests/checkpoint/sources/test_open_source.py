"""Which format a file has, and tensors in memory."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.checkpoint.sources.files import assert_same, contents, gguf_file, refused, save_safetensors, torch_tensors
from trafficzip.checkpoint.sources import FORMATS, SUFFIXES, MemorySource
from trafficzip.errors import ConfigError


def one_of_each(folder):
    array = np.ones(4, np.float32)
    save_safetensors(folder / "a.safetensors", {"x": array})
    torch.save({"x": torch.ones(4)}, folder / "a.pt")
    np.save(folder / "a.npy", array)
    np.savez(folder / "a.npz", x=array)
    gguf_file(folder / "a.gguf", ("F32",))
    return [folder / f"a{suffix}" for suffix in (".safetensors", ".pt", ".npy", ".npz", ".gguf")]


def test_names_and_contents_may_not_contradict(tmp_path):
    for path in one_of_each(tmp_path):
        named = tmp_path / "no name"
        named.write_bytes(path.read_bytes())
        assert len(contents(named)) >= 1
        for suffix, kind in SUFFIXES.items():
            if kind != SUFFIXES[path.suffix]:
                other = tmp_path / f"B{suffix.upper()}"
                other.write_bytes(path.read_bytes())
                refused(other, f"begins as a {SUFFIXES[path.suffix]} file, expected {kind} by its name")
                other.unlink()
        assert len(contents(path.rename(path.with_name("UPPER" + path.suffix.upper())))) >= 1


def test_files_that_are_nothing_or_not_there(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    refused(tmp_path / "notes.txt", f"begins with b'hello', expected a file of one of: {', '.join(FORMATS)}")
    for suffix in ("", *SUFFIXES):
        refused(tmp_path / f"gone{suffix}", "cannot be read: no such file")


PROGRAM = """
import sys
from trafficzip.checkpoint.sources import open_source
for path in sys.argv[1:]:
    with open_source(path) as source:
        [source.read(info.name) for info in source.infos]
print([name for name in ("torch", "onnx", "gguf") if name in sys.modules])
"""


def test_libraries_are_imported_for_their_own_formats_only(tmp_path):
    paths = [str(path) for path in one_of_each(tmp_path) if path.suffix not in (".pt", ".gguf")]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *paths], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"


def test_memory_takes_arrays_and_tensors():
    arrays, tensors = torch_tensors()
    big = np.arange(6, dtype=">i4").reshape(2, 3).T
    source = MemorySource({**tensors, "big": big, "number": np.float16(3)}, {"a": "b"})
    assert source.metadata == {"a": "b"}
    expected = {**arrays, "big": np.ascontiguousarray(big).astype(np.int32), "number": np.array(3, np.float16)}
    assert_same({info.name: source.read(info.name) for info in source.infos}, expected)
    assert big.flags.writeable


def test_memory_takes_views_that_only_stand_for_their_values():
    turned = torch.tensor([1 + 2j, 3 - 4j]).conj()
    source = MemorySource({"conj": turned, "neg": turned.imag})
    assert source.read("conj").tolist() == [1 - 2j, 3 + 4j]
    assert source.read("neg").tolist() == [-2, 4]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: [1.0], "'w' is a builtins.list; expected a NumPy array"),
        (lambda: np.array(["a"]), "dtype <U1 cannot be stored"),
        (lambda: np.ma.array(lambda: [1.0], mask=[True]), "is a masked array"),
        (lambda: torch.ones(2).to_sparse(), "sparse_coo tensor"),
        (lambda: torch.nested.nested_tensor([torch.ones(2)]), "is a nested tensor"),
        (lambda: torch.ones(2, device="meta"), "on the meta device"),
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "is a quantized tensor"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_memory_refuses_what_is_no_dense_array(make, message):
    with pytest.raises(ConfigError, match=message):
        MemorySource({"w": make()})


def test_memory_refuses_names_and_metadata_that_are_no_text():
    with pytest.raises(ConfigError, match="the name of a tensor is 3"):
        MemorySource({3: np.zeros(2)})
    with pytest.raises(ConfigError, match="metadata 'a': found 1, expected text by text"):
        MemorySource({}, {"a": 1})
