"""What a GPU's codec hands on: codes in their places, and messages that were judged."""

from dataclasses import dataclass, field

import torch

from trafficzip.errors import CorruptPayloadError

RUNS = 5
_FAULTS = {
    2: "its header is not the expected one",
    3: "its checksum differs",
    4: "a scale or code is out of range",
    RUNS: "its runs expand to another size",
}


@dataclass(frozen=True, slots=True, eq=False)
class Coded:
    """Scales and codes in their places, before headers are written.

    data: uint8 [bytes of all messages].  flag: int32 [1], not 0 where some input was not finite.
    results: int32 [2, 1, frames], zero, for checksums.
    """

    data: torch.Tensor = field(repr=False)
    flag: torch.Tensor = field(repr=False)
    results: torch.Tensor = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Received:
    """Messages of several ranks that have one layout, judged: nothing damaged is decoded.

    data: uint8 [copies * bytes].  scales: float32 [copies, scales].
    status: int32 [copies, frames]: 0 fine, 1 not finite, above that damaged.  verdict: int32 [1], at most 2 of these.
    results: int32 [2, copies, frames], checksums and whether a byte is refused.
    """

    data: torch.Tensor = field(repr=False)
    scales: torch.Tensor = field(repr=False)
    status: torch.Tensor = field(repr=False)
    verdict: torch.Tensor = field(repr=False)
    results: torch.Tensor = field(repr=False)

    @property
    def copies(self) -> int:
        """How many ranks' messages these are."""
        return self.status.shape[0]

    def is_finite(self) -> bool:
        """Wait for the device and say whether all inputs of all ranks were finite.

        Raises:
            CorruptPayloadError: a frame is damaged; says which, and of which sender, counted from 0.
        """
        verdict = int(self.verdict.item())
        if verdict >= 2:
            copy, frame = (int(k) for k in (self.status >= 2).nonzero()[0])
            fault = _FAULTS[int(self.status[copy, frame])]
            raise CorruptPayloadError(f"message from sender {copy}: frame {frame}: {fault}")
        return verdict == 0
