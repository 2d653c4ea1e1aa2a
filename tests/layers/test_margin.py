from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from netc.layers.innerproduct import InnerProduct
from netc.layers.margin import (
    LabelSpecificAdd,
    LabelSpecificRescale,
    LargeMarginInnerProduct,
    MarginInnerProduct,
    MarginProduct,
    MarginType,
)
from netc.layers.types import BlobType, Layer, Phase, Refusal
from tests.support.audit import definition
from tests.support.layer_harness import check_layer, distinct, forward, smooth
from tests.support.lowering import check_lowering
from tests.support.nets import executor_of, graph_of

LABELS = np.array([2.0, 0, 1, 2, 0, 1])


def psi(angle: float, m: int) -> float:
    k = min(int(angle / (math.pi / m)), m - 1)
    return (-1) ** k * math.cos(m * angle) - 2 * k


@definition("MarginInnerProduct", "LargeMarginInnerProduct")
def slow_scores(
    x: np.ndarray, weight: np.ndarray, labels: np.ndarray, m: int, share: float, unit: bool
) -> np.ndarray:
    y = np.zeros((len(x), len(weight)))
    for i, j in np.ndindex(*y.shape):
        w = weight[j] / math.hypot(*weight[j]) if unit else weight[j]
        y[i, j] = math.fsum(x[i] * w)
        if j == labels[i]:
            sizes = math.hypot(*x[i]) * math.hypot(*w)
            hard = sizes * psi(math.acos(y[i, j] / sizes), m)
            y[i, j] = (hard + share * y[i, j]) / (1 + share)
    return y


@pytest.mark.parametrize("cls", [MarginInnerProduct, LargeMarginInnerProduct])
@pytest.mark.parametrize("kind", MarginType)
@pytest.mark.parametrize("share", [0.0, 5.0])
@pytest.mark.parametrize("phase", Phase)
def test_scores_and_gradient(
    cls: type[MarginProduct], kind: MarginType, share: float, phase: Phase
) -> None:
    layer = cls(num_output=3, type_=kind, base=share, phase=phase)
    # Angles of all sizes, none near where the curve bends.
    x = smooth(6, 2, 2)
    run = check_layer(layer, [x, LABELS])
    unit = cls is MarginInnerProduct
    want = slow_scores(x.reshape(6, 4), run.params[0], LABELS, kind.value + 1, share, unit)
    np.testing.assert_allclose(run.tops[0], want, rtol=1e-9, atol=1e-9)
    assert run.tops[1] == share


@pytest.mark.parametrize("m", [2, 3, 4])
def test_all_pieces_of_the_curve(m: int) -> None:
    """The angle goes from 0 to pi: psi falls from 1 to 1 - 2 m without a jump."""
    angles = np.linspace(0.001, math.pi - 0.001, 400)
    x = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    layer = MarginInnerProduct(num_output=1, type_=MarginType(m - 1), base=0)
    run = forward(layer, [x, np.zeros(400)], [np.array([[2.0, 0]])])
    y = run.tops[0][:, 0]
    np.testing.assert_allclose(y, [psi(a, m) for a in angles], atol=1e-9)
    assert (np.diff(y) < 0).all() and y[0] > 0.99 and abs(y[-1] - (1 - 2 * m)) < 0.01


def test_lambda_falls_with_the_passes() -> None:
    layer = LargeMarginInnerProduct(
        num_output=2, base=1000, gamma=0.5, power=2, iteration=10, lambda_min=3
    )
    kept = [np.zeros(())]
    for step in range(1, 60):
        run = forward(layer, [smooth(2, 3), np.array([0.0, 1])], [smooth(2, 3)], kept=kept)
        kept = list(run.kept)
        want = max(1000 * (1 + 0.5 * (10 + step)) ** -2, 3)
        assert math.isclose(run.tops[1][0], want, rel_tol=1e-6)
    assert run.tops[1] == 3
    assert layer.infer(BlobType((2, 3)), BlobType((2,))).kept[0].persistent


def test_single_is_an_inner_product() -> None:
    x, weight = smooth(6, 4), smooth(3, 4, seed=1)
    plain = forward(InnerProduct(num_output=3, bias_term=False), [x], [weight])
    found = forward(LargeMarginInnerProduct(num_output=3), [x, LABELS], [weight])
    np.testing.assert_allclose(found.tops[0], plain.tops[0])


