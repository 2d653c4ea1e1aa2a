from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.layers.gating import Axpy, ChannelScale, GradientReversal, GradientScaler
from netc.layers.types import BlobType, Layer, Phase, Refusal
from tests.support.audit import definition, note
from tests.support.layer_harness import Run, check_layer, forward, smooth
from tests.support.lowering import check_lowering
from tests.support.nets import executor_of, graph_of

shapes = st.lists(st.integers(0, 3), min_size=2, max_size=5).map(tuple)


@settings(max_examples=20)
@given(shape=shapes, ones=st.integers(0, 2))
@definition("Axpy")
def test_axpy(shape: tuple[int, ...], ones: int) -> None:
    a = smooth(*shape[:2], *[1] * ones, seed=1)
    x, r = smooth(*shape, seed=2), smooth(*shape, seed=3)
    run = check_layer(Axpy(), [a, x, r])
    for index in np.ndindex(*shape):
        factor = a[(*index[:2], *[0] * ones)]
        assert math.isclose(run.tops[0][index], factor * x[index] + r[index], abs_tol=1e-12)


@settings(max_examples=20)
@given(shape=shapes, flat=st.booleans())
@definition("ChannelScale")
def test_channel_scale(shape: tuple[int, ...], flat: bool) -> None:
    x, s = smooth(*shape), smooth(shape[0], 1, *shape[2:], seed=1)
    if flat and 0 not in shape:
        s = s.reshape(shape[0], -1)
    run = check_layer(ChannelScale(), [x, s])
    s = s.reshape(shape[0], 1, *shape[2:])
    for index in np.ndindex(*shape):
        assert run.tops[0][index] == x[index] * s[(index[0], 0, *index[2:])]


def test_channel_scale_without_some_of_its_parts() -> None:
    x, s, dy = smooth(2, 3, 4), smooth(2, 1, 4, seed=1), smooth(2, 3, 4, seed=2)
    forwardless = forward(ChannelScale(do_forward=False), [x, s])
    np.testing.assert_array_equal(forwardless.tops[0], x)
    dx, ds = forwardless.backward([dy]).bottoms
    np.testing.assert_array_equal(dx, dy * s)
    np.testing.assert_allclose(ds, (dy * x).sum(axis=1, keepdims=True))
    dx, ds = forward(ChannelScale(do_backward_feature=False), [x, s]).backward([dy]).bottoms
    np.testing.assert_array_equal(dx, dy)
    assert ds.any()
    dx, ds = forward(ChannelScale(do_backward_scale=False), [x, s]).backward([dy]).bottoms
    np.testing.assert_array_equal(ds, np.zeros(s.shape))


@pytest.mark.parametrize(("value", "used"), [(7.0, 5.0), (-1.0, 2.0), (3.0, 3.0)])
def test_channel_scale_with_one_scale_for_all(value: float, used: float) -> None:
    layer = ChannelScale(global_scale=True, min_global_scale=2, max_global_scale=5)
    x, s = smooth(2, 3, 4), smooth(2, 1, 4, seed=1)
    run = forward(layer, [x, s], [np.array([value])])
    np.testing.assert_array_equal(run.tops[0], x * used)
    assert run.tops[1] == run.params[0] == used
    [param] = run.signature.params
    assert param.frozen and param.filler.value == 1
    assert check_lowering(layer, [x, s], [np.array([value])]) == ["Mul", "Identity"]


def highway(gate_bias: float) -> str:
    """Return a highway block: y = h t + x (1 - t)."""
    return f"""
        layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ dim: 3 dim: 4 }} }} }}
        layer {{ name: "h" type: "InnerProduct" bottom: "x" top: "h"
          inner_product_param {{ num_output: 4 weight_filler {{ type: "xavier" }} }} }}
        layer {{ name: "h/relu" type: "ReLU" bottom: "h" top: "h" }}
        layer {{ name: "t" type: "InnerProduct" bottom: "x" top: "t"
          inner_product_param {{ num_output: 4 weight_filler {{ type: "xavier" }}
            bias_filler {{ value: {gate_bias} }} }} }}
        layer {{ name: "t/gate" type: "Sigmoid" bottom: "t" top: "t" }}
        layer {{ name: "c" type: "Power" bottom: "t" top: "c"
          power_param {{ scale: -1 shift: 1 }} }}
        layer {{ name: "ht" type: "Eltwise" bottom: "h" bottom: "t" top: "ht"
          eltwise_param {{ operation: PROD }} }}
        layer {{ name: "xc" type: "Eltwise" bottom: "x" bottom: "c" top: "xc"
          eltwise_param {{ operation: PROD }} }}
        layer {{ name: "y" type: "Eltwise" bottom: "ht" bottom: "xc" top: "y" }}
        layer {{ name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "x" top: "loss" }}
    """


def test_highway_gates_are_made_of_eltwise() -> None:
    net = executor_of(graph_of(highway(-1.0)), keep="all")
    x = smooth(3, 4).astype(np.float32)
    net.data("x")[...] = x
    net.forward()
    net.backward()
    w, b, v, c = (np.asarray(p, np.float64) for p in net.params)
    h, t = np.maximum(x @ w.T + b, 0), 1 / (1 + np.exp(-(x @ v.T + c)))
    np.testing.assert_allclose(net.data("y"), h * t + x * (1 - t), rtol=1e-5, atol=1e-6)
    dy = (h * t + x * (1 - t) - x) / 3
    dt = dy * (h - x) * t * (1 - t)
    np.testing.assert_allclose(net.param_diffs[2], dt.T @ x, rtol=1e-4, atol=1e-6)


