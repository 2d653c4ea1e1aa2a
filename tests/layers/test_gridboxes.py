"""DetectNet's lists of boxes: groups as OpenCV makes them, the rest by definition."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netc.layers.gridboxes import (
    GridClusters,
    GridTruth,
    JudgedPrecision,
    ScoreDetections,
    grouped,
)
from netc.layers.python import Python
from netc.layers.types import Layer, Refusal
from tests.support.audit import definition
from tests.support.layer_harness import forward, infer

GRID = {"image_size_x": 64, "image_size_y": 48, "stride": 16}


def cells(
    boxes: list[tuple[float, float, float, float]], spread: float = 0.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return coverage and corners of a grid whose cells tell of the boxes that they lie in."""
    rng = np.random.default_rng(seed)
    coverage, corners = np.zeros((1, 1, 3, 4)), np.zeros((1, 4, 3, 4))
    for row, column in np.ndindex(3, 4):
        x, y = 16 * column, 16 * row
        for box in boxes:
            if box[0] <= x + 8 < box[2] and box[1] <= y + 8 < box[3]:
                coverage[0, 0, row, column] = 1
                moved = np.array(box) + rng.uniform(-spread, spread, 4)
                corners[0, :, row, column] = moved - (x, y, x, y)
    return coverage, corners


rectangles = st.lists(
    st.tuples(*[st.integers(0, 6)] * 2, *[st.integers(4, 12)] * 2), min_size=1, max_size=14
)


@given(rectangles, st.integers(0, 3), st.sampled_from([0.0, 0.1, 0.2, 0.5]))
def test_groups_are_those_of_opencv(
    given: list[tuple[int, int, int, int]], least: int, eps: float
) -> None:
    wanted, sizes = cv2.groupRectangles([list(r) for r in given], least, eps)
    found = grouped(given, least, eps)
    assert [size for _, size in found] == list(np.ravel(sizes))
    # OpenCV multiplies with a float32 instead of dividing: a half may become another number.
    for (rectangle, _), other in zip(found, wanted, strict=True):
        assert np.abs(np.subtract(rectangle, other)).max() <= 1


@definition("GridClusters")
def clusters(coverage: np.ndarray, corners: np.ndarray, layer: GridClusters) -> list[list[float]]:
    """Let OpenCV group what the cells of one image and class tell."""
    told = []
    for row, column in np.argwhere(coverage >= layer.gridbox_cvg_threshold):
        left, top, right, bottom = corners[:, row, column] + np.array([column, row] * 2) * 16
        told.append([int(left), int(top), int(right - left), int(bottom - top)])
    boxes, sizes = cv2.groupRectangles(told, layer.gridbox_rect_thresh, layer.gridbox_rect_eps)
    return [
        [x, y, x + w, y + h, np.log(size)]
        for (x, y, w, h), size in zip(boxes, np.ravel(sizes), strict=True)
        if h >= layer.min_height
    ]


@pytest.mark.parametrize("min_height", [0, 30])
@pytest.mark.parametrize("spread", [0.0, 2.5])
def test_similar_boxes_of_cells_become_one(spread: float, min_height: int) -> None:
    coverage, corners = cells([(0, 0, 32, 48), (36, 18, 64, 46)], spread)
    layer = GridClusters(
        **GRID, gridbox_cvg_threshold=0.5, gridbox_rect_thresh=1, gridbox_rect_eps=0.3,
        min_height=min_height,
    )  # fmt: skip
    (found,) = forward(layer, [coverage, corners]).tops
    wanted = clusters(coverage[0, 0], corners[0], layer)
    assert found.shape == (1, 50, 5)
    assert 1 <= len(wanted) <= 2
    np.testing.assert_allclose(found[0, : len(wanted)], wanted, rtol=1e-3)
    assert not found[0, len(wanted) :].any()


@definition("GridTruth")
def truths(coverage: np.ndarray, corners: np.ndarray) -> set[tuple[float, ...]]:
    """Return the boxes that the covered cells tell."""
    return {
        tuple(corners[:, row, column] + np.array([column, row] * 2) * 16)
        for row, column in np.argwhere(coverage > 0)
    }


def test_true_boxes_are_told_once() -> None:
    coverage, corners = cells([(0, 0, 32, 48), (36, 18, 64, 46)])
    both = np.concatenate([coverage, np.zeros_like(coverage)], axis=1)
    found, none = forward(GridTruth(**GRID, num_classes=2), [both, corners]).tops
    wanted = truths(coverage[0, 0], corners[0])
    assert {tuple(box[:4]) for box in found[0, :2]} == wanted
    assert not found[0, 2:].any() and not found[..., 4].any() and not none.any()


