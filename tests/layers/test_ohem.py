"""SmoothL1Loss and the mining of hard examples: against loops over the definition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.errors import NetcError
from netc.layers.labels import Divisor
from netc.layers.losses import SoftmaxWithLoss
from netc.layers.ohem import (
    BoxAnnotatorOHEM,
    HardRegions,
    SmoothL1Loss,
    SmoothL1LossOHEM,
    SoftmaxWithLossOHEM,
)
from netc.layers.softmax import Softmax
from netc.layers.types import BlobType, ForwardCall, Layer, Refusal
from tests.layers.test_proposal import iou
from tests.support.audit import definition
from tests.support.layer_harness import check_layer, distinct, forward, smooth
from tests.support.lowering import check_lowering
from tests.support.nets import executor_of, graph_of

TWO = ("loss", "each")
THREE = ("loss", "prob", "each")


def cost(d: float, sigma: float = 1) -> float:
    if abs(d) < 1 / sigma**2:
        return (sigma * d) ** 2 / 2
    return abs(d) - 1 / (2 * sigma**2)


@pytest.mark.parametrize("sigma", [0.5, 1, 3])
@definition("SmoothL1Loss")
def test_smooth_l1_is_its_definition(sigma: float) -> None:
    x, t = 3 * smooth(4, 3, seed=1), smooth(4, 3, seed=2)
    inside, outside = smooth(4, 3, seed=3), smooth(4, 3, seed=4)
    plain = sum(cost(a - b, sigma) for a, b in zip(x.flat, t.flat, strict=True)) / 4
    assert forward(SmoothL1Loss(sigma=sigma), [x, t]).tops[0] == pytest.approx(plain)
    weighted = sum(
        v * cost(w * (a - b), sigma)
        for a, b, w, v in zip(x.flat, t.flat, inside.flat, outside.flat, strict=True)
    )
    bottoms = [x, t, inside, outside]
    assert forward(SmoothL1Loss(sigma=sigma), bottoms).tops[0] == pytest.approx(weighted / 4)
    layer = SmoothL1Loss(sigma=sigma, normalization=Divisor.NONE)
    assert forward(layer, bottoms).tops[0] == pytest.approx(weighted)
    inside_alone = sum(
        cost(w * (a - b), sigma) for a, b, w in zip(x.flat, t.flat, inside.flat, strict=True)
    )
    assert forward(layer, bottoms[:3]).tops[0] == pytest.approx(inside_alone)


@pytest.mark.parametrize("sigma", [1, 3])
@pytest.mark.parametrize("mode", [None, Divisor.NONE, Divisor.VALID])
def test_smooth_l1_rules_agree(sigma: float, mode: Divisor | None) -> None:
    layer = SmoothL1Loss(sigma=sigma, normalization=mode)
    x, t = 3 * distinct(2, 3, 2, 2), smooth(2, 3, 2, 2)
    check_layer(layer, [x, t])
    check_lowering(layer, [x, t])
    weights = [smooth(2, 3, 2, 2, seed=s) for s in (1, 2)]
    for n_weights in (1, 2):
        check_layer(layer, [x, t, *weights[:n_weights]])
        check_lowering(layer, [x, t, *weights[:n_weights]])


@pytest.mark.parametrize("axes", [2, 4])
def test_what_each_region_costs_with_both_weights(axes: int) -> None:
    shape = (4, 3, 2, 2)[:axes]
    layer = SmoothL1Loss(sigma=2, bottom=tuple("abcd"), top=("loss", "each"))
    assert layer.resolve(None) is layer
    assert replace(layer, bottom=tuple("abc"), sigma=1).resolve(None) != layer
    bottoms = [3 * distinct(*shape), *(smooth(*shape, seed=s) for s in (1, 2, 3))]
    run = check_layer(layer, bottoms)
    x, t, inside, outside = bottoms
    each = outside * np.vectorize(lambda d: cost(d, 2))(inside * (x - t))
    each = each.reshape((*shape, 1, 1)[:4]).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(run.tops[1], each)
    assert run.tops[0] == pytest.approx(each.sum() / 4)
    check_lowering(layer, bottoms)
    text = "".join(f'input: "{name}" input_shape {{ dim: 4 dim: 6 }}\n' for name in "abcd")
    graph = graph_of(
        text + 'layer { name: "loss" type: "SmoothL1Loss" bottom: "a" bottom: "b" bottom: "c" '
        'bottom: "d" top: "loss" top: "each" loss_weight: 1 loss_weight: 0 }'
    )
    assert graph.blobs["each"].shape == (4, 1, 1, 1)


def test_trailing_axes_of_size_one_do_not_matter() -> None:
    x, t = 2 * distinct(4, 6), smooth(4, 6)
    flat = forward(SmoothL1Loss(), [x, t]).tops[0]
    run = check_layer(SmoothL1Loss(), [x[..., None, None], t])
    assert run.tops[0] == flat
    check_lowering(SmoothL1Loss(), [x[..., None, None], t])


@pytest.mark.parametrize(
    "layer",
    [
        SoftmaxWithLossOHEM(top=THREE),
        SoftmaxWithLossOHEM(top=THREE, ignore_label=-1),
        SoftmaxWithLossOHEM(top=THREE, ignore_label=2, normalize=False),
        SoftmaxWithLossOHEM(top=THREE[:2], normalization=Divisor.NONE),
        SoftmaxWithLossOHEM(normalization=Divisor.PRE_FIXED, pre_fixed_normalizer=7),
        SoftmaxWithLossOHEM(top=THREE, normalization=Divisor.FULL, ignore_label=0),
        SoftmaxWithLossOHEM(top=THREE, normalization=Divisor.BATCH_SIZE),
    ],
)
@pytest.mark.parametrize("inner", [(), (2, 2)])
@definition("SoftmaxWithLossOHEM")
def test_softmax_rules_agree(layer: SoftmaxWithLossOHEM, inner: tuple[int, ...]) -> None:
    x = smooth(4, 3, *inner)
    labels = np.random.default_rng(0).integers(0, 3, (4, 1, *inner)).astype(float)
    if layer.ignore_label == -1:
        labels[1] = -1
    run = check_layer(layer, [x, labels])
    check_lowering(layer, [x, labels])
    e = np.exp(x)
    p = e / e.sum(axis=1, keepdims=True)
    flat = np.moveaxis(p, 1, -1).reshape(-1, 3)
    costs = np.array(
        [
            0 if label == layer.ignore_label else -np.log(flat[i, int(label)])
            for i, label in enumerate(labels.flat)
        ]
    )
    counted = labels.size if layer.ignore_label is None else (labels != layer.ignore_label).sum()
    divisor = {
        Divisor.VALID: counted,
        Divisor.FULL: labels.size,
        Divisor.BATCH_SIZE: 4,
        Divisor.NONE: 1,
        Divisor.PRE_FIXED: 7,
    }[layer.mode]
    assert run.tops[0] == pytest.approx(costs.sum() / divisor)
    if len(run.tops) > 2:
        np.testing.assert_allclose(run.tops[2].ravel(), costs, atol=1e-12)


@pytest.mark.parametrize("normalize", [None, True, False])
def test_softmax_is_that_without_mining(normalize: bool | None) -> None:
    x, labels = smooth(5, 4), np.array([0, 3, -1, 2, 1.0])
    mined = SoftmaxWithLossOHEM(ignore_label=-1, normalize=normalize)
    plain = SoftmaxWithLoss(ignore_label=-1, normalize=normalize)
    runs = [forward(layer, [x, labels]) for layer in (mined, plain)]
    assert runs[0].tops[0] == pytest.approx(float(runs[1].tops[0]), rel=1e-12)
    first, second = (run.backward([np.float64(2)]).bottoms[0] for run in runs)
    np.testing.assert_allclose(first, second, rtol=1e-12)


def test_all_labels_ignored_cost_nothing() -> None:
    layer = SoftmaxWithLossOHEM(top=THREE, ignore_label=-1)
    run = forward(layer, [smooth(2, 3), np.array([-1.0, -1])])
    assert run.tops[0] == 0 and not run.tops[2].any()
    diffs = [np.ones_like(top) for top in run.tops]
    diffs[1][:] = 0
    assert not run.backward(diffs).bottoms[0].any()


@pytest.mark.parametrize(
    "layer",
    [
        SmoothL1LossOHEM(top=TWO),
        SmoothL1LossOHEM(normalize=False),
        SmoothL1LossOHEM(top=TWO, normalization=Divisor.NONE),
        SmoothL1LossOHEM(top=TWO, normalization=Divisor.PRE_FIXED, pre_fixed_normalizer=5),
    ],
)
@pytest.mark.parametrize("shape", [(3, 8), (3, 4, 2, 2)])
@definition("SmoothL1LossOHEM")
def test_smooth_l1_ohem_rules_agree(layer: SmoothL1LossOHEM, shape: tuple[int, ...]) -> None:
    x, t = 3 * distinct(*shape), smooth(*shape)
    weights = np.random.default_rng(0).integers(0, 2, shape).astype(float)
    for bottoms in ([x, t], [x, t, weights], [x, t, weights * 0.7]):
        run = check_layer(layer, bottoms)
        check_lowering(layer, bottoms)
        d = bottoms[0] - bottoms[1]
        if len(bottoms) > 2:
            d = d * bottoms[2]
        costs = np.array([cost(v) for v in d.flat]).reshape(shape)
        inner = costs[0, 0].size
        divisor = {
            Divisor.VALID: 3 * inner,
            Divisor.BATCH_SIZE: 3,
            Divisor.NONE: 1,
            Divisor.PRE_FIXED: 5,
        }[layer.mode]
        assert run.tops[0] == pytest.approx(costs.sum() / divisor)
        if len(run.tops) > 1:
            np.testing.assert_allclose(run.tops[1].ravel(), costs.sum(axis=1).ravel(), atol=1e-12)


@settings(deadline=None, max_examples=40)
@given(st.data())
@definition("BoxAnnotatorOHEM")
def test_the_worst_regions_of_each_image_are_chosen(data: st.DataObject) -> None:
    count, channels = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 3))
    h, w = data.draw(st.sampled_from([(1, 1), (1, 2), (2, 2)]))
    most = data.draw(st.integers(1, 4))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    regions = rng.integers(0, 3, (count, 5, h, w)).astype(float)
    costs = rng.integers(0, 4, (count, 1, h, w)).astype(float)  # with ties
    labels = rng.integers(0, 9, (count, 1, h, w)).astype(float)
    weights = rng.integers(1, 5, (count, channels, h, w)).astype(float)
    layer = BoxAnnotatorOHEM(roi_per_img=most, ignore_label=-1)
    run = check_layer(layer, [regions, costs, labels, weights], gradient=False)
    left = dict.fromkeys((0.0, 1.0, 2.0), most)
    want_labels, want_weights = np.full_like(labels, -1), np.zeros_like(weights)
    places = list(np.ndindex(count, h, w))
    for n, i, j in sorted(places, key=lambda p: -costs[p[0], 0, p[1], p[2]]):
        image = regions[n, 0, i, j]
        if left[image]:
            left[image] -= 1
            want_labels[n, 0, i, j] = labels[n, 0, i, j]
            want_weights[n, :, i, j] = weights[n, :, i, j]
    np.testing.assert_array_equal(run.tops[0], want_labels)
    np.testing.assert_array_equal(run.tops[1], want_weights)


def test_regions_of_two_axes_are_annotated() -> None:
    bottoms = [np.zeros((3, 5)), np.array([3, 1, 2.0]), np.array([7, 8, 9.0]), np.ones((3, 4))]
    run = check_layer(BoxAnnotatorOHEM(roi_per_img=2), bottoms, gradient=False)
    assert run.tops[0].shape == (3, 1, 1, 1) and run.tops[1].shape == (3, 4, 1, 1)
    assert run.tops[0].ravel().tolist() == [7, -1, 9]


@pytest.mark.parametrize(
    ("layer", "shapes", "setting"),
    [
        (SmoothL1Loss(), ((2, 4), (2, 4), (2, 5)), "bottom"),
        (SmoothL1Loss(), ((2, 4), (2, 5)), "bottom"),
        (SmoothL1Loss(), ((2, 4), (2, 4), (2, 4), (2, 4, 2)), "bottom"),
        (SmoothL1Loss(), ((1,) * 5, (1,) * 5), "bottom"),
        (SmoothL1Loss(sigma=0), ((2, 4), (2, 4)), "sigma"),
        (SmoothL1Loss(normalization=Divisor.PRE_FIXED), ((2, 4), (2, 4)), "normalization"),
        (SmoothL1LossOHEM(), ((2, 4), (2, 5)), "bottom"),
        (
            SmoothL1LossOHEM(normalization=Divisor.PRE_FIXED, pre_fixed_normalizer=0),
            ((2, 4), (2, 4)),
            "pre_fixed_normalizer",
        ),
        (SoftmaxWithLossOHEM(), ((2, 4), (3,)), "bottom"),
        (BoxAnnotatorOHEM(), ((2, 5), (2,), (2,), (2, 4)), "roi_per_img"),
        (BoxAnnotatorOHEM(roi_per_img=2), ((2, 4), (2,), (2,), (2, 4)), "bottom"),
        (BoxAnnotatorOHEM(roi_per_img=2), ((2, 5), (2, 2), (2,), (2, 4)), "bottom"),
        (BoxAnnotatorOHEM(roi_per_img=2), ((2, 5), (2,), (3,), (2, 4)), "bottom"),
    ],
)
def test_refused(layer: Layer, shapes: tuple[tuple[int, ...], ...], setting: str) -> None:
    with pytest.raises(Refusal) as error:
        layer.infer(*map(BlobType, shapes))
    assert error.value.setting == setting
    assert error.value.expected and error.value.got


def test_a_label_outside_is_refused() -> None:
    with pytest.raises(Refusal, match=r"label 3 is outside 0\.\.2"):
        forward(SoftmaxWithLossOHEM(), [smooth(1, 3), np.array([3.0])])


def test_mining_does_not_export() -> None:
    shapes = [np.zeros((3, 5)), np.ones(3), np.ones(3), np.ones((3, 4))]
    with pytest.raises(NetcError, match="belongs to training"):
        check_lowering(BoxAnnotatorOHEM(roi_per_img=2), shapes)


def test_what_stands_in_a_net_for_inference() -> None:
    assert SoftmaxWithLossOHEM(axis=2).deployed() == Softmax(axis=2)
    assert SmoothL1Loss().deployed() is None


MINING = """
layer { name: "in" type: "Input" top: "rois" top: "x" top: "labels" top: "targets" top: "inside"
  input_param { shape { dim: 6 dim: 5 } shape { dim: 6 dim: 3 }
                shape { dim: 6 dim: 1 dim: 1 dim: 1 } shape { dim: 6 dim: 8 }
                shape { dim: 6 dim: 8 } } }
