import json

import pytest

from trafficzip import THREE_LC, ConfigError
from trafficzip.demo.settings import Settings


@pytest.mark.parametrize(
    "wrong",
    [
        {"data": "mnist"},
        {"data": "cifar10"},
        {"path": "/somewhere"},
        {"workers": 1},
        {"steps": 0},
        {"seed": -1},
        {"compressor": "zip"},
        {"multiplier": 2.0},
        {"multiplier": 0.4},
        {"exchange": "ring"},
    ],
)
def test_wrong_settings_raise(wrong):
    with pytest.raises(ConfigError):
        Settings(**wrong)


def test_settings_survive_json():
    settings = Settings(compressor="three_lc", multiplier=1.5, steps=7)
    assert Settings(**json.loads(json.dumps(settings.to_dict()))) == settings
    assert settings.num_steps == 7


def test_multiplier_replaces_the_preset_s():
    assert Settings(compressor="three_lc").make_compressor() == THREE_LC
    assert Settings(multiplier=1.5).make_compressor().quantizer.multiplier == 1.5
