"""Compiled Huffman coding of bytes: code lengths by package-merge, canonical codes, decoding by one table.

Codes are written first bit lowest, so the next 12 bits are a slot of the decoder's table. Indices are unsigned: signed
ones cost a test for negative values at every access. `reference_huffman` is the definition; FORMAT.md, Huffman coding.
"""

import numpy as np
from numpy.typing import NDArray

from trafficzip.kernels.numba_cpu_bits import get, get_runs, put, put_runs, unzigzag, zeros_at, zigzag
from trafficzip.kernels.numba_cpu_jit import jit
from trafficzip.kernels.numba_cpu_planes_model import count
from trafficzip.kernels.reference_huffman import ABSENT, MAX_LENGTH, TABLE_SIZE

_MAX_TABLE_BYTES = 1024  # 1 + at most 2 * 256 bits of runs, then at most 24 + 1 bits for each of 256 symbols: 865
_ZERO, _ONE, _TWO, _THREE = np.uint64(0), np.uint64(1), np.uint64(2), np.uint64(3)
_FOUR, _SEVEN, _EIGHT = np.uint64(4), np.uint64(7), np.uint64(8)
_SLOTS = np.uint64(TABLE_SIZE - 1)
_SHIFTS = np.uint64(63)  # lengths, by a mask that shifts of 64 bits have anyway


