from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.layers.fillers import Filler
from netc.layers.labels import Normalization
from netc.layers.losses import EuclideanLoss, SoftmaxWithLoss
from netc.layers.metric import (
    CenterLoss,
    FocalLoss,
    FocalType,
    L1Loss,
    MeanSquaredError,
    TripletLoss,
)
from netc.layers.softmax import Softmax
from netc.layers.types import BlobType, Layer, Refusal, Signature
from tests.support.audit import definition
from tests.support.layer_harness import check_layer, forward, smooth
from tests.support.lowering import check_lowering
from tests.support.nets import executor_of, graph_of, set_inputs

shapes = st.lists(st.integers(1, 3), min_size=1, max_size=4).map(tuple)


def loss_of(layer: Layer, bottoms: list[np.ndarray]) -> float:
    return float(check_layer(layer, bottoms).tops[0])


# -- regression ------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(shape=shapes)
@definition("MeanSquaredError")
def test_mean_squared_error(shape: tuple[int, ...]) -> None:
    y, t = smooth(*shape), smooth(*shape, 1, seed=1)
    want = math.fsum((y.flat[i] - t.flat[i]) ** 2 for i in range(y.size)) / shape[0]
    assert math.isclose(loss_of(MeanSquaredError(), [y, t]), want, rel_tol=1e-12)
    assert math.isclose(loss_of(EuclideanLoss(), [y, t]), want / 2, rel_tol=1e-12)


@settings(max_examples=15)
@given(shape=shapes)
@definition("L1Loss")
def test_l1(shape: tuple[int, ...]) -> None:
    a, b = smooth(*shape), smooth(*shape, seed=1)
    want = math.fsum(abs(a.flat[i] - b.flat[i]) for i in range(a.size)) / shape[0]
    assert math.isclose(loss_of(L1Loss(), [a, b]), want, rel_tol=1e-12)


def test_l1_of_equal_values_has_no_slope() -> None:
    run = forward(L1Loss(), [np.array([[1.0, 2]]), np.array([[1.0, 3]])])
    np.testing.assert_array_equal(run.backward([np.array(1.0)]).bottoms[0], [[0, -1]])


@pytest.mark.parametrize("layer", [L1Loss(), MeanSquaredError()])
def test_regression_onnx_and_refusals(layer: Layer) -> None:
    a, b = smooth(3, 2, 2), smooth(3, 4, seed=1)
    assert "ReduceMean" in check_lowering(layer, [a, b])
    with pytest.raises(Refusal, match="differ in size"):
        layer.infer(BlobType((2, 3)), BlobType((2, 4)))
    with pytest.raises(Refusal, match="different numbers of items"):
        layer.infer(BlobType((2, 3)), BlobType((3, 3)))
    assert layer.deployed() is None


# -- triplets --------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(n=st.integers(1, 4), size=st.integers(1, 3), margin=st.sampled_from([0.5, 3.0]))
@definition("TripletLoss")
def test_triplets(n: int, size: int, margin: float) -> None:
    a, p, q = smooth(n, size), smooth(n, size, seed=1), smooth(n, size, 1, seed=2)
    total = 0.0
    for i in range(n):
        near = math.fsum((a[i, k] - p[i, k]) ** 2 for k in range(size))
        far = math.fsum((a[i, k] - q[i, k, 0]) ** 2 for k in range(size))
        total += max(near - far + margin, 0)
    got = loss_of(TripletLoss(margin), [a, p, q])
    assert math.isclose(got, total / (2 * n), rel_tol=1e-12, abs_tol=1e-12)


def test_triplets_onnx_and_refusals() -> None:
    triple = [smooth(3, 4, seed=i) for i in range(3)]
    check_lowering(TripletLoss(), triple)
    for other in ((3, 5), (4, 4)):
        with pytest.raises(Refusal):
            TripletLoss().infer(BlobType((3, 4)), BlobType((3, 4)), BlobType(other))


# -- centres ---------------------------------------------------------------------------------------


