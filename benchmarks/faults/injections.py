"""Faults, each a value that knows when and how it strikes on its rank."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from benchmarks.faults.worker import Run
from trafficzip.comm.transport import GlooTransport


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Does nothing; step: before which step it strikes, from 0."""

    step: int = 3

    def before_model(self, run: Run) -> None:
        """Called once the process group exists."""

    def before_register(self, run: Run) -> None:
        """Called once the model is wrapped."""

    def before_step(self, run: Run, step: int) -> None:
        """Called before each step."""


@dataclass(frozen=True, kw_only=True)
class Strike(Fault):
    """The rank is killed, frozen, cut off, raises or leaves: action at a place.

    at: "model" (before it is wrapped), "register" (before it), "groups" (between the hook's two groups), "agreement"
        (before ranks compare their configuration), "step", or "exchange" (the rank has sent its `call`-th message of
        the step and awaits others').
    """

    action: str
    at: str = "step"
    seconds: float | None = None
    call: int = 0

    def before_model(self, run: Run) -> None:
        if self.at == "model":
            run.act(self.action, self.seconds)

    def before_register(self, run: Run) -> None:
        import torch.distributed as dist

        if self.at == "register":
            run.act(self.action, self.seconds)
        elif self.at == "groups":
            plain, made = dist.new_group, iter(range(100))

            def new_group(*args: Any, **kwargs: Any) -> Any:
                if next(made) == 1:
                    run.act(self.action, self.seconds)
                return plain(*args, **kwargs)

            dist.new_group = new_group
        elif self.at == "agreement":
            gather = GlooTransport.all_gather

            def all_gather(transport: Any, payload: Any, *, limit: int) -> Any:
                GlooTransport.all_gather = gather
                run.act(self.action, self.seconds)
                return gather(transport, payload, limit=limit)

            GlooTransport.all_gather = all_gather

    def before_step(self, run: Run, step: int) -> None:
        if step != self.step:
            return
        if self.at == "step":
            run.act(self.action, self.seconds)
        elif self.at == "exchange":
            self._await(run)

    def _await(self, run: Run) -> None:
        """Strike in the wait of one exchange among those of all the transports that `among` made."""
        calls = iter(range(100_000))
        all_to_all, wait = GlooTransport.all_to_all, GlooTransport._wait

        def waiting(transport: Any, work: Any, peer: int) -> None:
            GlooTransport._wait = wait  # type: ignore[method-assign]
            run.act(self.action, self.seconds)
            wait(transport, work, peer)

        def exchange(transport: Any, payloads: Any, *, limit: int) -> Any:
            if next(calls) == self.call:
                GlooTransport._wait = waiting  # type: ignore[method-assign]
            return all_to_all(transport, payloads, limit=limit)

        GlooTransport.all_to_all = exchange  # type: ignore[method-assign]


@dataclass(frozen=True, kw_only=True)
class Options(Fault):
    """The rank registers with other options, another model, version or group, or does not register.

    renames: its last layer has another name.
    """

    options: dict[str, Any] = field(default_factory=dict)
    hidden: int = 160
    renames: bool = False
    version: str | None = None
    ranks: tuple[int, ...] | None = None
    registers: bool = True

    def before_model(self, run: Run) -> None:
        import torch.distributed as dist

        run.announce()
        run.options = run.options | self.options if self.registers else {}
        run.hidden = self.hidden
        if self.ranks:
            run.group = dist.new_group(list(self.ranks), use_local_synchronization=True)
        if self.version:
            import trafficzip.ddp.config as config

            config.__version__ = self.version

    def before_register(self, run: Run) -> None:
        if self.renames:
            layers = run.training.net._modules
            layers["head"] = layers.pop(list(layers)[-1])


@dataclass(frozen=True, kw_only=True)
class Damage(Fault):
    """A message to rank `to` is damaged on its way, below the transport: one piece of one exchange of the step.

    how: "flip" a bit of its content, "truncate" it, "announce" another length, send it "twice", or "zero" it.
    call: which of the step's pieces to that rank with content; -1 counts from the end, known from the step before.
    """

    how: str
    to: int = 0
    call: int = 0

    def before_register(self, run: Run) -> None:
        if self.step < 0:
            self._arm(run, self.call)

    def before_step(self, run: Run, step: int) -> None:
        if step == self.step - 1:
            run.pieces = _count(self.to)
        elif step == self.step:
            self._arm(run, self.call if self.call >= 0 else run.pieces[0] + self.call)

    def _arm(self, run: Run, call: int) -> None:
        import torch.distributed as dist

        plain, calls = dist.isend, iter(range(100_000))

        def isend(tensor: torch.Tensor, dst: int, **kwargs: Any) -> Any:
            if dst != self.to or tensor.nbytes <= 8 or next(calls) != call:
                return plain(tensor, dst, **kwargs)
            dist.isend = plain
            run.announce()
            if self.how == "twice":
                run.kept = (plain(tensor, dst, **kwargs), tensor)
                return plain(tensor.clone(), dst, **kwargs)
            return plain(_damaged(tensor, self.how), dst, **kwargs)

        dist.isend = isend


def _count(to: int) -> list[int]:
    """Count the pieces with content that this rank sends to `to`, from now on."""
    import torch.distributed as dist

    found = [0]
    plain = dist.isend

    def isend(tensor: torch.Tensor, dst: int, **kwargs: Any) -> Any:
        found[0] += dst == to and tensor.nbytes > 8
        return plain(tensor, dst, **kwargs)

    dist.isend = isend
    return found


def _damaged(tensor: torch.Tensor, how: str) -> torch.Tensor:
    data = tensor.numpy().view(np.uint8).copy()
    if how == "flip":
        data[-9] ^= 4
    elif how == "truncate":
        data = data[:-5].copy()
    elif how == "announce":
        data[4] ^= 1  # bytes 0..7 hold the length: 4 GiB more
    elif how == "zero":
        data[:8] = 0
    return torch.from_numpy(data)


@dataclass(frozen=True, kw_only=True)
class NonFinite(Fault):
    """The rank's gradients are not finite in one step."""

    def before_step(self, run: Run, step: int) -> None:
        run.poison = step == self.step
        if run.poison:
            run.announce()


@dataclass(frozen=True, kw_only=True)
class CodecFails(Fault):
    """The rank's codec raises MemoryError in one bucket of the step, as a worker or as an owner."""

    bucket: int = 1
    method: str = "_compress_worker"

    def before_step(self, run: Run, step: int) -> None:
        if step == self.step:
            exchange = run.training.hook.exchange
            plain, calls = getattr(exchange, self.method), iter(range(1000))

            def failing(*args: Any, **kwargs: Any) -> Any:
                if next(calls) == self.bucket:
                    run.announce()
                    raise MemoryError("no room for the codes")
                return plain(*args, **kwargs)

            setattr(exchange, self.method, failing)
