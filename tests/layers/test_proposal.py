"""Proposal and the targets of Faster R-CNN: against plain loops over the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.errors import NetcError
from netc.layers.proposal import (
    AnchorTarget,
    Proposal,
    ProposalTarget,
    anchors,
    decode,
    encode,
    overlaps,
    suppress,
)
from netc.layers.types import BlobType, ForwardCall, Layer, Phase, Refusal
from tests.support.audit import definition
from tests.support.layer_harness import check_layer, forward
from tests.support.lowering import check_lowering
from tests.support.nets import executor_of, graph_of

# The nine of the paper, counted from pixel 0.
USUAL = [
    [-84, -40, 99, 55],
    [-176, -88, 191, 103],
    [-360, -184, 375, 199],
    [-56, -56, 71, 71],
    [-120, -120, 135, 135],
    [-248, -248, 263, 263],
    [-36, -80, 51, 95],
    [-80, -168, 95, 183],
    [-168, -344, 183, 359],
]
BOTH = ("rois", "scores")


def iou(a, b) -> float:
    w = min(a[2], b[2]) - max(a[0], b[0]) + 1
    h = min(a[3], b[3]) - max(a[1], b[1]) + 1
    shared = max(w, 0) * max(h, 0)
    areas = [(c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b)]
    return shared / (sum(areas) - shared)


def all_anchors(layer, height, width):
    """Return (row, column, anchor, box) of each anchor, in the order of the layer's rows."""
    shapes = anchors(layer.base_size, layer.ratio or (0.5, 1, 2), layer.scale or (8, 16, 32))
    if layer.anchor:
        shapes = np.reshape(layer.anchor, (-1, 4)).tolist()
    for y in range(height):
        for x in range(width):
            for k, box in enumerate(shapes):
                dx, dy = x * layer.feat_stride, y * layer.feat_stride
                yield y, x, k, (box[0] + dx, box[1] + dy, box[2] + dx, box[3] + dy)


@definition("Proposal")
def proposals(layer, scores, deltas, info):
    """Return the rows (score, box) that the definition gives."""
    found = []
    high, wide, zoom = info.ravel()[:3]
    for y, x, k, (x1, y1, x2, y2) in all_anchors(layer, *scores.shape[2:]):
        dx, dy, dw, dh = deltas[0, 4 * k : 4 * k + 4, y, x]
        w, h = x2 - x1 + 1, y2 - y1 + 1
        cx, cy = x1 + w / 2 + dx * w, y1 + h / 2 + dy * h
        w, h = w * math.exp(dw), h * math.exp(dh)
        box = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
        box = [max(min(v, m - 1), 0) for v, m in zip(box, (wide, high) * 2, strict=True)]
        least = layer.min_size * zoom
        if box[2] - box[0] + 1 >= least and box[3] - box[1] + 1 >= least:
            found.append((scores[0, layer.n_anchors + k, y, x], box))
    found.sort(key=lambda row: -row[0])
    kept = []
    for score, box in found[: layer.pre_nms_topn or None]:
        if all(iou(box, other) <= layer.nms_thresh for _, other in kept):
            kept.append((score, box))
    return kept[: layer.post_nms_topn or None]


def net_says(layer, height, width, seed=0):
    rng = np.random.default_rng(seed)
    a = layer.n_anchors
    scores = rng.random((1, 2 * a, height, width))
    deltas = rng.normal(0, 0.3, (1, 4 * a, height, width))
    info = np.array([[height * layer.feat_stride, width * layer.feat_stride, 1.5]])
    return [scores, deltas, info]


def test_the_usual_anchors() -> None:
    found = np.array(anchors(16, (0.5, 1, 2), (8, 16, 32)))
    np.testing.assert_array_equal(found, np.array(USUAL))


def test_anchors_have_their_ratio_and_size() -> None:
    for box, (ratio, scale) in zip(
        anchors(16, (0.333, 1.5), (2, 5)),
        [(0.333, 2), (0.333, 5), (1.5, 2), (1.5, 5)],
        strict=True,
    ):
        width, height = box[2] - box[0] + 1, box[3] - box[1] + 1
        assert (box[0] + box[2], box[1] + box[3]) == (15, 15)
        assert height / width == pytest.approx(ratio, rel=0.05)  # sides are whole pixels
        assert width * height == pytest.approx((16 * scale) ** 2, rel=0.05)


