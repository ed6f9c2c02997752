"""The automatic policy: measure, predict, try what is promising, and follow the fastest plan until the next check."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from trafficzip.comm.agreement import gather_plain
from trafficzip.comm.assembly import ExchangeKind
from trafficzip.comm.exchange import Exchange
from trafficzip.comm.hierarchical import Hierarchical
from trafficzip.comm.layout import Layout
from trafficzip.comm.transport import Transport
from trafficzip.compressor import Compressor
from trafficzip.ddp.config import Auto, Overlap
from trafficzip.ddp.costs import Costs, combine
from trafficzip.ddp.plan import DENSE, CodecName, Mode, Plan
from trafficzip.ddp.policy import Plans, report, warm_up
from trafficzip.ddp.probe import CodecProbe, measure_link
from trafficzip.ddp.state import fold_owner
from trafficzip.ddp.trials import StepLog, try_plans
from trafficzip.quantizers import Ternary

_TERNARY: tuple[CodecName, ...] = ("rans", "zero_run", "quartic")
_HOPELESS = 1.5  # times the best prediction: such plans are not tried
_HOPELESS_LATER = 1.15  # the same at later checks, whose predictions know how earlier trials went
_MOST_TRIED = 6
_MOST_OVERLAPPED = 2
_REST_STEPS = 4
_FIRST_CHECK_STEPS = 100  # to the second check, then twice as many each time: payloads grow while residuals fill


@dataclass(slots=True, eq=False, kw_only=True)
class Chooser:
    """Chooses plans from measurements that all ranks share, so that all choose alike.

    kinds: exchanges that buckets may go through; the first holds the residuals that are saved.
    rest_s: seconds of this rank's steps without their exchanges.
    factors: by plan, how many times longer than predicted its steps took.
    """

    auto: Auto
    kinds: Sequence[ExchangeKind]
    exchange: Exchange
    layout: Layout
    small: Compressor
    control: Transport
    log: StepLog
    rest_s: float = 0.0
    factors: dict[Plan, float] = field(default_factory=dict)

    def plans(self, overlap: Overlap) -> Plans:
        """Yield the plan of each step to come, for ever."""
        base = replace(Plan.of(Mode(self.kinds[0], self._ternary[0])), overlap=overlap is True)
        yield from warm_up(base)
        costs = yield from self._measure(base, None)
        plan = yield from self._choose(costs, overlap, current=None)
        steps = min(_FIRST_CHECK_STEPS, self.auto.recheck_steps)
        while True:
            yield from self._settle(plan)
            self.log.decided = True
            for _ in range(steps):
                if self.log.unsettled:
                    yield from self._settle(plan)
                yield plan
            self.log.decided = False
            earlier, costs = costs, (yield from self._measure(plan, costs))
            if costs.has_another_link(earlier):
                self.factors.clear()  # what trials said holds for the links that they ran on
            plan = yield from self._choose(costs, overlap, current=plan)
            steps = min(2 * steps, self.auto.recheck_steps)

    @property
    def _ternary(self) -> Sequence[CodecName]:
        compressors = [phase.compressor for phase in self.auto.schedule.phases if phase.compressor]
        return _TERNARY if all(isinstance(c.quantizer, Ternary) for c in compressors) else ("schedule",)

    # ---- measuring ----

    def _measure(self, plan: Plan, earlier: Costs | None) -> Generator[Plan, None, Costs]:
        """Measure links before a step, and codecs in one of `plan`, if it compresses; agree with all ranks."""
        sizes = self.log.bucket_sizes
        codecs: list[CodecName] = [*self._ternary, "bfloat16"] if self.auto.allow_dense else [*self._ternary]
        found: dict[str, Any] = {}
        if earlier is None:
            rests = []
            for _ in range(_REST_STEPS):
                yield plan
                rests.append(max(self.log.period_s - self.log.exchange_s, 0.0))
            self.rest_s = min(rests[1:])  # the first one's includes what was done between the steps
        if not plan.dense:
            while not found:
                self.log.probe = probe = CodecProbe(codecs, [min(sizes), max(sizes)], self.small)
                yield plan
                self.log.probe = None
                if self.log.committed:  # else some rank's gradients were not finite, which all ranks know
                    found = {name: {str(n): costs for n, costs in rows.items()} for name, rows in probe.found.items()}
        link = self.exchange.transport
        measured = measure_link(link, self.control)
        own = {
            "link": list(measured) if link.world_size > 1 else None,
            "rest_s": self.rest_s,
            "codecs": found,
        }
        answers = gather_plain(self.control, own)
        num_parts = self.exchange.nodes.num_parts if isinstance(self.exchange, Hierarchical) else 1
        costs = combine(answers, num_workers=self.layout.num_workers, num_parts=num_parts)
        costs = replace(costs, codecs=earlier.codecs) if plan.dense and earlier else costs
        report(self.control, self.log, f"measured: {costs}")
        return costs

    # ---- choosing ----

    def _choose(self, costs: Costs, overlap: Overlap, *, current: Plan | None) -> Generator[Plan, None, Plan]:
        """Predict, try what may be fastest, and return what was; where it is open, try that with overlap too."""
        sizes = self.log.bucket_sizes
        if current is not None and overlap == "auto":
            current = replace(current, overlap=False)
        candidates = self._candidates(costs, sizes, overlapped=overlap is True)
        predicted = {plan: costs.step_s(plan, sizes) for plan in candidates}
        if current is not None and current not in predicted:
            predicted[current] = costs.step_s(current, sizes)
        expected = {plan: step_s * self._factor(plan) for plan, step_s in predicted.items()}
        bound = _HOPELESS * min(expected.values())
        if current is not None and self.factors:
            bound = min(bound, _HOPELESS_LATER * expected[current])
        promising = sorted((plan for plan in expected if expected[plan] <= bound), key=expected.__getitem__)
        finalists = [plan for plan in predicted if plan in promising[:_MOST_TRIED] or plan == current]
        texts = ", ".join(f"{plan}: {1000 * step_s:.3g} ms" for plan, step_s in expected.items())
        report(self.control, self.log, f"predicted: {texts}; trying {len(finalists)}")
        fastest = finalists
        if len(finalists) == 1:
            best, why = finalists[0], "all others are predicted to be much slower"
        else:
            result = yield from try_plans(finalists, self.log, self.control)
            self.rest_s = min(costs.rest_s, *result.step_s.values())
            costs = replace(costs, rest_s=self.rest_s)
            self.factors |= {plan: step_s / costs.step_s(plan, sizes) for plan, step_s in result.step_s.items()}
            best, why = result.best, f"steps took {result}"
            fastest = sorted(finalists, key=result.step_s.__getitem__)
        report(self.control, self.log, f"chosen: {best}, because {why}")
        contenders = [replace(plan, overlap=True) for plan in fastest if not plan.dense][:_MOST_OVERLAPPED]
        if overlap == "auto" and len(sizes) > 1 and contenders:
            result = yield from try_plans([best, *contenders], self.log, self.control)
            best = result.best
            report(self.control, self.log, f"overlap {'on' if best.overlap else 'off'}, because steps took {result}")
        return best

    def _factor(self, plan: Plan) -> float:
        """Give how many times longer than predicted a plan's steps should take; rather too few for the dense plan."""
        typical = median(self.factors.values()) if self.factors else 1.0
        found = self.factors.get(plan, typical)
        return min(found, typical) if plan.dense else found

    def _candidates(self, costs: Costs, sizes: Sequence[int], *, overlapped: bool) -> list[Plan]:
        """Give plans in the order in which equally fast ones are taken: what loses less comes first."""
        choices: list[tuple[Sequence[ExchangeKind], Sequence[CodecName]]] = [(self.kinds, self._ternary)]
        choices += [([kind], [codec]) for kind in self.kinds for codec in self._ternary]
        if self.auto.allow_dense:
            choices.insert(0, (self.kinds, ["bfloat16"]))
        plans = [costs.best_modes(kinds, names, sizes, overlap=overlapped) for kinds, names in choices]
        return list(dict.fromkeys([DENSE, *plans] if self.auto.allow_dense else plans))

    def _settle(self, plan: Plan) -> Plans:
        """Bring what is pending to where `plan` sends it; where it compresses nothing, send all of it, exactly."""
        if plan.dense:
            self.log.unsettled = True
            while self.log.unsettled:
                yield Plan.of(Mode(self.kinds[0], "float32"))
                self.log.unsettled = not self.log.committed  # a step that is not finite sends nothing
        elif any(mode.exchange == "all_gather" for _, mode in plan.modes) and self.layout.owner:
            fold_owner(self.exchange, self.layout)
        self.log.unsettled = False
