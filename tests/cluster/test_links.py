"""Links: what can be asked for, and how rates are read and written."""

import pytest

from trafficzip.cluster.links import Link, format_rate, parse_rate
from trafficzip.errors import ConfigError


@pytest.mark.parametrize("text", ["10mbit", "100mbit", "1gbit", "2.5gbit", "500kbit", "none"])
def test_rates_are_read_as_they_are_written(text):
    assert format_rate(parse_rate(text)) == text


@pytest.mark.parametrize("text", ["", "fast", "10", "10mb", "-1mbit", "10 mbit/s"])
def test_other_rates_are_refused(text):
    with pytest.raises(ConfigError, match="100mbit"):
        parse_rate(text)


@pytest.mark.parametrize("options", [{"rate_bits_per_s": 1}, {"delay_ms": -1}, {"loss": 1.0}, {"mtu": 100}])
def test_impossible_links_are_refused(options):
    with pytest.raises(ConfigError, match="link: "):
        Link(**options)
