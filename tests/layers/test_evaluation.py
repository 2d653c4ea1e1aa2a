from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.errors import NetcError
from netc.layers.evaluation import DetectionEvaluate, RegionEvaluate, SizeFile, in_pixels
from netc.layers.transform import ResizeMode, ResizeParam
from netc.layers.types import BlobType, Refusal
from tests.support.audit import definition
from tests.support.detection import objects, random_objects
from tests.support.layer_harness import assert_close, check_layer, forward
from tests.support.lowering import check_lowering

Row = tuple[float, ...]
EVALUATE = DetectionEvaluate(num_classes=3)


def detections(*rows: Row) -> np.ndarray:
    """Rows of (image, class, score, xmin, ymin, xmax, ymax) as (1, 1, R, 7)."""
    return np.array(rows, np.float64).reshape(1, 1, -1, 7)


def judged(layer: DetectionEvaluate, *bottoms: np.ndarray) -> list[list[float]]:
    """The rows of the detections, without those that are left over."""
    (top,) = forward(layer, list(bottoms)).tops
    rows = top[0, 0, (layer.num_classes or 0) - 1 :]
    return rows[rows[:, 1] != -1].tolist()


BOX = (0.1, 0.1, 0.5, 0.5)
NEAR = (0.1, 0.1, 0.5, 0.45)
FAR = (0.6, 0.6, 0.9, 0.9)


def test_the_best_detection_of_an_object_is_right() -> None:
    found = detections((0, 1, 0.5, *NEAR), (0, 1, 0.9, *BOX), (0, 1, 0.7, *FAR))
    assert judged(EVALUATE, found, objects([(0, 1, *BOX)])) == [
        [0, 1, 0.9, 1, 0],
        [0, 1, 0.7, 0, 1],
        [0, 1, 0.5, 0, 1],
    ]


def test_class_and_image_must_be_right() -> None:
    wanted = objects([(0, 1, *BOX), (1, 2, *BOX)])
    found = detections((0, 2, 0.9, *BOX), (1, 1, 0.8, *BOX), (2, 1, 0.7, *BOX), (1, 2, 0.1, *BOX))
    assert judged(EVALUATE, found, wanted) == [
        [0, 2, 0.9, 0, 1],
        [1, 1, 0.8, 0, 1],
        [1, 2, 0.1, 1, 0],
        [2, 1, 0.7, 0, 1],
    ]


def test_difficult_objects_may_not_count() -> None:
    wanted = objects([(0, 1, *BOX, 1), (0, 1, *FAR, 0)])
    found = detections((0, 1, 0.9, *BOX), (0, 1, 0.8, *FAR))
    lenient = replace(EVALUATE, evaluate_difficult_gt=False)
    assert judged(EVALUATE, found, wanted) == [[0, 1, 0.9, 1, 0], [0, 1, 0.8, 1, 0]]
    assert judged(lenient, found, wanted) == [[0, 1, 0.9, 0, 0], [0, 1, 0.8, 1, 0]]
    for layer, count in ((EVALUATE, 2), (lenient, 1)):
        rows = forward(layer, [found, wanted]).tops[0][0, 0, :2]
        assert rows.tolist() == [[-1, 1, count, -1, -1], [-1, 2, 0, -1, -1]]


def test_rows_without_content_on_either_side() -> None:
    nothing = (-1,) * 7
    found = detections(nothing, (0, -1, -1, -1, -1, -1, -1), (0, 1, 0.5, *BOX), nothing)
    wanted = objects([(-1, -1), (0, 1, *BOX), (-1, -1)])
    (top,) = forward(EVALUATE, [found, wanted]).tops
    assert top.shape == (1, 1, 6, 5)
    assert top[0, 0, 2:].tolist() == [[0, 1, 0.5, 1, 0], *[[-1] * 5] * 3]


@definition("DetectionEvaluate")
def slowly(layer: DetectionEvaluate, found: list[Row], wanted: list[Row]) -> list[Row]:
    """Detections by image and class, each judged by itself."""
    rows = []
    for image, label in sorted({row[:2] for row in found}):
        own = [row for row in found if row[:2] == (image, label)]
        there = [row for row in wanted if row[:2] == (image, label)]
        if there:
            own.sort(key=lambda row: -row[2])
        taken = set()
        for row in own:
            overlaps = [jaccard(row[3:], o[3:7]) for o in there]
            best = max(overlaps, default=-1)
            index = overlaps.index(best) if there else -1
            hit = there and best >= layer.overlap_threshold
            if hit and there[index][7] and not layer.evaluate_difficult_gt:
                rows.append((*row[:3], 0, 0))
                continue
            right = bool(hit and index not in taken)
            taken |= {index} if right else set()
            rows.append((*row[:3], int(right), int(not right)))
    return rows


def jaccard(a: Row, b: Row) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0
    return w * h / (sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - w * h)


