"""Region proposals of Faster R-CNN: anchors, the regions made from them, and targets for training.

Anchors are boxes of several shapes around each position of a feature map. A box is a row (x1, y1,
x2, y2) of pixels, both corners included, so that its width is x2 - x1 + 1.

How many regions there are depends on the data. Where the shape of a blob must stay, as in an
exported net, rows of zeros follow the last region; the types here leave such rows out where they
read them (of regions, and of the ground truth too).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from netc.layers.registry import layer
from netc.layers.roi import check_maps, check_regions
from netc.layers.types import (
    Arity,
    Array,
    ArrayNamespace,
    BlobType,
    CodeHost,
    ForwardCall,
    Layer,
    OnnxBuilder,
    Phase,
    Reads,
    Refusal,
    Signature,
    Value,
    between,
    exactly,
)

#: The shapes of py-faster-rcnn's anchors: height over width, and size over `base_size`.
RATIOS = (0.5, 1.0, 2.0)
SCALES = (8.0, 16.0, 32.0)

#: What py-faster-rcnn's configuration says for the two phases.
PRE_NMS_TOPN = {Phase.TRAIN: 12000, Phase.TEST: 6000}
POST_NMS_TOPN = {Phase.TRAIN: 2000, Phase.TEST: 300}

# The values of a true box of several images: image, x1, y1, x2, y2, class, ignored, and in Cascade
# R-CNN whether it is difficult.
TRUTH, CASCADE_TRUTH = 7, 8
# The least side of a region drawn at random, in pixels, and how often one is drawn anew.
SIDE, TRIES = 32, 1000

# A score below all others, for regions that do not count, and a threshold just above it.
NO_SCORE, ANY_SCORE = -3.0e38, -2.9e38


def anchors(
    base_size: int, ratios: Sequence[float], scales: Sequence[float]
) -> list[tuple[float, float, float, float]]:
    """Return the anchors around the first position: for each ratio one of each scale.

    A square of `base_size` is given another ratio of height to width at the same area, with sides
    rounded to whole pixels (halves to the even one), and then scaled about its centre.
    """
    centre = (base_size - 1) / 2
    found = []
    for ratio in ratios:
        width = round(math.sqrt(base_size * base_size / ratio))
        height = round(width * ratio)
        for scale in scales:
            x, y = (width * scale - 1) / 2, (height * scale - 1) / 2
            found.append((centre - x, centre - y, centre + x, centre + y))
    return found


def overlaps(xp: ArrayNamespace, boxes: Array, others: Array) -> Array:
    """Return intersection over union of each pair of boxes: (A, 4), (B, 4) -> (A, B)."""
    low = xp.maximum(boxes[:, None, :2], others[None, :, :2])
    high = xp.minimum(boxes[:, None, 2:4], others[None, :, 2:4])
    shared = xp.maximum(high - low + 1, 0).prod(axis=2)
    areas = [(b[:, 2] - b[:, 0] + 1) * (b[:, 3] - b[:, 1] + 1) for b in (boxes, others)]
    return shared / (areas[0][:, None] + areas[1][None, :] - shared)


def suppress(xp: ArrayNamespace, boxes: Array, threshold: float, most: int) -> list[int]:
    """Return the indices of the boxes to keep, at most `most`; `boxes` come best first.

    A box goes where it overlaps one that is kept by more than `threshold`.
    """
    kept: list[int] = []
    left = xp.arange(len(boxes))
    while len(left) and len(kept) < most:
        best, left = int(left[0]), left[1:]
        kept.append(best)
        left = left[overlaps(xp, boxes[best : best + 1], boxes[left])[0] <= threshold]
    return kept


def encode(xp: ArrayNamespace, boxes: Array, targets: Array) -> Array:
    """Return what `decode` makes the targets of: (dx, dy, log dw, log dh) for each box."""
    (x, y, w, h), (tx, ty, tw, th) = (_centred(b) for b in (boxes, targets))
    return xp.stack([(tx - x) / w, (ty - y) / h, xp.log(tw / w), xp.log(th / h)], axis=1)


def decode(xp: ArrayNamespace, boxes: Array, deltas: Array) -> Array:
    """Return the boxes shifted and scaled: the centre by d * size, the size by exp(d)."""
    x, y, w, h = _centred(boxes)
    x, y = deltas[:, 0] * w + x, deltas[:, 1] * h + y
    # Half the size; a pixel less would be exact, but is not what the published weights learnt.
    w, h = xp.exp(deltas[:, 2]) * w / 2, xp.exp(deltas[:, 3]) * h / 2
    return xp.stack([x - w, y - h, x + w, y + h], axis=1)


def _centred(boxes: Array) -> tuple[Array, Array, Array, Array]:
    """Return centre and size of boxes."""
    w, h = boxes[:, 2] - boxes[:, 0] + 1, boxes[:, 3] - boxes[:, 1] + 1
    return boxes[:, 0] + w / 2, boxes[:, 1] + h / 2, w, h


def without_padding(rows: Array) -> Array:
    """Return rows (R, K) without those that are all zero."""
    rows = rows.reshape(rows.shape[0], -1)
    return rows[(rows != 0).any(axis=1)]


def check_info(info: BlobType, index: int) -> None:
    """Refuse what is not one row (height, width, scale, ...)."""
    if info.axes < 2 or info.shape[0] != 1 or info.count < 3:
        raise Refusal(
            f"bottom {index} does not tell the size of one image",
            expected="shape (1, 3): height, width, and by how much the image was scaled",
            got=f"shape {info}",
            setting="bottom",
        )


def check_one_image(maps: BlobType) -> None:
    """Refuse a batch of several images."""
    if maps.shape[0] != 1:
        raise Refusal(
            "the batch holds more than one image",
            expected="a batch size of 1: the sizes of images differ",
            got=f"bottom 0 of shape {maps}",
            setting="bottom",
        )


def check_truth(truth: BlobType, index: int) -> int:
    """Refuse what is not rows (x1, y1, x2, y2, class); return their number.

    Rows of 4 pass: the data layer of py-faster-rcnn shows (1, 4) before its first image.
    """
    if truth.axes < 2 or truth.shape[1] not in (4, 5) or truth.span(2) != 1:
        raise Refusal(
            f"bottom {index} holds no ground truth",
            expected="shape (G, 5): x1, y1, x2, y2, class",
            got=f"shape {truth}",
            setting="bottom",
        )
    return truth.shape[0]


def truth_rows(truth: Array) -> Array:
    """Return the boxes of the ground truth, with their classes and without padding."""
    if truth.shape[1] != 5:
        raise Refusal(
            "the ground truth has no classes",
            expected="rows of x1, y1, x2, y2, class",
            got=f"shape {BlobType(tuple(truth.shape))}",
        )
    return without_padding(truth).astype("float64")


def check_positive(layer: Layer, *names: str) -> None:
    """Refuse settings that are not above 0, of a list each."""
    for name in names:
        values = getattr(layer, name)
        for index, value in enumerate(values if isinstance(values, tuple) else (values,)):
            if value <= 0:
                raise Refusal(
                    f"{name} is not positive",
                    expected=f"{name} > 0",
                    got=f"{value:g}",
                    setting=f"{name}.{index}" if isinstance(values, tuple) else name,
                )


def check_fraction(layer: Layer, *names: str) -> None:
    """Refuse settings that are no overlaps, fractions or probabilities."""
    for name in names:
        value = getattr(layer, name)
        if not 0 <= value <= 1:
            raise Refusal(
                f"{name} is outside 0..1", expected=f"0 <= {name} <= 1", got=f"{value:g}",
                setting=name,
            )  # fmt: skip


def check_four(layer: Layer, *names: str) -> None:
    """Refuse lists that are given, but not one value for each of x, y, width and height."""
    for name in names:
        values = getattr(layer, name)
        if len(values) not in (0, 4):
            raise Refusal(
                f"{name} has not four values",
                expected="one each for x, y, width and height, or none at all",
                got=f"{len(values)}: {' '.join(f'{v:g}' for v in values)}",
                setting=name,
            )


def check_rows(blob: BlobType, index: int, columns: int, count: int | None = None) -> int:
    """Refuse what is not rows (R, columns), R being `count` if given; return their number."""
    rows = blob.shape[0] if blob.axes and count is None else count
    if blob.shape[:2] != (rows, columns) or blob.span(2) != 1:
        raise Refusal(
            f"bottom {index} does not hold the rows that belong here",
            expected=f"shape ({'R' if count is None else count}, {columns})",
            got=f"shape {blob}",
            setting="bottom",
        )
    return blob.shape[0]


@dataclass(frozen=True, slots=True)
class BBoxRegParam:
    """A `bbox_reg_param` message: the box that a net predicts is `(box - bbox_mean) / bbox_std`.

    Four values each for x, y, width and height; with one of the lists empty the other has no
    effect, and boxes are predicted as they are. `cls_aware` says that each class has a box of its
    own; maps have one box for all classes, and do not look at it.
    """

    bbox_mean: tuple[float, ...] = ()
    bbox_std: tuple[float, ...] = ()
    cls_aware: bool = True

    def check(self) -> None:
        """Raise `Refusal` for lists that are not four values, or deviations not above 0."""
        for name, values in (("bbox_mean", self.bbox_mean), ("bbox_std", self.bbox_std)):
            if len(values) not in (0, 4) or (name == "bbox_std" and min(values, default=1) <= 0):
                raise Refusal(
                    f"{name} does not fit",
                    expected="four values: x, y, width, height"
                    + (", all above 0" if name == "bbox_std" else ""),
                    got=f"{len(values)}: {' '.join(f'{v:g}' for v in values)}",
                    setting="bbox_reg_param",
                )

    def values(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return means and deviations."""
        if self.bbox_mean and self.bbox_std:
            return self.bbox_mean, self.bbox_std
        return (0.0,) * 4, (1.0,) * 4


