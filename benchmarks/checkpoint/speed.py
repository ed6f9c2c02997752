"""Speed, memory and ternary sizes of this project's files."""

import io
import os
import subprocess
import sys
import zlib
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from benchmarks.checkpoint.models import load_model, model_path
from benchmarks.checkpoint.nncodec import nncodec
from benchmarks.checkpoint.ours import recipe_for
from benchmarks.checkpoint.worker import environment_python
from benchmarks.harness import time_together
from trafficzip.checkpoint.allocate import allocate
from trafficzip.checkpoint.coders.ternary import Ternary
from trafficzip.checkpoint.open import open_checkpoint
from trafficzip.checkpoint.recipe import RECIPES, Recipe, Rule
from trafficzip.checkpoint.save import save
from trafficzip.checkpoint.sources import MemorySource
from trafficzip.checkpoint.trellis.coder import Trellis
from trafficzip.checkpoint.writer import write_checkpoint

Arrays = dict[str, np.ndarray]


def saved(tensors: Arrays, recipe: Recipe) -> bytes:
    """Give a file's bytes."""
    sink = io.BytesIO()
    save(tensors, sink, recipe)
    return sink.getvalue()


def decode_speed(rounds: int = 15) -> dict[str, float]:
    """Decode MiniLM at 3 bits, checksums included, into memory at hand: M weights/s, and against NNCodec."""
    tensors = load_model("minilm")
    elements = sum(value.size for value in tensors.values())
    data = saved(tensors, recipe_for(3))
    outs = {name: np.zeros_like(value) for name, value in tensors.items()}
    one, two = (open_checkpoint(data, num_threads=n) for n in (1, 2))
    found = time_together(
        {
            "one": lambda: one.read_many(outs=outs),
            "two": lambda: two.read_many(outs=outs),
            "fresh": lambda: open_checkpoint(data, num_threads=1).read_many(),
            "crc": lambda: zlib.crc32(data),
        },
        rounds=rounds,
    )
    seconds = {name: median(times) for name, times in found.items()}
    peer = nncodec(tensors, qp=-24)
    return {
        "m_weights_per_s": elements / seconds["one"] / 1e6,
        "fresh_m_weights_per_s": elements / seconds["fresh"] / 1e6,
        "two_threads": seconds["one"] / seconds["two"],
        "nncodec_m_weights_per_s": elements / peer.decode_s / 1e6,
        "over_nncodec": peer.decode_s / seconds["one"],
    }


def encode_speed(rounds: int = 3) -> dict[int, float]:
    """Encode MiniLM with steps chosen before, on one thread: M weights/s by number of states."""
    tensors = load_model("minilm")
    source = MemorySource(tensors)
    elements = sum(value.size for value in tensors.values())
    found = {}
    for num_states in (64, 8):
        rules = tuple(
            Rule(coder=Trellis(num_states=num_states), dtypes=("float",), min_dims=2)
            if isinstance(rule.coder, Trellis)
            else rule
            for rule in RECIPES["small"].rules
        )
        chosen = allocate(source, Recipe(rules=rules, bits=3), num_threads=2).assignments
        seconds = time_together({"encode": lambda c=chosen: write_checkpoint(io.BytesIO(), source, c)}, rounds=rounds)
        found[num_states] = elements / median(seconds["encode"]) / 1e6
    return found


def command_seconds(rounds: int = 7) -> float:
    """Time `trafficzip decompress` of MiniLM at 3 bits, the whole process, from a cold interpreter."""
    with TemporaryDirectory() as folder:
        packed, target = Path(folder, "m.tzip"), Path(folder, "m.safetensors")
        save(model_path("minilm"), packed, recipe_for(3))
        times = []
        for _ in range(rounds):
            begin = perf_counter()
            subprocess.run([Path(sys.executable).parent / "trafficzip", "decompress", packed, "-o", target], check=True)
            times.append(perf_counter() - begin)
            target.unlink()
        return median(times)


