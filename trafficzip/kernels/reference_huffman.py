"""The definition of Huffman coding of bytes, in plain Python; compiled kernels equal it bit for bit.

Lengths of codes: int [256], 0 to 12, -1 for symbols that do not occur; a symbol that occurs alone has 0.
Source: Larmore, Hirschberg 1990, "A fast algorithm for optimal length-limited Huffman codes" (package-merge); Schwartz,
Kallick 1964 (canonical codes); FORMAT.md, Huffman coding.
"""

from collections.abc import Sequence

MAX_LENGTH = 12
TABLE_SIZE = 1 << MAX_LENGTH
ABSENT = -1


def code_lengths(counts: Sequence[int], *, max_length: int = MAX_LENGTH) -> list[int]:
    """Give lengths of at most `max_length` bits with the least sum of count * length, by package-merge.

    Of symbols with equal counts, lower ones do not have shorter codes; where packages weigh what a symbol weighs, the
    symbol comes first.
    """
    leaves = sorted((count, [symbol]) for symbol, count in enumerate(counts) if count)
    assert 0 < len(leaves) <= 1 << max_length
    items = leaves
    for _ in range(max_length - 1):
        pairs = zip(items[0::2], items[1::2], strict=False)
        packages = [(first[0] + second[0], first[1] + second[1]) for first, second in pairs]
        items = sorted(leaves + packages, key=lambda item: item[0])  # stable: leaves first
    taken = [symbol for _, symbols in items[: 2 * len(leaves) - 2] for symbol in symbols]
    return [taken.count(symbol) if count else ABSENT for symbol, count in enumerate(counts)]


def codes(lengths: Sequence[int]) -> list[str]:
    """Give the canonical codes as text of 0 and 1, first bit first: they rise with length, then with symbol."""
    result = ["" for _ in lengths]
    code = length = 0
    for next_length, symbol in sorted((length, symbol) for symbol, length in enumerate(lengths) if length > 0):
        code <<= next_length - length
        length = next_length
        result[symbol] = f"{code:0{length}b}"
        code += 1
    return result


def write_lengths(lengths: Sequence[int]) -> str:
    """Write lengths as text of 0 and 1: runs of symbols that occur and that do not, then differences of lengths."""
    bits = str(int(lengths[0] != ABSENT))
    symbol = 0
    while symbol < 256:
        start = symbol
        while symbol < 256 and (lengths[symbol] == ABSENT) == (lengths[start] == ABSENT):
            symbol += 1
        run = f"{symbol - start:b}"
        bits += "0" * (len(run) - 1) + run
    previous = MAX_LENGTH
    for length in lengths:
        if length != ABSENT:
            difference = length - previous
            bits += "0" * (2 * difference if difference >= 0 else -2 * difference - 1) + "1"
            previous = length
    return bits


def read_lengths(bits: str) -> tuple[list[int], int]:
    """Read what `write_lengths` wrote; give the lengths and the number of bits.

    Raises: ValueError where `bits` does not start with lengths of a complete code.
    """
    used = 1

    def zeros(limit: int) -> int:
        nonlocal used
        count = bits.find("1", used) - used
        if not 0 <= count <= limit:
            raise ValueError("bits end, or too many zero bits")
        used += count + 1
        return count

    present: list[bool] = []
    occurs = bits.startswith("1")
    while len(present) < 256:
        more = zeros(8)
        if used + more > len(bits):
            raise ValueError("bits end early")
        present += [occurs] * int("1" + bits[used : used + more], 2)
        used += more
        occurs = not occurs
    if len(present) > 256:
        raise ValueError("runs exceed the symbols")
    lengths = [ABSENT] * 256
    length = MAX_LENGTH
    for symbol in range(256):
        if present[symbol]:
            zero_bits = zeros(2 * MAX_LENGTH)
            length += -(zero_bits + 1) // 2 if zero_bits % 2 else zero_bits // 2
            if not 0 <= length <= MAX_LENGTH:
                raise ValueError("a length is below 0 or above 12")
            lengths[symbol] = length
    if sum(TABLE_SIZE >> length for length in lengths if length != ABSENT) != TABLE_SIZE:
        raise ValueError("the code is not complete")
    return lengths, used


def encode(symbols: bytes) -> bytes:
    """Encode bytes: lengths, then codes, each in whole bytes that are filled from the lowest bit on; none for none."""
    if not symbols:
        return b""
    lengths = code_lengths([symbols.count(symbol) for symbol in range(256)])
    code = codes(lengths)
    return _pack(write_lengths(lengths)) + _pack("".join(code[symbol] for symbol in symbols))


def decode(data: bytes, num_symbols: int) -> bytes:
    """Decode exactly `num_symbols` bytes from all of `data`.

    Raises: ValueError where `data` is not an encoding of them.
    """
    if num_symbols == 0:
        if data:
            raise ValueError("bytes without symbols")
        return b""
    bits = "".join(f"{byte:08b}"[::-1] for byte in data)
    lengths, used = read_lengths(bits)
    _check_padding(bits[used : -(-used // 8) * 8])
    bits = bits[-(-used // 8) * 8 :]
    symbol_of = {code: symbol for symbol, code in enumerate(codes(lengths)) if lengths[symbol] != ABSENT}
    symbols = bytearray()
    start = end = 0
    while len(symbols) < num_symbols:
        while bits[start:end] not in symbol_of:
            end += 1
            if end > len(bits):
                raise ValueError("bits end before the symbols do")
        symbols.append(symbol_of[bits[start:end]])
        start = end
    if len(bits) - end >= 8:
        raise ValueError("symbols end before the bytes do")
    _check_padding(bits[end:])
    return bytes(symbols)


def _pack(bits: str) -> bytes:
    return int("0" + bits[::-1], 2).to_bytes((len(bits) + 7) // 8, "little")


def _check_padding(bits: str) -> None:
    if "1" in bits:
        raise ValueError("padding is not zero")
