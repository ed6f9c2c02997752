"""Layouts: which pieces of which parameters go into which frame, and which rank owns them.

Ownership follows from the parameters' sizes, their order in the model and the world size alone, never from how DDP
fills its buckets: a bucket rebuild or a resumed run leaves every scale and every residual where it was.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trafficzip.kernels import Groups

_MIN_PIECE = 65_536  # elements; smaller parameters have one owner
_PIECE_ALIGNMENT = 320  # elements: whole quartic bytes and whole cache lines


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter as the exchange sees it: its name, its elements, and whether it travels uncompressed ("small")."""

    name: str
    size: int
    small: bool


@dataclass(frozen=True, slots=True)
class Piece:
    """A contiguous part of a parameter, and the rank that owns it."""

    parameter: Parameter
    start: int
    size: int
    owner: int


def own_pieces(parameters: Sequence[Parameter], num_owners: int) -> list[Piece]:
    """Share parameters among owners: large ones in equal pieces, each piece to the owner with the least so far.

    Small tensors are balanced apart from the others, since their elements cost many times more bytes.
    """
    loads = {small: [0] * num_owners for small in (False, True)}
    pieces = []
    for parameter in parameters:
        if not parameter.size:
            continue
        load = loads[parameter.small]
        count = 1 if parameter.small else max(1, min(num_owners, parameter.size // _MIN_PIECE))
        length = -(-parameter.size // (count * _PIECE_ALIGNMENT)) * _PIECE_ALIGNMENT if count > 1 else parameter.size
        free = set(range(num_owners))
        for start in range(0, parameter.size, length):
            owner = min(free, key=lambda rank: (load[rank], rank))
            free.remove(owner)
            size = min(length, parameter.size - start)
            load[owner] += size
            pieces.append(Piece(parameter, start, size, owner))
    return pieces


def owned_sizes(pieces: Sequence[Piece], num_owners: int) -> list[dict[str, int]]:
    """Give, per owner, the size of its piece of each parameter that it owns a piece of."""
    owned: list[dict[str, int]] = [{} for _ in range(num_owners)]
    for piece in pieces:
        owned[piece.owner][piece.parameter.name] = piece.size
    return owned


@dataclass(frozen=True, slots=True, eq=False)
class Section:
    """The pieces that share one frame.

    groups: where they lie in the bucket (values) and in the worker's residual.
    owned: where they lie in the owner's scratch, one after the other, and in the owner's residual.
    """

    small: bool
    pieces: tuple[Piece, ...]
    groups: Groups = field(repr=False)
    owned: Groups = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """What one owner gets of a bucket: one frame per section."""

    sections: tuple[Section, ...]
    num_elements: int


def bucket_shards(
    pieces: Sequence[Piece],
    *,
    bucket_starts: Mapping[str, int],
    residual_starts: Mapping[str, int],
    owner_starts: Sequence[Mapping[str, int]],
) -> list[Shard]:
    """Lay out a bucket that holds the parameters of `bucket_starts`: one shard per owner.

    bucket_starts: where each parameter begins in the bucket.
    residual_starts: where each parameter begins in the worker's residual.
    owner_starts: per owner, where each piece it owns begins in its residual, by parameter name.
    """
    shards = []
    for owner, starts in enumerate(owner_starts):
        sections = []
        scratch = 0
        for small in (False, True):
            chosen = [
                piece
                for piece in pieces
                if piece.owner == owner and piece.parameter.small == small and piece.parameter.name in bucket_starts
            ]
            if not chosen:
                continue
            sizes = [piece.size for piece in chosen]
            names = [piece.parameter.name for piece in chosen]
            offsets = [scratch + sum(sizes[:k]) for k in range(len(sizes))]
            scratch += sum(sizes)
            groups = Groups(
                sizes,
                value_starts=[bucket_starts[piece.parameter.name] + piece.start for piece in chosen],
                residual_starts=[residual_starts[piece.parameter.name] + piece.start for piece in chosen],
            )
            owned = Groups(sizes, value_starts=offsets, residual_starts=[starts[name] for name in names])
            sections.append(Section(small, tuple(chosen), groups, owned))
        shards.append(Shard(tuple(sections), scratch))
    return shards
