"""The types of MS-CNN: against loops over their definitions, and differences of the loss."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from netc.errors import NetcError
from netc.layers.mscnn import (
    BboxAccuracy,
    BoxGroupOutput,
    BoxGroupParam,
    BoxOutput,
    DecodeBBox,
    DetectionAccuracy,
    DetectionLoss,
)
from netc.layers.proposal import BBoxRegParam
from netc.layers.types import BlobType, ForwardCall, Phase, Refusal
from tests.support.audit import definition, note
from tests.support.layer_harness import Run, check_layer, forward, smooth
from tests.support.legal import fields
from tests.support.lowering import check_lowering
from tests.support.nets import graph_of

REG = BBoxRegParam((0.02, -0.03, 0.1, 0.05), (0.1, 0.2, 0.3, 0.4))
FIELD = {"cls_num": 3, "field_h": 12, "field_w": 8, "downsample_rate": 8, "bg_threshold": 0.4}
LOSS = DetectionLoss(**FIELD, sample_mode="all", lambda_=0.5)
SHARE = DetectionAccuracy(**FIELD)
MAPS = smooth(2, 7, 3, 4) * 2
LABELS = fields((2, 6, 3, 4), np.random.default_rng(1))
NOTHING = LABELS * np.array([0.0, 1, 1, 1, 1, 1])[:, None, None]


def limited(value: float, most: float) -> float:
    return min(max(value, -most), most)


def regression(layer) -> tuple[tuple[float, ...], ...]:
    reg = layer.bbox_reg_param
    return (reg.bbox_mean, reg.bbox_std) if reg.bbox_std else ((0.0,) * 4, (1.0,) * 4)


def positions(layer, maps: np.ndarray, labels: np.ndarray):
    """Image, row, column, class and overlap of each position."""
    for i, h, w in np.ndindex(len(maps), *maps.shape[2:]):
        label = int(labels[i, 0, h, w])
        yield i, h, w, min(label, 1) if layer.objectness else label, labels[i, 5, h, w]


@definition("DetectionLoss")
def loss(layer: DetectionLoss, maps, labels, at, chosen, limit_at) -> tuple[float, float]:
    """The two values of the top; positions `chosen` are the background that counts.

    Predictions are kept in limits as those of `limit_at` are: what the limits take away from these
    is taken away from `maps` too.
    """
    k = layer.cls_num
    weights, objects = {}, set()
    for i, h, w, label, overlap in at:
        if label:
            objects.add((i, h, w))
            weights[i, h, w] = overlap if layer.iou_weighted else 1.0
        elif (i, h, w) in chosen:
            weights[i, h, w] = 1.0
    if layer.pos_neg_weighted and objects:
        share = 1 / (1 + layer.bg_multiple)
        sums = [
            sum(v for p, v in weights.items() if (p in objects) is kind) for kind in (True, False)
        ]
        for p in weights:
            part, total = (share, sums[0]) if p in objects else (1 - share, sums[1])
            weights[p] *= part * len(weights) / total
    costs, boxes = [], []
    for i, h, w, label, _ in at:
        if (i, h, w) not in weights:
            continue
        scores = maps[i, :k, h, w]
        costs.append(weights[i, h, w] * (math.log(np.exp(scores).sum()) - scores[label]))
        if not label:
            continue
        x, y, wide, high = labels[i, 1:5, h, w]
        wanted = (
            (x - (w + 0.5) * layer.downsample_rate) / layer.field_w,
            (y - (h + 0.5) * layer.downsample_rate) / layer.field_h,
            math.log(max(wide, 2) / layer.field_w),
            math.log(max(high, 2) / layer.field_h),
        )
        for c in range(4):
            mean, std = (values[c] for values in regression(layer))
            most = 1 / layer.field_xyr if c < 2 else math.log(layer.field_whr)
            base = limit_at[i, k + c, h, w]
            kept = (limited(base * std + mean, most) - mean) / std
            d = kept + (maps[i, k + c, h, w] - base) - (wanted[c] - mean) / std
            far = layer.bb_smooth and abs(d) > 1
            boxes.append(abs(d) - 0.5 if far else d * d / 2)
    box = layer.lambda_ * sum(boxes) / max(len(boxes), 1)
    return sum(costs) / max(len(costs), 1) + box, box


def learnt(layer: DetectionLoss, run: Run, at) -> set[tuple[int, int, int]]:
    """The background that had an effect."""
    slope = run.kept[0]
    return {(i, h, w) for i, h, w, label, _ in at if not label and slope[i, 0, h, w]}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"bb_smooth": False, "bbox_reg_param": REG},
        {"iou_weighted": True},
        {"pos_neg_weighted": True},
        {"pos_neg_weighted": True, "iou_weighted": True, "bg_multiple": 1},
        {"sample_mode": "bootstrap", "bg_multiple": 1, "bbox_reg_param": REG},
        {"sample_mode": "random", "bg_multiple": 1, "pos_neg_weighted": True},
        {"sample_mode": "mixture", "bg_multiple": 1},
        {"field_whr": 100.0, "field_xyr": 0.01},
    ],
)
@pytest.mark.parametrize("labels", [LABELS, NOTHING])
def test_the_loss_and_its_gradient(settings, labels: np.ndarray) -> None:
    layer = replace(LOSS, **settings)
    run = check_layer(layer, [MAPS, labels], gradient=False)
    at = list(positions(layer, MAPS, labels))
    chosen = learnt(layer, run, at)
    background = {(i, h, w) for i, h, w, label, o in at if not label and o < layer.bg_threshold}
    assert chosen == background if layer.sample_mode == "all" else chosen <= background
    np.testing.assert_allclose(
        run.tops[0].reshape(2), loss(layer, MAPS, labels, at, chosen, MAPS), rtol=1e-9
    )
    wanted = np.zeros(MAPS.shape)
    for index in np.ndindex(*MAPS.shape):
        ends = []
        for step in (1e-5, -1e-5):
            moved = MAPS.copy()
            moved[index] += step
            ends.append(loss(layer, moved, labels, at, chosen, MAPS)[0])
        wanted[index] = (ends[0] - ends[1]) / 2e-5
    (dx, none) = run.backward([np.array([3.0, 7.0]).reshape(1, 1, 1, 2)]).bottoms
    np.testing.assert_allclose(dx, 3 * wanted, atol=1e-8)
    assert none is None
    note("gradient", "DetectionLoss")


def test_objectness_makes_one_class_of_all() -> None:
    layer = replace(LOSS, cls_num=2, objectness=True)
    maps = MAPS[:, 1:]
    run = check_layer(layer, [maps, LABELS], gradient=False)
    at = list(positions(layer, maps, LABELS))
    want = loss(layer, maps, LABELS, at, learnt(layer, run, at), maps)
    np.testing.assert_allclose(run.tops[0].reshape(2), want, rtol=1e-9)


def test_the_hardest_background_is_learnt() -> None:
    layer = replace(LOSS, sample_mode="bootstrap", cls_num=2)
    maps, labels = smooth(1, 6, 4, 5), np.zeros((1, 6, 4, 5))
    labels[0, :, 1, 2] = (1, 20, 12, 8, 12, 0.8)
    labels[0, 5, 0] = 0.9
    maps[0, 1, 3, :] = (9, 8, 7, 6, 5)
    maps[0, 1, 0, :] = 99
    run = forward(replace(layer, bg_multiple=5), [maps, labels])
    chosen = run.kept[0][0, 0] != 0
    # Five for the one object; what overlaps too much is none, however high its score.
    assert chosen[3].all() and chosen[1, 2] and chosen.sum() == 6
    run = forward(replace(layer, bg_multiple=1), [maps, labels])
    assert (run.kept[0][0, 0] != 0).sum() == 1 + 4


def test_random_background_is_drawn_anew_in_each_pass() -> None:
    layer = replace(LOSS, sample_mode="random", bg_multiple=1, bg_threshold=2.0)
    maps, labels = smooth(1, 7, 20, 20), np.zeros((1, 6, 20, 20))
    first, other = (forward(layer, [maps, labels], seed=seed).kept[0][0, 0] != 0 for seed in (0, 1))
    # No object: 4 for each of the two classes, some perhaps drawn twice.
    assert 5 <= first.sum() <= 8 and 5 <= other.sum() <= 8
    assert (first != other).any()


@definition("DetectionAccuracy")
def shares(layer: DetectionAccuracy, maps: np.ndarray, labels: np.ndarray) -> list[float]:
    """The three numbers, position by position."""
    hits: list[bool] = []
    found: list[bool] = []
    fits: list[float] = []
    for i, h, w, label, overlap in positions(layer, maps, labels):
        if not label and overlap >= layer.bg_threshold:
            continue
        scores = maps[i, : layer.cls_num, h, w]
        best = sorted(range(layer.cls_num), key=lambda c: (scores[c], c), reverse=True)
        hits.append(label in best[: layer.top_k])
        if not label:
            continue
        found.append(hits[-1])
        values = [
            limited(v * std + mean, 1 / layer.field_xyr if c < 2 else math.log(layer.field_whr))
            for c, (v, mean, std) in enumerate(
                zip(maps[i, layer.cls_num :, h, w], *regression(layer), strict=True)
            )
        ]
        size = layer.field_w * math.exp(values[2]), layer.field_h * math.exp(values[3])
        centre = (
            (w + 0.5) * layer.downsample_rate + values[0] * layer.field_w,
            (h + 0.5) * layer.downsample_rate + values[1] * layer.field_h,
        )
        true = labels[i, 1:5, h, w]
        common = math.prod(
            max(
                min(centre[a] + size[a] / 2, true[a] + true[2 + a] / 2)
                - max(centre[a] - size[a] / 2, true[a] - true[2 + a] / 2),
                0,
            )
            for a in (0, 1)
        )
        fits.append(common / (math.prod(size) + true[2] * true[3] - common))
    return [sum(v) / len(v) if v else -1 for v in (hits, found, fits)]


@pytest.mark.parametrize(
    "settings", [{}, {"top_k": 2, "bbox_reg_param": REG}, {"bg_threshold": 0.0, "field_xyr": 1.0}]
)
@pytest.mark.parametrize("labels", [LABELS, NOTHING])
def test_the_accuracy(settings, labels: np.ndarray) -> None:
    layer = replace(SHARE, **settings)
    # Halves, so that some scores are equal.
    maps = np.concatenate([np.round(MAPS[:, :3] * 2) / 2, MAPS[:, 3:] / 4], axis=1)
    tops = check_layer(layer, [maps, labels], gradient=False).tops
    got = [*tops[0].reshape(2), tops[1].item()]
    np.testing.assert_allclose(got, shares(layer, maps, labels), rtol=1e-9)


SHAPES = BlobType((2, 7, 3, 4)), BlobType((2, 6, 3, 4))


@pytest.mark.parametrize(
    ("layer", "shapes", "setting"),
    [
        (replace(LOSS, cls_num=1), SHAPES, "cls_num"),
        (replace(LOSS, objectness=True), SHAPES, "cls_num"),
        (replace(LOSS, cls_num=4), SHAPES, "cls_num"),
        (replace(LOSS, coord_num=5), SHAPES, "coord_num"),
        (replace(LOSS, field_h=0), SHAPES, "field_h"),
        (replace(LOSS, downsample_rate=0), SHAPES, "downsample_rate"),
        (replace(LOSS, field_whr=0.5), SHAPES, "field_whr"),
        (replace(LOSS, sample_mode="hard"), SHAPES, "sample_mode"),
        (replace(LOSS, bbox_reg_param=BBoxRegParam((0.0,), ())), SHAPES, "bbox_reg_param"),
        (
            replace(LOSS, bbox_reg_param=BBoxRegParam((), (1.0, 1.0, 0.0, 1.0))),
            SHAPES,
            "bbox_reg_param",
        ),
        (LOSS, (SHAPES[0], BlobType((2, 6, 4, 3))), "bottom"),
        (replace(SHARE, top_k=4), SHAPES, "top_k"),
        (replace(SHARE, top_k=0), SHAPES, "top_k"),
    ],
)
def test_what_does_not_fit_is_refused(layer, shapes, setting: str) -> None:
    with pytest.raises(Refusal) as caught:
        layer.infer(*shapes)
    assert caught.value.setting == setting


def test_a_class_that_there_is_not() -> None:
    labels = LABELS.copy()
    labels[1, 0, 2, 1] = 3
    with pytest.raises(Refusal, match="a label that there is not") as caught:
        forward(LOSS, [MAPS, labels])
    assert (caught.value.expected, caught.value.got) == ("classes of cls_num: 0..2", "3")


@pytest.mark.parametrize("layer", [LOSS, SHARE])
def test_there_is_no_onnx_form(layer) -> None:
    with pytest.raises(NetcError, match="no ONNX form"):
        check_lowering(layer, [MAPS, LABELS])
    assert layer.deployed() is None


# -- regions ---------------------------------------------------------------------------------------

OUTPUT = BoxOutput(
    fg_thr=0.3, iou_thr=0.4, field_h=(24, 40), field_w=(20, 32), downsample_rate=(8, 16),
    field_whr=2.0, field_xyr=2.0, top=("regions", "scores"),
)  # fmt: skip
SCALES = [smooth(2, 7, 4, 5) * 2, smooth(2, 7, 2, 3, seed=4) * 2]


def iou(a, b) -> float:
    wide, high = (min(a[2 + i], b[2 + i]) - max(a[i], b[i]) for i in (0, 1))
    if wide <= 0 or high <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return wide * high / (sum(areas) - wide * high)


@definition("BoxOutput")
def regions(layer: BoxOutput, bottoms: list[np.ndarray]) -> list[list[float]]:
    """Rows (image, x1, y1, x2, y2, score), found one by one."""
    mean, std = regression(layer)
    rows = []
    for image in range(len(bottoms[0])):
        found = []
        for maps, fh, fw, s in zip(
            bottoms, layer.field_h, layer.field_w, layer.downsample_rate, strict=True
        ):
            high, wide = maps.shape[2:]
            for h, w in np.ndindex(high, wide):
                *scores, x, y, dw, dh = maps[image, :, h, w]
                x, y, dw, dh = (
                    limited(v * std[c] + mean[c], most)
                    for c, (v, most) in enumerate(
                        zip(
                            (x, y, dw, dh),
                            (1 / layer.field_xyr,) * 2 + (math.log(layer.field_whr),) * 2,
                            strict=True,
                        )
                    )
                )
                size = fw * math.exp(dw), fh * math.exp(dh)
                x1 = max(x * fw + (w + 0.5) * s - size[0] / 2, 0)
                y1 = max(y * fh + (h + 0.5) * s - size[1] / 2, 0)
                size = min(size[0], wide * s - x1), min(size[1], high * s - y1)
                score = max(scores[1:]) - scores[0]
                if score >= layer.fg_thr and min(size) >= layer.min_size:
                    found.append([image, x1, y1, x1 + size[0], y1 + size[1], score])
        found.sort(key=lambda row: -row[5])
        kept: list[list[float]] = []
        for row in found[: layer.max_nms_num or None]:
            if all(iou(row[1:5], other[1:5]) <= layer.iou_thr for other in kept):
                kept.append(row)
        rows += kept[: layer.max_post_nms_num or None]
    return rows


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"bbox_reg_param": REG, "field_xyr": 1.0},
        {"max_nms_num": 6, "fg_thr": -9.0},
        {"max_post_nms_num": 2, "iou_thr": 0.1},
        {"min_size": 24.0},
    ],
)
def test_the_regions(settings) -> None:
    layer = replace(OUTPUT, **settings)
    want = np.array(regions(layer, SCALES))
    tops = check_layer(layer, SCALES, gradient=False).tops
    count = len(want)
    assert 2 < count < len(tops[0]) and len(set(want[:, 0])) == 2
    np.testing.assert_allclose(tops[1][:count, :, 0, 0], want, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(tops[0], tops[1][:, :5])
    assert not tops[1][count:].any()
    check_lowering(layer, SCALES)
    check_lowering(replace(layer, top=("regions",)), SCALES)


def as_they_come(layer, *bottoms: np.ndarray) -> tuple[np.ndarray, ...]:
    """The tops in whatever shape they have."""
    return layer.forward(ForwardCall(np, bottoms, (), (), (), lambda: None))


def test_as_many_regions_as_there_are() -> None:
    tops = as_they_come(OUTPUT, *SCALES)
    np.testing.assert_allclose(tops[1][:, :, 0, 0], regions(OUTPUT, SCALES), rtol=1e-9, atol=1e-9)
    tops = as_they_come(replace(OUTPUT, fg_thr=99.0), *SCALES)
    assert tops[0].reshape(-1).tolist() == [0, 1, 1, 10, 10] and tops[1].shape == (1, 6, 1, 1)
    assert not tops[1].any()


GROUPS = BoxGroupOutput(
    fg_thr=0.3, iou_thr=0.4, field_whr=8.0, field_xyr=1.0, min_size=12.0,
    box_group_param=(BoxGroupParam((24, 40, 24), (20, 32, 40), 8), BoxGroupParam((60,), (50,), 16)),
    top=("regions", "scores"),
)  # fmt: skip
# Two images with three fields and one.
CHANCES = [1 / (1 + np.exp(-smooth(6, 2, 4, 5) * 2)), 1 / (1 + np.exp(-smooth(2, 2, 2, 3, seed=2)))]
PAIRS = [CHANCES[0], smooth(6, 4, 4, 5, seed=3), CHANCES[1], smooth(2, 4, 2, 3, seed=4)]


@definition("BoxGroupOutput")
def grouped(layer: BoxGroupOutput, bottoms: list[np.ndarray]) -> list[list[float]]:
    """Rows (image, x1, y1, x2, y2, score), found one by one; both corners belong to a region."""
    mean, std = regression(layer)
    rows = []
    for image in range(len(bottoms[-1]) // len(layer.box_group_param[-1].field_h)):
        found = []
        for group, chances, boxes in zip(
            layer.box_group_param, bottoms[::2], bottoms[1::2], strict=True
        ):
            high, wide = boxes.shape[2:]
            for k, h, w in np.ndindex(len(group.field_h), high, wide):
                at = image * len(group.field_h) + k
                most = (1 / layer.field_xyr,) * 2 + (math.log(layer.field_whr),) * 2
                x, y, dw, dh = (
                    limited(v * std[c] + mean[c], most[c]) for c, v in enumerate(boxes[at, :, h, w])
                )
                sides = group.field_w[k] * math.exp(dw), group.field_h[k] * math.exp(dh)
                x1 = x * group.field_w[k] + (w + 0.5) * group.stride - sides[0] / 2
                y1 = y * group.field_h[k] + (h + 0.5) * group.stride - sides[1] / 2
                box = [
                    max(x1, 0),
                    max(y1, 0),
                    min(x1 + sides[0] - 1, wide * group.stride),
                    min(y1 + sides[1] - 1, high * group.stride),
                ]
                score = 1 - chances[at, 0, h, w]
                short = min(box[2] - box[0], box[3] - box[1]) + 1 < layer.min_size
                if score >= layer.fg_thr and not short:
                    found.append([image, *box, score])
        found.sort(key=lambda row: -row[5])
        edges = np.array([0, 0, 1, 1])
        kept: list[list[float]] = []
        for row in found[: layer.max_nms_num or None]:
            if all(iou(row[1:5] + edges, o[1:5] + edges) <= layer.iou_thr for o in kept):
                kept.append(row)
        rows += kept[: layer.max_post_nms_num or None]
    return rows


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"bbox_reg_param": REG, "field_xyr": 2.0},
        {"max_nms_num": 6},
        {"max_post_nms_num": 2, "iou_thr": 0.1},
        {"min_size": 14.0},
    ],
)
def test_the_regions_of_groups(settings) -> None:
    layer = replace(GROUPS, **settings)
    want = np.array(grouped(layer, PAIRS))
    tops = check_layer(layer, PAIRS, gradient=False).tops
    count = len(want)
    assert 2 < count < len(tops[0]) and len(set(want[:, 0])) == 2
    np.testing.assert_allclose(tops[1][:count, :, 0, 0], want, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(tops[0], tops[1][:, :5])
    assert not tops[1][count:].any()
    check_lowering(layer, PAIRS)


GROUP_SHAPES = tuple(BlobType(b.shape) for b in PAIRS)


@pytest.mark.parametrize(
    ("layer", "shapes", "setting"),
    [
        (GROUPS, GROUP_SHAPES[:2], "box_group_param"),
        (
            replace(GROUPS, box_group_param=(BoxGroupParam((24,), (20, 30), 8),)),
            GROUP_SHAPES[:2],
            "box_group_param.0",
        ),
        (
            replace(GROUPS, box_group_param=(BoxGroupParam((24,), (20,), 0),)),
            GROUP_SHAPES[:2],
            "stride",
        ),
        (GROUPS, (GROUP_SHAPES[0], GROUP_SHAPES[3], *GROUP_SHAPES[2:]), "bottom"),
        (GROUPS, (BlobType((5, 2, 4, 5)), BlobType((5, 4, 4, 5)), *GROUP_SHAPES[2:]), "bottom"),
        (GROUPS, (BlobType((3, 2, 4, 5)), BlobType((3, 4, 4, 5)), *GROUP_SHAPES[2:]), "bottom"),
    ],
)
def test_groups_that_do_not_fit_are_refused(layer, shapes, setting: str) -> None:
    with pytest.raises(Refusal) as caught:
        layer.infer(*shapes)
    assert caught.value.setting == setting


@definition("DecodeBBox")
def moved(row: np.ndarray, prediction: np.ndarray, mean, std) -> list[float]:
    """A region, moved and scaled."""
    dx, dy, dw, dh = prediction[4:] * std + mean
    out = [row[0], 0.0, 0.0, 0.0, 0.0]
    for axis, (d, grow) in enumerate(((dx, dw), (dy, dh))):
        size = row[3 + axis] - row[1 + axis] + 1
        centre = (row[3 + axis] + row[1 + axis]) / 2 + d * size
        size *= math.exp(grow)
        out[1 + axis] = centre - (size - 1) / 2
        out[3 + axis] = out[1 + axis] + size - 1
    return out


ROWS = np.array([[0, 3, 4, 20, 9], [1, 8, 8, 8, 8], [0, 0, 0, 30, 30], [1, 5, 2, 9, 40.0]])
PREDICTED = smooth(4, 8)


@pytest.mark.parametrize("reg", [REG, BBoxRegParam()])
def test_regions_are_moved(reg: BBoxRegParam) -> None:
    layer = DecodeBBox(bbox_reg_param=reg)
    mean, std = (np.array(values) for values in regression(layer))
    want = [moved(*pair, mean, std) for pair in zip(ROWS, PREDICTED, strict=True)]
    for shape in ((4, 5), (4, 5, 1, 1)):
        bottoms = [PREDICTED, ROWS.reshape(shape)]
        (top,) = check_layer(layer, bottoms, gradient=False).tops
        np.testing.assert_allclose(top, np.reshape(want, shape), rtol=1e-9)
        check_lowering(layer, bottoms)


def test_empty_rows_stay_empty() -> None:
    rows = ROWS.copy()
    rows[3] = 0
    layer = DecodeBBox()
    assert not forward(layer, [PREDICTED, rows]).tops[0][3].any()
    check_lowering(layer, [PREDICTED, rows])


def test_regions_to_train_on_are_chosen() -> None:
    predicted, matches = PREDICTED.copy(), np.zeros((4, 6))
    predicted[1, 6] = -9  # a width below 1: the corners are in wrong order
    matches[2, 5] = 0.95
    layer = DecodeBBox(phase=Phase.TRAIN)
    every = as_they_come(DecodeBBox(), predicted, ROWS)[0]
    np.testing.assert_array_equal(as_they_come(layer, predicted, ROWS)[0], every[[0, 2, 3]])
    (top,) = as_they_come(layer, predicted, ROWS, matches)
    np.testing.assert_array_equal(top, every[[0, 3]])
    (top,) = forward(layer, [predicted, ROWS, matches]).tops
    np.testing.assert_array_equal(top[:2], every[[0, 3]])
    assert not top[2:].any()
    with pytest.raises(NetcError, match="no ONNX form"):
        check_lowering(layer, [predicted, ROWS])


MATCHES = np.array(
    [
        [1, 2, 4, 18, 12, 0.6],
        [0, 0, 0, 0, 0, 0],
        [2, 0, 0, 30, 28, 0.99],
        [2, 4, 4, 9, 38, 0.7],
    ]
)


@definition("BboxAccuracy")
def fits(layer: BboxAccuracy, predicted, rows, matches) -> list[float]:
    """The two means, region by region."""
    mean, std = (np.array(values) for values in regression(layer))
    found = []
    for p, (_, x1, y1, x2, y2), match in zip(predicted, rows, matches, strict=True):
        label = int(match[0]) if layer.bbox_reg_param.cls_aware else min(int(match[0]), 1)
        if label < 1 or match[5] > 0.975:
            continue
        dx, dy, dw, dh = p[4 * label : 4 * label + 4] * std + mean
        w, h = x2 - x1 + 1, y2 - y1 + 1
        x, y = x1 + w / 2 + dx * w, y1 + h / 2 + dy * h
        half = w * math.exp(dw) / 2, h * math.exp(dh) / 2
        true = (*match[1:3], match[3] + 1, match[4] + 1)
        after = (x - half[0], y - half[1], x + half[0], y + half[1])
        found.append((iou(after, true), iou((x1, y1, x2 + 1, y2 + 1), true)))
    return np.mean(found, axis=0).tolist() if found else [-1, -1]


@pytest.mark.parametrize(
    ("reg", "channels"),
    [(REG, 12), (BBoxRegParam(), 12), (replace(REG, cls_aware=False), 8)],
)
def test_how_regions_fit(reg: BBoxRegParam, channels: int) -> None:
    layer = BboxAccuracy(reg)
    predicted = smooth(4, channels) / 2
    for matches in (MATCHES, MATCHES * [0, 1, 1, 1, 1, 1]):
        tops = check_layer(layer, [predicted, ROWS, matches], gradient=False).tops
        want = fits(layer, predicted, ROWS, matches)
        np.testing.assert_allclose([top.item() for top in tops], want, rtol=1e-9)
    with pytest.raises(NetcError, match="no ONNX form"):
        check_lowering(layer, [predicted, ROWS, MATCHES])
    assert layer.deployed() is None


def test_a_class_without_predictions() -> None:
    with pytest.raises(Refusal, match="a class that has no predictions") as caught:
        forward(BboxAccuracy(), [smooth(4, 8), ROWS, MATCHES])
    assert caught.value.got == "2"


TWO = BlobType((2, 7, 4, 5)), BlobType((2, 7, 2, 3))


@pytest.mark.parametrize(
    ("layer", "shapes", "setting"),
    [
        (replace(OUTPUT, nms_type="IOMU"), TWO, "nms_type"),
        (replace(OUTPUT, iou_thr=1.5), TWO, "iou_thr"),
        (replace(OUTPUT, min_size=-1.0), TWO, "min_size"),
        (replace(OUTPUT, field_w=(20,)), TWO, "field_w"),
        (replace(OUTPUT, field_w=(20, 0)), TWO, "field_w"),
        (OUTPUT, (TWO[0], BlobType((2, 6, 2, 3))), "bottom"),
        (OUTPUT, (BlobType((2, 5, 4, 5)), BlobType((2, 5, 2, 3))), "bottom"),
        (BboxAccuracy(), (BlobType((4, 9)), BlobType((4, 5)), BlobType((4, 6))), "bottom"),
        (BboxAccuracy(), (BlobType((4, 8)), BlobType((4, 5)), BlobType((4, 5))), "bottom"),
        (DecodeBBox(), (BlobType((4, 12)), BlobType((4, 5))), "bottom"),
        (DecodeBBox(), (BlobType((3, 8)), BlobType((4, 5))), "bottom"),
        (DecodeBBox(), (BlobType((4, 8)), BlobType((4, 5)), BlobType((4, 6))), "bottom"),
        (
            DecodeBBox(phase=Phase.TRAIN),
            (BlobType((4, 8)), BlobType((4, 5)), BlobType((3, 6))),
            "bottom",
        ),
    ],
)
def test_regions_that_do_not_fit_are_refused(layer, shapes, setting: str) -> None:
    with pytest.raises(Refusal) as caught:
        layer.infer(*shapes)
    assert caught.value.setting == setting


def test_the_text_of_the_fork_is_read() -> None:
    graph = graph_of(
        """
        input: "maps" input_shape { dim: 1 dim: 6 dim: 3 dim: 4 }
        input: "labels" input_shape { dim: 1 dim: 6 dim: 3 dim: 4 }
        layer { name: "loss" type: "DetectionLoss" bottom: "maps" bottom: "labels" top: "loss"
          detection_loss_param { cls_num: 2 lambda: 0.5 field_h: 40 field_w: 20 downsample_rate: 8
            bb_smooth: true bg_threshold: 0.2 bg_multiple: 2 sample_mode: "random" }
          bbox_reg_param { bbox_mean: 0 bbox_mean: 0 bbox_mean: 0 bbox_mean: 0
            bbox_std: 0.1 bbox_std: 0.1 bbox_std: 0.2 bbox_std: 0.2 } loss_weight: 0.9 }
        """
    )
    node = graph.nodes[-1]
    assert graph.blobs["loss"].shape == (1, 1, 1, 2)
    assert node.layer.lambda_ == 0.5 and node.layer.bbox_reg_param.bbox_std == (0.1, 0.1, 0.2, 0.2)