@dataclass(frozen=True)
class AnchorShapes(Layer):
    """Base of the types that know the shapes of anchors."""

    ratio: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    stops_gradients: ClassVar[bool] = True

    @property
    def n_anchors(self) -> int:
        """How many there are around each position."""
        return len(self.ratio or RATIOS) * len(self.scale or SCALES)

    def check_channels(self, blob: BlobType, index: int, each: int, what: str) -> None:
        """Refuse maps that have not `each` channels for each anchor."""
        check_maps(blob, f"the {what}, bottom {index},")
        if blob.shape[1] != each * self.n_anchors:
            raise Refusal(
                f"the {what} do not fit the anchors",
                expected=f"{each * self.n_anchors} channels: {each} for each of "
                f"{self.n_anchors} anchors",
                got=f"{blob.shape[1]} channels, bottom {index} of shape {blob}",
                setting="scale" if self.scale else "bottom",
            )

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False,) * n_bottoms

    def backward_reads(self) -> Reads:
        return Reads.NOTHING


@dataclass(frozen=True)
class Anchored(AnchorShapes):
    """Base of the types that know the anchors of one map."""

    feat_stride: int = 16
    base_size: int = 16
    anchor: tuple[float, ...] = ()

    @property
    def anchors(self) -> list[tuple[float, float, float, float]]:
        """The anchors around the first position."""
        if not self.anchor:
            return anchors(self.base_size, self.ratio or RATIOS, self.scale or SCALES)
        return list(zip(*(self.anchor[k::4] for k in range(4)), strict=True))

    @property
    def n_anchors(self) -> int:
        """How many there are around each position."""
        return len(self.anchor) // 4 or super().n_anchors

    def check_anchors(self) -> None:
        """Refuse anchors without a size."""
        check_positive(self, "feat_stride", "base_size", "ratio", "scale")
        if self.anchor and (self.ratio or self.scale):
            raise Refusal(
                "anchors are given twice",
                expected="anchor, or ratio and scale",
                got="both",
                setting="anchor",
            )
        if len(self.anchor) % 4:
            raise Refusal(
                "anchor does not hold boxes",
                expected="four values each: x1 y1 x2 y2",
                got=f"{len(self.anchor)}: {' '.join(f'{v:g}' for v in self.anchor[:8])}",
                setting="anchor",
            )

    def grid(self, xp: ArrayNamespace, height: int, width: int, dtype: object = "float64") -> Array:
        """Return the anchors of all positions, (height * width * anchors, 4), row by row."""
        y, x = xp.arange(height) * self.feat_stride, xp.arange(width) * self.feat_stride
        y, x = xp.broadcast_to(y[:, None], (height, width)), xp.broadcast_to(x, (height, width))
        shifts = xp.stack([x, y, x, y], axis=2)[:, :, None, :]
        boxes = xp.asarray(self.anchors) + shifts
        return boxes.reshape(-1, 4).astype(dtype)

    def check_maps(self, scores: BlobType, deltas: BlobType, places: tuple[int, int]) -> None:
        """Refuse what are not probabilities and shifts of the anchors; `places` are bottoms."""
        self.check_channels(scores, places[0], 2, "probabilities")
        self.check_channels(deltas, places[1], 4, "shifts")
        check_one_image(scores)
        if scores.shape[2:] != deltas.shape[2:] or deltas.shape[0] != 1:
            raise Refusal(
                "probabilities and shifts are maps of different sizes",
                expected=f"bottom {places[1]} of shape "
                f"{BlobType((1, deltas.shape[1], *scores.shape[2:]))}",
                got=f"shape {deltas}",
                setting="bottom",
            )

    def candidates(
        self, xp: ArrayNamespace, scores: Array, deltas: Array, info: Array
    ) -> tuple[Array, Array]:
        """Return what becomes of all anchors, clipped to the image, with probabilities."""
        count = self.n_anchors
        _, _, height, width = scores.shape
        scores = scores[0, count:].transpose(1, 2, 0).reshape(-1)
        deltas = deltas[0].reshape(count, 4, height, width).transpose(2, 3, 0, 1).reshape(-1, 4)
        boxes = decode(xp, self.grid(xp, height, width, deltas.dtype), deltas)
        high, wide = info.reshape(-1)[0], info.reshape(-1)[1]
        return xp.maximum(xp.minimum(boxes, xp.stack([wide, high, wide, high]) - 1), 0), scores

    def lower_candidates(
        self, g: OnnxBuilder, scores: Value, deltas: Value, info: Value
    ) -> tuple[Value, Value, Value]:
        """Return the corners of `candidates`, low and high, and the probabilities, in ONNX.

        `info` holds height, width and scale.
        """
        xp, count = g.xp, self.n_anchors
        _, _, height, width = scores.shape
        total = height * width * count
        scores = g.op("Slice", scores, *(g.constant([n], "int64") for n in (count, 2 * count, 1)))
        scores = g.reshape(g.op("Transpose", scores, perm=[0, 2, 3, 1]), (total,))
        deltas = g.reshape(deltas, (count, 4, height, width))
        deltas = g.reshape(g.op("Transpose", deltas, perm=[2, 3, 0, 1]), (total, 4))
        x, y, w, h = _centred(self.grid(xp, height, width))
        centres, sizes = xp.stack([x, y], axis=1), xp.stack([w, h], axis=1)
        pair = g.constant([2, 2], "int64")
        shift, growth = g.op("Split", deltas, pair, outputs=2, axis=1)
        centre = g.op("Add", g.op("Mul", shift, g.constant(sizes)), g.constant(centres))
        half = g.op("Mul", g.op("Exp", growth), g.constant(sizes))
        half = g.op("Div", half, g.constant(2.0))
        limit = g.op("Gather", info, g.constant([1, 0], "int64"), axis=0)
        limit = g.op("Sub", limit, g.constant(1.0))
        low, high = (
            g.op("Max", g.op("Min", g.op(sign, centre, half), limit), g.constant(0.0))
            for sign in ("Sub", "Add")
        )
        return low, high, scores


