"""Kernels compile on first use, with a cache on disk where there is a writable folder and without one elsewhere."""

import numba
import pytest

from trafficzip.kernels import numba_cpu_jit


def double(x):
    return 2 * x


def test_without_a_cache_folder_functions_still_compile(monkeypatch):
    compile_function = numba.njit

    def no_folder(function, **options):
        if options.pop("cache", False):
            raise RuntimeError("cannot cache function 'double': no locator available for file 'x.py'")
        return compile_function(function, **options)

    monkeypatch.setattr(numba, "njit", no_folder)
    assert numba_cpu_jit.jit(double)(21) == 42


def test_other_errors_are_not_hidden(monkeypatch):
    def broken(function, **options):
        raise RuntimeError("something else")

    monkeypatch.setattr(numba, "njit", broken)
    with pytest.raises(RuntimeError, match="something else"):
        numba_cpu_jit.jit(double)


def test_nothing_is_compiled_before_the_first_call():
    from trafficzip.kernels import numba_cpu_cast

    fresh = numba_cpu_jit.jit(numba_cpu_cast.float32_accumulate.py_func)
    assert not fresh.signatures
