"""From text to graph: versions of blobs, rules of inclusion, shared params, and what is refused."""

from __future__ import annotations

import re

import pytest

from netc.errors import NetcError
from netc.graph.deploy import deploy
from netc.layers.types import Phase
from tests.support.nets import graph_of

X = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }\n'


def refused(text: str) -> str:
    with pytest.raises(NetcError) as caught:
        graph_of(text)
    return str(caught.value)


def ip(name: str, bottom: str, top: str, rest: str = "", outputs: int = 3) -> str:
    return (
        f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{top}" {rest}\n'
        f"  inner_product_param {{ num_output: {outputs} }} }}\n"
    )


def test_in_place_layers_make_versions() -> None:
    graph = graph_of(
        X
        + ip("a", "x", "y")
        + 'layer { name: "r" type: "ReLU" bottom: "y" top: "y" }\n'
        + 'layer { name: "s" type: "Sigmoid" bottom: "y" top: "y" }\n'
        + ip("b", "y", "z")
    )
    assert list(graph.blobs) == ["x", "y", "y#1", "y#2", "z"]
    assert graph.nodes[4].bottoms == ("y#2",)
    assert graph.last["y"] == "y#2"
    assert graph.outputs == ("z",)


def test_a_blob_may_be_called_like_a_version() -> None:
    graph = graph_of(
        X
        + ip("a", "x", "y")
        + ip("b", "x", "y#1")
        + 'layer { name: "r" type: "ReLU" bottom: "y" top: "y" }\n'
    )
    assert list(graph.blobs) == ["x", "y", "y#1", "y#2"]
    assert graph.last == {"x": "x", "y": "y#2", "y#1": "y#1"}


def test_overwriting_a_blob_that_others_read_is_refused() -> None:
    message = refused(
        X
        + ip("a", "x", "y")
        + ip("b", "y", "z")
        + 'layer { name: "r" type: "ReLU" bottom: "y" top: "y" }\n'
    )
    assert "'r' (ReLU): blob 'y' is overwritten, but it has another reader" in message
    assert "'y' is read by layer 'b'" in message


def test_independent_mistakes_are_told_together_and_their_followers_not_at_all() -> None:
    message = refused(
        X
        + ip("a", "x", "y", outputs=0)
        + ip("follows", "y", "z")
        + 'layer { name: "c" type: "Convolutoin" bottom: "x" top: "w" }\n'
        + 'layer { name: "d" type: "ReLU" bottom: "w" top: "v" }\n'
    )
    assert "'a' (InnerProduct): num_output is missing" in message
    assert "did you mean 'Convolution'?" in message
    assert "follows" not in message
    assert "'d'" not in message


def test_a_field_that_the_type_does_not_read_is_refused_where_it_stands() -> None:
    text = X + ip("a", "x", "y", "relu_param { negative_slope: 1 }")
    message = refused(text)
    assert re.match(r"net\.prototxt:2:\d+: layer 'a' \(InnerProduct\): field 'relu_param", message)


def test_a_bottom_of_a_later_layer_gets_a_hint_about_order() -> None:
    assert "layers run in the order of the text" in refused(
        ip("a", "y", "z") + X + ip("b", "x", "y")
    )


def test_a_misspelt_bottom_gets_the_nearest_name() -> None:
    assert "did you mean 'data_in'?" in refused(
        X.replace('top: "x"', 'top: "data_in"') + ip("a", "datain", "y")
    )


@pytest.mark.parametrize(
    ("rules", "phase", "level", "stages", "included"),
    [
        ("include { phase: TRAIN }", Phase.TEST, 0, (), False),
        ("include { phase: TRAIN } include { stage: 's' }", Phase.TEST, 0, ("s",), True),
        ("exclude { phase: TEST }", Phase.TEST, 0, (), False),
        ("exclude { phase: TEST stage: 's' }", Phase.TEST, 0, (), True),
        ("include { min_level: 1 max_level: 2 }", Phase.TEST, 3, (), False),
        ("include { min_level: 1 max_level: 2 }", Phase.TEST, 2, (), True),
        ("include { stage: 's' not_stage: 't' }", Phase.TEST, 0, ("s", "t"), False),
        ("", Phase.TRAIN, 0, (), True),
    ],
)
def test_rules_of_inclusion(
    rules: str, phase: Phase, level: int, stages: tuple[str, ...], included: bool
) -> None:
    graph = graph_of(X + ip("a", "x", "y", rules), phase, level, stages)
    assert [node.name for node in graph.nodes] == (["x", "a"] if included else ["x"])


