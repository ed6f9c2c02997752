"""The bar: all cases, a line each, and rows."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.faults.cases import Case
from benchmarks.faults.catalogue import all_cases
from benchmarks.faults.elastic import restart_cases
from benchmarks.faults.network import why_no_network
from benchmarks.faults.runner import Verdict, run_case
from benchmarks.harness import write_rows


def chosen(words: Sequence[str] = ()) -> list[Any]:
    """Give the cases whose name holds one of the words; all where there are none."""
    cases = [*all_cases(), *restart_cases()]
    return [case for case in cases if not words or any(word in case.name for word in words)]


def faults_bar(words: Sequence[str] = (), *, at_once: int = 3) -> dict[str, int]:
    """Run the cases, print a line each, append rows, and give how many passed, failed and were skipped.

    at_once: cases that run at the same time; most of a case is waiting.
    """
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    rows = []
    with ThreadPoolExecutor(at_once) as threads:
        for case, verdict in threads.map(_run, chosen(words)):
            if isinstance(verdict, str):
                counts["skipped"] += 1
                print(f"skip  {case.name}: {verdict}", flush=True)
                continue
            counts["passed" if verdict.passed else "failed"] += 1
            print(_line(verdict), flush=True)
            rows.append(_row(verdict))
    if rows:
        write_rows("faults", rows)
    return counts


def _run(case: Any) -> tuple[Any, Verdict | str]:
    """Give the verdict, or why there is none."""
    reason = _cannot_run(case)
    return case, reason or (case.run() if hasattr(case, "run") else run_case(case))


def _cannot_run(case: Any) -> str:
    return why_no_network() if isinstance(case, Case) and case.network else ""


def _line(verdict: Verdict) -> str:
    after = f", errors after {verdict.error_s:.1f} s" if verdict.error_s is not None else ""
    word = "ok  " if verdict.passed else "FAIL"
    first = f"{word}  {verdict.case.name}: expected {verdict.case.expected}, {verdict.seconds:.1f} s{after}"
    return f"{first}\n      {verdict.found}"


def _row(verdict: Verdict) -> dict[str, Any]:
    return {
        "case": verdict.case.name,
        "ranks": verdict.case.world_size,
        "exchange": verdict.case.exchange,
        "expected": verdict.case.expected,
        "passed": verdict.passed,
        "found": verdict.found,
        "seconds": round(verdict.seconds, 2),
        "error_s": "" if verdict.error_s is None else round(verdict.error_s, 2),
        "timeout_s": verdict.case.timeout_s,
    }
