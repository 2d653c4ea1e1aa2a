"""CaffeWindows' losses of distances: against loops over the definition, and ONNX Runtime."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from netc.errors import NetcError
from netc.layers.distances import (
    DistanceLoss,
    GeneralContrastiveLoss,
    GeneralTripletLoss,
    NCALoss,
)
from netc.layers.types import BlobType, Refusal
from tests.support.audit import definition, note
from tests.support.layer_harness import check_layer, distinct, forward
from tests.support.lowering import check_lowering
from tests.support.nets import executor_of, graph_of

BOTH = ("loss", "means")
LABELS = np.array([2.0, 0, 3, 0, 1])
# Distances between 0 and 1.6.
DISTANCES = 0.8 * (distinct(5, 4) + 1)

Result = tuple[float, np.ndarray, list[float]]


@definition("GeneralTripletLoss")
def triplets(layer: GeneralTripletLoss, d: np.ndarray, factors: np.ndarray | None) -> Result:
    """Loss, slopes (before the loss weight) and means."""
    n, k = d.shape
    total, slopes = 0.0, np.zeros(d.shape)
    for i in range(n):
        label = int(LABELS[i])
        terms = {j: d[i, label] + layer.margin - d[i, j] for j in range(k) if j != label}
        terms = {j: t for j, t in terms.items() if t > 0}
        if layer.hardest_only and terms:
            best = max(terms, key=lambda j: terms[j])
            terms = {best: terms[best]}
        out = layer.positive_first and d[i, label] > layer.positive_upper_bound
        if out:
            terms = {}
        for j, term in terms.items():
            total += layer.negative_weight * term
            slopes[i, j] = -layer.negative_weight
        if terms or out or layer.add_center_loss:
            slopes[i, label] = layer.positive_weight
        slopes[i] *= 1 if factors is None else factors[i]
    own = [d[i, int(LABELS[i])] for i in range(n)]
    means = [sum(own) / n, (d.sum() - sum(own)) / n / (k - 1)]
    return total / n, slopes / n, means


@definition("GeneralContrastiveLoss")
def contrast(layer: GeneralContrastiveLoss, d: np.ndarray, running: float = 0.0) -> Result:
    """Loss, slopes (before the loss weight) and means."""
    n, k = d.shape
    margin = layer.negative_margin + (running if layer.add_intra_mae else 0)
    own = [d[i, int(LABELS[i])] for i in range(n)]
    over = [min(max(v - layer.positive_margin, 0), layer.positive_outlier_thresh) for v in own]
    smallest = over.index(min(over))
    total, slopes, short = 0.0, np.zeros(d.shape), 0.0
    for i in range(n):
        label = int(LABELS[i])
        if not layer.max_positive_only or i == smallest:
            total += layer.positive_weight * over[i]
            if layer.positive_margin < own[i] < layer.positive_outlier_thresh:
                slopes[i, label] = layer.positive_weight
        near = [j for j in range(k) if j != label and d[i, j] < margin]
        short += sum(margin - d[i, j] for j in near)
        terms = {
            j: math.exp(-d[i, j]) if layer.exp_negative_weight else margin - d[i, j] for j in near
        }
        if layer.max_negative_only and terms:
            best = max(terms, key=lambda j: terms[j])
            terms = {best: terms[best]}
        if layer.positive_first and own[i] > layer.positive_upper_bound:
            terms, slopes[i, label] = {}, layer.positive_weight
        for j, term in terms.items():
            total += layer.negative_weight * term
            slopes[i, j] = -layer.negative_weight * (term if layer.exp_negative_weight else 1)
    if layer.normalize_negative is not None:
        push = -sum(v for v in slopes.flat if v < 0) / layer.normalize_negative / n
        if push > layer.positive_weight:
            slopes = np.where(slopes < 0, slopes / push, slopes)
    return total / n, slopes / n, [sum(over) / n, short / n / (k - 1)]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"margin": 0.6, "add_center_loss": False},
        {"hardest_only": True, "margin": 0.5, "add_center_loss": False},
        {"positive_first": True, "positive_upper_bound": 0.6, "negative_weight": 0.5},
        {"margin": -0.3, "add_center_loss": False, "positive_weight": 2.0},
    ],
)
@pytest.mark.parametrize("top", [(), BOTH])
def test_triplets(settings: dict[str, float], top: tuple[str, ...]) -> None:
    layer = GeneralTripletLoss(**settings, top=top)
    factors = np.array([1.0, 0.5, 2, 0, 1])
    for bottoms in ([DISTANCES, LABELS], [DISTANCES.reshape(5, 2, 2), LABELS, factors]):
        run = check_layer(layer, bottoms, gradient=False)
        loss, slopes, means = triplets(layer, DISTANCES, factors if len(bottoms) > 2 else None)
        _check(run, bottoms, loss, slopes, means)
        check_lowering(layer, bottoms)
    note("gradient", "GeneralTripletLoss")


def _check(run, bottoms, loss: float, slopes: np.ndarray, means: list[float]) -> None:
    assert run.tops[0] == pytest.approx(loss, rel=1e-12) and loss > 0
    for top in run.tops[1:]:
        np.testing.assert_allclose(top, means, rtol=1e-12)
    diffs = [np.array(3.0), *(np.zeros_like(top) for top in run.tops[1:])]
    found = run.backward(diffs).bottoms
    np.testing.assert_allclose(found[0].reshape(5, 4), 3 * slopes, rtol=1e-12, atol=1e-15)
    assert found[0].shape == bottoms[0].shape and found[1:] == (None,) * (len(bottoms) - 1)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"positive_margin": 0.3, "positive_outlier_thresh": 0.9, "negative_margin": 0.8},
        {"exp_negative_weight": True, "negative_weight": 0.5},
        {"max_negative_only": True},
        {"max_positive_only": True},
        {"positive_first": True, "positive_upper_bound": 0.6},
        {"normalize_negative": 0.5},
        {"normalize_negative": 100.0},
        {"max_negative_only": True, "exp_negative_weight": True, "positive_weight": 2.0},
    ],
)
@pytest.mark.parametrize("top", [(), BOTH])
def test_contrast(settings: dict[str, float], top: tuple[str, ...]) -> None:
    layer = GeneralContrastiveLoss(**settings, top=top)
    other = np.zeros((5, 4))
    for bottoms in ([DISTANCES, LABELS], [other, LABELS, DISTANCES]):
        run = check_layer(layer, bottoms, gradient=False)
        _check(run, bottoms, *contrast(layer, DISTANCES))
        if not layer.max_positive_only:
            check_lowering(layer, bottoms)
    note("gradient", "GeneralContrastiveLoss")


def test_slopes_are_those_of_the_sum_where_the_definition_says_so() -> None:
    check_layer(GeneralContrastiveLoss(), [DISTANCES, LABELS])
    check_layer(GeneralContrastiveLoss(exp_negative_weight=True), [DISTANCES, LABELS])


def test_a_margin_that_grows_with_the_own_distances() -> None:
    layer = GeneralContrastiveLoss(add_intra_mae=True, max_negative_margin=0.012, top=BOTH)
    kept, running = None, 0.0
    for _ in range(3):
        loss, _, (own, _) = contrast(layer, DISTANCES, running)
        run = forward(layer, [DISTANCES, LABELS], kept=kept)
        kept, running = run.kept, min(0.99 * running + 0.01 * own, 0.012)
        assert run.tops[0] == pytest.approx(loss)
        assert run.tops[1][2] == pytest.approx(running)
    assert running == 0.012
    with pytest.raises(NetcError, match="depends on other items"):
        check_lowering(layer, [DISTANCES, LABELS])


@pytest.mark.parametrize("cls", [GeneralTripletLoss, GeneralContrastiveLoss])
@pytest.mark.parametrize("shapes", [[(5, 4), (4,)], [(5, 4), (5, 2)], [(5, 1), (5,)], [(5,), (5,)]])
def test_bottoms_that_do_not_fit(cls: type[DistanceLoss], shapes) -> None:
    with pytest.raises(Refusal) as caught:
        cls().infer(*map(BlobType, shapes))
    assert caught.value.setting == "bottom" and caught.value.expected


def test_third_bottoms_and_settings_that_do_not_fit() -> None:
    for layer, third in ((GeneralTripletLoss(), (5, 4)), (GeneralContrastiveLoss(), (5,))):
        with pytest.raises(Refusal, match="bottom 2 does not hold"):
            layer.infer(BlobType((5, 4)), BlobType((5,)), BlobType(third))
    with pytest.raises(Refusal, match="not positive"):
        replace(GeneralContrastiveLoss(), normalize_negative=0.0).infer(
            BlobType((5, 4)), BlobType((5,))
        )
    with pytest.raises(Refusal, match="label 4 is outside"):
        forward(GeneralTripletLoss(), [DISTANCES, LABELS + 1])


def test_from_text() -> None:
    net = executor_of(
        graph_of(
            """
            layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 5 dim: 3 } } }
            layer { name: "y" type: "Input" top: "y" input_param { shape { dim: 5 } } }
            layer { name: "d" type: "InnerDistance" bottom: "x" top: "d"
              inner_distance_param { num_output: 4 weight_filler { type: "xavier" } } }
            layer { name: "t" type: "GeneralTripletLoss" bottom: "d" bottom: "y" top: "t"
              general_triplet_loss_param { margin: 0.5 hardest_only: true } }
            layer { name: "c" type: "GeneralContrastiveLoss" bottom: "d" bottom: "y" top: "c"
              top: "means" loss_weight: 0.1 loss_weight: 0
              general_contrastive_loss_param { max_negative_only: true square: true } }
            """
        )
    )
    net.data("x")[...] = distinct(5, 3)
    net.data("y")[...] = LABELS
    net.forward()
    net.backward()
    assert net.data("means").shape == (2,) and net.param_diffs[0].any()


# -- NCALoss


@definition("NCALoss")
@pytest.mark.parametrize("nearest", [False, True])
@pytest.mark.parametrize("shape", [(5, 4), (5, 2, 2)])
def test_nca(nearest: bool, shape: tuple[int, ...]) -> None:
    layer = NCALoss(BOTH, min_negative_only=nearest)
    # The means of the second top have no gradient.
    check_layer(NCALoss(min_negative_only=nearest), [DISTANCES.reshape(shape), LABELS])
    run = check_layer(layer, [DISTANCES.reshape(shape), LABELS], gradient=False)
    total = own = others = 0.0
    for i, label in enumerate(LABELS.astype(int)):
        rest = [DISTANCES[i, j] for j in range(4) if j != label]
        own += DISTANCES[i, label]
        others += math.fsum(rest)
        counted = [min(rest)] if nearest else rest
        total += DISTANCES[i, label] + math.fsum(math.exp(-d) for d in counted)
    assert math.isclose(run.tops[0], total / 5)
    np.testing.assert_allclose(run.tops[1], [own / 5, others / 15])
    assert len(check_lowering(layer, [DISTANCES.reshape(shape), LABELS])) > 5
    check_lowering(NCALoss(min_negative_only=nearest), [DISTANCES.reshape(shape), LABELS])


def test_factors_of_nca_count_for_the_gradient() -> None:
    factors = np.array([1.0, 2, 3, 4, 5])
    plain = forward(NCALoss(), [DISTANCES, LABELS])
    weighted = forward(NCALoss(), [DISTANCES, LABELS, factors])
    assert plain.tops[0] == weighted.tops[0]
    dx = plain.backward([np.array(2.0)]).bottoms[0]
    found = weighted.backward([np.array(2.0)]).bottoms
    np.testing.assert_allclose(found[0], dx * factors[:, None] / 3)
    assert found[1:] == (None, None)


def test_nca_refuses_what_the_others_do() -> None:
    with pytest.raises(Refusal, match="one factor for each item"):
        NCALoss().infer(BlobType((5, 4)), BlobType((5,)), BlobType((4,)))
    with pytest.raises(Refusal, match="no other class"):
        NCALoss().infer(BlobType((5, 1)), BlobType((5,)))


def test_a_loss_may_have_the_settings_of_another_beside_its_own() -> None:
    graph = graph_of(
        """
        layer { name: "d" type: "Input" top: "d" top: "l"
          input_param { shape { dim: 5 dim: 4 } shape { dim: 5 } } }
        layer { name: "loss" type: "GeneralContrastiveLoss" bottom: "d" bottom: "l" top: "loss"
          general_contrastive_loss_param { negative_margin: 0.5 }
          general_triplet_loss_param { margin: 1 } }
        """
    )
    assert graph.nodes[1].layer == GeneralContrastiveLoss(("loss",), negative_margin=0.5)
