from __future__ import annotations

import numpy as np
import pytest

from netc.errors import NetcError
from netc.layers.innerproduct import Embed, InnerProduct
from netc.layers.types import BlobType, Refusal
from tests.support.layer_harness import (
    assert_close,
    check_layer,
    check_vector,
    forward,
    smooth,
    vector_names,
)
from tests.support.lowering import check_lowering
from tests.support.nets import executor_of, graph_of


@pytest.mark.parametrize("name", vector_names("innerproduct", "embed"))
def test_golden_vector(name):
    check_vector(name)


# -- InnerProduct ----------------------------------------------------------------------------------

CASES = {
    "default": ({}, (3, 4)),
    "flattening": ({}, (2, 3, 4, 2)),
    "no bias": ({"bias_term": False}, (3, 4)),
    "transposed": ({"transpose": True}, (3, 4)),
    "axis 0": ({"axis": 0}, (3, 4)),
    "axis 2": ({"axis": 2}, (2, 3, 4, 2)),
    "axis 2, transposed, no bias": ({"axis": 2, "transpose": True, "bias_term": False}, (2, 3, 4)),
    "last axis": ({"axis": -1}, (2, 3, 4)),
}


@pytest.mark.parametrize("case", CASES)
def test_rules(case):
    options, shape = CASES[case]
    x = smooth(*shape)
    layer = InnerProduct(num_output=5, **options)
    run = check_layer(layer, [x])
    axis = options.get("axis", 1) % x.ndim
    rows = x.reshape(*shape[:axis], -1)
    weight = run.params[0] if options.get("transpose") else run.params[0].T
    bias = 0 if len(run.params) == 1 else run.params[1]
    assert_close(run.tops[0], np.einsum("...k,ko->...o", rows, weight) + bias, rtol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_onnx(case):
    options, shape = CASES[case]
    other = None if options.get("axis") == 0 else [smooth(5, *shape[1:])]
    operators = check_lowering(
        InnerProduct(num_output=5, **options), [smooth(*shape)], other_batch=other
    )
    assert ("Gemm" in operators) == (options.get("axis", 1) == 1)


def test_no_rows():
    run = forward(InnerProduct(num_output=2), [smooth(0, 3)], [smooth(2, 3), smooth(2)])
    assert run.tops[0].shape == (0, 2)
    assert not run.backward([smooth(0, 2)]).params[0].any()


def test_cost_is_one_product_per_weight_and_row():
    layer = InnerProduct(num_output=5, axis=2)
    x = BlobType((2, 3, 4, 6))
    assert layer.cost((x,), layer.infer(x)) == (2 * 3) * (4 * 6) * 5


@pytest.mark.parametrize(
    ("layer", "setting"),
    [(InnerProduct(), "num_output"), (InnerProduct(num_output=2, axis=2), "axis")],
)
def test_refused(layer, setting):
    with pytest.raises(Refusal) as caught:
        layer.infer(BlobType((2, 3)))
    assert caught.value.setting == setting


# -- Embed -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5,), (2, 3), ()])
@pytest.mark.parametrize("bias_term", [True, False])
def test_embed_is_an_inner_product_with_one_hot_vectors(shape, bias_term):
    index = np.random.default_rng(0).integers(0, 4, shape).astype(float)
    run = check_layer(Embed(num_output=3, input_dim=4, bias_term=bias_term), [index])
    one_hot = (index[..., None] == np.arange(4)).astype(float)
    bias = run.params[1] if bias_term else 0
    assert_close(run.tops[0], one_hot @ run.params[0] + bias, rtol=1e-12, atol=1e-12)
    operators = check_lowering(Embed(num_output=3, input_dim=4, bias_term=bias_term), [index])
    assert "Gather" in operators


def test_indices_are_truncated():
    layer = Embed(num_output=2, input_dim=3, bias_term=False)
    weight = smooth(3, 2)
    run = forward(layer, [np.array([-0.9, 1.9])], [weight])
    np.testing.assert_array_equal(run.tops[0], weight[[0, 1]])


@pytest.mark.parametrize("wrong", [3.0, -1.0, np.nan, np.inf])
def test_an_index_outside_is_refused_with_its_value(wrong):
    layer = Embed(num_output=2, input_dim=3)
    with pytest.raises(Refusal, match="outside") as caught:
        forward(layer, [np.array([0.0, wrong])], [smooth(3, 2), smooth(2)])
    assert caught.value.got == f"{wrong:g}"
    assert caught.value.expected == "0 to 2"


@pytest.mark.parametrize(
    ("layer", "setting"),
    [(Embed(input_dim=3), "num_output"), (Embed(num_output=3), "input_dim")],
)
def test_embed_refused(layer, setting):
    with pytest.raises(Refusal) as caught:
        layer.infer(BlobType((2,)))
    assert caught.value.setting == setting


# -- weights as bottoms


def with_weights(settings: str, bottoms: str = "") -> str:
    return f"""
        layer {{ name: "in" type: "Input" top: "x" top: "w" top: "b" input_param {{
          shape {{ dim: 3 dim: 2 dim: 2 }} shape {{ dim: 5 dim: 4 }} shape {{ dim: 5 }} }} }}
        layer {{ name: "ip" type: "InnerProduct" bottom: "x" bottom: "w" {bottoms} top: "y"
          inner_product_param {{ {settings} }} inner_distance_param {{ distance_type: "L2" }} }}
    """


@pytest.mark.parametrize(
    ("settings", "bottoms", "params"),
    [
        ("bias_term: false", "", 0),
        ("num_output: 5 bias_filler { value: 2 }", "", 1),
        ("", 'bottom: "b"', 0),
    ],
)
def test_weights_may_be_a_bottom(settings: str, bottoms: str, params: int) -> None:
    graph = graph_of(with_weights(settings, bottoms))
    net = executor_of(graph, keep="all")
    assert len(net.params) == params
    x, w, b = smooth(3, 2, 2), smooth(5, 4, seed=1), smooth(5, seed=2)
    for name, values in zip("xwb", (x, w, b), strict=True):
        net.data(name)[...] = values
    net.forward()
    bias = b if bottoms else 2.0 * params
    np.testing.assert_allclose(net.data("y"), x.reshape(3, 4) @ w.T + bias, rtol=1e-5, atol=1e-6)
    if params:
        assert [use.param for use in graph.nodes[-1].params] == [0]
        assert graph.nodes[-1].name == "ip" and net.params[0].shape == (5,)


@pytest.mark.parametrize(
    ("settings", "bottoms"),
    [
        ("num_output: 4", ""),
        ("axis: 2", ""),
        ("transpose: true", ""),
        ("bias_term: false", 'bottom: "b"'),
        ("", 'bottom: "w"'),
    ],
)
def test_weights_that_do_not_suit_are_refused(settings: str, bottoms: str) -> None:
    with pytest.raises(NetcError, match=r"do not suit bottom 0|without a bias"):
        graph_of(with_weights(settings, bottoms))
