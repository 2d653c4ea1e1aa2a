"""Cascade R-CNN: regions of several scales, which one stage after the other moves to their objects.

A region is a row (image, x1, y1, x2, y2) in pixels, both corners belonging to it. Rows of zeros are
none: they fill tops whose shape must stay.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from netc.layers.accuracy import Measure
from netc.layers.boxes import area, overlap
from netc.layers.losses import FLT_MIN, Loss
from netc.layers.mscnn import (
    BOX,
    FieldJudge,
    FieldMap,
    judged,
    labels_as_boxes,
    learn,
    lower_moved_regions,
    moved_regions,
)
from netc.layers.proposal import BBoxRegParam, check_fraction, check_positive, check_rows
from netc.layers.registry import layer
from netc.layers.roi import REGION, check_maps, check_regions, lower_column
from netc.layers.softmax import softmax
from netc.layers.ssd import SaveOutputParam
from netc.layers.suppression import DETECTION, FLT_MAX, NmsParam, Selection
from netc.layers.types import (
    Arity,
    Array,
    ArrayNamespace,
    BackwardCall,
    BlobType,
    ForwardCall,
    Gradients,
    KeptType,
    Layer,
    OnnxBuilder,
    Reads,
    Refusal,
    Signature,
    Value,
    at_least,
    between,
    exactly,
)

# What a detection holds: image, corners, class, score; and where SSD's rows have each of these.
_OF_SSD = (0, 3, 4, 5, 6, 1, 2)
# The inverse of a distance so large that it limits nothing.
_HARDLY = 1e-30


@dataclass(frozen=True)
class RowChoice(Layer):
    """Base of the types that choose rows: the same ones of all that is said of the regions."""

    bottoms: ClassVar[Arity] = at_least(1)
    tops: ClassVar[Arity] = at_least(1)
    stops_gradients: ClassVar[bool] = True

    def check_counts(self, bottoms: Sequence[BlobType], count: int) -> None:
        """Refuse bottoms without one row for each region."""
        for index, blob in enumerate(bottoms):
            if not blob.axes or blob.shape[0] != count:
                raise Refusal(
                    f"bottom {index} has not one row for each region",
                    expected=f"a first axis of {count}",
                    got=f"shape {blob}",
                    setting="bottom",
                )

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False,) * n_bottoms

    def whole_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False,) * n_bottoms

    def backward_reads(self) -> Reads:
        return Reads.NOTHING


@layer("ScaleRoute", "scale_route_param")
@dataclass(frozen=True)
class ScaleRoute(RowChoice):
    """The regions of a range of scales: those that one level of a feature pyramid pools.

    The scale of a region is the root of its area. Regions of `low_scale` <= scale < `high_scale`
    are chosen, each limit only if it is set; where there is none, the one region whose scale is
    nearest, by its ratio, to the middle of the range: the root of the product of both limits, the
    one limit, or 256. Of equally near ones the first counts.

    Shapes: regions (R, 5), and what belongs to them, (R, ...) each -> the same of the chosen, (Q,
    5), (Q, ...). Where the shape must stay, rows of zeros follow the last; so an exported net of L
    levels, once these are put together again, has L times as many rows, and each further stage of a
    cascade L times more: give the layer that makes the regions a `max_post_nms_num`. No gradient.

    Source: Z. Cai, N. Vasconcelos, "Cascade R-CNN: Delving into High Quality Object Detection",
    CVPR 2018, and its fork of Caffe, which ends where no region has an area.
    """

    low_scale: float | None = None
    high_scale: float | None = None

    tops_match_bottoms: ClassVar[bool] = True
    data_dependent: ClassVar[bool] = True
    pads: ClassVar[bool] = True

    def infer(self, *bottoms: BlobType) -> Signature:
        self.check_counts(bottoms, check_regions(bottoms[0], "bottom 0"))
        low, high = self._range
        if (self.low_scale is not None and low <= 0) or high < low or high <= 0:
            raise Refusal(
                "no scale lies in the range",
                expected="0 < low_scale <= high_scale",
                got=f"low_scale {self.low_scale}, high_scale {self.high_scale}",
                setting="high_scale" if self.low_scale is None else "low_scale",
            )
        return Signature(tuple(BlobType(b.shape) for b in bottoms))

    @property
    def _range(self) -> tuple[float, float]:
        low, high = self.low_scale, self.high_scale
        return low or 0.0, FLT_MAX if high is None else high

    @property
    def _middle(self) -> float:
        """The scale that a single region should have."""
        if self.low_scale and self.high_scale:
            return math.sqrt(self.low_scale * self.high_scale)
        return self.low_scale or self.high_scale or 256.0

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, regions = call.xp, call.bottoms[0]
        regions = regions.reshape(len(regions), REGION)
        sizes = area(xp, regions[:, 1:], pixels=True)
        used = (regions != 0).any(axis=1) & (sizes > 0)
        scales = xp.sqrt(sizes)
        low, high = self._range
        (rows,) = xp.nonzero(used & (scales >= low) & (scales < high))
        if not len(rows) and bool(used.any()):
            apart = xp.log2(xp.where(used, scales, 1) / self._middle)
            rows = xp.where(used, xp.abs(apart), xp.inf).argmin().reshape(1)
        tops = []
        for index, bottom in enumerate(call.bottoms):
            top = bottom[rows]
            if call.out:
                filled = xp.zeros(call.out[index].shape, top.dtype)
                filled[: len(rows)] = top
                top = filled
            tops.append(top)
        return tuple(tops)

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        count, zero = bottoms[0].shape[0], g.constant(0.0)
        regions = g.reshape(bottoms[0], (count, REGION))
        sides = [
            g.op("Sub", lower_column(g, regions, axis + 2), lower_column(g, regions, axis))
            for axis in (1, 2)
        ]
        content = g.op("MatMul", g.op("Abs", regions), g.constant([[1.0]] * REGION))
        used = g.op("Greater", content, zero)
        used = g.op("And", used, g.op("Not", g.op("Less", g.op("Min", *sides), zero)))
        one = g.constant(1.0)
        sizes = g.op("Mul", *(g.op("Add", side, one) for side in sides))
        scales = g.op("Sqrt", g.op("Where", used, sizes, one))
        low, high = self._range
        chosen = g.op("Not", g.op("Less", scales, g.constant(low)))
        chosen = g.op("And", chosen, g.op("Less", scales, g.constant(high)))
        chosen = g.op("And", chosen, used)
        # In one column: those chosen in their order, else the nearest, then what is left over.
        apart = g.op("Abs", g.op("Log", g.op("Div", scales, g.constant(self._middle))))
        apart = g.op("Where", used, apart, g.constant(FLT_MAX))
        nearest = g.op("ArgMin", apart, axis=0, keepdims=1)
        numbers = g.constant([[i] for i in range(count)], "int64")
        nearest = g.op("And", g.op("Equal", numbers, nearest), used)
        most = g.op("ReduceMax", g.cast(chosen, "float32"), keepdims=1)
        nearest = g.op("And", nearest, g.op("Not", g.op("Greater", most, zero)))
        chosen = g.op("Or", chosen, nearest)
        ranks = g.op("Where", chosen, numbers, g.op("Add", numbers, g.constant(count, "int64")))
        ranks, order = g.op(
            "TopK", ranks, g.constant([count], "int64"), outputs=2, axis=0, largest=0
        )
        stays = g.op("Less", ranks, g.constant(count, "int64"))
        order = g.reshape(order, (count,))
        tops = []
        for bottom in bottoms:
            flat = g.reshape(bottom, (count, BlobType(bottom.shape).span(1)))
            rows = g.op("Where", stays, g.op("Gather", flat, order, axis=0), zero)
            tops.append(g.reshape(rows, bottom.shape))
        return tuple(tops)


@layer("HardMining", "hard_mining_param")
@dataclass(frozen=True)
class HardMining(RowChoice):
    """The regions with the highest scores, losses as a rule: those worth learning from.

    Of each of `num_image` images the `num_roi_per_image` regions with the highest scores; where an
    image has fewer, the best that are left of the others take their places. They stay in their
    order. Of equal scores the last counts.

    Shapes: scores (R,), trailing axes of size 1 left aside, regions (R, 5), and what belongs to
    them, (R, ...) each -> the same of the chosen without the scores, (B, 5), (B, ...), with B =
    `num_image` `num_roi_per_image`, at most R. No gradient.

    ONNX: none, it chooses what to train on.

    Source: Z. Cai, N. Vasconcelos, "Cascade R-CNN: Delving into High Quality Object Detection",
    CVPR 2018, and its fork of Caffe.
    """

    num_roi_per_image: int = 128
    num_image: int = 4
    top: tuple[str, ...] = ()

    bottoms: ClassVar[Arity] = at_least(2)

    def infer(self, *bottoms: BlobType) -> Signature:
        check_positive(self, "num_roi_per_image", "num_image")
        count = check_regions(bottoms[1])
        self.check_counts(bottoms, count)
        if bottoms[0].count != count:
            raise Refusal(
                "bottom 0 has not one score for each region",
                expected=f"shape ({count},)",
                got=f"shape {bottoms[0]}",
                setting="bottom",
            )
        if self.top and len(self.top) != len(bottoms) - 1:
            raise Refusal(
                "there is not one top for each bottom behind the scores",
                expected=f"{len(bottoms) - 1} tops",
                got=f"{len(self.top)}",
                setting="top",
            )
        rows = min(self.num_image * self.num_roi_per_image, count)
        return Signature(tuple(BlobType((rows, *b.shape[1:])) for b in bottoms[1:]))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, scores = call.xp, call.bottoms[0].reshape(-1)
        images = xp.trunc(call.bottoms[1].reshape(len(scores), REGION)[:, 0])
        wrong = ~((images >= 0) & (images < self.num_image))
        if bool(wrong.any()):
            raise Refusal(
                "a region of an image that the batch does not have",
                expected=f"images 0..{self.num_image - 1} in bottom 1",
                got=f"{float(images[int(xp.argmax(wrong))]):g}",
                setting="num_image",
            )
        order = xp.argsort(scores, kind="stable")[::-1]
        own = images[order, None] == xp.arange(self.num_image)
        rank = (xp.cumsum(own, axis=0) * own).sum(axis=1)
        first = rank <= self.num_roi_per_image
        count = min(self.num_image * self.num_roi_per_image, len(scores))
        rows = xp.sort(xp.concatenate((order[first], order[~first]))[:count])
        return tuple(bottom[rows] for bottom in call.bottoms[1:])

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        raise g.refuse("the choice of what to train on has no ONNX form", hint="export phase TEST")


@layer("FrcnnOutput", "frcnn_output_param")
@dataclass(frozen=True)
class FrcnnOutput(Layer):
    """Objects from regions: each is moved as predicted, and of those that overlap the best is kept.

    For each class but 0, the background: the regions with a probability of at least `conf_thr`,
    moved to where the class's box is (without `cls_aware` of `bbox_reg_param` one box, the second
    of two, serves all classes) and cut off at the border of the image, 0 and its size; of these,
    best first, each whose intersection over union with no better one that stays is above `iou_thr`.
    With `max_det_num` above 0 the best of all classes together remain. A region of width w = x2 -
    x1 + 1 gets the width w exp(dw) and the centre (x1 + x2) / 2 + dx w; heights likewise.

    Shapes: probabilities (R, K), boxes (R, 4 K), without `cls_aware` (R, 8), regions (R, 5), or
    (R, 6) with scores that nobody looks at, and height and width of the image (1, 2) -> (1 + Q, 7,
    1, 1): image, x1, y1, x2, y2, class, probability. The first row is no object, 0 and six times
    -1; then come Q objects by class and falling probability. Where the shape must stay, rows of -1
    follow. Of equal probabilities the lower class and the first region come first. One image only.
    No gradient.

    `save_output_param`, by which the fork writes files, does nothing here.

    Source: Z. Cai, N. Vasconcelos, "Cascade R-CNN: Delving into High Quality Object Detection",
    CVPR 2018, and its fork of Caffe, in which boxes less than a pixel apart share nothing.
    """

    conf_thr: float = 0.0
    iou_thr: float = 0.5
    nms_type: str = "IOU"
    max_det_num: int = 0
    save_output_param: SaveOutputParam | None = None
    bbox_reg_param: BBoxRegParam = field(default_factory=BBoxRegParam)

    bottoms: ClassVar[Arity] = exactly(4)
    data_dependent: ClassVar[bool] = True
    pads: ClassVar[bool] = True

    def infer(self, *bottoms: BlobType) -> Signature:
        chances, boxes, regions, size = bottoms
        check_fraction(self, "iou_thr")
        self.bbox_reg_param.check()
        if self.nms_type != "IOU":
            raise Refusal(
                "netc compares overlaps by intersection over union only",
                expected='nms_type: "IOU"',
                got=f'nms_type: "{self.nms_type}"',
                setting="nms_type",
            )
        classes = chances.shape[1] if chances.axes > 1 else 0
        if classes < 2:
            raise Refusal(
                "bottom 0 holds no probabilities",
                expected="shape (R, K): background and K - 1 classes",
                got=f"shape {chances}",
                setting="bottom",
            )
        count = check_rows(chances, 0, classes)
        check_rows(boxes, 1, BOX * (classes if self.bbox_reg_param.cls_aware else 2), count)
        columns = regions.shape[1] if regions.axes > 1 else 0
        check_rows(regions, 2, min(max(columns, REGION), REGION + 1), count)
        check_rows(size, 3, 2, 1)
        rows = self._selection(classes).per_image(count)
        return Signature((BlobType((1 + rows, DETECTION, 1, 1)),))

    def _selection(self, classes: int) -> Selection:
        """Return which boxes become detections, in SSD's terms."""
        return Selection(
            NmsParam(self.iou_thr),
            tuple(range(1, classes)),
            self.conf_thr,
            self.max_det_num or -1,
            inclusive=True,
        )

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, count = call.xp, len(call.bottoms[0])
        chances, boxes, regions = (
            b.reshape(count, b.size // max(count, 1)) for b in call.bottoms[:3]
        )
        used = (regions != 0).any(axis=1)
        self._check(xp, regions)
        classes = chances.shape[1]
        moves = boxes.reshape(count, -1 if count else 2, BOX)[:, 1:]
        mean, std = (xp.asarray(v, boxes.dtype) for v in self.bbox_reg_param.values())
        corners = moved_regions(xp, regions[:, None, 1:REGION], moves * std + mean)
        limits = call.bottoms[3].reshape(2)[::-1]
        low, high = xp.maximum(corners[..., :2], 0), xp.minimum(corners[..., 2:], limits)
        # From edge to edge: the last pixel ends where the next begins.
        corners = xp.concatenate((low, high + 1), axis=-1).swapaxes(0, 1)
        scores = xp.where(used[:, None], chances[:, 1:], -xp.inf).T
        found = self._selection(classes).chosen(xp, corners[None], scores[None])
        found = found[:, _OF_SSD]
        found[:, 3:REGION] -= 1
        rows = len(call.out[0]) if call.out else 1 + len(found)
        top = xp.full((rows, DETECTION), -1, dtype=boxes.dtype)
        top[0, 0] = 0
        top[1 : 1 + len(found)] = found
        return (top.reshape(rows, DETECTION, 1, 1),)

    def _check(self, xp: ArrayNamespace, regions: Array) -> None:
        """Refuse regions of a second image."""
        wrong = xp.trunc(regions[:, 0]) != 0
        if bool(wrong.any()):
            raise Refusal(
                "a region belongs to a second image",
                expected="regions of image 0 only: a batch of one image",
                got=f"image {float(regions[int(xp.argmax(wrong)), 0]):g}",
                setting="bottom",
            )

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False,) * n_bottoms

    def whole_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False,) * n_bottoms

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        return 2 * bottoms[1].count

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        count, classes = bottoms[0].shape[:2]
        selection = self._selection(classes)
        regions = g.reshape(bottoms[2], (count, BlobType(bottoms[2].shape).span(1)))
        content = g.op("MatMul", g.op("Abs", regions), g.constant([[1.0]] * regions.shape[1]))
        used = g.op("Greater", content, g.constant(0.0))
        chances = g.reshape(bottoms[0], (count, classes))
        scores = g.op("Where", used, chances, g.constant(-FLT_MAX))
        scores = g.op("Transpose", scores, perm=[1, 0])
        labels = g.constant(list(selection.labels), "int64")
        scores = g.reshape(g.op("Gather", scores, labels, axis=0), (1, classes - 1, count))
        scores, order = selection.lower_order(g, scores)
        boxes = self._lower_boxes(g, bottoms, regions)
        own = boxes.shape[0]
        order = g.reshape(order, (own, (classes - 1) * count // own, 1))
        boxes = g.op("GatherND", boxes, order, batch_dims=1)
        boxes = g.reshape(boxes, (1, classes - 1, count, BOX))
        found = selection.lower(g, boxes, scores, ordered=False)
        rows = found.shape[2]
        found = g.reshape(found, (rows, DETECTION))
        found = g.op("Gather", found, g.constant(list(_OF_SSD), "int64"), axis=1)
        there = g.op("Greater", lower_column(g, found, 0), g.constant(-0.5))
        edges = g.op("Where", there, g.constant([[0.0, 0, 0, 1, 1, 0, 0]]), g.constant(0.0))
        first = g.constant([[0.0] + [-1.0] * (DETECTION - 1)])
        found = g.op("Concat", first, g.op("Sub", found, edges), axis=0)
        return (g.reshape(found, (1 + rows, DETECTION, 1, 1)),)

    def _lower_boxes(self, g: OnnxBuilder, bottoms: tuple[Value, ...], regions: Value) -> Value:
        """Return the boxes of each class, or of all, from edge to edge: (1 or K - 1, R, 4)."""
        count, columns = bottoms[1].shape[:2]
        each = columns // BOX
        moves = g.op("Transpose", g.reshape(bottoms[1], (count, each, BOX)), perm=[1, 0, 2])
        moves = g.op("Gather", moves, g.constant(list(range(1, each)), "int64"), axis=0)
        mean, std = self.bbox_reg_param.values()
        moves = g.op("Add", g.op("Mul", moves, g.constant([std])), g.constant([mean]))
        low, high = lower_moved_regions(g, regions, moves)
        size = g.reshape(bottoms[3], (1, 2))
        limits = g.op("Gather", size, g.constant([1, 0], "int64"), axis=1)
        low = g.op("Max", low, g.constant(0.0))
        high = g.op("Add", g.op("Min", high, limits), g.constant(1.0))
        corners: Value = g.op("Concat", low, high, axis=2)
        return corners


@dataclass(frozen=True)
class GroupJudge(FieldJudge):
    """Base of the types that compare maps of several boxes at each position with their labels."""

    field_h: tuple[int, ...] = ()
    field_w: tuple[int, ...] = ()
    stride: int = 0

    bottoms: ClassVar[Arity] = exactly(3)

    def fields(self) -> list[FieldMap]:
        """Return the fields of the boxes at a position."""
        raise NotImplementedError

    def field_maps(self, whr: float, xyr: float) -> list[FieldMap]:
        """Return the fields with limits of their own."""
        sizes = zip(self.field_h, self.field_w, strict=True)
        return [FieldMap(*size, self.stride, whr, xyr, self.bbox_reg_param) for size in sizes]

    def check(self, scores: BlobType, boxes: BlobType, labels: BlobType) -> None:
        """Raise `Refusal` for bottoms or settings that do not fit."""
        self.check_classes()
        count = len(self.field_h)
        if not count or count != len(self.field_w):
            raise Refusal(
                "fields have not one height and one width each",
                expected="as many field_h as field_w, at least one",
                got=f"{count} field_h, {len(self.field_w)} field_w",
                setting="field_h",
            )
        for one in self.fields():
            one.check("stride")
        check_maps(scores, "the scores, bottom 0,")
        n, channels, *size = scores.shape
        if channels != self.cls_num or n % count or 0 in size:
            raise Refusal(
                "the scores do not fit the classes and fields",
                expected=f"shape (N {count}, {self.cls_num}, H, W): {count} fields, cls_num "
                f"{self.cls_num}",
                got=f"bottom 0 of shape {scores}",
                setting="cls_num",
            )
        if boxes.shape != (n, BOX, *size):
            raise Refusal(
                "there is not one box for each score",
                expected=f"shape {BlobType((n, BOX, *size))}",
                got=f"bottom 1 of shape {boxes}",
                setting="bottom",
            )
        self.check_labels(labels, scores)

    def each(
        self, xp: ArrayNamespace, boxes: Array, compare: Callable[[FieldMap, Array, slice], Array]
    ) -> Array:
        """Return what `compare` makes of the boxes of each field: (N G, ...), image by image.

        It is given the field, its boxes, and which of all are these.
        """
        fields = self.fields()
        found = []
        for k, one in enumerate(fields):
            rows = slice(k, None, len(fields))
            found.append(compare(one, boxes[rows], rows))
        stacked = xp.stack(found, axis=1)
        return stacked.reshape(len(boxes), *stacked.shape[2:])


class NegMining(enum.Enum):
    """Which background is learnt: some at random, that with the largest costs, half of each."""

    RANDOM = "random"
    BOOTSTRAP = "bootstrap"
    MIXTURE = "mixture"


class NegRanking(enum.Enum):
    """What tells how hard background is: its cost, or how probable an object is there."""

    CONF_LOSS = "conf_loss"
    CONF_PROB = "conf_prob"


class BoxLossType(enum.Enum):
    """What a box costs: half the square, or beyond 1 its distance less a half."""

    SMOOTH_L1 = "Smooth_L1"
    EUCLIDEAN = "Euclidean_L2"


@layer("DetectionGroupLoss", "detection_group_loss_param")
@dataclass(frozen=True)
class DetectionGroupLoss(GroupJudge, Loss):
    """The loss of maps that predict several boxes at each position, G, of a field each.

    With p the softmax of the scores, the mean of -w log p[class] over the objects and the
    background that are chosen, plus `lambda` times the mean over the four values of each chosen
    object's box of d^2 / 2 (with `bbox_loss_type` "Smooth_L1", where |d| >= 1, |d| - 1/2 in its
    place). d is the prediction, with both `field_whr` and `field_xyr` kept within these limits,
    minus the truth, both normalised by `bbox_reg_param`; true sides count as at least 2 pixels.

    Background is a box of class 0 whose overlap is below `bg_threshold`. Of an image with P objects
    and B background, `batch_size` -1 chooses all objects and the larger of P `bg_multiple` and
    `min_num_neg` of the background; a larger one `batch_size` / (1 + `bg_multiple`) objects,
    rounded, at random, and background for the rest; no more than there is of either. Background is
    chosen by `neg_mining_type` at random, as the hardest, or ("mixture") half of each: that with
    the largest cost (`neg_ranking_type` "conf_loss") or chance of an object ("conf_prob"), of
    equals the last. w is 1; with `pos_neg_weighted` all w are scaled so that objects have 1 / (1 +
    `bg_multiple`) of the weight, background the rest. `objectness` makes all classes one.

    The gradient passes by the limits as if they were not there, as in the fork.

    Shapes: scores (N G, K, H, W), the G of an image one behind the other, boxes (N G, 4, H, W) and
    labels (N G, 6, H, W) as of DetectionLoss -> top (1, 1, 1, 2): the loss, and what the boxes add
    to it. The second is there to be read: gradients are those of the first alone.

    ONNX: none, the choice of the background is part of training; the deployed net ends with the
    maps.

    Source: Z. Cai, N. Vasconcelos, "Cascade R-CNN: Delving into High Quality Object Detection",
    CVPR 2018, and its fork of Caffe, which keeps predictions in the limits for later layers too,
    and the values of a box in limits of the mean `bbox_mean` and `bbox_std` of two.
    """

    lambda_: float = 1.0
    field_whr: float | None = None
    field_xyr: float | None = None
    bg_multiple: int = 4
    neg_mining_type: str = "random"
    neg_ranking_type: str = "conf_loss"
    min_num_neg: int = 5
    batch_size: int = -1
    pos_neg_weighted: bool = False
    bbox_loss_type: str = "Smooth_L1"

    def fields(self) -> list[FieldMap]:
        if self.field_whr is None or self.field_xyr is None:
            return self.field_maps(math.inf, _HARDLY)
        return self.field_maps(self.field_whr, self.field_xyr)

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (True, True, False)

    def infer(self, *bottoms: BlobType) -> Signature:
        scores, boxes, labels = bottoms
        self.check(scores, boxes, labels)
        for name, kind in (
            ("neg_mining_type", NegMining),
            ("neg_ranking_type", NegRanking),
            ("bbox_loss_type", BoxLossType),
        ):
            known = [member.value for member in kind]
            if getattr(self, name) not in known:
                raise Refusal(
                    f"unknown {name}",
                    expected=", ".join(f'"{value}"' for value in known),
                    got=f'"{getattr(self, name)}"',
                    setting=name,
                )
        for name, wrong, expected in (
            ("batch_size", self.batch_size < -1 or not self.batch_size, "above 0, or -1 for all"),
            ("bg_multiple", self.bg_multiple < 0, "0 or more"),
            ("min_num_neg", self.min_num_neg < 0, "0 or more"),
        ):
            if wrong:
                raise Refusal(
                    f"{name} does not fit",
                    expected=f"{name}: {expected}",
                    got=getattr(self, name),
                    setting=name,
                )
        kept = KeptType("scores_slope", scores.shape), KeptType("boxes_slope", boxes.shape)
        return Signature((BlobType((1, 1, 1, 2)),), kept=kept)

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, (scores, boxes, labels) = call.xp, call.bottoms
        classes, background = self.classes(xp, labels)
        shares = softmax(xp, scores, 1, xp.empty_like(scores))
        chosen = self._chosen(call, classes != 0, background, shares[:, 0])
        apart = self.each(xp, boxes, lambda one, raw, rows: one.apart(xp, raw, labels[rows]))
        found = learn(
            xp,
            shares,
            classes,
            chosen,
            self._weights(xp, chosen, classes != 0, scores.dtype),
            apart,
            self.lambda_,
            BoxLossType(self.bbox_loss_type) is BoxLossType.SMOOTH_L1,
        )
        call.kept[0][...], call.kept[1][...] = found.scores_slope, found.boxes_slope
        return (found.top(xp),)

    def _counts(self, objects: int, background: int) -> tuple[int, int]:
        """Return how many of each are learnt in an image that has so many."""
        if self.batch_size < 0:
            return objects, min(max(objects * self.bg_multiple, self.min_num_neg), background)
        most = min(int(self.batch_size / (1 + self.bg_multiple) + 0.5), objects)
        return most, min(self.batch_size - most, background)

    def _chosen(
        self, call: ForwardCall, objects: Array, background: Array, nothing: Array
    ) -> Array:
        """Return what is learnt, (N G, H, W); `nothing` is the probability of the background."""
        xp, mode = call.xp, NegMining(self.neg_mining_type)
        n = len(objects) // len(self.field_h)
        chosen = xp.zeros((n, objects.size // max(n, 1)), bool)
        random = call.random()
        cost = 1 - nothing
        if NegRanking(self.neg_ranking_type) is NegRanking.CONF_LOSS:
            cost = -xp.log(xp.maximum(nothing, FLT_MIN))
        rows = zip(
            *(each.reshape(chosen.shape) for each in (objects, background, cost)), strict=True
        )
        for image, (front, back, costs) in enumerate(rows):
            (front,), (back,) = xp.nonzero(front), xp.nonzero(back)
            counts = self._counts(len(front), len(back))
            if len(front) > counts[0]:
                front = front[xp.asarray(random.permutation(len(front))[: counts[0]])]
            if len(back) > counts[1]:
                hard = {
                    NegMining.RANDOM: 0,
                    NegMining.BOOTSTRAP: counts[1],
                    NegMining.MIXTURE: (counts[1] + 1) // 2,
                }[mode]
                order = back[xp.argsort(costs[back], kind="stable")[::-1]]
                others = random.permutation(len(back) - hard)[: counts[1] - hard]
                back = xp.concatenate((order[:hard], order[hard:][xp.asarray(others)]))
            chosen[image, front] = chosen[image, back] = True
        return chosen.reshape(objects.shape)

    def _weights(self, xp: ArrayNamespace, chosen: Array, objects: Array, dtype: object) -> Array:
        """Return what each box weighs, (N G, H, W)."""
        weights = xp.ones(chosen.shape, dtype)
        if not self.pos_neg_weighted:
            return weights
        part, count = 1 / (1 + self.bg_multiple), int(chosen.sum())
        n_objects = int((chosen & objects).sum())
        front = part * count / n_objects if n_objects else 1.0
        back = (1 - part) * count / (count - n_objects) if count > n_objects else 1.0
        return xp.where(objects, weights * front, weights * back)

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def backward(self, call: BackwardCall) -> Gradients:
        diff = call.top_diffs[0].reshape(-1)[0]
        return Gradients((call.kept[0] * diff, call.kept[1] * diff, None))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        raise g.refuse(
            "the choice of the background has no ONNX form",
            hint="export the maps: the bottoms of this layer",
        )


@layer("DetectionGroupAccuracy", "detection_group_accuracy_param")
@dataclass(frozen=True)
class DetectionGroupAccuracy(GroupJudge, Measure):
    """How often the classes of maps of several boxes are right, and how well the boxes fit.

    The first top is the share of boxes whose class has the best score (of equal ones the lowest
    class does): of all with an object, or background of an overlap below `bg_threshold`, and of
    those with an object alone. The second is the mean intersection over union of predicted and true
    boxes at objects, with predictions kept in the limits of `field_whr` and `field_xyr`. -1 where
    there is nothing to count.

    Shapes: scores, boxes and labels as of DetectionGroupLoss -> tops (1, 1, 1, 2) and (1, 1, 1, 1).

    ONNX: none, it measures what a net outputs; the deployed net ends with the maps.

    Source: Z. Cai, N. Vasconcelos, "Cascade R-CNN: Delving into High Quality Object Detection",
    CVPR 2018, and its fork of Caffe.
    """

    field_whr: float = 2.0
    field_xyr: float = 4.0

    tops: ClassVar[Arity] = between(1, 2)

    def fields(self) -> list[FieldMap]:
        return self.field_maps(self.field_whr, self.field_xyr)

    def infer(self, *bottoms: BlobType) -> Signature:
        scores, boxes, labels = bottoms
        self.check(scores, boxes, labels)
        return Signature((BlobType((1, 1, 1, 2)), BlobType((1, 1, 1, 1))))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, (scores, boxes, labels) = call.xp, call.bottoms
        classes, background = self.classes(xp, labels)
        # The last pixel of a box ends where the next begins.
        last = xp.asarray((0, 0, 1, 1), dtype=boxes.dtype)
        true = labels_as_boxes(xp, labels) - last
        found = self.each(xp, boxes, lambda one, raw, rows: one.boxes(xp, raw) - last)
        fits = overlap(xp, found, true, pixels=True)
        return judged(call, scores.argmax(axis=1) == classes, fits, classes != 0, background)

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        return bottoms[0].count
