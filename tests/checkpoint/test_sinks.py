"""Sinks: what is written is what the library safetensors reads, and a file is replaced whole or not at all."""

import io
import json
import os
import signal
import stat
import subprocess
import sys
from contextlib import suppress

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch

from trafficzip.checkpoint import sinks
from trafficzip.checkpoint.sinks import atomic_file, write_safetensors
from trafficzip.checkpoint.sources.safetensors_file import SAFETENSORS_DTYPES
from trafficzip.checkpoint.tensors import DTYPES, TensorInfo
from trafficzip.errors import ConfigError


def tensors():
    rng = np.random.default_rng(0)
    found = {}
    for dtype in SAFETENSORS_DTYPES.values():
        raw = rng.integers(0, 2 if dtype == "bool" else 256, 15 * DTYPES[dtype].itemsize).astype(np.uint8)
        found[f"a.{dtype}"] = raw.view(DTYPES[dtype]).reshape(3, 5)
    found["größe"] = np.float32(3).reshape(())
    found["empty"] = np.zeros((0, 4), np.float16)
    return found


def infos_of(arrays):
    return [TensorInfo(name, array.dtype.name, array.shape) for name, array in arrays.items()]


def write(arrays, **options):
    sink = io.BytesIO()
    write_safetensors(sink, infos_of(arrays), iter(arrays.values()), **options)
    return sink.getvalue()


def test_the_library_reads_every_bit():
    arrays = tensors()
    data = write(arrays, metadata={"format": "pt", "note": "größer"})
    found = dict(safetensors.deserialize(data))
    assert set(found) == set(arrays)
    kinds = {ours: theirs for theirs, ours in SAFETENSORS_DTYPES.items()}
    for name, array in arrays.items():
        entry = found[name]
        assert (entry["dtype"], tuple(entry["shape"])) == (kinds[array.dtype.name], array.shape)
        assert bytes(entry["data"]) == array.tobytes()


def test_the_library_gives_the_same_tensors(tmp_path):
    arrays = tensors()
    path = tmp_path / "model.safetensors"
    write_safetensors(path, infos_of(arrays), arrays.values(), metadata={"format": "pt"})
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}
        for name, array in arrays.items():
            tensor = file.get_tensor(name)
            assert str(tensor.dtype) == f"torch.{array.dtype.name}"
            assert tuple(tensor.shape) == array.shape
            assert tensor.reshape(-1).view(torch.uint8).numpy().tobytes() == array.tobytes()
    plain = {name: array for name, array in arrays.items() if "float8" not in name and "bf" not in name}
    for name, array in safetensors.numpy.load(write(plain)).items():
        assert array.tobytes() == arrays[name].tobytes()


def test_a_file_of_the_library_is_written_back_byte_for_byte():
    data = safetensors.numpy.save({"b": np.arange(6.0), "a": np.arange(3, dtype=np.int8)}, metadata={"x": "y"})
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    names = sorted(set(header) - {"__metadata__"}, key=lambda name: header[name]["data_offsets"])
    arrays = safetensors.numpy.load(data)
    assert write({name: arrays[name] for name in names}, metadata={"x": "y"}) == data


def test_layouts_that_are_not_contiguous_or_native_are_written_as_they_read():
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    for other in (array.T, array[::2, ::-1], array.astype(">f4"), np.asfortranarray(array)):
        assert np.array_equal(safetensors.numpy.load(write({"x": other}))["x"], other)


def test_streams_may_take_less_than_they_are_given():
    class Slow(io.RawIOBase):
        def __init__(self):
            self.data = b""

        def writable(self):
            return True

        def write(self, data):
            self.data += bytes(data[:7])
            return min(len(data), 7)

    slow, arrays = Slow(), tensors()
    write_safetensors(slow, infos_of(arrays), arrays.values())
    assert slow.data == write(arrays)


F32 = np.zeros(3, np.float32)


@pytest.mark.parametrize(
    ("infos", "arrays", "message"),
    [
        ([TensorInfo("x", "complex128", (2,))], [np.zeros(2, complex)], r"x complex128\[2\] cannot be stored; known"),
        ([TensorInfo("__metadata__", "float32", (3,))], [F32], "'__metadata__', which the format keeps"),
        ([TensorInfo("x", "float32", (3,))] * 2, [F32] * 2, "two tensors are called 'x'"),
        ([TensorInfo("\ud800", "float32", (3,))], [F32], r"'\\ud800' in a name is no text"),
        ([TensorInfo("x", "float32", (4,))], [F32], r"found float32\[3\], expected x float32\[4\]"),
        ([TensorInfo("x", "int32", (3,))], [F32], r"found float32\[3\], expected x int32\[3\]"),
        ([TensorInfo("x", "float32", (3,))], [], r"arrays end before x float32\[3\], expected 1"),
        ([TensorInfo("x", "float32", (3,))], [F32] * 2, "more arrays came than the 1 that were announced"),
    ],
)
def test_what_cannot_be_written_leaves_nothing(tmp_path, infos, arrays, message):
    with pytest.raises(ConfigError, match=message):
        write_safetensors(tmp_path / "x", infos, arrays)
    assert list(tmp_path.iterdir()) == []


