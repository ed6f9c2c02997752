"""The example program, as a user starts it, in processes that are already joined."""

import contextlib
import io
import re
import runpy
import sys
from pathlib import Path
from unittest.mock import patch

import torch.distributed as dist

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_local.py"


def _main(rank, world_size, checkpoint, steps):
    arguments = [str(EXAMPLE), f"--checkpoint={checkpoint}", f"--steps={steps}", "--every=4"]
    joined = patch.multiple(dist, init_process_group=lambda backend: None, destroy_process_group=lambda: None)
    with joined, patch.object(sys, "argv", arguments), contextlib.redirect_stdout(io.StringIO()) as out:
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    return out.getvalue()


def test_example_resumes_bit_for_bit_and_with_other_ranks(ranks, tmp_path):
    def train(world_size, name, steps):
        found = re.search(
            r"step (\d+): loss [\d.]+, (\d+) rounds, .* sum of parameters (\S+)",
            ranks(world_size, _main, str(tmp_path / name), steps)[0],
        )
        return int(found[1]), int(found[2]), found[3]

    whole = train(2, "whole", 16)
    assert whole[:2] == (16, 4)
    assert train(2, "parts", 8)[:2] == (8, 2)
    (tmp_path / "joined").mkdir()
    for name in ("latest", "step8-ranks2"):
        (tmp_path / "joined" / name).symlink_to(tmp_path / "parts" / name)
    assert train(3, "joined", 4)[:2] == (12, 3)
    assert train(2, "parts", 8) == whole
