"""The definition of rANS coding of one chunk, and of its model, in plain Python; compiled kernels equal it bit for bit.

Source: Duda 2013, "Asymmetric numeral systems"; FORMAT.md, rANS.
"""

from collections.abc import Sequence
from itertools import accumulate

NUM_SYMBOLS = 243
LOW = 1 << 16  # states start here and are never lower between two symbols


def num_lanes(num_symbols: int) -> int:
    """Give the number of interleaved states of a chunk."""
    return 1 if num_symbols < 1 << 12 else 8


def max_tail_blocks(num_symbols: int, chunk_symbols: int) -> int:
    """Limit the blocks of eight symbols in the tail of a chunk, which one state alone codes.

    num_symbols: of the chunk.  chunk_symbols: what a chunk of the payload may have at most.
    """
    return min(255, chunk_symbols >> 8, num_symbols >> 5)


def group_sizes(partition: int) -> list[int]:
    """Give the sizes of the groups of equally likely symbols, in `symbol_order`; their sum is 243.

    Partition 1 has 6 groups, 2 has 12, 3 has 21: symbols that agree in so many numbers of `pattern`. 4 has 243.
    """
    if partition == 4:
        return [1] * NUM_SYMBOLS
    keys = [pattern(symbol)[:partition] for symbol in symbol_order()]
    return [keys.count(key) for key in sorted(set(keys))]


def symbol_order() -> list[int]:
    """Sort the symbols by `pattern`, then by value: 121 is first."""
    return sorted(range(NUM_SYMBOLS), key=lambda symbol: (pattern(symbol), symbol))


