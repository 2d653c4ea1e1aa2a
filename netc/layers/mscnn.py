"""MS-CNN: maps of several scales that each find objects of about one size, the field of the map.

At each position a map (K + 4, H, W) has the scores of K classes, 0 being the background, and a box:
how far its centre lies from that of the position, in sizes of the field, and the logarithms of its
width and height in sizes of the field. Labels (6, H, W) say at each position the class (0: none),
the true box by centre, width and height in pixels, and the overlap of object and field.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from netc.layers.accuracy import Measure
from netc.layers.boxes import overlap, suppress
from netc.layers.grid import YoloGridLoss
from netc.layers.losses import FLT_MIN, Loss
from netc.layers.proposal import ANY_SCORE, NO_SCORE, BBoxRegParam, check_fraction, check_rows
from netc.layers.registry import layer
from netc.layers.roi import REGION, check_maps, check_regions
from netc.layers.softmax import softmax
from netc.layers.types import (
    Arity,
    Array,
    ArrayNamespace,
    BackwardCall,
    BlobType,
    CodeHost,
    ForwardCall,
    Gradients,
    KeptType,
    Layer,
    OnnxBuilder,
    Phase,
    Reads,
    Refusal,
    Signature,
    Value,
    at_least,
    between,
    exactly,
)

# The values of a box, and of a label: class, box, overlap.
BOX, LABEL = 4, 6
# The values of an object: image, x1, y1, x2, y2, class, ignored.
OBJECT = 7
# The values of a match: class, x1, y1, x2, y2, overlap. Those that overlap more are true boxes.
MATCH, TRUE_BOX = 6, 0.975
# What BoxOutput gives where it finds nothing: some region of image 0.
NO_REGION = (0, 1, 1, 10, 10)
# The shortest side of a true box that the loss knows, in pixels.
LEAST_SIDE = 2
# Background positions that are learnt where there are few objects or none, for each class.
LEAST_BACKGROUND = 4


@dataclass(frozen=True, slots=True)
class FieldMap:
    """What the boxes of one map are relative to, in pixels, and how far from it they may be.

    Centres are at most 1 / `xyr` fields away, sizes at most `whr` times larger or smaller.
    """

    height: int
    width: int
    stride: int
    whr: float
    xyr: float
    reg: BBoxRegParam

    def check(self, stride: str = "downsample_rate") -> None:
        """Raise `Refusal` for a field or limits without a size."""
        for name, value, least in (
            ("field_h", self.height, 0.0),
            ("field_w", self.width, 0.0),
            (stride, self.stride, 0.0),
            ("field_whr", self.whr, 1.0),
            ("field_xyr", self.xyr, 0.0),
        ):
            if not value > least:
                raise Refusal(
                    f"{name} is missing" if value == 0 else f"{name} is too small",
                    expected=f"{name} > {least:g}",
                    got=f"{value:g}",
                    setting=name,
                )
        self.reg.check()

    def constants(self, xp: ArrayNamespace, like: Array) -> tuple[Array, Array, Array, Array]:
        """Return mean, deviation, and least and largest values of a box, each (4, 1, 1)."""
        mean, std = self.reg.values()
        high = (1 / self.xyr, 1 / self.xyr, math.log(self.whr), math.log(self.whr))
        low = tuple(-value for value in high)
        rows = (mean, std, low, high)
        return tuple(xp.asarray(row, dtype=like.dtype).reshape(BOX, 1, 1) for row in rows)

    def centres(self, xp: ArrayNamespace, like: Array) -> Array:
        """Return x and y of each position of maps (..., H, W), in pixels: (2, H, W)."""
        high, wide = like.shape[-2:]
        y = (xp.arange(high, dtype=like.dtype) + 0.5) * self.stride
        x = (xp.arange(wide, dtype=like.dtype) + 0.5) * self.stride
        return xp.stack(xp.broadcast_arrays(x[None, :], y[:, None]))

    def sizes(self, xp: ArrayNamespace, like: Array) -> Array:
        """Return width and height of the field, (2, 1, 1)."""
        return xp.asarray((self.width, self.height), dtype=like.dtype).reshape(2, 1, 1)

    def apart(self, xp: ArrayNamespace, raw: Array, labels: Array) -> Array:
        """Return predicted minus true boxes (N, 4, H, W), normalised."""
        mean, std, low, high = self.constants(xp, raw)
        sizes = self.sizes(xp, raw)
        moved = (labels[:, 1:3] - self.centres(xp, raw)) / sizes
        grown = xp.log(xp.maximum(labels[:, 3:5], LEAST_SIDE) / sizes)
        wanted = (xp.concatenate((moved, grown), axis=1) - mean) / std
        return xp.clip(raw, (low - mean) / std, (high - mean) / std) - wanted

    def boxes(self, xp: ArrayNamespace, raw: Array) -> Array:
        """Return predicted boxes (N, 4, H, W) as corners in pixels, (N, H, W, 4)."""
        mean, std, low, high = self.constants(xp, raw)
        box = xp.clip(raw * std + mean, low, high)
        sizes = self.sizes(xp, raw)
        centre = box[:, :2] * sizes + self.centres(xp, raw)
        half = xp.exp(box[:, 2:]) * sizes / 2
        return xp.concatenate((centre - half, centre + half), axis=1).transpose(0, 2, 3, 1)


@dataclass(frozen=True, slots=True)
class Learnt:
    """A loss of classes and of boxes, with the slopes of scores and boxes."""

    classes: Array
    boxes: Array
    scores_slope: Array
    boxes_slope: Array

    def top(self, xp: ArrayNamespace) -> Array:
        """Return the loss and what the boxes add to it, (1, 1, 1, 2)."""
        return xp.stack((self.classes + self.boxes, self.boxes)).reshape(1, 1, 1, 2)


@dataclass(frozen=True)
class FieldJudge(Layer):
    """Base of the types that compare maps with labels for each of their positions."""

    cls_num: int = 0
    bg_threshold: float = 0.5
    objectness: bool = False
    bbox_reg_param: BBoxRegParam = field(default_factory=BBoxRegParam)

    def check_classes(self) -> None:
        """Refuse a number of classes that cannot be."""
        if self.cls_num < 2 or (self.objectness and self.cls_num != 2):
            raise Refusal(
                "cls_num does not fit",
                expected="2 with objectness: background and object"
                if self.objectness
                else "the number of classes, at least 2: the background is one",
                got=f"cls_num {self.cls_num}",
                setting="cls_num",
            )

    @staticmethod
    def check_labels(labels: BlobType, maps: BlobType) -> None:
        """Refuse what is not one label for each position of maps (N, ..., H, W)."""
        n, _, *size = maps.shape
        if labels.shape != (n, LABEL, *size):
            raise Refusal(
                "there is not one label for each position of the maps",
                expected=f"labels of shape {BlobType((n, LABEL, *size))}",
                got=f"labels of shape {labels}",
                hint="a field of another map: bottoms in another order?",
                setting="bottom",
            )

    def whole_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (*(False,) * (n_bottoms - 1), True)

    def deployed(self) -> Layer | None:
        return None

    def classes(self, xp: ArrayNamespace, labels: Array) -> tuple[Array, Array]:
        """Return the class at each position (N, H, W), and where it is background to learn."""
        found = labels[:, 0].astype("int64")
        if self.objectness:
            found = xp.minimum(found, 1)
        wrong = (found < 0) | (found >= self.cls_num)
        if bool(wrong.any()):
            raise Refusal(
                "a label that there is not",
                expected=f"classes of cls_num: 0..{self.cls_num - 1}",
                got=f"{float(labels[:, 0][wrong][0]):g}",
                setting="bottom",
            )
        return found, (found == 0) & (labels[:, LABEL - 1] < self.bg_threshold)


def learn(
    xp: ArrayNamespace,
    shares: Array,
    classes: Array,
    counted: Array,
    weights: Array,
    apart: Array,
    factor: float,
    smooth: bool,
) -> Learnt:
    """Return the loss of the positions that are counted, bools (N, H, W).

    With `shares` (N, K, H, W) the softmax of the scores, the mean of -w log share[class], and
    `factor` times the mean of d^2 / 2 over the boxes `apart` (N, 4, H, W) of objects; with `smooth`
    it is |d| - 1/2 where |d| > 1.
    """
    k = shares.shape[1]
    objects = counted & (classes != 0)
    n_counted, n_objects = int(counted.sum()), int(objects.sum())
    wanted = xp.arange(k)[:, None, None] == classes[:, None]
    right = xp.where(wanted, shares, 0).sum(axis=1)
    costs = -xp.log(xp.maximum(right, FLT_MIN)) * weights
    class_loss = xp.where(counted, costs, 0).sum() / max(n_counted, 1)
    weights = xp.where(counted, weights, 0) / max(n_counted, 1)

    apart = xp.where(objects[:, None], apart, 0)
    costs = apart * apart / 2
    if smooth:
        costs = xp.where(abs(apart) < 1, costs, abs(apart) - 0.5)
        apart = xp.clip(apart, -1, 1)
    share = factor / max(BOX * n_objects, 1)
    slope = (shares - wanted) * weights[:, None]
    return Learnt(class_loss, costs.sum() * share, slope, apart * share)


@dataclass(frozen=True)
class Judge(FieldJudge):
    """Base of the types that compare one map with its labels."""

    coord_num: int = 4
    field_h: int = 0
    field_w: int = 0
    downsample_rate: int = 0
    field_whr: float = 2.0
    field_xyr: float = 2.0

    bottoms: ClassVar[Arity] = exactly(2)

    @property
    def _map(self) -> FieldMap:
        """The field of the map."""
        return FieldMap(
            self.field_h, self.field_w, self.downsample_rate, self.field_whr, self.field_xyr,
            self.bbox_reg_param,
        )  # fmt: skip

    def check(self, maps: BlobType, labels: BlobType) -> None:
        """Raise `Refusal` for bottoms or settings that do not fit."""
        self._map.check()
        if self.coord_num != BOX:
            raise Refusal(
                "coord_num has one value only",
                expected="coord_num: 4",
                got=f"coord_num: {self.coord_num}",
                setting="coord_num",
            )
        self.check_classes()
        check_maps(maps, "the maps, bottom 0,")
        if maps.shape[1] != self.cls_num + BOX or 0 in maps.shape[2:]:
            raise Refusal(
                "the maps do not fit the classes",
                expected=f"{self.cls_num + BOX} channels, cls_num and a box, and positions",
                got=f"bottom 0 of shape {maps}",
                setting="cls_num",
            )
        self.check_labels(labels, maps)


class SampleMode(enum.Enum):
    """Which background positions are learnt: some at random, the hardest, half of each, or all."""

    RANDOM = "random"
    BOOTSTRAP = "bootstrap"
    MIXTURE = "mixture"
    ALL = "all"


@layer("DetectionLoss", "detection_loss_param")
@dataclass(frozen=True)
class DetectionLoss(Judge, Loss):
    """The loss of one map of MS-CNN: classes at objects and at some background, boxes at objects.

    With p the softmax of the scores, the mean of -w log p[class] over the positions with an object
    and the background that is chosen, plus `lambda` times the mean over the four values of each
    object's box of d^2 / 2 (with `bb_smooth`, where |d| > 1, |d| - 1/2 in its place). d is the
    prediction, kept within the limits of `field_whr` and `field_xyr`, minus the truth, both
    normalised by `bbox_reg_param`; true sides count as at least 2 pixels.

    Background is a position of class 0 whose overlap is below `bg_threshold`. For P objects of an
    image, `sample_mode` "random" draws max(P `bg_multiple`, 4 (`cls_num` - 1)) positions, some of
    them perhaps twice or no background; "bootstrap" takes for each class, of P_k objects, the
    max(P_k `bg_multiple`, 4) with the largest score of that class; "mixture" does both with half of
    `bg_multiple`; "all" takes every one. w is 1, at objects with `iou_weighted` their overlap; then
    with `pos_neg_weighted` all w are scaled so that objects have 1 / (1 + `bg_multiple`) of the
    weight, background the rest. `objectness` makes all classes one.

    The gradient passes by the limits as if they were not there, as in the fork.

    With the settings of YOLO's first version, from `side` on, or none at all, the layer is
    YoloGridLoss.

    Shapes: maps (N, K + 4, H, W), labels (N, 6, H, W) -> top (1, 1, 1, 2): the loss, and what the
    boxes add to it. The second is there to be read: gradients are those of the first alone.

    ONNX: none, the choice of the background is part of training; the deployed net ends with the
    maps.

    Source: Z. Cai et al., "A Unified Multi-scale Deep Convolutional Neural Network for Fast Object
    Detection", ECCV 2016, and its fork of Caffe, which takes any other `sample_mode` for "all" and
    keeps all four values of a box in limits of the mean `bbox_mean` and `bbox_std` of two.
    """

    lambda_: float = 1.0
    bb_smooth: bool = True
    bg_multiple: int = 4
    sample_mode: str = "random"
    iou_weighted: bool = False
    pos_neg_weighted: bool = False
    side: int | None = None
    num_class: int | None = None
    num_object: int | None = None
    object_scale: float | None = None
    noobject_scale: float | None = None
    class_scale: float | None = None
    coord_scale: float | None = None
    sqrt: bool | None = None
    constriant: bool | None = None

    tops: ClassVar[Arity] = exactly(1)

    def resolve(self, host: CodeHost | None) -> Layer:
        names = [f.name for f in fields(YoloGridLoss)]
        given: dict[str, Any] = {n: getattr(self, n) for n in names}
        given = {name: value for name, value in given.items() if value is not None}
        if self == DetectionLoss(**given):
            return YoloGridLoss(**given)
        if given:
            raise Refusal(
                "settings of MS-CNN and of YOLO's first version exclude each other",
                expected="those of one of the two: " + ", ".join(names) + " are YOLO's",
                got=f"{', '.join(given)} besides others",
                setting=next(iter(given)),
            )
        return self

    def infer(self, *bottoms: BlobType) -> Signature:
        maps, labels = bottoms
        self.check(maps, labels)
        if self.sample_mode not in {mode.value for mode in SampleMode}:
            raise Refusal(
                "unknown sample_mode",
                expected=", ".join(f'"{mode.value}"' for mode in SampleMode),
                got=f'"{self.sample_mode}"',
                setting="sample_mode",
            )
        if self.bg_multiple < 0:
            raise Refusal(
                "bg_multiple is negative",
                expected="bg_multiple >= 0",
                got=f"bg_multiple {self.bg_multiple}",
                setting="bg_multiple",
            )
        return Signature((BlobType((1, 1, 1, 2)),), kept=(KeptType("slope", maps.shape),))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, (maps, labels) = call.xp, call.bottoms
        k = self.cls_num
        classes, background = self.classes(xp, labels)
        objects = classes != 0
        chosen = self._chosen(call, classes, background)
        weights = self._weights(xp, labels[:, LABEL - 1], objects, chosen)
        found = learn(
            xp,
            softmax(xp, maps[:, :k], 1, xp.empty_like(maps[:, :k])),
            classes,
            objects | chosen,
            weights,
            self._map.apart(xp, maps[:, k:], labels),
            self.lambda_,
            self.bb_smooth,
        )
        slope = call.kept[0]
        slope[:, :k], slope[:, k:] = found.scores_slope, found.boxes_slope
        return (found.top(xp),)

    def _chosen(self, call: ForwardCall, classes: Array, background: Array) -> Array:
        """Return which of the background is learnt, (N, H, W)."""
        xp, mode = call.xp, SampleMode(self.sample_mode)
        if mode is SampleMode.ALL:
            return background
        count = self.bg_multiple * (0.5 if mode is SampleMode.MIXTURE else 1.0)
        n, places = len(classes), classes.shape[1] * classes.shape[2]
        scores = call.bottoms[0].reshape(n, self.cls_num + BOX, places)
        classes, found = classes.reshape(n, places), xp.zeros((n, places), bool)
        random = call.random()
        for image in range(n):
            if mode is not SampleMode.BOOTSTRAP:
                most = int(int((classes[image] != 0).sum()) * count)
                most = max(most, LEAST_BACKGROUND * (self.cls_num - 1))
                found[image, xp.asarray(random.integers(0, places, most))] = True
            if mode is not SampleMode.RANDOM:
                (free,) = xp.nonzero(background.reshape(n, places)[image])
                for k in range(1, self.cls_num):
                    most = max(LEAST_BACKGROUND, int(int((classes[image] == k).sum()) * count))
                    hardest = xp.argsort(-scores[image, k, free], kind="stable")[:most]
                    found[image, free[hardest]] = True
        return found.reshape(background.shape) & background

    def _weights(self, xp: ArrayNamespace, shares: Array, objects: Array, chosen: Array) -> Array:
        """Return what each position weighs, (N, H, W), given the overlaps of objects and fields."""
        weights = xp.ones_like(shares)
        if self.iou_weighted:
            weights = xp.where(objects, shares, weights)
        if not self.pos_neg_weighted:
            return weights
        part = 1 / (1 + self.bg_multiple)
        count = int((objects | chosen).sum())
        of_objects = float(weights[objects].sum())
        if not of_objects:
            return weights
        rest = max(int(chosen.sum()), 1)
        return xp.where(
            objects, weights * (part * count / of_objects), weights * ((1 - part) * count / rest)
        )

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def backward(self, call: BackwardCall) -> Gradients:
        return Gradients((call.kept[0] * call.top_diffs[0].reshape(-1)[0], None))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        raise g.refuse(
            "the choice of the background has no ONNX form",
            hint="export the maps: the bottom of this layer",
        )


def labels_as_boxes(xp: ArrayNamespace, labels: Array) -> Array:
    """Return the true boxes of labels as corners in pixels, (N, H, W, 4)."""
    centre, half = labels[:, 1:3], labels[:, 3:5] / 2
    return xp.concatenate((centre - half, centre + half), axis=1).transpose(0, 2, 3, 1)


def judged(
    call: ForwardCall, hits: Array, fits: Array, objects: Array, background: Array
) -> tuple[Array, ...]:
    """Return the tops of an accuracy: means of hits and fits, -1 where there is nothing to count.

    All are (N, H, W); the hits are of objects and background, then of objects alone.
    """
    xp = call.xp
    values = [
        values[where].mean() if bool(where.any()) else xp.asarray(-1.0)
        for values, where in ((hits, objects | background), (hits, objects), (fits, objects))
    ]
    top = xp.stack(values).astype(fits.dtype)
    return (top[:2].reshape(1, 1, 1, 2), top[2:].reshape(1, 1, 1, 1))[: max(len(call.out), 1)]


@layer("DetectionAccuracy", "detection_accuracy_param")
@dataclass(frozen=True)
class DetectionAccuracy(Judge, Measure):
    """How often the classes of one map of MS-CNN are right, and how well its boxes fit.

    The first top is the share of positions whose class is among the `top_k` best scores (of equal
    ones the larger class is better): of all with an object, or background of an overlap below
    `bg_threshold`, and of those with an object alone. The second is the mean intersection over
    union of predicted and true boxes at objects, with predictions kept in the limits of `field_whr`
    and `field_xyr`. -1 where there is nothing to count.

    Shapes: maps (N, K + 4, H, W), labels (N, 6, H, W) -> tops (1, 1, 1, 2) and (1, 1, 1, 1).

    ONNX: none, it measures what a net outputs; the deployed net ends with the maps.

    Source: the fork of Caffe of MS-CNN.
    """

    field_xyr: float = 4.0
    top_k: int = 1

    tops: ClassVar[Arity] = between(1, 2)

    def infer(self, *bottoms: BlobType) -> Signature:
        maps, labels = bottoms
        self.check(maps, labels)
        if not 1 <= self.top_k <= self.cls_num:
            raise Refusal(
                "top_k does not fit the number of classes",
                expected=f"1 <= top_k <= {self.cls_num}",
                got=f"top_k {self.top_k}",
                setting="top_k",
            )
        return Signature((BlobType((1, 1, 1, 2)), BlobType((1, 1, 1, 1))))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, (maps, labels) = call.xp, call.bottoms
        k = self.cls_num
        classes, background = self.classes(xp, labels)
        objects = classes != 0
        scores, index = maps[:, :k], xp.arange(k)[:, None, None]
        own = xp.where(index == classes[:, None], scores, 0).sum(axis=1, keepdims=True)
        better = (scores > own) | ((scores == own) & (index > classes[:, None]))
        hits = better.sum(axis=1) < self.top_k
        fits = overlap(xp, self._map.boxes(xp, maps[:, k:]), labels_as_boxes(xp, labels))
        return judged(call, hits, fits, objects, background)

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        return bottoms[0].count


# Of one map: its field, boxes (N, 4, H, W) as predicted, scores (N, H, W). In ONNX H W is one axis.
Part = tuple[FieldMap, Array, Array]
LoweredPart = tuple[FieldMap, Value, Value, tuple[int, int]]


@dataclass(frozen=True)
class RegionOutput(Layer):
    """Base of the types that make regions of boxes: the best that overlap no better one."""

    fg_thr: float = 0.0
    iou_thr: float = 0.5
    nms_type: str = "IOU"
    field_whr: float = 2.0
    field_xyr: float = 2.0
    max_nms_num: int = 0
    max_post_nms_num: int = 0
    min_size: float = 15.0
    bbox_reg_param: BBoxRegParam = field(default_factory=BBoxRegParam)
    top: tuple[str, ...] = ()

    tops: ClassVar[Arity] = between(1, 2)
    data_dependent: ClassVar[bool] = True
    pads: ClassVar[bool] = True
    stops_gradients: ClassVar[bool] = True

    #: Both corners of a region belong to it: the last is a pixel before the edge of its box.
    pixels: ClassVar[bool] = False

    def parts(self, bottoms: tuple[Array, ...]) -> list[Part]:
        """Return the maps."""
        raise NotImplementedError

    def lower_parts(self, g: OnnxBuilder, bottoms: tuple[Value, ...]) -> list[LoweredPart]:
        """Return the maps in ONNX."""
        raise NotImplementedError

    def places(self, bottoms: Sequence[BlobType | Value | Array]) -> int:
        """Return how many boxes an image has."""
        raise NotImplementedError

    def images(self, bottoms: Sequence[BlobType | Value | Array]) -> int:
        """Return how many images there are."""
        raise NotImplementedError

    def field_map(self, height: int, width: int, stride: int) -> FieldMap:
        """Return the field of a map."""
        limits = self.field_whr, self.field_xyr
        return FieldMap(height, width, stride, *limits, self.bbox_reg_param)

    def check(self) -> None:
        """Raise `Refusal` for settings that do not fit."""
        check_fraction(self, "iou_thr")
        for name in ("min_size", "max_nms_num", "max_post_nms_num"):
            if getattr(self, name) < 0:
                raise Refusal(
                    f"{name} is negative",
                    expected=f"{name} >= 0",
                    got=f"{getattr(self, name):g}",
                    setting=name,
                )
        if self.nms_type != "IOU":
            raise Refusal(
                "netc compares overlaps by intersection over union only",
                expected='nms_type: "IOU"',
                got=f'nms_type: "{self.nms_type}"',
                setting="nms_type",
            )

    def signature(self, bottoms: tuple[BlobType, ...]) -> Signature:
        """Return what `infer` does for bottoms that fit."""
        rows = self.images(bottoms) * self._most(bottoms)
        tops = (BlobType((rows, REGION, 1, 1)), BlobType((rows, REGION + 1, 1, 1)))
        return Signature(tops[: max(len(self.top), 1)])

    def _pre(self, bottoms: Sequence[BlobType | Value | Array]) -> int:
        """Return how many boxes of an image overlaps are looked for in, at most."""
        found = self.places(bottoms)
        return min(self.max_nms_num or found, found)

    def _most(self, bottoms: Sequence[BlobType | Value | Array]) -> int:
        """Return how many regions an image can have."""
        pre = self._pre(bottoms)
        return min(self.max_post_nms_num or pre, pre)

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False,) * n_bottoms

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        return sum(maps.count for maps in bottoms)

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, n = call.xp, self.images(call.bottoms)
        found = [self._decoded(xp, *part) for part in self.parts(call.bottoms)]
        boxes, scores = (xp.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
        order = xp.argsort(-scores, axis=1, kind="stable")[:, : self._pre(call.bottoms)]
        scores = xp.take_along_axis(scores, order, axis=1)
        boxes = boxes[xp.arange(n)[:, None], order]
        stays = suppress(xp, boxes, scores > ANY_SCORE, self.iou_thr)
        stays &= xp.cumsum(stays, axis=1) <= self._most(call.bottoms)
        image, rank = xp.nonzero(stays)
        count = len(image)
        rows = xp.zeros((len(call.out[0]) if call.out else max(count, 1), REGION + 1), boxes.dtype)
        rows[:count, 0] = image
        rows[:count, 1:REGION] = boxes[image, rank]
        rows[:count, 3:REGION] -= self.pixels
        rows[:count, REGION] = scores[image, rank]
        regions = rows[:, :REGION].copy()
        if not count and not call.out:
            regions[0] = xp.asarray(NO_REGION, boxes.dtype)
        return tuple(r[:, :, None, None] for r in (regions, rows))[: max(len(self.top), 1)]

    def _decoded(
        self, xp: ArrayNamespace, one: FieldMap, raw: Array, scores: Array
    ) -> tuple[Array, Array]:
        """Return boxes (N, H W, 4) and scores (N, H W) of one map, NO_SCORE where none counts."""
        n, _, high, wide = raw.shape
        boxes = one.boxes(xp, raw)
        low, up = xp.maximum(boxes[..., :2], 0), boxes[..., 2:]
        limit = xp.asarray((wide * one.stride, high * one.stride), raw.dtype) + self.pixels
        if not self.pixels:
            up = low + (up - boxes[..., :2])
        up = xp.minimum(up, limit)
        counts = (scores >= self.fg_thr) & (up - low >= self.min_size).all(axis=-1)
        boxes = xp.concatenate((low, up), axis=-1)
        return boxes.reshape(n, -1, BOX), xp.where(counts, scores, NO_SCORE).reshape(n, -1)

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        n, pre, most = self.images(bottoms), self._pre(bottoms), self._most(bottoms)
        found = [self._lower_decoded(g, *part) for part in self.lower_parts(g, bottoms)]
        low, up, scores = (g.op("Concat", *parts, axis=2) for parts in zip(*found, strict=True))
        boxes = g.op("Transpose", g.op("Concat", low, up, axis=1), perm=[0, 2, 1])
        best, order = g.op("TopK", scores, g.constant([pre], "int64"), outputs=2, axis=2)
        boxes = g.op("GatherND", boxes, g.reshape(order, (n, pre, 1)), batch_dims=1)
        kept = g.op(
            "NonMaxSuppression",
            boxes,
            best,
            g.constant([most], "int64"),
            g.constant([self.iou_thr]),
            g.constant([ANY_SCORE]),
        )
        # Rows (image, class, box), as many as there are. Behind them comes the row of zeros.
        image, place = (
            g.op("Gather", kept, g.constant(column, "int64"), axis=1) for column in (0, 2)
        )
        kept = g.op("Add", g.op("Mul", image, g.constant(pre, "int64")), place)
        kept = g.op("Concat", kept, g.constant([n * pre] * (n * most), "int64"), axis=0)
        kept = g.op("Slice", kept, *(g.constant([number], "int64") for number in (0, n * most, 0)))
        kept = g.op("Reshape", kept, g.constant([n * most], "int64"))
        images = g.constant([[float(i)] for i in range(n) for _ in range(pre)])
        if self.pixels:
            boxes = g.op("Sub", boxes, g.constant([0.0, 0.0, 1.0, 1.0]))
        columns = g.reshape(boxes, (n * pre, BOX)), g.reshape(best, (n * pre, 1))
        rows = g.op("Concat", images, *columns, axis=1)
        rows = g.op("Concat", rows, g.constant([[0.0] * (REGION + 1)]), axis=0)
        rows = g.op("Gather", rows, kept, axis=0)
        regions = g.op("Gather", rows, g.constant(list(range(REGION)), "int64"), axis=1)
        tops = g.reshape(regions, (n * most, REGION, 1, 1)), rows
        if len(self.top) < 2:
            return tops[:1]
        return tops[0], g.reshape(rows, (n * most, REGION + 1, 1, 1))

    def _lower_decoded(
        self, g: OnnxBuilder, one: FieldMap, raw: Value, scores: Value, size: tuple[int, int]
    ) -> tuple[Value, Value, Value]:
        """Return low and high corners (N, 2, H W) of one map, and the scores (N, 1, H W)."""
        xp, (high, wide) = g.xp, size
        like = xp.zeros((1, BOX, high, wide), "float32")
        mean, std, least, most = (c.reshape(BOX, 1) for c in one.constants(xp, like))
        sizes = one.sizes(xp, like).reshape(2, 1)

        def box(first: int) -> Value:
            rows = slice(first, first + 2)
            value = g.op("Mul", lower_part(g, raw, first, first + 2), g.constant(std[rows]))
            value = g.op("Add", value, g.constant(mean[rows]))
            value = g.op("Max", value, g.constant(least[rows]))
            bounded: Value = g.op("Min", value, g.constant(most[rows]))
            return bounded

        centre = g.op("Mul", box(0), g.constant(sizes))
        centre = g.op("Add", centre, g.constant(one.centres(xp, like).reshape(2, high * wide)))
        extent = g.op("Mul", g.op("Exp", box(2)), g.constant(sizes))
        start = g.op("Sub", centre, g.op("Mul", extent, g.constant(0.5)))
        low = g.op("Max", start, g.constant(0.0))
        limit = [[float(side * one.stride + self.pixels)] for side in (wide, high)]
        up = g.op("Add", start if self.pixels else low, extent)
        up = g.op("Min", up, g.constant(limit))
        small = g.op("Less", g.op("Sub", up, low), g.constant(self.min_size))
        small_w, small_h = (
            g.op("Gather", small, g.constant([axis], "int64"), axis=1) for axis in (0, 1)
        )
        drop = g.op("Or", small_w, small_h)
        drop = g.op("Or", drop, g.op("Less", scores, g.constant(self.fg_thr)))
        return low, up, g.op("Where", drop, g.constant(NO_SCORE), scores)


def lower_part(g: OnnxBuilder, x: Value, first: int, last: int) -> Value:
    """Return the channels first..last-1 in ONNX."""
    bounds = (g.constant([number], "int64") for number in (first, last, 1))
    part: Value = g.op("Slice", x, *bounds)
    return part


@layer("BoxOutput", "box_output_param")
@dataclass(frozen=True)
class BoxOutput(RegionOutput):
    """The best regions of all maps of MS-CNN: boxes with a high score that overlap no better one.

    A box has the score of its best class, minus that of the background. It is decoded as
    `bbox_reg_param` and the field of its map say, within the limits of `field_whr` and `field_xyr`;
    a corner left of or above the image moves to its border with the size kept, and what then
    reaches beyond the right or lower border, at H or W times `downsample_rate`, is cut off. Boxes
    of a score of at least `fg_thr` and with both sides of at least `min_size` count; of those the
    best `max_nms_num` of each image, and of these, best first, each whose intersection over union
    with no better one that stays is above `iou_thr`, at most `max_post_nms_num`. A number of 0
    means all. Of equal scores the first counts: map by map, row by row.

    Shapes: for each map (N, K + 4, H, W) -> regions (R, 5, 1, 1) as image, x1, y1, x2, y2, and if
    asked for regions with their scores (R, 6, 1, 1), image by image, best first. With no region at
    all there is one, (0, 1, 1, 10, 10), in the first top and a row of zeros in the second. An
    exported net has the largest number of rows there can be, those behind the last region being
    zeros. No gradient.

    Source: Z. Cai et al., "A Unified Multi-scale Deep Convolutional Neural Network for Fast Object
    Detection", ECCV 2016, and its fork of Caffe, where of equal scores the last counts.
    """

    field_h: tuple[int, ...] = ()
    field_w: tuple[int, ...] = ()
    downsample_rate: tuple[int, ...] = ()

    bottoms: ClassVar[Arity] = at_least(1)

    def infer(self, *bottoms: BlobType) -> Signature:
        self.check()
        for name in ("field_h", "field_w", "downsample_rate"):
            count = len(getattr(self, name))
            if count != len(bottoms):
                raise Refusal(
                    f"there is not one {name} for each map",
                    expected=f"{len(bottoms)}: as many as bottoms",
                    got=f"{count}",
                    setting=name,
                )
        for one in self._maps:
            one.check()
        first = bottoms[0]
        for index, maps in enumerate(bottoms):
            check_maps(maps, f"the maps, bottom {index},")
            if maps.shape[:2] != first.shape[:2] or maps.shape[1] < BOX + 2 or not maps.count:
                raise Refusal(
                    f"bottom {index} holds no scores and boxes",
                    expected="maps (N, K + 4, H, W), at least a background and a class, N and K "
                    "the same for all",
                    got=f"shape {maps}, bottom 0 of shape {first}",
                    setting="bottom",
                )
        return self.signature(bottoms)

    @property
    def _maps(self) -> list[FieldMap]:
        sizes = zip(self.field_h, self.field_w, self.downsample_rate, strict=True)
        return [self.field_map(*size) for size in sizes]

    def images(self, bottoms: Sequence[BlobType | Value | Array]) -> int:
        return int(bottoms[0].shape[0])

    def places(self, bottoms: Sequence[BlobType | Value | Array]) -> int:
        return sum(math.prod(maps.shape[2:]) for maps in bottoms)

    def parts(self, bottoms: tuple[Array, ...]) -> list[Part]:
        return [
            (one, maps[:, -BOX:], maps[:, 1:-BOX].max(axis=1) - maps[:, 0])
            for one, maps in zip(self._maps, bottoms, strict=True)
        ]

    def lower_parts(self, g: OnnxBuilder, bottoms: tuple[Value, ...]) -> list[LoweredPart]:
        found = []
        for one, maps in zip(self._maps, bottoms, strict=True):
            n, channels, high, wide = maps.shape
            k = channels - BOX
            flat = g.reshape(maps, (n, channels, high * wide))
            best = g.op("Max", *(lower_part(g, flat, index, index + 1) for index in range(1, k)))
            scores = g.op("Sub", best, lower_part(g, flat, 0, 1))
            found.append((one, lower_part(g, flat, k, channels), scores, (high, wide)))
        return found


@dataclass(frozen=True, slots=True)
class BoxGroupParam:
    """A `box_group_param` message: the fields of the boxes at each position of one map."""

    field_h: tuple[int, ...] = ()
    field_w: tuple[int, ...] = ()
    stride: int = 0


@layer("BoxGroupOutput", "box_group_output_param")
@dataclass(frozen=True)
class BoxGroupOutput(RegionOutput):
    """The best regions of maps that predict several boxes at each position, as Cascade R-CNN has.

    Each map has a pair of bottoms, probabilities and boxes, and a `box_group_param` with the G
    fields of its boxes. A box has the score 1 - p[background]. It is decoded, chosen and suppressed
    as BoxOutput does, but in pixels: both corners belong to a region, so that its width is x2 - x1
    + 1, and each corner for itself is kept in the image, up to W and H times `stride`.

    Shapes: for each map probabilities (N G, K, H, W), the G of an image one behind the other, and
    boxes (N G, 4, H, W) -> regions (R, 5, 1, 1) as image, x1, y1, x2, y2, and if asked for regions
    with their scores (R, 6, 1, 1), image by image, best first; where there are none, and where the
    shape must stay, as of BoxOutput. Of equal scores the first counts: map by map, field by field,
    row by row. No gradient.

    Source: Z. Cai, N. Vasconcelos, "Cascade R-CNN: Delving into High Quality Object Detection",
    CVPR 2018, and its fork of Caffe, in which boxes less than a pixel apart share nothing.
    """

    box_group_param: tuple[BoxGroupParam, ...] = ()

    bottoms: ClassVar[Arity] = at_least(2)
    pixels: ClassVar[bool] = True

    def infer(self, *bottoms: BlobType) -> Signature:
        self.check()
        if len(bottoms) != 2 * len(self.box_group_param):
            raise Refusal(
                "there is not one pair of bottoms for each box_group_param",
                expected=f"{2 * len(self.box_group_param)} bottoms",
                got=f"{len(bottoms)}",
                setting="box_group_param",
            )
        counts = set()
        for index, group in enumerate(self.box_group_param):
            if not group.field_h or len(group.field_h) != len(group.field_w):
                raise Refusal(
                    "fields have not one height and one width each",
                    expected="as many field_h as field_w",
                    got=f"{len(group.field_h)} field_h, {len(group.field_w)} field_w",
                    setting=f"box_group_param.{index}",
                )
            for one in self._fields(group):
                one.check("stride")
            chances, boxes = bottoms[2 * index : 2 * index + 2]
            check_maps(chances, f"the probabilities, bottom {2 * index},")
            count, _, *size = chances.shape
            if (
                boxes.shape != (count, BOX, *size)
                or not chances.count
                or count % len(group.field_h)
            ):
                raise Refusal(
                    f"bottoms {2 * index} and {2 * index + 1} hold no boxes of these fields",
                    expected=f"(N {len(group.field_h)}, K, H, W) and (N {len(group.field_h)}, 4, "
                    "H, W)",
                    got=f"shapes {chances} and {boxes}",
                    setting="bottom",
                )
            counts.add(count // len(group.field_h))
        if len(counts) != 1:
            raise Refusal(
                "maps of different numbers of images",
                expected="one N for all",
                got=", ".join(map(str, sorted(counts))),
                setting="bottom",
            )
        return self.signature(bottoms)

    def _fields(self, group: BoxGroupParam) -> list[FieldMap]:
        sizes = zip(group.field_h, group.field_w, strict=True)
        return [self.field_map(*size, group.stride) for size in sizes]

    def images(self, bottoms: Sequence[BlobType | Value | Array]) -> int:
        return int(bottoms[0].shape[0]) // len(self.box_group_param[0].field_h)

    def places(self, bottoms: Sequence[BlobType | Value | Array]) -> int:
        pairs = zip(self.box_group_param, bottoms[::2], strict=True)
        return sum(len(group.field_h) * math.prod(maps.shape[2:]) for group, maps in pairs)

    def parts(self, bottoms: tuple[Array, ...]) -> list[Part]:
        found = []
        pairs = zip(self.box_group_param, bottoms[::2], bottoms[1::2], strict=True)
        for group, chances, boxes in pairs:
            fields = self._fields(group)
            for k, one in enumerate(fields):
                found.append((one, boxes[k :: len(fields)], 1 - chances[k :: len(fields), 0]))
        return found

    def lower_parts(self, g: OnnxBuilder, bottoms: tuple[Value, ...]) -> list[LoweredPart]:
        found = []
        pairs = zip(self.box_group_param, bottoms[::2], bottoms[1::2], strict=True)
        for group, chances, boxes in pairs:
            fields = self._fields(group)
            n, (high, wide) = self.images(bottoms), boxes.shape[2:]
            boxes = g.reshape(boxes, (n, BOX * len(fields), high * wide))
            scores = g.op("Sub", g.constant(1.0), lower_part(g, chances, 0, 1))
            scores = g.reshape(scores, (n, len(fields), high * wide))
            for k, one in enumerate(fields):
                raw = lower_part(g, boxes, BOX * k, BOX * (k + 1))
                found.append((one, raw, lower_part(g, scores, k, k + 1), (high, wide)))
        return found


def moved_regions(xp: ArrayNamespace, corners: Array, moves: Array) -> Array:
    """Return regions (..., 4), both corners belonging to them, moved by (..., 4) of their sizes."""
    low, high = corners[..., :2], corners[..., 2:]
    size = high - low + 1
    centre = (low + high) / 2 + moves[..., :2] * size
    size = size * xp.exp(moves[..., 2:]) - 1
    low = centre - size / 2
    return xp.concatenate((low, low + size), axis=-1)


def lower_columns(g: OnnxBuilder, x: Value, first: int, last: int) -> Value:
    """Return the places first..last-1 of the last axis in ONNX."""
    bounds = (g.constant([number], "int64") for number in (first, last, len(x.shape) - 1))
    cut: Value = g.op("Slice", x, *bounds)
    return cut


def lower_moved_regions(g: OnnxBuilder, regions: Value, moves: Value) -> tuple[Value, Value]:
    """Return the low and the high corners of `moved_regions` in ONNX, for rows (R, 5 or more)."""
    low, high = lower_columns(g, regions, 1, 3), lower_columns(g, regions, 3, REGION)
    shift, grow = lower_columns(g, moves, 0, 2), lower_columns(g, moves, 2, BOX)
    size = g.op("Add", g.op("Sub", high, low), g.constant(1.0))
    centre = g.op("Mul", g.op("Add", low, high), g.constant(0.5))
    centre = g.op("Add", centre, g.op("Mul", shift, size))
    size = g.op("Sub", g.op("Mul", size, g.op("Exp", grow)), g.constant(1.0))
    low = g.op("Sub", centre, g.op("Mul", size, g.constant(0.5)))
    return low, g.op("Add", low, size)


@layer("DecodeBBox", "decode_bbox_param")
@dataclass(frozen=True)
class DecodeBBox(Layer):
    """Regions moved and scaled as a net says: what one stage of Cascade R-CNN hands to the next.

    Of each row of two predicted boxes, those of background and object, the second counts. With its
    values as `bbox_reg_param` says, a region of width w = x2 - x1 + 1 gets the width w exp(dw) and
    the centre (x1 + x2) / 2 + dx w; heights likewise. In phase TRAIN regions whose corners
    end in wrong order go, and with a third bottom those whose last value there, the overlap with
    the true box, is at least `gt_iou_thr`: they are the true boxes. A row of zeros stays one.

    Shapes: predictions (R, 8), regions (R, 5), in phase TRAIN perhaps matches (R, 6) -> (Q, 5), and
    (R, 5) in phase TEST. Where the shape must stay, rows of zeros follow the last region. No
    gradient.

    Source: Z. Cai, N. Vasconcelos, "Cascade R-CNN: Delving into High Quality Object Detection",
    CVPR 2018, and its fork of Caffe, which ends where no region is left.
    """

    gt_iou_thr: float = 0.95
    bbox_reg_param: BBoxRegParam = field(default_factory=BBoxRegParam)
    phase: Phase = Phase.TEST

    bottoms: ClassVar[Arity] = between(2, 3)
    data_dependent: ClassVar[bool] = True
    pads: ClassVar[bool] = True
    stops_gradients: ClassVar[bool] = True

    def infer(self, *bottoms: BlobType) -> Signature:
        predictions, regions = bottoms[:2]
        self.bbox_reg_param.check()
        count = check_regions(regions)
        if predictions.shape[:2] != (count, 2 * BOX) or predictions.span(2) != 1:
            raise Refusal(
                "bottom 0 does not hold two boxes for each region",
                expected=f"shape ({count}, {2 * BOX}): background and object",
                got=f"shape {predictions}",
                setting="bottom",
            )
        if len(bottoms) == 3 and self.phase is not Phase.TRAIN:
            raise Refusal(
                "matches with true boxes belong to phase TRAIN",
                expected="two bottoms in phase TEST",
                got="three",
                setting="bottom",
            )
        if len(bottoms) == 3 and (bottoms[2].axes < 2 or bottoms[2].shape[0] != count):
            raise Refusal(
                "bottom 2 has not one row for each region",
                expected=f"shape ({count}, 6): the last value is the overlap",
                got=f"shape {bottoms[2]}",
                setting="bottom",
            )
        return Signature((BlobType(regions.shape),))

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False,) * n_bottoms

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, shape = call.xp, call.bottoms[1].shape
        count = shape[0]
        predictions, regions, *matches = (
            b.reshape(count, b.size // max(count, 1)) for b in call.bottoms
        )
        mean, std = (xp.asarray(v, regions.dtype) for v in self.bbox_reg_param.values())
        corners = moved_regions(xp, regions[:, 1:], predictions[:, BOX:] * std + mean)
        rows = xp.concatenate((regions[:, :1], corners), axis=1)
        rows = xp.where((regions != 0).any(axis=1, keepdims=True), rows, 0)
        if self.phase is Phase.TRAIN:
            right = (rows[:, 1:3] <= rows[:, 3:]).all(axis=1)
            if matches:
                right &= matches[0][:, -1] < self.gt_iou_thr
            rows = rows[right]
        if call.out:
            filled = xp.zeros((count, REGION), rows.dtype)
            filled[: len(rows)] = rows
            rows = filled
        return (rows.reshape(len(rows), *shape[1:]),)

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        if self.phase is Phase.TRAIN:
            raise g.refuse("regions to train on have no ONNX form", hint="export the phase TEST")
        predictions, regions = bottoms
        shape = regions.shape
        count = shape[0]
        predictions = g.reshape(predictions, (count, 2 * BOX))
        regions = g.reshape(regions, (count, REGION))
        mean, std = self.bbox_reg_param.values()
        moves = lower_columns(g, predictions, BOX, 2 * BOX)
        moves = g.op("Add", g.op("Mul", moves, g.constant([std])), g.constant([mean]))
        corners = lower_moved_regions(g, regions, moves)
        rows = g.op("Concat", lower_columns(g, regions, 0, 1), *corners, axis=1)
        used = g.op("MatMul", g.op("Abs", regions), g.constant([[1.0]] * REGION))
        rows = g.op("Where", g.op("Greater", used, g.constant(0.0)), rows, g.constant(0.0))
        return (g.reshape(rows, shape),)


@layer("BboxAccuracy")
@dataclass(frozen=True)
class BboxAccuracy(Measure):
    """How well regions fit their objects: predicted ones, and as they were before.

    Means of intersection over union with the true box, over regions of class 1 or more that overlap
    it by at most 0.975: true boxes, which are regions too, do not count. A predicted region has the
    centre (x + dx w, y + dy h) and the size (w exp(dw), h exp(dh)) of its class's box; without
    `cls_aware` there is one box for all classes. -1 where nothing counts.

    Shapes: predictions (R, 4 K), without `cls_aware` (R, 8), regions (R, 5), matches (R, 6) as
    ProposalTarget gives them: class, true box, overlap -> tops (1, 1, 1, 1).

    ONNX: none, it measures what a net outputs; the deployed net ends with the predictions.

    Source: the forks of Caffe of MS-CNN and Cascade R-CNN.
    """

    bbox_reg_param: BBoxRegParam = field(default_factory=BBoxRegParam)

    bottoms: ClassVar[Arity] = exactly(3)
    tops: ClassVar[Arity] = between(1, 2)

    def infer(self, *bottoms: BlobType) -> Signature:
        predictions, regions, matches = bottoms
        self.bbox_reg_param.check()
        count = check_regions(regions)
        channels = predictions.shape[1] if predictions.axes > 1 else 0
        if not self.bbox_reg_param.cls_aware:
            channels = 2 * BOX
        check_rows(predictions, 0, max(channels // BOX * BOX, 2 * BOX), count)
        check_rows(matches, 2, MATCH, count)
        one = BlobType((1, 1, 1, 1))
        return Signature((one, one))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp = call.xp
        count = len(call.bottoms[0])
        predictions, regions, matches = (
            b.reshape(count, b.size // max(count, 1)) for b in call.bottoms
        )
        (rows,) = xp.nonzero((matches[:, 0] >= 1) & (matches[:, -1] <= TRUE_BOX))
        if not len(rows):
            none = xp.full((1, 1, 1, 1), -1, predictions.dtype)
            return (none, none)[: max(len(call.out), 1)]
        matches, regions = matches[rows], regions[rows, 1:]
        classes = matches[:, 0].astype("int64")
        if not self.bbox_reg_param.cls_aware:
            classes = xp.minimum(classes, 1)
        n_classes = predictions.shape[1] // BOX
        if bool((classes >= n_classes).any()):
            raise Refusal(
                "a class that has no predictions",
                expected=f"classes 0..{n_classes - 1} in bottom 2",
                got=f"{int(classes.max())}",
                setting="bottom",
            )
        mean, std = (xp.asarray(v, predictions.dtype) for v in self.bbox_reg_param.values())
        moves = predictions.reshape(count, n_classes, BOX)[rows, classes] * std + mean
        # From edge to edge: the last pixel ends where the next begins.
        edges = xp.asarray((0, 0, 1, 1), predictions.dtype)
        before, true = regions + edges, matches[:, 1:REGION] + edges
        size = before[:, 2:] - before[:, :2]
        centre = before[:, :2] + size / 2 + moves[:, :2] * size
        half = size * xp.exp(moves[:, 2:]) / 2
        after = xp.concatenate((centre - half, centre + half), axis=1)
        tops = (overlap(xp, boxes, true).mean().reshape(1, 1, 1, 1) for boxes in (after, before))
        return tuple(tops)[: max(len(call.out), 1)]

    def whole_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False, True, True)

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        return bottoms[1].count