def test_a_closed_highway_gate_carries_everything() -> None:
    net = executor_of(graph_of(highway(-50.0)), keep="all")
    net.data("x")[...] = smooth(3, 4)
    net.forward()
    np.testing.assert_allclose(net.data("y"), net.data("x"), rtol=1e-6)


# -- gradients that are not those of the function --------------------------------------------------


@definition("GradientReversal")
def test_gradient_reversal() -> None:
    x, dy = smooth(2, 3), smooth(2, 3, seed=1)
    run = check_layer(GradientReversal(0.5), [x], gradient=False)
    np.testing.assert_array_equal(run.tops[0], x)
    np.testing.assert_array_equal(run.backward([dy]).bottoms[0], -0.5 * dy)
    note("gradient", "GradientReversal")


def train_pass(layer: Layer, x: np.ndarray, kept: list[np.ndarray]) -> tuple[Run, list[np.ndarray]]:
    run = forward(layer, [x], kept=kept)
    return run, list(run.kept)


@definition("GradientScaler")
def test_gradient_scaler_rises_from_bound_to_bound() -> None:
    layer = GradientScaler(lower_bound=0.1, upper_bound=0.9, alpha=2, max_iter=4)
    x, dy = smooth(2, 3), smooth(2, 3, seed=1)
    kept = [np.zeros(())]
    for step in range(6):
        run, kept = train_pass(layer, x, kept)
        np.testing.assert_array_equal(run.tops[0], x)
        c = 2 * 0.8 / (1 + math.exp(-2 * min(step / 4, 1))) - 0.8 + 0.1
        np.testing.assert_allclose(run.backward([dy]).bottoms[0], -c * dy)
    note("gradient", "GradientScaler")


def test_gradient_scaler_does_not_count_tests() -> None:
    kept = [np.zeros(())]
    _, kept = train_pass(GradientScaler(phase=Phase.TEST), smooth(2), kept)
    assert kept[0] == 0
    assert GradientScaler().infer(BlobType((2,))).kept[0].persistent


def test_adversarial_net_runs_from_text() -> None:
    """A trunk below a reversal is pushed away from what the head wants."""
    text = """
        layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 3 dim: 4 } } }
        layer { name: "trunk" type: "InnerProduct" bottom: "x" top: "trunk"
          inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
        %s
        layer { name: "loss" type: "EuclideanLoss" bottom: "%s" bottom: "x2" top: "loss" }
    """
    target = 'layer { name: "x2" type: "Input" top: "x2" input_param { shape { dim: 3 dim: 2 } } }'
    reversal = (
        'layer { name: "r" type: "GradientReversal" bottom: "trunk" top: "r" '
        "gradient_reversal_param { coeff: 2 } }"
    )
    diffs = []
    for extra, top in (("", "trunk"), (reversal, "r")):
        net = executor_of(graph_of(text % (target + extra, top)))
        net.data("x")[...] = smooth(3, 4)
        net.data("x2")[...] = smooth(3, 2, seed=1)
        net.forward()
        net.backward()
        diffs.append(np.array(net.param_diffs[0]))
    np.testing.assert_allclose(diffs[1], -2 * diffs[0], rtol=1e-5)


# -- ONNX, refusals --------------------------------------------------------------------------------


def test_onnx() -> None:
    a, x, r = smooth(2, 3), smooth(2, 3, 4), smooth(2, 3, 4, seed=1)
    more = [smooth(5, *b.shape[1:]) for b in (a, x, r)]
    assert check_lowering(Axpy(), [a, x, r], other_batch=more) == ["Reshape", "Mul", "Add"]
    s = smooth(2, 1, 4)
    assert check_lowering(ChannelScale(), [x, s], other_batch=[more[1], smooth(5, 1, 4)]) == ["Mul"]
    for layer in (ChannelScale(do_forward=False),):
        assert check_lowering(layer, [x, s]) == ["Identity"]
    for layer in (GradientReversal(), GradientScaler()):
        assert check_lowering(layer, [x]) == ["Identity"]


@pytest.mark.parametrize(
    ("layer", "bottoms"),
    [
        (Axpy(), [(2, 3), (2, 4, 5), (2, 4, 5)]),
        (Axpy(), [(2, 4, 2), (2, 4, 5), (2, 4, 5)]),
        (Axpy(), [(2, 4), (2, 4, 5), (2, 4, 6)]),
        (Axpy(), [(2,), (2,), (2,)]),
        (ChannelScale(), [(2, 3, 4), (2, 3, 4)]),
        (ChannelScale(), [(2, 3, 4), (4, 2)]),
        (ChannelScale(), [(2,), (2,)]),
        (
            ChannelScale(global_scale=True, min_global_scale=2, max_global_scale=1),
            [(2, 3), (2, 1)],
        ),
        (GradientScaler(max_iter=0), [(2,)]),
    ],
)
def test_refusals(layer: Layer, bottoms: list[tuple[int, ...]]) -> None:
    with pytest.raises(Refusal) as caught:
        layer.infer(*map(BlobType, bottoms))
    assert caught.value.expected and caught.value.got
