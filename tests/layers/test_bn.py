"""Batch normalisation with slope and bias: PSPNet's, SegNet's and NVIDIA's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.layers.bn import BN, BNMode
from netc.layers.fillers import Filler
from netc.layers.normalization import BatchNorm, FusedBatchNorm
from netc.layers.types import Layer, Phase, Refusal
from tests.support.audit import definition
from tests.support.layer_harness import assert_close, check_layer, forward, infer, smooth
from tests.support.lowering import check_lowering
from tests.support.nets import executor_of, graph_of, set_inputs

ONE = Filler(value=1.0)


def pspnet(**settings: object) -> BN:
    return BN(slope_filler=ONE, **settings)  # type: ignore[arg-type]


def segnet(mode: BNMode = BNMode.LEARN, **settings: object) -> BN:
    return BN(bn_mode=mode, **settings)  # type: ignore[arg-type]


@definition("BN")
def by_definition(
    x: np.ndarray,
    slope: np.ndarray,
    bias: np.ndarray,
    mean: np.ndarray | None = None,
    variance: np.ndarray | None = None,
    eps: float = 1e-5,
) -> np.ndarray:
    """Return the formula's value, channel by channel."""
    y = np.empty_like(x)
    for c in range(x.shape[1]):
        values = x[:, c]
        m = values.mean() if mean is None else mean[c]
        v = ((values - values.mean()) ** 2).mean() if variance is None else variance[c]
        y[:, c] = slope[c] * (values - m) / np.sqrt(v + eps) + bias[c]
    return y


def four_params(channels: int, seed: int = 3) -> list[np.ndarray]:
    """Return slope, bias, mean, and a variance above 0."""
    values = [smooth(1, channels, 1, 1, seed=seed + i) for i in range(4)]
    return [*values[:3], values[3] ** 2 + 0.1]


SHAPES = st.tuples(
    st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)
).filter(lambda s: s[0] * s[2] * s[3] > 2)


@given(SHAPES)
@settings(max_examples=15)
def test_pspnet_normalises_by_the_batch_in_phase_train(shape: tuple[int, ...]) -> None:
    x, params = smooth(*shape), four_params(shape[1])
    run = check_layer(pspnet(momentum=0.8), [x], params, tolerance=1e-5)
    slope, bias, mean, variance = (p.ravel() for p in params)
    assert_close(run.tops[0], by_definition(x, slope, bias), rtol=1e-9, atol=1e-9)
    flat = x.swapaxes(0, 1).reshape(shape[1], -1)
    assert_close(run.params[2].ravel(), 0.8 * mean + 0.2 * flat.mean(axis=1), rtol=1e-9)
    assert_close(run.params[3].ravel(), 0.8 * variance + 0.2 * flat.var(axis=1), rtol=1e-9)


@pytest.mark.parametrize(
    "layer", [pspnet(frozen=True), pspnet(phase=Phase.TEST), BN(phase=Phase.TEST)]
)
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3, 2), (1, 2, 3, 2, 2)])
def test_pspnet_normalises_by_what_is_stored(layer: Layer, shape: tuple[int, ...]) -> None:
    x, params = smooth(*shape), four_params(shape[1])
    run = check_layer(layer, [x], params)
    want = by_definition(x, *(p.ravel() for p in params))
    assert_close(run.tops[0], want, rtol=1e-9, atol=1e-9)
    for before, after in zip(params, run.params, strict=True):
        np.testing.assert_array_equal(after, before)


def test_momentum_and_eps_have_the_forks_defaults() -> None:
    x, params = smooth(2, 3, 4), four_params(3)
    given_values = forward(pspnet(momentum=0.9, eps=1e-5), [x], params)
    left_out = forward(pspnet(), [x], params)
    for a, b in zip(
        (*given_values.tops, *given_values.params), (*left_out.tops, *left_out.params), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    other = forward(pspnet(eps=0.5), [x], params)
    assert not np.allclose(other.tops[0], left_out.tops[0])


@given(SHAPES)
@settings(max_examples=15)
def test_segnet_normalises_by_the_batch_in_every_phase(shape: tuple[int, ...]) -> None:
    x = smooth(*shape)
    params = four_params(shape[1])[:2]
    run = check_layer(segnet(phase=Phase.TEST), [x], params, tolerance=1e-5)
    want = by_definition(x, *(p.ravel() for p in params), eps=1e-9)
    assert_close(run.tops[0], want, rtol=1e-9, atol=1e-9)


def test_segnet_gives_the_statistics_to_further_tops() -> None:
    x, params = smooth(2, 3, 4, 5), four_params(3)[:2]
    layer = BN(scale_filler=ONE, top=("y", "mean", "variance"))
    tops = check_layer(layer, [x], params, gradient=False).tops
    flat = x.swapaxes(0, 1).reshape(3, -1)
    assert_close(tops[1].ravel(), flat.mean(axis=1), rtol=1e-9)
    assert_close(tops[2].ravel(), flat.var(axis=1), rtol=1e-9)
    assert tops[1].shape == tops[2].shape == (1, 3, 1, 1)
    check_lowering(layer, [x], params)


def test_segnet_only_scales_and_shifts_in_mode_inference() -> None:
    x, params = smooth(2, 3, 4, 5), four_params(3)[:2]
    run = check_layer(segnet(BNMode.INFERENCE), [x], params)
    assert_close(run.tops[0], x * params[0] + params[1], rtol=1e-9)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3, 2), (2, 3, 4)])
