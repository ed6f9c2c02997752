"""The bars of compressed checkpoints; sizes and worth are of rows in results/ (bench_checkpoint, bench_peers)."""

from benchmarks.checkpoint.curves import Row, bits_at_error, bits_at_quality, error_at_bits, rows_of
from benchmarks.checkpoint.models import load_model
from benchmarks.figure import Figure

_MAX_LOSS = 0.3  # points of accuracy
_AHEAD = 15  # %
_NOTHING = (0.1, 0.02)  # points of accuracy, nats: to lose less is to lose nothing


def checkpoint_1() -> list[Figure]:
    """Bytes at equal relative error of the matrices, against the better of NNCodec's default and RDOQ; from rows."""
    bars = {
        ("minilm", 3.5): 2.5,
        ("minilm", 2.7): 3.5,
        ("minilm", 2.3): 3.5,
        ("resnet56", 3.5): 1,
        ("resnet56", 2.7): 1,
        ("resnet20", 3.5): 0,
        ("resnet20", 3.0): 0,
    }
    figures = []
    for (model, bits), bar in bars.items():
        ours = rows_of(model, "trafficzip_mse")
        peers = [rows_of(model, method) for method in ("nncodec", "nncodec_rdoq")]
        error = min(error_at_bits(rows, bits) for rows in peers)
        saving = 100 * (1 - bits_at_error(ours, error) / bits)
        figures.append(Figure(f"{model}, {bits} bits: % fewer bytes at error {error:.4f}", saving, bar, at_most=False))
    return figures


def checkpoint_2() -> list[Figure]:
    """Bits at equal quality: cosine .97 on MiniLM; other models against NNCodec's default; from rows."""
    figures = [
        Figure("minilm, cosine .97: bits", bits_at_quality(rows_of("minilm", "trafficzip"), 0.97), 3.0),
        Figure("minilm calibrated", bits_at_quality(rows_of("minilm", "trafficzip_calibrated"), 0.97), 2.75),
    ]
    print(f"NNCodec's default on MiniLM: {bits_at_quality(rows_of('minilm', 'nncodec'), 0.97):.3f} bits")
    ahead = 0
    for model in ("stories260k", "resnet20", "resnet32", "resnet56"):
        savings = _savings_at_quality(model)
        mean = sum(savings.values()) / len(savings)
        ahead += mean >= _AHEAD
        each = ", ".join(f"{saving:.1f} % at {quality:.2f}" for quality, saving in savings.items())
        print(f"{model}: {mean:.1f} % fewer bits than NNCodec's default, the mean of {each}")
    return [*figures, Figure(f"other models, of four, with {_AHEAD} % fewer bits", ahead, 2, at_most=False)]


def checkpoint_3() -> list[Figure]:
    """Decode to float32, checksums included, one thread, against NNCodec, and two threads."""
    from benchmarks.checkpoint.speed import decode_speed

    found = decode_speed()
    print({name: round(value, 2) for name, value in found.items()})
    return [
        Figure("decode, M weights/s", found["m_weights_per_s"], 300, at_most=False),
        Figure("times NNCodec", found["over_nncodec"], 12, at_most=False),
        Figure("two threads / one", found["two_threads"], 1.6, at_most=False),
    ]


def checkpoint_4() -> list[Figure]:
    """Encode on one thread, steps given."""
    from benchmarks.checkpoint.speed import encode_speed

    found = encode_speed()
    return [
        Figure("encode with 64 states, M weights/s", found[64], 5, at_most=False),
        Figure("encode with 8 states, M weights/s", found[8], 15, at_most=False),
    ]


def checkpoint_5() -> list[Figure]:
    """The command decompress on MiniLM, whole process."""
    from benchmarks.checkpoint.speed import command_seconds

    return [Figure("trafficzip decompress, seconds", command_seconds(), 1.5)]


