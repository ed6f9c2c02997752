"""Every GPU kernel, as it is launched, compiles for A100 and H100, without spills and with the arithmetic relied on."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "trafficzip" / "kernels"


def run(*arguments, **environment):
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.compile_gpu", *arguments],
        cwd=ROOT, env=kept | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def launches(tmp_path_factory):
    path = tmp_path_factory.mktemp("launches") / "launches.json"
    path.write_text(run("record", CUDA_VISIBLE_DEVICES=""))
    return path


def test_all_kernels_are_launched(launches):
    launched = {json.loads(text)["kernel"] for text in json.loads(launches.read_text())}
    source = "\n".join(path.read_text() for path in KERNELS.glob("triton_gpu*.py"))
    functions = re.findall(r"^@triton\.jit.*\ndef (\w+)", source, re.M)
    assert launched == {name for name in functions if re.search(rf"\b{name}\[", source)}


@pytest.mark.parametrize("sm", [80, 90])
def test_all_launches_compile(launches, sm, tmp_path):
    compiled = json.loads(run(str(launches), str(sm), TRITON_CACHE_DIR=str(tmp_path)))
    assert len(compiled) == len(json.loads(launches.read_text()))
    for kernel in compiled:
        where = f"{kernel['kernel']} {kernel['constants']}"
        assert kernel["stack"] == 0, f"{where} spills {kernel['stack']} bytes"
        assert kernel["reg"] <= 128, f"{where} has {kernel['reg']} registers"
        assert kernel["shared"] <= 48 * 1024, where
        # Rounding is part of the format: no flushing to zero, no approximate division, and no product that is not
        # rounded, but for the decoder of quartic bytes, whose products are exact.
        assert not kernel["ftz"], where
        assert not kernel["approximate"], where
        assert not kernel["fma"] or kernel["kernel"] == "_accumulate_quartic", where
