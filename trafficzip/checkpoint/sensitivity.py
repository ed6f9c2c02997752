"""What an error in a tensor counts, found without data."""

from collections.abc import Sequence

from trafficzip.checkpoint.tensors import Source, TensorInfo


def sensitivities(source: Source, infos: Sequence[TensorInfo]) -> dict[str, float]:
    """Give a weight of squared errors per tensor."""
    return {info.name: 1.0 for info in infos}