def test_overlaps_count_both_corners() -> None:
    a, b = np.array([[0, 0, 9, 9.0]]), np.array([[5, 0, 14, 9], [0, 0, 9, 9], [20, 0, 29, 9.0]])
    np.testing.assert_allclose(overlaps(np, a, b), [[1 / 3, 1, 0]])


@settings(deadline=None)
@given(st.integers(0, 9999))
def test_decode_undoes_encode(seed: int) -> None:
    """Encoding measures both corners in, decoding lets them lie a pixel further out."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 50, (2, 6, 2))
    boxes, targets = np.concatenate([corners, corners + rng.uniform(1, 50, (2, 6, 2))], axis=2)
    found = decode(np, boxes, encode(np, boxes, targets))
    np.testing.assert_allclose(found, targets + np.array([0, 0, 1, 1]), atol=1e-9)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 9999), st.sampled_from([0.0, 0.3, 0.7, 1.0]), st.integers(0, 9))
def test_suppression_is_greedy(seed: int, threshold: float, most: int) -> None:
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 20, (12, 2))
    boxes = np.concatenate([low, low + rng.integers(1, 20, (12, 2))], axis=1).astype(float)
    want: list[int] = []
    for i, box in enumerate(boxes):
        if all(iou(box, boxes[j]) <= threshold for j in want):
            want.append(i)
    assert suppress(np, boxes, threshold, most) == want[:most]


SMALL = Proposal(
    feat_stride=8,
    base_size=8,
    ratio=(0.5, 1.0),
    scale=(1.0, 3.0),
    min_size=4,
    post_nms_topn=12,
    top=BOTH,
)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"post_nms_topn": 0},
        {"post_nms_topn": 500},
        {"pre_nms_topn": 20},
        {"pre_nms_topn": 0, "nms_thresh": 0.3},
        {"min_size": 14},
        {"min_size": 1000},
        {"nms_thresh": 1.0},
        {"top": ("rois",)},
    ],
)
def test_proposals(settings: dict[str, object]) -> None:
    layer = Proposal(**{**vars(SMALL), **settings})
    bottoms = net_says(layer, 5, 6)
    run = check_layer(layer, bottoms, gradient=False)
    want = proposals(layer, *bottoms)
    count = 5 * 6 * 4
    rows = min(layer.post_nms_topn or count, layer.pre_nms_topn or count, count)
    assert run.tops[0].shape == (rows, 5) and len(want) <= rows
    for i in range(rows):
        box = want[i][1] if i < len(want) else [0] * 4
        np.testing.assert_allclose(run.tops[0][i], [0, *box], atol=1e-9)
        if len(run.tops) > 1:
            assert run.tops[1][i, 0] == (want[i][0] if i < len(want) else 0)
    operators = check_lowering(layer, bottoms)
    assert "NonMaxSuppression" in operators and "TopK" in operators


def test_equal_probabilities_keep_their_order() -> None:
    layer = Proposal(**{**vars(SMALL), "nms_thresh": 1.0})
    scores, deltas, info = net_says(layer, 2, 2)
    run = check_layer(layer, [np.ones_like(scores), deltas * 0, info], gradient=False)
    want = [box for _, box in proposals(layer, np.ones_like(scores), deltas * 0, info)]
    np.testing.assert_allclose(run.tops[0][: len(want), 1:], want)
    check_lowering(layer, [np.ones_like(scores), deltas * 0, info])


def test_a_caller_without_buffers_gets_the_rows_there_are() -> None:
    layer = Proposal(**{**vars(SMALL), "nms_thresh": 0.1, "post_nms_topn": 90})
    bottoms = net_says(layer, 5, 6)
    call = ForwardCall(np, tuple(bottoms), (), (), (), lambda: np.random.default_rng(0))
    rows, scores = layer.forward(call)
    assert len(rows) == len(scores) == len(proposals(layer, *bottoms)) < layer.post_nms_topn


def test_more_values_of_the_image_are_not_read() -> None:
    scores, deltas, info = net_says(SMALL, 3, 3)
    long = np.concatenate([info, np.full((1, 3), np.nan)], axis=1)
    np.testing.assert_array_equal(
        forward(SMALL, [scores, deltas, long]).tops[0],
        forward(SMALL, [scores, deltas, info]).tops[0],
    )


TARGET = AnchorTarget(feat_stride=8, base_size=8, ratio=(0.5, 1.0), scale=(1.0, 2.0, 3.0))


def truth(*boxes) -> np.ndarray:
    return np.array(boxes, float).reshape(-1, 5)


TRUTH = truth([3, 4, 20, 25, 2], [14, 14, 40, 38, 1], [30, 2, 45, 20, 5])


@definition("AnchorTarget")
def anchor_labels(layer, boxes, info):
    """Return label and nearest box for each anchor before any choice, None outside the image."""
    high, wide = info.ravel()[:2]
    every = [box for *_, box in all_anchors(layer, 6, 7)]
    border = layer.allowed_border
    inside = [
        b[0] >= -border and b[1] >= -border and b[2] < wide + border and b[3] < high + border
        for b in every
    ]
    table = [[iou(b, t) for t in boxes] for b in every]
    best = [max(t[j] for t, i in zip(table, inside, strict=True) if i) for j in range(len(boxes))]
    found = []
    for row, i in zip(table, inside, strict=True):
        if not i:
            found.append(None)
            continue
        most = max(row)
        is_most = any(v == b for v, b in zip(row, best, strict=True))
        foreground = is_most or most >= layer.positive_overlap
        background = most < layer.negative_overlap
        if layer.clobber_positives:
            label = 0 if background else 1 if foreground else -1
        else:
            label = 1 if foreground else 0 if background else -1
        found.append((label, row.index(most)))
    return every, found


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"allowed_border": 6},
        {"clobber_positives": True, "negative_overlap": 0.55},
        {"bbox_inside_weights": (1.0, 2.0, 3.0, 4.0), "positive_weight": 0.25},
    ],
)
def test_anchor_targets(settings: dict[str, object]) -> None:
    layer = AnchorTarget(**{**vars(TARGET), **settings})
    info = np.array([[48, 56, 1.0]])
    maps = np.zeros((1, 2 * layer.n_anchors, 6, 7))
    padded = np.concatenate([TRUTH, np.zeros((2, 5))])
    run = check_layer(layer, [maps, padded, info, np.zeros((1, 3, 48, 56))], gradient=False)
    labels, targets, inner, outer = run.tops
    _, want = anchor_labels(layer, TRUTH, info)
    count = layer.n_anchors
    labels = labels.reshape(count, 6, 7)
    chosen = [(w or (-1, 0))[0] for w in want]
    assert {-1, 0, 1} <= set(chosen) and chosen.count(1) <= 128  # nothing is left out by chance
    n_one, n_zero = chosen.count(1), chosen.count(0)
    for (y, x, k, box), found, label in zip(all_anchors(layer, 6, 7), want, chosen, strict=True):
        assert labels[k, y, x] == label
        at = np.s_[0, 4 * k : 4 * k + 4, y, x]
        if found is None:
            assert not targets[at].any() and not outer[at].any()
            continue
        t = TRUTH[found[1]]
        w, h, tw, th = box[2] - box[0] + 1, box[3] - box[1] + 1, t[2] - t[0] + 1, t[3] - t[1] + 1
        shift = [
            (t[0] + tw / 2 - box[0] - w / 2) / w,
            (t[1] + th / 2 - box[1] - h / 2) / h,
            math.log(tw / w),
            math.log(th / h),
        ]
        np.testing.assert_allclose(targets[at], shift, atol=1e-12)
        weights = layer.bbox_inside_weights or (1, 1, 1, 1)
        np.testing.assert_array_equal(inner[at], weights if label == 1 else [0] * 4)
        if layer.positive_weight > 0:
            share = {1: 0.25 / n_one, 0: 0.75 / n_zero, -1: 0}[label]
        else:
            share = 0 if label == -1 else 1 / (n_one + n_zero)
        np.testing.assert_allclose(outer[at], share)


def test_too_many_anchors_are_chosen_from_at_random() -> None:
    info = np.array([[48, 56, 1.0]])
    maps = np.zeros((1, 12, 6, 7))
    layer = AnchorTarget(**{**vars(TARGET), "batch_size": 10, "fg_fraction": 0.2})
    _, want = anchor_labels(layer, TRUTH, info)
    every = np.array([(w or (-1, 0))[0] for w in want]).reshape(6, 7, 6).transpose(2, 0, 1)
    seen = set()
    for seed in range(5):
        [labels, *_] = forward(layer, [maps, TRUTH, info], seed=seed).tops
        labels = labels.reshape(6, 6, 7)
        assert (labels == 1).sum() == 2 and (labels == 0).sum() == 8
        assert (every[labels == 1] == 1).all() and (every[labels == 0] == 0).all()
        seen.add(labels.tobytes())
    assert len(seen) == 5


def test_with_probabilities_the_worst_anchors_are_chosen() -> None:
    info = np.array([[48, 56, 1.0]])
    maps = np.zeros((1, 12, 6, 7))
    layer = AnchorTarget(**{**vars(TARGET), "batch_size": 10, "fg_fraction": 0.2})
    every, want = anchor_labels(layer, TRUTH, info)
    probabilities = np.random.default_rng(0).random((1, 12, 6, 7))
    scores = probabilities[0, 6:].transpose(1, 2, 0).ravel()
    chosen = {}
    for label, sign, count in ((1, 1, 2), (0, -1, 8)):
        own = [i for i, w in enumerate(want) if w and w[0] == label]
        chosen |= dict.fromkeys(sorted(own, key=lambda i: sign * scores[i])[:count], label)
    bottoms = [maps, TRUTH, info, np.zeros((1, 3, 48, 56)), probabilities]
    [labels, *_] = check_layer(layer, bottoms, gradient=False).tops
    labels = labels.reshape(6, 6, 7).transpose(1, 2, 0).ravel()
    assert [chosen.get(i, -1) for i in range(len(every))] == list(labels)
    with pytest.raises(Refusal, match="probabilities do not fit"):
        layer.infer(*(BlobType(b.shape) for b in [*bottoms[:4], maps[:, :5]]))


def test_a_box_of_the_truth_may_have_no_anchor() -> None:
    info, maps = np.array([[48, 56, 1.0]]), np.zeros((1, 12, 6, 7))
    small = truth([20, 20, 24, 24, 1])
    for each_truth in (True, False):
        layer = AnchorTarget(**{**vars(TARGET), "each_truth": each_truth})
        labels = forward(layer, [maps, small, info]).tops[0]
        assert bool((labels == 1).any()) is each_truth


def test_where_no_anchor_lies_in_the_image_all_do() -> None:
    layer = AnchorTarget(feat_stride=8, base_size=8, ratio=(1.0,), scale=(32.0,))
    labels = forward(layer, [np.zeros((1, 2, 2, 2)), TRUTH, np.array([[16, 16, 1.0]])]).tops[0]
    assert (labels >= 0).all()


def test_an_image_without_boxes_is_background() -> None:
    maps, info = np.zeros((1, 12, 6, 7)), np.array([[48, 56, 1.0]])
    labels, targets, inner, _ = forward(TARGET, [maps, np.zeros((3, 5)), info]).tops
    assert set(np.unique(labels)) == {-1, 0} and not targets.any() and not inner.any()


REGIONS = np.array(
    [
        [0, 2, 4, 21, 24],
        [0, 12, 12, 41, 36],
        [0, 10, 2, 30, 20],
        [0, 31, 3, 46, 19],
        [0, 0, 30, 12, 45],
        [0, 14, 20, 28, 44],
        [0, 0, 0, 0, 0],
    ],
    float,
)


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
@definition("ProposalTarget")
def test_proposal_targets_of_all_regions(agnostic: bool, normalize: bool) -> None:
    layer = ProposalTarget(
        num_classes=2 if agnostic else 6,
        batch_size=-1,
        agnostic=agnostic,
        bbox_normalize_targets=normalize,
        bbox_normalize_means=(0.1, 0.2, 0.3, 0.4),
        bbox_inside_weights=(1, 2, 0, 4),
    )
    padded = np.concatenate([TRUTH, np.zeros((1, 5))])
    run = check_layer(layer, [REGIONS, padded], gradient=False)
    rows = [*REGIONS[:-1], *([0, *t[:4]] for t in TRUTH)]
    table = [[iou(r[1:], t) for t in TRUTH] for r in rows]
    foreground = [i for i, row in enumerate(table) if max(row) >= 0.5]
    background = [i for i, row in enumerate(table) if 0.1 <= max(row) < 0.5]
    assert len(foreground) > 3 and background  # the regions of the net, not only the truth
    order = [*foreground, *background]
    rois, labels, targets, inner, outer = run.tops
    assert rois.shape == (11, 5) and labels.shape == (11, 1, 1, 1)
    for i in range(11):
        which = i % len(order)  # filled up with the same again
        row = rows[order[which]]
        np.testing.assert_array_equal(rois[i], row)
        want, weights = np.zeros((layer.num_classes, 4)), np.zeros((layer.num_classes, 4))
        label = 0
        if which < len(foreground):
            t = TRUTH[int(np.argmax(table[order[which]]))]
            label = int(t[4])
            shift = encode(np, np.array([row[1:]]), t[None])[0]
            if normalize:
                shift = (shift - [0.1, 0.2, 0.3, 0.4]) / [0.1, 0.1, 0.2, 0.2]
            want[1 if agnostic else label] = shift
            weights[1 if agnostic else label] = (1, 2, 0, 4)
        assert labels[i] == label
        np.testing.assert_allclose(targets[i], want.ravel(), atol=1e-12)
        np.testing.assert_array_equal(inner[i], weights.ravel())
    np.testing.assert_array_equal(outer, inner > 0)


def test_a_batch_is_chosen_at_random() -> None:
    layer = ProposalTarget(num_classes=6, batch_size=4, fg_fraction=0.5)
    seen = set()
    for seed in range(8):
        rois, labels, *_ = forward(layer, [REGIONS, TRUTH], seed=seed).tops
        assert (labels[:2] > 0).all() and not labels[2:].any()
        assert len(np.unique(rois[:2], axis=0)) == 2
        seen.add(rois.tobytes())
    assert len(seen) > 2
    check_layer(layer, [REGIONS, TRUTH], gradient=False)
    check_layer(layer, [REGIONS[..., None, None], TRUTH[..., None, None]], gradient=False)


def test_a_batch_without_a_region_weighs_nothing() -> None:
    layer = ProposalTarget(num_classes=6, batch_size=4)
    for top in check_layer(layer, [np.zeros((3, 5)), np.zeros((2, 5))], gradient=False).tops:
        assert not top.any()
    tops = forward(layer, [REGIONS, np.zeros((2, 5))]).tops
    assert not any(top.any() for top in tops)
    layer = ProposalTarget(num_classes=6, batch_size=4, bg_thresh_lo=0.0)
    rois, labels, *weights = forward(layer, [REGIONS, np.zeros((2, 5))]).tops
    assert rois.any(axis=1).all() and not labels.any() and not any(w.any() for w in weights)


def with_(layer: Layer, **settings: object) -> Layer:
    return type(layer)(**{**vars(layer), **settings})


PROPOSAL = ((1, 8, 4, 5), (1, 16, 4, 5), (1, 3))
ANCHOR = ((1, 12, 4, 5), (2, 5), (1, 3), (1, 3, 32, 40))
SECOND = ((9, 5), (2, 5))
K6 = ProposalTarget(num_classes=6)


@pytest.mark.parametrize(
    ("layer", "shapes", "setting"),
    [
        (with_(SMALL, scale=()), PROPOSAL, "bottom"),
        (with_(SMALL, scale=(1.0,)), PROPOSAL, "scale"),
        (with_(SMALL, scale=(1.0, 0.0)), PROPOSAL, "scale.1"),
        (with_(SMALL, ratio=(-1.0, 1.0)), PROPOSAL, "ratio.0"),
        (with_(SMALL, feat_stride=0), PROPOSAL, "feat_stride"),
        (with_(SMALL, nms_thresh=1.5), PROPOSAL, "nms_thresh"),
        (SMALL, ((2, 8, 4, 5), (2, 16, 4, 5), (2, 3)), "bottom"),
        (SMALL, ((1, 8, 4, 5), (1, 16, 4, 6), (1, 3)), "bottom"),
        (SMALL, ((1, 8, 4), (1, 16, 4, 6), (1, 3)), "bottom"),
        (SMALL, ((1, 8, 4, 5), (1, 16, 4, 5), (1, 2)), "bottom"),
        (with_(TARGET, positive_weight=1.0), ANCHOR, "positive_weight"),
        (with_(TARGET, batch_size=0), ANCHOR, "batch_size"),
        (with_(TARGET, fg_fraction=2.0), ANCHOR, "fg_fraction"),
        (with_(TARGET, bbox_inside_weights=(1.0,)), ANCHOR, "bbox_inside_weights"),
        (TARGET, ((1, 12, 4, 5), (2, 3), (1, 3)), "bottom"),
        (TARGET, ((2, 12, 4, 5), (2, 5), (1, 3)), "bottom"),
        (ProposalTarget(), SECOND, "num_classes"),
        (with_(K6, batch_size=0), SECOND, "batch_size"),
        (with_(K6, bbox_normalize_stds=(1.0, 1.0, 0.0, 1.0)), SECOND, "bbox_normalize_stds.2"),
        (with_(K6, bbox_normalize_means=(1.0,)), SECOND, "bbox_normalize_means"),
        (with_(K6, bg_thresh_lo=-1.0), SECOND, "bg_thresh_lo"),
        (K6, ((9, 4), (2, 5)), "bottom"),
        (K6, ((9, 5), (2, 6)), "bottom"),
        (K6, ((9, 5), (2, 3)), "bottom"),
    ],
)
def test_refused(layer: Layer, shapes: tuple[tuple[int, ...], ...], setting: str) -> None:
    with pytest.raises(Refusal) as error:
        layer.infer(*map(BlobType, shapes))
    assert error.value.setting == setting
    assert error.value.expected and str(error.value.got)


@pytest.mark.parametrize("label", [0, 6, -1])
def test_a_class_that_is_not_there_is_refused(label: int) -> None:
    with pytest.raises(Refusal, match="has no class of this layer"):
        forward(K6, [REGIONS, truth([1, 1, 5, 5, label])])


def test_a_second_image_is_refused() -> None:
    regions = REGIONS.copy()
    regions[2, 0] = 1
    with pytest.raises(Refusal, match="belongs to a second image"):
        forward(K6, [regions, TRUTH])


def test_targets_do_not_export() -> None:
    with pytest.raises(NetcError, match="belong to training"):
        check_lowering(K6, [np.ones(s) for s in SECOND])
    with pytest.raises(NetcError, match="belong to training"):
        check_lowering(TARGET, [np.ones(s) for s in ANCHOR])


NET = """
layer { name: "in" type: "Input" top: "data" top: "im_info" top: "gt_boxes"
  input_param { shape { dim: 1 dim: 3 dim: 48 dim: 56 } shape { dim: 1 dim: 3 }
                shape { dim: 3 dim: 5 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 12 kernel_size: 8 stride: 8 weight_filler { type: "xavier" } } }
layer { name: "obj" type: "Convolution" bottom: "conv" top: "obj"
  convolution_param { num_output: 12 kernel_size: 1 weight_filler { type: "xavier" } } }
layer { name: "box" type: "Convolution" bottom: "conv" top: "box"
  convolution_param { num_output: 24 kernel_size: 1 weight_filler { type: "gaussian" std: 0.01 } } }
layer { name: "obj2" type: "Reshape" bottom: "obj" top: "obj2"
  reshape_param { shape { dim: 0 dim: 2 dim: -1 dim: 0 } } }
layer { name: "target" type: "AnchorTarget" bottom: "obj" bottom: "gt_boxes" bottom: "im_info"
  bottom: "data" top: "labels" top: "t" top: "w_in" top: "w_out"
  anchor_target_param { feat_stride: 8 base_size: 8 ratio: 0.5 ratio: 1
                        scale: 1 scale: 2 scale: 3 } }
layer { name: "cls" type: "SoftmaxWithLoss" bottom: "obj2" bottom: "labels" top: "loss_obj"
  propagate_down: true propagate_down: false loss_param { ignore_label: -1 } }
layer { name: "reg" type: "SmoothL1Loss" bottom: "box" bottom: "t" bottom: "w_in" bottom: "w_out"
  top: "loss_box" smooth_l1_loss_param { sigma: 3 } }
layer { name: "prob" type: "Softmax" bottom: "obj2" top: "prob2" }
layer { name: "prob1" type: "Reshape" bottom: "prob2" top: "prob"
  reshape_param { shape { dim: 0 dim: 12 dim: -1 dim: 0 } } }
layer { name: "proposal" type: "Proposal" bottom: "prob" bottom: "box" bottom: "im_info"
  top: "regions" proposal_param { feat_stride: 8 base_size: 8 ratio: 0.5 ratio: 1
    scale: 1 scale: 2 scale: 3 min_size: 2 post_nms_topn: 40 } }
layer { name: "choose" type: "ProposalTarget" bottom: "regions" bottom: "gt_boxes" top: "rois"
  top: "classes" top: "t2" top: "w_in2" top: "w_out2"
  proposal_target_param { num_classes: 6 batch_size: 16 } }
layer { name: "pool" type: "ROIPooling" bottom: "conv" bottom: "rois" top: "pool"
  roi_pooling_param { pooled_h: 2 pooled_w: 2 spatial_scale: 0.125 } }
layer { name: "score" type: "InnerProduct" bottom: "pool" top: "score"
  inner_product_param { num_output: 6 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "classes" top: "loss" }
layer { name: "shift" type: "InnerProduct" bottom: "pool" top: "shift"
  inner_product_param { num_output: 24 weight_filler { type: "xavier" } } }
layer { name: "loss2" type: "SmoothL1Loss" bottom: "shift" bottom: "t2" bottom: "w_in2"
  bottom: "w_out2" top: "loss2" }
"""


def test_faster_rcnn_of_a_few_layers_trains() -> None:
    """The wiring of the published nets, end to end; with every loss going down."""
    net = executor_of(graph_of(NET, Phase.TRAIN), keep="all")
    rng = np.random.default_rng(0)
    net.data("data")[...] = rng.standard_normal((1, 3, 48, 56))
    net.data("im_info")[...] = [[48, 56, 1]]
    net.data("gt_boxes")[...] = TRUTH
    net.fill_params()
    losses = []
    for _ in range(30):
        net.forward()
        losses.append([float(net.data(k)) for k in ("loss_obj", "loss_box", "loss", "loss2")])
        net.backward()
        for i, diff in enumerate(net.param_diffs):
            net.set_param(i, net.param_array(i) - 0.05 * diff)
        net.clear_param_diffs()
    first, last = np.mean(losses[:3], axis=0), np.mean(losses[-3:], axis=0)
    assert np.isfinite(losses).all() and (last < first).all(), (first, last)


@pytest.mark.parametrize(("layer", "first"), [(K6, (9, 5)), (TARGET, ANCHOR[0])])
def test_truth_without_classes_passes_until_there_is_an_image(
    layer: Layer, first: tuple[int, ...]
) -> None:
    # The data layer of py-faster-rcnn shows (1, 4) before its first image.
    rest = [np.zeros(shape) for shape in (ANCHOR[2:] if layer is TARGET else ())]
    bottoms = [np.zeros(first), np.ones((1, 4)), *rest]
    layer.infer(*(BlobType(b.shape) for b in bottoms))
    with pytest.raises(Refusal, match="the ground truth has no classes"):
        forward(layer, bottoms)
