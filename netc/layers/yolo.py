"""The types of YOLO, versions 2 and 3: rearrangement of maps, and what is found.

A map predicts `num_box` boxes at each position, each as x, y, w, h, the logit of "an object", and
one of each class. Sizes are those of anchors, which the text calls biases.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from netc.layers.registry import layer
from netc.layers.roi import check_maps
from netc.layers.suppression import DETECTION, placed
from netc.layers.types import (
    Arity,
    Array,
    ArrayNamespace,
    BackwardCall,
    BlobType,
    ForwardCall,
    Gradients,
    Layer,
    OnnxBuilder,
    Reads,
    Refusal,
    Signature,
    Value,
    at_least,
    between,
)

# The values of a box besides its classes.
FIXED = 5


@layer("Reorg", "reorg_param")
@dataclass(frozen=True)
class Reorg(Layer):
    """`stride` x `stride` neighbours become channels, in the order of Darknet; or the reverse.

    Shapes: (N, C, H, W) -> (N, C s s, H / s, W / s), with `reverse` (N, C / (s s), H s, W s). The
    reverse takes channel (i * s + j) * C' + c for pixel (i, j) of each square, with C' channels
    left. Forward is not its inverse but Darknet's: it takes the memory of x for (N, C / (s s), H s,
    W s) and that of y for (N, C, H, W), and inverts between these. Weights were trained so.

    Source: the reorg layer of Darknet (J. Redmon, A. Farhadi, "YOLO9000", 2017), as IntelCaffe and
    MobileNet-YOLO have it.
    """

    stride: int = 0
    reverse: bool = False

    refuses_in_place: ClassVar[bool] = True

    def infer(self, *bottoms: BlobType) -> Signature:
        x = bottoms[0]
        check_maps(x, "the maps, bottom 0,")
        if self.stride <= 0:
            raise Refusal(
                "stride is missing",
                expected="stride > 0",
                got=self.stride,
                hint="2, as in YOLO version 2",
                setting="stride",
            )
        s = self.stride
        n, c, h, w = x.shape
        if c % s**2 or (not self.reverse and (h % s or w % s)):
            sides = "" if self.reverse else f", height and width divisible by {s}"
            raise Refusal(
                "the maps cannot be rearranged",
                expected=f"channels divisible by {s**2}, the square of the stride{sides}",
                got=f"bottom 0 of shape {x}",
                setting="stride",
            )
        if self.reverse:
            return Signature((BlobType((n, c // s**2, h * s, w * s)),))
        return Signature((BlobType((n, c * s**2, h // s, w // s)),))

    def _squares(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the shapes with an axis each for i and j: of the channels, and of the pixels."""
        n, c, h, w = shape
        s = self.stride
        rest = c // s**2
        return (n, s, s, rest, h, w), (n, rest, h, s, w, s)

    def _apart(self, x: Array) -> Array:
        """Give the pixels of each square of channels to the squares of pixels."""
        channels, _ = self._squares(x.shape)
        return x.reshape(channels).transpose(0, 3, 4, 1, 5, 2)

    def _together(self, y: Array, shape: tuple[int, ...]) -> Array:
        """Do the opposite, for channels of that shape."""
        _, pixels = self._squares(shape)
        return y.reshape(pixels).transpose(0, 3, 5, 1, 2, 4)

    def _moved(self, x: Array, shape: tuple[int, ...], out: tuple[int, ...], apart: bool) -> Array:
        moved = self._apart(x.reshape(shape)) if apart else self._together(x, shape)
        return moved.reshape(out)

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        x = call.bottoms[0]
        top = self.infer(BlobType(x.shape)).tops[0].shape
        return (self._moved(x, x.shape, top, self.reverse),)

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def backward(self, call: BackwardCall) -> Gradients:
        shape = call.bottoms[0].shape
        return Gradients((self._moved(call.top_diffs[0], shape, shape, not self.reverse),))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        x = bottoms[0]
        if self.reverse:
            return (g.op("DepthToSpace", x, blocksize=self.stride, mode="DCR"),)
        _, pixels = self._squares(x.shape)
        moved = g.op("Transpose", g.reshape(x, pixels), perm=[0, 3, 5, 1, 2, 4])
        return (g.reshape(moved, self.infer(BlobType(x.shape)).tops[0].shape),)


