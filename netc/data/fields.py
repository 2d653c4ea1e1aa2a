"""Labels for maps of fields: which object each position of a map should find.

Boxes are (k, 4) in pixels, x1, y1, x2, y2, all in float32: in the forks too what a label says hangs
on how that rounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from netc.layers.fielddata import FieldReader, whole
from netc.layers.mscnn import LABEL

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Objects:
    """The objects of an image, and its regions of no interest."""

    boxes: Floats
    classes: Floats
    ignored: NDArray[np.bool_]
    difficult: Floats
    regions: Floats = field(default_factory=lambda: np.empty((0, 4), np.float32))

    def moved(self, factors: Sequence[float], shift: Sequence[float] = (0.0, 0.0)) -> Objects:
        """Return them in an image that is scaled by factors (x, y), then shifted."""
        scale, by = np.array((*factors, *factors), np.float32), np.array((*shift, *shift))
        boxes, regions = (b * scale + by.astype(np.float32) for b in (self.boxes, self.regions))
        return replace(self, boxes=boxes, regions=regions)

    def mirrored(self, width: int) -> Objects:
        """Return them in a mirrored image."""
        both = []
        for boxes in (self.boxes, self.regions):
            flipped = boxes.copy()
            flipped[:, 0], flipped[:, 2] = width - boxes[:, 2], width - boxes[:, 0]
            both.append(flipped)
        return replace(self, boxes=both[0], regions=both[1])


@dataclass(frozen=True, slots=True)
class Inside:
    """The part of a window that shows the image: all the rest is empty. In pixels."""

    left: int
    top: int
    width: int
    height: int


def judged(layer: FieldReader, objects: Objects, height: int, width: int) -> Objects:
    """Return the objects of a window of some size; those that should not be learnt are ignored."""
    low, high = objects.boxes[:, :2], objects.boxes[:, 2:]
    centre, size = (low + high) / np.float32(2), high - low + 1
    outside = (centre < 0).any(axis=1) | (centre >= (width, height)).any(axis=1)
    small = (size < (layer.min_gt_width, layer.min_gt_height)).any(axis=1)
    return replace(objects, ignored=objects.ignored | outside | small)


@dataclass(frozen=True, slots=True)
class _Axis:
    """The fields of one map along one axis: where they begin and end."""

    low: Floats
    high: Floats

    @classmethod
    def of(cls, positions: int, stride: int, size: int) -> _Axis:
        middle = (np.arange(positions, dtype=np.float32) + np.float32(0.5)) * np.float32(stride)
        return cls(middle - np.float32(size / 2), middle + np.float32(size / 2))

    def shared(self, low: Floats, high: Floats, *, pixels: bool, strictly: bool) -> Floats:
        """Return how much of each of k intervals is in each field, (positions, k)."""
        length = np.minimum(self.high[:, None], high) - np.maximum(self.low[:, None], low)
        if pixels:
            apart = length <= 0 if strictly else length < 0
            return np.asarray(np.where(apart, 0, length + 1))
        return np.asarray(np.maximum(length, 0))


@dataclass(frozen=True, slots=True)
class _Map:
    """The fields of one map, and what boxes share with them."""

    x: _Axis
    y: _Axis
    size: tuple[int, int]
    pixels: bool

    def common(self, boxes: Floats) -> Floats:
        """Return the area that each field has in common with each box, (H, W, k)."""
        columns = self.x.shared(boxes[:, 0], boxes[:, 2], pixels=self.pixels, strictly=False)
        # In Cascade R-CNN's fork boxes that share one row alone share nothing.
        rows = self.y.shared(boxes[:, 1], boxes[:, 3], pixels=self.pixels, strictly=True)
        found = rows[:, None] * columns[None]
        return np.asarray(np.where(_areas(boxes, self.pixels) > 0, found, 0))

    @property
    def area(self) -> float:
        """The area of a field."""
        return float((self.size[0] + self.pixels) * (self.size[1] + self.pixels))

    def overlaps(self, boxes: Floats) -> Floats:
        """Return intersection over union of each field and each box, (H, W, k)."""
        common = self.common(boxes)
        union = np.float32(self.area) + _areas(boxes, self.pixels) - common
        return np.asarray(common / np.where(union > 0, union, 1))

    def within(self, boxes: Floats) -> Floats:
        """Return which share of each field lies within boxes, added up, (H, W)."""
        return np.asarray((self.common(boxes) / np.float32(self.area)).sum(axis=2))


def _areas(boxes: Floats, pixels: bool) -> Floats:
    """Return the areas of boxes; 0 for one whose corners are in wrong order."""
    sizes = boxes[:, 2:] - boxes[:, :2]
    valid = (sizes >= 0).all(axis=1)
    return np.asarray(np.where(valid, (sizes + pixels).prod(axis=1), 0))


def labels(
    layer: FieldReader, objects: Objects, height: int, width: int, inside: Inside
) -> list[Floats]:
    """Return the labels of each map, (6, H, W), for a window of some size.

    `objects` are those that `judged` gives for the window.
    """
    found: list[Floats] = []
    matched = np.zeros(len(objects.boxes), bool)
    best = np.zeros(len(objects.boxes), np.float32)
    best_map = np.zeros(len(objects.boxes), np.int64)
    for index, (stride, high, wide) in enumerate(
        zip(layer.strides, layer.field_h, layer.field_w, strict=True)
    ):
        rows, columns = layer.label_size(height, stride), layer.label_size(width, stride)
        fields = _Map(
            _Axis.of(columns, stride, wide), _Axis.of(rows, stride, high), (wide, high),
            layer.pixels,
        )  # fmt: skip
        empty = _outside(inside, stride, rows, columns)
        empty |= _leaving(layer, fields, inside)
        of_none = fields.within(objects.regions) >= np.float32(layer.no_interest)
        if layer.interest_first:
            empty |= of_none
        one = np.zeros((LABEL, rows, columns), np.float32)
        overlaps = fields.overlaps(objects.boxes)
        overlaps[empty] = 0
        if overlaps.shape[2]:
            most = overlaps.max(axis=(0, 1))
            better = most > best
            best[better], best_map[better] = most[better], index
            nearest, largest = overlaps.argmax(axis=2), overlaps.max(axis=2)
            hits = largest > np.float32(layer.fg_threshold)
            _write(layer, one, hits, objects, nearest[hits])
            matched[nearest[hits]] = True
            one[LABEL - 1] = largest
            of_none &= ~hits
        one[LABEL - 1][empty | of_none] = 1
        found.append(one)
    least = np.float32(layer.least_overlap)
    for k in np.flatnonzero(~objects.ignored & ~matched & (best >= least)):
        if found:
            _pick_up(layer, found[best_map[k]], objects, int(k), int(best_map[k]), best[k])
    return found


def _outside(inside: Inside, stride: int, rows: int, columns: int) -> NDArray[np.bool_]:
    """Return which positions show nothing of the image."""
    left, top, width, height = (
        whole(v / stride) for v in (inside.left, inside.top, inside.width, inside.height)
    )
    there = np.zeros((rows, columns), bool)
    there[top : top + height, left : left + width] = True
    return ~there


def _leaving(layer: FieldReader, fields: _Map, inside: Inside) -> NDArray[np.bool_]:
    """Return which fields leave the image too far."""
    right, bottom = inside.left + inside.width, inside.top + inside.height
    image = np.array([[inside.left, inside.top, right, bottom]], np.float32)
    leaving = np.zeros((len(fields.y.low), len(fields.x.low)), bool)
    if layer.least_inside > 0:
        leaving |= fields.within(image) < np.float32(layer.least_inside)
    if layer.margin is not None:
        by = [np.float32(layer.margin) * np.float32(side / 2) for side in fields.size]
        leaving |= (fields.x.low < inside.left - by[0]) | (fields.x.high >= right + by[0])
        across = (fields.y.low < inside.top - by[1]) | (fields.y.high >= bottom + by[1])
        leaving |= across[:, None]
    return leaving


def _boxes(layer: FieldReader, boxes: Floats) -> Floats:
    """Return centre x and y, width and height of boxes, (4, k)."""
    low, high = boxes[:, :2], boxes[:, 2:]
    return np.concatenate(((low + high) / np.float32(2), high - low + layer.pixels), axis=1).T


def _write(
    layer: FieldReader,
    one: Floats,
    where: NDArray[np.bool_],
    objects: Objects,
    which: NDArray[np.int64],
) -> None:
    """Write class and box of objects to some positions of a map."""
    one[0][where] = np.where(objects.ignored, 0, objects.classes)[which]
    one[1:5, where] = _boxes(layer, objects.boxes[which])


def _pick_up(
    layer: FieldReader, one: Floats, objects: Objects, k: int, index: int, overlap: np.float32
) -> None:
    """Write an object to the position at its centre, unless that has another one."""
    stride, (rows, columns) = layer.strides[index], one.shape[1:]
    box = _boxes(layer, objects.boxes[k : k + 1])
    column, row = (
        min(max(math.floor(float(centre) / stride), 0), count - 1)
        for centre, count in zip(box[:2, 0], (columns, rows), strict=True)
    )
    if one[0, row, column] > 0:
        return
    one[0, row, column] = objects.classes[k]
    one[1:5, row, column] = box[:, 0]
    if layer.pixels:
        one[LABEL - 1, row, column] = overlap
