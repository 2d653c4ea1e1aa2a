"""A folder as a user of the command line has it: data, a net, a solver, in a few kilobytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from netc.data import write_datums
from netc.schema import netc_pb2

# Images of 3 x 8 x 8 in 5 classes that differ in brightness, so that a few iterations learn them.
N_IMAGES, N_CLASSES, CHANNELS, SIDE = 20, 5, 3, 8

NET = """\
name: "tiny"
layer {
  name: "images"
  type: "Data"
  top: "data"
  top: "label"
  include { phase: TRAIN }
  transform_param { scale: 0.00390625 }
  data_param { source: "db" backend: LMDB batch_size: 4 }
}
layer {
  name: "images"
  type: "Data"
  top: "data"
  top: "label"
  include { phase: TEST }
  transform_param { scale: 0.00390625 }
  data_param { source: "db" backend: LMDB batch_size: 10 }
}
layer {
  name: "conv1"
  type: "Convolution"
  bottom: "data"
  top: "conv1"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } }
}
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer {
  name: "ip"
  type: "InnerProduct"
  bottom: "conv1"
  top: "ip"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } }
}
layer {
  name: "accuracy"
  type: "Accuracy"
  bottom: "ip"
  bottom: "label"
  top: "accuracy"
  include { phase: TEST }
}
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
DEPLOY = """\
name: "tiny_deploy"
input: "data"
input_dim: 2 input_dim: 3 input_dim: 8 input_dim: 8
layer {
  name: "conv1"
  type: "Convolution"
  bottom: "data"
  top: "conv1"
  convolution_param { num_output: 4 kernel_size: 3 }
}
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer {
  name: "ip"
  type: "InnerProduct"
  bottom: "conv1"
  top: "ip"
  inner_product_param { num_output: 5 }
}
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
"""
SOLVER = """\
net: "net.prototxt"
base_lr: 0.05
momentum: 0.9
lr_policy: "fixed"
max_iter: 6
display: 2
test_iter: 2
test_interval: 3
random_seed: 7
snapshot_prefix: "run"
"""


def furnish(folder: Path) -> Path:
    """Write the data and texts into a folder, and return it."""
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 30, (N_IMAGES, CHANNELS, SIDE, SIDE))
    write_datums(
        folder / "db",
        (
            netc_pb2.Datum(
                channels=CHANNELS,
                height=SIDE,
                width=SIDE,
                data=(image + 45 * (i % N_CLASSES)).astype(np.uint8).tobytes(),
                label=i % N_CLASSES,
            )
            for i, image in enumerate(levels)
        ),
    )
    for name, text in (("net", NET), ("deploy", DEPLOY), ("solver", SOLVER)):
        (folder / f"{name}.prototxt").write_text(text, encoding="utf-8")
    return folder