def _sigmoid(xp: ArrayNamespace, x: Array) -> Array:
    return 0.5 * (1 + xp.tanh(0.5 * x))


@dataclass(frozen=True)
class YoloOutput(Layer):
    """Base of the types that tell what was found: the best class of each box, and suppression."""

    num_classes: int = 20
    num_box: int = 3
    confidence_threshold: float = 0.01
    nms_threshold: float = 0.45
    biases: tuple[float, ...] = ()

    stops_gradients: ClassVar[bool] = True
    data_dependent: ClassVar[bool] = True
    pads: ClassVar[bool] = True

    def anchors(self, index: int, shape: tuple[int, ...]) -> list[tuple[float, float]]:
        """Return the anchors of a bottom in fractions of the image: (width, height)."""
        raise NotImplementedError

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False,) * n_bottoms

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def check(self, bottoms: tuple[BlobType, ...]) -> None:
        """Refuse settings and maps that do not fit each other."""
        for name in ("num_classes", "num_box"):
            if getattr(self, name) <= 0:
                raise Refusal(
                    f"{name} is missing",
                    expected=f"{name} > 0",
                    got=getattr(self, name),
                    setting=name,
                )
        if not 0 <= self.nms_threshold <= 1:
            raise Refusal(
                "nms_threshold is no overlap",
                expected="0 <= nms_threshold <= 1",
                got=f"{self.nms_threshold:g}",
                setting="nms_threshold",
            )
        if len(self.biases) % 2 or min(self.biases, default=1) <= 0:
            raise Refusal(
                "the biases are no anchors",
                expected="pairs of width and height above 0",
                got=f"{len(self.biases)} biases, from {min(self.biases, default=0):g}",
                setting="biases",
            )
        channels = self.num_box * (FIXED + self.num_classes)
        for index, maps in enumerate(bottoms):
            check_maps(maps, f"the maps, bottom {index},")
            if maps.shape[1] != channels or maps.shape[0] != bottoms[0].shape[0]:
                raise Refusal(
                    "the maps do not fit the boxes",
                    expected=f"{bottoms[0].shape[0]} images with {channels} channels: num_box "
                    f"{self.num_box} * ({FIXED} + num_classes {self.num_classes})",
                    got=f"bottom {index} of shape {maps}",
                    setting="num_box",
                )

    def _count(self, shapes: list[tuple[int, ...]]) -> int:
        """Return how many boxes an image has."""
        return sum(self.num_box * h * w for _, _, h, w in shapes)

    def infer(self, *bottoms: BlobType) -> Signature:
        self.check(bottoms)
        shapes = [bottom.shape for bottom in bottoms]
        for index, shape in enumerate(shapes):
            self.anchors(index, shape)
        rows = shapes[0][0] * self._count(shapes)
        return Signature((BlobType((1, 1, rows, DETECTION)),))

    def scores(self, xp: ArrayNamespace, objects: Array, classes: Array) -> tuple[Array, Array]:
        """Return score and class of each box, from logits (..., B) and (..., K, B)."""
        raise NotImplementedError

    def _boxes(self, call: ForwardCall, index: int) -> tuple[Array, Array, Array]:
        """Return corners (N, B, 4), scores (N, B) and classes (N, B) of one bottom."""
        xp, x = call.xp, call.bottoms[index]
        n, _, h, w = x.shape
        x = x.reshape(n, self.num_box, FIXED + self.num_classes, h, w)
        anchors = xp.asarray(self.anchors(index, call.bottoms[index].shape), dtype=x.dtype)
        column, row = xp.arange(w).astype(x.dtype), xp.arange(h).astype(x.dtype)[:, None]
        across = (column + _sigmoid(xp, x[:, :, 0])) / w
        down = (row + _sigmoid(xp, x[:, :, 1])) / h
        wide = xp.exp(x[:, :, 2]) * anchors[:, 0, None, None] / 2
        high = xp.exp(x[:, :, 3]) * anchors[:, 1, None, None] / 2
        corners = [across - wide, down - high, across + wide, down + high]
        count = self.num_box * h * w
        boxes = xp.stack(corners, axis=-1).transpose(0, 2, 3, 1, 4).reshape(n, count, 4)
        score, label = self.scores(xp, x[:, :, 4], x[:, :, FIXED:])
        return (
            boxes,
            score.transpose(0, 2, 3, 1).reshape(n, count),
            label.transpose(0, 2, 3, 1).reshape(n, count),
        )

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp = call.xp
        parts = [self._boxes(call, index) for index in range(len(call.bottoms))]
        boxes, scores, labels = (xp.concatenate(part, axis=1) for part in zip(*parts, strict=True))
        found = []
        for image in range(len(boxes)):
            for i in self._kept(xp, boxes[image], scores[image]):
                values = [xp.asarray([image, labels[image, i] + 1, scores[image, i]])]
                found.append(xp.concatenate([*values, boxes[image, i]]))
        rows = xp.stack(found) if found else xp.zeros((0, DETECTION))
        return (placed(call, rows.astype(boxes.dtype), len(boxes)),)

    def _kept(self, xp: ArrayNamespace, boxes: Array, scores: Array) -> list[int]:
        """Return the boxes of one image that stay, best first."""
        order = xp.argsort(-scores, kind="stable")
        order = order[scores[order] > self.confidence_threshold]
        kept: list[int] = []
        while len(order):
            best, order = order[0], order[1:]
            kept.append(int(best))
            low = xp.maximum(boxes[order, :2], boxes[best, :2])
            high = xp.minimum(boxes[order, 2:], boxes[best, 2:])
            shared = xp.maximum(high - low, 0).prod(axis=1)
            areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
            limit = self.nms_threshold * (areas[order] + areas[best] - shared)
            # Boxes that have nothing in common do not overlap, whatever the threshold, nor do any
            # of which an infinite one leaves this open.
            order = order[~((shared >= limit) & (shared > 0))]
        return kept

    def lower_scores(self, g: OnnxBuilder, objects: Value, classes: Value) -> tuple[Value, Value]:
        """Return `scores` in ONNX, from (N, A, 1, H, W) and (N, A, K, H, W), keeping axis 2."""
        raise NotImplementedError

    def _lower_boxes(self, g: OnnxBuilder, x: Value, index: int) -> tuple[Value, Value, Value]:
        """Return (N, B, 4), (N, B, 1) and (N, B, 1) as `_boxes` does."""
        n, _, h, w = shape = x.shape
        count = self.num_box * h * w
        maps = g.reshape(x, (n, self.num_box, FIXED + self.num_classes, h, w))

        def part(first: int, last: int) -> Value:
            ends = [g.constant([value], "int64") for value in (first, last, 2)]
            cut: Value = g.op("Slice", maps, *ends)
            return cut

        def rows(value: Value, width: int) -> Value:
            return g.reshape(g.op("Transpose", value, perm=[0, 3, 4, 1, 2]), (n, count, width))

        xp = g.xp
        column, row = xp.broadcast_to(xp.arange(w), (h, w)), xp.arange(h)[:, None]
        places = xp.stack([column, xp.broadcast_to(row, (h, w))])[None, None]
        sides = g.constant(xp.asarray([w, h]).reshape(1, 1, 2, 1, 1))
        centre = g.op("Add", g.op("Sigmoid", part(0, 2)), g.constant(places))
        centre = g.op("Div", centre, sides)
        anchors = xp.asarray(self.anchors(index, shape)).reshape(1, self.num_box, 2, 1, 1)
        half = g.op("Mul", g.op("Exp", part(2, 4)), g.constant(anchors / 2))
        corners = [g.op("Sub", centre, half), g.op("Add", centre, half)]
        boxes = rows(g.op("Concat", *corners, axis=2), 4)
        score, label = self.lower_scores(g, part(4, 5), part(5, FIXED + self.num_classes))
        return boxes, rows(score, 1), rows(label, 1)

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        parts = [self._lower_boxes(g, x, index) for index, x in enumerate(bottoms)]
        boxes, scores, labels = (
            part[0] if len(part) == 1 else g.op("Concat", *part, axis=1)
            for part in zip(*parts, strict=True)
        )
        n, count = bottoms[0].shape[0], self._count([x.shape for x in bottoms])
        kept = g.op(
            "NonMaxSuppression",
            boxes,
            g.reshape(scores, (n, 1, count)),
            g.constant([count], "int64"),
            g.constant([self.nms_threshold]),
            g.constant([self.confidence_threshold]),
        )

        def column(index: int) -> Value:
            values: Value = g.op("Gather", kept, g.constant(index, "int64"), axis=1)
            return values

        # Rows (image, class, box) as many as there are; behind them comes the empty row.
        place = g.op("Mul", column(0), g.constant(count, "int64"))
        place = g.op("Add", place, column(2))
        place = g.op("Concat", place, g.constant([n * count] * (n * count), "int64"), axis=0)
        ends = [g.constant([value], "int64") for value in (0, n * count, 0)]
        place = g.op("Reshape", g.op("Slice", place, *ends), g.constant([n * count], "int64"))
        image = g.constant(g.xp.repeat(g.xp.arange(n), count).reshape(n, count, 1))
        label = g.op("Add", labels, g.constant(1.0))
        table = g.reshape(
            g.op("Concat", image, label, scores, boxes, axis=2), (n * count, DETECTION)
        )
        table = g.op("Concat", table, g.constant([[-1.0] * DETECTION]), axis=0)
        return (g.reshape(g.op("Gather", table, place, axis=0), (1, 1, n * count, DETECTION)),)


