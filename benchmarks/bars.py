"""Measure one of the project's bars on this machine: python -m benchmarks.bars traffic.3

Prints each figure beside its bar, appends them to results/, and exits 0 only when all of them hold.
`--list` names the bars; slow ones say so.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict

from benchmarks.checkpoint.bars import CHECKPOINT
from benchmarks.figure import Figure
from benchmarks.gpu.bars import GPU
from benchmarks.harness import write_rows


def traffic_1() -> list[Figure]:
    """Encode to quartic with residual update, against copy."""
    from benchmarks.bench_kernels import encode_decode

    return [Figure("encode to quartic / copy", encode_decode()["encode_quartic"]["ratio"], 3.0)]


def traffic_2() -> list[Figure]:
    """The same, zero runs included."""
    from benchmarks.bench_kernels import encode_decode

    return [Figure("encode to zero runs / copy", encode_decode()["encode_zero_run"]["ratio"], 4.2)]


def traffic_3() -> list[Figure]:
    """Decode zero runs and quartic, and accumulate."""
    from benchmarks.bench_kernels import encode_decode

    return [Figure("decode zero runs + accumulate / copy", encode_decode()["decode_zero_run"]["ratio"], 2.4)]


def traffic_4() -> list[Figure]:
    """rANS speed at 5 % non-zeros, one thread."""
    from benchmarks.bench_kernels import rans

    found = rans()
    print(f"as ratio to copy: encode {found['rans_encode']['ratio']:.2f}, decode {found['rans_decode']['ratio']:.2f}")
    return [
        Figure("rANS encode, G elements/s", found["rans_encode"]["giga_elements_per_s"], 0.9, at_most=False),
        Figure("rANS decode, G elements/s", found["rans_decode"]["giga_elements_per_s"], 2.5, at_most=False),
    ]


def traffic_5() -> list[Figure]:
    """Size of rANS payloads over the order-0 entropy of the bytes."""
    from benchmarks.bench_codecs import SHARES, sizes

    bars = {50_000: 1.10, 1_000_000: 1.02, 6_500_000: 1.02}
    return [
        Figure(f"rANS / entropy, {n} elements, {share:g} non-zeros", sizes(n, share)["rans_over_entropy"], bar)
        for n, bar in bars.items()
        for share in SHARES
    ]


def traffic_6() -> list[Figure]:
    """Sizes on the gradients of a real run (minutes)."""
    from benchmarks.bench_convergence import gradient_sizes

    found = gradient_sizes()
    return [
        Figure("THREE_LC, ternary tensors", found["three_lc_ternary"], 60, at_most=False),
        Figure("THREE_LC_RANS, ternary tensors", found["three_lc_rans_ternary"], 100, at_most=False),
        Figure("THREE_LC, whole frames", found["three_lc_whole"], 50, at_most=False),
        Figure("THREE_LC_RANS, whole frames", found["three_lc_rans_whole"], 75, at_most=False),
    ]


def traffic_7() -> list[Figure]:
    """Memory beyond DDP's own at 4 ranks."""
    from benchmarks.bench_exchange import memory

    found = memory()
    print(f"between steps: {found['steady']:.3f} x, of which residuals {found['residuals']:.3f} x the gradient bytes")
    return [Figure("peak memory within a step / gradient bytes", found["peak"], 1.35)]


def traffic_8() -> list[Figure]:
    """Step time with the hook switched off, against plain DDP."""
    from benchmarks.bench_exchange import overhead_off

    return [Figure("step time, hook off / plain DDP", overhead_off()["ratio"], 1.03)]


def traffic_9() -> list[Figure]:
    """Accuracy at bytes over whole runs, from the rows in results/ (hours; --rerun in bench_convergence)."""
    from benchmarks.bench_convergence import accuracy_at_bytes

    found = accuracy_at_bytes()
    return [
        Figure("accuracy below dense, points (means)", found["gap"], 0.5),
        Figure("times fewer bytes over the whole run", found["ratio"], 70, at_most=False),
        Figure("seeds", found["seeds"], 3, at_most=False),
    ]


def traffic_10() -> list[Figure]:
    """Bit-identical parameters on 2, 3 and 4 ranks after 200 steps, both exchanges (a minute)."""
    from benchmarks.bench_exchange import identical_ranks

    return [
        Figure(f"{name}, {ranks} ranks: different ranks", float(different), 0)
        for (name, ranks), different in identical_ranks().items()
    ]


def cluster_1() -> list[Figure]:
    """Exchange of 25 MB of real gradients over 100 and 10 Mbit/s links, 4 hosts (10 minutes, needs root)."""
    from benchmarks.bench_cluster import exchange_speedups

    found = exchange_speedups(["10mbit", "100mbit"])
    bars = {("100mbit", "dense"): 15, ("100mbit", "fp16"): 8, ("10mbit", "dense"): 40, ("10mbit", "fp16"): 20}
    return [
        Figure(f"{other} / THREE_LC_RANS at {rate}", found[rate, other], bar, at_most=False)
        for (rate, other), bar in bars.items()
    ]


def cluster_2() -> list[Figure]:
    """The same over 1 Gbit/s links (2 minutes, needs root)."""
    from benchmarks.bench_cluster import exchange_speedups

    found = exchange_speedups(["1gbit"])
    return [Figure("dense / THREE_LC_RANS at 1gbit", found["1gbit", "dense"], 1, at_most=False)]


