"""Labels for maps of fields: against loops over positions and objects, in float32."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.data.fields import Inside, Objects, judged, labels
from netc.layers.fielddata import DetectionData, FieldReader, ImageGtData

F = np.float32
CASCADE = DetectionData(
    "list", 1, ("data", "a", "b"), stride=(8, 16), field_h=(24, 40), field_w=(16, 48),
    fg_threshold=0.3, pickup_iou_thr=0.1,
)  # fmt: skip
MSCNN = ImageGtData(
    "list", 1, ("data", "a", "b"), downsample_rate=(8, 16), field_h=(24, 40), field_w=(16, 48),
    fg_threshold=0.3,
)  # fmt: skip
SIZE = 64, 80


def some_objects(count: int, regions: int, seed: int) -> Objects:
    rng = np.random.default_rng(seed)

    def boxes(n: int) -> np.ndarray:
        low = rng.uniform(-10, 60, (n, 2))
        return np.concatenate((low, low + rng.uniform(4, 50, (n, 2))), axis=1).astype(F)

    flags = rng.integers(0, 4, count) == 0
    classes, difficult = rng.integers(1, 4, count), rng.integers(0, 2, count)
    return Objects(boxes(count), classes.astype(F), flags, difficult.astype(F), boxes(regions))


def common(a, b, pixels: bool) -> np.floating:
    if any(box[2] < box[0] or box[3] < box[1] for box in (a, b)):
        return F(0)
    wide = F(min(a[2], b[2]) - max(a[0], b[0]))
    high = F(min(a[3], b[3]) - max(a[1], b[1]))
    if pixels:
        return F(0) if wide < 0 or high <= 0 else (wide + F(1)) * (high + F(1))
    return F(0) if wide <= 0 or high <= 0 else wide * high


def area(a, pixels: bool) -> np.floating:
    return (F(a[2] - a[0]) + F(pixels)) * (F(a[3] - a[1]) + F(pixels))


def iou(a, b, pixels: bool) -> np.floating:
    shared = common(a, b, pixels)
    return shared / (area(a, pixels) + area(b, pixels) - shared)


def slowly(layer: FieldReader, objects: Objects, inside: Inside) -> list[np.ndarray]:
    """The labels of each map, position by position."""
    cascade, p = isinstance(layer, DetectionData), layer.pixels
    found, matched, best = [], set(), {}
    right, bottom = inside.left + inside.width, inside.top + inside.height
    for index, (stride, fh, fw) in enumerate(
        zip(layer.strides, layer.field_h, layer.field_w, strict=True)
    ):
        rows, columns = (math.floor(side / stride + 0.5) for side in SIZE)
        one = np.zeros((6, rows, columns), F)
        left, top, wide, high = (
            math.floor(v / stride + 0.5)
            for v in (inside.left, inside.top, inside.width, inside.height)
        )
        for h, w in np.ndindex(rows, columns):
            x, y = (w + 0.5) * stride, (h + 0.5) * stride
            own = [F(v) for v in (x - fw / 2, y - fh / 2, x + fw / 2, y + fh / 2)]
            if not (left <= w < left + wide and top <= h < top + high):
                one[5, h, w] = 1
                continue
            if cascade and layer.anchor_ignore_margin_ratio is not None:
                dx, dy = (F(layer.anchor_ignore_margin_ratio) * F(s / 2) for s in (fw, fh))
                beyond = own[0] < inside.left - dx or own[2] >= right + dx
                if beyond or own[1] < inside.top - dy or own[3] >= bottom + dy:
                    one[5, h, w] = 1
                    continue
            elif cascade and layer.anchor_ignore_iou_thr is not None:
                image = [F(v) for v in (inside.left, inside.top, right, bottom)]
                if common(own, image, p) / area(own, p) < F(layer.anchor_ignore_iou_thr):
                    one[5, h, w] = 1
                    continue
            share = sum((common(own, r, p) / area(own, p) for r in objects.regions), F(0))
            if not cascade and share >= F(0.4):
                one[5, h, w] = 1
                continue
            overlaps = [iou(box, own, p) for box in objects.boxes]
            for k, value in enumerate(overlaps):
                if value > best.get(k, (F(0), 0))[0]:
                    best[k] = value, index
            largest = max(overlaps, default=F(0))
            if largest > F(layer.fg_threshold):
                k = overlaps.index(largest)
                matched.add(k)
                x1, y1, x2, y2 = objects.boxes[k]
                label = 0 if objects.ignored[k] else objects.classes[k]
                one[:, h, w] = (
                    label, (x1 + x2) / F(2), (y1 + y2) / F(2), x2 - x1 + p, y2 - y1 + p, largest
                )  # fmt: skip
            elif cascade and share >= F(layer.ignore_fg_threshold):
                one[5, h, w] = 1
            else:
                one[5, h, w] = largest
        found.append(one)
    least = F(layer.pickup_iou_thr if cascade else 0.2)
    for k, (value, index) in sorted(best.items()):
        if objects.ignored[k] or k in matched or value < least:
            continue
        one, stride = found[index], layer.strides[index]
        x1, y1, x2, y2 = objects.boxes[k]
        centre = (x1 + x2) / F(2), (y1 + y2) / F(2)
        w, h = (
            min(max(math.floor(c / stride), 0), one.shape[2 - axis] - 1)
            for axis, c in enumerate(centre)
        )
        if one[0, h, w] > 0:
            continue
        one[:5, h, w] = (objects.classes[k], *centre, x2 - x1 + p, y2 - y1 + p)
        if cascade:
            one[5, h, w] = value
    return found


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(
        [
            CASCADE,
            replace(CASCADE, anchor_ignore_margin_ratio=0.25),
            replace(CASCADE, anchor_ignore_iou_thr=0.7, ignore_fg_threshold=0.2),
            MSCNN,
        ]
    ),
    st.integers(0, 6),
    st.integers(0, 3),
    st.integers(0, 999),
)
def test_labels_are_their_definition(
    layer: FieldReader, count: int, regions: int, seed: int
) -> None:
    objects = some_objects(count, regions, seed)
    rng = np.random.default_rng(seed)
    left, top = (int(v) for v in rng.integers(0, 20, 2))
    inside = Inside(left, top, *(int(v) for v in rng.integers(20, 45, 2)))
    found = labels(layer, objects, *SIZE, inside)
    for one, wanted in zip(found, slowly(layer, objects, inside), strict=True):
        np.testing.assert_allclose(one, wanted, rtol=1e-5, atol=1e-6)


def test_an_object_that_no_field_suits_is_found_at_its_centre() -> None:
    box = np.array([[33, 17, 40, 30]], F)
    one = Objects(box, np.array([2], F), np.array([False]), np.zeros(1, F))
    maps = labels(CASCADE, one, *SIZE, Inside(0, 0, 80, 64))
    (at,) = np.argwhere(maps[0][0] > 0)
    assert at.tolist() == [2, 4] and not maps[1][0].any()
    assert maps[0][:5, 2, 4].tolist() == [2, 36.5, 23.5, 8, 14]
    assert maps[0][5, 2, 4] == max(m[5].max() for m in maps)
    ignored = replace(one, ignored=np.array([True]))
    assert not any(m[0].any() for m in labels(CASCADE, ignored, *SIZE, Inside(0, 0, 80, 64)))


def test_which_objects_are_not_learnt() -> None:
    boxes = np.array([[0, 0, 9, 9], [-9, 0, 5, 9], [70, 60, 90, 70], [5, 5, 6, 20], [5, 5, 20, 6]])
    objects = Objects(boxes.astype(F), np.ones(5, F), np.zeros(5, bool), np.zeros(5, F))
    layer = replace(CASCADE, min_gt_width=3, min_gt_height=3)
    assert judged(layer, objects, *SIZE).ignored.tolist() == [False, True, True, True, True]
    assert judged(CASCADE, objects, *SIZE).ignored.tolist() == [False, True, True, False, False]
    # It stays ignored.
    objects = replace(objects, ignored=np.ones(5, bool))
    assert judged(CASCADE, objects, *SIZE).ignored.all()


def test_boxes_move_with_their_image() -> None:
    objects = some_objects(3, 2, 1)
    twice = objects.mirrored(80).mirrored(80)
    np.testing.assert_allclose(twice.boxes, objects.boxes, atol=1e-5)
    moved = objects.moved((2, 3), (5, -7))
    np.testing.assert_allclose(moved.regions, objects.regions * [2, 3, 2, 3] + [5, -7, 5, -7])