@dataclass(frozen=True)
class Selection(AnchorShapes):
    """Base of the types that choose the best of the boxes that anchors become."""

    min_size: int = 16
    pre_nms_topn: int = 6000
    post_nms_topn: int = 300
    nms_thresh: float = 0.7

    def pre(self, found: int) -> int:
        """Return how many of the boxes overlaps are looked for in, at most."""
        return min(self.pre_nms_topn or found, found)

    def most(self, found: int) -> int:
        """Return how many of the boxes are chosen at most."""
        return min(self.post_nms_topn or self.pre(found), self.pre(found))

    def best(
        self, xp: ArrayNamespace, boxes: Array, scores: Array, scale: Array
    ) -> tuple[Array, Array]:
        """Return the best boxes, and their probabilities; `scale` is that of the image."""
        found = len(boxes)
        sizes = boxes[:, 2:] - boxes[:, :2] + 1
        large = (sizes >= self.min_size * scale).all(axis=1)
        boxes, scores = boxes[large], scores[large]
        order = xp.argsort(-scores, kind="stable")[: self.pre(found)]
        boxes, scores = boxes[order], scores[order]
        kept = suppress(xp, boxes, self.nms_thresh, self.most(found))
        return boxes[kept], scores[kept]

    def lower_best(
        self, g: OnnxBuilder, low: Value, high: Value, scores: Value, scale: Value
    ) -> tuple[Value, Value, Value]:
        """Return the `pre` boxes, best first, their probabilities, and which are chosen, in ONNX.

        The number of those chosen is known at run time only. A probability of NO_SCORE or less is
        that of a box which does not count.
        """
        (found,) = scores.shape
        pre, most = self.pre(found), self.most(found)
        beyond = g.op("Add", high, g.constant(1.0))
        least = g.op("Mul", scale, g.constant(float(self.min_size)))
        short = g.cast(g.op("Less", g.op("Sub", beyond, low), least), "float32")
        small = g.op("ReduceSum", short, g.constant([1], "int64"), keepdims=0)
        ranked = g.op("Where", g.cast(small, "bool"), g.constant(NO_SCORE), scores)
        count = g.constant([pre], "int64")
        best, order = g.op("TopK", ranked, count, outputs=2, axis=0, largest=1, sorted=1)

        # ONNX measures a box from edge to edge: the last pixel ends where the next begins.
        edges = g.op("Gather", g.op("Concat", low, beyond, axis=1), order, axis=0)
        kept = g.op(
            "NonMaxSuppression",
            g.reshape(edges, (1, pre, 4)),
            g.reshape(best, (1, 1, pre)),
            g.constant([most], "int64"),
            g.constant([self.nms_thresh]),
            g.constant([ANY_SCORE]),
        )
        # Rows (image, class, box), as many as there are.
        kept = g.op("Gather", kept, g.constant(2, "int64"), axis=1)
        boxes = g.op("Gather", g.op("Concat", low, high, axis=1), order, axis=0)
        return boxes, best, kept


