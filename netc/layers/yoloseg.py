"""Segmentation beside the boxes of YOLO, as in the fork MobileNet-YOLO.

Maps tell for each class what is of it: logits, that a sigmoid makes 0 to 1. Labels are maps of the
same kind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from netc.layers.accuracy import Measure
from netc.layers.activation import Sigmoid
from netc.layers.losses import SCALAR, Loss
from netc.layers.region import LISTED
from netc.layers.registry import layer
from netc.layers.roi import check_maps
from netc.layers.shape import Split
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
    Part,
    Phase,
    Reads,
    Refusal,
    Signature,
    Value,
    exactly,
)

# A label above it says that a pixel is of the class.
_OF_CLASS = 0.5
# By how much a position begun counts as one, at the right and lower end of an object.
_BEGUN = 0.95
# The excitement has gone after this share of the training.
_EXCITED = 0.75


@layer("YoloSeg", "yolo_seg_param")
@dataclass(frozen=True)
class YoloSeg(Loss):
    """What a segmentation beside YOLO's boxes minimises: sigmoids that differ from labels.

    With p the sigmoid of a score and t its label, the slope is w (p - t), w = `object_scale`. Where
    t > 0.5 it is multiplied with 2 - a / b, where a is what bottom 2 says is of the class, in all
    images, and b what is left of them; a class that leaves nothing has no slope there. The gradient
    is that of the cross entropies so weighted, over N; the top, as in the fork, is another number:
    the sum of the squares of the slopes, over N.

    Shapes: scores (N, C, H, W), labels of the same shape, how much of each image is of each class
    (N, C): the sums of the labels -> loss (). `num_class`, `class_scale`, `use_logic_gradient` and
    `use_hardsigmoid` change nothing.

    Source: MobileNet-YOLO; there a class that leaves nothing divides by 0.
    """

    num_class: int = 0
    object_scale: float = 5.0
    class_scale: float = 1.0
    use_logic_gradient: bool = False
    use_hardsigmoid: bool = False

    bottoms: ClassVar[Arity] = exactly(3)

    def infer(self, *bottoms: BlobType) -> Signature:
        x, labels, areas = bottoms
        check_maps(x, "the scores, bottom 0,")
        if labels.shape != x.shape:
            raise Refusal(
                "the labels do not match the scores",
                expected=f"labels of shape {x}: a map for each class",
                got=f"scores of shape {x}, labels of shape {labels}",
                setting="bottom",
            )
        if areas.axes < 1 or areas.shape[0] != x.shape[0] or areas.count != x.span(0, 2):
            raise Refusal(
                "bottom 2 does not hold how much is of each class",
                expected=f"shape {BlobType(x.shape[:2])}: the labels, summed over height and width",
                got=f"shape {areas}",
                setting="bottom",
            )
        return Signature((SCALAR,))

    def _slopes(self, xp: ArrayNamespace, bottoms: tuple[Array, ...]) -> Array:
        x, labels = bottoms[:2]
        areas = bottoms[2].reshape(x.shape[:2])
        taken = areas.sum(axis=0)
        left = (x.shape[2] * x.shape[3] - areas).sum(axis=0)
        some = left != 0
        factors = xp.where(some, 2 - taken / xp.where(some, left, 1), 0)
        weights = xp.where(labels > _OF_CLASS, factors[:, None, None], 1)
        return self.object_scale * weights * (xp.tanh(x * 0.5) * 0.5 + 0.5 - labels)

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        slopes = self._slopes(call.xp, call.bottoms).reshape(-1)
        return (slopes @ slopes / max(len(call.bottoms[0]), 1),)

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        slopes = self._slopes(call.xp, call.bottoms)
        return Gradients((slopes * (call.top_diffs[0] / max(len(slopes), 1)), None, None))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        x, labels, areas = bottoms
        n, c, h, w = x.shape
        # Means rather than sums, so that N may be any number at run time.
        axes: Any = g.constant([0], "int64")
        given = (axes,) if g.opset >= 18 else ()
        attributes: dict[str, Any] = {} if given else {"axes": [0]}
        areas = g.reshape(areas, (n, c))
        taken = g.op("ReduceMean", areas, *given, keepdims=0, **attributes)
        left = g.op("Sub", g.constant(float(h * w)), taken)
        nothing = g.op("Equal", left, g.constant(0.0))
        share = g.op("Div", taken, g.op("Where", nothing, g.constant(1.0), left))
        factors = g.op("Sub", g.constant(2.0), share)
        factors = g.op("Where", nothing, g.constant(0.0), factors)
        factors = g.op("Reshape", factors, g.constant([c, 1, 1], "int64"))
        chosen = g.op("Less", g.constant(_OF_CLASS), labels)
        weights = g.op("Where", chosen, factors, g.constant(1.0))
        slopes = g.op("Mul", weights, g.op("Sub", g.op("Sigmoid", x), labels))
        mean = g.op("ReduceMean", g.op("Mul", slopes, slopes), keepdims=0)
        return (g.op("Mul", mean, g.constant(self.object_scale**2 * c * h * w)),)

    def deployed(self) -> Layer | None:
        return Sigmoid()


@layer("SegmentationEvaluate", "segmentation_evaluate_param")
@dataclass(frozen=True)
class SegmentationEvaluate(Measure):
    """How well the first image is segmented: intersection over union of each class.

    Of a class are the pixels above `threshold`, of the predictions and of the labels; the top is
    their intersection over their union, 0 where nothing is common. Predictions of another size than
    the labels are made bytes and brought to theirs as images are by OpenCV's INTER_AREA; then a
    class that no label has gives -1.

    Shapes: predictions (N, C, H, W) in 0..1, labels (N, C, H', W') -> top (1, 1, 1, C). The number
    of classes is that of the maps; `num_classes` has to be there. No gradient.

    ONNX: none, it measures what a net outputs; the deployed net ends with the predictions.

    Source: MobileNet-YOLO.
    """

    num_classes: int | None = None
    threshold: float = 0.5

    bottoms: ClassVar[Arity] = exactly(2)

    def infer(self, *bottoms: BlobType) -> Signature:
        x, labels = bottoms
        check_maps(x, "the predictions, bottom 0,")
        check_maps(labels, "the labels, bottom 1,")
        if self.num_classes is None:
            raise Refusal(
                "num_classes is missing",
                expected="num_classes: the number of classes",
                got="none",
                setting="num_classes",
            )
        if x.shape[:2] != labels.shape[:2] or 0 in (*x.shape, *labels.shape):
            raise Refusal(
                "the labels do not match the predictions",
                expected="as many images and maps in both, and not without pixels",
                got=f"predictions of shape {x}, labels of shape {labels}",
                setting="bottom",
            )
        return Signature((BlobType((1, 1, 1, x.shape[1])),))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, (x, labels) = call.xp, call.bottoms
        true = labels[0] > self.threshold
        resized = x.shape != labels.shape
        if resized:
            pixels = xp.clip(xp.trunc(x[0] * 255), 0, 255)
            said = resized_area(xp, pixels, labels.shape[2:]) > int(self.threshold * 255)
        else:
            said = x[0] > self.threshold
        common = (true & said).sum(axis=(1, 2))
        either = (true | said).sum(axis=(1, 2))
        found = xp.where(common > 0, common / xp.maximum(either, 1), 0)
        if resized:
            found = xp.where(true.any(axis=(1, 2)), found, -1)
        return (found.astype(x.dtype).reshape(1, 1, 1, -1),)

    def backward_reads(self) -> Reads:
        return Reads.NOTHING


def resized_area(xp: ArrayNamespace, pixels: Array, size: tuple[int, int]) -> Array:
    """Return maps (C, H, W) of bytes in another size (H', W'), as OpenCV's INTER_AREA gives them.

    A pixel is the mean of what it covers; where a side grows, both go between two neighbours.
    """
    grows = any(new > old for new, old in zip(size, pixels.shape[1:], strict=True))
    share = _between if grows else _covered
    rows, columns = (
        xp.asarray(share(old, new), dtype=pixels.dtype)
        for new, old in zip(size, pixels.shape[1:], strict=True)
    )
    return xp.rint(xp.matmul(xp.matmul(rows, pixels), columns.T))


def _covered(old: int, new: int) -> list[list[float]]:
    """Return how much of each new pixel (rows) comes from which old one, by what it covers."""
    scale = old / new
    return [
        [
            max(0.0, min((i + 1) * scale, j + 1) - max(i * scale, j)) / min(scale, old - i * scale)
            for j in range(old)
        ]
        for i in range(new)
    ]


def _between(old: int, new: int) -> list[list[float]]:
    """Return the same where a side grows: between a pixel and the next, as far as it reaches in."""
    scale = old / new
    rows = [[0.0] * old for _ in range(new)]
    for i, row in enumerate(rows):
        first = min(int(i * scale), old - 1)
        part = max(i + 1 - (first + 1) / scale, 0.0) % 1 if first < old - 1 else 0.0
        row[first] = 1 - part
        if part:
            row[first + 1] = part
    return rows


@layer("AssistedExcitation")
@dataclass(frozen=True)
class AssistedExcitation(Layer):
    """y = x + alpha m where there are objects: training begins with maps that know of them.

    m is bottom 2, one map for each image, usually the mean of its channels. alpha falls from 1 to
    0: it is cos(p / 0.75 * pi / 2), p the share of the training that is done, and 0 from 0.75 on,
    in phase TEST, and wherever a net runs without a solver. The gradient of x is that of y; none
    flows to m.

    Shapes: maps (N, C, H, W), objects (N, ...) with class, x and y of the centre, width and height
    for each, of which the first with x = 0 ends the list, m with H W values for each image ->
    top (N, C, H, W).

    ONNX: none, in phase TEST nothing is left of it.

    Source: M. M. Derakhshani et al., "Assisted Excitation of Activations", CVPR 2019;
    MobileNet-YOLO, which excites the first image of a batch only.
    """

    phase: Phase = Phase.TRAIN

    bottoms: ClassVar[Arity] = exactly(3)
    stops_gradients: ClassVar[bool] = True

    def infer(self, *bottoms: BlobType) -> Signature:
        x, objects, mean = bottoms
        check_maps(x, "the maps, bottom 0,")
        n = x.shape[0]
        if objects.axes < 2 or objects.shape[0] != n or objects.span(1) % LISTED:
            raise Refusal(
                "bottom 1 does not list objects",
                expected=f"shape ({n}, ...) with {LISTED} values for each object of an image",
                got=f"shape {objects}",
                hint="AnnotatedData gives them with annotated_data_param { yolo_data_type: 1 }",
                setting="bottom",
            )
        if mean.axes < 2 or mean.shape[0] != n or mean.span(1) != x.span(2):
            raise Refusal(
                "bottom 2 does not hold a map for each image",
                expected=f"shape ({n}, {x.shape[2]}, {x.shape[3]})",
                got=f"shape {mean}",
                setting="bottom",
            )
        return Signature((x,))

    def expand(self, *bottoms: BlobType) -> tuple[Part, ...] | None:
        if self.phase is Phase.TRAIN:
            return None
        return (Part("", Split(top=("$t0",)), ("$b0",), ("$t0",)),)

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, (x, objects, mean) = call.xp, call.bottoms
        n, _, h, w = x.shape
        alpha = math.cos(min(call.progress() / _EXCITED, 1.0) * math.pi / 2)
        excited = xp.zeros((n, 1, h, w), dtype=x.dtype)
        lists = objects.reshape(n, BlobType(objects.shape).span(1) // LISTED, LISTED)
        for image, rows in enumerate(lists.tolist()):
            for _, centre_x, centre_y, wide, high in rows:
                if not centre_x:
                    break
                top, bottom = _positions(centre_y, high, h)
                left, right = _positions(centre_x, wide, w)
                excited[image, 0, top:bottom, left:right] = alpha
        return (x + excited * mean.reshape(n, 1, h, w),)

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (True, False, False)

    def whole_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False, False, False)

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def backward(self, call: BackwardCall) -> Gradients:
        return Gradients((call.top_diffs[0], None, None))


def _positions(centre: float, size: float, count: int) -> tuple[int, int]:
    """Return the positions, first and behind the last, that an object covers: one at least."""
    first = min(max(int((centre - size / 2) * count), 0), count - 1)
    end = int((centre + size / 2) * count + _BEGUN)
    return first, min(max(end, first + 1), count)
