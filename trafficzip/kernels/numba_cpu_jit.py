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


@_intrinsic
def add_compare_select(
    _typing_context: Any,
    _costs: Any,
    _first: Any,
    _second: Any,
    _gaps: Any,
    _one: Any,
    _two: Any,
    _now: Any,
    _place: Any,
) -> Any:
    """Set now[place + l] = min(costs[first + l] + gaps[one + l], costs[second + l] + gaps[two + l]), l = 0..7.

    costs, gaps, now: float32, one-dimensional and contiguous.  Returns: uint8, bit l set where the second is less.
    Eight lanes are one vector; LLVM splits it where a machine's vectors are shorter. (Inside compiled code only.)
    """
    array, place = types.Array(types.float32, 1, "C"), types.int64

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        from llvmlite import ir

        costs, first, second, gaps, one, two, now, at = arguments
        vector = ir.VectorType(ir.FloatType(), 8)

        def pointer(owner: Any, index: Any) -> Any:
            data = context.make_array(array)(context, builder, owner).data
            return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())

        def load(owner: Any, index: Any) -> Any:
            return builder.load(pointer(owner, index), align=4)

        a = builder.fadd(load(gaps, one), load(costs, first))
        b = builder.fadd(load(gaps, two), load(costs, second))
        less = builder.fcmp_ordered("<", b, a)
        builder.store(builder.select(less, b, a), pointer(now, at), align=4)
        return builder.bitcast(less, ir.IntType(8))

    return types.uint8(array, place, place, array, place, place, array, place), generate
