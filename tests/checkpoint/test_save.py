"""Saving and loading: arrays, tensors, modules, paths and streams in; PyTorch tensors and modules out."""

import io
import subprocess
import sys

import numpy as np
import pytest
import torch

from trafficzip.checkpoint import load as load_module
from trafficzip.checkpoint.coders.cast import Cast
from trafficzip.checkpoint.inspect import inspect
from trafficzip.checkpoint.load import load, load_into
from trafficzip.checkpoint.reader import CheckpointFile
from trafficzip.checkpoint.recipe import RECIPES, Recipe, weights_and_rest
from trafficzip.checkpoint.save import plan, save
from trafficzip.checkpoint.sinks import write_safetensors
from trafficzip.checkpoint.sources import MemorySource
from trafficzip.checkpoint.trellis.coder import Trellis
from trafficzip.errors import ConfigError, CorruptPayloadError, UnsupportedFormatError

SMALL = Recipe(rules=weights_and_rest([Trellis(num_states=4)] * 2, Cast(mantissa_bits=9)), bits=4.0)


class Net(torch.nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.embed = torch.nn.Embedding(50, 16)
        self.linear = torch.nn.Linear(16, 24).to(torch.bfloat16)
        self.norm = torch.nn.BatchNorm1d(24)
        self.register_buffer("mask", torch.rand(5) < 0.5)


def data_of(tensors, recipe="lossless", **options):
    sink = io.BytesIO()
    save(tensors, sink, recipe, **options)
    return sink.getvalue()


def bits(tensor):
    return tensor.dtype, tuple(tensor.shape), tensor.detach().contiguous().reshape(-1).view(torch.uint8).tolist()


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name in expected:
        assert bits(found[name]) == bits(expected[name]), name


def every_dtype():
    names = ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"]
    names += ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
    names += ["complex64", "complex128"]
    tensors = {}
    for name in names:
        dtype = getattr(torch, name)
        for shape in ((3, 5), (), (0, 2)):
            count = dtype.itemsize * int(np.prod(shape))
            raw = torch.randint(0, 256, (count,), dtype=torch.uint8, generator=torch.manual_seed(0))
            tensors[f"{name}{list(shape)}"] = (
                raw.view(dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype)
            )
    return {**tensors, "mask": torch.tensor([True, False]), "flag": torch.tensor(True)}


def test_every_dtype_of_torch_comes_back():
    tensors = every_dtype()
    assert_same(load(data_of(tensors)), tensors)


def test_what_may_be_saved_gives_the_same_file(tmp_path):
    net = Net()
    state = net.state_dict()
    with MemorySource(state) as source:
        arrays = {info.name: source.read(info.name) for info in source.infos}
        write_safetensors(tmp_path / "m.safetensors", source.infos, arrays.values())
        torch.save(state, tmp_path / "m.pt")
        data = data_of(state, SMALL)
        for same in (net, arrays, source, tmp_path / "m.safetensors", str(tmp_path / "m.pt")):
            assert data_of(same, SMALL, metadata={}) == data
    with pytest.raises(ConfigError, match="found a list, expected a path, a module, or tensors by name"):
        data_of([1])
    with pytest.raises(ConfigError, match="recipe 'huge': expected one of lossless, "):
        data_of(net, "huge")


def test_path_and_stream_hold_the_same_whatever_the_threads(tmp_path):
    net = Net()
    saved = save(net, tmp_path / "m.tzip", SMALL, metadata={"a": "ü"}, num_threads=3)
    assert (tmp_path / "m.tzip").read_bytes() == data_of(net, SMALL, metadata={"a": "ü"}, num_threads=1)
    assert saved.size == (tmp_path / "m.tzip").stat().st_size
    state = net.state_dict().values()
    assert saved.num_elements == sum(tensor.numel() for tensor in state)
    assert saved.original_bytes == sum(tensor.numel() * tensor.element_size() for tensor in state)
    assert saved.bits_per_element == 8 * saved.size / saved.num_elements
    assert CheckpointFile(tmp_path / "m.tzip").metadata == {"a": "ü"}


class Pipe:
    """A stream that cannot seek and takes 100 bytes at a time."""

    def __init__(self):
        self.data = b""

    def write(self, data):
        self.data += bytes(data[:100])
        return min(len(data), 100)


def test_a_stream_needs_no_more_than_write():
    for recipe in (SMALL, SMALL.with_target(size=2000)):
        pipe = Pipe()
        save(Net(), pipe, recipe)
        assert pipe.data == data_of(Net(), recipe)


def test_an_error_leaves_file_and_stream_as_they_were(tmp_path):
    path = tmp_path / "m.tzip"
    path.write_bytes(b"old")
    bad = {**Net().state_dict(), "bad": torch.full((4, 4), torch.nan)}
    with pytest.raises(ConfigError, match="NaN"):
        save(bad, path, SMALL)
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1
    sink = io.BytesIO()
    with pytest.raises(ConfigError, match="expected 100; "):
        save(Net(), sink, RECIPES["lossless"].with_target(size=100))
    assert sink.getvalue() == b""


def test_metadata_are_those_of_the_file_unless_given(tmp_path):
    array = np.ones(3, np.float32)
    source = MemorySource({"x": array}, {"format": "pt"})
    write_safetensors(tmp_path / "m.safetensors", source.infos, [array], metadata={"format": "pt"})
    for metadata, expected in ((None, {"format": "pt"}), ({}, {}), ({"a": "b"}, {"a": "b"})):
        file = CheckpointFile(data_of(tmp_path / "m.safetensors", metadata=metadata))
        assert file.metadata == expected
    for metadata in ({"a": 1}, {3: "a"}):
        with pytest.raises(ConfigError, match="expected text by text"):
            data_of({"x": array}, metadata=metadata)


def test_progress_counts_every_element_once():
    counts = []
    saved = save(Net(), io.BytesIO(), SMALL, progress=counts.append)
    assert sum(counts) == saved.num_elements


def test_a_plan_is_what_is_saved_and_near_its_size():
    tensors = {"w": np.random.default_rng(0).standard_normal((100, 90)).astype(np.float32), "b": np.ones(90)}
    for recipe in (SMALL, RECIPES["lossless"]):
        allocation, expected = plan(tensors, recipe)
        saved = save(tensors, io.BytesIO(), recipe)
        assert saved.allocation.assignments == allocation.assignments
        assert saved.size == pytest.approx(expected.size, rel=0.03)


def test_load_gives_the_names_asked_for():
    net = Net()
    data = data_of(net)
    names = ["norm.weight", "embed.weight"]
    assert_same(load(data, names=iter(names)), {name: net.state_dict()[name] for name in names})
    assert load(data, names=[]) == {}
    with pytest.raises(KeyError, match="no tensor is called 'nothing'"):
        load(data, names=["embed.weight", "nothing"])
    with pytest.raises(KeyError, match="no tensor is called 'nothing'"):
        load(data, names=["nothing"], dtype=torch.float16)


def test_load_converts_floating_point_only():
    tensors = {"w": torch.randn(3, 4), "n": torch.arange(3), "m": torch.tensor([True]), "c": torch.ones(2) * 1j}
    for device in ("cpu", torch.device("cpu")):
        found = load(data_of(tensors), device=device, dtype=torch.bfloat16)
        assert_same(found, {**tensors, "w": tensors["w"].bfloat16()})
    assert load(data_of(tensors), device="meta")["w"].is_meta


def test_loaded_tensors_are_the_callers_own():
    first = load(data_of(Net()))
    for tensor in first.values():
        tensor.zero_()


def test_load_into_decodes_in_place(monkeypatch):
    net, other = Net(0), Net(1)
    monkeypatch.setattr(load_module, "_tensor", None)  # no copy is made
    places = {name: tensor.data_ptr() for name, tensor in other.state_dict().items()}
    assert load_into(other, data_of(net)) == ([], [])
    assert_same(other.state_dict(), net.state_dict())
    assert {name: tensor.data_ptr() for name, tensor in other.state_dict().items()} == places
    assert all(parameter.requires_grad for parameter in other.parameters())


def test_load_into_other_dtypes_and_strides():
    net, other = Net(0), Net(1).double()
    other.embed.weight = torch.nn.Parameter(torch.zeros(16, 50).t())
    load_into(other, data_of(net))
    for name, tensor in net.state_dict().items():
        assert torch.equal(other.state_dict()[name].to(tensor.dtype), tensor)
    assert not other.embed.weight.is_contiguous()


def test_load_into_tied_weights():
    net = Net()
    net.head = torch.nn.Linear(16, 50, bias=False)
    net.head.weight = net.embed.weight
    data = data_of(net, SMALL)
    other = Net(1)
    other.head = torch.nn.Linear(16, 50, bias=False)
    other.head.weight = other.embed.weight
    load_into(other, data)
    assert bits(other.head.weight) == bits(load(data)["head.weight"])


def test_load_into_a_module_of_another_form_writes_nothing():
    net, other = Net(0), Net(1)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    tensors = net.state_dict()
    cases = [
        ({**tensors, "linear.bias": torch.zeros(25)}, True, r"linear.bias float32\[25\], expected shape \[24\]"),
        ({**tensors, "linear.bias": torch.zeros(24, 1)}, False, r"expected shape \[24\]"),
        ({**tensors, "more": torch.zeros(2)}, True, r"lacks \[\] of the module, which lacks \['more'\]"),
        ({n: t for n, t in tensors.items() if n != "mask"}, True, r"lacks \['mask'\] of the module, which lacks \[\]"),
    ]
    for wrong, strict, message in cases:
        with pytest.raises(ConfigError, match=message):
            load_into(other, data_of(wrong), strict=strict)
        assert_same(other.state_dict(), before)


def test_load_into_what_fits_when_not_strict():
    net, other = Net(0), Net(1)
    tensors = {name: tensor for name, tensor in net.state_dict().items() if name != "mask"}
    found = load_into(other, data_of({**tensors, "more": torch.zeros(2)}), strict=False)
    assert found == (["mask"], ["more"])
    assert torch.equal(other.embed.weight, net.embed.weight)
    assert torch.equal(other.mask, Net(1).mask)


def test_load_into_a_module_without_memory_is_refused():
    net, data = Net().to("meta"), data_of(Net())
    with pytest.raises(ConfigError, match=r"mask is on the meta device, .* to_empty"):
        load_into(net, data)


def test_load_into_a_module_with_extra_state():
    class Extra(Net):
        def get_extra_state(self):
            return {"a": 1}

        def set_extra_state(self, state):
            pass

    other = Extra(1)
    assert load_into(other, data_of(Net(0))) == ([], [])
    assert torch.equal(other.embed.weight, Net(0).embed.weight)


def test_files_that_are_none(tmp_path):
    data = data_of(Net())
    (tmp_path / "m.tzip").write_bytes(data[:-1])
    for read in (load, inspect, lambda path: load_into(Net(), path)):
        with pytest.raises(CorruptPayloadError):
            read(tmp_path / "m.tzip")
        with pytest.raises(UnsupportedFormatError):
            read(b"no checkpoint at all")
        with pytest.raises(ConfigError, match="gone: cannot be read: No such file"):
            read(tmp_path / "gone")
        with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
            read(tmp_path)


READER = """
import sys, zlib
from trafficzip.checkpoint.reader import CheckpointFile
for _ in range(5):
    with CheckpointFile(sys.argv[1], num_threads=2) as file:
        sums = [zlib.crc32(array.tobytes()) for array in file.read_many().values()]
print(sums)
"""


def test_two_processes_read_a_file_while_a_third_replaces_it(tmp_path):
    path = tmp_path / "m.tzip"
    save(Net(), path, SMALL)
    command = [sys.executable, "-c", READER, str(path)]
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    while any(reader.poll() is None for reader in readers):
        save(Net(), path, SMALL)
    outputs = {reader.communicate()[0] for reader in readers}
    assert [reader.returncode for reader in readers] == [0, 0]
    assert len(outputs) == 1