def cluster_3() -> list[Figure]:
    """Training's time per step and accuracy, from the rows in results/ (an hour; bench_cluster measures them)."""
    from benchmarks.bench_cluster import PAPER, accuracies, results_file, training_times

    rows = results_file().rows
    times, means = training_times(rows), {m: sum(a) / len(a) for m, a in accuracies(rows).items()}
    seeds = {method: len(a) for method, a in accuracies(rows).items()}
    ours = ("three_lc_s1.0", "three_lc_s1.5", "three_lc_s1.75", "three_lc_s1.9", "three_lc_rans_s1.0", "default")
    level = {method for method, mean in means.items() if mean >= means["dense"] - 0.5}
    print({m: f"{means[m]:.2f} % ({seeds[m]} seeds{'' if m in level else ', not level'})" for m in sorted(means)})
    figures = []
    for rate, bar in PAPER.items():
        dense = times[rate, "dense"]
        speed = {m: dense / t for (r, m), t in times.items() if r == rate}
        print(rate, {method: round(found, 2) for method, found in sorted(speed.items(), key=lambda pair: -pair[1])})
        figures.append(Figure(f"dense / 3LC, s = 1.0, at {rate}", speed["three_lc_s1.0"], bar, at_most=False))
        best = max(speed[m] for m in ours if m in level and m in speed)
        rivals = {m: f for m, f in speed.items() if m not in (*ours, "auto", "local_h16")}
        print(f"accuracy not measured, so taken as equal: {sorted(m for m in rivals if m not in means)}")
        others = max(f for m, f in rivals.items() if m in level or m not in means)
        figures.append(Figure(f"ours / the fastest other at equal accuracy, {rate}", best / others, 1, at_most=False))
    return [
        *figures,
        Figure("accuracy of 3LC, s = 1.0, below dense", means["dense"] - means["three_lc_s1.0"], 0.5),
        Figure("seeds of each accuracy", min(seeds.values()), 3, at_most=False),
    ]


def cluster_4() -> list[Figure]:
    """Bytes on the wire against payload, two phases, 2, 4 and 8 hosts, 10 MB (5 minutes, needs root)."""
    from benchmarks.bench_cluster import bytes_over_payload

    found = bytes_over_payload([2, 4, 8])
    for (hosts, data), ratio in found.items():
        print(f"{hosts} hosts, {data} ({ratio['bits']:.2f} bits a value): {ratio['counted']:.4f} as counted")
    return [
        Figure(f"wire / (2 (N - 1) / N x payload), {hosts} hosts, {data}", ratio["wire"], 1.03)
        for (hosts, data), ratio in found.items()
    ]


def cluster_5() -> list[Figure]:
    """The automatic policy over shaped links: steps against dense ones and the best fixed choice (40 minutes, root)."""
    from benchmarks.bench_auto import FAST, auto_bar

    figures = []
    for (rate, millions), found in auto_bar().items():
        where = f"{rate}, {millions} M parameters"
        print(f"{where}: 1,000 steps with the decision: {found['total_over_dense']:.3f} x dense,", end=" ")
        print(f"{found['total_over_best']:.3f} x the best fixed choice")
        figures.append(Figure(f"{where}: auto / dense", found["over_dense"], 1.05))
        if rate not in FAST:
            figures.append(Figure(f"{where}: auto / best fixed choice", found["over_best"], 1.05))
    return figures


def cluster_6() -> list[Figure]:
    """FSDP2 on 2 and 4 ranks: the loss curve against dense, in spreads of 8 dense seeds (15 minutes)."""
    from benchmarks.bench_fsdp import fsdp_bar

    found = fsdp_bar(seeds=8, methods=("s1.0",))
    for (_, ranks, method), row in found.items():
        print(f"{ranks} ranks, {method}: {row['bytes_ratio']:.1f} x fewer bytes, end gap {row['end_gap']:.4f} nats")
    return [
        Figure(f"{ranks} ranks, {method}: worst gap / spread over the curve", row["gap_over_spread"], 1)
        for (_, ranks, method), row in found.items()
    ]


def cluster_7() -> list[Figure]:
    """Local steps, H = 16, from the rows in results/ (an hour; bench_local_steps measures them)."""
    from benchmarks.bench_local_steps import BAR_SEEDS, local_bar

    single = local_bar(seeds=1)
    print(f"longest runs, one seed: {single['steps']} steps, {single['gap_nats']:.4f} nats, {single['ratio']:.0f} x")
    found = local_bar()
    return [
        Figure(f"validation loss above dense after {found['steps']} steps, nats (means)", found["gap_nats"], 0.03),
        Figure("times fewer bytes", found["ratio"], 500, at_most=False),
        Figure("seeds", found["seeds"], BAR_SEEDS, at_most=False),
    ]


def cluster_8() -> list[Figure]:
    """Scripted faults on real processes (minutes)."""
    from benchmarks.faults.bar import faults_bar

    found = faults_bar()
    return [Figure("cases failed", found["failed"], 0), Figure("cases passed", found["passed"], 30, at_most=False)]


BARS: dict[str, Callable[[], list[Figure]]] = {
    function.__name__.replace("_", "."): function
    for function in (
        traffic_1,
        traffic_2,
        traffic_3,
        traffic_4,
        traffic_5,
        traffic_6,
        traffic_7,
        traffic_8,
        traffic_9,
        traffic_10,
        cluster_1,
        cluster_2,
        cluster_3,
        cluster_4,
        cluster_5,
        cluster_6,
        cluster_7,
        cluster_8,
        *CHECKPOINT,
        *GPU,
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bar", nargs="?", choices=sorted(BARS))
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    if arguments.list or arguments.bar is None:
        for name, function in BARS.items():
            print(f"{name}: {function.__doc__}")
        return
    figures = BARS[arguments.bar]()
    for figure in figures:
        print(figure)
    write_rows("bars", [{"name": arguments.bar, **asdict(f), "holds": f.holds} for f in figures])
    sys.exit(0 if figures and all(figure.holds for figure in figures) else 1)


if __name__ == "__main__":
    main()
