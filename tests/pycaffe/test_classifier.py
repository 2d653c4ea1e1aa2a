"""Classifier: images in, probabilities out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import netc.pycaffe as caffe

NET = """
layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 4 dim: 3 dim: 4 dim: 4 } } }
layer { name: "mean" type: "Pooling" bottom: "data" top: "mean"
        pooling_param { pool: AVE global_pooling: true } }
layer { name: "ip" type: "InnerProduct" bottom: "mean" top: "ip"
        inner_product_param { num_output: 3 bias_term: false } }
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """A net that says which of blue, green and red an image has the most of."""
    text, weights = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    text.write_text(NET)
    net = caffe.Net(str(text), caffe.TEST)
    net.params["ip"][0].data[...] = np.eye(3) / 10
    net.save(weights)
    return str(text), str(weights)


def pictures() -> list[np.ndarray]:
    """Return a red, a green and a blue image, of several sizes."""
    images = [np.full((8, 8, 3), 0.1), np.full((10, 6, 3), 0.1), np.full((5, 5, 3), 0.1)]
    for channel, image in enumerate(images):
        image[..., channel] += 0.3
        image[0, 0] = 0
    return images


@pytest.mark.parametrize("oversample", [True, False])
def test_images_of_any_size_and_number(files: tuple[str, str], oversample: bool) -> None:
    classifier = caffe.Classifier(
        *files,
        image_dims=(6, 6),
        mean=np.array([10.0, 10.0, 10.0]),
        raw_scale=255,
        channel_swap=(2, 1, 0),
        input_scale=0.5,
    )
    assert isinstance(classifier, caffe.Net)
    predictions = classifier.predict(pictures(), oversample)
    assert predictions.shape == (3, 3)
    assert list(predictions.argmax(1)) == [2, 1, 0]  # channels are B, G, R after the swap
    np.testing.assert_allclose(predictions.sum(1), 1, rtol=1e-5)


def test_windows_are_averaged(files: tuple[str, str]) -> None:
    classifier = caffe.Classifier(*files, image_dims=(6, 6))
    image = np.random.default_rng(0).random((6, 6, 3)).astype(np.float32)
    windows = caffe.io.oversample([image], (4, 4)).transpose(0, 3, 1, 2)
    expected = classifier.forward_all(data=windows)["prob"].mean(0)
    np.testing.assert_allclose(classifier.predict([image])[0], expected, rtol=1e-5)
    centre = image[1:5, 1:5].transpose(2, 0, 1)[np.newaxis]
    expected = classifier.forward_all(data=centre)["prob"]
    np.testing.assert_allclose(classifier.predict([image], oversample=False), expected, rtol=1e-5)
