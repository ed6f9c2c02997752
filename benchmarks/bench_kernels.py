"""Codec kernels against `copy_` of the same tensor in the same run: encode with residual, zero runs, decode, rANS.

python -m benchmarks.bench_kernels [--threads N] [--presets]
"""

import argparse
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from benchmarks.harness import ratios, time_together, write_rows
from trafficzip import kernels
from trafficzip.codecs import Rans
from trafficzip.kernels import Groups
from trafficzip.presets import PRESETS

ELEMENTS = 6_500_000


def steady_gradients(num_elements: int = ELEMENTS, *, steps: int = 25) -> tuple[np.ndarray, np.ndarray]:
    """Give Gaussian values and the residual that error feedback has built up over `steps` steps at s = 1."""
    rng = np.random.default_rng(0)
    residual = np.zeros(num_elements, np.float32)
    groups = Groups([num_elements])
    for _ in range(steps):
        values = rng.standard_normal(num_elements, dtype=np.float32)
        scales = kernels.group_peaks(values, residual, groups)
        kernels.ternary_quartic(values, residual, residual, groups, scales, out_like_residual=True)
    return rng.standard_normal(num_elements, dtype=np.float32), residual


def encode_decode(rounds: int = 31, num_threads: int = 1) -> dict[str, dict[str, float]]:
    """Measure bars 1 to 3: one group of 6.5 M elements, residual updated in place, everything warm."""
    torch.set_num_threads(1)
    values, residual = steady_gradients()
    source, target = torch.from_numpy(values.copy()), torch.empty(ELEMENTS)
    kept = residual.copy()
    groups = Groups([ELEMENTS])
    out = np.zeros(ELEMENTS, np.float32)

    def quartic() -> np.ndarray:
        scales = kernels.group_peaks(values, residual, groups, num_threads=num_threads)
        return kernels.ternary_quartic(
            values, residual, residual, groups, scales, out_like_residual=True, num_threads=num_threads
        )

    def zero_runs() -> np.ndarray:
        return kernels.zero_run_encode(quartic(), num_threads=num_threads)

    scales = kernels.group_peaks(values, residual, groups)
    data = zero_runs()

    def decode() -> None:
        symbols = kernels.zero_run_decode(data, groups.num_symbols, num_threads=num_threads)
        kernels.quartic_accumulate(symbols, scales, out, groups, out_like_residual=False, num_threads=num_threads)

    functions: dict[str, Callable[[], object]] = {
        "copy": lambda: target.copy_(source),
        "encode_quartic": quartic,
        "encode_zero_run": zero_runs,
        "decode_zero_run": decode,
    }
    seconds = time_together(functions, rounds=rounds, before=lambda: np.copyto(residual, kept))
    bits = 8 * data.size / ELEMENTS
    return {
        name: {**ratios(times, seconds["copy"]), "seconds": float(np.median(times)), "bits_per_element": bits}
        for name, times in seconds.items()
    }


def rans(rounds: int = 31, num_threads: int = 1) -> dict[str, dict[str, float]]:
    """Measure bar 4: rANS over the quartic bytes of codes of which 5 % are not zero."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    codes = rng.choice([-1, 0, 1], ELEMENTS, p=[0.025, 0.95, 0.025]).astype(np.int8)
    symbols = kernels.quartic_pack(codes)
    codec = Rans()
    data = codec.encode(symbols)
    source, target = torch.zeros(ELEMENTS), torch.ones(ELEMENTS)
    functions: dict[str, Callable[[], object]] = {
        "copy": lambda: target.copy_(source),
        "rans_encode": lambda: codec.encode(symbols, num_threads=num_threads),
        "rans_decode": lambda: codec.decode(data, symbols.size, num_threads=num_threads),
    }
    seconds = time_together(functions, rounds=rounds)
    return {
        name: {
            **ratios(times, seconds["copy"]),
            "seconds": float(np.median(times)),
            "giga_elements_per_s": ELEMENTS / float(np.median(times)) / 1e9,
            "best_giga_elements_per_s": ELEMENTS / min(times) / 1e9,
            "bits_per_element": 8 * data.size / ELEMENTS,
        }
        for name, times in seconds.items()
    }


def presets(rounds: int = 15, num_threads: int = 1) -> dict[str, dict[str, float]]:
    """Measure every preset as the exchange uses it: compress with the residual in place, and decode into a sum."""
    torch.set_num_threads(1)
    values, residual = steady_gradients()
    source, target = torch.from_numpy(values.copy()), torch.empty(ELEMENTS)
    kept, groups, out = residual.copy(), Groups([ELEMENTS]), np.zeros(ELEMENTS, np.float32)
    functions: dict[str, Callable[[], object]] = {"copy": lambda: target.copy_(source)}
    bits = {"copy": 32.0}
    for name, preset in PRESETS.items():
        compress = partial(preset.compress, groups=groups, out=residual, num_threads=num_threads)
        frame = preset.compress(values, groups, residual=kept)
        functions[f"compress {name}"] = partial(compress, values, residual=residual)
        functions[f"accumulate {name}"] = partial(preset.accumulate, frame, groups, out, num_threads=num_threads)
        bits[f"compress {name}"] = bits[f"accumulate {name}"] = 8 * frame.pack().size / ELEMENTS
    seconds = time_together(functions, rounds=rounds, before=lambda: np.copyto(residual, kept))
    return {
        name: {**ratios(times, seconds["copy"]), "seconds": float(np.median(times)), "bits_per_element": bits[name]}
        for name, times in seconds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--presets", action="store_true", help="whole presets, and not the kernels of 3LC")
    arguments = parser.parse_args()
    threads, measured = arguments.threads, [presets] if arguments.presets else [encode_decode, rans]
    rows = []
    for measure in measured:
        for name, result in measure(num_threads=threads).items():
            rows.append({"kernel": name, "elements": ELEMENTS, "threads": threads, **result})
            print(rows[-1])
    print(write_rows("kernels", rows))


if __name__ == "__main__":
    main()