@layer("Proposal", "proposal_param")
@dataclass(frozen=True)
class Proposal(Selection, Anchored):
    """The best regions that anchors become when shifted and scaled as the net says.

    Shapes: probabilities (1, 2A, H, W), the second half those of an object; shifts (1, 4A, H, W);
    (height, width, scale) of the image (1, 3) -> regions (R, 5) with image 0, best first, and if
    asked for their probabilities (R, 1). R is at most `post_nms_topn`; an exported net has the
    largest number of rows there can be, those behind the last region being zeros.

    Each anchor (x, y, w, h) becomes a box with centre (x + dx w, y + dy h) and size (w exp(dw),
    h exp(dh)), clipped to the image. Boxes smaller than `min_size` * scale go; of the rest the best
    `pre_nms_topn`, and of these, best first, each that overlaps no better one by more than
    `nms_thresh`. A number of 0 means all. Boxes with equal probabilities keep their order: row by
    row, then by anchor. No gradient.

    Source: S. Ren et al., "Faster R-CNN", 2015; the layer of py-faster-rcnn, and with these
    settings of PVANet. Numbers that the phase decides there are settings here.
    """

    top: tuple[str, ...] = ()

    bottoms: ClassVar[Arity] = exactly(3)
    tops: ClassVar[Arity] = between(1, 2)
    data_dependent: ClassVar[bool] = True
    pads: ClassVar[bool] = True

    def infer(self, *bottoms: BlobType) -> Signature:
        scores, deltas, info = bottoms
        self.check_anchors()
        check_fraction(self, "nms_thresh")
        self.check_maps(scores, deltas, (0, 1))
        check_info(info, 2)
        most = self.most(self._found(scores.shape))
        tops = (BlobType((most, 5)), BlobType((most, 1)))
        return Signature(tops[: max(len(self.top), 1)])

    def _found(self, shape: tuple[int, ...]) -> int:
        """Return how many anchors there are."""
        return shape[2] * shape[3] * self.n_anchors

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, (scores, deltas, info) = call.xp, call.bottoms
        most = self.most(self._found(scores.shape))
        boxes, scores = self.candidates(xp, scores, deltas, info)
        boxes, scores = self.best(xp, boxes, scores, info.reshape(-1)[2])
        rows = xp.zeros((len(boxes) if not call.out else most, 5), boxes.dtype)
        rows[: len(boxes), 1:] = boxes
        found = xp.zeros((len(rows), 1), scores.dtype)
        found[: len(boxes), 0] = scores
        return (rows, found)[: max(len(self.top), 1)]

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        scores, deltas, info = bottoms
        found = self._found(scores.shape)
        pre, most = self.pre(found), self.most(found)

        def ints(*values: int) -> Value:
            return g.constant(list(values), "int64")

        info = lower_info(g, info)
        low, high, scores = self.lower_candidates(g, scores, deltas, info)
        scale = g.op("Gather", info, ints(2), axis=0)
        rows, best, kept = self.lower_best(g, low, high, scores, scale)
        # Behind the regions comes the row of zeros, again and again.
        kept = g.op("Concat", kept, ints(*(pre,) * most), axis=0)
        kept = g.op("Slice", kept, ints(0), ints(most), ints(0))
        kept = g.op("Reshape", kept, ints(most))
        rows = g.op("Concat", g.constant([[0.0]] * pre), rows, axis=1)
        tops = [g.op("Gather", g.op("Concat", rows, g.constant([[0.0] * 5]), axis=0), kept, axis=0)]
        if len(self.top) > 1:
            best = g.op("Concat", g.reshape(best, (pre, 1)), g.constant([[0.0]]), axis=0)
            tops.append(g.op("Gather", best, kept, axis=0))
        return tuple(tops)


def lower_info(g: OnnxBuilder, info: Value) -> Value:
    """Return height, width and scale of the image (3) in ONNX."""
    flat = g.reshape(info, (math.prod(info.shape),))
    first: Value = g.op("Slice", flat, *(g.constant([n], "int64") for n in (0, 3, 0)))
    return first


