"""Bounds-checked little-endian reading and writing; the only struct packing in the package."""

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficzip.errors import CorruptPayloadError

Bytes = NDArray[np.uint8]


class Reader:
    """Reads fields from uint8 [n], front to back.

    Every method raises CorruptPayloadError when fewer bytes are left than it needs; nothing is allocated before that.
    what: is read, or what says that when there is an error.
    """

    def __init__(self, data: Bytes, *, start: int = 0, what: str | Callable[[], str] = "frame") -> None:
        self.data = data
        self.at = start
        self._what = what

    @property
    def what(self) -> str:
        """What is read, for errors."""
        return self._what if isinstance(self._what, str) else self._what()

    def take(self, num_bytes: int, field: str) -> Bytes:
        """Give the next bytes as a view."""
        left = self.data.size - self.at
        if num_bytes > left:
            raise CorruptPayloadError(
                f"{self.what} at byte {self.at}: {field} needs {num_bytes} bytes, {max(left, 0)} are left"
            )
        self.at += num_bytes
        return self.data[self.at - num_bytes : self.at]

    def fields(self, layout: str, field: str) -> tuple[Any, ...]:
        """Read what `struct` calls `layout`; it must begin with "<"."""
        return struct.unpack(layout, self.take(struct.calcsize(layout), field).data)

    def float32s(self, count: int, field: str) -> NDArray[np.float32]:
        """Read `count` float32 into an array of their own."""
        return self.take(4 * count, field).copy().view("<f4")


def pack_u8s(*numbers: int) -> bytes:
    """Pack unsigned bytes."""
    return struct.pack(f"<{len(numbers)}B", *numbers)


def pack_u32s(*numbers: int) -> bytes:
    """Pack unsigned 32-bit integers."""
    return struct.pack(f"<{len(numbers)}I", *numbers)


def pack_u64s(*numbers: int) -> bytes:
    """Pack unsigned 64-bit integers."""
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def pack_float32s(numbers: NDArray[np.float32]) -> bytes:
    """Pack float32 values."""
    return numbers.astype("<f4", copy=False).tobytes()