class WithoutCentres(CenterLoss):
    """The step for a centre is no gradient: leave it out of the comparison with differences."""

    def infer(self, *bottoms: BlobType) -> Signature:
        found = super().infer(*bottoms)
        params = tuple(dataclasses.replace(p, frozen=True) for p in found.params)
        return dataclasses.replace(found, params=params)


@pytest.mark.parametrize("kind", ["L1", "L2"])
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2), (1, 1)])
@definition("CenterLoss")
def test_center_loss(kind: str, shape: tuple[int, ...]) -> None:
    x, labels = smooth(*shape), np.array([2.0, 0, 2, 1])[: shape[0]]
    run = check_layer(WithoutCentres(num_output=3, distance_type=kind), [x, labels])
    total = 0.0
    for vector, label in zip(x.reshape(shape[0], -1), labels, strict=True):
        for value, centre in zip(vector, run.params[0][int(label)], strict=True):
            total += abs(value - centre) if kind == "L1" else (value - centre) ** 2 / 2
    assert math.isclose(run.tops[0], total / shape[0], rel_tol=1e-12)


@pytest.mark.parametrize("kind", ["L1", "L2"])
@pytest.mark.parametrize("weight", [1.0, 0.008])
def test_centres_move_as_the_paper_says(kind: str, weight: float) -> None:
    x, labels = smooth(5, 3), np.array([2.0, 0, 2, 2, 0])
    layer = CenterLoss(num_output=4, distance_type=kind)
    run = forward(layer, [x, labels], [smooth(4, 3, seed=1)])
    step = run.backward([np.array(weight)]).params[0]
    for j in range(4):
        mine = [x[i] for i in range(5) if labels[i] == j]
        pulls = [run.params[0][j] - vector for vector in mine]
        if kind == "L1":
            pulls = [np.sign(p) for p in pulls]
        np.testing.assert_allclose(step[j], sum(pulls, np.zeros(3)) / (1 + len(mine)))


def test_center_loss_onnx_and_refusals() -> None:
    x, labels = smooth(4, 3), np.array([2.0, 0, 2, 1])
    for kind in ("L1", "L2"):
        layer = CenterLoss(num_output=3, distance_type=kind)
        assert "Gather" in check_lowering(layer, [x, labels])
    with pytest.raises(Refusal, match="label 3 is outside"):
        forward(CenterLoss(num_output=3), [x, labels + 1], [smooth(3, 3)])
    for wrong, shapes_, setting in (
        (CenterLoss(), [(4, 3), (4,)], "num_output"),
        (CenterLoss(num_output=3, distance_type="L3"), [(4, 3), (4,)], "distance_type"),
        (CenterLoss(num_output=3), [(4, 3), (4, 2)], "bottom"),
        (CenterLoss(num_output=3), [(4, 3), (3,)], "bottom"),
        (CenterLoss(num_output=3, axis=2), [(4, 3, 2), (4,)], "bottom"),
        (CenterLoss(num_output=3, axis=3), [(4, 3), (4,)], "axis"),
    ):
        with pytest.raises(Refusal) as caught:
            wrong.infer(*map(BlobType, shapes_))
        assert caught.value.setting == setting


# -- focal loss ------------------------------------------------------------------------------------


@definition("FocalLoss")
def slow_focal(x: np.ndarray, labels: np.ndarray, weight: object, ignore: int | None) -> float:
    """Sum over the labels of scores (N, K, H)."""
    total = 0.0
    for n, h in np.ndindex(labels.shape):
        label = int(labels[n, h])
        if label != ignore:
            exps = [math.exp(v) for v in x[n, :, h]]
            p = exps[label] / math.fsum(exps)
            total -= weight(p) * math.log(p)  # type: ignore[operator]
    return total