@definition("ScoreDetections")
def judged(true: np.ndarray, boxes: np.ndarray) -> tuple[list[bool], list[bool]]:
    """Tell of each box whether it found a true one, and of each true one whether it was found."""
    hit, met = [False] * len(boxes), [False] * len(true)
    for i, one in enumerate(true):
        for j, other in enumerate(boxes):
            grid = np.zeros((2, 80, 80), bool)
            for plane, box in zip(grid, (one, other), strict=True):
                left, top, right, bottom = box.astype(int)
                plane[top:bottom, left:right] = True
            if grid.all(axis=0).sum() >= 0.7 * grid.any(axis=0).sum() and not hit[j]:
                hit[j] = met[i] = True
                break
    return hit, met


@pytest.mark.parametrize("seed", range(6))
def test_boxes_are_judged_by_what_is_true(seed: int) -> None:
    rng = np.random.default_rng(seed)
    start, size = rng.integers(0, 30, (6, 2)), rng.integers(15, 40, (6, 2))
    true = np.concatenate([start, start + size], axis=1).astype(float)
    boxes = np.concatenate([true + rng.integers(0, 4, (6, 4)), true[:2]])[rng.permutation(8)]
    bottoms = [np.zeros((1, 50, 5)), np.zeros((1, 50, 5))]
    for bottom, rows in zip(bottoms, (true, boxes), strict=True):
        bottom[0, 1 : 1 + len(rows), :4] = rows  # zeros may stand anywhere
    (found,) = forward(ScoreDetections(), bottoms).tops
    hit, met = judged(true, boxes)
    wanted = [(*box, 1) for box, is_hit in zip(boxes, hit, strict=True) if is_hit]
    wanted += [(*box, 2) for box, is_hit in zip(boxes, hit, strict=True) if not is_hit]
    wanted += [(*box, 3) for box, is_met in zip(true, met, strict=True) if not is_met]
    np.testing.assert_array_equal(found[0, : len(wanted)], wanted)
    assert not found[0, len(wanted) :].any()


@definition("JudgedPrecision")
def precision(kinds: list[int]) -> tuple[float, float]:
    """Return precision and recall of boxes of these kinds."""
    found = kinds.count(1)
    shown, true = found + kinds.count(2), found + kinds.count(3)
    return (found / shown if shown else 0.0), (found / true if true else 0.0)


@pytest.mark.parametrize("kinds", [[], [1, 1, 2, 3, 3, 3], [2, 2], [3], [1]])
def test_precision_and_recall(kinds: list[int]) -> None:
    boxes = np.zeros((2, 50, 5))
    boxes[1, : len(kinds), 4] = kinds
    score, shown, true = (float(top[0]) for top in forward(JudgedPrecision(), [boxes]).tops)
    wanted = precision(kinds)
    assert (shown, true) == pytest.approx([100 * share for share in wanted])
    assert score == pytest.approx(100 * wanted[0] * wanted[1])


def known(name: str, module: str, param_str: str) -> Layer:
    layer = Python(module=f"caffe.layers.detectnet.{module}", layer=name, param_str=param_str)
    return layer.resolve(None)


def test_the_layers_of_detectnet_are_known_by_their_names() -> None:
    text = "1248, 352, 16, 0.6, 3, 0.02, 22, 1"
    wanted = GridClusters(1248, 352, 16, 1, 0.6, 3, 0.02, 22)
    assert known("ClusterDetections", "clustering", text) == wanted
    assert known("ClusterDetections", "clustering", text[:-3]) == wanted
    assert known("ClusterGroundtruth", "clustering", "64,48,16,2") == GridTruth(64, 48, 16, 2)
    assert known("ScoreDetections", "mean_ap", "") == ScoreDetections()
    assert known("mAP", "mean_ap", "1248, 352, 16") == JudgedPrecision()


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("ClusterGroundtruth", "64,48,16,1,5", "no row of numbers"),
        ("ClusterGroundtruth", "64,48,wide", "no row of numbers"),
        ("ClusterDetections", "64,48,16", "lacks 'gridbox_cvg_threshold'"),
    ],
)
def test_other_numbers_are_refused(name: str, text: str, told: str) -> None:
    with pytest.raises(Refusal, match=told):
        known(name, "clustering", text)


@pytest.mark.parametrize(
    ("layer", "shapes", "told"),
    [
        (GridTruth(64, 48, 0), [(1, 1, 3, 4), (1, 4, 3, 4)], "stride is not positive"),
        (GridTruth(64, 8, 16), [(1, 1, 3, 4), (1, 4, 3, 4)], "no whole cell"),
        (GridTruth(**GRID), [(1, 2, 3, 4), (1, 4, 3, 4)], "one map of coverage"),
        (GridTruth(**GRID), [(1, 1, 3, 4), (1, 4, 4, 3)], "do not belong"),
        (ScoreDetections(), [(1, 5, 5), (2, 5, 5)], "no list of boxes"),
        (JudgedPrecision(), [(1, 5, 4)], "no judged boxes"),
    ],
)
def test_what_does_not_fit_is_refused(
    layer: Layer, shapes: list[tuple[int, ...]], told: str
) -> None:
    with pytest.raises(Refusal, match=told):
        infer(layer, [np.zeros(shape) for shape in shapes])
