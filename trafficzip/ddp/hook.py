"""The DDP communication hook: a step state machine over buckets, and everything a user can ask of it."""

import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import GradBucket
from torch.nn.parallel import DistributedDataParallel

from trafficzip.comm.agreement import failing, tell_failure
from trafficzip.comm.exchange import Pending
from trafficzip.comm.layout import Parameter
from trafficzip.comm.transport import Transport
from trafficzip.ddp.chooser import Chooser
from trafficzip.ddp.config import Config
from trafficzip.ddp.exchanges import Exchanges
from trafficzip.ddp.plan import DENSE, Mode, Plan
from trafficzip.ddp.policy import Plans, follow
from trafficzip.ddp.state import (
    STATE_VERSION,
    check_state,
    load_merged,
    load_residuals,
    save_residuals,
    sum_pending,
)
from trafficzip.ddp.stats import Stats, make_stats
from trafficzip.ddp.step import Bucket, Step, TensorFuture
from trafficzip.ddp.trials import StepLog
from trafficzip.ddp.worker import Worker
from trafficzip.error_feedback import starts_of
from trafficzip.errors import ConfigError
from trafficzip.metrics import TrafficMeter


class GradientCompression:
    """A registered hook's state and controls; `trafficzip.ddp.register` makes it.

    Every method that changes what is exchanged (`enable`, `disable`, `flush`, `load_state_dict`) must be called on
    all ranks between the same two steps.
    """

    def __init__(
        self,
        model: DistributedDataParallel,
        config: Config,
        transport: Transport,
        *,
        grad_scaler: Any = None,
        num_threads: int = 1,
    ) -> None:
        self.config = config
        self.transport = transport
        self.grad_scaler = grad_scaler
        self.step = 0
        self._tensors = {name: p for name, p in model.module.named_parameters() if p.requires_grad}
        self._names = {id(p): name for name, p in self._tensors.items()}
        self.parameters = [
            Parameter(name, p.numel(), p.dim() <= 1 or p.numel() < config.small_elements)
            for name, p in self._tensors.items()
        ]
        self._enabled = True
        self._group = model.process_group
        self.exchange_kind = config.exchange_for(transport.world_size)
        others = config.other_exchanges(self.exchange_kind)
        self._exchanges = Exchanges(
            self.exchange_kind, transport, self.parameters, nodes=config.nodes, num_threads=num_threads, others=others
        )
        self.exchange, self.layout = self._exchanges.main, self._exchanges.layout
        self._worker = Worker()
        self._log = StepLog()
        self._plan = DENSE
        self._plans = self._make_plans()
        self._loss_scale = self._current_loss_scale()
        self._current: Step | None = None
        self._last: list[Pending] = []
        self._compressed_steps = 0
        self._skipped_steps = 0
        self.exchanged_steps = 0  # since registration, dense ones too; `step` may be loaded
        self._before_step = TrafficMeter()
        self._last_step = TrafficMeter()

    def _make_plans(self) -> Plans:
        control = self.transport.among(range(self.transport.world_size), meter=TrafficMeter())
        if self.config.auto is None:
            plan = Plan.of(Mode(self.exchange_kind, "schedule"))
            return follow(plan, self.config.overlap, self._log, control)
        chooser = Chooser(
            auto=self.config.auto,
            kinds=(self.exchange_kind, *self.config.other_exchanges(self.exchange_kind)),
            exchange=self.exchange,
            layout=self.layout,
            small=self.config.small,
            control=control,
            log=self._log,
        )
        return chooser.plans(self.config.overlap)

    # ---- what users call ----

    @property
    def enabled(self) -> bool:
        """Whether gradients are compressed where the schedule says so."""
        return self._enabled

    def enable(self) -> None:
        """Compress again from the next step on, with the residuals kept since `disable`."""
        self._enabled = True

    def disable(self) -> None:
        """Exchange dense gradients from the next step on; pending residuals are kept (`flush` applies them)."""
        self._enabled = False

    def plan(self) -> Plan:
        """Give how the last step's gradients travelled."""
        return self._plan

    @property
    def decided(self) -> bool:
        """Whether what is measured has been chosen and is followed; false in the first steps and while checks go on.

        With overlap "auto" it is false for as long as there is one bucket only.
        """
        return self._log.decided

    def stats(self) -> Stats:
        """Give counts since registration and of the last step; per parameter, what was sent and what is pending."""
        return make_stats(
            meter=self.transport.meter,
            inside_meter=self.exchange.inside_meter,
            last_step=self._last_step,
            steps=self.step,
            compressed_steps=self._compressed_steps,
            nonfinite_steps=self._skipped_steps,
            parameters=self.parameters,
            plan=str(self._plan),
            decisions=tuple(self._log.decisions),
            last=self._last,
            worker=self.exchange.worker,
        )

    def take_pending(self) -> dict[str, torch.Tensor]:
        """Average what is pending over all ranks, give it by parameter name, unscaled, and forget it.

        A dense collective call. Returns: float32 tensors of the parameters' shapes, equal on every rank.
        """
        self._worker.drain()
        self._follow_loss_scale()
        sizes = {p.name: p.size for p in self.parameters}
        starts = starts_of(sizes)
        total = torch.from_numpy(sum_pending(self.exchange, self.layout, starts, sum(sizes.values())))
        if self.transport.world_size > 1:
            dist.all_reduce(total, group=self._group)
        total /= self.layout.num_workers * self._loss_scale
        self.exchange.worker.reset()
        self.exchange.owner.reset()
        return {name: _like(total[starts[name] :][: p.numel()], p) for name, p in self._tensors.items()}

    def flush(self, optimizer: torch.optim.Optimizer) -> None:
        """Apply what is pending: one dense optimizer step whose gradient is the mean residual of all ranks.

        Call it on all ranks before evaluation or export. Gradients are cleared afterwards. Warns of Adam, which
        compressed gradients do not fit: it ends well above dense Adam, and its step here is as large as any other,
        however little is pending. trafficzip.local_sgd fits it better.
        """
        if isinstance(optimizer, torch.optim.Adam):
            warnings.warn(
                f"{type(optimizer).__name__} on compressed gradients was measured to end 0.1 nats and more above dense "
                "training; trafficzip.local_sgd fits it better",
                stacklevel=2,
            )
        for name, pending in self.take_pending().items():
            parameter = self._tensors[name]
            parameter.grad = pending.to(device=parameter.device, dtype=parameter.dtype)
        optimizer.step()
        optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """Give this rank's state as plain tensors and numbers; save every rank's, each to its own file."""
        return {
            "version": STATE_VERSION,
            "step": self.step,
            **self._place(),
            "loss_scale": self._loss_scale,
            "num_workers": self.layout.num_workers,
            "worker": save_residuals(self.exchange.worker, self.layout.worker),
            "owner": save_residuals(self.exchange.owner, self.layout.owner),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave on this rank, or what `merge_state_dicts` made for any world size.

        At the same world size the run goes on bit for bit as it would have.
        Raises:
            ConfigError: the state is another rank's, another world size's or another model's; nothing has changed.
        """
        check_state(state)
        self._worker.drain()
        if state["world_size"] == 0:
            load_merged(self.exchange, self.layout, state, self.parameters)
        else:
            here = self._place()
            wrong = {key: state[key] for key in here if state[key] != here[key]}
            if wrong:
                raise ConfigError(
                    f"hook state has {wrong}, this rank has { {key: here[key] for key in wrong} }; where the number of "
                    "ranks or the exchange has changed, load merge_state_dicts(states of all ranks) on every rank"
                )
            load_residuals(self.exchange, self.layout, state)
        self.step = int(state["step"])
        self._loss_scale = float(state["loss_scale"])
        self._log.unsettled = True
        self._current = None

    def _place(self) -> dict[str, Any]:
        """Give what a saved state must share with the rank that loads it."""
        nodes = self.config.nodes if self.exchange_kind == "hierarchical" else None
        return {
            "world_size": self.transport.world_size,
            "rank": self.transport.rank,
            "exchange": self.exchange_kind,
            "nodes": list(nodes.of_rank) if nodes else [],
        }

    # ---- what DDP calls ----

    def on_bucket(self, bucket: GradBucket) -> TensorFuture:
        """Exchange one bucket. Futures of compressed buckets complete with the step's last bucket."""
        try:
            return self._take(bucket)
        except Exception as error:
            self._current = None
            self._worker.abandon()  # it must not use the transport any more
            tell_failure(self.transport, error)
            raise

    def _take(self, bucket: GradBucket) -> TensorFuture:
        tensor = bucket.buffer()
        if bucket.index() == 0 or self._current is None:
            self._begin_step()
        current = cast(Step, self._current)
        current.sizes.append(tensor.numel())
        if current.plan.dense or current.pair is None:
            if bucket.is_last():
                self._end_step(committed=False)
            return self._dense(tensor)
        mode = current.plan.mode_for(tensor.numel())
        exchange, shards = self._exchanges.of_bucket(mode.exchange, self._starts(bucket, tensor))
        entry = Bucket(tensor, exchange, shards, mode.codecs(current.pair, self.config.small))
        current.buckets.append(entry)
        if self._log.probe:
            self._log.probe.look(entry, current.pair)
        if bucket.is_last():
            self._worker.drain()
            entry.start()
            self._finish(current)
        elif current.plan.overlap:
            self._worker.submit(partial(self._start_apart, entry))
        else:
            entry.start()
        return entry.future

    def _start_apart(self, entry: Bucket) -> None:
        with failing(self.transport):  # other ranks learn it now, this one's backward pass at its next bucket
            entry.start()

    def _begin_step(self) -> None:
        self._worker.drain()  # a backward pass that broke off may have left buckets
        self._before_step = self.transport.meter.copy()
        self._follow_loss_scale()
        pair = self.config.schedule.at(self.step) if self._enabled and self.transport.world_size > 1 else None
        self._plan = next(self._plans) if pair else DENSE
        self._current = Step(self._plan, pair)

    def _end_step(self, *, committed: bool) -> None:
        self.step += 1
        self.exchanged_steps += 1
        self._last_step = self.transport.meter.minus(self._before_step)
        exchange_s = self._last_step.codec_s + self._last_step.exchange_s
        self._log.end_step(cast(Step, self._current).sizes, exchange_s=exchange_s, committed=committed)
        self._current = None

    def _dense(self, tensor: torch.Tensor) -> TensorFuture:
        tensor.mul_(1 / self.transport.world_size)  # as DDP does without a hook: a quotient may differ in the last bit
        work = dist.all_reduce(tensor, group=self._group, async_op=True)
        assert work is not None
        return cast(TensorFuture, work.get_future().then(lambda done: done.value()[0]))

    def _finish(self, current: Step) -> None:
        self._last = current.finish()
        committed = not any(pending.nonfinite for pending in self._last)
        self._compressed_steps += committed
        self._skipped_steps += not committed
        self._end_step(committed=committed)
        current.complete()

    def _starts(self, bucket: GradBucket, tensor: torch.Tensor) -> dict[str, int]:
        """Find where this bucket's parameters lie."""
        base = int(tensor.storage_offset())
        return {
            self._names[id(parameter)]: int(gradient.storage_offset()) - base
            for parameter, gradient in zip(bucket.parameters(), bucket.gradients(), strict=True)
        }

    # ---- loss scaling ----

    def _current_loss_scale(self) -> float:
        return float(self.grad_scaler.get_scale()) if self.grad_scaler is not None else 1.0

    def _follow_loss_scale(self) -> None:
        """Residuals are kept in the unit of the gradients, which is the loss scale: follow it when it changes."""
        scale = self._current_loss_scale()
        if scale != self._loss_scale:
            self.exchange.worker.scale(scale / self._loss_scale)
            self.exchange.owner.scale(scale / self._loss_scale)
            self._loss_scale = scale


def _like(flat: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """Shape a flat part of a bucket like its parameter: buckets hold dense parameters in memory order."""
    spans = zip(parameter.size(), parameter.stride(), strict=True)
    if parameter.numel() and sum((size - 1) * stride for size, stride in spans) + 1 == parameter.numel():
        return flat.as_strided(parameter.size(), parameter.stride(), flat.storage_offset()).clone()
    return flat.view(parameter.size()).clone()