layer { name: "score" type: "InnerProduct" bottom: "x" top: "score"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "box" type: "InnerProduct" bottom: "x" top: "box"
  inner_product_param { num_output: 8 weight_filler { type: "xavier" } } }
layer { name: "each_cls" type: "SoftmaxWithLossOHEM" bottom: "score" bottom: "labels"
  top: "t1" top: "t2" top: "c1" loss_weight: 0 loss_weight: 0 loss_weight: 0
  propagate_down: false propagate_down: false }
layer { name: "each_box" type: "SmoothL1LossOHEM" bottom: "box" bottom: "targets" bottom: "inside"
  top: "t3" top: "c2" loss_weight: 0 loss_weight: 0
  propagate_down: false propagate_down: false propagate_down: false }
layer { name: "each" type: "Eltwise" bottom: "c1" bottom: "c2" top: "costs"
  propagate_down: false propagate_down: false }
layer { name: "worst" type: "BoxAnnotatorOHEM" bottom: "rois" bottom: "costs" bottom: "labels"
  bottom: "inside" top: "labels_ohem" top: "weights_ohem"
  box_annotator_ohem_param { roi_per_img: 2 ignore_label: -1 }
  propagate_down: false propagate_down: false propagate_down: false propagate_down: false }
layer { name: "drop" type: "Silence" bottom: "t1" bottom: "t2" bottom: "t3" }
layer { name: "cls" type: "SoftmaxWithLossOHEM" bottom: "score" bottom: "labels_ohem" top: "l1"
  loss_weight: 1 loss_param { ignore_label: -1 } propagate_down: true propagate_down: false }
