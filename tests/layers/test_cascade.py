"""The types of Cascade R-CNN: against loops over their definitions."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from netc.errors import NetcError
from netc.layers.cascade import (
    DetectionGroupAccuracy,
    DetectionGroupLoss,
    FrcnnOutput,
    HardMining,
    ScaleRoute,
)
from netc.layers.proposal import BBoxRegParam
from netc.layers.types import BlobType, Refusal
from tests.layers.test_mscnn import as_they_come, iou, limited, moved
from tests.support.audit import definition, note
from tests.support.layer_harness import check_layer, forward, smooth
from tests.support.legal import fields
from tests.support.lowering import check_lowering

# -- scales ----------------------------------------------------------------------------------------

# Scales of about 4, 10, 20, 40, 11.
REGIONS = np.array(
    [
        [0, 0, 0, 3, 3], [1, 5, 5, 14, 14], [0, 0, 0, 9, 39], [1, 9, 9, 48, 48], [0, 2, 2, 12, 12],
    ]
)  # fmt: skip


@definition("ScaleRoute")
def routed(layer: ScaleRoute, regions: np.ndarray) -> list[int]:
    """The numbers of the regions that are chosen."""
    scales = {}
    for row, (_, x1, y1, x2, y2) in enumerate(regions):
        if any(regions[row]) and x2 >= x1 and y2 >= y1:
            scales[row] = math.sqrt((x2 - x1 + 1) * (y2 - y1 + 1))
    low, high = layer.low_scale, layer.high_scale
    found = [
        row
        for row, scale in scales.items()
        if (low is None or scale >= low) and (high is None or scale < high)
    ]
    limits = [limit for limit in (low, high) if limit is not None] or [256.0]
    middle = math.prod(limits) ** (1 / len(limits))
    return found or [min(scales, key=lambda row: abs(math.log2(scales[row] / middle)))]


@pytest.mark.parametrize(
    "settings",
    [
        {"high_scale": 11.0},
        {"low_scale": 10.0, "high_scale": 20.0},
        {"low_scale": 11.0},
        {"low_scale": 100.0, "high_scale": 101.0},
        {"high_scale": 1.0},
        {"low_scale": 12.0, "high_scale": 13.0},
        {},
    ],
)
def test_regions_of_a_range_of_scales(settings) -> None:
    layer = ScaleRoute(**settings)
    given = np.concatenate((REGIONS, [[0, 0, 0, 0, 0], [0, 9, 9, 5, 5.0]]))
    more = smooth(7, 2, 3)
    rows = routed(layer, given)
    for regions in (given, given[:, :, None, None]):
        tops = as_they_come(layer, regions, more)
        np.testing.assert_array_equal(tops[0], regions[rows])
        np.testing.assert_array_equal(tops[1], more[rows])
        run = check_layer(layer, [regions, more], gradient=False)
        for top, wanted in zip(run.tops, tops, strict=True):
            np.testing.assert_array_equal(top[: len(rows)], wanted)
            assert not top[len(rows) :].any()
        check_lowering(layer, [regions, more])


def test_no_region_at_all() -> None:
    layer, nothing = ScaleRoute(high_scale=9.0), np.zeros((3, 5))
    assert as_they_come(layer, nothing)[0].shape == (0, 5)
    assert not forward(layer, [nothing]).tops[0].any()
    check_lowering(layer, [nothing])


# -- hard examples ---------------------------------------------------------------------------------


@definition("HardMining")
def hardest(layer: HardMining, scores: np.ndarray, images: np.ndarray) -> list[int]:
    """The numbers of the regions that are chosen."""
    order = sorted(range(len(scores)), key=lambda row: (scores[row], row), reverse=True)
    taken: list[int] = []
    for image in range(layer.num_image):
        taken += [row for row in order if images[row] == image][: layer.num_roi_per_image]
    left = [row for row in order if row not in taken]
    count = min(layer.num_image * layer.num_roi_per_image, len(scores))
    return sorted((taken + left)[:count])


@pytest.mark.parametrize("per_image", [1, 2, 3, 9])
def test_the_hardest_regions(per_image: int) -> None:
    layer = HardMining(per_image, 2, ("regions", "more"))
    rng = np.random.default_rng(per_image)
    regions = np.column_stack(([0, 0, 0, 1, 0, 0, 0], rng.uniform(0, 9, (7, 4))))
    more, scores = smooth(7, 3), rng.integers(0, 4, 7).astype(float)
    rows = hardest(layer, scores, regions[:, 0])
    for shaped in (scores, scores[:, None, None, None]):
        tops = check_layer(layer, [shaped, regions, more], gradient=False).tops
        np.testing.assert_array_equal(tops[0], regions[rows])
        np.testing.assert_array_equal(tops[1], more[rows])
    with pytest.raises(NetcError, match="no ONNX form"):
        check_lowering(layer, [scores, regions, more])


def test_a_region_of_an_image_that_is_not_there() -> None:
    with pytest.raises(Refusal) as caught:
        forward(HardMining(2, 1), [np.ones(5), REGIONS])
    assert caught.value.setting == "num_image"


# -- objects ---------------------------------------------------------------------------------------

OUTPUT = FrcnnOutput(conf_thr=0.25, iou_thr=0.4)
REG = BBoxRegParam((0.02, -0.03, 0.1, 0.05), (0.1, 0.2, 0.3, 0.4))
SIZE = np.array([[30.0, 40.0]])


def some_regions(count: int) -> np.ndarray:
    rng = np.random.default_rng(count)
    low = rng.uniform(0, 12, (count, 2))
    corners = np.concatenate((low, low + rng.uniform(6, 20, (count, 2))), axis=1)
    return np.concatenate((np.zeros((count, 1)), corners), axis=1)


@definition("FrcnnOutput")
def detected(layer: FrcnnOutput, chances, boxes, regions, size) -> list[list[float]]:
    """The rows behind the first."""
    reg = layer.bbox_reg_param
    mean, std = (np.array(values) for values in reg.values())
    height, width = size.reshape(2)
    edges, found = np.array([0, 0, 1, 1]), []
    for label in range(1, chances.shape[1]):
        column = 4 * label if reg.cls_aware else 4
        rows = []
        for chance, box, region in zip(chances[:, label], boxes, regions, strict=True):
            if chance >= layer.conf_thr and any(region):
                prediction = np.concatenate((np.zeros(4), box[column : column + 4]))
                _, x1, y1, x2, y2 = moved(region[:5], prediction, mean, std)
                corners = [max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)]
                rows.append([0, *corners, label, chance])
        rows.sort(key=lambda row: -row[6])
        kept: list[list[float]] = []
        for row in rows:
            if all(iou(row[1:5] + edges, o[1:5] + edges) <= layer.iou_thr for o in kept):
                kept.append(row)
        found += kept
    if layer.max_det_num and len(found) > layer.max_det_num:
        best = sorted(found, key=lambda row: -row[6])[: layer.max_det_num]
        found = [row for row in found if row in best]
    return found


@pytest.mark.parametrize("columns", [5, 6])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"bbox_reg_param": REG},
        {"bbox_reg_param": replace(REG, cls_aware=False), "max_det_num": 4},
        {"max_det_num": 3, "iou_thr": 0.1},
        {"conf_thr": 0.0, "bbox_reg_param": BBoxRegParam(cls_aware=False)},
    ],
)
def test_the_objects(settings, columns: int) -> None:
    layer = replace(OUTPUT, **settings)
    chances = np.exp(smooth(9, 3))
    chances /= chances.sum(axis=1, keepdims=True)
    chances[2, 1] = layer.conf_thr
    boxes = smooth(9, 12 if layer.bbox_reg_param.cls_aware else 8, seed=3) / 3
    regions = some_regions(9)
    regions = np.concatenate((regions, smooth(9, 1)), axis=1)[:, :columns]
    regions[4] = 0  # none
    bottoms = [chances, boxes, regions, SIZE]
    want = detected(layer, *bottoms)
    assert 2 < len(want) < 18 and {row[5] for row in want} == {1, 2}
    (top,) = as_they_come(layer, *bottoms)
    assert top.shape == (1 + len(want), 7, 1, 1)
    assert top[0].ravel().tolist() == [0, *[-1] * 6]
    np.testing.assert_allclose(top[1:, :, 0, 0], want, rtol=1e-9, atol=1e-9)
    run = check_layer(layer, [b[..., None, None] for b in bottoms], gradient=False)
    np.testing.assert_array_equal(run.tops[0][: len(top)], top)
    assert (run.tops[0][len(top) :] == -1).all()
    check_lowering(layer, bottoms)


def test_nothing_is_found() -> None:
    layer = replace(OUTPUT, conf_thr=2.0)
    bottoms = [smooth(3, 2), smooth(3, 8), some_regions(3), SIZE]
    assert as_they_come(layer, *bottoms)[0].ravel().tolist() == [0, *[-1] * 6]
    check_lowering(layer, bottoms)


def test_boxes_outside_the_image_hide_no_others() -> None:
    """Cut off, their corners are in wrong order: they have no area."""
    regions = np.array([[0, 60, 2, 70, 20], [0, 50, 2, 65, 20], [0, 2, 2, 20, 20.0]])
    chances = np.array([[0, 0.9], [0, 0.8], [0, 0.7]])
    bottoms = [chances, np.zeros((3, 8)), regions, SIZE]
    (top,) = as_they_come(OUTPUT, *bottoms)
    assert len(top) == 4
    check_lowering(OUTPUT, bottoms)


def test_one_image_only() -> None:
    regions = some_regions(3)
    regions[1, 0] = 1
    with pytest.raises(Refusal, match="second image"):
        forward(OUTPUT, [smooth(3, 2), smooth(3, 8), regions, SIZE])


# -- maps ------------------------------------------------------------------------------------------

FIELDS = {"cls_num": 3, "field_h": (12, 20), "field_w": (8, 16), "stride": 8, "bg_threshold": 0.4}
LOSS = DetectionGroupLoss(**FIELDS, batch_size=1000, bg_multiple=1, lambda_=0.5)
SHARE = DetectionGroupAccuracy(**FIELDS)
# Two images with two fields each.
MAPS = [smooth(4, 3, 3, 4) * 2, smooth(4, 4, 3, 4, seed=5)]
LABELS = fields((4, 6, 3, 4), np.random.default_rng(1))
NOTHING = LABELS * np.array([0.0, 1, 1, 1, 1, 1])[:, None, None]
MAP_SHAPES = tuple(BlobType(b.shape) for b in (*MAPS, LABELS))


def wanted_box(layer, labels: np.ndarray, at) -> list[float]:
    """What should be predicted, before it is normalised."""
    n, h, w = at
    x, y, wide, high = labels[n, 1:5, h, w]
    field = layer.field_w[n % 2], layer.field_h[n % 2]
    return [
        (x - (w + 0.5) * layer.stride) / field[0],
        (y - (h + 0.5) * layer.stride) / field[1],
        math.log(max(wide, 2) / field[0]),
        math.log(max(high, 2) / field[1]),
    ]


@definition("DetectionGroupLoss")
def group_loss(layer: DetectionGroupLoss, maps, labels, chosen, limit_at) -> tuple[float, float]:
    """The two values of the top, given which boxes are chosen."""
    scores, boxes = maps
    mean, std = layer.bbox_reg_param.values()
    limits = (math.inf,) * 4
    if layer.field_xyr and layer.field_whr:
        limits = (1 / layer.field_xyr,) * 2 + (math.log(layer.field_whr),) * 2
    label_of = {at: int(labels[at[0], 0, at[1], at[2]]) for at in chosen}
    weights = dict.fromkeys(chosen, 1.0)
    if layer.pos_neg_weighted:
        part, total = 1 / (1 + layer.bg_multiple), len(chosen)
        for objects, share in ((True, part), (False, 1 - part)):
            own = [at for at in chosen if bool(label_of[at]) is objects]
            weights |= {at: share * total / len(own) for at in own}
    costs, distances = [], []
    for (n, h, w), label in label_of.items():
        row, label = scores[n, :, h, w], min(label, 1) if layer.objectness else label
        costs.append(weights[n, h, w] * (math.log(np.exp(row).sum()) - row[label]))
        if not label:
            continue
        for c, truth in enumerate(wanted_box(layer, labels, (n, h, w))):
            base = limit_at[n, c, h, w]
            kept = (limited(base * std[c] + mean[c], limits[c]) - mean[c]) / std[c]
            d = kept + boxes[n, c, h, w] - base - (truth - mean[c]) / std[c]
            far = layer.bbox_loss_type == "Smooth_L1" and abs(d) > 1
            distances.append(abs(d) - 0.5 if far else d * d / 2)
    box = layer.lambda_ * sum(distances) / max(len(distances), 1)
    return sum(costs) / max(len(costs), 1) + box, box


def effective(run) -> list[tuple[int, ...]]:
    """The boxes that were learnt."""
    return [tuple(map(int, at)) for at in np.argwhere(run.kept[0][:, 0] != 0)]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"bbox_loss_type": "Euclidean_L2", "bbox_reg_param": REG},
        {"field_whr": 2.0, "field_xyr": 2.0, "bbox_reg_param": REG},
        {"field_whr": 2.0},
        {"pos_neg_weighted": True},
        {"pos_neg_weighted": True, "batch_size": 6, "bg_multiple": 2},
        {"batch_size": -1, "neg_mining_type": "mixture", "min_num_neg": 1},
    ],
)
@pytest.mark.parametrize("labels", [LABELS, NOTHING])
def test_the_loss_and_its_gradient(settings, labels: np.ndarray) -> None:
    layer = replace(LOSS, **settings)
    run = check_layer(layer, [*MAPS, labels], gradient=False)
    chosen = effective(run)
    found = group_loss(layer, MAPS, labels, chosen, MAPS[1])
    np.testing.assert_allclose(run.tops[0].reshape(2), found, rtol=1e-9)
    gradients = run.backward([np.array([3.0, 99.0]).reshape(1, 1, 1, 2)]).bottoms
    for index, maps in enumerate(MAPS):
        for at in list(np.ndindex(*maps.shape))[::3]:
            ends = []
            for step in (1e-6, -1e-6):
                moved_maps = [m.copy() for m in MAPS]
                moved_maps[index][at] += step
                ends.append(group_loss(layer, moved_maps, labels, chosen, MAPS[1])[0])
            slope = 3 * (ends[0] - ends[1]) / 2e-6
            assert gradients[index][at] == pytest.approx(slope, abs=1e-7)
    assert gradients[2] is None
    note("gradient", "DetectionGroupLoss")


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"batch_size": 1000}, lambda p, b: (p, b)),
        ({"batch_size": 6, "bg_multiple": 2}, lambda p, b: (min(2, p), 6 - min(2, p))),
        ({"batch_size": 5}, lambda p, b: (3, 2)),
        ({"batch_size": -1, "bg_multiple": 0, "min_num_neg": 3}, lambda p, b: (p, 3)),
        ({"batch_size": -1, "bg_multiple": 1}, lambda p, b: (p, min(p, b))),
    ],
)
def test_how_many_are_learnt(settings, count) -> None:
    run = forward(replace(LOSS, **settings), [*MAPS, LABELS])
    chosen = effective(run)
    for image in (0, 1):
        own = LABELS[2 * image : 2 * image + 2]
        objects = int((own[:, 0] != 0).sum())
        background = int(((own[:, 0] == 0) & (own[:, 5] < LOSS.bg_threshold)).sum())
        found = [LABELS[n, 0, h, w] != 0 for n, h, w in chosen if n // 2 == image]
        assert (sum(found), len(found) - sum(found)) == count(objects, background)


@pytest.mark.parametrize("ranking", ["conf_loss", "conf_prob"])
@pytest.mark.parametrize("mining", ["bootstrap", "mixture"])
def test_the_hardest_background_is_learnt(mining: str, ranking: str) -> None:
    layer = replace(LOSS, batch_size=6, neg_mining_type=mining, neg_ranking_type=ranking)
    chosen = effective(forward(layer, [*MAPS, LABELS]))
    shares = np.exp(MAPS[0]) / np.exp(MAPS[0]).sum(axis=1, keepdims=True)
    for image in (0, 1):
        back = [
            at for at in np.ndindex(4, 3, 4)
            if at[0] // 2 == image and not LABELS[at[0], 0, at[1], at[2]]
            and LABELS[at[0], 5, at[1], at[2]] < layer.bg_threshold
        ]  # fmt: skip
        own = [at for at in chosen if at in back]
        back.sort(key=lambda at: shares[at[0], 0, at[1], at[2]])
        assert len(own) == 3 < len(back)
        assert set(own) >= set(back[: 3 if mining == "bootstrap" else 2])


def test_other_background_in_each_pass() -> None:
    runs = [forward(replace(LOSS, batch_size=8), [*MAPS, LABELS], seed=seed) for seed in (1, 2)]
    assert effective(runs[0]) != effective(runs[1])


@definition("DetectionGroupAccuracy")
def group_shares(layer: DetectionGroupAccuracy, maps, labels) -> list[float]:
    """The three values of the tops."""
    scores, boxes = maps
    mean, std = layer.bbox_reg_param.values()
    limits = (1 / layer.field_xyr,) * 2 + (math.log(layer.field_whr),) * 2
    right, objects, fits = [], [], []
    for n, h, w in np.ndindex(len(scores), *scores.shape[2:]):
        label = int(labels[n, 0, h, w])
        label = min(label, 1) if layer.objectness else label
        if not label and labels[n, 5, h, w] >= layer.bg_threshold:
            continue
        hit = max(range(layer.cls_num), key=lambda c: (scores[n, c, h, w], -c)) == label
        right.append(hit)
        if not label:
            continue
        objects.append(hit)
        x, y, dw, dh = (
            limited(v * std[c] + mean[c], limits[c]) for c, v in enumerate(boxes[n, :, h, w])
        )
        fw, fh = layer.field_w[n % 2], layer.field_h[n % 2]
        wide, high = fw * math.exp(dw), fh * math.exp(dh)
        x, y = x * fw + (w + 0.5) * layer.stride, y * fh + (h + 0.5) * layer.stride
        gx, gy, gw, gh = labels[n, 1:5, h, w]
        common = 1.0
        for a, s, b, t in ((x, wide, gx, gw), (y, high, gy, gh)):
            shared = min(a + s / 2, b + t / 2) - max(a - s / 2, b - t / 2)
            common *= shared if shared >= 1 else 0
        fits.append(common / (wide * high + gw * gh - common))
    return [float(np.mean(values)) if values else -1.0 for values in (right, objects, fits)]


@pytest.mark.parametrize(
    "settings", [{}, {"bbox_reg_param": REG, "field_whr": 8.0, "field_xyr": 1.0}]
)
@pytest.mark.parametrize("labels", [LABELS, NOTHING, np.ones_like(LABELS) * NOTHING.max()])
def test_the_accuracy(settings, labels: np.ndarray) -> None:
    layer = replace(SHARE, **settings)
    labels = labels * np.array([labels[0, 0].max() < 3, 1, 1, 1, 1, 1])[:, None, None]
    maps = [np.round(MAPS[0]), MAPS[1]]  # some scores are equal
    tops = check_layer(layer, [*maps, labels], gradient=False).tops
    found = np.concatenate([top.ravel() for top in tops])
    np.testing.assert_allclose(found, group_shares(layer, maps, labels), rtol=1e-9)
    assert len(forward(replace(layer), [*maps, labels]).tops) == 2


def test_objectness_makes_one_class_of_all() -> None:
    labels = LABELS.copy()
    labels[:, 0] *= 2
    for layer in (LOSS, SHARE):
        two = replace(layer, cls_num=2, objectness=True)
        scores = MAPS[0][:, :2]
        tops = forward(two, [scores, MAPS[1], labels]).tops
        labels_of_one = labels.copy()
        labels_of_one[:, 0] = labels[:, 0] > 0
        again = forward(replace(two, objectness=False), [scores, MAPS[1], labels_of_one]).tops
        for top, other in zip(tops, again, strict=True):
            np.testing.assert_array_equal(top, other)


@pytest.mark.parametrize("layer", [LOSS, SHARE])
def test_maps_have_no_onnx_form(layer) -> None:
    with pytest.raises(NetcError, match="has no ONNX form"):
        check_lowering(layer, [*MAPS, LABELS])
    assert layer.deployed() is None


@pytest.mark.parametrize(
    ("layer", "shapes", "setting"),
    [
        (replace(LOSS, cls_num=1), MAP_SHAPES, "cls_num"),
        (replace(LOSS, objectness=True), MAP_SHAPES, "cls_num"),
        (replace(LOSS, field_h=()), MAP_SHAPES, "field_h"),
        (replace(LOSS, field_w=(8,)), MAP_SHAPES, "field_h"),
        (replace(LOSS, field_w=(8, 0)), MAP_SHAPES, "field_w"),
        (replace(LOSS, stride=0), MAP_SHAPES, "stride"),
        (replace(LOSS, field_whr=0.5, field_xyr=1.0), MAP_SHAPES, "field_whr"),
        (replace(LOSS, neg_mining_type="all"), MAP_SHAPES, "neg_mining_type"),
        (replace(LOSS, neg_ranking_type="loss"), MAP_SHAPES, "neg_ranking_type"),
        (replace(LOSS, bbox_loss_type="L1"), MAP_SHAPES, "bbox_loss_type"),
        (replace(LOSS, batch_size=0), MAP_SHAPES, "batch_size"),
        (SHARE, (BlobType((3, 3, 3, 4)), *MAP_SHAPES[1:]), "cls_num"),
        (SHARE, (MAP_SHAPES[0], BlobType((4, 8, 3, 4)), MAP_SHAPES[2]), "bottom"),
        (SHARE, (*MAP_SHAPES[:2], BlobType((4, 5, 3, 4))), "bottom"),
        (ScaleRoute(), ((3, 4),), "bottom"),
        (ScaleRoute(), ((3, 5), (4, 2)), "bottom"),
        (ScaleRoute(low_scale=0.0), ((3, 5),), "low_scale"),
        (ScaleRoute(low_scale=9.0, high_scale=8.0), ((3, 5),), "low_scale"),
        (ScaleRoute(high_scale=0.0), ((3, 5),), "high_scale"),
        (HardMining(0), ((3,), (3, 5)), "num_roi_per_image"),
        (HardMining(), ((3, 2), (3, 5)), "bottom"),
        (HardMining(), ((3,), (3, 5), (2, 4)), "bottom"),
        (HardMining(top=("a",)), ((3,), (3, 5), (3, 4)), "top"),
        (replace(OUTPUT, nms_type="IOMU"), ((3, 2), (3, 8), (3, 5), (1, 2)), "nms_type"),
        (replace(OUTPUT, iou_thr=1.5), ((3, 2), (3, 8), (3, 5), (1, 2)), "iou_thr"),
        (OUTPUT, ((3, 1), (3, 4), (3, 5), (1, 2)), "bottom"),
        (OUTPUT, ((3, 3), (3, 8), (3, 5), (1, 2)), "bottom"),
        (OUTPUT, ((3, 2), (3, 8), (3, 4), (1, 2)), "bottom"),
        (OUTPUT, ((3, 2), (3, 8), (3, 7), (1, 2)), "bottom"),
        (OUTPUT, ((3, 2), (3, 8), (3, 5), (2, 2)), "bottom"),
    ],
)
def test_refused(layer, shapes, setting: str) -> None:
    with pytest.raises(Refusal) as caught:
        layer.infer(*(s if isinstance(s, BlobType) else BlobType(s) for s in shapes))
    assert caught.value.setting == setting
    assert caught.value.expected and caught.value.got