@pytest.mark.parametrize("kind", FocalType)
@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 1.0), (0.5, 0.25), (0.0, 1.0), (3.0, 1.0)])
@pytest.mark.parametrize("ignore", [None, 1])
def test_focal_loss(kind: FocalType, gamma: float, alpha: float, ignore: int | None) -> None:
    x, labels = smooth(3, 4, 2), np.array([[0.0, 1], [3, 2], [1, 1]])
    layer = FocalLoss(
        type_=kind,
        gamma=gamma,
        alpha=alpha,
        ignore_label=ignore,
        normalization=Normalization.NONE,
        top=("loss", "prob"),
    )
    run = check_layer(layer, [x, labels])

    def weight(p: float) -> float:
        if kind is FocalType.ONEADDP:
            return (alpha + p) ** gamma
        return alpha * (1 - p) ** gamma

    assert math.isclose(run.tops[0], slow_focal(x, labels, weight, ignore), rel_tol=1e-12)
    exps = np.exp(x)
    np.testing.assert_allclose(run.tops[1], exps / exps.sum(axis=1, keepdims=True))
    check_lowering(layer, [x, labels])


def test_gamma_0_is_softmax_with_loss() -> None:
    x, labels = smooth(6, 4), np.array([0.0, 3, 2, 1, 1, 2])
    plain, focal = forward(SoftmaxWithLoss(), [x, labels]), forward(FocalLoss(gamma=0), [x, labels])
    assert math.isclose(plain.tops[0], focal.tops[0], rel_tol=1e-12)
    one = [np.array(1.0)]
    np.testing.assert_allclose(focal.backward(one).bottoms[0], plain.backward(one).bottoms[0])
    assert FocalLoss(axis=2).deployed() == Softmax(axis=2)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("score", [-1000.0, 1000.0])
def test_focal_loss_of_the_surest_answers_is_finite(gamma: float, score: float) -> None:
    run = forward(FocalLoss(gamma=gamma), [np.array([[score, 0, 0]]), np.array([0.0])])
    dx = run.backward([np.array(1.0)]).bottoms[0]
    assert np.isfinite(run.tops[0]) and np.isfinite(dx).all()
    if score > 0:
        assert run.tops[0] == 0 and not dx.any()


@pytest.mark.parametrize(
    ("settings", "setting"), [({"gamma": -1}, "gamma"), ({"alpha": 0}, "alpha")]
)
def test_focal_loss_refuses(settings: dict[str, float], setting: str) -> None:
    with pytest.raises(Refusal) as caught:
        FocalLoss(**settings).infer(BlobType((2, 3)), BlobType((2,)))
    assert caught.value.setting == setting


def test_all_from_text() -> None:
    graph = graph_of(
        """
        layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 3 dim: 4 } } }
        layer { name: "l" type: "DummyData" top: "l" dummy_data_param { shape { dim: 3 } } }
        layer { name: "f" type: "InnerProduct" bottom: "x" top: "f"
          inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
        layer { name: "mse" type: "MeanSquaredError" bottom: "f" bottom: "x" top: "mse" }
        layer { name: "l1" type: "L1Loss" bottom: "f" bottom: "x" top: "l1" }
        layer { name: "tri" type: "TripletLoss" bottom: "f" bottom: "x" bottom: "x" top: "tri"
          triplet_loss_param { margin: 0.5 } }
        layer { name: "cen" type: "CenterLoss" bottom: "f" bottom: "l" top: "cen"
          loss_weight: 0.008
          center_loss_param { num_output: 2 center_filler { type: "xavier" } } }
        layer { name: "foc" type: "FocalLoss" bottom: "f" bottom: "l" top: "foc"
          loss_param { ignore_label: 255 } focal_loss_param { type: ONEADDP gamma: 1.5 } }
        """
    )
    found = {node.name: node.layer for node in graph.nodes}
    assert found["cen"] == CenterLoss(num_output=2, center_filler=Filler(type="xavier"))
    assert found["foc"] == FocalLoss(
        type_=FocalType.ONEADDP, gamma=1.5, ignore_label=255, top=("foc",)
    )
    net = executor_of(graph)
    set_inputs(net)
    net.forward()
    net.backward()
    assert all(d.any() for d in net.param_diffs)
