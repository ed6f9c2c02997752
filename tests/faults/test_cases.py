"""A few scripted faults of each kind, as `python -m benchmarks.faults` runs all of them."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from benchmarks.faults.catalogue import all_cases
from benchmarks.faults.elastic import restart_cases
from benchmarks.faults.network import why_no_network
from benchmarks.faults.runner import run_case

CASES = {case.name: case for case in all_cases()}
QUICK = [
    "killed between the first two steps, two_phase",
    "killed before settings are compared",
    "another multiplier",
    "another version",
    "a message sent twice, all_gather",
    "an error is caught and training goes on",
    "killed between nodes, hierarchical",
    "not finite in one step, hierarchical",
    "killed within an exchange, overlapped",
    "killed within a reduce-scatter, FSDP2",
    "killed within a round, local steps",
    "a model that is not finite, local steps",
]


@pytest.fixture(scope="module")
def verdicts():
    """Run the quick cases, several at once, for most of a case is waiting."""
    with ThreadPoolExecutor(6) as threads:
        return dict(zip(QUICK, threads.map(run_case, [CASES[name] for name in QUICK]), strict=True))


@pytest.mark.parametrize("name", QUICK)
def test_case_ends_as_scripted(name, verdicts):
    assert verdicts[name].passed, verdicts[name].found


def test_wrong_script_is_told():
    assert not run_case(replace(CASES["another version"], says="disagree about the weather")).passed
    assert not run_case(replace(CASES["another version"], expected="continues")).passed


@pytest.mark.skipif(bool(why_no_network()), reason=why_no_network() or "hosts can be made")
def test_link_cut_for_a_while_changes_no_bit():
    verdict = run_case(CASES["link cut for 5 s, all_gather"])
    assert verdict.passed, verdict.found


@pytest.mark.slow
@pytest.mark.parametrize("case", restart_cases()[:1], ids=lambda case: case.name)
def test_example_resumes_bit_for_bit_under_torchrun(case):
    verdict = case.run()
    assert verdict.passed, verdict.found
