"""Programs of the kinds that pycaffe's users write, shortened from their habits, not their text."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import netc.pycaffe as caffe
from netc.data import write_datums
from netc.schema import netc_pb2

DATA = """
layer {{ name: "digits" type: "Data" top: "data" top: "label" include {{ phase: {phase} }}
        data_param {{ source: "{source}" batch_size: {size} backend: LMDB }}
        transform_param {{ scale: 0.01 }} }}
"""
BODY = """
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" convolution_param {
        num_output: 6 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
        pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "score" type: "InnerProduct" bottom: "pool1" top: "score" inner_product_param {
        num_output: 4 weight_filler { type: "xavier" } } }
"""
LOSS = """
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss" }
"""
DEPLOY = """
layer { name: "input" type: "Input" top: "data"
        input_param { shape { dim: 5 dim: 1 dim: 8 dim: 8 } } }
"""
PROB = 'layer { name: "prob" type: "Softmax" bottom: "score" top: "prob" }'
CONV_SCORE = """
layer { name: "score-conv" type: "Convolution" bottom: "pool1" top: "score" convolution_param {
        num_output: 4 kernel_size: 3 } }
"""


def picture(rng: np.random.Generator, label: int) -> np.ndarray:
    """Draw a noisy bar: lying, standing, and the two diagonals."""
    image = rng.integers(0, 60, (1, 8, 8))
    steps = np.arange(8)
    at = rng.integers(2, 6)
    rows, columns = {
        0: (np.full(8, at), steps),
        1: (steps, np.full(8, at)),
        2: (steps, steps),
        3: (steps, 7 - steps),
    }[label]
    image[0, rows, columns] = 255
    return image.astype(np.uint8)


def write_files(folder: Path) -> str:
    rng = np.random.default_rng(0)
    for name, count in (("train", 64), ("test", 40)):
        write_datums(
            folder / name,
            [
                netc_pb2.Datum(
                    channels=1,
                    height=8,
                    width=8,
                    data=picture(rng, i % 4).tobytes(),
                    label=i % 4,
                )
                for i in range(count)
            ],
        )
    data = DATA.format(phase="TRAIN", source="train", size=16)
    data += DATA.format(phase="TEST", source="test", size=40)
    (folder / "train_test.prototxt").write_text(data + BODY + LOSS)
    (folder / "deploy.prototxt").write_text(DEPLOY + BODY + PROB)
    (folder / "solver.prototxt").write_text(
        'net: "train_test.prototxt" test_iter: 1 test_interval: 100 base_lr: 0.05 momentum: 0.9 '
        f'lr_policy: "fixed" max_iter: 60 random_seed: 1 snapshot_prefix: "{folder}/bars"'
    )
    return str(folder / "solver.prototxt")


def test_learn_watch_and_classify(tmp_path: Path) -> None:
    file = write_files(tmp_path)
    caffe.set_mode_cpu()
    solver = caffe.SGDSolver(file)
    shapes = [(k, v.data.shape) for k, v in solver.net.blobs.items()]
    assert shapes[:3] == [("data", (16, 1, 8, 8)), ("label", (16,)), ("conv1", (16, 6, 6, 6))]
    assert [(k, v[0].data.shape) for k, v in solver.net.params.items()] == [
        ("conv1", (6, 1, 3, 3)),
        ("score", (4, 54)),
    ]
    solver.net.forward()
    solver.test_nets[0].forward()
    solver.step(1)
    filters = solver.net.params["conv1"][0].diff[:, 0].reshape(2, 3, 3, 3).transpose(0, 2, 1, 3)
    assert filters.any()

    train_loss = np.zeros(60)
    output = np.zeros((60, 8, 4))
    for it in range(60):
        solver.step(1)
        train_loss[it] = solver.net.blobs["loss"].data
        solver.test_nets[0].forward(start="conv1")
        output[it] = solver.test_nets[0].blobs["score"].data[:8]
    assert train_loss[-5:].mean() < 0.2 < train_loss[0]
    assert not np.array_equal(output[0], output[-1])
    test_net = solver.test_nets[0]
    test_net.forward()
    correct = test_net.blobs["score"].data.argmax(1) == test_net.blobs["label"].data
    assert correct.mean() > 0.9

    solver.net.save(str(tmp_path / "bars.caffemodel"))
    net = caffe.Net(
        str(tmp_path / "deploy.prototxt"), str(tmp_path / "bars.caffemodel"), caffe.TEST
    )
    rng = np.random.default_rng(5)
    images = [picture(rng, label) for label in (0, 1, 2, 3)]
    net.blobs["data"].reshape(len(images), *images[0].shape)
    net.blobs["data"].data[...] = np.asarray(images) * 0.01
    probabilities = net.forward()["prob"]
    assert list(probabilities.argmax(1)) == [0, 1, 2, 3]
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)


def test_surgery_from_inner_product_to_convolution(tmp_path: Path) -> None:
    write_files(tmp_path)
    net = caffe.Net(str(tmp_path / "deploy.prototxt"), caffe.TEST)
    (tmp_path / "full.prototxt").write_text(DEPLOY + BODY[: BODY.index('layer { name: "score"')])
    text = (tmp_path / "full.prototxt").read_text() + CONV_SCORE
    (tmp_path / "full.prototxt").write_text(text)
    net.save(str(tmp_path / "net.caffemodel"))
    full = caffe.Net(str(tmp_path / "full.prototxt"), str(tmp_path / "net.caffemodel"), caffe.TEST)
    full.params["score-conv"][0].data.flat = net.params["score"][0].data.flat
    full.params["score-conv"][1].data[...] = net.params["score"][1].data

    rng = np.random.default_rng(1)
    wide = rng.standard_normal((5, 1, 8, 12)).astype(np.float32)
    full.blobs["data"].reshape(*wide.shape)
    scores = full.forward(data=wide)["score"]
    assert scores.shape == (5, 4, 1, 3)
    for i in range(3):
        net.forward(data=wide[..., 2 * i : 2 * i + 8])
        expected = net.blobs["score"].data
        np.testing.assert_allclose(scores[..., 0, i], expected, rtol=1e-4, atol=1e-5)


def test_a_picture_climbs_a_gradient(tmp_path: Path) -> None:
    write_files(tmp_path)
    text = (tmp_path / "deploy.prototxt").read_text()
    (tmp_path / "deploy.prototxt").write_text("force_backward: true\n" + text)
    net = caffe.Net(str(tmp_path / "deploy.prototxt"), caffe.TEST)
    src, dst = net.blobs["data"], net.blobs["pool1"]
    src.data[...] = np.random.default_rng(0).standard_normal(src.data.shape)
    strength = []
    for _ in range(5):
        net.forward(end="pool1")
        strength.append(float((dst.data**2).sum()))
        dst.diff[:] = dst.data
        net.backward(start="pool1")
        gradient = src.diff[0]
        assert gradient.any()
        src.data[:] += 0.1 * src.diff / np.abs(src.diff).mean()
    assert strength == sorted(strength)
    assert strength[-1] > 1.5 * strength[0]
