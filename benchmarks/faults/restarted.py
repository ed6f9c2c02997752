"""Under torchrun: one rank of examples/train_ddp.py, with faults: python restarted.py FAULTS [its arguments]

FAULTS: ATTEMPT:RANK:AT:COUNT:HOW, comma between two: in an attempt, 0 the first, the rank is killed or raises ("kill",
"raise") after its COUNT-th optimizer step or checkpoint file of that attempt ("step", "save"). "none": there are none.
"""

import os
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_ddp.py"


def main() -> None:
    faults, sys.argv = sys.argv[1], [str(EXAMPLE), *sys.argv[2:]]
    for fault in faults.split(",") if faults != "none" else ():
        attempt, rank, at, count, how = fault.split(":")
        if attempt == os.environ["TORCHELASTIC_RESTART_COUNT"] and rank == os.environ["RANK"]:
            if at == "step":
                torch.optim.SGD.step = _struck(torch.optim.SGD.step, int(count), how)  # type: ignore[method-assign]
            else:
                torch.save = _struck(torch.save, int(count), how)
    runpy.run_path(str(EXAMPLE), run_name="__main__")


def _struck(function: Callable[..., Any], count: int, how: str) -> Callable[..., Any]:
    calls = iter(range(1, 1_000_000))

    def struck(*args: Any, **kwargs: Any) -> Any:
        done = function(*args, **kwargs)
        if next(calls) == count:
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("a fault in user code")
        return done

    return struck


if __name__ == "__main__":
    main()
