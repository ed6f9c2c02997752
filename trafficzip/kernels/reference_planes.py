"""The definition of byte planes and their coding, in plain Python; compiled kernels equal it bit for bit.

Source: Duda 2013, "Asymmetric numeral systems"; Giesen 2014 (interleaved entropy coders); FORMAT.md, planes.
"""

from collections.abc import Sequence
from itertools import accumulate

PRECISION_BITS = 12
TABLE_SIZE = 1 << PRECISION_BITS  # frequencies sum to this
LOW = 1 << 16  # states start here and are never lower between two symbols
_MAX_LENGTH = PRECISION_BITS  # bits of a frequency: two symbols or more occur, so each has less than TABLE_SIZE


def num_lanes(num_symbols: int) -> int:
    """Give the number of interleaved states of a plane."""
    return 1 if num_symbols < 1 << 12 else 8


def rotate(value: int, *, width: int, top: int, by: int) -> int:
    """Rotate the highest `top` of `width` bits left by `by`; the others stay."""
    high, low = divmod(value, 1 << (width - top))
    return ((high << by | high >> (top - by)) % (1 << top)) << (width - top) | low


def split(values: Sequence[int], *, width: int, top: int, by: int) -> list[list[int]]:
    """Give the bytes of the rotated values by place, lowest place first."""
    rotated = [rotate(value, width=width, top=top, by=by) for value in values]
    return [[value >> place & 255 for value in rotated] for place in range(0, width, 8)]


def merge(planes: Sequence[Sequence[int]], *, width: int, top: int, by: int) -> list[int]:
    """Undo `split`."""
    values = [sum(byte << 8 * place for place, byte in enumerate(bytes_)) for bytes_ in zip(*planes, strict=True)]
    return [rotate(value, width=width, top=top, by=top - by) for value in values]


def normalize(counts: Sequence[int]) -> list[int]:
    """Give frequencies that sum to 4096 to symbols with these counts, at least two of them above 0.

    What rounding leaves goes, one by one, to the symbol that gains most by it, or comes from the one that loses least;
    the first one where several do. A symbol with count c gains about c / (f + 1/2) from one more than f.
    """
    total = sum(counts)
    result = [max(1, count * TABLE_SIZE // total) if count else 0 for count in counts]
    while sum(result) < TABLE_SIZE:
        best = counts.index(max(counts))
        for symbol, count in enumerate(counts):
            if count * (2 * result[best] + 1) > counts[best] * (2 * result[symbol] + 1):
                best = symbol
        result[best] += 1
    while sum(result) > TABLE_SIZE:
        best = counts.index(max(counts))  # its frequency is above 1: 256 symbols share 4096
        for symbol, count in enumerate(counts):
            if result[symbol] > 1 and count * (2 * result[best] - 1) < counts[best] * (2 * result[symbol] - 1):
                best = symbol
        result[best] -= 1
    return result


def write_table(frequencies: Sequence[int]) -> bytes:
    """Write frequencies, int [256]: runs of symbols that occur and that do not, then bit lengths and lower bits."""
    bits = [1 if frequencies[0] else 0]
    symbol = 0
    while symbol < 256:
        start = symbol
        while symbol < 256 and (frequencies[symbol] > 0) == (frequencies[start] > 0):
            symbol += 1
        length = (symbol - start).bit_length()
        bits += [0] * (length - 1) + [symbol - start >> bit & 1 for bit in reversed(range(length))]
    previous = _MAX_LENGTH
    for frequency in frequencies:
        if frequency:
            length = frequency.bit_length()
            difference = length - previous
            bits += [0] * (2 * difference if difference >= 0 else -2 * difference - 1) + [1]
            bits += [frequency >> bit & 1 for bit in range(length - 1)]
            previous = length
    return sum(bit << place for place, bit in enumerate(bits)).to_bytes((len(bits) + 7) // 8, "little")


def read_table(data: bytes) -> tuple[list[int], int]:
    """Read what `write_table` wrote; give the frequencies and the number of bytes.

    Raises: ValueError where `data` does not start with a table.
    """
    bits = [byte >> place & 1 for byte in data for place in range(8)][::-1]

    def zeros(limit: int) -> int:
        count = 0
        while not _pop_bit(bits):
            count += 1
            if count > limit:
                raise ValueError("too many zero bits")
        return count

    occurs = bool(_pop_bit(bits))
    present: list[bool] = []
    while len(present) < 256:
        run = 1
        for _ in range(zeros(8)):
            run = 2 * run + _pop_bit(bits)
        present += [occurs] * run
        occurs = not occurs
    if len(present) > 256:
        raise ValueError("runs exceed the symbols")
    frequencies = [0] * 256
    length = _MAX_LENGTH
    for symbol in range(256):
        if present[symbol]:
            code = zeros(2 * _MAX_LENGTH)
            length += -(code + 1) // 2 if code % 2 else code // 2
            if not 1 <= length <= _MAX_LENGTH:
                raise ValueError("a frequency has no bits, or too many")
            frequencies[symbol] = sum(_pop_bit(bits) << bit for bit in range(length - 1)) + (1 << length - 1)
    if sum(frequencies) != TABLE_SIZE or any(_pop_bit(bits) for _ in range(len(bits) % 8)):
        raise ValueError("frequencies do not sum to 4096, or padding is not zero")
    return frequencies, len(data) - len(bits) // 8


def _pop_bit(bits: list[int]) -> int:
    if not bits:
        raise ValueError("a table ends early")
    return bits.pop()


def encode_symbols(symbols: Sequence[int], frequencies: Sequence[int]) -> bytes:
    """Encode symbols, last one first, so that a decoder gives the first one first: states, then words."""
    starts = [0, *accumulate(frequencies)]
    lanes = num_lanes(len(symbols))
    states = [LOW] * lanes
    words: list[int] = []
    for i in reversed(range(len(symbols))):
        frequency, state = frequencies[symbols[i]], states[i % lanes]
        if state >= frequency << (32 - PRECISION_BITS):
            words.append(state & 0xFFFF)
            state >>= 16
        quotient, rest = divmod(state, frequency)
        states[i % lanes] = (quotient << PRECISION_BITS) + starts[symbols[i]] + rest
    return b"".join(
        [*(state.to_bytes(4, "little") for state in states), *(word.to_bytes(2, "little") for word in reversed(words))]
    )


def decode_symbols(data: bytes, frequencies: Sequence[int], num_symbols: int) -> list[int]:
    """Decode exactly `num_symbols` symbols from all of `data`.

    Raises: ValueError where `data` is not an encoding of them.
    """
    lanes = num_lanes(num_symbols)
    if len(data) < 4 * lanes or len(data) % 2:
        raise ValueError("states and words do not fill the bytes")
    states = [int.from_bytes(data[4 * lane : 4 * lane + 4], "little") for lane in range(lanes)]
    if min(states) < LOW:
        raise ValueError("a state is too low")
    words = [int.from_bytes(data[at : at + 2], "little") for at in range(4 * lanes, len(data), 2)][::-1]
    slots = [(symbol, offset) for symbol, frequency in enumerate(frequencies) for offset in range(frequency)]
    symbols = []
    for i in range(num_symbols):
        quotient, slot = divmod(states[i % lanes], TABLE_SIZE)
        symbol, offset = slots[slot]
        symbols.append(symbol)
        state = frequencies[symbol] * quotient + offset
        if state < LOW:
            if not words:
                raise ValueError("words end before the symbols do")
            state = state << 16 | words.pop()
        states[i % lanes] = state
    if words or states != [LOW] * lanes:
        raise ValueError("symbols end before the words do, or a state is not the initial one")
    return symbols
