"""The bars of messages on a GPU; all but the first need a CUDA device, and name it."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.figure import Figure

_MODELS = ("resnet50", "transformer")
_ROOT = Path(__file__).parents[2]


def gpu_1() -> list[Figure]:
    """The same bits as the CPU, frames read in both directions; interpreted where there is no GPU (minutes)."""
    import torch

    files = sorted(str(path.relative_to(_ROOT)) for path in _ROOT.glob("tests/kernels/test_triton_*.py"))
    marks = ["-m", "not slow"] if torch.cuda.is_available() else []  # with tests that only a GPU can run
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", *marks, f"--junitxml={report}", *files, "tests/gpu"]
        subprocess.run(command, cwd=_ROOT, check=False, env={**os.environ, "PYTHONPATH": str(_ROOT)})
        suites = ElementTree.parse(report).getroot().iter("testsuite") if report.exists() else ()
        counts = [
            {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")} for suite in suites
        ]
    where = _gpu_name() or "interpreted"
    failed = sum(count["failures"] + count["errors"] for count in counts)
    passed = sum(count["tests"] - count["skipped"] for count in counts) - failed
    return [
        Figure(f"{where}: tests failed", float(failed), 0),
        Figure(f"{where}: tests passed", float(passed), 1, at_most=False),
    ]


def gpu_2() -> list[Figure]:
    """Encode 100 MB to messages of quartic bytes with residual: share of copy bandwidth, 20 bytes an element."""
    figures = []
    for name, found in _measured(("encode",), 100):
        print(f"{name}: codes alone, without checksums: {100 * found.share('quantize', 'quartic'):.1f} % of copy")
        share = 100 * found.share("encode", "quartic")
        figures.append(Figure(f"{name}: encode, % of copy bandwidth", share, 60, at_most=False))
    return figures


def gpu_3() -> list[Figure]:
    """Decode and add up 8 frames of 100 MB: share of copy bandwidth, payloads and 4 bytes an element."""
    figures = []
    for name, found in _measured(("decode",), 100):
        print(f"{name}: judged before: {100 * found.share('sum_8_judged_before', 'quartic'):.1f} % of copy")
        share = 100 * found.share("sum_8", "quartic")
        figures.append(Figure(f"{name}: judge, decode and sum 8, % of copy bandwidth", share, 60, at_most=False))
    return figures


def gpu_4() -> list[Figure]:
    """Zero runs, or rANS, added to encode of 100 MB, over quartic alone: in kernels, and with all waits."""
    figures = []
    for name, found in _measured(("messages",), 100):
        for last, bar in (("zero_run", 1.6), ("rans", 2.5)):
            for what, column in (("kernels", "busy_us"), ("start to end, host's waits included", "us")):
                ratio = found.value("encode_variable", last, column) / found.value("encode_variable", "quartic", column)
                figures.append(Figure(f"{name}: {last} / quartic alone, {what}", ratio, bar))
    return figures


def gpu_5() -> list[Figure]:
    """The same function in plain torch over ours, 100 MB, all in CUDA graphs (a minute)."""
    figures = []
    for name, found in _measured(("encode", "decode", "torch eager", "torch.compile"), 100):
        for operation in ("encode", "sum_8"):
            ours = found.value(operation, "quartic", "us")
            for peer, bar in (("torch eager", 8), ("torch.compile", 2)):
                ratio = found.value(operation, peer, "us") / ours
                figures.append(Figure(f"{name}: {operation}, {peer} / ours", ratio, bar, at_most=False))
    return figures


def gpu_6() -> list[Figure]:
    """Whole encode and decode of 25 MB, headers and checksums included: microseconds of GPU time."""
    return [
        Figure(f"{name}: encode and decode, microseconds", found.value("encode_decode", "quartic", "us"), 120)
        for name, found in _measured(("encode",), 25)
    ]


GPU = (gpu_1, gpu_2, gpu_3, gpu_4, gpu_5, gpu_6)


@dataclass(frozen=True, slots=True)
class _Found:
    """Rows of one workload."""

    rows: list[dict[str, object]]

    def value(self, operation: str, method: str, column: str) -> float:
        """Give one figure; what failed to be measured has none, and raises."""
        (row,) = (r for r in self.rows if (r["operation"], r["method"]) == (operation, method) and not r.get("kernel"))
        return float(row[column])  # type: ignore[arg-type]

    def share(self, operation: str, method: str) -> float:
        return self.value(operation, method, "share")


def _measured(names: tuple[str, ...], megabytes: float) -> Iterator[tuple[str, _Found]]:
    """Measure what the bar needs, one model after the other: GPU and model, rows."""
    gpu = _gpu_name()
    if not gpu:
        sys.exit("not measured: no CUDA device")
    import torch

    from benchmarks.gpu.run import Run
    from benchmarks.gpu.timing import CudaClock
    from benchmarks.gpu.workload import Workload

    device = torch.device("cuda", torch.cuda.current_device())
    for model in _MODELS:
        run = Run(CudaClock(), device, None)
        run.workload(Workload.of(model, megabytes, device), names=names, multipliers=(1.0,))
        if run.failed:
            sys.exit("not measured: " + "; ".join(run.failed))
        yield f"{gpu}, {model} {megabytes:g} MB", _Found(run.rows)


def _gpu_name() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""
