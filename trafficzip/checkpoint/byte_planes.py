"""One record of numbers that are cut into byte planes: its bytes, and the numbers (FORMAT.md section 9)."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trafficzip.checkpoint.coders.base import Describe
from trafficzip.checkpoint.tensors import DTYPES, Array
from trafficzip.errors import CorruptPayloadError
from trafficzip.kernels import numba_cpu_planes as kernels
from trafficzip.kernels import numba_cpu_planes_model as model
from trafficzip.kernels.numba_cpu_rans import encoder_tables
from trafficzip.kernels.reference_planes import PRECISION_BITS, num_lanes
from trafficzip.wire.cursor import Bytes, Reader, pack_u8s, pack_u32s

CONSTANT, CODED, RAW = range(3)  # forms of a plane
LEAST_GAIN = 64  # a plane is coded where that saves one byte in so many: others decode ten times as fast raw
_ROTATIONS = {  # per dtype: how many of its highest bits are rotated, and left by how many
    "float16": (6, 1),
    "bfloat16": (9, 1),
    "float32": (9, 1),
    "float64": (12, 4),
    "complex64": (9, 1),
    "complex128": (12, 4),
}
_Rotation = tuple[NDArray[np.unsignedinteger], NDArray[np.unsignedinteger]]


class _Layout(NamedTuple):
    """The unsigned type of the numbers of a dtype, and what rotates them before splitting and after merging."""

    dtype: np.dtype[np.unsignedinteger]
    forth: _Rotation
    back: _Rotation


class _Plane(NamedTuple):
    form: int
    size: int  # of its body
    value: int  # where it is constant


def pack_planes(arrays: Sequence[Array], dtype: str) -> bytes:
    """Encode flat arrays of one dtype, a key of DTYPES, with one number at least in all."""
    layout = _layout(dtype)
    values = np.concatenate([np.ascontiguousarray(array).view(layout.dtype) for array in arrays])
    if layout.dtype.itemsize == 1:
        planes = values.reshape(1, -1)
    else:
        planes = np.empty((layout.dtype.itemsize, values.size), np.uint8)
        kernels.split(values, *layout.forth, planes)
    packed = [_pack_plane(plane) for plane in planes]
    return b"".join([*(head for head, _ in packed), *(body for _, body in packed)])


def unpack_planes(record: Bytes, outs: Sequence[Array], dtype: str, describe: Describe) -> None:
    """Decode a record into flat arrays of the dtype, a key of DTYPES.

    Raises:
        CorruptPayloadError: it is not an encoding of as many numbers.
    """
    layout = _layout(dtype)
    views = [out.view(layout.dtype) for out in outs]
    size = sum(view.size for view in views)
    data = record.view()
    data.flags.writeable = False  # kernels are compiled for this type
    reader = Reader(data, what=lambda: f"record of {describe()}")
    heads = _read_heads(reader, layout.dtype.itemsize, size)
    whole = len(views) == 1 and views[0].flags.aligned and views[0].flags.c_contiguous  # kernels are compiled for these
    values = views[0] if whole else np.empty(size, layout.dtype)
    if layout.dtype.itemsize == 1:
        _unpack_plane(heads[0], reader, values, "plane 0")
    else:
        planes = tuple(_plane(head, reader, size, f"plane {place}") for place, head in enumerate(heads))
        kernels.merge(planes, *layout.back, values)
    if not whole:
        start = 0
        for view in views:
            view[...] = values[start : start + view.size]
            start += view.size


@cache
def _layout(dtype: str) -> _Layout:
    itemsize = DTYPES[dtype].itemsize // (2 if dtype.startswith("complex") else 1)  # real part, imaginary part, ...
    number: np.dtype[np.unsignedinteger] = np.dtype(f"u{itemsize}")
    top, by = _ROTATIONS.get(dtype, (8 * itemsize, 0))
    forth = kernels.rotation(number, top=top, by=by)
    return _Layout(number, forth, kernels.rotation(number, top=top, by=(top - by) % top))


def _pack_plane(plane: NDArray[np.uint8]) -> tuple[bytes, bytes]:
    """Give what the start of a record says of a plane, and its body."""
    counts = model.count(plane)
    if counts[plane[0]] == plane.size:
        return pack_u8s(CONSTANT, int(plane[0])), b""
    frequencies = model.normalize(counts)
    table = model.write_table(frequencies)
    estimate = table.size + int(model.coded_cost(counts, frequencies)) // (8 * model.LOG_UNIT)
    lanes, limit = num_lanes(plane.size), plane.size - plane.size // LEAST_GAIN
    if estimate + 4 * lanes + 4 >= limit:
        return pack_u8s(RAW), plane.tobytes()
    body = table.tobytes() + kernels.encode_symbols(plane, encoder_tables(frequencies, PRECISION_BITS), lanes).tobytes()
    assert len(body) < plane.size  # the estimate is short by less than what it was given to spare
    return pack_u8s(CODED) + pack_u32s(len(body)), body


def _read_heads(reader: Reader, num_planes: int, size: int) -> list[_Plane]:
    """Read what the start of a record says of its planes, and check that they are the rest of it."""
    heads = []
    for place in range(num_planes):
        (form,) = reader.fields("<B", f"form of plane {place}")
        if form == CONSTANT:
            heads.append(_Plane(form, 0, *reader.fields("<B", f"value of plane {place}")))
        elif form == RAW:
            heads.append(_Plane(form, size, 0))
        elif form == CODED:
            (coded,) = reader.fields("<I", f"size of plane {place}")
            if coded >= size:
                raise CorruptPayloadError(f"{reader.what}: plane {place} has {coded} bytes for {size} numbers")
            heads.append(_Plane(form, coded, 0))
        else:
            raise CorruptPayloadError(f"{reader.what}: plane {place} has form {form}, expected 0 to 2")
    expected, found = sum(head.size for head in heads), reader.data.size - reader.at
    if expected != found:
        raise CorruptPayloadError(f"{reader.what}: planes have {found} bytes, the start says {expected}")
    return heads


def _plane(head: _Plane, reader: Reader, size: int, field: str) -> NDArray[np.uint8]:
    """Give a plane, read-only; one that was not coded as it lies in the record."""
    if head.form == RAW:
        return reader.take(head.size, field)
    plane = np.empty(size, np.uint8)
    _unpack_plane(head, reader, plane, field)
    plane.flags.writeable = False
    return plane


def _unpack_plane(head: _Plane, reader: Reader, plane: NDArray[np.uint8], field: str) -> None:
    if head.form == CONSTANT:
        plane.fill(head.value)
        return
    body = reader.take(head.size, field)
    if head.form == RAW:
        plane[:] = body
        return
    frequencies = np.empty(256, np.int64)
    used = model.read_table(body, frequencies)
    table = model.decoder_table(frequencies) if used > 0 else None
    if table is None or not kernels.decode_symbols(body[used:], table, num_lanes(plane.size), plane):
        raise CorruptPayloadError(f"{reader.what}: {field} is not one encoding of {plane.size} bytes")
