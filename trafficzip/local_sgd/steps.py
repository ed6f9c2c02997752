"""Local steps: ranks train alone, and every so often agree on a model through the compressed exchange."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from trafficzip.comm.agreement import agree, failing, refusing
from trafficzip.comm.assembly import make_exchange
from trafficzip.comm.exchange import Codecs, Exchange
from trafficzip.comm.layout import Layout, Parameter
from trafficzip.comm.transport import GlooTransport, Transport
from trafficzip.compressor import Compressor
from trafficzip.error_feedback import starts_of
from trafficzip.errors import ConfigError
from trafficzip.local_sgd.config import BufferRule, Config, ExchangeName
from trafficzip.local_sgd.outer import OuterStep
from trafficzip.local_sgd.state import STATE_VERSION, check_state, digest
from trafficzip.local_sgd.stats import LocalStats
from trafficzip.local_sgd.tensors import (
    F32,
    all_tensors,
    averaged_buffers,
    mean_of_ranks,
    read,
    round_to,
    share_first,
    trained_parameters,
    write,
)
from trafficzip.metrics import TrafficMeter
from trafficzip.presets import INT8, THREE_LC_RANS, with_multiplier

DEFAULT_COMPRESSOR = with_multiplier(THREE_LC_RANS, 0.7)


@dataclass(frozen=True, slots=True)
class Round:
    """What a round did.

    index: rounds so far, skipped ones included, from 1.
    skipped: some rank's model was not finite, so every rank went back to the last agreed model.
    """

    index: int
    skipped: bool


class LocalSteps:
    """Train `model` alone for `every` steps, then agree with all ranks on a model; repeat.

    In a round every rank gives the difference (last agreed model - its own model), which the exchange averages with
    error feedback. An outer SGD step on that mean gives the next agreed model, bit-identical on every rank, and every
    rank goes on from there. Inner optimizers keep their state: it stays local.

    Creating it is a collective call: every rank makes it with the same arguments, before the first step. All ranks
    then hold the parameters and buffers of rank 0. Call `step` after each `optimizer.step()`.

    model: not wrapped in DistributedDataParallel, which would exchange gradients in every step.
    compressor: what differences go through; ternary with sparsity multiplier 0.7 by default.
    every: inner steps between two rounds (H). With 1, and outer_lr 1 and outer_momentum 0, a run with plain SGD is
        what the gradient hook gives, up to rounding.
    outer_lr, outer_momentum, nesterov: the outer SGD step; by default the plain average of the models.
    momentum_rounds: rounds over which the outer momentum rises linearly from 0 to `outer_momentum`. Momentum from the
        first round on slows the begin of a run: short runs (measured: up to 200 rounds) end worse than without it. Of
        what was measured, 0.8 rising over all rounds of the run is best.
    small, small_elements: what parameters with one dimension or fewer elements than that go through.
    buffers: "average" averages floating-point buffers, uncompressed, in each round; "keep" leaves every rank its own.
    process_group: the ranks that agree; the default group if None.
    exchange: "all_gather", "two_phase", or "auto" (all-gather up to 3 ranks).
    num_threads: cores for the codec; the bytes do not depend on it.
    timeout_s: bound, in seconds, of every wait for another rank. Ranks wait for the slowest in each round.
    transport: what to send over in place of `process_group`.

    Memory: float32 copies of the model for the agreed model, the velocity and the residual, and one during a round.

    Raises:
        ConfigError: a value is out of range, or the model cannot be exchanged.
        CollectiveError: ranks disagree about the configuration, the model or the version; on every rank.
    Source: DiLoCo (Douillard et al. 2023), SlowMo (Wang et al. 2020), local SGD (Stich 2019).
    """

    def __init__(
        self,
        model: nn.Module,
        compressor: Compressor = DEFAULT_COMPRESSOR,
        *,
        every: int = 16,
        outer_lr: float = 1.0,
        outer_momentum: float = 0.0,
        momentum_rounds: int = 0,
        nesterov: bool = True,
        small: Compressor = INT8,
        small_elements: int = 256,
        buffers: BufferRule = "average",
        process_group: Any = None,
        exchange: ExchangeName = "auto",
        num_threads: int = 1,
        timeout_s: float = 300.0,
        transport: Transport | None = None,
    ) -> None:
        self.transport: Transport = transport or GlooTransport(process_group, timeout_s=timeout_s)
        with refusing(self.transport):
            self.config = Config(
                every=every,
                outer_lr=outer_lr,
                outer_momentum=outer_momentum,
                momentum_rounds=momentum_rounds,
                nesterov=nesterov,
                compressor=compressor,
                small=small,
                small_elements=small_elements,
                exchange=exchange,
                buffers=buffers,
            )
            if outer_momentum > 0.5 and not momentum_rounds:
                warnings.warn(
                    f"outer momentum {outer_momentum} from the first round on slows the begin of a run: runs of "
                    "up to 200 rounds were measured to end worse; momentum_rounds=<rounds of the run> lets it rise",
                    stacklevel=2,
                )
            if isinstance(model, DistributedDataParallel):
                raise ConfigError("model is DistributedDataParallel, which exchanges every step: give model.module")
            self._tensors = trained_parameters(model)
            everything = all_tensors(model)
        self.parameters = [
            Parameter(name, p.numel(), p.dim() <= 1 or p.numel() < small_elements) for name, p in self._tensors.items()
        ]
        shapes = [(name, f"{tensor.dtype} {list(tensor.shape)}") for name, tensor in everything.items()]
        agree(self.transport, self.config.describe(self.parameters, shapes))
        with failing(self.transport):
            share_first(self.transport, everything)
        self._buffers = averaged_buffers(model) if buffers == "average" else {}
        self._codecs = Codecs(push=compressor, pull=compressor, small=small)
        self._kind = self.config.exchange_for(self.transport.world_size)
        self.exchange: Exchange
        self._layout: Layout
        self.exchange, self._layout = make_exchange(
            self._kind, self.transport, self.parameters, num_threads=num_threads
        )
        self._shards = self._layout.bucket(starts_of({p.name: p.size for p in self.parameters}))
        self._outer = OuterStep(
            read(self._tensors),
            lr=outer_lr,
            momentum=outer_momentum,
            nesterov=nesterov,
            momentum_rounds=momentum_rounds,
        )
        self._agreed_buffers = read(self._buffers)
        self.steps = 0
        self._steps_in_round = 0
        self._rounds = 0
        self._skipped_rounds = 0
        self._last_round = TrafficMeter()

    # ---- what users call ----

    def step(self) -> Round | None:
        """Count an inner step; after `every` of them hold a round, on all ranks, and say what it did.

        Raises:
            CollectiveError: another rank failed, or was silent too long.
        """
        self.steps += 1
        self._steps_in_round += 1
        return self.agree() if self._steps_in_round >= self.config.every else None

    def agree(self) -> Round:
        """Hold a round now, on all ranks: before evaluation, a checkpoint, or the end of a run.

        Where any rank's model (or averaged buffer) is not finite, every rank learns it in this round: all go back to
        the last agreed model and buffers, and residuals and velocity stay as they were. Optimizer states are the
        caller's: those of the rank that diverged may need a reset.
        """
        before = self.transport.meter.copy()
        with failing(self.transport):
            skipped = self._exchange_differences()
        write(self._outer.agreed, self._tensors)
        write(self._agreed_buffers, self._buffers)
        self._steps_in_round = 0
        self._rounds += not skipped
        self._skipped_rounds += skipped
        self._last_round = self.transport.meter.minus(before)
        return Round(self._rounds + self._skipped_rounds, skipped)

    def agreed(self) -> dict[str, torch.Tensor]:
        """Give a copy of the last agreed parameters by name, float32 in their shapes, equal on every rank."""
        copies = {name: torch.empty(tensor.shape) for name, tensor in self._tensors.items()}
        write(self._outer.agreed, copies)
        return copies

    def stats(self) -> LocalStats:
        """Give counts since registration and of the last round."""
        meter = self.transport.meter
        num_elements = self._outer.agreed.size
        return LocalStats(
            steps=self.steps,
            rounds=self._rounds,
            skipped_rounds=self._skipped_rounds,
            num_elements=num_elements,
            bytes_sent=meter.bytes_sent,
            bytes_received=meter.bytes_received,
            codec_s=meter.codec_s,
            exchange_s=meter.exchange_s,
            last_round=self._last_round.copy(),
            bits_per_element_sent=8 * self._last_round.bytes_sent / max(num_elements, 1),
            residual_norm=float(np.linalg.norm(self.exchange.worker.residual)),
        )

    def state_dict(self) -> dict[str, Any]:
        """Give this rank's state as plain tensors and numbers; save every rank's, with its model and optimizer."""
        owner = self.exchange.owner.state_dict()
        starts = {piece.parameter.name: piece.start for piece in self._layout.owner}
        return {
            "version": STATE_VERSION,
            "steps": self.steps,
            "steps_in_round": self._steps_in_round,
            "rounds": self._rounds,
            "skipped_rounds": self._skipped_rounds,
            "world_size": self.transport.world_size,
            "rank": self.transport.rank,
            "exchange": self._kind,
            "agreed": torch.from_numpy(self._outer.agreed.copy()),
            "velocity": torch.from_numpy(self._outer.velocity.copy()),
            "buffers": torch.from_numpy(self._agreed_buffers.copy()),
            "worker": {name: torch.from_numpy(part) for name, part in self.exchange.worker.state_dict().items()},
            "owner": {name: {starts[name]: torch.from_numpy(part)} for name, part in owner.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave on this rank, or what `merge_state_dicts` made for any number of ranks.

        A collective call: all ranks load between the same two steps, and check that their states are of one round. A
        rank's own state leaves the model as it is: restore it, and the optimizer, beside. The run then goes on bit for
        bit. A merged state also puts the agreed model and buffers into the model, so a rank that joins has them.

        Raises:
            ConfigError: the state is another rank's, another world size's or another model's.
            CollectiveError: another rank's state did not fit, or the ranks' states are of different rounds.
            In either case nothing has changed on any rank.
        """
        with refusing(self.transport):
            self._check_fits(state)
        numbers = {key: int(state[key]) for key in ("steps", "steps_in_round", "rounds", "skipped_rounds")}
        agree(self.transport, {**numbers, **{key: digest(state[key]) for key in ("agreed", "velocity", "buffers")}})
        merged = state["world_size"] == 0
        self.exchange.worker.load_state_dict({name: part.numpy() for name, part in state["worker"].items()})
        if merged:
            self.exchange.owner.reset()
        else:
            self.exchange.owner.load_state_dict(_owned(state))
        for key, array in self._kept().items():
            array[:] = state[key].numpy()
        self.steps, self._steps_in_round = numbers["steps"], numbers["steps_in_round"]
        self._rounds, self._skipped_rounds = numbers["rounds"], numbers["skipped_rounds"]
        if merged:
            write(self._outer.agreed, self._tensors)
            write(self._agreed_buffers, self._buffers)

    def _kept(self) -> dict[str, F32]:
        return {"agreed": self._outer.agreed, "velocity": self._outer.velocity, "buffers": self._agreed_buffers}

    def _check_fits(self, state: Mapping[str, Any]) -> None:
        check_state(state)
        merged = state["world_size"] == 0
        here = {"world_size": self.transport.world_size, "rank": self.transport.rank, "exchange": self._kind}
        wrong = {key: state[key] for key in here if state[key] != here[key]}
        if wrong and not merged:
            raise ConfigError(
                f"state of local steps has {wrong}, this rank has { {key: here[key] for key in wrong} }; where the "
                "number of ranks or the exchange has changed, load merge_state_dicts(states of all ranks) on every rank"
            )
        for key, array in self._kept().items():
            if state[key].numel() != array.size:
                raise ConfigError(f"state of local steps: {key} has {state[key].numel()} elements, here {array.size}")
        starts = {piece.parameter.name: piece.start for piece in self._layout.owner}
        if not merged and {name: next(iter(parts)) for name, parts in state["owner"].items()} != starts:
            raise ConfigError("state of local steps is of another model: its rank owned other pieces of the parameters")
        self.exchange.worker.check_state_dict({name: part.numpy() for name, part in state["worker"].items()})
        if not merged:
            self.exchange.owner.check_state_dict(_owned(state))

    # ---- a round ----

    def _exchange_differences(self) -> bool:
        """Move the agreed model and buffers; True, and nothing has changed, where some rank's were not finite."""
        differences = round_to(self._outer.agreed, self._tensors) - read(self._tensors)
        pending = self.exchange.start(differences, self._shards, self._codecs)
        skipped = pending.nonfinite
        if self._buffers:
            buffers = mean_of_ranks(self.transport, read(self._buffers))
            skipped = skipped or not bool(np.isfinite(buffers).all())  # the same array on every rank
        if skipped:
            return True
        self.exchange.finish(pending)
        self._outer.step(pending.values, self._rounds)
        if self._buffers:
            self._agreed_buffers = buffers
        return False


def _owned(state: Mapping[str, Any]) -> dict[str, F32]:
    return {name: next(iter(parts.values())).numpy() for name, parts in state["owner"].items()}
