"""Settings shared by all tests."""

import os

import pytest
import torch
from hypothesis import settings

from tests.distributed import Ranks

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # GPU kernels run on CPU tensors; read when triton is imported, by whomever

settings.register_profile("trafficzip", deadline=None, max_examples=60)  # kernels compile in their first example
settings.load_profile("trafficzip")


@pytest.fixture(scope="session")
def ranks():
    """Run a case on several processes: `ranks(world_size, case, *args)`."""
    session = Ranks()
    yield session
    session.close()
