"""Losses against their definitions, written as loops over labels and classes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.errors import NetcError
from netc.graph.build import build, net_state
from netc.layers.activation import Sigmoid
from netc.layers.blobfile import BlobFile
from netc.layers.losses import (
    ContrastiveLoss,
    EuclideanLoss,
    HingeLoss,
    InfogainLoss,
    Loss,
    MultinomialLogisticLoss,
    Norm,
    Normalization,
    NormalizedLoss,
    SigmoidCrossEntropyLoss,
    SoftmaxWithLoss,
)
from netc.layers.softmax import Softmax
from netc.layers.types import BlobType, Phase, Reads, Refusal
from netc.schema import read_net
from tests.support.layer_harness import (
    Run,
    check_layer,
    distinct,
    forward,
    smooth,
    vector_names,
)
from tests.support.lowering import check_lowering
from tests.support.nets import executor_of, graph_of
from tests.support.vectors import check_bound_vector, refusal_of

FULL, VALID, BATCH_SIZE, NONE = Normalization
LOSSES = (
    "softmaxwithloss", "infogainloss", "sigmoidcrossentropyloss", "euclideanloss",
    "multinomiallogisticloss", "hingeloss", "contrastiveloss",
)  # fmt: skip


@pytest.mark.parametrize("name", vector_names(*LOSSES))
def test_golden_vectors(name: str) -> None:
    check_bound_vector(name)


# -- what the losses of labels have in common ------------------------------------------------------


def value(run: Run) -> float:
    assert run.tops[0].shape == ()
    return float(run.tops[0])


def divisor(layer: NormalizedLoss, labels: int, ignored: int, batch: int) -> int:
    """Return what the text of the schema says the sum is divided by."""
    mode = layer.normalization
    if mode is None and layer.normalize is not None:
        mode = VALID if layer.normalize else BATCH_SIZE
    if mode is None:
        mode = BATCH_SIZE if isinstance(layer, SigmoidCrossEntropyLoss) else VALID
    count = {FULL: labels, VALID: labels - ignored, BATCH_SIZE: batch, NONE: 1}[mode]
    return max(1, count)


@st.composite
def normalizations(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "ignore_label": draw(st.sampled_from([None, -1, 1, 255])),
        "normalization": draw(st.sampled_from([None, *Normalization])),
        "normalize": draw(st.sampled_from([None, True, False])),
    }


@st.composite
def scored(draw: st.DrawFn, ignore_label: int | None) -> tuple[np.ndarray, np.ndarray, int]:
    """Return scores, labels that fit them (some ignored, some with a fraction), and the axis.

    The first axis is of the same size in both, as every loss wants it.
    """
    axes = draw(st.integers(2, 4))
    axis = draw(st.integers(1, axes - 1))
    shape = draw(st.tuples(*[st.integers(1, 3)] * axes))
    classes = shape[axis]
    allowed = [*range(classes), *([] if ignore_label is None else [ignore_label])]
    labels_shape = shape[:axis] + shape[axis + 1 :]
    count = math.prod(labels_shape)
    chosen = draw(st.lists(st.sampled_from(allowed), min_size=count, max_size=count))
    labels = np.array(chosen, float).reshape(labels_shape)
    labels += np.copysign(draw(st.sampled_from([0.0, 0.5])), labels)
    if draw(st.booleans()):
        labels = labels.reshape(shape[0], 1, -1)
    return smooth(*shape), labels, draw(st.sampled_from([axis, axis - axes]))


def lines(x: np.ndarray, labels: np.ndarray, axis: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the scores of each label, and the label."""
    rows = np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis])
    yield from zip(rows, (int(v) for v in labels.ravel()), strict=True)


def log_softmax(scores: np.ndarray) -> list[float]:
    total = sum(math.exp(s) for s in scores)
    return [s - math.log(total) for s in scores]


# -- SoftmaxWithLoss -------------------------------------------------------------------------------


