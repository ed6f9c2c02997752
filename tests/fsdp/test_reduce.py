"""What FSDP2 gets from the compressed reduce-scatter, on real processes."""

import warnings

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import Shard

from tests.fsdp.training import HIDDEN, Net, Training, batch, build
from trafficzip.fsdp.layout import chunk_starts
from trafficzip.presets import FLOAT32, QUARTIC, THREE_LC_RANS

EXACT = {"compressor": FLOAT32, "small": FLOAT32}


def _gradients(rank, world_size, register, options):
    """Give whole gradients, dense and through the exchange, for the same step."""
    found = []
    for dense in (True, False):
        training = Training(rank, dense=dense, register=register, **options)
        training.backward(0)
        found.append({n: None if g is None else g.numpy() for n, g in training.gradients().items()})
    return *found, training.handle.stats(), len(training.handle.units)


def by_columns(parameter):
    """Shard the matrices whose columns divide by 2 and 4 on dimension 1."""
    return Shard(1) if parameter.ndim == 2 and parameter.shape[1] % 4 == 0 else None


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("reshard", [True, False])
def test_uncompressed_exchange_gives_the_dense_gradients(ranks, world_size, reshard):
    for dense, ours, stats, units in ranks(world_size, _gradients, EXACT, {"reshard": reshard}):
        assert dense.keys() == ours.keys()
        for name, gradient in dense.items():
            # sums of world_size numbers in another order, and a division
            assert np.abs(gradient - ours[name]).max() <= 2 * world_size * 2**-24 * np.abs(gradient).max()
            assert gradient.any()
        assert (stats.compressed_calls, stats.dense_calls, stats.nonfinite_calls) == (units, 0, 0)
        assert units == 3


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize(("reduce_dtype", "unit"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_half_precision_reduction_rounds_once(ranks, world_size, reduce_dtype, unit):
    for dense, ours, stats, _ in ranks(world_size, _gradients, EXACT, {"reduce_dtype": reduce_dtype}):
        for name, gradient in dense.items():
            assert gradient.dtype == np.float32  # torch may round after every addition, this exchange rounds once
            smallest = 2**-24 * (reduce_dtype == torch.float16)  # the step of float16 near 0
            bound = (world_size + 1) * (unit * np.abs(gradient).max() + smallest)
            assert np.abs(gradient - ours[name]).max() <= bound
        assert stats.compressed_calls == 3


def _against_reference(rank, world_size, factor, reduce_dtype):
    """Train two steps through QUARTIC; redo every module's call by hand from what all ranks gave to it."""
    training = Training(rank, register={"compressor": QUARTIC, "small": FLOAT32}, reduce_dtype=reduce_dtype)
    if factor is not None:
        training.net.set_gradient_divide_factor(factor)
        for block in training.net.blocks:
            block.set_gradient_divide_factor(factor)
    handle = training.handle
    lost = {p.name: np.zeros((world_size, p.num_elements), np.float32) for p in handle.parameters}
    calls = []
    plain = type(handle).layout

    def spy(parameters):
        calls.append(parameters)
        return plain(handle, parameters)

    handle.layout = spy
    start = handle.exchange.start
    inputs = []

    def keep(values, shards, codecs):
        inputs.append(values.copy())
        return start(values, shards, codecs)

    handle.exchange.start = keep
    worst = 0.0
    for step in range(2):
        calls.clear()
        inputs.clear()
        training.backward(step)
        gradients = training.gradients()
        for parameters, mine in zip(calls, inputs, strict=True):
            everyone = [None] * world_size
            dist.all_gather_object(everyone, mine)
            starts = chunk_starts(parameters)
            for p in parameters:
                pieces = []
                for owner in range(world_size):
                    begin = owner * mine.size // world_size + starts[p.name]
                    before = sum(p.sizes[:owner])
                    total = np.zeros(p.sizes[owner], np.float32)
                    for sender in range(world_size if p.sizes[owner] else 0):
                        kept = lost[p.name][sender, before : before + p.sizes[owner]]
                        given = everyone[sender][begin : begin + p.sizes[owner]] + kept
                        if handle.small[p.name]:
                            sent = given
                        else:
                            scale = np.abs(given).max()  # one scale per piece, the sparsity multiplier is 1
                            sent = np.where(np.abs(given) > scale / 2, np.sign(given) * scale, np.float32(0))
                        lost[p.name][sender, before : before + p.sizes[owner]] = given - sent
                        total += sent
                    pieces.append(total / np.float32(world_size) if factor is None else total * np.float32(1 / factor))
                expected = torch.from_numpy(np.concatenate(pieces))
                if reduce_dtype:
                    expected = expected.to(reduce_dtype).float()
                found = gradients[p.name].flatten()
                worst = max(worst, float((found - expected).abs().max()))
    mine = {name: rows[rank] for name, rows in lost.items()}
    return worst, all(np.array_equal(handle.exchange.worker[name], row) for name, row in mine.items())


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("factor", [None, 3.0])
@pytest.mark.parametrize("reduce_dtype", [None, torch.bfloat16])
def test_gradients_and_residuals_equal_the_definition_bit_for_bit(ranks, world_size, factor, reduce_dtype):
    for worst, residuals_equal in ranks(world_size, _against_reference, factor, reduce_dtype):
        assert worst == 0
        assert residuals_equal


def _sharded_by_columns(rank, world_size):
    options = {"placement": by_columns}
    dense, ours, _, _ = _gradients(rank, world_size, EXACT, options)
    training = Training(rank, register=EXACT, **options)
    dims = {p.name: p.shard_dim for p in training.handle.parameters}
    return dense, ours, dims


def test_parameters_sharded_on_another_dimension(ranks):
    for dense, ours, dims in ranks(2, _columns_of_even_net):
        assert set(dims.values()) == {0, 1}
        for name, gradient in dense.items():
            assert np.abs(gradient - ours[name]).max() <= 4 * 2**-24 * np.abs(gradient).max()


def _columns_of_even_net(rank, world_size):
    import tests.fsdp.training as training

    features = training.FEATURES
    training.FEATURES = 36
    try:
        return _sharded_by_columns(rank, world_size)
    finally:
        training.FEATURES = features


def _accumulate(rank, world_size):
    training = Training(rank)
    calls = []
    for step in range(3):
        training.steps(step, step + 1, micro_batches=4)
        calls.append(training.handle.stats().compressed_calls)
    dense = Training(rank, dense=True)
    whole = Training(rank, register=EXACT)
    dense.backward(0, micro_batches=4)
    whole.backward(0, micro_batches=4)
    pairs = zip(dense.gradients().values(), whole.gradients().values(), strict=True)
    return calls, max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)


def test_accumulated_gradients_are_reduced_once(ranks):
    for calls, error in ranks(2, _accumulate):
        assert calls == [3, 6, 9]
        assert error <= 4 * 2**-24


def _runs(rank, world_size, reshard):
    first, second = Training(rank, reshard=reshard), Training(rank, reshard=reshard)
    first.steps(0, 12)
    second.steps(0, 12)
    other = Training(rank, reshard=reshard, dense=True)
    other.steps(0, 12)
    return first.digest(), second.digest(), other.digest(), first.handle.stats()


@pytest.mark.parametrize(("world_size", "reshard"), [(2, True), (2, False), (4, True)])
def test_runs_repeat_bit_for_bit_and_all_ranks_see_one_model(ranks, world_size, reshard):
    results = ranks(world_size, _runs, reshard)
    assert len({digest for first, second, _, _ in results for digest in (first, second)}) == 1
    for first, _, dense, stats in results:
        assert first != dense
        assert stats.bytes_sent * 5 < stats.dense_bytes_sent
        assert stats.residual_bytes == 4 * stats.num_elements


def _learn(rank, world_size):
    losses = []
    for dense in (True, False):
        training = Training(rank, dense=dense, lr=0.02)
        inputs, targets = batch(rank, 0, size=64)
        for _ in range(40):
            training.optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(training.net(inputs), targets)
            loss.backward()
            training.optimizer.step()
            losses.append(float(loss.detach()))
    return losses[0], losses[39], losses[79]


def test_compressed_training_lowers_the_loss_like_dense_training(ranks):
    for first, dense, ours in ranks(2, _learn):
        assert dense < first / 4
        assert ours < first / 4


def _nonfinite(rank, world_size, bad):
    training = Training(rank)
    training.steps(0, 2)
    before = training.residuals()
    model = training.digest()
    training.optimizer.zero_grad()
    inputs, targets = batch(rank, 2)
    if rank == world_size - 1:
        inputs[0, 0] = bad
    torch.nn.functional.cross_entropy(training.net(inputs), targets).backward()
    local = {n: p.grad.to_local() for n, p in training.net.named_parameters() if p.grad is not None}
    all_bad = [bool((~g.isfinite()).all()) for g in local.values()]
    unchanged = np.array_equal(before, training.residuals())
    stats = training.handle.stats()
    training.steps(3, 5)  # the optimizer never saw the step
    return all_bad, unchanged, stats, training.digest() != model, np.isfinite(training.residuals()).all()


@pytest.mark.parametrize("world_size", [2, 4])
def test_nonfinite_gradients_of_one_rank_reach_all_and_change_no_residual(ranks, world_size):
    for all_bad, unchanged, stats, moved, finite in ranks(world_size, _nonfinite, float("inf")):
        assert all(all_bad)
        assert unchanged
        assert (stats.compressed_calls, stats.nonfinite_calls) == (6, 3)
        assert moved
        assert finite


def _switch(rank, world_size):
    ours, dense = Training(rank), Training(rank, dense=True)
    ours.handle.disable()
    ours.steps(0, 3)
    dense.steps(0, 3)
    same = ours.digest() == dense.digest()
    off = ours.handle.stats()
    ours.handle.enable()
    ours.steps(3, 6)
    dense.steps(3, 6)
    return same, off, ours.handle.stats(), ours.digest() == dense.digest()


def test_disabled_reduces_like_torch_and_enabled_compresses_again(ranks):
    for same, off, on, same_after in ranks(2, _switch):
        assert same
        assert (off.compressed_calls, off.dense_calls, off.dense_bytes_sent) == (0, 9, 0)
        assert (on.compressed_calls, on.dense_calls) == (9, 9)
        assert not same_after


def _disabled_with_factor(rank, world_size):
    training = Training(rank)
    training.handle.disable()
    training.net.set_gradient_divide_factor(8.0)
    training.backward(0)
    reference = Training(rank, dense=True)
    reference.backward(0)
    ours, dense = training.gradients()["head.weight"], reference.gradients()["head.weight"]
    return float((ours - dense * world_size / 8).abs().max() / dense.abs().max())


def test_divide_factors_work_on_gloo_also_when_disabled(ranks):
    assert max(ranks(2, _disabled_with_factor)) <= 4 * 2**-24


def _spare(rank, world_size, reduce_unused):
    training = Training(rank, spare=True, register=EXACT)
    if reduce_unused:
        training.net.set_reduce_scatter_unused_params(True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        training.backward(0)
    dense = Training(rank, spare=True, dense=True)
    dense.backward(0)
    stats = training.handle.stats()
    ours, theirs = training.gradients(), dense.gradients()
    error = max(float((theirs[n] - ours[n]).abs().max() / theirs[n].abs().max()) for n in ours if theirs[n] is not None)
    told = [str(w.message) for w in caught if "set_reduce_scatter_unused_params" in str(w.message)]
    return stats, error, told, ours["spare.weight"] is None


def test_unused_parameters_make_their_module_dense_and_say_so(ranks):
    for stats, error, told, none in ranks(2, _spare, False):
        assert (stats.compressed_calls, stats.dense_calls) == (2, 1)
        assert error <= 4 * 2**-24
        assert len(told) == 1
        assert "module (root)" in told[0]
        assert none


def test_unused_parameters_that_are_reduced_are_compressed(ranks):
    for stats, error, told, none in ranks(2, _spare, True):
        assert (stats.compressed_calls, stats.dense_calls) == (3, 0)
        assert error <= 4 * 2**-24
        assert not told
        assert not none


def _freeze(rank, world_size):
    training = Training(rank, register=EXACT)
    training.backward(0)
    frozen = training.net.blocks[0].up.weight
    training.net.blocks[0].up.weight.requires_grad_(False)
    training.backward(1)
    stats = training.handle.stats()
    return stats.compressed_calls, stats.dense_calls, frozen.grad is None


def test_parameters_frozen_later_are_left_out(ranks):
    assert ranks(2, _freeze) == [(6, 0, True)] * 2


def _pieces(rank, world_size):
    training = Training(rank, register={"compressor": THREE_LC_RANS})
    sections = [
        (unit.name, owner, section.small, [(piece.parameter.name, piece.start, piece.size) for piece in section.pieces])
        for unit in training.handle.units
        for owner, shard in enumerate(training.handle.layout(unit.parameters))
        for section in shard.sections
    ]
    build()
    return sections, {name: p.numel() for name, p in Net().named_parameters()}


def test_every_element_lies_in_one_piece_and_padding_in_none(ranks):
    for sections, sizes in ranks(4, _pieces):
        covered = {name: np.zeros(size, int) for name, size in sizes.items()}
        for _, _, _, pieces in sections:
            for name, start, size in pieces:
                covered[name][start : start + size] += 1
        assert all((count == 1).all() for count in covered.values())
        ups = [pieces for unit, _, small, pieces in sections if unit == "blocks.0" and not small]
        rows = -(-HIDDEN // 4)
        assert [pieces[0][2] // 37 for pieces in ups] == [rows, rows, rows, HIDDEN - 3 * rows]