layer { name: "reg" type: "SmoothL1LossOHEM" bottom: "box" bottom: "targets"
  bottom: "weights_ohem" top: "l2" loss_weight: 1
  loss_param { normalization: PRE_FIXED pre_fixed_normalizer: 128 }
  propagate_down: true propagate_down: false propagate_down: false }
"""


def test_a_net_that_mines_trains_on_the_worst() -> None:
    """The wiring of R-FCN's nets: only two of the six regions have a gradient."""
    net = executor_of(graph_of(MINING), keep="all")
    rng = np.random.default_rng(0)
    for name in ("x", "targets"):
        net.data(name)[...] = rng.standard_normal(net.data(name).shape)
    net.data("inside")[...] = 1
    net.data("labels")[...] = rng.integers(0, 3, (6, 1, 1, 1))
    net.forward()
    net.backward()
    worst = np.sort(np.argsort(-net.data("costs").ravel())[:2])
    for name in ("score", "box"):
        changed = np.flatnonzero(np.abs(net.diff(name)).sum(axis=1))
        np.testing.assert_array_equal(changed, worst)


FIRST_FORM = """
    input: "x" input_shape { dim: 6 dim: 3 } input: "labels" input_shape { dim: 6 }
    input: "b" input_shape { dim: 6 dim: 8 } input: "t" input_shape { dim: 6 dim: 8 }
    input: "w" input_shape { dim: 6 dim: 8 }
    layer { name: "c" type: "SoftmaxWithLoss" bottom: "x" bottom: "labels" top: "loss_c"
      top: "prob" top: "each_c" loss_weight: 0 loss_weight: 0 loss_weight: 0
      loss_param { ignore_label: 2 normalization: BATCH_SIZE %s } }
    layer { name: "l" type: "SmoothL1Loss" bottom: "b" bottom: "t" bottom: "w" top: "loss_l"
      top: "each_l" loss_weight: 0 loss_weight: 0 }
    layer { name: "p" type: "SmoothL1Loss" bottom: "b" bottom: "t" bottom: "w" top: "loss"
      loss_param { normalization: PRE_FIXED pre_fixed_normalizer: 256 }
      smooth_l1_loss_param { %s } }
    """