def encode(symbols: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Encode bytes, uint8 [n]: lengths, then codes; no bytes for none."""
    if symbols.size == 0:
        return np.empty(0, np.uint8)
    counts = count(symbols)
    lengths = code_lengths(counts)
    head = write_lengths(lengths)
    size = head.size + (int(counts @ lengths) + 7) // 8  # what does not occur has count 0
    data = np.empty(size + 8, np.uint8)  # words of eight bytes are stored
    data[: head.size] = head
    encode_symbols(symbols, encoder_table(lengths), data[head.size :])
    return data[:size]


def decode(data: NDArray[np.uint8], symbols: NDArray[np.uint8]) -> bool:
    """Decode into `symbols`, uint8 [n]; False where `data`, uint8 [m], is not an encoding of n symbols."""
    if symbols.size == 0:
        return bool(data.size == 0)
    lengths = np.empty(256, np.int64)
    size = read_lengths(data, lengths)
    if size < 0:
        return False
    return decode_symbols(data[size:], decoder_table(lengths), symbols)


@jit
def code_lengths(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give lengths, int64 [256], 0 to 12, -1 for symbols that do not occur.

    counts: int64 [256], 0 to 2**49, at least one above 0.
    """
    order = _by_count(counts)
    num = order.size
    from_leaf = np.zeros((MAX_LENGTH, 2 * num), np.bool_)  # items of a level, by weight: a symbol, or else a package
    weights = counts[order]
    size = num
    from_leaf[0, :num] = True
    for level in range(1, MAX_LENGTH):
        merged = np.empty(2 * num, np.int64)
        leaf = package = 0
        for item in range(num + size // 2):
            weight = weights[2 * package] + weights[2 * package + 1] if package < size // 2 else 0
            if leaf < num and (package == size // 2 or counts[order[leaf]] <= weight):
                merged[item] = counts[order[leaf]]
                from_leaf[level, item] = True
                leaf += 1
            else:
                merged[item] = weight
                package += 1
        size = num + size // 2
        weights = merged
    lengths = np.full(256, ABSENT, np.int64)
    lengths[order] = 0
    taken = 2 * num - 2
    for level in range(MAX_LENGTH - 1, -1, -1):  # a level's first items hold its first symbols and first packages
        leaves = np.count_nonzero(from_leaf[level, :taken])
        for leaf in range(leaves):
            lengths[order[leaf]] += 1
        taken = 2 * (taken - leaves)
    return lengths


@jit
def write_lengths(lengths: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Write lengths, int64 [256]: runs of symbols that occur and that do not, then differences."""
    data = np.zeros(_MAX_TABLE_BYTES, np.uint8)
    used = put_runs(lengths != ABSENT, data, 0)
    previous = MAX_LENGTH
    for symbol in range(256):
        if lengths[symbol] != ABSENT:
            used += zigzag(lengths[symbol] - previous)  # zeros
            used = put(1, 1, data, used)
            previous = lengths[symbol]
    return data[: (used + 7) // 8].copy()


@jit
def read_lengths(data: NDArray[np.uint8], lengths: NDArray[np.int64]) -> int:
    """Read the lengths at the start of `data` into int64 [256]; give their bytes, or -1 if there are none."""
    end = 8 * data.size
    occurs = np.empty(256, np.bool_)
    used = get_runs(data, 0, end, occurs)
    if used < 0:
        return -1
    length = MAX_LENGTH
    total = 0
    for symbol in range(256):
        lengths[symbol] = ABSENT
        if occurs[symbol]:
            zeros = zeros_at(data, used, end, 2 * MAX_LENGTH)
            if zeros < 0:
                return -1
            used += zeros + 1
            length += unzigzag(zeros)
            if not 0 <= length <= MAX_LENGTH:
                return -1
            lengths[symbol] = length
            total += TABLE_SIZE >> length
    if total != TABLE_SIZE or get(-used % 8, data, used):
        return -1
    return (used + 7) // 8


@jit
def encoder_table(lengths: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Give, per symbol, its code, first bit lowest, << 8 | length: uint64 [256]."""
    table = np.zeros(256, np.uint64)
    code = 0
    for length in range(1, MAX_LENGTH + 1):
        code <<= 1
        for symbol in range(256):
            if lengths[symbol] == length:
                table[symbol] = np.uint64(_reversed(code, length) << 8 | length)
                code += 1
    return table


@jit
def decoder_table(lengths: NDArray[np.int64]) -> NDArray[np.uint16]:
    """Give symbol << 8 | length per slot, the next 12 bits: uint16 [4096].

    lengths: int64 [256], of a complete code.
    """
    table = np.empty(TABLE_SIZE, np.uint16)
    code = 0
    for length in range(MAX_LENGTH + 1):
        code <<= 1
        for symbol in range(256):
            if lengths[symbol] == length:
                for slot in range(_reversed(code, length), TABLE_SIZE, 1 << length):
                    table[slot] = np.uint16(symbol << 8 | length)
                code += 1
    return table


@jit
def encode_symbols(symbols: NDArray[np.uint8], table: NDArray[np.uint64], data: NDArray[np.uint8]) -> None:
    """Write the codes of symbols, uint8 [n]; `data` has room for eight bytes more than they need."""
    size = np.uint64(symbols.size)
    body = size - size % _FOUR
    word, used, at, i = _ZERO, _ZERO, _ZERO, _ZERO  # used: bits of the word, below 8 in front of four codes
    while i < body:
        for k in range(4):
            entry = table[symbols[i + np.uint64(k)]]
            word |= (entry >> _EIGHT) << used
            used += entry & _SHIFTS  # 7 + 48 at most
        _store(word, data, at)
        at += used >> _THREE
        word >>= used & ~_SEVEN
        used &= _SEVEN
        i += _FOUR
    while i < size:
        entry = table[symbols[i]]
        word |= (entry >> _EIGHT) << used
        used += entry & _SHIFTS
        i += _ONE
    _store(word, data, at)


@jit
def decode_symbols(data: NDArray[np.uint8], table: NDArray[np.uint16], symbols: NDArray[np.uint8]) -> bool:
    """Decode codes into `symbols`, uint8 [n]; False where `data` is not n codes and zero bits up to a whole byte."""
    size, end = np.uint64(symbols.size), np.uint64(data.size)
    i, used = _ZERO, _ZERO  # symbols, bits
    while i + _FOUR <= size and (used >> _THREE) + _EIGHT <= end:
        at = used >> _THREE
        word = (
            np.uint64(data[at])
            | np.uint64(data[at + _ONE]) << _EIGHT
            | np.uint64(data[at + _TWO]) << np.uint64(16)
            | np.uint64(data[at + _THREE]) << np.uint64(24)
            | np.uint64(data[at + _FOUR]) << np.uint64(32)
            | np.uint64(data[at + np.uint64(5)]) << np.uint64(40)
            | np.uint64(data[at + np.uint64(6)]) << np.uint64(48)
            | np.uint64(data[at + _SEVEN]) << np.uint64(56)
        ) >> (used & _SEVEN)  # 57 bits at least: four codes of at most 12
        for k in range(4):
            entry = np.uint64(table[word & _SLOTS])
            length = entry & _SHIFTS
            symbols[i + np.uint64(k)] = np.uint8(entry >> _EIGHT)
            word >>= length
            used += length
        i += _FOUR
    while i < size:  # the last codes; behind the data are zero bits
        slot, at = _ZERO, used >> _THREE
        for k in range(3):  # 12 bits from any bit on are in at most three bytes
            if at + np.uint64(k) < end:
                slot |= np.uint64(data[at + np.uint64(k)]) << np.uint64(8 * k)
        entry = np.uint64(table[slot >> (used & _SEVEN) & _SLOTS])
        used += entry & _SHIFTS
        symbols[i] = np.uint8(entry >> _EIGHT)
        i += _ONE
    if (used + _SEVEN) >> _THREE != end:  # codes end too early, or behind the data
        return False
    return bool(used & _SEVEN == _ZERO or data[used >> _THREE] >> np.uint8(used & _SEVEN) == 0)


@jit
def _by_count(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give the symbols that occur, rarest first; of equal counts, lower symbols first."""
    order = np.empty(256, np.int64)
    num = 0
    for symbol in range(256):
        if counts[symbol] > 0:
            at = num
            while at > 0 and counts[order[at - 1]] > counts[symbol]:
                order[at] = order[at - 1]
                at -= 1
            order[at] = symbol
            num += 1
    return order[:num]


@jit
def _store(word: np.uint64, data: NDArray[np.uint8], at: np.uint64) -> None:
    data[at] = np.uint8(word)
    data[at + _ONE] = np.uint8(word >> _EIGHT)
    data[at + _TWO] = np.uint8(word >> np.uint64(16))
    data[at + _THREE] = np.uint8(word >> np.uint64(24))
    data[at + _FOUR] = np.uint8(word >> np.uint64(32))
    data[at + np.uint64(5)] = np.uint8(word >> np.uint64(40))
    data[at + np.uint64(6)] = np.uint8(word >> np.uint64(48))
    data[at + _SEVEN] = np.uint8(word >> np.uint64(56))


@jit
def _reversed(code: int, length: int) -> int:
    result = 0
    for bit in range(length):
        result |= (code >> bit & 1) << (length - 1 - bit)
    return result
