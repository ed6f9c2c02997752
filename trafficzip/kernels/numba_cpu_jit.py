"""How every compiled CPU kernel is built: no GIL, machine code cached on disk, nothing compiled before first use."""

from collections.abc import Callable
from typing import Any, TypeVar

import numba
from numba.core import types
from numba.extending import intrinsic

F = TypeVar("F", bound=Callable[..., Any])
_intrinsic: Callable[..., Any] = intrinsic  # in compiled code the typing context is not an argument


def jit(function: F) -> F:
    """Compile `function` on its first call, without the GIL, and keep the machine code on disk.

    Numba writes the cache by atomic replacement, so ranks that start together may share one folder. It looks for a
    writable folder when the function is decorated; where there is none, the function is compiled in each process.
    """
    try:
        compiled = numba.njit(function, cache=True, nogil=True, error_model="numpy", boundscheck=False)
    except RuntimeError as error:
        if "cannot cache function" not in str(error):
            raise
        compiled = numba.njit(function, nogil=True, error_model="numpy", boundscheck=False)
    return compiled  # type: ignore[no-any-return]


@_intrinsic
def float_bits(_typing_context: Any, _value: Any) -> Any:
    """Reinterpret a float32 as int32, bit for bit (inside compiled code only)."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        from llvmlite import ir

        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


@_intrinsic
def float_from_bits(_typing_context: Any, _value: Any) -> Any:
    """Reinterpret a uint32 as float32, bit for bit (inside compiled code only)."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        from llvmlite import ir

        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate
