"""Plans: how the buckets of one step travel."""

from dataclasses import dataclass, replace
from typing import Literal, Self

from trafficzip.codecs import Quartic, Rans, ZeroRun
from trafficzip.comm.assembly import ExchangeKind
from trafficzip.comm.exchange import Codecs
from trafficzip.compressor import Compressor
from trafficzip.presets import BFLOAT16, FLOAT32
from trafficzip.quantizers import Ternary

CodecName = Literal["schedule", "float32", "bfloat16", "quartic", "zero_run", "rans"]
_CHAINS = {"quartic": (Quartic(),), "zero_run": (Quartic(), ZeroRun()), "rans": (Quartic(), Rans())}
_CASTS = {"float32": FLOAT32, "bfloat16": BFLOAT16}


@dataclass(frozen=True, slots=True)
class Mode:
    """How one bucket travels.

    codec: "schedule" is the schedule's own compressor; the ternary codecs "quartic", "zero_run" and "rans" carry the
        same values in different bytes; "bfloat16" and "float32" apply to small tensors too.
    """

    exchange: ExchangeKind
    codec: CodecName

    def __str__(self) -> str:
        return f"{self.exchange} {self.codec}"

    def codecs(self, pair: tuple[Compressor, Compressor], small: Compressor) -> Codecs:
        """Give the compressors of a bucket.

        pair: what the schedule says for workers and owners.
        """
        if self.codec in _CASTS:
            cast = _CASTS[self.codec]
            return Codecs(push=cast, pull=cast, small=cast)
        push, pull = pair
        if self.codec in _CHAINS and isinstance(push.quantizer, Ternary):
            push, pull = (replace(one, codecs=_CHAINS[self.codec]) for one in (push, pull))
        return Codecs(push=push, pull=pull, small=small)


@dataclass(frozen=True, slots=True)
class Plan:
    """How all buckets of a step travel.

    modes: the mode of buckets of up to so many elements, in ascending order; the last also takes all that are larger.
        Without any, gradients travel through DDP's own dense all-reduce.
    overlap: whether buckets are exchanged on a thread while the backward pass goes on.
    """

    modes: tuple[tuple[int, Mode], ...] = ()
    overlap: bool = False

    @classmethod
    def of(cls, mode: Mode) -> Self:
        """Give the plan with one mode for all buckets."""
        return cls(((0, mode),))

    @property
    def dense(self) -> bool:
        """Whether gradients travel through DDP's own all-reduce."""
        return not self.modes

    def mode_for(self, num_elements: int) -> Mode:
        """Give the mode of a bucket; the plan must not be dense."""
        for up_to, mode in self.modes:
            if num_elements <= up_to:
                return mode
        return self.modes[-1][1]

    def __str__(self) -> str:
        if self.dense:
            return "dense"
        if len(self.modes) == 1:
            text = str(self.modes[0][1])
        else:
            bounds = [f"up to {up_to:,} elements" for up_to, _ in self.modes[:-1]] + ["larger ones"]
            parts = zip(bounds, self.modes, strict=True)
            text = ", ".join(f"{bound}: {mode}" for bound, (_, mode) in parts)
        return f"{text}, overlapped" if self.overlap else text


DENSE = Plan()