@settings(max_examples=60)
@given(options=normalizations(), two_tops=st.booleans(), data=st.data())
def test_softmax_with_loss(options: dict[str, Any], two_tops: bool, data: st.DataObject) -> None:
    ignore = options["ignore_label"]
    x, labels, axis = data.draw(scored(ignore))
    top = ("loss", "prob") if two_tops else ()
    layer = SoftmaxWithLoss(**options, axis=axis, top=top)
    run = check_layer(layer, [x, labels])
    costs = [-log_softmax(s)[k] for s, k in lines(x, labels, axis) if k != ignore]
    batch = math.prod(x.shape[: axis % x.ndim])
    want = math.fsum(costs) / divisor(layer, labels.size, labels.size - len(costs), batch)
    assert value(run) == pytest.approx(want, rel=1e-12, abs=1e-12)
    if two_tops:
        np.testing.assert_array_equal(run.tops[1], forward(Softmax(axis=axis), [x]).tops[0])


def test_the_probability_has_a_floor_but_not_its_gradient() -> None:
    run = forward(SoftmaxWithLoss(), [np.array([[0, 1000.0]]), np.array([0.0])])
    assert value(run) == pytest.approx(126 * math.log(2))
    assert run.backward([np.array(1.0)]).bottoms[0].tolist() == [[-1, 1]]


@pytest.mark.parametrize("mode", [None, *Normalization])
def test_when_all_labels_are_ignored_nothing_is_lost(mode: Normalization | None) -> None:
    layer = SoftmaxWithLoss(ignore_label=9, normalization=mode)
    run = forward(layer, [smooth(4, 3), np.full(4, 9.0)])
    assert value(run) == 0
    assert not run.backward([np.array(1.0)]).bottoms[0].any()


def test_scores_that_are_ignored_may_be_anything() -> None:
    x = np.array([[0, 0.0], [np.nan, 0]])
    run = forward(SoftmaxWithLoss(ignore_label=255), [x, np.array([1.0, 255])])
    assert value(run) == pytest.approx(math.log(2))


def test_the_scores_need_not_be_kept_for_the_gradient() -> None:
    assert SoftmaxWithLoss().backward_reads() is Reads.NOTHING


def test_a_long_float32_mean_keeps_its_digits() -> None:
    x = np.zeros((4, 2, 500, 500), np.float32)
    loss = value(forward(SoftmaxWithLoss(), [x, np.zeros((4, 500, 500), np.float32)]))
    assert loss == pytest.approx(math.log(2), rel=1e-6)


def test_a_label_out_of_range_is_told_with_its_layer() -> None:
    net = executor_of(graph_of(LABELLED))
    net.data("label")[...] = [0, 3, 1]
    with pytest.raises(NetcError) as error:
        net.forward()
    assert "layer 'loss' (SoftmaxWithLoss): label 3 is outside 0..2" in str(error.value)
    assert "label 3 at (1,) of the labels" in str(error.value)


LABELLED = """
layer { name: "d" type: "Input" top: "data" input_param { shape { dim: 3 dim: 3 } } }
layer { name: "l" type: "Input" top: "label" input_param { shape { dim: 3 } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "data" bottom: "label" top: "loss" }
"""


@pytest.mark.parametrize("options", [{}, {"ignore_label": 1}, {"normalize": False}])
def test_class_weights_multiply_the_costs_of_their_labels(options: dict[str, Any]) -> None:
    x = smooth(2, 3, 4)
    labels = np.array([[0.0, 1, 2, 2], [1, 1, 0, 2]])
    weights = (0.5, 2.0, 3.0)
    layer = SoftmaxWithLoss(weight_by_label_freqs=True, class_weighting=weights, **options)
    run = check_layer(layer, [x, labels])
    total, counted = 0.0, 0
    for n, i in np.ndindex(2, 4):
        label = int(labels[n, i])
        if label != options.get("ignore_label"):
            scores = np.exp(x[n, :, i])
            total -= weights[label] * math.log(scores[label] / scores.sum())
            counted += 1
    divisor = 2 if options.get("normalize") is False else counted
    assert value(run) == pytest.approx(total / divisor)
    check_lowering(layer, [x, labels])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ignore_label": 1},
        {"weight_by_label_freqs": True, "class_weighting": (0.5, 2.0, 3.0)},
    ],
)
def test_smoothed_labels(options: dict[str, Any]) -> None:
    x, e = smooth(2, 3, 4), 0.3
    labels = np.array([[0.0, 1, 2, 2], [1, 1, 0, 2]])
    layer = SoftmaxWithLoss(label_smoothing=e, **options)
    run = check_layer(layer, [x, labels])
    weights = options.get("class_weighting", (1.0, 1.0, 1.0))
    costs = []
    for n, i in np.ndindex(2, 4):
        label = int(labels[n, i])
        if label != options.get("ignore_label"):
            scores = np.exp(x[n, :, i])
            wanted = [e / 3 + (1 - e) * (k == label) for k in range(3)]
            entropy = -sum(
                q * math.log(p) for q, p in zip(wanted, scores / scores.sum(), strict=True)
            )
            costs.append(weights[label] * entropy)
    assert value(run) == pytest.approx(np.mean(costs))
    check_lowering(layer, [x, labels])


