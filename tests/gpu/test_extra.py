"""What a user sees who has no Triton, or no CUDA device."""

import subprocess
import sys

import pytest
import torch

from trafficzip.errors import ConfigError

NO_TRITON = """
import sys
sys.modules["triton"] = None
import trafficzip.gpu
try:
    trafficzip.gpu.GpuCodec
except trafficzip.ConfigError as error:
    print(error)
"""
ON_CPU = """
import torch
from trafficzip import presets
from trafficzip.gpu import GpuCodec
from trafficzip.kernels import Groups
GpuCodec([[(presets.QUARTIC, Groups([5]))]], torch.device("cpu"))
"""


def run(code):
    environment = {"PATH": "/usr/bin:/bin"}  # without the tests' TRITON_INTERPRET
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)


def test_without_triton_the_error_names_the_extra():
    assert run(NO_TRITON).stdout.strip() == "CUDA tensors need Triton: pip install 'trafficzip[gpu]'"


def test_a_cpu_device_is_refused_by_name():
    pytest.importorskip("triton")
    assert "device cpu: GpuCodec compresses on CUDA devices; Compressor does on the CPU" in run(ON_CPU).stderr


def test_an_unknown_name_is_an_attribute_error():
    import trafficzip.gpu

    with pytest.raises(AttributeError, match="has no attribute Codec"):
        trafficzip.gpu.Codec  # noqa: B018


def test_a_cpu_exchange_names_the_other_way():
    from trafficzip.kernels import as_array

    with pytest.raises(ConfigError, match=r"tensor on device meta: .*trafficzip\.gpu compresses CUDA tensors"):
        as_array(torch.ones(3, device="meta"))
