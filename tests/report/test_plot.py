import pytest

from trafficzip.report.plot import Curve, save_plot


@pytest.mark.parametrize("num_steps", [1, 2, 300])
def test_plot_is_written(tmp_path, num_steps):
    curves = [
        Curve(name="dense", losses=[2.3] * num_steps, sent_bytes=[1e6 * (i + 1) for i in range(num_steps)]),
        Curve(name="compressed", losses=[float("nan")] * num_steps, sent_bytes=[2e4] * num_steps),
    ]
    save_plot(curves, tmp_path / "demo.png", title="t", bytes_title="b")
    image = (tmp_path / "demo.png").read_bytes()
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    assert [int.from_bytes(image[at : at + 4], "big") for at in (16, 20)] == [1200, 500]