@pytest.mark.parametrize("cls", [MarginInnerProduct, LargeMarginInnerProduct])
@pytest.mark.parametrize("kind", MarginType)
def test_onnx(cls: type[MarginProduct], kind: MarginType) -> None:
    layer = cls(num_output=3, type_=kind, base=2, gamma=0.1, phase=Phase.TEST)
    more = [smooth(4, 4), np.array([1.0, 2, 0, 0])]
    check_lowering(layer, [smooth(6, 4), LABELS], other_batch=more)


def test_vectors_of_length_0_give_no_nan() -> None:
    for cls in (MarginInnerProduct, LargeMarginInnerProduct):
        layer = cls(num_output=2, type_=MarginType.QUADRUPLE)
        run = forward(layer, [np.zeros((2, 3)), np.array([0.0, 1])], [np.zeros((2, 3))])
        found = run.backward([np.ones((2, 2)), np.ones(1)])
        assert np.isfinite(run.tops[0]).all()
        assert np.isfinite(found.bottoms[0]).all() and np.isfinite(found.params[0]).all()


# -- LabelSpecificAdd ------------------------------------------------------------------------------


@definition("LabelSpecificAdd")
def test_a_margin_is_taken_off_the_label() -> None:
    x = abs(smooth(6, 3)) + 1
    x[1, 0] = 0.2  # not above the margin: left alone
    run = check_layer(LabelSpecificAdd(bias=-0.35), [x, LABELS])
    want = x.copy()
    for i, label in enumerate(LABELS):
        if x[i, int(label)] > 0.35:
            want[i, int(label)] -= 0.35
    np.testing.assert_array_equal(run.tops[0], want)
    assert want[1, 0] == 0.2 and (want != x).sum() == 5
    assert run.tops[1] == -0.35


def test_a_margin_grows_between_its_bounds() -> None:
    layer = LabelSpecificAdd(
        bias=9, bias_base=0.5, bias_gamma=0.1, bias_power=2, bias_min=0.6, bias_max=1.5, iteration=2
    )
    kept = [np.zeros(())]
    for step in range(8):
        run = forward(layer, [smooth(6, 3), LABELS], kept=kept)
        kept = list(run.kept)
        want = min(max(0.5 + (1 + 0.1 * (2 + step)) ** 2 - 1, 0.6), 1.5)
        assert math.isclose(run.tops[1][0], want, rel_tol=1e-6)
    assert run.tops[1] == 1.5


def test_no_margin_in_tests() -> None:
    layer = LabelSpecificAdd(bias=-1, transform_test=True, phase=Phase.TEST)
    run = check_layer(layer, [smooth(6, 3), LABELS])
    np.testing.assert_array_equal(run.tops[0], smooth(6, 3))
    check_lowering(layer, [smooth(6, 3), LABELS])


# -- LabelSpecificRescale --------------------------------------------------------------------------


@definition("LabelSpecificRescale")
def rescaled(layer: LabelSpecificRescale, x: np.ndarray, weight: float) -> np.ndarray:
    y = x.copy()
    for i, j in np.ndindex(*x.shape):
        if j != LABELS[i]:
            y[i, j] *= layer.negative_weight
        elif x[i, j] > 0 or not layer.for_ip:
            if layer.power_on_positive:
                y[i, j] = math.copysign(abs(x[i, j]) ** weight, x[i, j])
            else:
                y[i, j] = x[i, j] * weight + (1 - weight) * layer.bias_fix
    return y


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize(
    "layer",
    [
        LabelSpecificRescale(),
        LabelSpecificRescale(0.5, 2.0),
        LabelSpecificRescale(0.5, 2.0, for_ip=True),
        LabelSpecificRescale(0.5, bias_fix=True),
        LabelSpecificRescale(1.5, -1.0, power_on_positive=True, for_ip=True),
        LabelSpecificRescale(2.0, power_on_positive=True, bias_fix=True),
    ],
)
def test_labels_are_rescaled(layer: LabelSpecificRescale, phase: Phase) -> None:
    layer = replace(layer, rescale_test=True, phase=phase)
    x = distinct(6, 3)
    run = check_layer(layer, [x, LABELS])
    np.testing.assert_allclose(run.tops[0], rescaled(layer, x, layer.positive_weight))
    assert run.tops[1] == layer.positive_weight
    if phase is Phase.TEST:
        check_lowering(layer, [x, LABELS])


