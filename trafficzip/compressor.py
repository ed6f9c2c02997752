"""Compressor: a quantizer and a chain of codecs; arrays of values to frames and back."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from trafficzip import kernels
from trafficzip.codecs import CODECS, Codec, Quartic
from trafficzip.errors import ConfigError, CorruptPayloadError, UnsupportedFormatError
from trafficzip.kernels import Groups
from trafficzip.quantizers import QUANTIZERS, Quantizer, Ternary
from trafficzip.wire.frame import MAX_CODECS, Frame

F32 = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Stage = TypeVar("Stage")

# "These stages together have a fused op": one pass over memory instead of one per stage, with the same bytes.
_FUSED_ENCODE: dict[tuple[type[Quantizer], type[Codec]], Callable[..., Bytes]] = {
    (Ternary, Quartic): kernels.ternary_quartic,
}
_FUSED_ACCUMULATE: dict[tuple[type[Quantizer], type[Codec]], Callable[..., None]] = {
    (Ternary, Quartic): kernels.quartic_accumulate,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Compressor:
    """What is done to a tensor: one quantizer, then at most two codecs whose alphabets fit.

    The same input and configuration give the same bytes, at any number of threads.

    Raises:
        ConfigError: too many codecs, alphabets that do not fit, or a codec of unknown output size before another.
    """

    quantizer: Quantizer
    codecs: tuple[Codec, ...] = ()

    def __post_init__(self) -> None:
        if len(self.codecs) > MAX_CODECS:
            raise ConfigError(f"a compressor has at most {MAX_CODECS} codecs, got {len(self.codecs)}")
        alphabet, maker = self.quantizer.alphabet, type(self.quantizer).__name__
        for codec in self.codecs:
            if alphabet > codec.input_alphabet:
                raise ConfigError(
                    f"{type(codec).__name__} reads symbols below {codec.input_alphabet}, {maker} gives {alphabet} kinds"
                )
            alphabet, maker = codec.output_alphabet, type(codec).__name__
        for codec in self.codecs[:-1]:
            if codec.encoded_size(0) is None:
                raise ConfigError(f"{type(codec).__name__} must be the last codec: its output has no fixed size")

    def compress(
        self,
        values: F32,
        groups: Groups,
        *,
        residual: F32 | None = None,
        out: F32 | None = None,
        out_like_residual: bool = True,
        num_threads: int = 1,
    ) -> Frame:
        """Compress the groups of `values` into a frame.

        values: float32 [any], read at the groups' value starts.
        residual: float32 [any], added to the values first; unchanged unless it is also `out`.
        out: float32 [any], receives what was lost, laid out like the residual or like the values. Where an input is
            not finite it is left as it is, and the frame says so and holds nothing else.
        """
        groups.check_fit(values.size, None if residual is None else residual.size)
        scales = self.quantizer.find_scales(values, residual, groups, num_threads=num_threads)
        if scales is None:
            return self._frame(groups, np.zeros(0, np.float32), np.zeros(0, np.uint8), (), nonfinite=True)
        fused = _FUSED_ENCODE.get((type(self.quantizer), type(self.codecs[0]))) if self.codecs else None
        stored = []
        data: NDArray[Any]
        if fused is not None:
            data = fused(
                values,
                residual,
                out,
                groups,
                scales,
                out_like_residual=out_like_residual,
                num_threads=num_threads,
            )
            stored.append(False)
        else:
            data = self.quantizer.quantize(
                values, groups, scales=scales, residual=residual, out=out, out_like_residual=out_like_residual
            ).codes
        for codec in self.codecs[len(stored) :]:
            encoded = codec.encode(data, num_threads=num_threads)
            stored.append(encoded.size > data.size)
            if not stored[-1]:
                data = encoded
        scales = scales if self.quantizer.has_scales else np.zeros(0, np.float32)
        return self._frame(groups, scales, data.view(np.uint8), tuple(stored), nonfinite=False)

    def _frame(
        self, groups: Groups, scales: F32, payload: Bytes, stored: tuple[bool, ...], *, nonfinite: bool
    ) -> Frame:
        return Frame(
            quantizer_id=self.quantizer.quantizer_id,
            codec_ids=tuple(codec.codec_id for codec in self.codecs),
            num_elements=groups.num_elements,
            num_groups=len(groups.sizes),
            scales=scales,
            payload=payload,
            nonfinite=nonfinite,
            stored=stored,
        )

    def accumulate(
        self,
        frame: Frame,
        groups: Groups,
        out: F32,
        *,
        sign: float = 1.0,
        out_like_residual: bool = False,
        num_threads: int = 1,
    ) -> None:
        """Decompress `frame` and add sign * value to `out`, as two roundings.

        Raises:
            CorruptPayloadError: the frame does not hold these groups, or its payload does not decode.
            UnsupportedFormatError: the frame was made by other stages.
        """
        self.check(frame, groups)
        codec = self.codecs[0] if self.codecs else None
        fused = _FUSED_ACCUMULATE.get((type(self.quantizer), type(codec))) if codec is not None else None
        if fused is not None and codec is not None and not frame.stored[0]:
            size = codec.encoded_size(self.quantizer.num_codes(groups)) or 0
            symbols = self._decode(frame, groups, down_to=1, num_threads=num_threads)
            if symbols.size != size:
                raise CorruptPayloadError(f"frame holds {symbols.size} bytes of codes, expected {size}")
            scales = frame.scales * np.float32(sign)
            fused(symbols, scales, out, groups, out_like_residual=out_like_residual, num_threads=num_threads)
            return
        codes = self._decode(frame, groups, down_to=0, num_threads=num_threads)
        self.quantizer.accumulate(codes, frame.scales, groups, out, sign=sign, out_like_residual=out_like_residual)

    def decompress(self, frame: Frame, groups: Groups, *, num_threads: int = 1) -> F32:
        """Give the decoded values, float32 [groups.num_elements], one group after the other."""
        packed = Groups(groups.sizes)
        out = np.zeros(groups.num_elements, np.float32)
        self.accumulate(frame, packed, out, num_threads=num_threads)
        return out

    def codes(self, frame: Frame, groups: Groups) -> NDArray[Any]:
        """Undo the codecs only: the quantizer's codes, padding included.

        Raises:
            CorruptPayloadError: the frame does not hold these groups, or its payload does not decode.
        """
        self.check(frame, groups)
        return self._decode(frame, groups, down_to=0, num_threads=1)

    def check(self, frame: Frame, groups: Groups) -> None:
        """Check that `frame` was made by these stages from these groups, before anything is allocated."""
        ids = tuple(codec.codec_id for codec in self.codecs)
        if (frame.quantizer_id, frame.codec_ids) != (self.quantizer.quantizer_id, ids):
            raise UnsupportedFormatError(
                f"frame was made by quantizer {frame.quantizer_id} and codecs {frame.codec_ids}, "
                f"expected {self.quantizer.quantizer_id} and {ids}"
            )
        if (frame.num_elements, frame.num_groups) != (groups.num_elements, len(groups.sizes)):
            raise CorruptPayloadError(
                f"frame holds {frame.num_elements} elements in {frame.num_groups} groups, "
                f"expected {groups.num_elements} in {len(groups.sizes)}"
            )
        if frame.nonfinite:
            raise CorruptPayloadError("frame holds no values: its input was not finite")
        num_scales = len(groups.sizes) if self.quantizer.has_scales else 0
        if frame.scales.size != num_scales:
            raise CorruptPayloadError(f"frame holds {frame.scales.size} scales, expected {num_scales}")

    def _decode(self, frame: Frame, groups: Groups, *, down_to: int, num_threads: int) -> NDArray[Any]:
        """Undo the codecs, last first, down to codec `down_to`; the sizes in between follow from the groups."""
        sizes = [self.quantizer.num_codes(groups)]
        for codec, stored in zip(self.codecs, frame.stored, strict=True):
            sizes.append(sizes[-1] if stored else codec.encoded_size(sizes[-1]) or 0)
        data: NDArray[Any] = frame.payload
        for k in range(len(self.codecs) - 1, down_to - 1, -1):
            if not frame.stored[k]:
                data = self.codecs[k].decode(data, sizes[k], num_threads=num_threads)
        if data.size != sizes[down_to]:
            raise CorruptPayloadError(f"frame holds {data.size} bytes of codes, expected {sizes[down_to]}")
        return data.view(np.int8) if down_to == 0 and self.quantizer.alphabet == 3 else data

    def to_dict(self) -> dict[str, Any]:
        """Give the configuration as plain data that JSON can hold."""
        return {
            "quantizer": {"id": self.quantizer.quantizer_id, **asdict(self.quantizer)},  # type: ignore[call-overload]
            "codecs": [{"id": codec.codec_id, **asdict(codec)} for codec in self.codecs],  # type: ignore[call-overload]
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Compressor":
        """Build what `to_dict` described.

        Raises:
            UnsupportedFormatError: an id that this release does not know.
            ConfigError: a field that the stage does not have, or one out of range.
        """
        try:
            quantizer = _build(QUANTIZERS, data["quantizer"])
            codecs = tuple(_build(CODECS, codec) for codec in data["codecs"])
        except (KeyError, TypeError) as error:
            raise ConfigError(f"not a compressor description: {error}") from error
        return cls(quantizer=quantizer, codecs=codecs)

    def fingerprint(self) -> str:
        """Give 16 hexadecimal digits that two compressors share only when their configurations are equal."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]


def _build(table: Mapping[int, type[Stage]], fields: Mapping[str, Any]) -> Stage:
    arguments = dict(fields)
    stage_id = arguments.pop("id")
    if stage_id not in table:
        raise UnsupportedFormatError(f"no stage with id {stage_id}; known: {sorted(table)}")
    return table[stage_id](**arguments)