def test_smoothing_has_a_range() -> None:
    for e in (-0.1, 1.0):
        with pytest.raises(Refusal) as caught:
            forward(SoftmaxWithLoss(label_smoothing=e), [smooth(2, 3), np.array([0.0, 2])])
        assert caught.value.setting == "label_smoothing"


def test_class_weights_count_only_where_the_text_says_so() -> None:
    x, labels = smooth(2, 3), np.array([0.0, 2])
    off = SoftmaxWithLoss(weight_by_label_freqs=False, class_weighting=(1.0, 2.0))
    assert value(forward(off, [x, labels])) == value(forward(SoftmaxWithLoss(), [x, labels]))
    for layer in (
        SoftmaxWithLoss(class_weighting=(1.0, 2.0, 3.0)),
        SoftmaxWithLoss(weight_by_label_freqs=True, class_weighting=(1.0, 2.0)),
        SoftmaxWithLoss(weight_by_label_freqs=True),
    ):
        with pytest.raises(Refusal) as caught:
            forward(layer, [x, labels])
        assert caught.value.setting == "class_weighting"


# -- InfogainLoss ----------------------------------------------------------------------------------


@settings(max_examples=40)
@given(options=normalizations(), two_tops=st.booleans(), data=st.data())
def test_infogain_loss(options: dict[str, Any], two_tops: bool, data: st.DataObject) -> None:
    ignore = options["ignore_label"]
    x, labels, axis = data.draw(scored(ignore))
    k = x.shape[axis]
    matrix = smooth(*data.draw(st.sampled_from([(1, 1, k, k), (k, k)])), seed=5)
    layer = InfogainLoss(**options, axis=axis, top=("loss", "prob") if two_tops else ())
    run = check_layer(layer, [x, labels, matrix])
    costs = [
        -math.fsum(h * p for h, p in zip(matrix.reshape(k, k)[label], log_softmax(s), strict=True))
        for s, label in lines(x, labels, axis)
        if label != ignore
    ]
    batch = math.prod(x.shape[: axis % x.ndim])
    want = math.fsum(costs) / divisor(layer, labels.size, labels.size - len(costs), batch)
    assert value(run) == pytest.approx(want, rel=1e-12, abs=1e-12)


