"""Settings shared by all tests."""

from hypothesis import settings

settings.register_profile("trafficzip", deadline=None, max_examples=60)  # kernels compile in their first example
settings.load_profile("trafficzip")
