import numpy as np
import pytest

pytest.importorskip("tokenizers", reason="the benchmarks of checkpoints need tokenizers")
pytest.importorskip("safetensors")

from benchmarks.checkpoint import minilm, resnet, stories
from benchmarks.checkpoint.models import load_model
from benchmarks.checkpoint.quality import (
    CALIBRATION_SENTENCES,
    TEST_SENTENCES,
    calibration_inputs,
    quality,
    relative_l2,
)


def model(name):
    try:
        return load_model(name)
    except FileNotFoundError as error:
        pytest.skip(f"{name} is not here: {error}")


def test_calibration_never_judges():
    assert len(set(TEST_SENTENCES)) == len(TEST_SENTENCES) >= 54
    assert len(set(CALIBRATION_SENTENCES)) == len(CALIBRATION_SENTENCES) >= 64
    assert not set(TEST_SENTENCES) & set(CALIBRATION_SENTENCES)


def test_unchanged_minilm_has_cosine_1():
    assert quality("minilm", model("minilm")) == pytest.approx(1, abs=1e-6)


def test_minilm_embeds_alike_what_means_the_like():
    network = minilm.Network(model("minilm"))
    cat, pet, tax = minilm.embed(network, ["A cat sleeps.", "The kitten is asleep.", "Taxes rise next year."])
    assert float(cat @ pet) > 0.6 > 0.2 > float(cat @ tax)


def test_minilm_calibration_covers_every_linear_layer(monkeypatch):
    monkeypatch.setattr(minilm, "CALIBRATION_SENTENCES", CALIBRATION_SENTENCES[:2])
    tensors = model("minilm")
    grams = calibration_inputs(tensors)
    assert set(grams) == {name for name in tensors if name.startswith("encoder.") and tensors[name].ndim == 2}
    for name, gram in grams.items():
        assert gram.dtype == np.float32
        assert gram.shape == (tensors[name].shape[1],) * 2
        np.testing.assert_allclose(gram, gram.T, rtol=1e-4, atol=1e-4)


def test_resnet20_is_as_good_as_published():
    # 455 of the first 500 test images, as measured on the untouched network; one may turn on rounding
    assert resnet.accuracy(model("resnet20"), num_images=500) == pytest.approx(91.0, abs=0.2)


def test_stories_has_the_measured_loss():
    assert stories.cross_entropy(model("stories260k"), num_texts=1) == pytest.approx(3.900, abs=1e-3)


def test_relative_l2_leaves_vectors_out():
    original = {"weight": np.array([[3.0, 4.0]]), "bias": np.array([1.0])}
    decoded = {"weight": np.array([[3.0, 3.0]]), "bias": np.array([2.0])}
    assert relative_l2(original, decoded) == 0.2
    assert relative_l2(original, decoded, min_dims=0) == pytest.approx((2 / 26) ** 0.5)
