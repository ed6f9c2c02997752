import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trafficzip.comm.layout import Parameter, bucket_shards, own_pieces

SIZES = st.one_of(st.integers(0, 20), st.integers(131_060, 131_080), st.integers(0, 600_000))


@st.composite
def models(draw):
    sizes = draw(st.lists(st.tuples(SIZES, st.booleans()), max_size=8))
    return [Parameter(f"p{k}", size, small) for k, (size, small) in enumerate(sizes)]


@given(models(), st.integers(1, 8))
def test_every_element_has_one_owner(parameters, num_owners):
    pieces = own_pieces(parameters, num_owners)
    for parameter in parameters:
        own = [piece for piece in pieces if piece.parameter == parameter]
        assert [piece.start for piece in own] == np.cumsum([0, *(piece.size for piece in own)])[:-1].tolist()
        assert sum(piece.size for piece in own) == parameter.size
        assert all(piece.size > 0 and 0 <= piece.owner < num_owners for piece in own)
        assert len({piece.owner for piece in own}) == len(own)  # an owner's residual is keyed by parameter
        assert len(own) <= 1 or not parameter.small


@given(models(), st.integers(1, 8))
def test_owners_share_alike(parameters, num_owners):
    for small in (False, True):
        pieces = [piece for piece in own_pieces(parameters, num_owners) if piece.parameter.small == small]
        loads = [sum(piece.size for piece in pieces if piece.owner == rank) for rank in range(num_owners)]
        assert max(loads) - min(loads) <= max((piece.size for piece in pieces), default=0)


@given(models(), st.integers(1, 8), st.randoms())
def test_ownership_follows_from_sizes_and_order_alone(parameters, num_owners, random):
    names = [f"q{random.random()}" for _ in parameters]
    renamed = [Parameter(name, p.size, p.small) for name, p in zip(names, parameters, strict=True)]
    shape = [(piece.start, piece.size, piece.owner) for piece in own_pieces(parameters, num_owners)]
    assert [(piece.start, piece.size, piece.owner) for piece in own_pieces(renamed, num_owners)] == shape


@given(models(), st.integers(1, 5), st.randoms())
def test_shards_of_any_buckets_cover_every_element_once(parameters, num_owners, random):
    pieces = own_pieces(parameters, num_owners)
    residual_starts = dict(
        zip([p.name for p in parameters], np.cumsum([0, *(p.size for p in parameters)]), strict=False)
    )
    owner_starts = [{} for _ in range(num_owners)]
    owner_ends = [0] * num_owners
    for piece in pieces:
        owner_starts[piece.owner][piece.parameter.name] = owner_ends[piece.owner]
        owner_ends[piece.owner] += piece.size
    worker = np.zeros(sum(p.size for p in parameters), int)
    owners = [np.zeros(end, int) for end in owner_ends]
    order = list(parameters)
    random.shuffle(order)
    cut = random.randint(0, len(order))
    for bucket in (order[:cut], order[cut:]):
        values = np.zeros(sum(p.size for p in bucket), int)
        starts = dict(zip([p.name for p in bucket], np.cumsum([0, *(p.size for p in bucket)]), strict=False))
        shards = bucket_shards(pieces, bucket_starts=starts, residual_starts=residual_starts, owner_starts=owner_starts)
        assert len(shards) == num_owners
        for owner, shard in enumerate(shards):
            scratch = np.zeros(shard.num_elements, int)
            for section in shard.sections:
                assert section.groups.sizes == section.owned.sizes == tuple(piece.size for piece in section.pieces)
                for k, piece in enumerate(section.pieces):
                    assert piece.parameter.small == section.small
                    name, size = piece.parameter.name, piece.size
                    at, kept = section.groups.value_starts[k], section.groups.residual_starts[k]
                    assert at - starts[name] == kept - residual_starts[name] == piece.start
                    values[at : at + size] += 1
                    worker[kept : kept + size] += 1
                    scratch[section.owned.value_starts[k] :][:size] += 1
                    owners[owner][section.owned.residual_starts[k] :][:size] += 1
            assert (scratch == 1).all()
        assert (values == 1).all()
    assert (worker == 1).all()
    assert all((owned == 1).all() for owned in owners)
