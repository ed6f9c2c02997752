"""What the ranks of a local-steps case train: the same network, on its own for two steps, then a round."""

from typing import Any

import torch

import trafficzip.local_sgd
from benchmarks.faults.training import digest, loss_of, network

EVERY = 2


class LocalTraining:
    """A model and its optimizer, and the local steps that keep it close to the other ranks'."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.net = network()
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.05)
        self.hook: Any = None

    def register(self, options: dict[str, Any]) -> None:
        """Start the local steps; options that only DDP's hook has are left out."""
        taken = {key: value for key, value in options.items() if key not in ("overlap", "nodes")}
        self.hook = trafficzip.local_sgd.LocalSteps(self.net, **({"every": EVERY} | taken))

    def step(self, step: int, *, poison: bool = False) -> None:
        """Take an inner step, which a poison makes diverge, and after every second hold a round."""
        self.optimizer.zero_grad()
        loss_of(self.net, self.rank, step).backward()
        self.optimizer.step()
        if poison:
            with torch.no_grad():
                next(self.net.parameters())[0] = float("nan")
        self.hook.step()

    def nonfinite_steps(self) -> int:
        """Give how many rounds went back to the last agreed model."""
        return self.hook.stats().skipped_rounds

    def digests(self) -> dict[str, str]:
        """Give what must be equal on all ranks, and in all runs on one rank."""
        state = self.hook.state_dict()
        parameters = digest(self.net.parameters())
        kept = [state["agreed"], state["velocity"], *state["worker"].values()]
        kept += [part for parts in state["owner"].values() for part in parts.values()]
        return {"parameters": parameters, "everything": parameters + digest(kept)}
