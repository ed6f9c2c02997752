"""The GPU benchmark runs whole, on tiny buckets and with the interpreter; on a GPU, its first bucket."""

import csv
from collections import Counter
from math import isfinite, prod
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType

from tests.kernels.gpu import DEVICE  # before triton is imported

# isort: split

from benchmarks.bench_gpu import measure
from benchmarks.gpu import plain
from benchmarks.gpu.models import bucket, resnet50, transformer
from benchmarks.gpu.peers import torch_cases
from benchmarks.gpu.powersgd import PowerSgd, gram_schmidt, qr
from benchmarks.gpu.timing import HostClock, kernel_times
from benchmarks.gpu.workload import WORLD_SIZE, Workload


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("gpu") / "rows.csv"
    assert measure(DEVICE, quick=True, compiled=False, path=path) == []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_row_has_finite_figures_and_says_where_it_was_measured(rows):
    for row in rows:
        assert row["gpu"]
        assert row["triton"]
        assert row["torch"]
        assert row["commit"]
        if row["error"]:
            assert row["error"].startswith("not installed: ")
            continue
        for column in ("us", "spread", "elements"):
            assert row["kernel"] or isfinite(float(row[column]))
        assert float(row["us"]) > 0
        if row["bytes"]:
            assert float(row["gb_per_s"]) > 0
            assert float(row["share"]) > 0


def test_all_that_was_asked_for_is_measured(rows):
    found = Counter((row["operation"], row["method"]) for row in rows if not row["kernel"])
    assert found["copy", "torch copy_"] == 2
    for operation in ("quantize", "encode", "decode", "encode_decode", "sum_8", "sum_8_judged_before", "owner_step"):
        assert found[operation, "quartic"] == 1
    for method in ("quartic", "zero_run", "rans"):
        assert found["encode_variable", method] == found["decode_variable", method] == 1
    for method in ("zero_run", "rans"):
        assert found["encode_bytes", method] == found["decode_bytes", method] == 1
    assert found["encode", "torch eager"] == found["sum_8", "torch eager"] == 1
    assert found["encode_decode", "PowerSGD rank 4, QR"] == 1


def test_rows_are_drawn(rows, tmp_path):
    pytest.importorskip("matplotlib")
    from benchmarks.gpu.picture import draw

    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    draw(path, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_models_have_the_sizes_of_their_papers():
    assert sum(prod(shape) for shape in resnet50().values()) == 25_557_032
    assert sum(prod(shape) for shape in transformer().values()) == 124_439_808
    chosen = bucket(transformer(), num_bytes=25e6)
    assert list(chosen)[-1] == "ln_f.bias"
    assert 25e6 <= 4 * sum(prod(shape) for shape in chosen.values()) < 50e6


def test_a_peer_that_makes_other_codes_is_refused(monkeypatch):
    work = Workload.of("tiny", 0.5, DEVICE)
    right = plain.encode
    monkeypatch.setattr(plain, "encode", lambda *arguments: right(*arguments[:3], 1.5))
    with pytest.raises(AssertionError, match="plain torch differ"):
        torch_cases(work, HostClock(), compiled=False)


@pytest.mark.parametrize("orthogonalize", [qr, gram_schmidt])
def test_powersgd_keeps_what_it_does_not_send(orthogonalize):
    work = Workload.of("tiny", 0.5, DEVICE)
    values = work.gradients(0)
    sent, error = values.clone(), torch.zeros_like(values)
    PowerSgd(work, orthogonalize)(sent, error)
    torch.testing.assert_close(sent + error, values)
    for name, shape in work.large.items():
        start = work.starts[name]
        assert torch.linalg.matrix_rank(sent[start : start + prod(shape)].view(shape[0], -1)) == 4


def test_a_bucket_is_laid_out_for_8_owners():
    work = Workload.of("tiny", 0.5, DEVICE)
    assert len(work.shards) == WORLD_SIZE
    assert sum(shard.num_elements for shard in work.shards) == work.num_elements


def test_kernel_times_are_per_call_and_of_the_device_alone():
    def event(name, us, device=DeviceType.CUDA):
        return SimpleNamespace(name=name, device_type=device, time_range=SimpleNamespace(elapsed_us=lambda: us))

    events = [event("_quantize", 4), event("_quantize", 6), event("cudaLaunchKernel", 9, DeviceType.CPU)]
    events += [event("Memset (Device)", 2), event("Activity Buffer Request", 1000)]
    assert kernel_times(events, 2) == {"_quantize": (5.0, 1.0), "Memset (Device)": (1.0, 0.5)}