def checkpoint_6() -> list[Figure]:
    """Bytes at equal error against uniform steps and zstd -1, 2 to 5 bits; from rows."""
    figures = []
    for model in ("minilm", "resnet56"):
        ours, theirs = rows_of(model, "trafficzip_mse"), rows_of(model, "usq_zstd1")
        for bits in (2.01, 2.5, 3, 3.5, 4, 4.95):
            at = min(max(bits, _bits(theirs[0])), _bits(theirs[-1]))
            saving = 100 * (1 - bits_at_error(ours, error_at_bits(theirs, at)) / at)
            figures.append(Figure(f"{model}, {at:.2f} bits: % fewer bytes", saving, 5, at_most=False))
    return figures


def checkpoint_7() -> list[Figure]:
    """Lossless MiniLM: bits per weight and speed."""
    from benchmarks.checkpoint.speed import lossless

    found = lossless()
    return [
        Figure("bfloat16, bits per weight", found["bfloat16"]["bits"], 10.64),
        Figure("float32, bits per weight", found["float32"]["bits"], 26.2),
        Figure("bfloat16 decode, GB/s", found["bfloat16"]["gb_per_s"], 1.3, at_most=False),
        Figure("float32 decode, GB/s", found["float32"]["gb_per_s"], 1.3, at_most=False),
    ]


def checkpoint_8() -> list[Figure]:
    """Times smaller at most .3 points lost, three ResNets, without data; from rows."""
    figures = []
    for model in ("resnet20", "resnet32", "resnet56"):
        original = load_model(model)
        size = sum(value.nbytes for value in original.values())
        ratio = 0.0
        for row in rows_of(model, "trafficzip")[::-1]:
            if float(row["quality"]) < _original(model) - _MAX_LOSS:
                break
            ratio = size / int(row["bytes"])
        figures.append(Figure(f"{model}: float32 / file, {_MAX_LOSS} points lost at most", ratio, 8, at_most=False))
    return figures


def checkpoint_9() -> list[Figure]:
    """Ternary values, half of them 0: the file over entropy and scales."""
    from benchmarks.checkpoint.speed import ternary_over_entropy

    return [Figure("file / (entropy + scales)", ternary_over_entropy(), 1.02)]


def checkpoint_10() -> list[Figure]:
    """100,000 mutated files: no crash, no hang, no large allocation, no silent change (minutes)."""
    from benchmarks.checkpoint.hostile import mutate_files

    found = mutate_files(100_000)
    print({name: round(value, 3) for name, value in found.items()})
    return [
        Figure("crashes and other errors than the library's", found["crashes"], 0),
        Figure("files that took more than a second", found["hangs"], 0),
        Figure("files that gave changed values", found["silent"], 0),
        Figure("largest allocation / (twice the declared bound)", found["allocation"], 1),
        Figure("mutated files", found["files"], 100_000, at_most=False),
    ]


def checkpoint_11() -> list[Figure]:
    """Private memory above the largest tensor, 2 GiB in 64 tensors (minutes)."""
    from benchmarks.checkpoint.speed import peak_memory

    return [Figure(f"{name}, GB above the largest tensor", value, 1) for name, value in peak_memory().items()]


def _bits(row: Row) -> float:
    return float(row["bits_per_weight"])


def _original(model: str) -> float:
    return float(rows_of(model, "safetensors_fp32")[0]["quality"])


def _savings_at_quality(model: str) -> dict[float, float]:
    """Give % fewer bits, without data, at the quality of each of NNCodec's default settings that loses something.

    One quality alone is a matter of luck: .2 points of accuracy are a spread of 10,000 images.
    """
    return {
        float(row["quality"]): 100
        * (1 - bits_at_quality(rows_of(model, "trafficzip"), float(row["quality"])) / _bits(row))
        for row in rows_of(model, "nncodec")
        if abs(float(row["quality"]) - _original(model)) > _NOTHING[model == "stories260k"]
    }


CHECKPOINT = (
    checkpoint_1,
    checkpoint_2,
    checkpoint_3,
    checkpoint_4,
    checkpoint_5,
    checkpoint_6,
    checkpoint_7,
    checkpoint_8,
    checkpoint_9,
    checkpoint_10,
    checkpoint_11,
)