def pattern(symbol: int) -> tuple[int, int, int]:
    """Count, among the five codes of a quartic byte: those that are not zero, of the rarer sign, and positive."""
    digits = [symbol // 3**place % 3 for place in range(5)]
    return 5 - digits.count(1), min(digits.count(0), digits.count(2)), digits.count(2)


def weight(code: int) -> int:
    """Give the weight a code stands for, four per octave; code 0 is a group that does not occur."""
    return 0 if code == 0 else (4 + (code - 1) % 4) << (code - 1) // 4


def frequencies(codes: Sequence[int], partition: int, precision_bits: int) -> list[int]:
    """Give the frequency of every symbol from the codes of all groups; the heaviest symbol takes what rounding leaves.

    Raises: ValueError where the codes give no table: fewer than two symbols occur, or too many for the precision.
    """
    weights = [weight(code) for code, size in zip(codes, group_sizes(partition), strict=True) for _ in range(size)]
    total = sum(weights)
    if sum(1 for value in weights if value) < 2:
        raise ValueError("fewer than two symbols occur")
    scaled = [max(1, ((value << precision_bits) + total // 2) // total) if value else 0 for value in weights]
    heaviest = weights.index(max(weights))
    scaled[heaviest] += (1 << precision_bits) - sum(scaled)
    if scaled[heaviest] < 1:
        raise ValueError("too many symbols for the precision")
    result = [0] * NUM_SYMBOLS
    for symbol, frequency in zip(symbol_order(), scaled, strict=True):
        result[symbol] = frequency
    return result


def encode_chunk(symbols: Sequence[int], table: Sequence[int], precision_bits: int, chunk_symbols: int) -> bytes:
    """Encode symbols, last one first, so that a decoder gives them first one first; table has their frequencies.

    The tail, the last symbols, has only lane 0. Seven words that it gives become the low halves of the initial states
    of lanes 1 to 7, whose room would be lost otherwise.
    """
    lanes, size = num_lanes(len(symbols)), len(symbols)
    if lanes == 1:
        state, words = push_all(LOW, symbols, table, precision_bits)
        return join_states([state]) + join_words(words)
    for blocks in range(max_tail_blocks(size, chunk_symbols) + 1):
        body = size - size % 8 - 8 * blocks
        state, words = push_all(LOW, symbols[body:], table, precision_bits)
        if len(words) >= 7:
            break
    moved = words[-7:]
    words = words[: len(words) - len(moved)]
    states = [state] + [LOW + word for word in moved + [0] * (7 - len(moved))]
    for i in reversed(range(body)):
        states[i % 8], pushed = push_all(states[i % 8], symbols[i : i + 1], table, precision_bits)
        words = pushed + words
    return bytes([blocks]) + join_states(states) + join_words(words)


def decode_chunk(data: bytes, table: Sequence[int], precision_bits: int, num_symbols: int) -> list[int]:
    """Decode one chunk.

    Raises: ValueError where `data` is not an encoding of `num_symbols` symbols.
    """
    lanes = num_lanes(num_symbols)
    body = 0
    moved: list[int] = []
    if lanes == 8:
        if not data:
            raise ValueError("a chunk is empty")
        body = num_symbols - num_symbols % 8 - 8 * data[0]
        data = data[1:]
    states, words = split_chunk(data, lanes)
    if body < 0:
        raise ValueError("the tail is longer than the chunk")
    slots = [(symbol, at) for symbol, frequency in enumerate(table) for at in range(frequency)]
    symbols = []
    for i in range(num_symbols):
        if i == body and lanes == 8:
            if any(state >> 16 != 1 for state in states[1:]):
                raise ValueError("a state is not an initial one")
            moved = [state & 0xFFFF for state in states[1:]]
        lane = i % 8 if i < body else 0
        quotient, slot = divmod(states[lane], 1 << precision_bits)
        symbol, offset = slots[slot]
        symbols.append(symbol)
        states[lane] = table[symbol] * quotient + offset
        if states[lane] < LOW:
            source = words or moved
            if not source:
                raise ValueError("words end before the symbols do")
            states[lane] = states[lane] << 16 | source.pop(0)
    if words or any(moved) or states[0] != LOW:
        raise ValueError("symbols end before the words do, or a state is not the initial one")
    return symbols


def push_all(state: int, symbols: Sequence[int], table: Sequence[int], precision_bits: int) -> tuple[int, list[int]]:
    """Add symbols to a state, last one first; give the state and the words that left it, in reading order."""
    starts = [0, *accumulate(table)]
    words: list[int] = []
    for symbol in reversed(symbols):
        if state >= table[symbol] << (32 - precision_bits):
            words.insert(0, state & 0xFFFF)
            state >>= 16
        quotient, rest = divmod(state, table[symbol])
        state = (quotient << precision_bits) + starts[symbol] + rest
    return state, words


def join_states(states: Sequence[int]) -> bytes:
    """Write each state as e, 4 bits, and its 16 + e bits below the highest one, lowest bit first."""
    packed, used = 0, 0
    for state in states:
        extra = state.bit_length() - 17
        packed |= (extra | (state - (LOW << extra)) << 4) << used
        used += 20 + extra
    return packed.to_bytes((used + 7) // 8, "little")


def join_words(words: Sequence[int]) -> bytes:
    """Write words in reading order, low byte first."""
    return b"".join(word.to_bytes(2, "little") for word in words)


def split_chunk(data: bytes, lanes: int) -> tuple[list[int], list[int]]:
    """Read what `join_states` and `join_words` wrote.

    Raises: ValueError where bytes are missing or left, or a bit behind the states is set.
    """
    packed, used, states = int.from_bytes(data, "little"), 0, []
    for _ in range(lanes):
        extra = packed >> used & 15
        states.append((packed >> used + 4 & (LOW << extra) - 1) + (LOW << extra))
        used += 20 + extra
    at = (used + 7) // 8
    if at > len(data) or (len(data) - at) % 2 or packed >> used & (1 << 8 * at - used) - 1:
        raise ValueError("states and words do not fill the chunk")
    return states, [int.from_bytes(data[i : i + 2], "little") for i in range(at, len(data), 2)]
