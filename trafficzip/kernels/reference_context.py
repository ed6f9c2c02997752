"""The definition of the context coder in plain Python; compiled kernels equal it bit for bit.

An adaptive binary arithmetic coder of small integers. A level becomes flags: not zero; its sign; above 1, above 2 and
so on, then an Exp-Golomb code of what is left. Every flag has a probability that follows what was coded before in the
same context: the caller's, the union of the trellis, and what neighbours decoded before let expect. Integers only.

Levels are those of trellis-coded quantization; without parity checks they are plain integers, of two steps each.

Source: Martin 1979 (range coding); Marpe, Schwarz, Wiegand 2003 (binarization, contexts); Wiedemann et al. 2020
(contexts of weights); FORMAT.md section 10.
"""

from collections.abc import Sequence
from typing import Protocol

from trafficzip.kernels.context_priors import EXPECTED, NUM_FLAGS, SCALES
from trafficzip.kernels.reference_trellis import NUM_LANES

LARGEST = (1 << 30) - 1  # magnitude of a level
MAX_EXPONENT = 29  # of the Exp-Golomb code
PRECISION_BITS = 22  # of an adaptive probability
FAST_WINDOW, SLOW_WINDOW = 96, 768  # a state forgets after so many flags
FIRST_COUNT = 8  # an expected probability counts as so many flags seen
LEAST = 16  # probabilities are kept in [16, 2**16 - 16]
RANGE_BITS, RENORMAL_BITS = 32, 24
MAGNITUDE_FACTORS = (20, 12, 7, 4)  # thresholds of the neighbours' magnitude: factor * twice their mean > scale
STRONG = 20  # a forecast is strong where 128 * |forecast| > 20 * scale
SIGN_FACTORS = (0, 3, 6, 11, 18, 26, 37, 51)  # thresholds of a forecast: 128 * |forecast| > factor * scale
MEANINGS = len(MAGNITUDE_FACTORS) + 2  # no neighbours, or one of the ranges of their magnitude


class Coder(Protocol):
    """Either side of the arithmetic coder."""

    def bit(self, probability: int, wanted: bool) -> bool:
        """Code one flag that is set with a probability in 65536ths; the decoding side ignores what is wanted."""


class Encoder:
    """Narrows the interval [low, low + range) to that of each flag; a set flag takes the lower part."""

    def __init__(self) -> None:
        self.low, self.range, self.num_shifts = 0, (1 << RANGE_BITS) - 1, 0

    def bit(self, probability: int, wanted: bool) -> bool:
        """Put a flag in."""
        bound = self.range * probability >> 16
        if wanted:
            self.range = bound
        else:
            self.low, self.range = self.low + bound, self.range - bound
        while self.range < 1 << RENORMAL_BITS:
            self.low, self.range, self.num_shifts = self.low << 8, self.range << 8, self.num_shifts + 1
        return wanted

    def finish(self) -> bytes:
        """Give the shortest number at or above low that one byte after the last shift can end."""
        return (self.low + (1 << RENORMAL_BITS) - 1 >> RENORMAL_BITS).to_bytes(self.num_shifts + 1, "big")


class Decoder:
    """Follows the encoder; bytes after the end are zero."""

    def __init__(self, data: bytes) -> None:
        self.data, self.range, self.num_shifts = data, (1 << RANGE_BITS) - 1, 0
        self.code = int.from_bytes((data + bytes(4))[:4], "big")  # the number less low
        self.sound = bool(data) and self.code < self.range

    def bit(self, probability: int, wanted: bool) -> bool:
        """Take a flag out."""
        bound = self.range * probability >> 16
        found = self.code < bound
        if found:
            self.range = bound
        else:
            self.code, self.range = self.code - bound, self.range - bound
        while self.range < 1 << RENORMAL_BITS:
            at = self.num_shifts + 4
            self.code = self.code << 8 | (self.data[at] if at < len(self.data) else 0)
            self.range, self.num_shifts = self.range << 8, self.num_shifts + 1
        return found

    def complete(self) -> bool:
        """Tell whether all bytes were needed, and the number is the one that an encoder writes."""
        return self.num_shifts + 1 == len(self.data) and self.code < 1 << RENORMAL_BITS


class State:
    """The probability of a flag: a fast and a slow estimate, both averages of all flags at first."""

    def __init__(self, probability: int, count: int) -> None:
        self.fast = self.slow = probability
        self.count = count

    def code(self, coder: Coder, wanted: bool) -> bool:
        """Code a flag and learn from it."""
        probability = min(max(self.fast + self.slow >> PRECISION_BITS - 15, LEAST), (1 << 16) - LEAST)
        found = coder.bit(probability, wanted)
        goal = int(found) << PRECISION_BITS
        self.fast += (goal - self.fast) * rate(self.count, FAST_WINDOW) >> 16
        self.slow += (goal - self.slow) * rate(self.count, SLOW_WINDOW) >> 16
        self.count = min(self.count + 1, SLOW_WINDOW)
        return found


