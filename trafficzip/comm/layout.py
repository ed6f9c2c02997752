"""Layouts: which pieces of which parameters go into which frame, and which rank owns them or keeps their residual.

Ownership follows from the parameters' sizes, their order in the model and the world size alone, never from how DDP
fills its buckets: a bucket rebuild or a resumed run leaves every scale and every residual where it was.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trafficzip.comm.nodes import Nodes
from trafficzip.error_feedback import starts_of
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


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What one set of workers compresses for one set of owners.

    pieces: the owners' pieces, which make up the workers' pieces.
    worker_starts: where each parameter would begin in the worker's residual if all of it were there; may be negative.
    owner_starts: per owner, where each piece it owns begins in its residual.
    """

    pieces: tuple[Piece, ...]
    worker_starts: Mapping[str, int]
    owner_starts: tuple[Mapping[str, int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Who compresses what, seen from one rank.

    parts: all parts, in an order that all ranks share.
    worker, owner: the pieces whose residuals this rank keeps, at most one of a parameter each.
    num_workers: how many workers' values make up a mean.
    """

    parts: tuple[Part, ...]
    worker: tuple[Piece, ...]
    owner: tuple[Piece, ...]
    num_workers: int

    def bucket(self, bucket_starts: Mapping[str, int]) -> list[Shard]:
        """Lay out a bucket that holds the parameters of `bucket_starts`: the shards of every part's owners in turn."""
        return [
            shard
            for part in self.parts
            for shard in bucket_shards(
                part.pieces,
                bucket_starts=bucket_starts,
                residual_starts=part.worker_starts,
                owner_starts=part.owner_starts,
            )
        ]


def flat_layout(parameters: Sequence[Parameter], *, rank: int, world_size: int, owners: bool) -> Layout:
    """Lay out an exchange in which every rank is a worker for all parameters and, if `owners`, owns some pieces."""
    held = [Piece(parameter, 0, parameter.size, rank) for parameter in parameters if parameter.size]
    part, owned = _part(held, world_size if owners else 1)
    return Layout((part,), tuple(held), tuple(owned[rank]) if owners else (), world_size)


def node_layout(parameters: Sequence[Parameter], *, rank: int, nodes: Nodes) -> Layout:
    """Lay out the hierarchical exchange: local rank k of each node is the node's worker, and an owner, for part k."""
    local = nodes.local_rank(rank)
    cut = own_pieces(parameters, nodes.num_parts)
    parts: list[Part] = []
    worker: list[Piece] = []
    owner: list[Piece] = []
    for k in range(nodes.num_parts):
        held = [piece for piece in cut if piece.owner == k]
        part, owned = _part(held, len(nodes.members))
        parts.append(part)
        if k == local:
            worker, owner = held, owned[nodes.of_rank[rank]]
    return Layout(tuple(parts), tuple(worker), tuple(owner), len(nodes.members))


def _part(held: Sequence[Piece], num_owners: int) -> tuple[Part, list[list[Piece]]]:
    """Share a worker's pieces among owners; give the part, and what each owner owns."""
    whole = {piece.parameter.name: piece for piece in held}
    pieces = []
    for cut in own_pieces([Parameter(p.parameter.name, p.size, p.parameter.small) for p in held], num_owners):
        of = whole[cut.parameter.name]
        pieces.append(Piece(of.parameter, of.start + cut.start, cut.size, cut.owner))
    starts = starts_of({name: piece.size for name, piece in whole.items()})
    worker_starts = {name: starts[name] - piece.start for name, piece in whole.items()}
    owned = [[piece for piece in pieces if piece.owner == owner] for owner in range(num_owners)]
    owner_starts = tuple(starts_of({piece.parameter.name: piece.size for piece in own}) for own in owned)
    return Part(tuple(pieces), worker_starts, owner_starts), owned
