"""`net.set_input_arrays`: the arrays that a MemoryData layer gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import netc.pycaffe as caffe
from tests.pycaffe.nets import net_of

TEXT = """
layer { name: "mem" type: "MemoryData" top: "data" top: "label"
        memory_data_param { batch_size: 2 channels: 1 height: 1 width: 3 } }
layer { name: "twice" type: "Power" bottom: "data" top: "data" power_param { scale: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
        inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
IMAGES = np.arange(12, dtype=np.float32).reshape(4, 1, 1, 3)
LABELS = np.arange(4, dtype=np.float32)


@pytest.mark.parametrize("labels", [LABELS, LABELS.reshape(4, 1, 1, 1)])
def test_batches_come_in_turn(tmp_path: Path, labels: np.ndarray) -> None:
    net = net_of(tmp_path, TEXT)
    images = IMAGES.copy()
    net.set_input_arrays(images, labels)
    for batch in (slice(0, 2), slice(2, 4), slice(0, 2)):
        net.forward()
        np.testing.assert_array_equal(net.blobs["data"].data, 2 * IMAGES[batch])
        np.testing.assert_array_equal(net.blobs["label"].data, LABELS[batch])
    images[2:] = 7  # The arrays are the caller's: what is written later counts.
    net.forward()
    assert (net.blobs["data"].data == 14).all()
    net.forward(start="twice")
    assert (net.blobs["data"].data == 28).all()  # In place, on what was there: nothing was given.
    net.forward()
    np.testing.assert_array_equal(net.blobs["data"].data, 2 * IMAGES[:2])


def test_a_solver_trains_on_them(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(TEXT)
    (tmp_path / "solver.prototxt").write_text(
        f'train_net: "{tmp_path}/net.prototxt" base_lr: 0.05 lr_policy: "fixed" max_iter: 200 '
        f'momentum: 0.9 snapshot_prefix: "{tmp_path}/s" snapshot_after_train: false random_seed: 3'
    )
    solver = caffe.SGDSolver(str(tmp_path / "solver.prototxt"))
    images = np.eye(4, 3, dtype=np.float32).reshape(4, 1, 1, 3)
    solver.net.set_input_arrays(images, LABELS)
    solver.step(200)
    found = []
    for _ in range(2):
        solver.net.forward()
        found += solver.net.blobs["ip"].data.argmax(1).tolist()
    assert found == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("images", "labels", "match"),
    [
        (IMAGES.astype(np.float64), LABELS, "data array must be float32 and C contiguous"),
        (IMAGES[:, :, :, ::-1], LABELS, "C contiguous"),
        (IMAGES[0], LABELS, r"wrong shape(.|\n)*\(n, 1, 1, 3\)"),
        (IMAGES, LABELS.reshape(2, 2, 1, 1), "labels array has the wrong shape"),
        (IMAGES, LABELS[:2], "4 images, 2 labels"),
        (IMAGES[:3], LABELS[:3], "multiple of batch size(.|\n)*multiple of 2"),
        (IMAGES[:0], LABELS[:0], "multiple of batch size"),
    ],
)
def test_arrays_that_do_not_suit(
    tmp_path: Path, images: np.ndarray, labels: np.ndarray, match: str
) -> None:
    with pytest.raises(RuntimeError, match=match):
        net_of(tmp_path, TEXT).set_input_arrays(images, labels)


def test_another_first_layer_takes_no_arrays(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="first layer is a MemoryDataLayer"):
        net_of(tmp_path).set_input_arrays(IMAGES, LABELS)