def test_with_the_unit_matrix_it_is_softmax_with_loss() -> None:
    x, labels = smooth(4, 5), np.array([0.0, 4, 2, 2])
    infogain = forward(InfogainLoss(), [x, labels, np.eye(5)])
    softmax = forward(SoftmaxWithLoss(), [x, labels])
    assert value(infogain) == pytest.approx(value(softmax))
    for one, other in zip(
        infogain.backward([np.array(0.7)]).bottoms[:1],
        softmax.backward([np.array(0.7)]).bottoms[:1],
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_the_floor_of_infogain_is_higher() -> None:
    run = forward(InfogainLoss(), [np.array([[0, 1000.0]]), np.array([0.0]), np.eye(2)])
    assert value(run) == pytest.approx(-math.log(1e-20))


INFOGAIN = """
layer { name: "d" type: "Input" top: "data" input_param { shape { dim: 4 dim: 5 } } }
layer { name: "l" type: "Input" top: "label" input_param { shape { dim: 4 } } }
layer { name: "loss" type: "InfogainLoss" bottom: "data" bottom: "label" top: "loss"
        infogain_loss_param { source: "h.binaryproto" } }
"""


def test_the_matrix_can_come_from_a_file() -> None:
    asked = []

    class Found:
        types = (BlobType((5, 5)),)
        assumed = ""

    def probe(layer: Any, span: Any) -> Found:
        asked.append(layer)
        return Found()

    source = read_net("net.prototxt", text=INFOGAIN)
    graph = build(source, net_state(source.message, Phase.TRAIN), probe=probe)
    graph.verify()
    assert asked == [BlobFile(source="h.binaryproto")]
    reader, loss = graph.nodes[2:]
    assert reader.layer.reads_data
    assert loss.layer == InfogainLoss(top=("loss",))
    assert loss.bottoms == ("data", "label", *reader.tops)
    assert [blob.name for blob in graph.loss_blobs] == ["loss"]


def test_the_matrix_is_wanted_once() -> None:
    x, labels, matrix = BlobType((4, 5)), BlobType((4,)), BlobType((5, 5))
    with pytest.raises(Refusal, match="matrix is missing") as refusal:
        InfogainLoss().expand(x, labels)
    assert "source" in refusal.value.hint
    with pytest.raises(Refusal, match="given twice"):
        InfogainLoss(source="h").expand(x, labels, matrix)
    assert InfogainLoss().expand(x, labels, matrix) is None


@pytest.mark.parametrize("shape", [(4, 5), (5, 4), (2, 5, 5), (25,), ()])
def test_a_matrix_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(Refusal, match="one row and one column for each class") as refusal:
        InfogainLoss().infer(BlobType((4, 5)), BlobType((4,)), BlobType(shape))
    assert "shape (5, 5)" in refusal.value.expected


# -- SigmoidCrossEntropyLoss -----------------------------------------------------------------------


@settings(max_examples=40)
@given(
    options=normalizations(),
    shape=st.lists(st.integers(1, 3), min_size=1, max_size=4).map(tuple),
    soft=st.booleans(),
    seed=st.integers(0, 99),
)
def test_sigmoid_cross_entropy(
    options: dict[str, Any], shape: tuple[int, ...], soft: bool, seed: int
) -> None:
    ignore = options["ignore_label"]
    rng = np.random.default_rng(seed)
    x = smooth(*shape, seed=seed)
    targets = rng.random(shape) if soft else rng.integers(0, 2, shape).astype(float)
    if ignore is not None:
        targets[rng.random(shape) < 0.3] = ignore
    layer = SigmoidCrossEntropyLoss(**options)
    run = check_layer(layer, [x, targets.reshape(shape[0], -1)])
    costs = []
    for score, target in zip(x.ravel(), targets.ravel(), strict=True):
        if int(target) != ignore:
            s = 1 / (1 + math.exp(-score))
            costs.append(-target * math.log(s) - (1 - target) * math.log(1 - s))
    want = math.fsum(costs) / divisor(layer, x.size, x.size - len(costs), shape[0])
    assert value(run) == pytest.approx(want, rel=1e-10, abs=1e-12)


def test_a_target_is_ignored_by_its_integer_part() -> None:
    layer = SigmoidCrossEntropyLoss(ignore_label=1, normalization=VALID)
    run = forward(layer, [np.array([[0.0, 5, 5]]), np.array([[0.9, 1.4, 1]])])
    assert value(run) == pytest.approx(math.log(2))
    assert run.backward([np.array(1.0)]).bottoms[0].tolist() == [[pytest.approx(-0.4), 0, 0]]


def test_large_scores_keep_their_digits() -> None:
    x = np.array([[200.0, -200, 1e30, -1e30, 30]], np.float32)
    for target, want in ((x > 0, math.log1p(math.exp(-30))), (x < 0, None)):
        run = forward(SigmoidCrossEntropyLoss(), [x, target.astype(np.float32)])
        slope = run.backward([np.float32(1)]).bottoms[0]
        if want is not None:
            assert value(run) == pytest.approx(want, rel=1e-5)
        else:
            assert value(run) == pytest.approx(2e30, rel=1e-6)
            np.testing.assert_allclose(slope, np.sign(x), rtol=1e-6)


# -- EuclideanLoss ---------------------------------------------------------------------------------


@settings(max_examples=30)
@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple), flat=st.booleans())
def test_euclidean_loss(shape: tuple[int, ...], flat: bool) -> None:
    a, b = smooth(*shape), smooth(*shape, seed=1)
    run = check_layer(EuclideanLoss(), [a, b.reshape(shape[0], -1) if flat else b])
    want = sum((p - q) ** 2 for p, q in zip(a.ravel(), b.ravel(), strict=True)) / shape[0] / 2
    assert value(run) == pytest.approx(want, rel=1e-12)


