"""A net as a diagram."""

from __future__ import annotations

from netc.layers.types import Phase
from netc.report.diagram import Arrow, Diagram, Kind
from netc.report.draw import diagram_of
from tests.support.nets import graph_of

TEXT = """
name: "small"
layer { name: "in" type: "Input" top: "data" top: "label"
        input_param { shape { dim: 4 dim: 3 dim: 8 dim: 8 } shape { dim: 4 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 5 kernel_h: 3 kernel_w: 1 bias_term: false } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" relu_param { negative_slope: 0.1 } }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool"
        pooling_param { pool: AVE kernel_size: 2 stride: 2 } }
layer { name: "max" type: "Pooling" bottom: "conv" top: "max"
        pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "sum" type: "Eltwise" bottom: "pool" bottom: "max" top: "sum" }
layer { name: "half" type: "Power" bottom: "sum" top: "half" power_param { scale: 0.5 } }
layer { name: "cut" type: "Slice" bottom: "half" top: "a" top: "b" top: "c" top: "d" top: "e" }
layer { name: "gate" type: "Sigmoid" bottom: "a" top: "a" }
layer { name: "quiet" type: "Silence" bottom: "b" bottom: "c" bottom: "d" bottom: "e" }
layer { name: "ip" type: "InnerProduct" bottom: "a" top: "ip" inner_product_param {
        num_output: 2 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


def drawn() -> Diagram:
    return diagram_of(graph_of(TEXT, phase=Phase.TRAIN))


def test_boxes_say_what_layers_do_and_give() -> None:
    lines = [box.lines for box in drawn().boxes]
    assert lines == [
        ("in", "Input", "data: 3 x 8 x 8", "label: 1"),
        ("conv", "Convolution kernel h 3, kernel w 1", "bn: BatchNorm",
         "relu: ReLU negative slope 0.1", "5 x 6 x 8"),
        ("pool", "Pooling AVE, kernel 2, stride 2", "5 x 3 x 4"),
        ("max", "Pooling MAX, kernel 2, stride 2", "5 x 3 x 4"),
        ("sum", "Eltwise SUM", "5 x 3 x 4"),
        ("half", "Power scale 0.5", "5 x 3 x 4"),
        ("cut", "Slice", "a: 1 x 3 x 4", "b: 1 x 3 x 4", "c: 1 x 3 x 4", "d: 1 x 3 x 4",
         "and 1 more"),
        ("gate", "Sigmoid", "1 x 3 x 4"),
        ("quiet", "Silence"),
        ("ip", "InnerProduct", "2"),
        ("loss", "SoftmaxWithLoss", "scalar"),
    ]  # fmt: skip


def test_kinds_follow_from_what_the_types_state() -> None:
    kinds = {box.lines[0]: box.kind for box in drawn().boxes}
    assert kinds == {
        "in": Kind.DATA, "conv": Kind.LEARNS, "pool": Kind.WINDOW, "max": Kind.WINDOW,
        "sum": Kind.JOIN, "half": Kind.ELEMENTWISE, "cut": Kind.OTHER, "gate": Kind.ELEMENTWISE,
        "quiet": Kind.JOIN, "ip": Kind.LEARNS, "loss": Kind.LOSS,
    }  # fmt: skip


def test_an_arrow_for_each_pair_of_layers() -> None:
    found = drawn()
    names = [box.lines[0] for box in found.boxes]
    assert [f"{names[a.source]}>{names[a.target]}" for a in found.arrows] == [
        "in>conv", "conv>pool", "conv>max", "pool>sum", "max>sum", "sum>half", "half>cut",
        "cut>gate", "cut>quiet", "gate>ip", "ip>loss", "in>loss",
    ]  # fmt: skip
    assert Arrow(0, 1) in found.arrows and found.title == "small, phase TRAIN"
