"""Tables of frequencies for classes of values: the first guess, the fit to counts, and the rates that a search uses."""

from dataclasses import dataclass
from functools import cache
from math import erf, exp, sqrt

import numpy as np
from numpy.typing import NDArray

from trafficzip.errors import CorruptPayloadError
from trafficzip.kernels.reference_tables import NUM_SYMBOLS, TABLE_BITS, TABLE_SIZE, ZERO

MAX_CLASSES = 32  # tables of 16 KiB while decoding, of which few are in use
PATCH_BITS = 64
_WIDE_CLASS = 20  # classes above keep a low bit for every octave
_RATE_UNIT = 1 << 12  # rates are multiples of 1/4096 bit, so that libraries' logarithms agree
Rates = NDArray[np.float32]


def low_bits_of(lowest: int, num_classes: int) -> NDArray[np.uint8]:
    """Give how many low bits each class keeps; a class is four times the base-2 logarithm of deviation over step."""
    return np.array([max(0, (lowest + kind - _WIDE_CLASS) // 4) for kind in range(num_classes)], np.uint8)


@dataclass(frozen=True, slots=True)
class Tables:
    """Frequencies of all classes.

    lowest: what class 0 is.  halves: per class and union, the frequencies of symbols 1, 2, ...; symbol 0 has the rest,
    and negative symbols mirror the others.
    """

    lowest: int
    halves: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]

    @property
    def low_bits(self) -> NDArray[np.uint8]:
        """How many low bits each class keeps; uint8 [classes]."""
        return low_bits_of(self.lowest, len(self.halves))

    def frequencies(self) -> NDArray[np.uint16]:
        """Give uint16 [classes, 2, 256]; every table sums to 2048.

        Raises:
            CorruptPayloadError: the halves are not those of a table.
        """
        tables = np.zeros((len(self.halves), 2, NUM_SYMBOLS), np.uint16)
        for kind, (unions, width) in enumerate(zip(self.halves, self.low_bits.tolist(), strict=True)):
            for union, half in enumerate(unions):
                tables[kind, union] = _mirror(half, width, f"table of class {self.lowest + kind}, union {union}")
        return tables

    def rates(self) -> Rates:
        """Give the bits of every magnitude of a level: float32 [classes, 2, magnitudes], sign and low bits included."""
        tables = self.frequencies()
        widths = self.low_bits.tolist()
        rates = np.empty((len(widths), 2, ZERO << max(widths)), np.float32)
        for kind, width in enumerate(widths):
            for union in range(2):
                half = tables[kind, union, ZERO:].astype(np.float64)
                bits = TABLE_BITS - np.log2(np.maximum(half, 1)) + width
                last = int(np.flatnonzero(half)[-1])
                bits = np.where(half > 0, bits, bits[last] + PATCH_BITS)
                rates[kind, union] = _spread(bits, width, rates.shape[2], bits[last] + PATCH_BITS)
        return (np.round(rates * _RATE_UNIT) / _RATE_UNIT).astype(np.float32)


def _spread(bits: NDArray[np.float64], width: int, size: int, beyond: float) -> NDArray[np.float64]:
    """Give each magnitude the bits of its symbol."""
    spread = np.repeat(bits, 1 << width)[:size]
    return np.concatenate([spread, np.full(size - spread.size, beyond)])


def _mirror(half: tuple[int, ...], width: int, what: str) -> NDArray[np.uint16]:
    rest = TABLE_SIZE // 2 - sum(half) if width else TABLE_SIZE - 2 * sum(half)
    smallest = 0 if width else 1  # how many symbols above 0 must have a frequency
    if rest < 1 or min(half, default=0) < 0 or len(half) >= ZERO or any(f < 1 for f in half[:smallest]):
        raise CorruptPayloadError(f"{what}: frequencies {list(half)} leave {rest} of {TABLE_SIZE} for symbol 0")
    if len(half) < smallest:
        raise CorruptPayloadError(f"{what}: no frequency for symbol 1")
    table = np.zeros(NUM_SYMBOLS, np.uint16)
    upper = np.array([rest, *half], np.uint16)
    table[ZERO : ZERO + upper.size] = upper
    if width:
        table[ZERO - upper.size : ZERO] = upper[::-1]
    else:
        table[ZERO - upper.size + 1 : ZERO] = upper[:0:-1]
    return table


def fit_tables(lowest: int, counts: NDArray[np.int64]) -> Tables:
    """Fit tables to counts of symbols, int64 [classes, 2, 256]; the first guess weighs as much as a few symbols."""
    widths = low_bits_of(lowest, counts.shape[0]).tolist()
    halves = []
    for kind, width in enumerate(widths):
        pair = []
        for union in range(2):
            seen = counts[kind, union]
            upper = seen[ZERO:].astype(np.float64)
            upper[width == 0 :] += seen[ZERO - 1 :: -1][: NUM_SYMBOLS - ZERO - (width == 0)]
            guess = np.array(_guess(lowest + kind, union, width))
            pair.append(_fit(upper + _PRIOR * guess, upper + guess, width))
        halves.append((pair[0], pair[1]))
    return Tables(lowest, tuple(halves))


_PRIOR = 16.0  # what the first guess weighs, in symbols


def _fit(weights: NDArray[np.float64], seen: NDArray[np.float64], width: int) -> tuple[int, ...]:
    """Share 2048 slots out by weight, at least one to each symbol that is worth a slot."""
    total = float(weights.sum())
    slots = TABLE_SIZE // 2 if width else TABLE_SIZE
    keep = seen * (PATCH_BITS - TABLE_BITS) > total * 1.45 / TABLE_SIZE * (1 if width else 2)
    keep[: 1 if width else 2] = True
    kept = np.flatnonzero(keep)
    last = int(kept[-1])
    scale = np.ones(last + 1) if width else np.array([1.0] + [0.5] * last)  # of both signs, or of one
    shares = weights[: last + 1] * scale / float(weights[: last + 1][keep[: last + 1]].sum()) * slots
    half = np.where(keep[: last + 1], np.maximum(1, np.rint(shares)), 0).astype(int)
    while True:  # symbol 0 has the rest; where it would have too little of it, others give
        rest = slots - int(half[1:].sum()) * (1 if width else 2)
        if rest >= max(1, 0.9 * shares[0]):
            return tuple(half[1:].tolist())
        half[1 + int(np.argmax(half[1:]))] -= 1


@cache
def _guess(kind: int, union: int, width: int) -> tuple[float, ...]:
    """Give probabilities of symbols 0 and both signs of 1, 2, ...: a Gaussian with a share of Laplacian tails."""
    deviation = 2.0 ** (kind / 4)
    edges = [0.0]
    for symbol in range(1, ZERO + 1):
        if width:
            edges.append(2.0 * (symbol << width) - 1)
        else:
            low, high = (2 * k - union * (k > 0) for k in (symbol - 1, symbol))
            edges.append((low + high) / 2)
    below = [0.95 * erf(edge / deviation / sqrt(2)) + 0.05 * (1 - exp(-1.2 * edge / deviation)) for edge in edges]
    return tuple(max(b - a, 1e-9) for a, b in zip(below[:-1], below[1:], strict=True))


def guess_tables(lowest: int, num_classes: int) -> Tables:
    """Give tables of the first guess."""
    return fit_tables(lowest, np.zeros((num_classes, 2, NUM_SYMBOLS), np.int64))
