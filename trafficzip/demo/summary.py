"""From the workers' results to rows, curves and footnotes: what may be said about them, and what may not."""

from statistics import median
from typing import Any

from trafficzip.report.table import Row, format_bytes

# TCP, IP and Gloo add their own bytes to each message: below 5 % of a large one, and about 0.3 kB to each small one.
_OVERHEAD_SHARE = 0.05
_OVERHEAD_BYTES = 2000  # per step and ordered pair of ranks


def make_rows(results: dict[str, Any]) -> list[Row]:
    """Give one row for each run.

    Ratio and bits come from the interface for all runs, or for none: where it counted something else than the runs'
    traffic, or nothing, they come from what was sent.
    """
    trusted = all(_counts_agree(result) for result in results.values())
    totals = {
        name: result["wire_bytes"][-1] if trusted else result["expected_bytes"] for name, result in results.items()
    }
    return [_row(name, result, totals[name], totals["dense"]) for name, result in results.items()]


def sent_bytes(result: dict[str, Any]) -> list[float]:
    """Give the bytes sent up to the end of each step; evenly spread where the interface was not counted."""
    if result["wire_bytes"] is not None:
        return [float(size) for size in result["wire_bytes"]]
    num_steps = len(result["losses"])
    return [result["expected_bytes"] * (step + 1) / num_steps for step in range(num_steps)]


def footnotes(results: dict[str, Any]) -> list[str]:
    """Say what the columns count, and where two countings of the same bytes do not agree."""
    sent = "what trafficzip counted and, for the dense run, what a ring all-reduce sends"
    if all(result["wire_bytes"] is not None for result in results.values()):
        notes = [
            "Bytes on the wire: received by the loopback interface (/proc/net/dev) during the training steps, TCP/IP "
            "included, from all programs on this machine; start-up and evaluation are not included."
        ]
    else:
        notes = [f"Bytes on the wire: n/a, this system has no /proc/net/dev. Ratio and bits/element use {sent}."]
    notes.append("Bits/element: sent by one worker for one gradient element in one step. Step: the median of the run.")
    notes.append(
        "Codec and exchange: seconds of one worker in all steps; exchange includes waiting for the other workers. "
        "Loopback is faster than any network, so less traffic saves no time here."
    )
    strange = [(name, run) for name, run in results.items() if run["wire_bytes"] is not None and not _counts_agree(run)]
    notes.extend(_disagreement(name, result) for name, result in strange)
    if strange:
        notes.append(f"WARNING: ratio and bits/element therefore use {sent}.")
    for name, result in results.items():
        if not result["identical"]:
            notes.append(
                f"WARNING: {name}: the ranks' parameters differ: {', '.join(d[:12] for d in result['digests'])}"
            )
    return notes


def _row(name: str, result: dict[str, Any], total: int, dense_total: int) -> Row:
    elements_sent = result["num_elements"] * result["world_size"] * len(result["losses"])
    return Row(
        name=name,
        accuracy=result["accuracy"],
        wire_bytes=result["wire_bytes"][-1] if result["wire_bytes"] is not None else None,
        counted_bytes=result["counted_bytes"],
        ratio=dense_total / total if total else None,
        bits_per_element=8 * total / elements_sent,
        codec_s=result["codec_s"],
        exchange_s=result["exchange_s"],
        step_s=median(result["step_s"]),
        identical=result["identical"],
    )


def _counts_agree(result: dict[str, Any]) -> bool:
    """Whether the interface counted what was sent, and no more on top than TCP/IP's own bytes explain."""
    if result["wire_bytes"] is None:
        return False
    return bool(0 <= result["wire_bytes"][-1] - result["expected_bytes"] <= _allowance(result))


def _allowance(result: dict[str, Any]) -> float:
    pairs = result["world_size"] * (result["world_size"] - 1)
    return float(_OVERHEAD_SHARE * result["expected_bytes"] + _OVERHEAD_BYTES * pairs * len(result["losses"]))


def _disagreement(name: str, result: dict[str, Any]) -> str:
    source = "a ring all-reduce sends" if result["counted_bytes"] is None else "trafficzip sent"
    return (
        f"WARNING: {name}: the interface counted {format_bytes(result['wire_bytes'][-1])}, {source} "
        f"{format_bytes(result['expected_bytes'])}, and TCP/IP explains up to {format_bytes(_allowance(result))} more. "
        "Was another program using the loopback interface?"
    )