@dataclass(frozen=True)
class Judgement(AnchorShapes):
    """Base of the types that say what a region proposal network should have said of its anchors."""

    allowed_border: int = 0
    batch_size: int = 256
    fg_fraction: float = 0.5
    positive_overlap: float = 0.7
    negative_overlap: float = 0.3
    each_truth: bool = True
    clobber_positives: bool = False
    bbox_inside_weights: tuple[float, ...] = ()
    positive_weight: float = -1.0

    tops: ClassVar[Arity] = exactly(4)

    def check_settings(self) -> None:
        """Refuse settings that do not fit."""
        check_positive(self, "batch_size")
        check_fraction(self, "fg_fraction", "positive_overlap", "negative_overlap")
        check_four(self, "bbox_inside_weights")
        if self.positive_weight >= 1 or self.positive_weight == 0:
            raise Refusal(
                "positive_weight is no share of the weight",
                expected="0 < positive_weight < 1, or below 0 for equal weights",
                got=f"{self.positive_weight:g}",
                setting="positive_weight",
            )

    def inside(self, xp: ArrayNamespace, boxes: Array, info: Array) -> Array:
        """Return the indices of the anchors that lie in the image, or not too far beyond."""
        border, (high, wide) = self.allowed_border, info.reshape(-1)[:2]
        found = (
            (boxes[:, :2] >= -border).all(axis=1)
            & (boxes[:, 2] < wide + border)
            & (boxes[:, 3] < high + border)
        )
        return xp.nonzero(found if bool(found.any()) else ~found)[0]

    def judge(
        self, call: ForwardCall, boxes: Array, truth: Array, scores: Array | None = None
    ) -> tuple[Array, ...]:
        """Return labels (A), and shifts, inside and outside weights (A, 4) of these anchors.

        With `scores`, the probabilities of an object, the choice is that of the worst.
        """
        xp = call.xp
        labels, best = self._labels(xp, boxes, truth)
        labels = self._choice(call, labels, scores)
        targets, inner, outer = (xp.zeros((len(boxes), 4)) for _ in range(3))
        if len(truth):
            targets = encode(xp, boxes, truth[best])
        positive, negative = labels == 1, labels == 0
        inner[positive] = xp.asarray(self.bbox_inside_weights or (1.0,) * 4)
        n_positive, n_negative = int(positive.sum()), int(negative.sum())
        if self.positive_weight < 0:
            share = 1 / max(n_positive + n_negative, 1)
            outer[positive | negative] = share
        else:
            outer[positive] = self.positive_weight / max(n_positive, 1)
            outer[negative] = (1 - self.positive_weight) / max(n_negative, 1)
        return labels, targets, inner, outer

    def spread(
        self,
        xp: ArrayNamespace,
        judged: tuple[Array, ...],
        places: Array,
        size: tuple[int, int],
        dtype: object,
    ) -> list[Array]:
        """Return maps (1, A, H, W) and (1, 4A, H, W) of what was said of the anchors at `places`.

        Of others the label is -1, and the rest 0.
        """
        found = []
        for index, values in enumerate(judged):
            each = values.reshape(len(values), -1)
            full = xp.zeros((size[0] * size[1] * self.n_anchors, each.shape[1]), dtype)
            full[...] = 0 if index else -1
            full[places] = each
            full = full.reshape(*size, self.n_anchors * each.shape[1])
            found.append(full.transpose(2, 0, 1)[None])
        return found

    def _labels(self, xp: ArrayNamespace, boxes: Array, truth: Array) -> tuple[Array, Array]:
        """Return the labels of boxes, and which box of the ground truth each overlaps most."""
        if not len(truth) or not len(boxes):
            return xp.zeros(len(boxes)), xp.zeros(len(boxes), "int64")
        shared = overlaps(xp, boxes, truth)
        most = shared.max(axis=1)
        background = most < self.negative_overlap
        foreground = most >= self.positive_overlap
        if self.each_truth:
            foreground |= (shared == shared.max(axis=0)).any(axis=1)
        labels = xp.full(len(boxes), -1.0)
        for value, where in sorted(
            [(0.0, background), (1.0, foreground)], reverse=self.clobber_positives,
            key=lambda pair: pair[0],
        ):  # fmt: skip
            labels[where] = value
        return labels, shared.argmax(axis=1)

    def _choice(self, call: ForwardCall, labels: Array, scores: Array | None) -> Array:
        """Return the labels, with -1 for those of 1 and of 0 that are too many."""
        xp, random = call.xp, None
        most = int(self.fg_fraction * self.batch_size)
        for value in (1, 0):
            found = xp.nonzero(labels == value)[0]
            if len(found) > most:
                if scores is None:
                    random = random or call.random()
                    order = xp.asarray(random.permutation(len(found)))
                else:
                    own = scores[found] if value else -scores[found]
                    order = xp.argsort(own, kind="stable")
                labels[found[order[most:]]] = -1
            most = self.batch_size - min(len(found), most)
        return labels

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        raise g.refuse("targets belong to training", hint="export the net for testing")


@layer("AnchorTarget", "anchor_target_param")
@dataclass(frozen=True)
class AnchorTarget(Judgement, Anchored):
    """What a region proposal network should have said: labels, shifts and weights of its anchors.

    Shapes: maps of the network (1, ..., H, W), ground truth (G, 5) as (x1, y1, x2, y2, class),
    (height, width, scale) of the image (1, 3), unread, the image, and if given the probabilities
    (1, 2A, H, W) -> labels (1, 1, A * H, W), shifts, inside weights and outside weights
    (1, 4A, H, W).

    Only anchors that lie in the image, or reach `allowed_border` pixels beyond (all, if none does),
    are labelled: 1 for those that overlap a box most of all (but for `each_truth: false`), or by at
    least `positive_overlap`; 0 for those that overlap each by less than `negative_overlap`; -1
    else. Both 1 and 0 are 1, or with `clobber_positives` 0. A choice of `batch_size` stays, at most
    `fg_fraction` of it 1: at random, or with probabilities those of which the net is furthest off.
    Inside weights are `bbox_inside_weights` where the label is 1. Outside weights are 1 / (number
    of labels) for 1 and 0 alike, or with a `positive_weight` p, p / (number of 1) and (1 - p) /
    (number of 0). No gradient.

    ONNX: none, it makes targets for training.

    Source: S. Ren et al., "Faster R-CNN", 2015; the layer of py-faster-rcnn, whose configuration
    has these settings. Those of SSH have `each_truth`: M. Najibi et al., "SSH: Single Stage
    Headless Face Detector", 2017.
    """

    bottoms: ClassVar[Arity] = between(3, 5)

    def infer(self, *bottoms: BlobType) -> Signature:
        maps, truth, info = bottoms[:3]
        self.check_anchors()
        self.check_settings()
        check_maps(maps, "the maps of the network, bottom 0,")
        check_one_image(maps)
        check_truth(truth, 1)
        check_info(info, 2)
        count, height, width = self.n_anchors, *maps.shape[2:]
        if len(bottoms) > 4:
            self.check_channels(bottoms[4], 4, 2, "probabilities")
        boxes = BlobType((1, 4 * count, height, width))
        return Signature((BlobType((1, 1, count * height, width)), boxes, boxes, boxes))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, (maps, truth, info) = call.xp, call.bottoms[:3]
        height, width = maps.shape[2:]
        boxes = self.grid(xp, height, width)
        places = self.inside(xp, boxes, info)
        scores = None
        if len(call.bottoms) > 4:
            scores = call.bottoms[4][0, self.n_anchors :].transpose(1, 2, 0).reshape(-1)[places]
        judged = self.judge(call, boxes[places], truth_rows(truth), scores)
        labels, *maps = self.spread(xp, judged, places, (height, width), maps.dtype)
        return (labels.reshape(1, 1, -1, width), *maps)


