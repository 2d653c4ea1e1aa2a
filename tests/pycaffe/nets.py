"""Nets for the tests of pycaffe."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import netc.pycaffe as caffe

# Layers in place, a blob with several readers, a loss: what a blob's name stands for changes on
# the way.
SMALL = """
name: "small"
force_backward: true
layer { name: "in" type: "Input" top: "data" top: "label"
        input_param { shape { dim: 4 dim: 2 dim: 6 dim: 6 } shape { dim: 4 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 3 kernel_size: 3 weight_filler { type: "xavier" }
                            bias_filler { type: "gaussian" } } }
layer { name: "power" type: "Power" bottom: "conv" top: "conv"
        power_param { scale: 2 shift: 0.25 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool"
        pooling_param { pool: AVE kernel_size: 2 stride: 2 } }
layer { name: "side" type: "InnerProduct" bottom: "pool" top: "side"
        inner_product_param { num_output: 3 weight_filler { type: "gaussian" std: 1 } } }
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip"
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "sum" type: "Eltwise" bottom: "side" bottom: "ip" top: "sum" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "sum" bottom: "label" top: "loss" }
"""


def net_of(folder: Path, text: str = SMALL, phase: int = caffe.TRAIN) -> caffe.Net:
    file = folder / "net.prototxt"
    file.write_text(text)
    return caffe.Net(str(file), phase)


def write_inputs(net: caffe.Net, seed: int = 0) -> None:
    """Fill the inputs with reproducible values; a blob "label" gets 0, 1 and 2."""
    rng = np.random.default_rng(seed)
    for name in net.inputs:
        blob = net.blobs[name]
        blob.data[...] = (
            rng.integers(0, 3, blob.shape) if name == "label" else rng.standard_normal(blob.shape)
        )


def copy_params(target: caffe.Net, source: caffe.Net) -> None:
    for ours, theirs in zip(target.layers, source.layers, strict=True):
        for a, b in zip(ours.blobs, theirs.blobs, strict=True):
            a.data[...] = b.data
