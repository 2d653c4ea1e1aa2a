"""MS-CNN: maps of several scales that each find objects of about one size, the field of the map.

At each position a map (K + 4, H, W) has the scores of K classes, 0 being the background, and a box:
how far its centre lies from that of the position, in sizes of the field, and the logarithms of its
width and height in sizes of the field. Labels (6, H, W) say at each position the class (0: none),
the true box by centre, width and height in pixels, and the overlap of object and field.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import ClassVar

from netc.layers.boxes import overlap
from netc.layers.data import Reader
from netc.layers.losses import FLT_MIN, Loss
from netc.layers.registry import layer
from netc.layers.roi import check_maps
from netc.layers.softmax import softmax
from netc.layers.transform import TransformParam
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

# The values of a box, and of a label: class, box, overlap.
BOX, LABEL = 4, 6
# The values of an object: image, x1, y1, x2, y2, class, ignored.
OBJECT = 7
# The shortest side of a true box that the loss knows, in pixels.
LEAST_SIDE = 2
# Background positions that are learnt where there are few objects or none, for each class.
LEAST_BACKGROUND = 4


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
            if len(values) not in (0, BOX) or (name == "bbox_std" and min(values, default=1) <= 0):
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
        return (0.0,) * BOX, (1.0,) * BOX


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

    def boxes(self, xp: ArrayNamespace, raw: Array) -> Array:
        """Return predicted boxes (N, 4, H, W) as corners in pixels, (N, H, W, 4)."""
        mean, std, low, high = self.constants(xp, raw)
        box = xp.clip(raw * std + mean, low, high)
        sizes = self.sizes(xp, raw)
        centre = box[:, :2] * sizes + self.centres(xp, raw)
        half = xp.exp(box[:, 2:]) * sizes / 2
        return xp.concatenate((centre - half, centre + half), axis=1).transpose(0, 2, 3, 1)


@dataclass(frozen=True)
class Judge(Layer):
    """Base of the types that compare one map with its labels."""

    cls_num: int = 0
    coord_num: int = 4
    field_h: int = 0
    field_w: int = 0
    downsample_rate: int = 0
    field_whr: float = 2.0
    field_xyr: float = 2.0
    bg_threshold: float = 0.5
    objectness: bool = False
    bbox_reg_param: BBoxRegParam = field(default_factory=BBoxRegParam)

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
        if self.cls_num < 2 or (self.objectness and self.cls_num != 2):
            raise Refusal(
                "cls_num does not fit",
                expected="2 with objectness: background and object"
                if self.objectness
                else "the number of classes, at least 2: the background is one",
                got=f"cls_num {self.cls_num}",
                setting="cls_num",
            )
        check_maps(maps, "the maps, bottom 0,")
        if maps.shape[1] != self.cls_num + BOX or 0 in maps.shape[2:]:
            raise Refusal(
                "the maps do not fit the classes",
                expected=f"{self.cls_num + BOX} channels, cls_num and a box, and positions",
                got=f"bottom 0 of shape {maps}",
                setting="cls_num",
            )
        n, _, *size = maps.shape
        if labels.shape != (n, LABEL, *size):
            raise Refusal(
                "there is not one label for each position of the maps",
                expected=f"labels of shape {BlobType((n, LABEL, *size))}",
                got=f"labels of shape {labels}",
                hint="a field of another map: bottoms in another order?",
                setting="bottom",
            )

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

    tops: ClassVar[Arity] = exactly(1)

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
        counted = objects | chosen
        n_counted, n_objects = int(counted.sum()), int(objects.sum())

        slope = call.kept[0]
        shares = softmax(xp, maps[:, :k], 1, xp.empty_like(maps[:, :k]))
        wanted = xp.arange(k)[:, None, None] == classes[:, None]
        right = xp.where(wanted, shares, 0).sum(axis=1)
        costs = -xp.log(xp.maximum(right, FLT_MIN)) * weights
        class_loss = xp.where(counted, costs, 0).sum() / max(n_counted, 1)
        weights = xp.where(counted, weights, 0) / max(n_counted, 1)
        slope[:, :k] = (shares - wanted) * weights[:, None]

        apart = xp.where(objects[:, None], self._apart(xp, maps[:, k:], labels), 0)
        costs = apart * apart / 2
        if self.bb_smooth:
            costs = xp.where(abs(apart) < 1, costs, abs(apart) - 0.5)
            apart = xp.clip(apart, -1, 1)
        share = self.lambda_ / max(BOX * n_objects, 1)
        box_loss = costs.sum() * share
        slope[:, k:] = apart * share
        return (xp.stack((class_loss + box_loss, box_loss)).reshape(1, 1, 1, 2),)

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

    def _apart(self, xp: ArrayNamespace, raw: Array, labels: Array) -> Array:
        """Return predicted minus true boxes (N, 4, H, W), normalised."""
        mean, std, low, high = self._map.constants(xp, raw)
        sizes = self._map.sizes(xp, raw)
        moved = (labels[:, 1:3] - self._map.centres(xp, raw)) / sizes
        grown = xp.log(xp.maximum(labels[:, 3:5], LEAST_SIDE) / sizes)
        wanted = (xp.concatenate((moved, grown), axis=1) - mean) / std
        return xp.clip(raw, (low - mean) / std, (high - mean) / std) - wanted

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def backward(self, call: BackwardCall) -> Gradients:
        return Gradients((call.kept[0] * call.top_diffs[0].reshape(-1)[0], None))

    def whole_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False, True)

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        raise g.refuse(
            "the choice of the background has no ONNX form",
            hint="export the maps: the bottom of this layer",
        )

    def deployed(self) -> Layer | None:
        return None


@layer("DetectionAccuracy", "detection_accuracy_param")
@dataclass(frozen=True)
class DetectionAccuracy(Judge):
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
        centre, half = labels[:, 1:3], labels[:, 3:5] / 2
        true = xp.concatenate((centre - half, centre + half), axis=1).transpose(0, 2, 3, 1)
        fits = overlap(xp, self._map.boxes(xp, maps[:, k:]), true)
        values = [
            values[where].mean() if bool(where.any()) else xp.asarray(-1.0)
            for values, where in ((hits, objects | background), (hits, objects), (fits, objects))
        ]
        top = xp.stack(values).astype(maps.dtype)
        return (top[:2].reshape(1, 1, 1, 2), top[2:].reshape(1, 1, 1, 1))[: max(len(call.out), 1)]

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False, False)

    def whole_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False, True)

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        return bottoms[0].count

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        raise g.refuse(
            "the comparison with labels has no ONNX form",
            hint="export the maps: the bottom of this layer",
        )

    def deployed(self) -> Layer | None:
        return None


@layer("ImageGtData", "image_gt_data_param")
@dataclass(frozen=True)
class ImageGtData(Reader):
    """Images with labels for the maps of MS-CNN, from a list of images with their objects.

    Shapes: tops (N, 3, H, W), for each `downsample_rate` s labels (N, 6, H / s, W / s), rounded
    down, and with `output_gt_boxes` objects (G, 7): image, x1, y1, x2, y2, class, ignored. H and W
    are `crop_height` and `crop_width`, without them `resize_height` and `resize_width`. A fork that
    has not yet read an image shows one object, and so does netc.

    The layer can be looked at, but not run: netc does not cut images around objects as the fork
    does. Nets with it can be checked, summarised and drawn, and trained once another layer, such as
    HDF5Data, gives images and labels of these shapes.

    Source: the fork of Caffe of MS-CNN.
    """

    transform_param: TransformParam = field(default_factory=TransformParam)
    scale: float = 1.0
    mean_file: str = ""
    mirror: bool = False
    downsample_rate: tuple[int, ...] = ()
    coord_num: int = 4
    field_h: tuple[int, ...] = ()
    field_w: tuple[int, ...] = ()
    fg_threshold: float = 0.5
    resize_width: int = 0
    resize_height: int = 0
    crop_width: int = 0
    crop_height: int = 0
    do_multiple_scale: bool = False
    min_scale: int = 0
    max_scale: int = 0
    min_whaspect: float = 0.0
    max_whaspect: float = 0.0
    min_gt_width: float = 0.0
    min_gt_height: float = 0.0
    shuffle: bool = False
    output_gt_boxes: bool = False
    fg_img_multiple: int = 1
    cache_images: bool = False
    root_folder: str = ""

    tops: ClassVar[Arity] = at_least(2)
    message: ClassVar[str] = "image_gt_data_param"

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images of a batch; 0 where only the data tells."""
        return self.crop_height or self.resize_height, self.crop_width or self.resize_width

    def check(self) -> None:
        super().check()
        self.transform_param.check()
        if self.coord_num != BOX:
            raise Refusal(
                "coord_num has one value only",
                expected="coord_num: 4",
                got=f"coord_num: {self.coord_num}",
                setting="coord_num",
            )
        count = len(self.downsample_rate)
        if not count or min(self.downsample_rate) < 1:
            raise Refusal(
                "downsample_rate does not fit",
                expected="a number above 0 for each map",
                got=" ".join(map(str, self.downsample_rate)) or "none",
                setting="downsample_rate",
            )
        for name, values in (("field_h", self.field_h), ("field_w", self.field_w)):
            if len(values) != count:
                raise Refusal(
                    f"there is not one {name} for each map",
                    expected=f"{count}: as many as downsample_rate",
                    got=f"{len(values)}",
                    setting=name,
                )
        if len(self.top) != 1 + count + self.output_gt_boxes:
            raise Refusal(
                "there is not one top for each map",
                expected=f"{1 + count + self.output_gt_boxes} tops: images, {count} of labels"
                + (", objects" if self.output_gt_boxes else ""),
                got=f"{len(self.top)}",
                setting="top",
            )

    def infer(self, *bottoms: BlobType) -> Signature:
        self.check()
        channels, height, width = bottoms[0].shape
        n = self.batch_size
        tops = [BlobType((n, channels, height, width))]
        tops += [BlobType((n, LABEL, height // s, width // s)) for s in self.downsample_rate]
        if self.output_gt_boxes:
            tops.append(BlobType((1, OBJECT, 1, 1)))
        return Signature(tuple(tops))