@dataclass(frozen=True)
class ImageTargets(Layer):
    """Base of the two forms of ProposalTarget: the settings of the one for several images."""

    batch_size: int = 128
    fg_fraction: float = 0.25
    cls_num: int | None = None
    num_img_per_batch: int = 4
    fg_thr: float = 0.5
    bg_thr_hg: float = 0.5
    bg_thr_lw: float = 0.1
    img_width: int = 0
    img_height: int = 0
    bbox_reg_param: BBoxRegParam = field(default_factory=BBoxRegParam)

    bottoms: ClassVar[Arity] = exactly(2)
    data_dependent: ClassVar[bool] = True
    pads: ClassVar[bool] = True
    stops_gradients: ClassVar[bool] = True

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False,) * n_bottoms

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        raise g.refuse("targets belong to training", hint="export the net for testing")


@layer("ProposalTarget", "proposal_target_param")
@dataclass(frozen=True)
class ProposalTarget(ImageTargets):
    """A training batch for the second stage: regions with their labels, shifts and weights.

    Shapes: regions (R, 5) of image 0, ground truth (G, 5) as (x1, y1, x2, y2, class) -> regions
    (B, 5), labels (B, 1, 1, 1), shifts, inside weights and outside weights (B, 4K). B is
    `batch_size`, or R + G for -1; K is `num_classes`, the background's 0 included. Two regions of
    shape (R, 5) may have trailing axes of size 1.

    The boxes of the ground truth are regions too. Those that overlap a box by at least `fg_thresh`
    have its class, those whose largest overlap is in `bg_thresh_lo` <= o < `bg_thresh_hi` the
    class 0. Of the former at most `fg_fraction` of the batch is chosen, of the latter the rest, at
    random. The shifts to the box of the largest overlap, without the means and divided by the
    deviations, stand with the inside weights at the class's four places (with `agnostic` at class
    1's); outside weights are 1 where the inside weights are above 0.

    With too few regions there are fewer rows; with `fill` those of class 0 follow again and again,
    if there are none, any that overlap each box by less than `bg_thresh_hi`. (Where the shapes must
    stay, those chosen fill the batch up, again and again; with none there are regions of zeros,
    class 0 and no weight.) No gradient.

    ONNX: none, it makes targets for training.

    With `cls_num` the layer is that of MS-CNN, ImageProposalTarget, which has other settings.

    Source: S. Ren et al., "Faster R-CNN", 2015; the layer of py-faster-rcnn and, `agnostic`, of
    R-FCN, whose configurations have these settings.
    """

    num_classes: int = 0
    fg_thresh: float = 0.5
    bg_thresh_hi: float = 0.5
    bg_thresh_lo: float = 0.1
    bbox_normalize_targets: bool = True
    bbox_normalize_means: tuple[float, ...] = ()
    bbox_normalize_stds: tuple[float, ...] = ()
    bbox_inside_weights: tuple[float, ...] = ()
    agnostic: bool = False
    fill: bool = False

    tops: ClassVar[Arity] = exactly(5)

    def resolve(self, host: CodeHost | None) -> Layer:
        if self.cls_num is None:
            return self
        names = [f.name for f in fields(ImageTargets)]
        if self.num_classes:
            raise Refusal(
                "num_classes and cls_num exclude each other",
                expected="cls_num and its settings: " + ", ".join(names),
                got=f"num_classes {self.num_classes}, cls_num {self.cls_num}",
                setting="num_classes",
            )
        return ImageProposalTarget(**{name: getattr(self, name) for name in names})

    def infer(self, *bottoms: BlobType) -> Signature:
        regions, truth = bottoms
        if self.num_classes < 2:
            raise Refusal(
                "num_classes is missing",
                expected="the number of classes, the background included: 21 for PASCAL VOC",
                got=self.num_classes,
                setting="num_classes",
            )
        if self.batch_size < -1 or self.batch_size == 0:
            raise Refusal(
                "batch_size is no number of regions",
                expected="batch_size > 0, or -1 for all regions",
                got=self.batch_size,
                setting="batch_size",
            )
        check_fraction(self, "fg_fraction", "fg_thresh", "bg_thresh_hi", "bg_thresh_lo")
        check_four(self, "bbox_normalize_means", "bbox_normalize_stds", "bbox_inside_weights")
        check_positive(self, "bbox_normalize_stds", "fg_thresh")
        count = check_regions(regions, "bottom 0") + check_truth(truth, 1)
        if self.batch_size > 0:
            count = self.batch_size
        wide = BlobType((count, 4 * self.num_classes))
        return Signature((BlobType((count, 5)), BlobType((count, 1, 1, 1)), wide, wide, wide))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, dtype = call.xp, call.bottoms[0].dtype
        count = self.batch_size
        if count < 0:
            count = sum(b.shape[0] for b in call.bottoms)
        regions = without_padding(call.bottoms[0]).astype("float64")
        truth = truth_rows(call.bottoms[1])
        self._check(xp, regions, truth)
        own = xp.concatenate([xp.zeros((len(truth), 1)), truth[:, :4]], axis=1)
        regions = xp.concatenate([regions, own])
        shared = overlaps(xp, regions[:, 1:], truth) if len(truth) else xp.zeros((len(regions), 1))
        most, nearest = shared.max(axis=1), shared.argmax(axis=1)
        chosen, n_foreground = self._choice(call, most, count)
        if not call.out:
            count = len(chosen)

        tops = [xp.zeros((count, 5), dtype), xp.zeros((count, 1, 1, 1), dtype)]
        tops += [xp.zeros((count, self.num_classes, 4), dtype) for _ in range(2)]
        if len(chosen):
            rows = xp.arange(count) % len(chosen)
            chosen = chosen[rows]
            tops[0][...] = regions[chosen]
            first = xp.nonzero(rows < n_foreground)[0]
            chosen = chosen[first]
            truth = truth[nearest[chosen]] if len(truth) else truth
            classes = truth[:, 4].astype("int64")
            tops[1][first, 0, 0, 0] = classes
            targets = encode(xp, regions[chosen, 1:], truth)
            if self.bbox_normalize_targets:
                targets = targets - xp.asarray(self.bbox_normalize_means or (0.0,) * 4)
                deviations = self.bbox_normalize_stds or (0.1, 0.1, 0.2, 0.2)
                targets = targets / xp.asarray(deviations)
            place = xp.minimum(classes, 1) if self.agnostic else classes
            tops[2][first, place] = targets
            tops[3][first, place] = xp.asarray(self.bbox_inside_weights or (1.0,) * 4)
        tops.append((tops[3] > 0).astype(dtype))
        return (*tops[:2], *(top.reshape(count, 4 * self.num_classes) for top in tops[2:]))

    def _check(self, xp: ArrayNamespace, regions: Array, truth: Array) -> None:
        if bool((regions[:, 0] != 0).any()):
            raise Refusal(
                "a region belongs to a second image",
                expected="regions of image 0 only, as Proposal makes them",
                got=f"image {float(regions[:, 0].max()):g}",
                setting="bottom",
            )
        most = 2**31 if self.agnostic else self.num_classes
        wrong = ~((truth[:, 4] >= 1) & (truth[:, 4] < most))
        if bool(wrong.any()):
            row = int(xp.argmax(wrong))
            raise Refusal(
                "a box of the ground truth has no class of this layer",
                expected="a class of 1 or more" if self.agnostic else f"a class of 1..{most - 1}",
                got=f"class {float(truth[row, 4]):g} in row {row}",
                hint="class 0 is the background" if float(truth[row, 4]) < 1 else "",
                setting="num_classes",
            )

    def _choice(self, call: ForwardCall, most: Array, count: int) -> tuple[Array, int]:
        """Return which regions are chosen, foreground first, and how many are foreground."""
        xp = call.xp
        foreground = xp.nonzero(most >= self.fg_thresh)[0]
        background = xp.nonzero((most < self.bg_thresh_hi) & (most >= self.bg_thresh_lo))[0]
        if self.batch_size < 0:
            return xp.concatenate([foreground, background]), len(foreground)
        random = call.random()
        n_foreground = min(round(self.fg_fraction * count), len(foreground))
        n_background = min(count - n_foreground, len(background))
        front, back = (
            found[xp.asarray(random.permutation(len(found))[:n])]
            for found, n in ((foreground, n_foreground), (background, n_background))
        )
        if self.fill:
            back = self._filled(xp, most, back, count - len(front))
        return xp.concatenate([front, back]), n_foreground

    def _filled(self, xp: ArrayNamespace, most: Array, background: Array, count: int) -> Array:
        """Return `count` regions for class 0: those chosen, or if there are none, any others."""
        if not len(background):
            (background,) = xp.nonzero(most < self.bg_thresh_hi)
        if not len(background):
            return background
        return background[xp.arange(count) % len(background)]


