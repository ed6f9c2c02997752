"""Error feedback: what quantization lost in one step is added to the values of the next."""

from collections.abc import Mapping
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from trafficzip.errors import ConfigError
from trafficzip.kernels import Groups

F32 = NDArray[np.float32]


def starts_of(sizes: Mapping[str, int]) -> dict[str, int]:
    """Give where each key's part begins when the parts lie one after the other."""
    return dict(zip(sizes, accumulate(sizes.values(), initial=0), strict=False))


class ErrorFeedback:
    """Residuals by key, float32, one flat array behind them.

    The state is plain: `residual` is float32 [total], `starts` says where each key's part begins. Compressors read it
    and are told where to write what they lost, so a step can be prepared and then kept or dropped as a whole.
    Source: error accumulation in 3LC; Seide et al. 2014; Karimireddy et al. 2019.
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.sizes = dict(sizes)
        self.starts = starts_of(sizes)
        self.residual: F32 = np.zeros(sum(sizes.values()), np.float32)

    def __getitem__(self, key: str) -> F32:
        """Give a key's residual as a view, float32 [size]."""
        start = self.starts[key]
        return self.residual[start : start + self.sizes[key]]

    def reset(self) -> None:
        """Forget everything that is pending."""
        self.residual[:] = 0

    def scale(self, factor: float) -> None:
        """Multiply every residual, for values whose unit has changed (loss scaling)."""
        self.residual *= np.float32(factor)

    def keep(self, lost: F32, groups: Groups) -> None:
        """Take what compression lost, which lies at the groups' value starts, as their residuals."""
        for size, value, kept in zip(groups.sizes, groups.value_starts, groups.residual_starts, strict=True):
            self.residual[kept : kept + size] = lost[value : value + size]

    def state_dict(self) -> dict[str, F32]:
        """Give a copy of every residual by key."""
        return {key: self[key].copy() for key in self.sizes}

    def load_state_dict(self, state: Mapping[str, F32]) -> None:
        """Restore every residual; nothing changes if one does not fit.

        Raises:
            ConfigError: as `check_state_dict`.
        """
        self.check_state_dict(state)
        for key, residual in state.items():
            self[key][:] = residual

    def check_state_dict(self, state: Mapping[str, F32]) -> None:
        """Check that a state fits here.

        Raises:
            ConfigError: keys, sizes or dtypes differ, or a residual is not finite.
        """
        if state.keys() != self.sizes.keys():
            missing, extra = sorted(self.sizes.keys() - state.keys()), sorted(state.keys() - self.sizes.keys())
            raise ConfigError(f"residuals do not fit: missing {missing[:5]}, unexpected {extra[:5]}")
        for key, residual in state.items():
            if residual.dtype != np.float32 or residual.shape != (self.sizes[key],):
                raise ConfigError(
                    f"residual of {key}: {residual.dtype} {list(residual.shape)}, expected float32 [{self.sizes[key]}]"
                )
            if not np.isfinite(residual).all():
                raise ConfigError(f"residual of {key} is not finite")
