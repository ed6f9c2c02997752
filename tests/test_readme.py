"""The README's examples run as written."""

import re
import tempfile
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

import trafficzip
from trafficzip.ddp import Phase, Schedule

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


class Blocks(nn.Module):
    """A model of two blocks, as FSDP2 users wrap them."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))

    def forward(self, inputs):
        return self.blocks(inputs)


def run_on_gpu(block, network):
    device = "cuda" if torch.cuda.is_available() else "cpu"  # on the CPU, interpreted
    bucket = torch.arange(8.0, device=device)
    names = {"network": network, "torch": torch, "bucket": bucket, "residual": torch.zeros(8, device=device)}
    exec(block, names)
    assert names["received"].is_finite()
    assert bucket.tolist() == [0, 0, 0, 5, 5, 5, 7, 7]  # the largest of weight and bias, above its half


def test_python_blocks_run(monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", store=dist.FileStore(f"{folder}/store", 1), rank=0, world_size=1)
        try:
            for block in blocks:
                network = nn.Linear(3, 2)
                names = {
                    "trafficzip": trafficzip,
                    "network": network,
                    "model": Blocks(),
                    "mesh": init_device_mesh("cpu", (1,)),
                    "optimizer": torch.optim.SGD(network.parameters(), 0.1),
                    "batches": [torch.ones(1, 3)],
                }
                monkeypatch.chdir(folder)
                if "trafficzip.gpu" in block:
                    pytest.importorskip("triton")
                    run_on_gpu(block, network)
                    continue
                exec(block, names)
                if "ddp" not in block and "fsdp" not in block and "local_sgd" not in block:
                    assert names["tensors"].keys() == network.state_dict().keys()
                    continue
                names["model"](torch.ones(1, 3)).sum().backward()
                handle = names.get("compression") or names["local"]
                assert handle.stats().steps == 1 if "ddp.register" in block else handle.stats()
        finally:
            dist.destroy_process_group()


def test_calls_in_the_table_are_valid():
    calls = re.findall(r"`register\((model, .*?)\)`[:;|, ]", README)
    assert len(calls) >= 3
    names = {
        "register": lambda model, compressor=trafficzip.THREE_LC_RANS, **options: compressor,
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
