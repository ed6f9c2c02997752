"""Sizes, errors, worth and speed of compressed checkpoints, ours and others'.

python -m benchmarks.bench_checkpoint ours --models resnet20 minilm   measure this project's files
python -m benchmarks.bench_checkpoint memory                          peak memory, ours and NNCodec's
python -m benchmarks.bench_checkpoint table                           compare all rows in results/
python -m benchmarks.bench_checkpoint plot                            draw them: results/checkpoint_curves.png

Those of others are measured by python -m benchmarks.checkpoint.bench_peers.
"""

import argparse

import torch

from benchmarks.checkpoint.curves import draw, print_table
from benchmarks.checkpoint.models import MODELS, load_model
from benchmarks.checkpoint.ours import BITS, recipe_for, trafficzip_file
from benchmarks.checkpoint.outcome import Outcome
from benchmarks.checkpoint.quality import calibration_inputs
from benchmarks.checkpoint.speed import peaks
from benchmarks.harness import write_rows

METHODS = ("trafficzip", "trafficzip_mse", "trafficzip_calibrated")


def measure_ours(models: list[str], methods: list[str], bits: list[float]) -> None:
    torch.set_num_threads(1)
    for model in models:
        tensors = load_model(model)
        grams = calibration_inputs(tensors, model) if "trafficzip_calibrated" in methods else {}
        grams = {name: gram for name, gram in grams.items() if gram.ndim == 2}
        size = sum(value.nbytes for value in tensors.values())
        whole = Outcome(bytes=size, decoded=tensors, encode_s=0, decode_s=0, encode_cpu_s=0, decode_cpu_s=0)
        row = {"model": model, "method": "safetensors_fp32", "setting": "", **whole.row(model, tensors)}
        write_rows("checkpoint_ours", [row])
        for method in methods:
            if method == "trafficzip_calibrated" and not grams:
                continue
            for target in bits:
                recipe = recipe_for(target, sensitivity="none" if method == "trafficzip_mse" else "auto")
                outcome = trafficzip_file(tensors, recipe, grams if method == "trafficzip_calibrated" else None)
                row = {"model": model, "method": method, "setting": f"bits={target:g}", **outcome.row(model, tensors)}
                print(row, flush=True)
                write_rows("checkpoint_ours", [row])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    ours = commands.add_parser("ours")
    ours.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    ours.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    ours.add_argument("--bits", nargs="+", type=float, default=list(BITS))
    commands.add_parser("memory")
    commands.add_parser("table")
    commands.add_parser("plot")
    arguments = parser.parse_args()
    if arguments.command == "ours":
        measure_ours(arguments.models, arguments.methods, arguments.bits)
    elif arguments.command == "memory":
        rows = [{"model": "minilm", "what": what, "peak_mb": round(peak, 1)} for what, peak in peaks().items()]
        print(rows)
        write_rows("checkpoint_memory", rows)
    elif arguments.command == "table":
        print_table()
    else:
        print(draw())


if __name__ == "__main__":
    main()