def lossless(rounds: int = 15) -> dict[str, dict[str, float]]:
    """Store MiniLM losslessly as float32 and bfloat16: bits per weight, and GB/s of decoding into memory at hand."""
    found = {}
    for dtype in ("float32", "bfloat16"):
        tensors = {n: v.astype(getattr(ml_dtypes, dtype, dtype)) for n, v in load_model("minilm").items()}
        data = saved(tensors, RECIPES["lossless"])
        outs = {name: np.zeros_like(value) for name, value in tensors.items()}
        file = open_checkpoint(data, num_threads=1)
        seconds = time_together({"decode": lambda f=file, o=outs: f.read_many(outs=o)}, rounds=rounds)
        size = sum(value.nbytes for value in tensors.values())
        found[dtype] = {
            "bits": 8 * len(data) / sum(value.size for value in tensors.values()),
            "gb_per_s": size / median(seconds["decode"]) / 1e9,
        }
        assert all(outs[name].tobytes() == value.tobytes() for name, value in tensors.items())
    return found


def ternary_over_entropy(elements: int = 4_000_000) -> float:
    """Store ternary values, half of them 0, with a scale per row: bytes over entropy and scales."""
    rng = np.random.default_rng(0)
    codes = rng.choice([-1, 0, 1], elements, p=[0.25, 0.5, 0.25]).reshape(-1, 1000)
    values = (codes * rng.uniform(0.5, 2, (codes.shape[0], 1))).astype(np.float32)
    data = saved({"w": values}, Recipe(rules=(Rule(coder=Ternary()),)))
    assert np.array_equal(open_checkpoint(data)["w"], values)
    _, counts = np.unique(codes, return_counts=True)
    shares = counts / codes.size
    ideal = -elements * float((shares * np.log2(shares)).sum()) / 8 + 4 * codes.shape[0]
    return len(data) / ideal


MEMORY_TENSORS, MEMORY_ROWS = 64, 4096  # of 2048 float32: 2 GiB in all


def peak_memory() -> dict[str, float]:
    """Compress and decompress 2 GiB in 64 tensors: bytes of private memory beyond the largest tensor, in GB."""
    found = {}
    with TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        source, packed, target = (Path(folder, name) for name in ("m.safetensors", "m.tzip", "n.safetensors"))
        _write_large(source)
        largest = MEMORY_ROWS * 2048 * 4
        for name, arguments in {
            "compress": ["compress", source, "-o", packed, "--recipe", "small"],
            "decompress": ["decompress", packed, "-o", target],
        }.items():
            found[name] = (_peak([sys.executable, "-m", "trafficzip.cli", *arguments]) - largest) / 1e9
            if name == "compress":
                source.unlink()
    return found


def _write_large(path: Path) -> None:
    from trafficzip.checkpoint.sinks import write_safetensors
    from trafficzip.checkpoint.tensors import TensorInfo

    infos = [TensorInfo(f"layer.{i}.weight", "float32", (MEMORY_ROWS, 2048)) for i in range(MEMORY_TENSORS)]
    rng = np.random.default_rng(0)
    write_safetensors(path, infos, (rng.standard_normal(i.shape, np.float32) * 0.02 for i in infos))


def peaks() -> dict[str, float]:
    """Give the peak of private memory of compressing and decompressing MiniLM, in MB: ours, and both with NNCodec."""
    with TemporaryDirectory() as folder:
        source, packed, target = (Path(folder, name) for name in ("m.safetensors", "m.tzip", "n.safetensors"))
        save_file(load_model("minilm"), source)
        ours = [sys.executable, "-m", "trafficzip.cli"]
        worker = Path(__file__).parent / "nncodec_worker.py"
        theirs = [environment_python("nncodec"), "-P", worker, source, target, -24, 0]
        return {
            "compress": _peak([*ours, "compress", source, "-o", packed, "--recipe", "small"]) / 1e6,
            "decompress": _peak([*ours, "decompress", packed, "-o", target]) / 1e6,
            "nncodec, both": _peak(theirs) / 1e6,
        }


def _peak(command: list[object]) -> float:
    """Run a command and give its peak of private memory; mapped pages of files are not counted, as they can go."""
    process = subprocess.Popen([str(argument) for argument in command], stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except FileNotFoundError:
            break
        sizes = {line.split(":")[0]: int(line.split()[1]) for line in status.splitlines() if line.endswith("kB")}
        peak = max(peak, 1024 * (sizes.get("RssAnon", 0) + sizes.get("RssShmem", 0)))
        try:
            process.wait(0.02)
        except subprocess.TimeoutExpired:
            continue
    if process.wait():
        raise RuntimeError(f"{command} failed with {process.returncode}")
    return float(peak)