def test_the_weight_of_labels_falls_with_the_passes() -> None:
    layer = LabelSpecificRescale(
        9.0, positive_weight_base=2.0, gamma=0.1, power=2, iteration=3, positive_weight_min=0.8,
        positive_weight_max=1.3,
    )  # fmt: skip
    kept, seen = [np.zeros(())], []
    for step in range(8):
        run = forward(layer, [smooth(6, 3), LABELS], kept=kept)
        kept = list(run.kept)
        want = min(max(2 * (1 + 0.1 * (3 + step + 1)) ** -2, 0.8), 1.3)
        np.testing.assert_allclose(run.tops[0], rescaled(layer, smooth(6, 3), want), rtol=1e-6)
        [dx, _] = run.backward([np.ones((6, 3)), np.zeros(1)]).bottoms
        np.testing.assert_allclose(dx[np.arange(6), LABELS.astype(int)], want)
        seen.append(float(run.tops[1][0]))
    assert max(seen) < 1.3 and seen[-1] == 0.8
    assert layer.infer(BlobType((6, 3)), BlobType((6,))).kept[0].persistent


def test_scores_stay_in_tests() -> None:
    layer = LabelSpecificRescale(3.0, 2.0, phase=Phase.TEST)
    run = check_layer(layer, [smooth(6, 3), LABELS])
    np.testing.assert_array_equal(run.tops[0], smooth(6, 3))
    assert run.tops[1] == 3
    check_lowering(layer, [smooth(6, 3), LABELS])


@pytest.mark.parametrize(
    ("layer", "shapes", "setting"),
    [
        (MarginInnerProduct(), [(2, 3), (2,)], "num_output"),
        (MarginInnerProduct(num_output=2), [(2, 3), (3,)], "bottom"),
        (MarginInnerProduct(num_output=2), [(2, 3), (2, 2)], "bottom"),
        (MarginInnerProduct(num_output=2, lambda_min=-1), [(2, 3), (2,)], "base"),
        (LabelSpecificAdd(), [(2, 3), (2, 2)], "bottom"),
        (LabelSpecificAdd(bias_base=1, bias_min=2), [(2, 3), (2,)], "bias_min"),
        (LabelSpecificAdd(bias_gamma=-1), [(2, 3), (2,)], "bias_gamma"),
        (LabelSpecificRescale(), [(2, 3), (2, 2)], "bottom"),
        (LabelSpecificRescale(gamma=-1), [(2, 3), (2,)], "gamma"),
    ],
)
def test_refuses(layer: Layer, shapes: list[tuple[int, ...]], setting: str) -> None:
    with pytest.raises(Refusal) as caught:
        layer.infer(*map(BlobType, shapes))
    assert caught.value.setting == setting


def test_refuses_a_label_that_is_no_class() -> None:
    for layer, params in (
        (MarginInnerProduct(num_output=2), [smooth(2, 3)]),
        (LabelSpecificAdd(), []),
    ):
        with pytest.raises(Refusal, match="label 5 is outside"):
            forward(layer, [smooth(1, 3), np.array([5.0])], params)


def test_from_text() -> None:
    net = executor_of(
        graph_of(
            """
            layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 3 dim: 4 } } }
            layer { name: "l" type: "DummyData" top: "l" dummy_data_param { shape { dim: 3 } } }
            layer { name: "fc" type: "MarginInnerProduct" bottom: "x" bottom: "l" top: "fc"
              top: "lambda" margin_inner_product_param { num_output: 5 type: QUADRUPLE base: 1000
              gamma: 0.12 power: 1 lambda_min: 5 weight_filler { type: "xavier" } } }
            layer { name: "add" type: "LabelSpecificAdd" bottom: "fc" bottom: "l" top: "add"
              label_specific_add_param { bias: -0.1 } }
            layer { name: "loss" type: "SoftmaxWithLoss" bottom: "add" bottom: "l" top: "loss" }
            """
        )
    )
    net.data("x")[...] = smooth(3, 4)
    net.forward()
    first = float(net.data("lambda")[0])
    net.backward()
    assert net.param_diffs[0].any()
    net.forward()
    assert float(net.data("lambda")[0]) < first < 1000