@layer("ImageProposalTarget", "proposal_target_param")
@dataclass(frozen=True)
class ImageProposalTarget(ImageTargets):
    """A training batch for the second stage, of regions of several images: MS-CNN's ProposalTarget.

    A layer of type ProposalTarget with `cls_num` becomes this one.

    True boxes are regions too. A region belongs to the true box of its image that it overlaps most.
    With an overlap of at least `fg_thr` it has that box's class (or none at all, and is left out,
    if the box is ignored), with one in `bg_thr_lw` <= o < `bg_thr_hg` class 0. Of `batch_size`
    regions at most `fg_fraction` have a class above 0, the rest class 0, chosen at random; if those
    are too few, other regions follow in their order, as class 0, and then boxes drawn at random in
    images of `img_width` x `img_height` that overlap no true box by `fg_thr`. With a `batch_size`
    of -1 all regions with a class are chosen.

    Where true boxes have 8 values, as Cascade R-CNN's, an image of -1 is none, and the batch may
    stay smaller than `batch_size`: one box is drawn at random where there would be no region at
    all.

    Targets are the shifts to the true box, without `bbox_mean` and divided by `bbox_std` of
    `bbox_reg_param`, at the class's four places (without its `cls_aware` at class 1's of two), with
    weights of 1.

    Shapes: regions (R, 5), truth (G, 7) as image, x1, y1, x2, y2, class, ignored, or (G, 8) with
    difficult, which nobody looks at -> regions (B, 5), labels (B, 1, 1, 1), targets, inside weights
    and outside weights (B, 4K), matches (B, 6): class, true box, overlap, zeros for class 0. B is
    `batch_size`, or for -1 at most R + G; where the shape must stay, those chosen then fill it up
    again and again. No gradient.

    ONNX: none, it makes targets for training.

    Source: Z. Cai et al., "A Unified Multi-scale Deep Convolutional Neural Network for Fast Object
    Detection", ECCV 2016, and its fork of Caffe, whose weights of regions are not read.
    """

    tops: ClassVar[Arity] = exactly(6)

    def infer(self, *bottoms: BlobType) -> Signature:
        regions, truth = bottoms
        self.bbox_reg_param.check()
        check_fraction(self, "fg_fraction", "fg_thr", "bg_thr_hg", "bg_thr_lw")
        check_positive(self, "num_img_per_batch", "fg_thr")
        for name, wrong, expected in (
            ("cls_num", self.classes < 2, "the number of classes, the background included"),
            ("bg_thr_hg", self.bg_thr_hg > self.fg_thr, f"at most fg_thr, {self.fg_thr:g}"),
            ("batch_size", self.batch_size < -1 or not self.batch_size, "above 0, or -1 for all"),
            ("img_width", self.batch_size > 0 and self.img_width <= SIDE, f"above {SIDE}"),
            ("img_height", self.batch_size > 0 and self.img_height <= SIDE, f"above {SIDE}"),
        ):
            if wrong:
                raise Refusal(
                    f"{name} does not fit",
                    expected=f"{name}: {expected}",
                    got=f"{getattr(self, name) or 0:g}",
                    setting=name,
                )
        columns = CASCADE_TRUTH if truth.shape[1:2] == (CASCADE_TRUTH,) else TRUTH
        count = check_regions(regions, "bottom 0") + check_rows(truth, 1, columns)
        if self.batch_size > 0:
            count = self.batch_size
        wide = BlobType((count, 4 * self._places))
        labels = BlobType((count, 1, 1, 1))
        return Signature((BlobType((count, 5)), labels, wide, wide, wide, BlobType((count, 6))))

    @property
    def classes(self) -> int:
        """How many classes there are, the background included."""
        return self.cls_num or 0

    @property
    def _places(self) -> int:
        """How many boxes there are for a region."""
        return self.classes if self.bbox_reg_param.cls_aware else 2

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, dtype = call.xp, call.bottoms[0].dtype
        given, truth = (without_padding(b).astype("float64") for b in call.bottoms)
        if truth.shape[1] == CASCADE_TRUTH:
            truth = truth[truth[:, 0] != -1]
        self._check(xp, given, truth)
        regions = xp.concatenate([given, truth[:, :5]])
        shared = xp.zeros((len(regions), max(len(truth), 1)))
        if len(truth):
            own = regions[:, :1] == truth[None, :, 0]
            shared = xp.where(own, overlaps(xp, regions[:, 1:], truth[:, 1:5]), 0)
        most, nearest = shared.max(axis=1), shared.argmax(axis=1)
        front, back, regions = self._choice(call, regions, truth, most, nearest)
        chosen = xp.concatenate([front, back])
        count = len(chosen)
        if call.out:
            count = len(call.out[0])
        tops = [xp.zeros((count, columns), dtype) for columns in (5, 1, 6)]
        boxes = [xp.zeros((count, self._places, 4), dtype) for _ in range(2)]
        if len(chosen):
            rows = xp.arange(count) % len(chosen)
            tops[0][...] = regions[chosen[rows]]
            (first,) = xp.nonzero(rows < len(front))
            chosen = chosen[rows[first]]
            true = truth[nearest[chosen]] if len(chosen) else truth[:0]
            tops[1][first, 0] = true[:, 5]
            tops[2][first] = xp.concatenate(
                [true[:, 5:6], true[:, 1:5], most[chosen][:, None]], axis=1
            )
            mean, std = (xp.asarray(v) for v in self.bbox_reg_param.values())
            targets = (encode(xp, regions[chosen, 1:], true[:, 1:5]) - mean) / std
            place = true[:, 5].astype("int64")
            place = place if self.bbox_reg_param.cls_aware else xp.minimum(place, 1)
            boxes[0][first, place], boxes[1][first, place] = targets, 1
        targets, weights = (b.reshape(count, 4 * self._places) for b in boxes)
        labels = tops[1].reshape(count, 1, 1, 1)
        return (tops[0], labels, targets, weights, weights.copy(), tops[2])

    def _check(self, xp: ArrayNamespace, regions: Array, truth: Array) -> None:
        for index, rows in enumerate((regions, truth)):
            wrong = ~((rows[:, 0] >= 0) & (rows[:, 0] < self.num_img_per_batch))
            if bool(wrong.any()):
                raise Refusal(
                    "an image that the batch does not have",
                    expected=f"images 0..{self.num_img_per_batch - 1} in bottom {index}",
                    got=f"{float(rows[int(xp.argmax(wrong)), 0]):g}",
                    setting="num_img_per_batch",
                )
        aware = self.bbox_reg_param.cls_aware
        wrong = (truth[:, 5] < 1) | ((truth[:, 5] >= self.classes) if aware else False)
        if bool(wrong.any()):
            raise Refusal(
                "a true box has no class of this layer",
                expected=f"a class of 1..{self.classes - 1}" if aware else "a class of 1 or more",
                got=f"class {float(truth[int(xp.argmax(wrong)), 5]):g}",
                setting="cls_num",
            )

    def _choice(
        self, call: ForwardCall, regions: Array, truth: Array, most: Array, nearest: Array
    ) -> tuple[Array, Array, Array]:
        """Return which regions are chosen, with a class and as background, and the regions.

        The regions may have become more.
        """
        xp = call.xp
        objects = most >= self.fg_thr
        ignored = xp.zeros(len(regions), bool)
        if len(truth):
            ignored = objects & (truth[nearest, 6] != 0)
        background = (most >= self.bg_thr_lw) & (most < self.bg_thr_hg)
        (front,), (back,) = xp.nonzero(objects & ~ignored), xp.nonzero(background)
        missing, random = 0, call.random()
        if self.batch_size > 0:
            count = min(int(self.fg_fraction * self.batch_size + 0.5), len(front))
            front = front[xp.asarray(random.permutation(len(front))[:count])]
            count = self.batch_size - count
            if len(back) > count:
                return front, back[xp.asarray(random.permutation(len(back))[:count])], regions
            (others,) = xp.nonzero(~objects & ~background)
            back = xp.concatenate([back, others])[:count]
            missing = count - len(back)
        if truth.shape[1] == CASCADE_TRUTH:
            has_size = min(self.img_width, self.img_height) > SIDE
            missing = int(has_size and not len(front) + len(back))
        if not missing:
            return front, back, regions
        drawn = self._drawn(xp, random, truth, missing)
        more = xp.arange(len(regions), len(regions) + len(drawn))
        return front, xp.concatenate([back, more]), xp.concatenate([regions, drawn])

    def _drawn(self, xp: ArrayNamespace, random: Any, truth: Array, count: int) -> Array:
        """Return regions (count, 5) drawn at random that overlap no true box by `fg_thr`."""
        rows = xp.zeros((count, 5))
        for row in range(count):
            for _ in range(TRIES):
                x, y = (random.integers(0, s - SIDE) for s in (self.img_width, self.img_height))
                w, h = random.integers(0, (self.img_width - x, self.img_height - y)).clip(SIDE)
                image = int(random.integers(0, self.num_img_per_batch))
                rows[row] = xp.asarray((image, x, y, x + w - 1, y + h - 1), dtype=rows.dtype)
                near = truth[truth[:, 0] == image, 1:5]
                if not bool((overlaps(xp, rows[row : row + 1, 1:], near) >= self.fg_thr).any()):
                    break
            else:
                raise Refusal(
                    "no background is found to draw regions from",
                    expected="images that true boxes do not fill",
                    got=f"{TRIES} boxes, each of which overlaps one by fg_thr {self.fg_thr:g}",
                    setting="fg_thr",
                )
        return rows
