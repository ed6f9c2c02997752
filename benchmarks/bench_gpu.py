"""Everything that a GPU does with a bucket, against the bandwidth of a copy and against what others do.

python -m benchmarks.bench_gpu [--quick] [--out CSV]      measure, on a CUDA device; under 8 minutes, --quick under 2
python -m benchmarks.bench_gpu --plot [CSV]               draw results/gpu_roofline.png from rows
TRITON_INTERPRET=1 python -m benchmarks.bench_gpu --device cpu     run the same code on tiny buckets; times mean nothing
"""

import argparse
import sys
from pathlib import Path

import torch

from benchmarks.harness import RESULTS

PICTURE = RESULTS / "gpu_roofline.png"
WORKLOADS = [(model, megabytes) for megabytes in (25, 100) for model in ("resnet50", "transformer")]


def measure(device: torch.device, *, quick: bool, compiled: bool, path: Path | None) -> list[str]:
    """Measure all workloads; give what failed.

    quick: one bucket of 25 MB, one multiplier, few rounds.
    compiled: also torch.compile.
    """
    from benchmarks.gpu.cases import MULTIPLIERS
    from benchmarks.gpu.peers import COMPILED, PEERS
    from benchmarks.gpu.run import OURS, Run
    from benchmarks.gpu.timing import clock_for
    from benchmarks.gpu.workload import Workload

    workloads = WORKLOADS[:1] if quick else WORKLOADS
    if device.type == "cpu":
        workloads = [("tiny", 0.5)]
    run = Run(clock_for(device, rounds=15 if quick else 40), device, path)
    names = [name for name in (*OURS, *PEERS) if compiled or name != COMPILED]
    for model, megabytes in workloads:
        run.workload(Workload.of(model, megabytes, device), names=names, multipliers=MULTIPLIERS[: 1 if quick else 2])
    run.finish()
    return run.failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--out", type=Path, help="rows go there, and not to results/gpu_<gpu>_<date>.csv")
    parser.add_argument(
        "--plot", nargs="?", const="newest", metavar="CSV", help="draw only; the newest rows by default"
    )
    parser.add_argument("--picture", type=Path, default=PICTURE, help="where --plot draws")
    arguments = parser.parse_args()
    if arguments.plot:
        from benchmarks.gpu.picture import draw, newest

        draw(newest() if arguments.plot == "newest" else Path(arguments.plot), arguments.picture)
        print(arguments.picture)
        return
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("not measured: no CUDA device")
    path = arguments.out
    if device.type == "cuda":
        from benchmarks.gpu.record import default_path

        device = torch.device("cuda", torch.cuda.current_device())
        path = path or default_path(device)
    else:
        from trafficzip.kernels.triton_gpu import INTERPRETED

        if not INTERPRETED:
            sys.exit("--device cpu needs Triton's interpreter: set TRITON_INTERPRET=1")
    compiled = device.type == "cuda" and not arguments.no_compile
    failed = measure(device, quick=arguments.quick or device.type == "cpu", compiled=compiled, path=path)
    print(path or "rows were not kept")
    if failed:
        sys.exit("failed: " + "; ".join(failed))


if __name__ == "__main__":
    main()