def test_each_has_an_onnx_form(shape: tuple[int, ...]) -> None:
    x, params = smooth(*shape), four_params(shape[1])
    batch = [smooth(5, *shape[1:], seed=9)]
    usual = check_lowering(pspnet(phase=Phase.TEST), [x], params, other_batch=batch)
    assert usual == ["BatchNormalization"]
    inference = segnet(BNMode.INFERENCE)
    assert check_lowering(inference, [x], params[:2], other_batch=batch)[-2:] == ["Mul", "Add"]
    check_lowering(segnet(), [x], params[:2], other_batch=batch)


def test_no_solver_touches_what_is_frozen_whatever_the_text_says() -> None:
    text = """
        layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 4 } } }
        layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y"
                inner_product_param { num_output: 3 } }
        layer { name: "bn" type: "BN" bottom: "y" top: "y" param { lr_mult: 1 } param { lr_mult: 2 }
                param { lr_mult: 3 decay_mult: 4 }
                bn_param { slope_filler { value: 1 } %s } }"""
    for rest, rates in (("frozen: true", [0, 0, 0, 0]), ("frozen: false", [1, 2, 0, 0])):
        graph = graph_of(text % rest)
        own = [graph.params[use.param] for use in graph.nodes[2].params]
        assert [p.lr_mult for p in own] == rates
        assert own[2].decay_mult == own[3].decay_mult == 0
        assert own[3].filler.value == float(rest == "frozen: true")


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (BN(bn_mode=BNMode.LEARN, momentum=0.9), "bn_mode, momentum"),
        (BN(frozen=True, top=("y", "m")), "frozen, 2 tops"),
        (segnet(BNMode.INFERENCE, top=("y", "m")), "2 tops, bn_mode: INFERENCE"),
    ],
)
def test_what_no_fork_means_is_refused(layer: BN, words: str) -> None:
    with pytest.raises(Refusal) as caught:
        infer(layer, [smooth(2, 3, 4, 5)])
    assert caught.value.got == words
    assert caught.value.expected and caught.value.setting


@pytest.mark.parametrize("layer", [pspnet(), FusedBatchNorm()])
def test_a_bottom_without_channels_is_refused(layer: Layer) -> None:
    with pytest.raises(Refusal, match="channels"):
        infer(layer, [smooth(3)])


# -- NVIDIA's BatchNorm with scale and bias --------------------------------------------------------


def fused(**settings: object) -> FusedBatchNorm:
    [part] = BatchNorm(**settings).expand() or ()  # type: ignore[arg-type]
    assert isinstance(part.layer, FusedBatchNorm)
    assert part.name == ""
    return part.layer


def five_params(channels: int) -> list[np.ndarray]:
    slope, bias, mean, variance = (p.ravel() for p in four_params(channels))
    return [4 * mean, 4 * variance, np.array([4.0]), slope, bias]


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (4, 2), (2, 2, 3, 2, 2)])
@pytest.mark.parametrize("phase", list(Phase))
def test_the_fused_form_is_batch_norm_and_then_scale(shape: tuple[int, ...], phase: Phase) -> None:
    x, params = smooth(*shape), five_params(shape[1])
    run = check_layer(fused(scale_bias=True, eps=1e-3, phase=phase), [x], params, tolerance=1e-5)
    plain = forward(BatchNorm(eps=1e-3, phase=phase), [x], params[:3])
    spread = (-1, *[1] * (len(shape) - 2))
    slope, bias = (p.reshape(spread) for p in params[3:])
    assert_close(run.tops[0], plain.tops[0] * slope + bias, rtol=1e-9, atol=1e-9)
    for got, want in zip(run.params, plain.params, strict=False):
        assert_close(got, want, rtol=1e-12)


def test_the_fused_form_exports_as_one_operator() -> None:
    layer = fused(scale_bias=True, phase=Phase.TEST)
    x = [smooth(2, 3, 4, 5)]
    assert check_lowering(layer, x, five_params(3)) == ["BatchNormalization"]
    check_lowering(fused(scale_bias=True, use_global_stats=False), x, five_params(3))


def test_a_filler_alone_asks_for_scale_and_bias() -> None:
    assert BatchNorm().expand() is None
    assert BatchNorm(scale_bias=False).expand() is None
    assert fused(scale_filler=Filler(value=2.0)).scale_filler.value == 2
    assert fused(bias_filler=Filler(value=2.0)).scale_filler.value == 1


def test_the_eps_of_the_fused_form_is_at_least_that_of_cudnn() -> None:
    assert fused(scale_bias=True, eps=1e-9).eps == 1e-5
    assert fused(scale_bias=True, eps=1e-4).eps == 1e-4


def test_the_fused_form_is_one_layer_of_the_net_and_of_its_weights() -> None:
    text = """
        layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 4 dim: 3 dim: 2 } } }
        layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y"
                inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
        layer { name: "bn" type: "BatchNorm" bottom: "y" top: "y"
                batch_norm_param { scale_bias: true } }
        layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "z" top: "loss" }"""
    text = text.replace('type: "Input" top: "x"', 'type: "Input" top: "x" top: "z"', 1)
    text = text.replace(
        "shape { dim: 4 dim: 3 dim: 2 }", "shape { dim: 4 dim: 6 } shape { dim: 4 dim: 3 }"
    )
    graph = graph_of(text)
    node = graph.nodes[2]
    assert node.name == "bn" and node.type == "BatchNorm"
    assert [use.shape for use in node.params] == [(3,), (3,), (1,), (3,), (3,)]
    net = executor_of(graph)
    set_inputs(net)
    net.forward()
    net.backward()
    wanted = [net.param_diffs[use.param] is not None for use in node.params]
    assert wanted == [False, False, False, True, True]
