""".npy and .npz: every layout comes back, objects and wrong headers are refused."""

import struct
import zipfile

import numpy as np
import pytest

from tests.checkpoint.sources.files import assert_same, contents, random_array, refused
from trafficzip.checkpoint.tensors import DTYPES

NUMPY = [name for name in DTYPES if DTYPES[name].isbuiltin == 1]


@pytest.mark.parametrize("dtype", NUMPY)
def test_numpy_files_of_every_dtype(tmp_path, dtype):
    array = random_array(dtype, (4, 6))
    others = {"turned": array.T, "swapped": array.astype(array.dtype.newbyteorder(">")), "scalar": array[0, 0]}
    for name, other in others.items():
        np.save(tmp_path / f"{name}.npy", other)
        plain = np.ascontiguousarray(other).astype(array.dtype).reshape(other.shape)
        assert_same(contents(tmp_path / f"{name}.npy"), {name: plain})
    for write in (np.savez, np.savez_compressed):
        write(tmp_path / "all.npz", **others)
        expected = {n: np.ascontiguousarray(a).astype(array.dtype).reshape(a.shape) for n, a in others.items()}
        assert_same(contents(tmp_path / "all.npz"), expected)


def test_arrays_of_objects_are_refused(tmp_path):
    for name, array in (("objects", np.array([{}, 3], object)), ("text", np.array(["a"]))):
        np.save(tmp_path / f"{name}.npy", array)
        refused(tmp_path / f"{name}.npy", "dtype .* cannot be stored")
        np.savez(tmp_path / f"{name}.npz", fine=np.zeros(2), **{name: array})
        refused(tmp_path / f"{name}.npz", rf"member '{name}.npy': dtype .* cannot be stored")
    np.save(tmp_path / "fields.npy", np.zeros(2, [("a", "f4"), ("b", "i4")]))
    refused(tmp_path / "fields.npy", "dtype .* cannot be stored")


def npy_header(text, data=b"", version=b"\x01\x00"):
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text.encode() + data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", bytes(7)),
        npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", bytes(9)),
        npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }", bytes(8)),
        npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,), }", bytes(8)),
        npy_header("{'descr': '<f4', 'shape': (2,), }", bytes(8)),
        npy_header("__import__('os')", bytes(8)),
        npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", bytes(8), b"\x09\x00"),
    ],
)
def test_bad_npy_files_are_refused(tmp_path, data):
    path = tmp_path / "bad.npy"
    path.write_bytes(data)
    refused(path, r"bad\.npy")
    with zipfile.ZipFile(tmp_path / "bad.npz", "w") as archive:
        archive.writestr("x.npy", data)
    refused(tmp_path / "bad.npz", r"bad\.npz")


def test_npz_files_that_are_damaged_are_refused(tmp_path):
    path = tmp_path / "m.npz"
    np.savez(path, x=np.arange(100.0))
    data = bytearray(path.read_bytes())
    for end in range(0, len(data), 31):
        path.write_bytes(data[:end])
        refused(path, r"m\.npz")
    data[400] ^= 1  # of the array
    path.write_bytes(data)
    refused(path, "Bad CRC-32")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", b"hello")
    refused(path, "member 'notes.txt': found no array")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", npy_header("{'descr': '|u1', 'fortran_order': False, 'shape': (0,), }"))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("x.npy", npy_header("{'descr': '|u1', 'fortran_order': False, 'shape': (0,), }"))
    refused(path, "two tensors are called 'x'")