def test_the_first_form_of_r_fcn_has_more_tops() -> None:
    layers = {node.name: node.layer for node in graph_of(FIRST_FORM % ("", "")).nodes}
    assert layers["c"] == SoftmaxWithLossOHEM(
        normalization=Divisor.BATCH_SIZE, top=("loss_c", "prob", "each_c"), ignore_label=2
    )
    assert layers["l"] == SmoothL1LossOHEM(top=("loss_l", "each_l"))
    assert layers["p"] == SmoothL1LossOHEM(Divisor.PRE_FIXED, None, 256, ("loss",))


def test_the_first_form_of_r_fcn_has_fewer_settings() -> None:
    with pytest.raises(NetcError, match="has no sigma"):
        graph_of(FIRST_FORM % ("", "sigma: 3"))
    with pytest.raises(NetcError, match="label_smoothing"):
        graph_of(FIRST_FORM % ("label_smoothing: 0.1", ""))


@definition("HardRegions")
def hard_regions(layer, prob, shifts, regions, labels, targets, inside, outside):
    """Return the indices of the regions that the definition chooses."""
    costs = []
    for i, label in enumerate(labels.astype(int)):
        total = -np.log(max(prob[i, label], 2.0**-52))
        for k in range(shifts.shape[1]):
            if label > 0 and inside[i, k]:
                total += outside[i, k] * cost(inside[i, k] * (shifts[i, k] - targets[i, k]))
        costs.append(total)
    kept: list[int] = []
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        alike = (j for j in kept if regions[j, 0] == regions[i, 0] and labels[j] == labels[i])
        if all(iou(regions[i, 1:], regions[j, 1:]) <= layer.nms_thresh for j in alike):
            kept.append(i)
    return kept[: layer.batch_size]


