"""Sizes of the lossless stages over quartic bytes, beside their order-0 entropy and general compressors.

python -m benchmarks.bench_codecs
"""

import bz2
import lzma
import zlib

import numpy as np

from benchmarks.harness import write_rows
from trafficzip import kernels
from trafficzip.codecs import Rans, ZeroRun

SHARES = (0.3, 0.15, 0.1, 0.05, 0.02, 0.01, 0.003)
SIZES = (50_000, 1_000_000, 6_500_000)


def symbols_of(num_elements: int, share: float, *, seed: int = 0) -> np.ndarray:
    """Give quartic bytes of independent codes, of which `share` are not zero."""
    rng = np.random.default_rng(seed)
    codes = rng.choice([-1, 0, 1], num_elements, p=[share / 2, 1 - share, share / 2]).astype(np.int8)
    return kernels.quartic_pack(codes)


def entropy_bytes(symbols: np.ndarray) -> float:
    """Give the order-0 entropy of the bytes, in bytes, without a model."""
    counts = np.bincount(symbols, minlength=256)
    p = counts[counts > 0] / symbols.size
    return float(-(p * np.log2(p)).sum() * symbols.size / 8)


def sizes(num_elements: int, share: float) -> dict[str, float]:
    """Encode one tensor with everything; sizes in bytes, and rANS over entropy."""
    symbols = symbols_of(num_elements, share)
    raw = symbols.tobytes()
    rans = Rans().encode(symbols)
    assert (Rans().decode(rans, symbols.size) == symbols).all()
    entropy = entropy_bytes(symbols)
    return {
        "entropy": round(entropy, 1),
        "rans": rans.size,
        "rans_over_entropy": round(rans.size / entropy, 4),
        "zero_run": ZeroRun().encode(symbols).size,
        "zlib6": len(zlib.compress(raw, 6)),
        "bz2": len(bz2.compress(raw)),
        "lzma": len(lzma.compress(raw)) if num_elements < 2_000_000 else "",
        "rans_bits_per_element": round(8 * rans.size / num_elements, 4),
    }


def main() -> None:
    rows = []
    for num_elements in SIZES:
        for share in SHARES:
            rows.append({"elements": num_elements, "nonzero_share": share, **sizes(num_elements, share)})
            print(rows[-1])
    print(write_rows("codecs", rows))


if __name__ == "__main__":
    main()