def rate(count: int, window: int) -> int:
    """Give how far a state moves towards a flag, in 65536ths, after `count` flags."""
    return max((1 << 17) // (2 * count + 3), (1 << 16) // window)


class Model:
    """All states, by what they are for."""

    def __init__(self, spreads: Sequence[int]) -> None:
        even = 1 << PRECISION_BITS - 1
        # [context][union][4 * meaning of the neighbours + kind of forecast][flag]
        self.flags = [
            [
                [[State(p << PRECISION_BITS - 12, FIRST_COUNT) for p in row] for _ in range(4 * MEANINGS)]
                for row in EXPECTED[spread]
            ]
            for spread in spreads
        ]
        self.blind_signs = [State(even, FIRST_COUNT) for _ in spreads]
        self.signs = [State(even, FIRST_COUNT) for _ in SIGN_FACTORS]
        self.lengths = [[State(even, 0) for _ in range(MAX_EXPONENT)] for _ in spreads]
        self.leading = [[State(even, 0) for _ in range(MAX_EXPONENT + 1)] for _ in spreads]


def encode_levels(
    levels: Sequence[int],
    contexts: Sequence[int],
    neighbours: Sequence[int],
    spreads: Sequence[int],
    check0: int,
    check1: int,
) -> bytes:
    """Code levels.

    levels: int [n], magnitudes at most LARGEST.  contexts: int [n], in 0..len(spreads)-1.  neighbours: int [n], how far
    back the neighbour in the same row is in bits 0 to 3, and the one above in bits 4 to 7; 0 for none.  spreads: int
    [1..256], per context a row of EXPECTED.  check0, check1: the polynomials of the trellis, or 0 for integers.
    """
    encoder = Encoder()
    _code(encoder, levels, contexts, neighbours, spreads, check0, check1)
    return encoder.finish() if levels else b""


def decode_levels(
    data: bytes, contexts: Sequence[int], neighbours: Sequence[int], spreads: Sequence[int], check0: int, check1: int
) -> list[int] | None:
    """Give the levels; None if the bytes are not one encoding of as many levels as there are contexts."""
    if not contexts:
        return None if data else []
    decoder = Decoder(data)
    levels = _code(decoder, None, contexts, neighbours, spreads, check0, check1) if decoder.sound else None
    return levels if levels is not None and decoder.complete() else None


def _code(
    coder: Coder,
    wanted: Sequence[int] | None,
    contexts: Sequence[int],
    neighbours: Sequence[int],
    spreads: Sequence[int],
    check0: int,
    check1: int,
) -> list[int] | None:
    """Code the wanted levels, or find what they are."""
    model, lanes = Model(spreads), [0] * NUM_LANES
    levels: list[int] = []
    values: list[int] = []  # multiples of the step
    for i, context in enumerate(contexts):
        state, scale = lanes[i % NUM_LANES], SCALES[spreads[context]]
        union = state & 1
        meaning, forecast = _look_around(values, neighbours[i], scale)
        level = _level(coder, wanted[i] if wanted else None, model, context, union, meaning, forecast, scale)
        if level is None:
            return None
        levels.append(level)
        values.append(2 * level - union * ((level > 0) - (level < 0)))
        lanes[i % NUM_LANES] = (state >> 1) ^ union * (check0 >> 1) ^ (level & 1) * (check1 >> 1)
    return levels


def _look_around(values: Sequence[int], distances: int, scale: int) -> tuple[int, int]:
    """Give the range of the neighbours' magnitude, 0 without any, and four times the value that they let expect."""
    left, above = distances & 15, distances >> 4
    if not distances:
        return 0, 0
    i = len(values)
    a = values[i - left] if 0 < left <= i else 0
    b = values[i - above] if 0 < above <= i else 0
    corner = values[i - left - above] if left and above and left + above <= i else 0
    sum_of_two = (abs(a) + abs(b)) * (1 if left and above else 2)
    return 1 + sum(factor * sum_of_two > scale for factor in MAGNITUDE_FACTORS), 2 * (a + b) - corner


def _level(
    coder: Coder, wanted: int | None, model: Model, context: int, union: int, meaning: int, forecast: int, scale: int
) -> int | None:
    """Code one level: not zero, sign, above 1, above 2, ..., the rest."""
    size = abs(wanted or 0)
    strong = 128 * abs(forecast) > STRONG * scale
    kinds = model.flags[context][union][4 * meaning + 2 * strong :]
    if not kinds[0][0].code(coder, size > 0):
        return 0
    down = forecast < 0
    passed = sum(128 * abs(forecast) > factor * scale for factor in SIGN_FACTORS)
    sign = model.signs[passed - 1] if passed else model.blind_signs[context]
    against = sign.code(coder, ((wanted or 0) < 0) != down)
    states = kinds[1 if passed and against else 0]
    magnitude = 1
    while magnitude < NUM_FLAGS and states[magnitude].code(coder, size > magnitude):
        magnitude += 1
    if magnitude == NUM_FLAGS:
        rest = _rest(coder, max(size - NUM_FLAGS + 1, 1), model, context)
        if rest is None or rest + NUM_FLAGS - 1 > LARGEST:
            return None
        magnitude = rest + NUM_FLAGS - 1
    return -magnitude if against != down else magnitude


def _rest(coder: Coder, wanted: int, model: Model, context: int) -> int | None:
    """Code a number of at least 1: its bit length less 1 in unary, then the bits below its highest one."""
    length = 0
    while model.lengths[context][length].code(coder, wanted.bit_length() - 1 > length):
        length += 1
        if length == MAX_EXPONENT:
            break
    rest = 1
    for place in reversed(range(length)):
        bit = bool(wanted >> place & 1)
        leading = place == length - 1
        rest = 2 * rest + (model.leading[context][length].code(coder, bit) if leading else coder.bit(1 << 15, bit))
    return rest
