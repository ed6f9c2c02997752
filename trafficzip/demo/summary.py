"""From the workers' results to rows, curves and footnotes: what may be said about them, and what may not."""

from statistics import median
from typing import Any

from trafficzip.report.table import Row, format_bytes

# TCP, IP and Gloo add their own bytes to each message: below 5 % of a large one, and about 0.3 kB to each small one.
_OVERHEAD_SHARE = 0.05
_OVERHEAD_BYTES = 2000  # per step and ordered pair of ranks


def make_rows(results: dict[str, Any]) -> list[Row]:
    """Give one row for each run; ratio and bits come from the interface, or from the library where nothing counts."""
    return [_row(name, result, results["dense"]) for name, result in results.items()]


def sent_bytes(result: dict[str, Any]) -> list[float]:
    """Give the bytes sent up to the end of each step; evenly spread where the interface was not counted."""
    if result["wire_bytes"] is not None:
        return [float(size) for size in result["wire_bytes"]]
    num_steps = len(result["losses"])
    return [result["expected_bytes"] * (step + 1) / num_steps for step in range(num_steps)]


def footnotes(results: dict[str, Any]) -> list[str]:
    """Say what the columns count, and where two countings of the same bytes do not agree."""
    notes = []
    if any(result["wire_bytes"] is None for result in results.values()):
        notes.append(
            "Bytes on the wire: n/a, this system has no /proc/net/dev. Ratio and bits per element use what trafficzip "
            "counted and, for the dense run, what a ring all-reduce sends."
        )
    else:
        notes.append(
            "Bytes on the wire: received by the loopback interface (/proc/net/dev) during the training steps, TCP/IP "
            "included, from all programs on this machine; start-up and evaluation are not included."
        )
    notes.append("Bits/element: sent by one worker for one gradient element in one step. Step: the median of the run.")
    notes.append(
        "Codec and exchange: seconds of one worker in all steps; exchange includes waiting for the other workers. "
        "Loopback is faster than any network, so less traffic saves no time here."
    )
    for name, result in results.items():
        notes.extend(_disagreement(name, result))
        if not result["identical"]:
            notes.append(
                f"WARNING: {name}: the ranks' parameters differ: {', '.join(d[:12] for d in result['digests'])}"
            )
    return notes


def _row(name: str, result: dict[str, Any], dense: dict[str, Any]) -> Row:
    counted = all(run["wire_bytes"] is not None for run in (result, dense))
    total = result["wire_bytes"][-1] if counted else result["expected_bytes"]
    dense_total = dense["wire_bytes"][-1] if counted else dense["expected_bytes"]
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


def _disagreement(name: str, result: dict[str, Any]) -> list[str]:
    """Give a note if the interface counted less than was sent, or more than TCP/IP's own bytes explain."""
    if result["wire_bytes"] is None:
        return []
    wire, expected = result["wire_bytes"][-1], result["expected_bytes"]
    pairs = result["world_size"] * (result["world_size"] - 1)
    allowance = _OVERHEAD_SHARE * expected + _OVERHEAD_BYTES * pairs * len(result["losses"])
    if expected <= wire <= expected + allowance:
        return []
    source = "a ring all-reduce sends" if result["counted_bytes"] is None else "trafficzip sent"
    return [
        f"WARNING: {name}: the interface counted {format_bytes(wire)}, {source} {format_bytes(expected)}; "
        f"TCP/IP explains up to {format_bytes(allowance)} more. Was another program using the loopback interface?"
    ]
