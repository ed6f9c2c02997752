"""Add golden frames of the current format version: python -m tests.golden.add_case NAME PRESET SEED SHARE SIZE...

Writes v1_<name>.npz (values, residual, group sizes, frame, decoded, lost) and never replaces a file.
"""

import sys
from pathlib import Path

import numpy as np

from trafficzip.kernels import Groups
from trafficzip.presets import PRESETS
from trafficzip.wire.frame import VERSION


def main() -> None:
    name, preset, seed, share, *sizes = sys.argv[1:]
    path = Path(__file__).parent / f"v{VERSION}_{name}.npz"
    if path.exists():
        sys.exit(f"{path} exists; golden frames are never replaced")
    rng = np.random.default_rng(int(seed))
    groups = Groups([int(size) for size in sizes])
    n = groups.num_elements
    values = (rng.standard_normal(n) * (rng.random(n) < float(share))).astype(np.float32)
    residual = (0.1 * rng.standard_normal(n)).astype(np.float32)
    lost = np.zeros(n, np.float32)
    frame = PRESETS[preset].compress(values, groups, residual=residual, out=lost)
    np.savez_compressed(
        path,
        preset=np.array(preset),
        sizes=np.array(groups.sizes),
        values=values,
        residual=residual,
        frame=frame.pack(),
        decoded=PRESETS[preset].decompress(frame, groups),
        lost=lost,
    )


if __name__ == "__main__":
    main()
