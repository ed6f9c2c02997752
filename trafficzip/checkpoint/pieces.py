"""How the tensors of one coder are cut into records: large ones by rows, small ones together."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from trafficzip.checkpoint.tensors import TensorInfo

PIECE_ELEMENTS = 1 << 17  # what a record holds, about; at most twice as many
SAMPLE_PIECES = 48  # a larger coder is judged by so many


class Segment(NamedTuple):
    """Elements `start` to `stop` of the flattened tensor with this place in the coder's list."""

    tensor: int
    start: int
    stop: int


Piece = tuple[Segment, ...]


def pieces(infos: Sequence[TensorInfo]) -> Iterator[Piece]:
    """Cut tensors into pieces, in order. A piece holds one dtype; empty tensors are in none.

    A tensor above half a piece, or one that is to be alone, has pieces of its own, of whole rows where a row is at
    most a piece; smaller ones share pieces.
    """
    shared: list[Segment] = []
    held = 0
    for place, info in enumerate(infos):
        n = info.num_elements
        if n > PIECE_ELEMENTS // 2 or (info.alone and n):
            yield from ((Segment(place, start, stop),) for start, stop in _cuts(info))
        elif n:
            if shared and (held + n > PIECE_ELEMENTS or infos[shared[0].tensor].dtype != info.dtype):
                yield tuple(shared)
                shared, held = [], 0
            shared.append(Segment(place, 0, n))
            held += n
    if shared:
        yield tuple(shared)


def _cuts(info: TensorInfo) -> Iterator[tuple[int, int]]:
    n, unit = info.num_elements, 1
    if len(info.shape) > 1 and n // info.num_rows <= PIECE_ELEMENTS:
        unit = n // info.num_rows
    units = n // unit
    num_pieces = -(-n // PIECE_ELEMENTS)
    each = -(-units // num_pieces) * unit
    for start in range(0, n, each):
        yield start, min(n, start + each)


def count_pieces(infos: Sequence[TensorInfo], at_most: int) -> int:
    """Count the pieces, but stop above `at_most`: a hostile header costs no more than a file of its size may."""
    count = 0
    for _ in pieces(infos):
        count += 1
        if count > at_most:
            break
    return count


def sample_pieces(infos: Sequence[TensorInfo], at_most: int = SAMPLE_PIECES) -> list[tuple[Piece, float]]:
    """Give pieces that stand for all, and how many elements each stands for per element of its own.

    All pieces if they are few; else some of every tensor, or if tensors are many, of tensors of every size, or if sizes
    are many, at even distances.
    """
    every = list(pieces(infos))
    if len(every) <= at_most:
        return [(piece, 1.0) for piece in every]
    keys: list[Callable[[Piece], int]] = [
        lambda piece: piece[0].tensor if len(piece) == 1 else -1,
        lambda piece: infos[piece[0].tensor].num_elements if len(piece) == 1 else -1,
        lambda _: 0,
    ]
    groups: dict[int, list[Piece]] = {}
    for key in keys:
        groups = {}
        for piece in every:
            groups.setdefault(key(piece), []).append(piece)
        if 2 * len(groups) <= at_most:
            break
    spare = at_most - len(groups)
    sample = []
    for group in groups.values():
        count = min(len(group), 1 + spare * len(group) // len(every))
        chosen = [group[(2 * i + 1) * len(group) // (2 * count)] for i in range(count)]
        share = _elements(group) / _elements(chosen)
        sample += [(piece, share) for piece in chosen]
    return sample


def _elements(group: Sequence[Piece]) -> int:
    return sum(segment.stop - segment.start for piece in group for segment in piece)
