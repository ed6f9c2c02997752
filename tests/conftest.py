"""Settings shared by all tests."""

import pytest
from hypothesis import settings

from tests.distributed import Ranks

settings.register_profile("trafficzip", deadline=None, max_examples=60)  # kernels compile in their first example
settings.load_profile("trafficzip")


@pytest.fixture(scope="session")
def ranks():
    """Run a case on several processes: `ranks(world_size, case, *args)`."""
    session = Ranks()
    yield session
    session.close()
