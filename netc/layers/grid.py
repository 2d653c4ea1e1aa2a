"""YOLO version 1: a grid of cells, each of which says what is in it, and where, by a few boxes.

The maps of an image are one row. For a grid of S x S cells, K classes and B boxes it holds the
classes (K, S, S), how sure each box is (B, S, S), and the boxes (B, 4, S, S): centre x and y, width
and height, in fractions of the image. The labels of an image are (7 S S): for each cell whether its
object is difficult, whether there is one, its class, and then for each cell its box (S, S, 4).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import ClassVar

from netc.layers.accuracy import Measure
from netc.layers.boxes import judged
from netc.layers.data import Data
from netc.layers.losses import SCALAR, Loss
from netc.layers.registry import layer
from netc.layers.transform import ImageTransform
from netc.layers.types import (
    Arity,
    Array,
    ArrayNamespace,
    BackwardCall,
    BlobType,
    ForwardCall,
    Gradients,
    KeptType,
    OnnxBuilder,
    Reads,
    Refusal,
    Signature,
    Value,
    at_least,
    between,
)

# The values of a label, of a box, and of a cell's class, confidence and box together.
LABEL, BOX = 7, 4
# The side of a grid where nothing is said.
SIDE = 7
# Boxes that overlap no object are compared by their distance, if it is less than this.
_FAR = 20.0


@layer("BoxData", "data_param")
@dataclass(frozen=True)
class BoxData(Data):
    """Images with the labels of a grid, from a database of `Datum` messages in key order.

    An image is encoded, and its `float_data` are six numbers for each object: class from 0 on,
    difficult, and its box: centre x and y, width and height, in fractions of the image. In phase
    TRAIN a part of 71 to 100 percent of each side is cut out at random, of which the same part for
    both, and stretched to the size of the image; objects whose centre is outside it go, and a part
    without any is drawn anew. Boxes are first rounded down to whole pixels. A cell has the last
    object whose centre is in it; without one its class is -1.

    Shapes: image (C, H, W) -> tops (N, C, H, W), and labels (N, 7 S S) for each `side` S, 7 if
    none is named.
    Source: the fork of Caffe of YOLO's first version by yeahkun.
    """

    side: tuple[int, ...] = ()
    transform_param: ImageTransform = field(default_factory=ImageTransform)

    tops: ClassVar[Arity] = at_least(1)

    @property
    def sides(self) -> tuple[int, ...]:
        """The sides of the grids."""
        return self.side or (SIDE,)

    def check(self) -> None:
        super().check()
        param = self.transform_param
        for name, wrong in (
            ("mirror", param.mirror),
            ("crop_size", param.crop_size),
            ("transform_param", param.changes),
        ):
            if wrong:
                raise Refusal(
                    "transform_param changes images, but not the boxes of their objects",
                    expected="scale, mean, and force_color or force_gray",
                    got=name,
                    setting=name,
                )
        if min(self.sides) < 1:
            raise Refusal(
                "a grid has no cells",
                expected="side > 0",
                got=" ".join(map(str, self.side)),
                setting="side",
            )
        if len(self.top) > 1 and len(self.top) != 1 + len(self.sides):
            raise Refusal(
                "there is not one top for each side",
                expected=f"{1 + len(self.sides)} tops: images, and labels for each side",
                got=f"{len(self.top)}",
                setting="side",
            )

    def infer(self, *bottoms: BlobType) -> Signature:
        self.check()
        n = self.batch_size
        image = BlobType((n, *self.transform_param.infer(bottoms[0]).shape))
        labels = (BlobType((n, LABEL * side * side)) for side in self.sides)
        return Signature((image, *labels)[: len(self.top)])


@dataclass(frozen=True, slots=True)
class Grid:
    """A grid of cells: how rows of maps and of labels are read."""

    side: int
    classes: int
    boxes: int
    sqrt: bool
    constriant: bool

    def check(self, maps: BlobType, labels: BlobType) -> None:
        """Refuse a grid without cells, and rows that do not fit it."""
        for name, value in (
            ("side", self.side), ("num_class", self.classes), ("num_object", self.boxes),
        ):  # fmt: skip
            if value < 1:
                raise Refusal(
                    f"{name} is not positive",
                    expected=f"{name} > 0",
                    got=f"{value}",
                    setting=name,
                )
        cells = self.side**2
        wanted = cells * (self.classes + (1 + BOX) * self.boxes)
        for index, (blob, count) in enumerate(((maps, wanted), (labels, cells * LABEL))):
            if blob.axes < 1 or blob.span(1) != count or blob.shape[0] != maps.shape[0]:
                raise Refusal(
                    f"bottom {index} does not fit the grid",
                    expected=f"{count} values for each image: side {self.side}"
                    + (f", {self.classes} classes, {self.boxes} boxes" if not index else ""),
                    got=f"shape {blob}",
                    setting="side",
                )

    def split(self, maps: Array) -> tuple[Array, Array, Array]:
        """Return classes (N, K, L), how sure boxes are (N, B, L), and boxes (N, B, 4, L)."""
        n, cells = len(maps), self.side**2
        k, b = self.classes, self.boxes
        rows = maps.reshape(n, k + (1 + BOX) * b, cells)
        return rows[:, :k], rows[:, k : k + b], rows[:, k + b :].reshape(n, b, BOX, cells)

    def truth(self, labels: Array) -> tuple[Array, Array, Array, Array]:
        """Return what is difficult and where objects are (N, L), classes, boxes (N, 4, L)."""
        n, cells = len(labels), self.side**2
        rows = labels.reshape(n, LABEL, cells)
        boxes = rows[:, 3:].reshape(n, cells, BOX).swapaxes(1, 2)
        return rows[:, 0] == 1, rows[:, 1] != 0, rows[:, 2].astype("int64"), boxes

    def corner(self, xp: ArrayNamespace, like: Array) -> Array:
        """Return in which column and row each cell is, (2, L)."""
        index = xp.arange(self.side**2)
        return xp.stack((index % self.side, index // self.side)).astype(like.dtype)

    def boxes_of(self, xp: ArrayNamespace, raw: Array) -> Array:
        """Return predicted boxes (..., 4, L) in fractions of the image."""
        place, size = raw[..., :2, :], raw[..., 2:, :]
        if self.constriant:
            place = (self.corner(xp, raw) + place) / self.side
        return xp.concatenate((place, size * size if self.sqrt else size), axis=-2)

    def raw_of(self, xp: ArrayNamespace, boxes: Array) -> Array:
        """Return what predicts boxes (..., 4, L): undoes `boxes_of`."""
        place, size = boxes[..., :2, :], boxes[..., 2:, :]
        if self.constriant:
            place = place * self.side - self.corner(xp, boxes)
        return xp.concatenate((place, xp.sqrt(size) if self.sqrt else size), axis=-2)


def likeness(xp: ArrayNamespace, a: Array, b: Array) -> Array:
    """Return intersection over union of boxes by centre and size (..., 4, L): (..., L)."""
    low = xp.maximum(a[..., :2, :] - a[..., 2:, :] / 2, b[..., :2, :] - b[..., 2:, :] / 2)
    high = xp.minimum(a[..., :2, :] + a[..., 2:, :] / 2, b[..., :2, :] + b[..., 2:, :] / 2)
    sides = high - low
    common = xp.where((sides >= 0).all(axis=-2), sides.prod(axis=-2), 0)
    union = a[..., 2:, :].prod(axis=-2) + b[..., 2:, :].prod(axis=-2) - common
    return xp.where(common != 0, common / xp.where(common != 0, union, 1), 0)


@layer("YoloGridLoss", "detection_loss_param")
@dataclass(frozen=True)
class YoloGridLoss(Loss):
    """The loss of YOLO's first version: classes and boxes where objects are, doubts elsewhere.

    A layer of type DetectionLoss with the settings of this one becomes it.

    Of each cell with an object the box that overlaps it most is responsible, or, where none does at
    all, the one that is least apart in its four numbers. Over those cells the loss has the means of
    `class_scale` times the squared distance of the classes from 0 and 1, `object_scale` times that
    of how sure the responsible box is from 1, and `coord_scale` times that of its four numbers from
    the truth; and over all other boxes the mean of `noobject_scale` times the square of how sure
    they are. With `constriant` a centre is predicted as a place in its cell, with `sqrt` width and
    height as their roots.

    As in the fork, the gradient is another one: half that of these sums divided by the number of
    images, with the overlap as what the responsible box should be sure of.

    Shapes: maps (N, S S (K + 5 B)), labels (N, 7 S S) as BoxData gives them, axes beyond the first
    taken together -> loss (), for `side` S, `num_class` K and `num_object` B.

    ONNX: none, it compares boxes with those of the labels; the deployed net ends with the maps.

    Source: J. Redmon et al., "You Only Look Once: Unified, Real-Time Object Detection", CVPR 2016,
    and its fork of Caffe by yeahkun, where a batch without objects has no loss that is a number.
    """

    side: int = SIDE
    num_class: int = 20
    num_object: int = 2
    object_scale: float = 1.0
    noobject_scale: float = 0.5
    class_scale: float = 1.0
    coord_scale: float = 5.0
    sqrt: bool = True
    constriant: bool = False

    @property
    def grid(self) -> Grid:
        """The grid."""
        return Grid(self.side, self.num_class, self.num_object, self.sqrt, self.constriant)

    def infer(self, *bottoms: BlobType) -> Signature:
        maps, labels = bottoms
        self.grid.check(maps, labels)
        return Signature((SCALAR,), kept=(KeptType("slope", maps.shape),))

    def whole_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False, True)

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, (maps, labels), grid = call.xp, call.bottoms, self.grid
        shares, sure, raw = grid.split(maps)
        _, objects, classes, true = grid.truth(labels)
        self._check(xp, classes, objects)
        n, cells = objects.shape
        boxes = grid.boxes_of(xp, raw)
        overlaps = likeness(xp, boxes, true[:, None])
        best = self._responsible(xp, boxes, overlaps, true)
        chosen = (xp.arange(self.num_object)[:, None] == best[:, None]) & objects[:, None]
        count = int(objects.sum())

        wanted = xp.arange(self.num_class)[:, None] == classes[:, None]
        classed = xp.where(objects[:, None], shares - wanted, 0)
        placed = xp.where(chosen[:, :, None], raw - grid.raw_of(xp, true)[:, None], 0)
        unsure = xp.where(chosen, 0, sure)
        of_objects = (
            self.class_scale * (classed**2).sum()
            + self.object_scale * (xp.where(chosen, sure - 1, 0) ** 2).sum()
            + self.coord_scale * (placed**2).sum()
        )
        others = max(cells * self.num_object * n - count, 1)
        loss = of_objects / max(count, 1) + self.noobject_scale * (unsure**2).sum() / others

        doubt = self.noobject_scale * unsure
        doubt = doubt + self.object_scale * xp.where(chosen, sure - overlaps, 0)
        parts = (
            self.class_scale * classed, doubt, (self.coord_scale * placed).reshape(n, -1, cells),
        )  # fmt: skip
        call.kept[0][...] = xp.concatenate(parts, axis=1).reshape(maps.shape)
        return (loss,)

    def _check(self, xp: ArrayNamespace, classes: Array, objects: Array) -> None:
        wrong = objects & ((classes < 0) | (classes >= self.num_class))
        if bool(wrong.any()):
            raise Refusal(
                "an object has a class that there is not",
                expected=f"classes of num_class: 0..{self.num_class - 1}",
                got=f"class {int(classes[wrong][0])}",
                setting="num_class",
            )

    def _responsible(self, xp: ArrayNamespace, boxes: Array, overlaps: Array, true: Array) -> Array:
        """Return which box of each cell is responsible, (N, L)."""
        apart = xp.sqrt(((boxes - true[:, None]) ** 2).sum(axis=2))
        apart = xp.where(apart < _FAR, apart, _FAR)
        return xp.where(overlaps.max(axis=1) > 0, overlaps.argmax(axis=1), apart.argmin(axis=1))

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def backward(self, call: BackwardCall) -> Gradients:
        slope = call.kept[0]
        return Gradients((slope * (call.top_diffs[0] / max(len(slope), 1)), None))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        raise g.refuse(
            "the comparison with labels has no ONNX form",
            hint="export the maps: the bottom of this layer",
        )


class ScoreType(enum.Enum):
    """What the score of a box is: its "object", the largest of its classes, or their product."""

    OBJ = 0
    PROB = 1
    MULTIPLY = 2


@dataclass(frozen=True)
class BoxEvaluation(Measure):
    """Base of the types that judge the boxes of YOLO: maps, labels, perhaps the images."""

    threshold: float = 0.5

    bottoms: ClassVar[Arity] = between(2, 3)

    def whole_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False, True, False)[:n_bottoms]

    def rows(
        self,
        xp: ArrayNamespace,
        labels: Array,
        scores: Array,
        overlaps: Array,
        classes: Array,
        difficult: Array,
    ) -> Array:
        """Return label, score, right and wrong of boxes, (R, 4), the best of each label first.

        `overlaps` (R, G) are those with objects of these classes. Boxes that find a difficult one
        are neither right nor wrong.
        """
        rows = xp.zeros((len(labels), 4), scores.dtype)
        rows[:, 0], rows[:, 1] = labels, scores
        overlaps = xp.where(labels[:, None] == classes, overlaps, -1)
        rows[:, 2:] = judged(xp, overlaps, max(self.threshold, 0), difficult)
        return rows


@layer("YoloGridEvaluate", "eval_detection_param")
@dataclass(frozen=True)
class YoloGridEvaluate(BoxEvaluation):
    """Which boxes of YOLO's first version are right, and how many objects there are.

    A layer of type EvalDetection whose labels are rows as BoxData gives them becomes this one.

    The boxes of a cell have the class that is largest there, and the score of `score_type`. With
    `nms` of 0 or more, each that overlaps a better one which stays, of any class, by `nms` or more
    goes. Then the boxes of a class, the best first, each look at the object of that class which
    they overlap most: if by `threshold` or more, the first to come is right, the others are wrong,
    and where it is difficult they are neither. All others are wrong. `sqrt` and `constriant` are as
    in YoloGridLoss.

    Shapes: maps (N, S S (K + 5 B)), labels (N, 7 S S), perhaps the images, which nobody looks at ->
    top (N, K + 4 B S S): for each image the number of objects of each class that are not difficult,
    then class, score, right, wrong for each box, by class and falling score; rows that are left
    over hold 0. Of equal scores the first cell counts.

    ONNX: none, it measures what a net outputs; the deployed net ends with the maps.

    Source: the fork of Caffe of YOLO's first version by yeahkun.
    """

    side: int = SIDE
    num_class: int = 20
    num_object: int = 2
    sqrt: bool = True
    constriant: bool = True
    score_type: ScoreType = ScoreType.MULTIPLY
    nms: float = -1.0

    @property
    def grid(self) -> Grid:
        """The grid."""
        return Grid(self.side, self.num_class, self.num_object, self.sqrt, self.constriant)

    def infer(self, *bottoms: BlobType) -> Signature:
        maps, labels = bottoms[:2]
        self.grid.check(maps, labels)
        rows = self.num_object * self.side**2
        return Signature((BlobType((maps.shape[0], self.num_class + 4 * rows)),))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, (maps, labels), grid = call.xp, call.bottoms[:2], self.grid
        shares, sure, raw = grid.split(maps)
        difficult, objects, classes, true = grid.truth(labels)
        n, cells = objects.shape
        best = shares.max(axis=1)
        scores = {
            ScoreType.OBJ: sure,
            ScoreType.PROB: xp.broadcast_to(best[:, None], sure.shape),
            ScoreType.MULTIPLY: sure * best[:, None],
        }[self.score_type]
        # One box behind the other, cell by cell.
        count = cells * self.num_object
        scores = scores.swapaxes(1, 2).reshape(n, count)
        found = xp.repeat(shares.argmax(axis=1), self.num_object, axis=1)
        boxes = grid.boxes_of(xp, raw).transpose(0, 3, 1, 2).reshape(n, count, BOX)
        top = xp.zeros((n, self.num_class + 4 * count), maps.dtype)
        for image in range(n):
            counted = classes[image][objects[image] & ~difficult[image]]
            top[image, : self.num_class] = xp.bincount(counted, minlength=self.num_class)
            order = self._kept(xp, boxes[image], scores[image])
            order = order[xp.argsort(found[image, order], kind="stable")]
            (where,) = xp.nonzero(objects[image])
            overlaps = likeness(xp, boxes[image, order][:, :, None], true[image][:, where])
            rows = self.rows(
                xp,
                *(found[image, order], scores[image, order], overlaps),
                *(classes[image, where], difficult[image, where]),
            )
            top[image, self.num_class : self.num_class + rows.size] = rows.reshape(-1)
        return (top,)

    def _kept(self, xp: ArrayNamespace, boxes: Array, scores: Array) -> Array:
        """Return the boxes of one image that count, best first."""
        order = xp.argsort(-scores, kind="stable")
        if self.nms < 0:
            return order
        stays: list[int] = []
        for index in order.tolist():
            others = likeness(xp, boxes[stays].T[None], boxes[index][None, :, None])
            if not bool((others >= self.nms).any()):
                stays.append(index)
        return xp.asarray(stays, dtype=order.dtype)
