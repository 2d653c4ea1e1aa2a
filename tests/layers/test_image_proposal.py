"""ImageProposalTarget: against a loop over regions, and what it chooses."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from netc.errors import NetcError
from netc.layers.proposal import BBoxRegParam, ImageProposalTarget
from netc.layers.types import BlobType, ForwardCall, Refusal
from tests.support.audit import definition
from tests.support.layer_harness import check_layer, forward
from tests.support.lowering import check_lowering
from tests.support.nets import graph_of

REG = BBoxRegParam((0.02, -0.03, 0.1, 0.05), (0.1, 0.2, 0.3, 0.4))
TARGET = ImageProposalTarget(
    cls_num=3, batch_size=-1, num_img_per_batch=3, img_width=100, img_height=80
)
TRUTH = np.array(
    [
        [0, 10, 10, 39, 29, 1, 0],
        [0, 50, 20, 79, 59, 2, 0],
        [1, 10, 10, 49, 49, 2, 1],
        [1, 60, 10, 89, 49, 1, 0],
        [0, 0, 0, 0, 0, 0, 0],  # a row that pads
    ],
    np.float64,
)
REGIONS = np.array(
    [
        [0, 12, 8, 41, 29],
        [0, 14, 12, 60, 40],
        [0, 48, 24, 77, 60],
        [0, 60, 24, 90, 70],
        [1, 11, 11, 50, 49],  # the box that it overlaps is ignored
        [1, 58, 12, 85, 52],
        [2, 10, 10, 39, 29],  # an image without objects
        [0, 0, 60, 20, 79],
        [0, 0, 0, 0, 0],
    ],
    np.float64,
)


def iou(a, b) -> float:
    sides = [min(a[2 + i], b[2 + i]) - max(a[i], b[i]) + 1 for i in (0, 1)]
    if min(sides) <= 0:
        return 0.0
    common = math.prod(sides)
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return common / (sum(areas) - common)


@definition("ImageProposalTarget")
def judged(layer: ImageProposalTarget, regions: np.ndarray, truth: np.ndarray):
    """Each region as it must be where it is chosen, and "front", "back", "other" or "ignored".

    Rows are region, label, targets with weights, match.
    """
    truth = truth[truth.any(axis=1)]
    reg, found = layer.bbox_reg_param, []
    mean, std = (reg.bbox_mean, reg.bbox_std) if reg.bbox_std else ((0.0,) * 4, (1.0,) * 4)
    places = layer.cls_num if reg.cls_aware else 2
    for region in [*regions[regions.any(axis=1)], *truth[:, :5]]:
        overlap, true = max(
            ((iou(region[1:], t[1:5]), -i) for i, t in enumerate(truth) if t[0] == region[0]),
            default=(0.0, 0),
        )
        true = truth[-true]
        targets, weights, match, label = np.zeros((places, 4)), np.zeros((places, 4)), [0.0] * 6, 0
        kind = "other"
        if overlap >= layer.fg_thr:
            kind = "ignored" if true[6] else "front"
            label = int(true[5])
            (w, h), (tw, th) = (b[2:4] - b[:2] + 1 for b in (region[1:], true[1:5]))
            deltas = (
                (true[1] + tw / 2 - region[1] - w / 2) / w,
                (true[2] + th / 2 - region[2] - h / 2) / h,
                math.log(tw / w),
                math.log(th / h),
            )
            place = label if reg.cls_aware else 1
            targets[place] = (np.array(deltas) - mean) / std
            weights[place] = 1
            match = [label, *true[1:5], overlap]
        elif layer.bg_thr_lw <= overlap < layer.bg_thr_hg:
            kind = "back"
        row = np.concatenate([region, [label], targets.reshape(-1), weights.reshape(-1), match])
        found.append((kind, row))
    return found


def rows_of(tops) -> np.ndarray:
    """Region, label, targets, weights and match of each row."""
    np.testing.assert_array_equal(tops[3], tops[4])
    parts = [top.reshape(len(tops[0]), -1) for top in (*tops[:4], tops[5])]
    return np.concatenate(parts, axis=1)


def as_they_come(layer, *bottoms: np.ndarray, seed: int = 0):
    random = np.random.default_rng(seed)
    return layer.forward(ForwardCall(np, bottoms, (), (), (), lambda: random))


@pytest.mark.parametrize("reg", [BBoxRegParam(), REG, replace(REG, cls_aware=False)])
@pytest.mark.parametrize("thresholds", [(0.5, 0.5, 0.1), (0.7, 0.4, 0.05)])
def test_all_regions_with_a_class(reg: BBoxRegParam, thresholds: tuple[float, ...]) -> None:
    high, middle, low = thresholds
    layer = replace(TARGET, bbox_reg_param=reg, fg_thr=high, bg_thr_hg=middle, bg_thr_lw=low)
    found = judged(layer, REGIONS, TRUTH)
    want = [row for wanted in ("front", "back") for kind, row in found if kind == wanted]
    assert {kind for kind, _ in found} == {"front", "back", "other", "ignored"}
    tops = as_they_come(layer, REGIONS, TRUTH)
    np.testing.assert_allclose(rows_of(tops), want, rtol=1e-9, atol=1e-9)
    # Where the shape stays, again and again.
    full = check_layer(layer, [REGIONS, TRUTH], gradient=False).tops
    assert len(full[0]) == len(REGIONS) + len(TRUTH)
    again = np.resize(want, (len(full[0]), len(want[0])))
    np.testing.assert_allclose(rows_of(full), again, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("size", "fraction", "front"), [(4, 0.5, 2), (6, 0.75, 5), (3, 0.0, 0)])
def test_a_batch_is_chosen_at_random(size: int, fraction: float, front: int) -> None:
    layer = replace(TARGET, batch_size=size, fg_fraction=fraction, bg_thr_lw=0.0)
    found = judged(layer, REGIONS, TRUTH)
    chosen = set()
    for seed in range(20):
        rows = rows_of(as_they_come(layer, REGIONS, TRUTH, seed=seed))
        assert len(rows) == size and (rows[:, 5] > 0).sum() == front
        for index, row in enumerate(rows):
            kind = "front" if index < front else "back"
            (place,) = (
                i
                for i, (k, want) in enumerate(found)
                if k == kind and np.allclose(want, row, atol=1e-9)
            )
            chosen.add(place)
    # Each has its turn.
    kinds = {"back", "front"} if front else {"back"}
    assert chosen == {i for i, (kind, _) in enumerate(found) if kind in kinds}


def test_other_regions_fill_the_batch_up_and_then_drawn_ones() -> None:
    layer = replace(TARGET, batch_size=40, fg_fraction=0.1)
    found = judged(layer, REGIONS, TRUTH)
    rows = rows_of(as_they_come(layer, REGIONS, TRUTH))
    known = [row for wanted in ("back", "other") for kind, row in found if kind == wanted]
    np.testing.assert_allclose(rows[4 : 4 + len(known)], known, atol=1e-9)
    drawn = rows[4 + len(known) :]
    assert len(rows) == 40 and len(drawn) > 20
    assert not drawn[:, 5:].any() and set(drawn[:, 0]) == {0, 1, 2}
    assert (drawn[:, 3:5] - drawn[:, 1:3] >= 31).all()
    assert (drawn[:, 1:3] >= 0).all() and (drawn[:, 1:3] < (68, 48)).all()
    for row in drawn:
        assert all(iou(row[1:5], t[1:5]) < layer.fg_thr for t in TRUTH if t[0] == row[0])
    check_layer(layer, [REGIONS, TRUTH], gradient=False)


def test_images_without_objects() -> None:
    layer = replace(TARGET, batch_size=12)
    rows = rows_of(as_they_come(layer, REGIONS, TRUTH[4:]))
    assert len(rows) == 12 and not rows[:, 5:].any()
    assert len(as_they_come(TARGET, REGIONS, TRUTH[4:])[0]) == 0


def test_the_batches_of_cascade_rcnn_may_be_smaller() -> None:
    nothing = np.full((1, 8), -1.0)
    truth = np.concatenate((np.column_stack((TRUTH, np.zeros(len(TRUTH)))), nothing))
    layer = replace(TARGET, batch_size=40)
    many = rows_of(as_they_come(layer, REGIONS, TRUTH))
    few = rows_of(as_they_come(layer, REGIONS, truth))
    assert len(few) < len(many) == 40
    assert {tuple(row) for row in few} <= {tuple(row) for row in many}
    check_layer(layer, [REGIONS, truth], gradient=False)
    # Without any region one is drawn, for all regions too.
    for size in (12, -1):
        layer = replace(TARGET, batch_size=size, bg_thr_lw=0.1)
        rows = rows_of(as_they_come(layer, np.zeros((2, 5)), nothing))
        assert len(rows) == 1 and not rows[:, 5:].any() and rows[0, 1:5].any()
    layer = replace(TARGET, batch_size=-1, bg_thr_lw=0.1, img_width=0)
    assert len(as_they_come(layer, np.zeros((2, 5)), nothing)[0]) == 0


@pytest.mark.parametrize(
    ("change", "column", "value", "setting"),
    [(0, 0, 3, "num_img_per_batch"), (1, 0, 5, "num_img_per_batch"), (1, 5, 3, "cls_num")],
)
def test_images_and_classes_that_there_are_not(change, column, value, setting) -> None:
    bottoms = [REGIONS.copy(), TRUTH.copy()]
    bottoms[change][0, column] = value
    with pytest.raises(Refusal) as caught:
        forward(TARGET, bottoms)
    assert caught.value.setting == setting


def test_no_background_at_all() -> None:
    truth = np.array([[i, 0, 0, 99, 79, 1, 0.0] for i in range(3)])
    layer = replace(TARGET, batch_size=9, fg_thr=0.01, bg_thr_hg=0.01)
    with pytest.raises(Refusal, match="no background"):
        forward(layer, [REGIONS, truth])


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"cls_num": 1}, "cls_num"),
        ({"batch_size": 0}, "batch_size"),
        ({"bg_thr_hg": 0.6}, "bg_thr_hg"),
        ({"fg_thr": 1.5}, "fg_thr"),
        ({"batch_size": 8, "img_width": 32}, "img_width"),
        ({"batch_size": 8, "img_height": 0}, "img_height"),
        ({"num_img_per_batch": 0}, "num_img_per_batch"),
    ],
)
def test_what_does_not_fit_is_refused(settings, setting: str) -> None:
    with pytest.raises(Refusal) as caught:
        replace(TARGET, **settings).infer(BlobType((8, 5)), BlobType((5, 7)))
    assert caught.value.setting == setting


def test_bottoms_that_do_not_fit() -> None:
    with pytest.raises(Refusal, match="bottom 1"):
        TARGET.infer(BlobType((8, 5)), BlobType((5, 5)))
    with pytest.raises(NetcError, match="export the net for testing"):
        check_lowering(TARGET, [REGIONS, TRUTH])


TEXT = """
    input: "regions" input_shape { dim: 8 dim: 5 }
    input: "truth" input_shape { dim: 5 dim: 7 }
    layer { name: "p" type: "ProposalTarget" bottom: "regions" bottom: "truth"
      top: "rois" top: "labels" top: "targets" top: "inside" top: "outside" top: "matches"
      proposal_target_param { %s batch_size: 64 fg_fraction: 0.25 num_img_per_batch: 2
        fg_thr: 0.45 bg_thr_hg: 0.44 bg_thr_lw: 0.05 img_width: 448 img_height: 320 }
      bbox_reg_param { cls_aware: false } }
    """


def test_the_text_of_the_fork_is_read() -> None:
    graph = graph_of(TEXT % "cls_num: 3")
    assert graph.nodes[-1].layer == ImageProposalTarget(
        64, 0.25, 3, 2, 0.45, 0.44, 0.05, 448, 320, BBoxRegParam(cls_aware=False)
    )
    assert graph.blobs["targets"].shape == (64, 8) and graph.blobs["matches"].shape == (64, 6)
    with pytest.raises(NetcError, match="num_classes and cls_num exclude each other"):
        graph_of(TEXT % "cls_num: 3 num_classes: 3")