# -- one label for each item -----------------------------------------------------------------------

ITEM_SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)


def item_labels(shape: tuple[int, ...], seed: int, column: bool) -> np.ndarray:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, math.prod(shape[1:]), shape[0]) + rng.choice([0, 0.7])
    return labels.reshape(-1, 1, 1, 1) if column else labels


@settings(max_examples=30)
@given(shape=ITEM_SHAPES, seed=st.integers(0, 99), column=st.booleans())
def test_multinomial_logistic_loss(shape: tuple[int, ...], seed: int, column: bool) -> None:
    p = 0.6 + 0.4 * distinct(*shape, seed=seed)
    labels = item_labels(shape, seed, column)
    # A second derivative of up to 1 / 0.2^3 takes a part of the difference's digits.
    run = check_layer(MultinomialLogisticLoss(), [p, labels], tolerance=1e-5)
    rows = p.reshape(shape[0], -1)
    costs = [-math.log(row[int(k)]) for row, k in zip(rows, labels.ravel(), strict=True)]
    assert value(run) == pytest.approx(math.fsum(costs) / shape[0], rel=1e-12)


def test_the_floor_of_multinomial_logistic_loss() -> None:
    run = forward(MultinomialLogisticLoss(), [np.array([[0.0, 1]]), np.array([0.0])])
    assert value(run) == pytest.approx(-math.log(1e-20))
    np.testing.assert_allclose(run.backward([np.array(1.0)]).bottoms[0], [[-1e20, 0]])


@settings(max_examples=30)
@given(norm=st.sampled_from(Norm), shape=ITEM_SHAPES, seed=st.integers(0, 99), column=st.booleans())
def test_hinge_loss(norm: Norm, shape: tuple[int, ...], seed: int, column: bool) -> None:
    # Scores on both sides of the margin, away from it.
    x = 2.01 * distinct(*shape, seed=seed)
    x += 0.05 * np.sign(np.abs(x) - 1) * np.sign(x)
    labels = item_labels(shape, seed, column)
    run = check_layer(HingeLoss(norm=norm), [x, labels])
    total = 0.0
    for row, label in zip(x.reshape(shape[0], -1), labels.ravel(), strict=True):
        for k, score in enumerate(row):
            over = max(0.0, 1 - score if k == int(label) else 1 + score)
            total += over if norm is Norm.L1 else over**2
    assert value(run) == pytest.approx(total / shape[0], rel=1e-12)


def test_on_the_margin_the_hinge_has_no_slope() -> None:
    run = forward(HingeLoss(), [np.array([[1.0, -1, 0]]), np.array([0.0])])
    assert run.backward([np.array(1.0)]).bottoms[0].tolist() == [[0, 0, 1]]


# -- ContrastiveLoss -------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    n=st.integers(1, 5),
    channels=st.integers(1, 4),
    margin=st.sampled_from([0.5, 1.0, 3.0]),
    legacy=st.booleans(),
    ones=st.booleans(),
    seed=st.integers(0, 99),
)
def test_contrastive_loss(
    n: int, channels: int, margin: float, legacy: bool, ones: bool, seed: int
) -> None:
    a, b = smooth(n, channels, seed=seed), smooth(n, channels, seed=seed + 100)
    similar = np.random.default_rng(seed).integers(0, 2, n).astype(float)
    distances = [math.dist(p, q) for p, q in zip(a, b, strict=True)]
    near_kink = margin if not legacy else math.sqrt(margin)
    if any(abs(d - near_kink) < 0.01 or d < 0.01 for d in distances):
        return
    layer = ContrastiveLoss(margin=margin, legacy_version=legacy)
    shape = (n, channels, 1, 1) if ones else (n, channels)
    # Caffe's gradient divides by d + 1e-4 in place of d.
    floor = 1e-4 / min(distances)
    run = check_layer(
        layer, [a.reshape(shape), b, similar], tolerance=1e-6 if legacy else 1e-6 + floor
    )
    total, slopes = 0.0, []
    for p, q, d, alike in zip(a, b, distances, similar, strict=True):
        if alike:
            total, slope = total + d * d, p - q
        elif legacy:
            total += max(margin - d * d, 0)
            slope = -(p - q) * (d * d < margin)
        else:
            total += max(margin - d, 0) ** 2
            slope = -(p - q) * max(margin - d, 0) / (d + 1e-4)
        slopes.append(slope / n)
    assert value(run) == pytest.approx(total / n / 2, rel=1e-12)
    da, db, _ = run.backward([np.array(2.0)]).bottoms
    np.testing.assert_allclose(da.reshape(n, channels), 2 * np.array(slopes), rtol=1e-10)
    np.testing.assert_allclose(db, -da.reshape(b.shape))


