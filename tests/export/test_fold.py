"""BatchNorm and Scale become one BatchNormalization, where no name is lost by it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from netc.export.model import export
from netc.export.session import Session
from netc.layers.types import Phase
from tests.support.nets import graph_of

INPUT = (
    'layer { name: "in" type: "Input" top: "x" '
    "input_param { shape { dim: 2 dim: 3 dim: 2 dim: 2 } } }\n"
)
BN = 'layer {{ name: "bn" type: "BatchNorm" bottom: "{0}" top: "{1}" }}\n'
SCALE = (
    'layer {{ name: "scale" type: "Scale" bottom: "{0}" top: "{1}" '
    "scale_param {{ bias_term: {2} }} }}\n"
)
RELU = 'layer { name: "relu" type: "ReLU" bottom: "x" top: "y" }\n'


def exported(text: str) -> tuple[onnx.ModelProto, list[np.ndarray]]:
    graph = graph_of(INPUT + text, Phase.TEST)
    rng = np.random.default_rng(0)
    # The third param of BatchNorm divides the other two.
    params = [rng.uniform(0.5, 2.0, p.shape).astype(np.float32) for p in graph.params]
    return export(graph, params), params


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def normalised(x: np.ndarray, params: list[np.ndarray]) -> np.ndarray:
    mean, variance, factor = params[:3]
    spread = np.sqrt(variance / factor + 1e-5).reshape(3, 1, 1)
    return (x - (mean / factor).reshape(3, 1, 1)) / spread


@pytest.mark.parametrize("bias", ["true", "false"])
def test_a_scale_in_place_is_part_of_the_batch_normalization(bias: str) -> None:
    model, params = exported(BN.format("x", "x") + SCALE.format("x", "x", bias) + RELU)
    assert operators(model) == ["BatchNormalization", "Relu"]
    node = model.graph.node[0]
    assert node.name == "scale"
    assert list(node.input)[:3] == [
        "x",
        "scale.weight",
        "scale.bias" if bias == "true" else "scale.B",
    ]
    constants = {c.name: numpy_helper.to_array(c) for c in model.graph.initializer}
    assert np.array_equal(constants["scale.weight"], params[3])
    x = np.random.default_rng(1).standard_normal((2, 3, 2, 2)).astype(np.float32)
    expected = normalised(x, params) * params[3].reshape(3, 1, 1)
    if bias == "true":
        assert np.array_equal(constants["scale.bias"], params[4])
        expected += params[4].reshape(3, 1, 1)
    got = Session(model, threads=1).run({"x": x})["y"]
    np.testing.assert_allclose(got, np.maximum(expected, 0), rtol=1e-4, atol=1e-5)


def test_two_scales_and_a_bias_are_folded_into_one_too() -> None:
    bias = 'layer { name: "bias" type: "Bias" bottom: "x" top: "x" }\n'
    half = SCALE.format("x", "x", "true").replace('"scale"', '"second"')
    model, params = exported(
        BN.format("x", "x") + SCALE.format("x", "x", "true") + bias + half + RELU
    )
    assert operators(model) == ["BatchNormalization", "Relu"]
    weight, offset, more, again, last = (p.reshape(3, 1, 1) for p in params[3:])
    x = np.random.default_rng(1).standard_normal((2, 3, 2, 2)).astype(np.float32)
    expected = (normalised(x, params) * weight + offset + more) * again + last
    got = Session(model, threads=1).run({"x": x})["y"]
    np.testing.assert_allclose(got, np.maximum(expected, 0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("a blob with a name", BN.format("x", "bn") + SCALE.format("bn", "y", "false")),
        (
            "a scale along another axis",
            BN.format("x", "x")
            + SCALE.format("x", "y", "false").replace("scale_param {", "scale_param { axis: 2"),
        ),
        (
            "a scale of every element",
            BN.format("x", "x")
            + SCALE.format("x", "y", "false").replace(
                "scale_param {", "scale_param { num_axes: -1"
            ),
        ),
    ],
)
def test_what_must_stay_apart_stays_apart(what: str, text: str) -> None:
    assert operators(exported(text)[0]) == ["BatchNormalization", "Mul"], what


def test_a_result_that_is_read_twice_stays() -> None:
    model, _ = exported(
        BN.format("x", "x")
        + 'layer { name: "twice" type: "Eltwise" bottom: "x" bottom: "x" top: "y" }\n'
    )
    assert operators(model) == ["BatchNormalization", "Add"]


def test_a_bias_alone_is_named_so() -> None:
    model, _ = exported('layer { name: "shift" type: "Bias" bottom: "x" top: "y" }')
    assert [c.name for c in model.graph.initializer] == ["shift.bias"]


def test_a_scale_without_a_batch_norm_stays() -> None:
    model, _ = exported(SCALE.format("x", "y", "true"))
    assert operators(model) == ["Mul", "Add"]