@layer("YoloDetectionOutput", "yolo_detection_output_param")
@dataclass(frozen=True)
class YoloDetectionOutput(YoloOutput):
    """What YOLO version 2 has found: boxes with the class of the largest score, suppressed.

    Shapes: maps (N, A (5 + K), H, W), and perhaps a second of the same kind -> (1, 1, R, 7): image,
    class from 1 on, score, xmin, ymin, xmax, ymax in fractions of the image. R is the number of
    boxes found; with none there is one row for each image, with -1 for all but its number. In an
    exported net R is the number of all boxes, and rows of -1 follow the last one found.

    A box: x = (column + sigmoid(tx)) / W, width = exp(tw) * bias / W, and so for y and height; the
    biases are in positions. Its score is sigmoid(object) times the softmax of its classes. Of the
    boxes of an image, of all classes together, each that overlaps a better one by `nms_threshold`
    or more goes. `side`, `label_map_file` change nothing: the maps tell their size. No gradient.

    Source: J. Redmon, A. Farhadi, "YOLO9000", 2017; the layer of MobileNet-YOLO, which calls every
    image 0 and suppresses across them.
    """

    num_box: int = 5
    side: int = 13
    coords: int = 4
    label_map_file: str = ""

    bottoms: ClassVar[Arity] = between(1, 2)

    def anchors(self, index: int, shape: tuple[int, ...]) -> list[tuple[float, float]]:
        if self.coords != 4:
            raise Refusal(
                "a box has four coordinates",
                expected="coords: 4",
                got=self.coords,
                setting="coords",
            )
        if len(self.biases) != 2 * self.num_box:
            raise Refusal(
                "the biases do not fit the boxes",
                expected=f"{2 * self.num_box} biases: width and height for each of num_box "
                f"{self.num_box}",
                got=f"{len(self.biases)}",
                setting="biases",
            )
        pairs = zip(self.biases[::2], self.biases[1::2], strict=True)
        return [(wide / shape[3], high / shape[2]) for wide, high in pairs]

    def scores(self, xp: ArrayNamespace, objects: Array, classes: Array) -> tuple[Array, Array]:
        e = xp.exp(classes - classes.max(axis=2, keepdims=True))
        share = 1 / e.sum(axis=2)  # of the largest, whose e is 1
        return _sigmoid(xp, objects) * share, classes.argmax(axis=2)

    def lower_scores(self, g: OnnxBuilder, objects: Value, classes: Value) -> tuple[Value, Value]:
        shares = g.op("Softmax", classes, axis=2)
        return _lower_best(g, objects, classes, shares)


