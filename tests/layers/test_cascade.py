"""The types of Cascade R-CNN: against loops over their definitions."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from netc.errors import NetcError
from netc.layers.cascade import FrcnnOutput, HardMining, ScaleRoute
from netc.layers.proposal import BBoxRegParam
from netc.layers.types import BlobType, Refusal
from tests.layers.test_mscnn import as_they_come, iou, moved
from tests.support.audit import definition
from tests.support.layer_harness import check_layer, forward, smooth
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


@pytest.mark.parametrize(
    ("layer", "shapes", "setting"),
    [
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
        layer.infer(*map(BlobType, shapes))
    assert caught.value.setting == setting
    assert caught.value.expected and caught.value.got