# -- what holds for all ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "stands"),
    [
        (SoftmaxWithLoss(axis=2, ignore_label=3), Softmax(axis=2)),
        (InfogainLoss(axis=-1), Softmax(axis=-1)),
        (SigmoidCrossEntropyLoss(), Sigmoid()),
        (EuclideanLoss(), None),
        (HingeLoss(), None),
        (ContrastiveLoss(), None),
        (MultinomialLogisticLoss(), None),
    ],
)
def test_what_stands_for_a_loss_in_inference(layer: Loss, stands: Any) -> None:
    assert layer.loss
    assert layer.deployed() == stands


def test_labels_take_no_gradient() -> None:
    assert SoftmaxWithLoss().gradient_bottoms(2) == (True, False)
    assert InfogainLoss().gradient_bottoms(3) == (True, False, False)
    assert ContrastiveLoss().gradient_bottoms(3) == (True, True, False)
    assert EuclideanLoss().gradient_bottoms(2) == (True, True)


def test_an_empty_batch_has_no_loss() -> None:
    for layer in (SoftmaxWithLoss(), HingeLoss(), MultinomialLogisticLoss()):
        assert value(forward(layer, [np.zeros((0, 3)), np.zeros(0)])) == 0
    for layer in (SigmoidCrossEntropyLoss(), EuclideanLoss()):
        assert value(forward(layer, [np.zeros((0, 3)), np.zeros((0, 3))])) == 0


