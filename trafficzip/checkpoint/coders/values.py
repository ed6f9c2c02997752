"""Numbers that simple coders quantize: which tensors have them, and all of a tensor as finite float32."""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trafficzip.checkpoint.coders.base import Job
from trafficzip.checkpoint.tensors import DTYPES, Array, TensorInfo
from trafficzip.errors import ConfigError, CorruptPayloadError
from trafficzip.kernels.threads import run_in_threads

_SLICE = 1 << 18  # elements that are converted together
FLOAT32_MAX = float(np.finfo(np.float32).max)


def check_quantizable(info: TensorInfo) -> None:
    """Check that the tensor is of floating point numbers, 0 among them.

    Raises:
        ConfigError: it is not.
    """
    if not info.is_float:
        raise ConfigError(f"{info}: only floating point numbers can be quantized; store it losslessly")
    if info.dtype == "float8_e8m0fnu":
        raise ConfigError(f"{info}: powers of two, without 0, cannot be quantized; store it losslessly")


def check_params(infos: Sequence[TensorInfo], params: Sequence[Any]) -> None:
    """Check what a file says of quantized tensors: a dtype that can be quantized, and no parameters.

    Raises:
        CorruptPayloadError: it says something else.
    """
    for info, param in zip(infos, params, strict=True):
        if param is not None:
            raise CorruptPayloadError(f"header: {info}: parameters {param!r:.100}, expected null")
        try:
            check_quantizable(info)
        except ConfigError as error:
            raise CorruptPayloadError(f"header: {error}") from error


def check_finite(job: Job) -> None:
    """Read all tensors of a job once, and check their values.

    Raises:
        ConfigError: a value of the tensor that is named is NaN, infinite, or beyond float32.
    """

    def check(place: int) -> None:
        for _ in finite_slices(job.infos[place], job.read(place)):
            pass

    run_in_threads(check, [(place,) for place in range(len(job.infos))], job.num_threads)


def finite_slices(info: TensorInfo, array: Array) -> Iterator[NDArray[np.float32]]:
    """Give a tensor flat, slice by slice, as float32.

    Raises:
        ConfigError: a value is NaN, infinite, or beyond float32.
    """
    flat = array.reshape(-1)
    for start in range(0, flat.size, _SLICE):
        values = to_float32(flat[start : start + _SLICE])
        if not np.isfinite(values).all():
            raise ConfigError(f"{info}: has values that are NaN, infinite, or beyond float32; it cannot be quantized")
        yield values


def to_float32(values: Array) -> NDArray[np.float32]:
    """Convert to float32, contiguous and aligned; what is beyond becomes infinite."""
    with np.errstate(over="ignore"):
        return np.require(values.astype(np.float32, copy=False), requirements=["C", "A"])


@cache
def largest(dtype: str) -> np.float32:
    """Give the largest finite number of a floating point dtype, or of float32."""
    itemsize = DTYPES[dtype].itemsize
    if itemsize > 2:
        return np.float32(FLOAT32_MAX)
    with np.errstate(invalid="ignore"):
        every = np.arange(256**itemsize).astype(f"u{itemsize}").view(DTYPES[dtype]).astype(np.float32)
    return np.float32(every[np.isfinite(every)].max())
