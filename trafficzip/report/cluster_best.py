"""Which accuracy runs belong to a training setting, and which methods are the best of a column."""

from collections.abc import Iterable, Mapping

from trafficzip.report.cluster_groups import Rate, Study, Training

POINTS = 0.5  # of accuracy that a method may lose to dense and still be marked as best


def study_of(training: Training, found: Iterable[Study]) -> Study | None:
    """Choose the accuracy runs that belong to a training setting: same network, ranks and batch.

    Of several, the one on the same data, then with most methods, then the longest; None where there is none.
    """
    wanted = (training.network, training.place.ranks, training.batch)
    fitting = [study for study in found if (study.network, study.ranks, study.batch) == wanted]
    return max(fitting, key=lambda s: (s.data == training.data, len(s.runs), s.steps or 0), default=None)


def eligible(methods: Iterable[str], study: Study | None) -> tuple[frozenset[str], frozenset[str]]:
    """Give the methods that may be marked as best, and those whose accuracy is too low.

    May be marked: accuracy at most POINTS below dense, and all ranks ended with the same parameters.
    In neither set: accuracy not known, or that of dense, or ranks that differ.
    """
    differences = {m: study.difference(m) if study else None for m in methods}
    differences = {m: p for m, p in differences.items() if not (study and study.diverged(m))}
    near = {m for m, points in differences.items() if points is not None and points >= -POINTS - 1e-9}
    low = {m for m, points in differences.items() if points is not None} - near
    return frozenset(near), frozenset(low)


def speaks_for(study: Study, training: Training, method: str, rate: Rate) -> bool:
    """Say whether all accuracy runs of a method did what it did on a link, by its own account of its plan."""
    row = training.cells.get((method, rate))
    return row is None or all(_values(run.plan) == _values(row.plan) for run in study.runs.get(method, ()))


def _values(plan: str) -> str:
    """Give the part of a plan that decides about values; overlap changes when bytes travel, and no bit."""
    return plan.removesuffix(", overlapped")


def other_plan(training: Training, study: Study | None) -> frozenset[str]:
    """Give the methods that did on some link what not all of their accuracy runs did."""
    runs = study.runs if study else {}
    return frozenset(
        m for m in runs if study and not all(speaks_for(study, training, m, rate) for rate in training.rates)
    )


def best(values: Mapping[str, float | None], among: frozenset[str]) -> frozenset[str]:
    """Give the methods with the highest value, of those in `among` that have one."""
    found = {m: value for m, value in values.items() if value is not None and m in among}
    return frozenset(m for m, value in found.items() if value == max(found.values()))