REFUSALS = {
    "softmaxloss_label_count": ("(SoftmaxWithLoss)", "(4, 5) and (3,)"),
    "softmaxloss_two_tops_no_loss_weight": ("(SoftmaxWithLoss)", "loss_weight"),
    "softmaxloss_one_bottom": ("(SoftmaxWithLoss)", "expected  2 bottom"),
    "euclidean_shapes": ("(EuclideanLoss)", "shapes (4, 5) and (4, 6): 5 and 6 values"),
    "sigmoid_ce_count": ("(SigmoidCrossEntropyLoss)", "expected  6 targets"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_nets_that_caffe_refuses(name: str) -> None:
    message = refusal_of(name)
    for part in REFUSALS[name]:
        assert part in message


@pytest.mark.parametrize(
    ("layer", "shapes", "what"),
    [
        (SoftmaxWithLoss(), [(2, 5, 3, 3), (2, 9, 9)], "scores and labels do not match"),
        (SoftmaxWithLoss(axis=4), [(2, 5), (2,)], "axis 4 is out of range"),
        (SoftmaxWithLoss(), [(2,), (2,)], "axis 1 is out of range"),
        (SigmoidCrossEntropyLoss(), [(2, 5), (3, 5)], "different numbers of items"),
        (HingeLoss(), [(2, 5), (2, 5)], "not one label for each item"),
        (HingeLoss(), [(2, 0), (2,)], "no classes"),
        (MultinomialLogisticLoss(), [(2, 5, 3), (2, 3)], "not one label for each item"),
        (ContrastiveLoss(), [(2, 5), (2, 4), (2,)], "not two batches of vectors"),
        (ContrastiveLoss(), [(2, 5, 2), (2, 5, 2), (2,)], "not two batches of vectors"),
        (ContrastiveLoss(), [(2, 5), (3, 5), (2,)], "different numbers of items"),
        (ContrastiveLoss(), [(2, 5), (2, 5), (3,)], "not one label for each pair"),
        (ContrastiveLoss(), [(2, 5), (2, 5), ()], "not one label for each pair"),
    ],
)
def test_refusals(layer: Loss, shapes: list[tuple[int, ...]], what: str) -> None:
    with pytest.raises(Refusal, match=what) as refusal:
        layer.infer(*map(BlobType, shapes))
    assert refusal.value.expected
    assert refusal.value.got


# -- ONNX ------------------------------------------------------------------------------------------

SCORES = smooth(3, 4, 2)
LABELS = np.array([[0.0, 3], [1.7, 2], [2, 2]])


@pytest.mark.parametrize("ignore", [None, 2])
@pytest.mark.parametrize("mode", Normalization)
def test_lowering_of_softmax_with_loss(mode: Normalization, ignore: int | None) -> None:
    layer = SoftmaxWithLoss(normalization=mode, ignore_label=ignore, top=("loss", "prob"))
    check_lowering(layer, [SCORES, LABELS])


def test_lowering_where_all_labels_are_ignored_or_improbable() -> None:
    check_lowering(SoftmaxWithLoss(ignore_label=-1), [SCORES, np.full((3, 2), -1)])
    check_lowering(SoftmaxWithLoss(), [np.array([[0, 1000.0]]), np.array([0.0])])


def test_lowering_of_softmax_with_loss_on_other_axes() -> None:
    operators = check_lowering(SoftmaxWithLoss(axis=-1), [smooth(3, 2, 4), LABELS])
    assert operators[0] != "Transpose"


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("ignore", [None, 1])
def test_lowering_of_infogain_loss(ignore: int | None, axis: int) -> None:
    x = SCORES if axis == 1 else smooth(3, 2, 4)
    layer = InfogainLoss(ignore_label=ignore, axis=axis, top=("loss", "prob"))
    check_lowering(layer, [x, LABELS, smooth(1, 1, 4, 4)])


@pytest.mark.parametrize("mode", [None, *Normalization])
@pytest.mark.parametrize("ignore", [None, 1])
def test_lowering_of_sigmoid_cross_entropy(mode: Normalization | None, ignore: int | None) -> None:
    layer = SigmoidCrossEntropyLoss(normalization=mode, ignore_label=ignore)
    targets = np.random.default_rng(0).integers(0, 2, (3, 4))
    check_lowering(layer, [20 * smooth(3, 4), targets])


def test_lowering_of_the_other_losses() -> None:
    a, b, labels = smooth(3, 4), smooth(3, 4, seed=1), np.array([0.0, 3.5, 1])
    check_lowering(EuclideanLoss(), [a, b])
    check_lowering(EuclideanLoss(), [a, b.reshape(3, 2, 2)])
    for norm in Norm:
        check_lowering(HingeLoss(norm=norm), [a, labels])
    check_lowering(HingeLoss(), [a.reshape(3, 2, 2), labels.reshape(3, 1, 1)])
    check_lowering(MultinomialLogisticLoss(), [forward(Softmax(), [a]).tops[0], labels])
    for legacy in (False, True):
        layer = ContrastiveLoss(margin=3, legacy_version=legacy)
        check_lowering(layer, [a, b, np.array([0.9, 1, 0])])


@pytest.mark.parametrize("none", [False, True])
def test_sigmoid_cross_entropy_with_weights(none: bool) -> None:
    x, targets = smooth(3, 4), (smooth(3, 4, seed=1) > 0) * 1.0
    weights = np.zeros((3, 4)) if none else np.abs(smooth(3, 4, seed=2)) * (targets + 1)
    costs = [
        w * (math.log(1 + math.exp(v)) - t * v)
        for v, t, w in zip(x.flat, targets.flat, weights.flat, strict=True)
    ]
    want = 0 if none else sum(costs) / weights.sum()
    layer = SigmoidCrossEntropyLoss()
    (loss,) = check_layer(layer, [x, targets, weights]).tops
    assert loss == pytest.approx(want)
    check_lowering(layer, [x, targets, weights])


def test_weights_of_sigmoid_cross_entropy_that_do_not_fit() -> None:
    with pytest.raises(Refusal, match="scores and weights differ"):
        SigmoidCrossEntropyLoss().infer(*map(BlobType, [(3, 4), (3, 4), (3, 1)]))
    with pytest.raises(Refusal, match="ignore_label is not read"):
        SigmoidCrossEntropyLoss(ignore_label=1).infer(*[BlobType((3, 4))] * 3)
