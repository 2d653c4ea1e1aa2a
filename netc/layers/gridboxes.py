"""DetectNet's boxes: from its grid to a list, and how good they are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from netc.layers.accuracy import Measure
from netc.layers.boxes import overlap
from netc.layers.registry import layer
from netc.layers.types import (
    Arity,
    Array,
    ArrayNamespace,
    BlobType,
    ForwardCall,
    Layer,
    Refusal,
    Signature,
    at_least,
    exactly,
)

#: How many boxes a list has room for, and the values of each: its corners, and one more.
ROOM, VALUES = 50, 5

#: What the last value of a judged box says.
FOUND, WRONG, MISSED = 1, 2, 3

# The least overlap of a box with the truth that it has found.
_OVERLAP = 0.7

Rectangle = tuple[int, int, int, int]


@dataclass(frozen=True)
class GridReader(Layer):
    """Base of those that read boxes from a grid: `image_size_x` x `image_size_y` pixels of cells.

    A cell says for each class whether an object covers it, and where the corners of that are
    relative to its own.
    """

    image_size_x: int = 0
    image_size_y: int = 0
    stride: int = 0
    num_classes: int = 1

    bottoms: ClassVar[Arity] = exactly(2)
    tops: ClassVar[Arity] = at_least(1)

    @property
    def cells(self) -> tuple[int, int]:
        """The rows and columns of the grid that count."""
        return self.image_size_y // self.stride, self.image_size_x // self.stride

    def infer(self, *bottoms: BlobType) -> Signature:
        coverage, corners = bottoms
        for name in ("image_size_x", "image_size_y", "stride", "num_classes"):
            if getattr(self, name) < 1:
                raise Refusal(
                    f"{name} is not positive",
                    expected=f"{name} > 0",
                    got=getattr(self, name),
                    setting=name,
                )
        if not all(self.cells):
            raise Refusal(
                "the image has no whole cell",
                expected=f"image_size_x and image_size_y >= stride {self.stride}",
                got=f"{self.image_size_x} x {self.image_size_y} pixels",
                setting="stride",
            )
        if coverage.axes != 4 or coverage.shape[1] != self.num_classes:
            raise Refusal(
                "there is not one map of coverage for each class",
                expected=f"shape (N, {self.num_classes}, rows, columns)",
                got=f"bottom 0 of shape {coverage}",
                setting="num_classes",
            )
        if corners.shape != (coverage.shape[0], 4, *coverage.shape[2:]):
            raise Refusal(
                "the corners do not belong to the coverage",
                expected=f"shape ({coverage.shape[0]}, 4, {coverage.span(2, 3)}, "
                f"{coverage.span(3)})",
                got=f"bottom 1 of shape {corners}",
                setting="bottom",
            )
        top = BlobType((coverage.shape[0], ROOM, VALUES))
        return Signature((top,) * self.num_classes)

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        coverage, corners = call.bottoms
        tops = [
            call.xp.zeros((len(coverage), ROOM, VALUES), dtype="float32")
            for _ in range(self.num_classes)
        ]
        for place, top in enumerate(tops):
            for i, cells in enumerate(coverage[:, place]):
                boxes = self.boxes(self._proposals(call.xp, cells, corners[i]))[:ROOM]
                if boxes:
                    # DetectNet's code has lists of half precision.
                    top[i, : len(boxes)] = call.xp.asarray(boxes).astype("float16")
        return tuple(tops)

    def covered(self, cells: Array) -> Array:
        """Tell of each cell whether it belongs to an object."""
        raise NotImplementedError

    def boxes(self, proposals: list[tuple[float, ...]]) -> list[tuple[float, ...]]:
        """Return the boxes (x1, y1, x2, y2, value) for what the covered cells say."""
        raise NotImplementedError

    def _proposals(
        self, xp: ArrayNamespace, cells: Array, corners: Array
    ) -> list[tuple[float, ...]]:
        """Return the corners that the covered cells tell, in pixels of the image."""
        rows, columns = self.cells
        y, x = xp.nonzero(self.covered(cells[:rows, :columns]))
        across, down = self.image_size_x / columns, self.image_size_y / rows
        moved = corners[:, y, x].T + xp.stack([x * across, y * down] * 2, axis=-1)
        return [tuple(corner) for corner in moved.tolist()]

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False,) * n_bottoms


@layer("GridTruth", "grid_box_param")
@dataclass(frozen=True)
class GridTruth(GridReader):
    """The boxes of the ground truth, each of them once, from DetectNet's grid.

    Shapes: coverage (N, `num_classes`, rows, columns), corners (N, 4, rows, columns) -> for each
    class (N, 50, 5): x1, y1, x2, y2, 0; rows of zeros behind the last box.

    ONNX: none, it reads what is known in training only.

    Source: the Python layer `ClusterGroundtruth` of NVCaffe's fork.
    """

    def covered(self, cells: Array) -> Array:
        return cells > 0

    def boxes(self, proposals: list[tuple[float, ...]]) -> list[tuple[float, ...]]:
        return [(*corners, 0.0) for corners in dict.fromkeys(proposals)]


@layer("GridClusters", "grid_box_param")
@dataclass(frozen=True)
class GridClusters(GridReader):
    """The boxes that DetectNet finds: groups of similar ones that its cells tell, and their means.

    Cells with at least `gridbox_cvg_threshold` count. Groups of more than `gridbox_rect_thresh`
    boxes are kept, unless they lie in one with more of them: OpenCV's groupRectangles, with
    `gridbox_rect_eps`. Those lower than `min_height` are left out.

    Shapes: coverage (N, `num_classes`, rows, columns), corners (N, 4, rows, columns) -> for each
    class (N, 50, 5): x1, y1, x2, y2, the logarithm of the group's size; rows of zeros behind.

    ONNX: none, there are no operators for such groups; export the net without this layer.

    Source: the Python layer `ClusterDetections` of NVCaffe's fork.
    """

    gridbox_cvg_threshold: float = 0.0
    gridbox_rect_thresh: int = 0
    gridbox_rect_eps: float = 0.0
    min_height: int = 0

    def covered(self, cells: Array) -> Array:
        return cells >= self.gridbox_cvg_threshold

    def boxes(self, proposals: list[tuple[float, ...]]) -> list[tuple[float, ...]]:
        rectangles = [
            (int(left), int(top), int(right - left), int(bottom - top))
            for left, top, right, bottom in proposals
        ]
        groups = grouped(rectangles, self.gridbox_rect_thresh, self.gridbox_rect_eps)
        return [
            (x, y, x + width, y + height, math.log(size))
            for (x, y, width, height), size in groups
            if height >= self.min_height
        ]


def grouped(rectangles: list[Rectangle], least: int, eps: float) -> list[tuple[Rectangle, int]]:
    """Group similar rectangles (x, y, width, height) as OpenCV's groupRectangles; with sizes.

    A group is what chains of similar ones reach. With `least` 0 every rectangle is a group.
    """
    if least <= 0:
        return [(rectangle, 1) for rectangle in rectangles]
    means = [(_mean(group), len(group)) for group in _chains(rectangles, eps)]
    large = [(mean, size) for mean, size in means if size > least]
    return [
        (mean, size)
        for i, (mean, size) in enumerate(large)
        if not any(
            i != j and _lies_in(mean, other, eps) and (more > max(3, size) or size < 3)
            for j, (other, more) in enumerate(large)
        )
    ]


def _chains(rectangles: list[Rectangle], eps: float) -> Iterator[list[Rectangle]]:
    """Give the groups in the order of their first rectangles."""
    left = dict(enumerate(rectangles))
    while left:
        first = next(iter(left))
        group, waiting = [first], [left.pop(first)]
        while waiting:
            one = waiting.pop()
            near = [i for i, other in left.items() if _are_similar(one, other, eps)]
            group += near
            waiting += [left.pop(i) for i in near]
        yield [rectangles[i] for i in sorted(group)]


def _are_similar(one: Rectangle, other: Rectangle, eps: float) -> bool:
    delta = eps * (min(one[2], other[2]) + min(one[3], other[3])) / 2
    far = max(abs(a - b) for a, b in zip(_corners(one), _corners(other), strict=True))
    return far <= delta


def _corners(rectangle: Rectangle) -> Rectangle:
    x, y, width, height = rectangle
    return x, y, x + width, y + height


def _mean(group: list[Rectangle]) -> Rectangle:
    x, y, width, height = (round(sum(values) / len(group)) for values in zip(*group, strict=True))
    return x, y, width, height


def _lies_in(one: Rectangle, other: Rectangle, eps: float) -> bool:
    dx, dy = round(other[2] * eps), round(other[3] * eps)
    (left, top, right, bottom), outer = _corners(one), _corners(other)
    return (
        left >= outer[0] - dx
        and top >= outer[1] - dy
        and right <= outer[2] + dx
        and bottom <= outer[3] + dy
    )


@layer("ScoreDetections")
@dataclass(frozen=True)
class ScoreDetections(Measure):
    """Which boxes found a true one, and which true ones were missed.

    A true box is found by the first box that overlaps it by 0.7 of their union and has found no
    other.

    Shapes: true boxes (N, 50, 5), boxes (N, 50, 5) -> (N, 50, 5): x1, y1, x2, y2, and 1 for what
    was found, 2 for boxes that found nothing, 3 for true ones that were missed; zeros behind.

    ONNX: none, it judges a net by what is known in training only.

    Source: the Python layer of that name of NVCaffe's fork.
    """

    bottoms: ClassVar[Arity] = exactly(2)

    def infer(self, *bottoms: BlobType) -> Signature:
        for index, blob in enumerate(bottoms):
            if blob.axes != 3 or blob.shape[2] != VALUES or blob.shape[0] != bottoms[0].shape[0]:
                raise Refusal(
                    f"bottom {index} is no list of boxes for each image",
                    expected=f"shape ({bottoms[0].span(0, 1)}, M, {VALUES})",
                    got=f"bottom {index} of shape {blob}",
                    setting="bottom",
                )
        return Signature((BlobType((bottoms[0].shape[0], ROOM, VALUES)),))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        found = call.xp.zeros((len(call.bottoms[0]), ROOM, VALUES), dtype="float32")
        for top, *lists in zip(found, *call.bottoms, strict=True):
            truths, boxes = (rows[rows[:, :4].any(axis=1), :4] for rows in lists)
            judged = _judged(call.xp, truths, boxes)[:ROOM]
            if judged:
                top[: len(judged)] = call.xp.asarray(judged)
        return (found,)


def _judged(xp: ArrayNamespace, truths: Array, boxes: Array) -> list[tuple[float, ...]]:
    found: set[int] = set()
    missed = []
    fits = overlap(xp, boxes.astype("float64"), truths[:, None].astype("float64")) >= _OVERLAP
    for truth, fitting in zip(truths.tolist(), fits.tolist(), strict=True):
        match = next((i for i, fit in enumerate(fitting) if fit and i not in found), None)
        if match is None:
            missed.append((*truth, float(MISSED)))
        else:
            found.add(match)
    right = [(*box, float(FOUND)) for i, box in enumerate(boxes.tolist()) if i in found]
    wrong = [(*box, float(WRONG)) for i, box in enumerate(boxes.tolist()) if i not in found]
    return right + wrong + missed


@layer("JudgedPrecision")
@dataclass(frozen=True)
class JudgedPrecision(Measure):
    """Precision and recall of judged boxes in percent, and their product.

    Shapes: boxes (N, M, 5) of ScoreDetections -> (1): precision * recall / 100, which DetectNet
    calls mean average precision; (1): precision; (1): recall. What there is none of counts as 0.

    ONNX: none, it judges a net by what is known in training only.

    Source: the Python layer `mAP` of NVCaffe's fork.
    """

    bottoms: ClassVar[Arity] = exactly(1)
    tops: ClassVar[Arity] = exactly(3)

    def infer(self, *bottoms: BlobType) -> Signature:
        if bottoms[0].axes != 3 or bottoms[0].shape[2] != VALUES:
            raise Refusal(
                "the bottom has no judged boxes",
                expected=f"shape (N, M, {VALUES})",
                got=f"bottom of shape {bottoms[0]}",
                setting="bottom",
            )
        return Signature((BlobType((1,)),) * 3)

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        kinds = call.bottoms[0][..., 4]
        found, wrong, missed = (int((kinds == kind).sum()) for kind in (FOUND, WRONG, MISSED))
        precision, recall = (100 * found / (found + other or 1) for other in (wrong, missed))
        values = (precision * recall / 100, precision, recall)
        return tuple(call.xp.full((1,), value, dtype="float32") for value in values)
