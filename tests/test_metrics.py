import numpy as np
import pytest

from trafficzip import ConfigError
from trafficzip.metrics import TrafficMeter, bits_per_element, compression_ratio, relative_error


def test_sizes():
    assert bits_per_element(100, 400) == 2
    assert compression_ratio(100, 400) == 16
    assert compression_ratio(100, 400, bytes_per_element=2) == 8
    with pytest.raises(ConfigError):
        bits_per_element(1, 0)


def test_relative_error():
    assert relative_error(np.array([3.0, 4.0]), np.array([3.0, 4.0])) == 0
    assert relative_error(np.array([3.0, 4.0]), np.array([0.0, 0.0])) == 1
    assert relative_error(np.zeros(2), np.zeros(2)) == 0
    assert relative_error(np.zeros(2), np.ones(2)) == float("inf")


def test_meter_difference():
    meter = TrafficMeter(10, 20, 1.0, 2.0)
    before = meter.copy()
    meter.bytes_sent += 5
    meter.exchange_s += 0.5
    assert meter.minus(before) == TrafficMeter(5, 0, 0.0, 0.5)
