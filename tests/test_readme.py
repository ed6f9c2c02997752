"""The README's examples run as written."""

import re
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

import trafficzip
from trafficzip.ddp import Phase, Schedule

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_python_blocks_run():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", 1), rank=0, world_size=1)
        try:
            for block in blocks:
                names = {"network": nn.Linear(3, 2)}
                exec(block, names)
                names["model"](torch.ones(1, 3)).sum().backward()
                assert names["compression"].stats().steps == 1
        finally:
            dist.destroy_process_group()


def test_calls_in_the_table_are_valid():
    calls = re.findall(r"`register\((model, .*?)\)`[:;|, ]", README)
    assert len(calls) >= 3
    names = {
        "register": lambda model, compressor: compressor,
        "model": None,
        "trafficzip": trafficzip,
        "Schedule": Schedule,
        "Phase": Phase,
        "THREE_LC_RANS": trafficzip.THREE_LC_RANS,
    }
    for call in calls:
        assert eval(f"register({call})", names) is not None


def test_paths_and_commands_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    assert "pip install -e '.[test]' && pytest" in README
    assert "pip install -e '.[test]' -q && pytest" in (ROOT / ".ci" / "run").read_text()
    for name in ("TRAFFICZIP_TABLE", "DEMO_TABLE", "ACCURACY\n", "COSTS\n"):
        assert name not in README


def test_named_functions_exist():
    assert callable(trafficzip.ddp.merge_state_dicts)
    for name in ("disable", "enable", "stats", "flush", "state_dict", "load_state_dict"):
        assert f"compression.{name}" in README
        assert hasattr(trafficzip.ddp.GradientCompression, name)
