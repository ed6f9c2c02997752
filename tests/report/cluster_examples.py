"""Rows as the cluster benchmark writes them, made by hand."""

import json

COLUMNS = (
    *("date", "commit", "command", "trafficzip", "python", "torch", "numpy", "numba", "cpu", "cores"),
    *("mode", "backend", "hosts", "ranks", "rate", "delay_ms", "loss", "mtu", "relayed"),
    *("workload", "method", "megabytes", "elements", "network", "data", "batch"),
    *("rounds", "step_s", "spread", "compute_s", "codec_s", "exchange_s", "wire_bytes", "counted_bytes"),
    *("payload_bytes", "peak_lr", "momentum", "final_loss", "identical", "plan"),
    *("steps", "seed", "accuracy", "curve", "error"),
)
PLACE = {
    **{"date": "2026-11-24", "commit": "0123456789ab", "command": "trafficzip bench cluster", "cpu": "a processor"},
    **{"mode": "cluster", "backend": "gloo", "hosts": "4", "ranks": "4", "rate": "10mbit", "delay_ms": "0"},
    **{"loss": "0", "mtu": "1500", "relayed": "False"},
}
SETTING = {"network": "ResNet-20", "data": "CIFAR-10", "batch": "32"}


def row(workload, method, **changes):
    return dict.fromkeys(COLUMNS, "") | PLACE | {"workload": workload, "method": method} | changes


def training(method, step_s, **changes):
    times = {"rounds": "20", "step_s": str(step_s), "spread": "0.02", "wire_bytes": "1000"}
    return row("training", method, **(SETTING | times | changes))


def exchange(method, step_s, **changes):
    return row("exchange", method, **({"megabytes": "1", "step_s": str(step_s), "wire_bytes": "1000"} | changes))


def accuracy(method, percent, **changes):
    curve = json.dumps([[100, 40.0, 2.0], [150, None, 1.5], [200, float(percent or 0), 1.0]])
    run = {"rate": "none", "final_loss": "0.4", "identical": "True", "steps": "200", "seed": "0", "curve": curve}
    return row("accuracy", method, **(SETTING | run | {"accuracy": str(percent)} | changes))