def test_shared_params_are_one_param_with_two_uses() -> None:
    graph = graph_of(
        X
        + ip("a", "x", "y", 'param { name: "w" lr_mult: 2 } param { name: "b" }')
        + ip("b", "x", "z", 'param { name: "w" } param { name: "b" decay_mult: 0 }')
    )
    assert len(graph.params) == 2
    assert [use.param for use in graph.nodes[2].params] == [0, 1]
    assert (graph.params[0].lr_mult, graph.params[1].decay_mult) == (2, 0)


def test_sharing_needs_equal_shapes_unless_permissive() -> None:
    def text(mode: str) -> str:
        return (
            X
            + ip("a", "x", "y", 'param { name: "w" }')
            + (
                'layer { name: "b" type: "InnerProduct" bottom: "x" top: "z"\n'
                f'  param {{ name: "w" {mode} }}\n'
                "  inner_product_param { num_output: 3 transpose: true } }\n"
            )
        )

    assert graph_of(text(""))  # (3, 3) either way
    other = text("").replace("num_output: 3 transpose", "num_output: 2 transpose")
    assert "shared param 'w' has another shape here" in refused(other)


def test_a_param_can_have_a_penalty_of_its_own() -> None:
    def net(first: str, second: str) -> str:
        return X + "".join(
            ip(name, "x", name, f'param {{ name: "w" {kind} }}')
            for name, kind in (("a", first), ("b", second))
        )

    weight, *_ = graph_of(net('regularization_type: "L1"', "")).params
    assert weight.regularization_type == "L1"
    weight, bias, *_ = graph_of(net("", 'regularization_type: "L2"')).params
    assert (weight.regularization_type, bias.regularization_type) == ("L2", "")
    message = refused(net('regularization_type: "L1"', 'regularization_type: "L2"'))
    assert "shared param 'w' has mismatched regularization_type" in message
    assert "regularization_type L1, as in layer 'a'" in message
    message = refused(net('regularization_type: "l1"', ""))
    assert "unknown regularization_type 'l1'" in message
    assert "expected  L1, L2" in message


def test_the_automatic_top_of_a_loss() -> None:
    graph = graph_of(
        X
        + 'layer { name: "l" type: "Input" top: "l" input_param { shape { dim: 2 } } }\n'
        + 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "x" bottom: "l" }\n'
    )
    assert graph.outputs == ("(automatic)",)
    assert graph.loss_blobs[0].loss_weight == 1


TRAINING = """
name: "net"
layer { name: "in" type: "Input" top: "data" top: "label"
        input_param { shape { dim: 4 dim: 6 } shape { dim: 4 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
        inner_product_param { num_output: 5 } }
layer { name: "aux" type: "InnerProduct" bottom: "label" top: "aux"
        inner_product_param { num_output: 1 axis: 0 } }
layer { name: "quiet" type: "Silence" bottom: "aux" }
layer { name: "acc" type: "Accuracy" bottom: "ip" bottom: "label" top: "acc" }
layer { name: "loss" type: "%s" bottom: "ip" bottom: "label" top: "loss" }
"""


def test_deploy_keeps_what_inference_needs() -> None:
    graph = deploy(graph_of(TRAINING % "SoftmaxWithLoss", Phase.TEST))
    graph.verify()
    assert [(n.name, n.type) for n in graph.nodes] == [
        ("in", "Input"),
        ("ip", "InnerProduct"),
        ("loss", "Softmax"),
    ]
    assert graph.inputs == ("data",)
    assert graph.outputs == ("prob",)
    assert len(graph.params) == 2


def test_a_dropped_loss_leaves_its_scores_as_the_output() -> None:
    text = (TRAINING % "EuclideanLoss").replace("shape { dim: 4 }", "shape { dim: 4 dim: 5 }")
    text = re.sub(r'layer \{ name: "acc".*\n', "", text)
    graph = deploy(graph_of(text, Phase.TEST))
    graph.verify()
    assert graph.outputs == ("ip",)


def test_a_net_of_data_alone_cannot_be_deployed() -> None:
    with pytest.raises(NetcError, match="computes nothing"):
        deploy(graph_of(X, Phase.TEST))