@given(st.integers(0, 12), st.booleans(), st.sampled_from([0.1, 0.5]), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_by_the_definition(n: int, difficult: bool, threshold: float, seed: int) -> None:
    layer = DetectionEvaluate(
        num_classes=3, evaluate_difficult_gt=difficult, overlap_threshold=threshold
    )
    wanted = random_objects(2, 4, 3, seed)
    rng = np.random.default_rng(seed)
    rows = []
    for score in rng.permutation(n) / 16:
        low = rng.uniform(0, 0.6, 2)
        image, label = int(rng.integers(0, 3)), int(rng.integers(1, 3))
        rows.append((image, label, score, *low, *(low + rng.uniform(0.1, 0.4, 2))))
    found = detections(*rows)
    (top,) = check_layer(layer, [found, wanted], gradient=False).tops
    want = slowly(layer, rows, [tuple(row) for row in wanted[0, 0] if row[0] != -1])
    assert_close(top[0, 0, 2:], np.array(want).reshape(-1, 5))


# -- in pixels -------------------------------------------------------------------------------------


def test_in_pixels() -> None:
    box = np.array([[-0.5, 0.25, 0.5, 1.5]])
    assert in_pixels(np, box, 100, 200, None).tolist() == [[0, 25, 100, 100]]


@pytest.mark.parametrize(("height", "width", "inner"), [
    (100, 200, (0.0, 0.25, 1.0, 0.75)),  # a border above and below
    (200, 100, (0.25, 0.0, 0.75, 1.0)),
    (50, 50, (0.0, 0.0, 1.0, 1.0)),
])  # fmt: skip
def test_a_border_is_undone(height: int, width: int, inner: Row) -> None:
    resize = ResizeParam(resize_mode=ResizeMode.FIT_LARGE_SIZE_AND_PAD, height=300, width=300)
    got = in_pixels(np, np.array(inner), height, width, resize)
    assert_close(got, np.array([0.0, 0.0, width, height]))


def test_another_scale() -> None:
    resize = ResizeParam(
        resize_mode=ResizeMode.FIT_SMALL_SIZE, height=9, width=9, height_scale=50, width_scale=40
    )
    got = in_pixels(np, np.array([0.1, 0.1, 0.5, 3]), 100, 200, resize)
    assert_close(got, np.array([4.0, 5.0, 20.0, 100.0]))


def test_sizes_are_those_of_the_images_in_their_order(tmp_path: Path) -> None:
    # One pixel wide boxes: in fractions they have hardly an overlap, in pixels they share a half.
    layer = DetectionEvaluate(num_classes=2, overlap_threshold=0.3)
    found = detections((0, 1, 0.5, 0, 0, 0.1, 1), (1, 1, 0.5, 0, 0, 0.1, 1))
    wanted = objects([(0, 1, 0.1, 0, 0.2, 1), (1, 1, 0.1, 0, 0.2, 1)])
    sizes = np.array([[[10, 10], [10, 1000], [10, 10]]], np.float64)
    line = np.zeros(1)
    rows = []
    for _ in range(3):
        run = forward(layer, [found, wanted, sizes], kept=[line])
        rows += run.tops[0][0, 0, 1:3, 3].tolist()
        line = run.kept[0]
    assert rows == [1, 0, 1, 1, 0, 1]


def test_the_file_is_read_by_a_layer_of_its_own() -> None:
    layer = DetectionEvaluate(num_classes=2, name_size_file="sizes.txt")
    parts = layer.expand(BlobType((1, 1, 5, 7)), BlobType((1, 1, 5, 8)))
    assert parts is not None
    assert parts[0].layer == SizeFile(source="sizes.txt")
    assert parts[1].layer == DetectionEvaluate(num_classes=2)
    assert parts[1].bottoms == ("$b0", "$b1", *parts[0].tops)
    assert replace(layer, name_size_file="").expand() is None


def test_an_image_without_detections_has_a_line_too() -> None:
    layer = DetectionEvaluate(num_classes=2)
    sizes, wanted = np.array([[[10, 10], [10, 20], [10, 30]]], np.float64), objects([(0, 1, *BOX)])
    nothing = detections((0, *[-1] * 6), (1, *[-1] * 6))
    assert forward(layer, [nothing, wanted, sizes], kept=[np.zeros(1)]).kept[0] == 2


# -- Cascade R-CNN's -------------------------------------------------------------------------------


@definition("RegionEvaluate")
def regions_slowly(layer: RegionEvaluate, found, wanted, before, after) -> list[Row]:
    """As of DetectionEvaluate, in pixels of the images."""

    def scaled(row: Row, image: int, ends: Row) -> Row:
        (h, w), (high, wide) = after[image], before[image]
        x1, y1, x2, y2 = (v * s for v, s in zip(ends, (w / wide, h / high) * 2, strict=True))
        # Both corners belong to a box.
        return (*row, x1, y1, x2 + 1, y2 + 1)

    rows = [scaled((r[0], r[5], r[6]), int(r[0]), r[1:5]) for r in found if r[5] != -1]
    there = [(*scaled((o[0], o[5], 0), int(o[0]), o[1:5]), o[7]) for o in wanted if o[0] != -1]
    return slowly(layer, rows, there)


@pytest.mark.parametrize("difficult", [False, True])
def test_regions_are_judged_in_pixels_of_their_images(difficult: bool) -> None:
    layer = RegionEvaluate(num_classes=3, evaluate_difficult_gt=difficult, overlap_threshold=0.3)
    rng = np.random.default_rng(5)
    found, wanted = [], []
    for image in (0, 0, 0, 0, 0, 1, 1, 1):
        low = rng.uniform(0, 6, 2)
        box = (*low, *(low + rng.uniform(4, 9, 2)))
        found.append((image, *box, rng.integers(1, 3), rng.random()))
        box = (*(low + rng.uniform(-2, 2, 2)), *(low + rng.uniform(3, 10, 2)))
        wanted.append((image, *box, rng.integers(1, 3), 1, rng.integers(0, 2)))
    found += [(0, *[-1.0] * 6), (1, *[-1.0] * 6)]
    wanted += [(-1.0,) * 8]
    before = np.array([[20.0, 30.0], [40.0, 20.0]])
    after = np.array([[10.0, 25.0], [33.0, 18.0], [1, 1]])
    bottoms = [np.array(found), np.array(wanted), before, after]
    run = check_layer(layer, bottoms, gradient=False, kept=[np.zeros(1)])
    (top,) = run.tops
    want = regions_slowly(layer, found, wanted, before, after)
    assert {row[3] for row in want} == {0, 1}
    assert_close(top[2 : 2 + len(want), :, 0, 0], np.array(want, np.float64))
    assert run.kept[0] == 2 and top.shape == (12, 5, 1, 1)
    counts = [sum(difficult or not o[7] for o in wanted if o[5] == c) for c in (1, 2)]
    assert top[:2, 2, 0, 0].tolist() == counts


def test_a_third_bottom_tells_that_regions_are_judged() -> None:
    three = DetectionEvaluate(2, name_size_file="sizes.txt", bottom=("a", "b", "c"))
    layer = three.resolve(None)
    assert layer == RegionEvaluate(2, name_size_file="sizes.txt")
    parts = layer.expand()
    assert parts is not None and parts[1].bottoms == ("$b0", "$b1", "$b2", ".sizes")
    assert EVALUATE.resolve(None) is EVALUATE
    with pytest.raises(Refusal, match="does not go with a third bottom"):
        replace(three, background_label_id=1).resolve(None)
    shapes = [BlobType(shape) for shape in ((3, 7), (2, 8), (1, 2))]
    with pytest.raises(Refusal, match="name_size_file is missing"):
        RegionEvaluate(2).infer(*shapes)
    with pytest.raises(Refusal, match="bottom 1 does not hold"):
        RegionEvaluate(2).infer(shapes[0], shapes[0], shapes[2], BlobType((1, 4, 2)))
    with pytest.raises(Refusal, match="an image that the batch does not have"):
        found, wanted = np.array([[2, 0, 0, 9, 9, 1, 0.5]]), np.full((1, 8), -1.0)
        forward(RegionEvaluate(2), [found, wanted, np.ones((1, 2)), np.ones((1, 1, 2))])
    with pytest.raises(NetcError, match="no ONNX form"):
        check_lowering(RegionEvaluate(2), [found, wanted, np.ones((1, 2)), np.ones((1, 1, 2))])


# -- refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layer", "shapes", "setting"), [
    (DetectionEvaluate(), ((1, 1, 4, 7), (1, 1, 4, 8)), "num_classes"),
    (replace(EVALUATE, overlap_threshold=0), ((1, 1, 4, 7), (1, 1, 4, 8)), "overlap_threshold"),
    (EVALUATE, ((1, 1, 4, 8), (1, 1, 4, 8)), "bottom"),
    (EVALUATE, ((1, 1, 4, 7), (1, 1, 4, 7)), "bottom"),
    (EVALUATE, ((2, 1, 4, 7), (1, 1, 4, 8)), "bottom"),
])  # fmt: skip
def test_refused(layer: DetectionEvaluate, shapes: tuple[Row, Row], setting: str) -> None:
    with pytest.raises(Refusal) as caught:
        layer.infer(*map(BlobType, shapes))
    assert caught.value.setting == setting


def test_the_background_is_not_detected() -> None:
    with pytest.raises(Refusal, match="a detection has class 0, the background"):
        forward(EVALUATE, [detections((0, 0, 0.5, *BOX)), objects([(-1, -1)])])
    with pytest.raises(Refusal, match="an object has class 3"):
        forward(EVALUATE, [detections((0, 1, 0.5, *BOX)), objects([(0, 3, *BOX)])])


def test_has_no_onnx_form() -> None:
    with pytest.raises(NetcError, match="no ONNX form"):
        check_lowering(EVALUATE, [detections((0, 1, 0.5, *BOX)), objects([(0, 1, *BOX)])])
    assert EVALUATE.deployed() is None