def test_a_header_longer_than_the_library_reads_is_refused(monkeypatch):
    monkeypatch.setattr(sinks, "_MAX_HEADER_BYTES", 64)
    write({"x": F32})
    with pytest.raises(ConfigError, match="the header takes 104 bytes, expected at most 64"):
        write({"x" * 50: F32})


def old_file(tmp_path, mode=0o640):
    path = tmp_path / "model"
    path.write_bytes(b"old")
    path.chmod(mode)
    return path


def assert_untouched(path):
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = old_file(tmp_path)

    def fail():
        with atomic_file(path) as file:
            file.write(b"new" * 100_000)
            raise error

    with pytest.raises(error):
        fail()
    assert_untouched(path)


def test_the_old_file_stays_until_the_block_ends(tmp_path):
    path = old_file(tmp_path)
    with atomic_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert len(list(tmp_path.iterdir())) == 1


def test_what_is_written_is_on_the_disk_before_it_has_the_name(tmp_path, monkeypatch):
    path, calls = old_file(tmp_path), []
    fsync, replace = os.fsync, os.replace

    def record(descriptor):
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else os.fstat(descriptor).st_size)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    monkeypatch.setattr(os, "replace", lambda one, two: calls.append("replace") or replace(one, two))
    with atomic_file(path) as file:
        file.write(b"new!!")
    assert calls == [5, "replace", "folder"]


KILLED = """
import os, signal, sys
from trafficzip.checkpoint.sinks import atomic_file
with atomic_file(sys.argv[1]) as file:
    file.write(b"new" * 100_000)
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_the_old_file(tmp_path):
    path = old_file(tmp_path)
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    left = [entry.name for entry in tmp_path.iterdir() if entry != path]
    assert len(left) == 1
    assert left[0].startswith(".model.")
    assert left[0].endswith(".tmp")


LIMITED = """
import resource, signal, sys
from trafficzip.checkpoint.sinks import atomic_file
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with atomic_file(sys.argv[1]) as file:
        file.write(b"new" * 100_000)
except OSError as error:
    print(error.strerror)
"""


def test_a_file_that_may_not_grow_leaves_the_old_one(tmp_path):
    path = old_file(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)], timeout=60, check=True, capture_output=True, text=True
    )
    assert done.stdout == "File too large\n"
    assert_untouched(path)


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    with suppress(OSError):
        command = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            yield folder
            subprocess.run(["umount", str(folder)], check=True)
            return
    pytest.skip("mounting needs root")


def test_a_full_disk_leaves_the_old_file(small_disk):
    path = old_file(small_disk)
    array = np.zeros(30_000, np.float32)
    with pytest.raises(OSError, match="No space left on device"):
        write_safetensors(path, [TensorInfo("x", "float32", array.shape)], [array])
    assert_untouched(path)


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o751])
def test_the_mode_of_the_old_file_is_kept(tmp_path, mode):
    path = old_file(tmp_path, mode)
    with atomic_file(path) as file:
        file.write(b"new")
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_new_file_has_the_mode_of_any_new_file(tmp_path):
    (tmp_path / "other").touch()
    with atomic_file(tmp_path / "new"):
        pass
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_link_stays_and_its_target_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    path = old_file(tmp_path / "there")
    link, dangling = tmp_path / "link", tmp_path / "dangling"
    link.symlink_to("there/model")
    dangling.symlink_to("there/later")
    for one in (link, dangling):
        with atomic_file(one) as file:
            file.write(b"new")
        assert one.is_symlink()
    assert path.read_bytes() == (tmp_path / "there" / "later").read_bytes() == b"new"


def test_places_where_no_file_can_be(tmp_path):
    with pytest.raises(ConfigError, match=r"model: its folder does not exist"), atomic_file(tmp_path / "no" / "model"):
        pass
    with pytest.raises(ConfigError, match="found a folder, expected a file or none"), atomic_file(tmp_path):
        pass
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="found a device"), atomic_file(tmp_path / "pipe"):
        pass
    assert (tmp_path / "pipe").is_fifo()


def test_long_names_have_short_names_beside_them(tmp_path):
    path = tmp_path / ("ä" * 100 + "x" * 50)  # 250 bytes
    with atomic_file(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"


def test_every_dtype_but_complex128_can_be_written():
    assert set(SAFETENSORS_DTYPES.values()) == set(DTYPES) - {"complex128"}
    assert np.dtype(ml_dtypes.bfloat16) == DTYPES["bfloat16"]