def _lower_best(
    g: OnnxBuilder, objects: Value, classes: Value, shares: Value
) -> tuple[Value, Value]:
    """Return the score of the best class, and that class."""
    label = g.op("ArgMax", classes, axis=2, keepdims=1)
    best = g.op("GatherElements", shares, label, axis=2)
    return g.op("Mul", g.op("Sigmoid", objects), best), g.cast(label, "float32")


@layer("Yolov3DetectionOutput", "yolov3_detection_output_param")
@dataclass(frozen=True)
class Yolov3DetectionOutput(YoloOutput):
    """What YOLO version 3 has found: boxes with the class of the largest score, suppressed.

    Shapes: maps (N, A (5 + K), H, W), one for each of `mask_group_num` sizes -> (1, 1, R, 7) as
    YoloDetectionOutput. The biases are in pixels of an image of `anchors_scale` times the size of a
    map; `mask` tells which of them each bottom has, in turn. A score is sigmoid(object) times
    sigmoid(class). All else is as for YoloDetectionOutput.

    Source: J. Redmon, A. Farhadi, "YOLOv3: An Incremental Improvement", 2018; the layer of
    MobileNet-YOLO, which calls every image 0 and suppresses across them.
    """

    anchors_scale: tuple[int, ...] = ()
    mask_group_num: int = 2
    mask: tuple[int, ...] = ()

    bottoms: ClassVar[Arity] = at_least(1)

    def check(self, bottoms: tuple[BlobType, ...]) -> None:
        super().check(bottoms)
        if len(bottoms) != self.mask_group_num:
            raise Refusal(
                "the number of bottoms does not match mask_group_num",
                expected=f"{self.mask_group_num} bottoms",
                got=f"{len(bottoms)}",
                setting="mask_group_num",
            )
        if len(self.anchors_scale) < len(bottoms):
            raise Refusal(
                "anchors_scale is missing for a bottom",
                expected=f"{len(bottoms)} anchors_scale: pixels for each position, 32 16 ...",
                got=f"{len(self.anchors_scale)}",
                setting="anchors_scale",
            )
        if len(self.mask) != self.num_box * len(bottoms):
            raise Refusal(
                "the mask does not fit the boxes",
                expected=f"{self.num_box * len(bottoms)} values: num_box {self.num_box} for each "
                f"of {len(bottoms)} bottoms",
                got=f"{len(self.mask)}",
                setting="mask",
            )
        if max(self.mask) >= len(self.biases) // 2:
            raise Refusal(
                "the mask names an anchor that is not there",
                expected=f"0..{len(self.biases) // 2 - 1}: there are {len(self.biases)} biases",
                got=max(self.mask),
                setting="mask",
            )

    def anchors(self, index: int, shape: tuple[int, ...]) -> list[tuple[float, float]]:
        scale = self.anchors_scale[index]
        own = self.mask[index * self.num_box : (index + 1) * self.num_box]
        return [
            (self.biases[2 * i] / (shape[3] * scale), self.biases[2 * i + 1] / (shape[2] * scale))
            for i in own
        ]

    def scores(self, xp: ArrayNamespace, objects: Array, classes: Array) -> tuple[Array, Array]:
        best = _sigmoid(xp, classes.max(axis=2))
        return _sigmoid(xp, objects) * best, classes.argmax(axis=2)

    def lower_scores(self, g: OnnxBuilder, objects: Value, classes: Value) -> tuple[Value, Value]:
        return _lower_best(g, objects, classes, g.op("Sigmoid", classes))