def regions_to_mine(count: int = 30, classes: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(4)
    low = rng.uniform(0, 12, (count, 2))
    boxes = np.concatenate([low, low + rng.uniform(10, 20, (count, 2))], axis=1)
    regions = np.concatenate([rng.integers(0, 2, (count, 1)), boxes], axis=1)
    inside = rng.integers(0, 2, (count, 4 * classes)) * 2.0
    return [
        rng.dirichlet(np.ones(classes), count), rng.normal(0, 1, (count, 4 * classes)), regions,
        rng.integers(0, classes, count) * 1.0, rng.normal(0, 1, (count, 4 * classes)), inside,
        rng.random((count, 4 * classes)),
    ]  # fmt: skip


@pytest.mark.parametrize(("batch_size", "nms_thresh"), [(8, 0.5), (8, 1.0), (30, 0.4)])
def test_hard_regions(batch_size: int, nms_thresh: float) -> None:
    layer, bottoms = HardRegions(batch_size, nms_thresh), regions_to_mine()
    chosen = hard_regions(layer, *bottoms)
    assert len(chosen) == 8 or batch_size == 30 > len(chosen)
    tops = check_layer(layer, bottoms, gradient=False).tops
    rows = [chosen[k % len(chosen)] for k in range(batch_size)]
    for top, bottom in zip(tops, bottoms[2:], strict=True):
        np.testing.assert_array_equal(top, bottom[rows])
    call = ForwardCall(np, tuple(bottoms), (), (), (), lambda: np.random.default_rng(0))
    assert [len(top) for top in layer.forward(call)] == [len(chosen)] * 5


def test_hard_regions_that_do_not_fit() -> None:
    types = [BlobType(bottom.shape) for bottom in regions_to_mine()]
    assert HardRegions().infer(*types).tops[0].shape == (30, 5)
    for index in (1, 4):
        with pytest.raises(Refusal, match=f"bottom {index} does not fit"):
            HardRegions().infer(*types[:index], BlobType((30, 11)), *types[index + 1 :])
    with pytest.raises(Refusal, match="one label for each region"):
        HardRegions().infer(*types[:3], BlobType((29,)), *types[4:])
    with pytest.raises(NetcError, match="export the net for testing"):
        check_lowering(HardRegions(), regions_to_mine())
