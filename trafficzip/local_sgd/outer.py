"""The outer optimizer: SGD with Nesterov momentum on the mean difference of the ranks' models."""

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]


class OuterStep:
    """The agreed model and its velocity, flat float32 [n], equal on every rank.

    Each operation is one rounding (no fused multiply-add), so processors of different kinds give the same bits.

    Source: DiLoCo (Douillard et al. 2023); SlowMo (Wang et al. 2020); with lr 1 and momentum 0, local SGD (Stich 2019).
    """

    def __init__(self, agreed: F32, *, lr: float, momentum: float, nesterov: bool, momentum_rounds: int = 0) -> None:
        self.agreed = agreed
        self.velocity: F32 = np.zeros_like(agreed) if momentum else np.zeros(0, np.float32)
        self._lr = np.float32(lr)
        self._momentum = momentum
        self._momentum_rounds = momentum_rounds
        self._nesterov = nesterov

    def momentum(self, rounds: int) -> np.float32:
        """Give the momentum after `rounds` rounds: it rises linearly from 0 over the first `momentum_rounds`."""
        return np.float32(self._momentum * min(1.0, rounds / self._momentum_rounds if self._momentum_rounds else 1.0))

    def step(self, mean: F32, rounds: int) -> None:
        """Move the agreed model against `mean`, the average of (agreed model - local model); overwrites `mean`.

        mean: float32 [n], finite.
        rounds: how many steps were done before.
        """
        if self.velocity.size:
            momentum = self.momentum(rounds)
            self.velocity *= momentum
            self.velocity += mean
            if self._nesterov:
                mean += self.velocity * momentum
            else:
                mean[:] = self.velocity
        mean *= self._lr
        self.agreed -= mean
