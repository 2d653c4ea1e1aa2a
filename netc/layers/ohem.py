"""Losses of boxes, and hard example mining on the fly, of the R-CNN family.

With mining a net has each loss twice: once for every region, without a gradient, from which
BoxAnnotatorOHEM picks the worst regions; and once for these, as the objective.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from netc.layers.activation import Engine
from netc.layers.labels import Divisor, ScoreShape, check_items, check_labels, class_index
from netc.layers.losses import FLT_MIN, SCALAR, Loss, lower_labels
from netc.layers.proposal import check_fraction, check_positive, suppress
from netc.layers.registry import layer
from netc.layers.roi import REGION, check_regions
from netc.layers.softmax import Softmax, softmax, softmax_gradient
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
    Reads,
    Refusal,
    Signature,
    Value,
    between,
    exactly,
)


def four_axes(blob: BlobType) -> tuple[int, int, int, int]:
    """Return the shape with axes of size 1 behind: (R, K) and (R, K, 1, 1) are the same to Caffe.

    Refuses more than four axes.
    """
    if blob.axes > 4:
        raise Refusal(
            "a bottom has more than four axes",
            expected="shape (N, C, H, W), or fewer axes",
            got=f"shape {blob}",
            setting="bottom",
        )
    n, c, h, w = (*blob.shape, 1, 1, 1, 1)[:4]
    return n, c, h, w


def check_alike(first: BlobType, others: Sequence[BlobType], what: Sequence[str]) -> None:
    """Refuse bottoms whose shapes differ from the first's, trailing axes of size 1 left aside."""
    shape = four_axes(first)
    for index, (other, name) in enumerate(zip(others, what, strict=False), start=1):
        if four_axes(other) != shape:
            raise Refusal(
                f"predictions and {name} differ in shape",
                expected=f"shape {first} for bottom {index}, as for bottom 0",
                got=f"shape {other}",
                setting="bottom",
            )


def smooth_l1(xp: ArrayNamespace, d: Array, sigma: float = 1.0) -> Array:
    """Return sigma^2 d^2 / 2 where |d| < 1 / sigma^2, and |d| - 1 / (2 sigma^2) elsewhere."""
    square, size = sigma * sigma, xp.abs(d)
    return xp.where(size < 1 / square, (0.5 * square) * d * d, size - 0.5 / square)


def smooth_l1_slope(xp: ArrayNamespace, d: Array, sigma: float = 1.0) -> Array:
    """Return the derivative: sigma^2 d near 0, the sign of d elsewhere."""
    square = sigma * sigma
    return xp.where(xp.abs(d) < 1 / square, square * d, xp.sign(d))


def lower_smooth_l1(g: OnnxBuilder, d: Value, sigma: float = 1.0) -> Value:
    """Return `smooth_l1` in ONNX."""
    square = sigma * sigma
    size = g.op("Abs", d)
    near = g.op("Mul", g.op("Mul", d, d), g.constant(0.5 * square))
    far = g.op("Sub", size, g.constant(0.5 / square))
    cost: Value = g.op("Where", g.op("Less", size, g.constant(1 / square)), near, far)
    return cost


@layer("SmoothL1Loss", "smooth_l1_loss_param", "loss_param")
@dataclass(frozen=True)
class SmoothL1Loss(Loss):
    """The sum of w_out * f(w_in * (x - t)) per item, f quadratic near 0 and linear further out.

    f(d) = sigma^2 d^2 / 2 where |d| < 1 / sigma^2, |d| - 1 / (2 sigma^2) elsewhere. Shapes: x and t
    (N, ...), and in Fast R-CNN the weights w_in and w_out (w_in alone in its first version and in
    SSD's fork), all alike but for trailing axes of size 1 -> loss (). Divided by the first axis of
    x; not at all with `normalization: NONE`, as in IntelCaffe, where every other normalization
    means the first axis too. Gradients reach x and t. With both weights a second top, of Cascade
    R-CNN's fork, has the sums over C of (N, C, H, W), what each region costs: (N, 1, H, W). With
    fewer bottoms and a second top, or `pre_fixed_normalizer`, the layer is SmoothL1LossOHEM, as in
    R-FCN's first fork.

    Source: R. Girshick, "Fast R-CNN", 2015, and its fork of Caffe; SSD uses two bottoms.
    """

    sigma: float = 1.0
    normalization: Divisor | None = None
    pre_fixed_normalizer: float | None = None
    bottom: tuple[str, ...] = ()
    top: tuple[str, ...] = ()

    bottoms: ClassVar[Arity] = between(2, 4)
    tops: ClassVar[Arity] = between(1, 2)

    def resolve(self, host: CodeHost | None) -> Layer:
        has_both_weights = len(self.bottom) == 4
        if self.pre_fixed_normalizer is None and (len(self.top) < 2 or has_both_weights):
            return self
        if self.sigma != 1:
            raise Refusal(
                "a loss that tells what each region costs has no sigma",
                expected="sigma 1, or one top and no pre_fixed_normalizer",
                got=f"sigma {self.sigma:g}",
                setting="sigma",
            )
        fixed = 1.0 if self.pre_fixed_normalizer is None else self.pre_fixed_normalizer
        return SmoothL1LossOHEM(self.normalization, None, fixed, self.top)

    def infer(self, *bottoms: BlobType) -> Signature:
        if self.sigma <= 0:
            raise Refusal(
                "sigma is not positive",
                expected="sigma > 0",
                got=f"{self.sigma:g}",
                setting="sigma",
            )
        if self.normalization is Divisor.PRE_FIXED:
            raise Refusal(
                "normalization PRE_FIXED is for the OHEM losses",
                expected="NONE, or no normalization",
                got="PRE_FIXED",
                hint="SmoothL1LossOHEM reads pre_fixed_normalizer",
                setting="normalization",
            )
        names = ("targets", "inside weights", "outside weights")
        check_alike(bottoms[0], bottoms[1:], names)
        check_items(bottoms[0], bottoms[1])
        if len(self.top) < 2:
            return Signature((SCALAR,))
        n, _, h, w = four_axes(bottoms[0])
        return Signature((SCALAR, BlobType((n, 1, h, w))))

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (True, True, False, False)[:n_bottoms]

    def _divisor(self, shape: tuple[int, ...]) -> float:
        return 1.0 if self.normalization is Divisor.NONE else float(max(shape[0], 1))

    @staticmethod
    def _difference(bottoms: tuple[Array, ...]) -> Array:
        x, t = bottoms[:2]
        d = x - t.reshape(x.shape)
        return d * bottoms[2].reshape(x.shape) if len(bottoms) > 2 else d

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, bottoms = call.xp, call.bottoms
        costs = smooth_l1(xp, self._difference(bottoms), self.sigma)
        if len(bottoms) == 4:
            costs = costs * bottoms[3].reshape(costs.shape)
        loss = costs.sum() / self._divisor(costs.shape)
        if len(self.top) < 2:
            return (loss,)
        return loss, costs.reshape(four_axes(BlobType(costs.shape))).sum(axis=1, keepdims=True)

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        bottoms = call.bottoms
        dx = smooth_l1_slope(call.xp, self._difference(bottoms), self.sigma)
        weight = call.top_diffs[0] / self._divisor(dx.shape)
        if len(call.top_diffs) > 1:
            weight = weight + call.top_diffs[1]
        dx = (dx.reshape(four_axes(BlobType(dx.shape))) * weight).reshape(dx.shape)
        for weights in bottoms[2:]:
            dx *= weights.reshape(dx.shape)
        dt = -dx.reshape(bottoms[1].shape) if call.wants_bottoms[1] else None
        return Gradients((dx, dt, *(None,) * (len(bottoms) - 2)))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        x, *others = bottoms
        t, *weights = (g.reshape(other, x.shape) for other in others)
        d = g.op("Sub", x, t)
        if weights:
            d = g.op("Mul", d, weights[0])
        costs = lower_smooth_l1(g, d, self.sigma)
        if len(weights) > 1:
            costs = g.op("Mul", costs, weights[1])
        if self.normalization is Divisor.NONE:
            loss = g.op("ReduceSum", costs, keepdims=0)
        else:
            mean = g.op("ReduceMean", costs, keepdims=0)
            loss = g.op("Mul", mean, g.constant(float(BlobType(x.shape).span(1))))
        if len(self.top) < 2:
            return (loss,)
        costs = g.reshape(costs, four_axes(BlobType(x.shape)))
        return loss, g.op("ReduceSum", costs, g.constant([1], "int64"), keepdims=1)


@dataclass(frozen=True)
class MinedLoss(Loss):
    """Base of the losses that can tell what each region costs, and be divided by a fixed number."""

    normalization: Divisor | None = None
    normalize: bool | None = None
    pre_fixed_normalizer: float = 1.0
    top: tuple[str, ...] = ()

    @property
    def mode(self) -> Divisor:
        """The normalization that applies; `normalize` is the older way to say it."""
        if self.normalization is not None:
            return self.normalization
        if self.normalize is not None:
            return Divisor.VALID if self.normalize else Divisor.BATCH_SIZE
        return Divisor.VALID

    @property
    def _n_tops(self) -> int:
        return max(len(self.top), 1)

    def check_divisor(self) -> None:
        """Refuse a fixed divisor that nothing could be divided by."""
        if self.mode is Divisor.PRE_FIXED and self.pre_fixed_normalizer <= 0:
            raise Refusal(
                "pre_fixed_normalizer is not positive",
                expected="the number to divide the loss by",
                got=f"{self.pre_fixed_normalizer:g}",
                setting="pre_fixed_normalizer",
            )

    def fixed(self, outer: int, inner: int) -> float:
        """Return what the loss is divided by where every label counts; at least 1, as in Caffe."""
        match self.mode:
            case Divisor.NONE:
                return 1.0
            case Divisor.PRE_FIXED:
                return max(self.pre_fixed_normalizer, 1.0)
            case Divisor.BATCH_SIZE:
                return float(max(outer, 1))
            case _:
                return float(max(outer * inner, 1))

    def lower_sum(self, g: OnnxBuilder, costs: Value, outer: int, inner: int) -> Value:
        """Return the divided sum of the costs, for any batch size where that is what counts."""
        value: Value
        if self.mode in (Divisor.NONE, Divisor.PRE_FIXED):
            value = g.op("ReduceSum", costs, keepdims=0)
            return value if self.mode is Divisor.NONE else _over(g, value, self.fixed(1, 1))
        per = BlobType(costs.shape).count / self.fixed(outer, inner)
        value = g.op("ReduceMean", costs, keepdims=0)
        return _over(g, value, 1 / per)


def _over(g: OnnxBuilder, x: Value, divisor: float) -> Value:
    quotient: Value = x if divisor == 1 else g.op("Div", x, g.constant(divisor))
    return quotient


@layer("SoftmaxWithLossOHEM", "loss_param", "softmax_param")
@dataclass(frozen=True)
class SoftmaxWithLossOHEM(MinedLoss):
    """SoftmaxWithLoss that tells, in its third top, what each label costs.

    Shapes: scores (N, K, ...), labels (N, ...) -> loss (), probabilities (N, K, ...), and
    -log p[label] in the shape of the labels, 0 for those with `ignore_label`. Probabilities are
    floored at the smallest float32 before the log. The sum is divided by the labels that count, or
    by what `normalization` says: PRE_FIXED takes `pre_fixed_normalizer`.

    Source: A. Shrivastava et al., "Training Region-based Object Detectors with Online Hard Example
    Mining", 2016; the layer is that of R-FCN's fork. There only the first top has a gradient.
    """

    axis: int = 1
    ignore_label: int | None = None
    engine: Engine = Engine.DEFAULT

    tops: ClassVar[Arity] = between(1, 3)

    def infer(self, *bottoms: BlobType) -> Signature:
        x, labels = bottoms
        self.check_divisor()
        check_items(x, labels)
        shape = check_labels(x, labels, self.axis)
        kept = (
            KeptType("prob", x.shape),
            KeptType("index", (shape.outer, shape.inner), "int32"),
        )
        return Signature((SCALAR, x, labels)[: self._n_tops], kept=kept)

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, (prob, index), (x, labels) = call.xp, call.kept, call.bottoms
        shape = ScoreShape.of(x.shape, self.axis)
        found = class_index(xp, labels, shape.classes, self.ignore_label)
        index[...] = found.reshape(index.shape)
        scores = softmax(xp, x, self.axis, out=prob).reshape(shape.sizes)
        costs = -xp.log(xp.maximum(scores[_labelled(xp, index)], FLT_MIN))
        if self.ignore_label is not None:
            costs = xp.where(index >= 0, costs, 0)
        loss = costs.sum() / self._divisor(xp, index, costs)
        return (loss, prob, costs.reshape(labels.shape))[: self._n_tops]

    def _divisor(self, xp: ArrayNamespace, index: Array, like: Array) -> Array | float:
        if self.mode is Divisor.VALID and self.ignore_label is not None:
            return xp.maximum((index >= 0).sum(), 1).astype(like.dtype)
        return self.fixed(*index.shape)

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def backward(self, call: BackwardCall) -> Gradients:
        xp, (prob, index) = call.xp, call.kept
        sizes = ScoreShape.of(prob.shape, self.axis).sizes
        weight = call.top_diffs[0] / self._divisor(xp, index, prob)
        weight = xp.broadcast_to(weight, index.shape)
        if len(call.top_diffs) > 2:
            weight = weight + call.top_diffs[2].reshape(index.shape)
        if self.ignore_label is not None:
            weight = weight * (index >= 0)
        dx = prob.reshape(sizes) * weight[:, None, :]
        dx[_labelled(xp, index)] -= weight
        dx = dx.reshape(prob.shape)
        if len(call.top_diffs) > 1:
            dx += softmax_gradient(xp, prob, call.top_diffs[1], self.axis)
        return Gradients((dx, None))

    def deployed(self) -> Layer | None:
        return Softmax(axis=self.axis)

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        x, labels = bottoms
        axis = self.axis % len(x.shape)
        one_each = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
        index, counts = lower_labels(g, labels, one_each, self.ignore_label)
        prob = g.op("Softmax", x, axis=axis)
        at_label = g.op("GatherElements", prob, index, axis=axis)
        costs = g.op("Neg", g.op("Log", g.op("Max", at_label, g.constant(FLT_MIN))))
        if counts is not None:
            costs = g.op("Where", counts, costs, g.constant(0.0))
        if counts is not None and self.mode is Divisor.VALID:
            counted = g.op("ReduceSum", g.cast(counts, "float32"), keepdims=0)
            total = g.op("ReduceSum", costs, keepdims=0)
            loss = g.op("Div", total, g.op("Max", counted, g.constant(1.0)))
        else:
            shape = ScoreShape.of(x.shape, self.axis)
            loss = self.lower_sum(g, costs, shape.outer, shape.inner)
        tops = [loss, prob]
        if self._n_tops > 2:
            tops.append(g.reshape(costs, labels.shape))
        return tuple(tops[: self._n_tops])


def _labelled(xp: ArrayNamespace, index: Array) -> tuple[Array, Array, Array]:
    """Return the subscripts of the labelled classes; an ignored label points at class 0."""
    outer, inner = index.shape
    return xp.arange(outer)[:, None], xp.maximum(index, 0), xp.arange(inner)[None, :]


@layer("SmoothL1LossOHEM", "loss_param")
@dataclass(frozen=True)
class SmoothL1LossOHEM(MinedLoss):
    """The sum of f(w * (x - t)), which also tells, in its second top, what each region costs.

    f(d) = d^2 / 2 where |d| < 1, |d| - 1/2 elsewhere. Shapes: x, t and, if given, w (N, C, H, W),
    or fewer axes -> loss (), and the sums over C (N, 1, H, W). The loss is divided by N * H * W, or
    by what `normalization` says: PRE_FIXED takes `pre_fixed_normalizer`. Gradients reach x and t;
    that to x is not multiplied by w, as in the fork: w tells which values count, and is 0 or 1.
    With other weights the gradient would be that of no loss, and forward refuses them.

    Source: as SoftmaxWithLossOHEM. There only the first top has a gradient.
    """

    bottoms: ClassVar[Arity] = between(2, 3)
    tops: ClassVar[Arity] = between(1, 2)

    def infer(self, *bottoms: BlobType) -> Signature:
        self.check_divisor()
        check_alike(bottoms[0], bottoms[1:], ("targets", "weights"))
        n, _, h, w = four_axes(bottoms[0])
        return Signature((SCALAR, BlobType((n, 1, h, w)))[: self._n_tops])

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (True, True, False)[:n_bottoms]

    @staticmethod
    def _difference(bottoms: tuple[Array, ...]) -> Array:
        """Return the weighted differences as (N, C, H, W)."""
        shape = four_axes(BlobType(bottoms[0].shape))
        x, t, *weights = (b.reshape(shape) for b in bottoms)
        return (x - t) * weights[0] if weights else x - t

    def _fixed(self, shape: tuple[int, ...]) -> float:
        n, _, h, w = shape
        return self.fixed(n, h * w)

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, bottoms = call.xp, call.bottoms
        costs = smooth_l1(xp, self._difference(bottoms))
        loss = costs.sum() / self._fixed(costs.shape)
        return (loss, costs.sum(axis=1, keepdims=True))[: self._n_tops]

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        d = self._difference(call.bottoms)
        weight = call.top_diffs[0] / self._fixed(d.shape)
        if len(call.top_diffs) > 1:
            weight = weight + call.top_diffs[1]
        dx = smooth_l1_slope(call.xp, d) * weight
        x, t, *rest = call.bottoms
        for weights in rest:
            dx = dx * weights.reshape(dx.shape)
        dt = -dx.reshape(t.shape) if call.wants_bottoms[1] else None
        return Gradients((dx.reshape(x.shape), dt, *(None for _ in rest)))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        n, _, h, w = shape = four_axes(BlobType(bottoms[0].shape))
        x, t, *weights = (g.reshape(b, shape) for b in bottoms)
        d = g.op("Sub", x, t)
        costs = lower_smooth_l1(g, g.op("Mul", d, weights[0]) if weights else d)
        sums = g.op("ReduceSum", costs, g.constant([1], "int64"), keepdims=1)
        return (self.lower_sum(g, sums, n, h * w), sums)[: self._n_tops]


@layer("BoxAnnotatorOHEM", "box_annotator_ohem_param")
@dataclass(frozen=True)
class BoxAnnotatorOHEM(Layer):
    """Labels and box weights of the `roi_per_img` worst regions of each image; none for the rest.

    Shapes: regions (R, 5), costs (R, 1), labels (R, 1), box weights (R, C) -> labels (R, 1, 1, 1)
    with `ignore_label` for the regions not chosen, weights (R, C, 1, 1) with 0 for them. Each may
    have two more axes, H and W, as predictions of a convolution do. Of regions that cost the same
    the first is chosen. No gradient.

    ONNX: none, it chooses examples for training.

    Source: as SoftmaxWithLossOHEM.
    """

    roi_per_img: int = 0
    ignore_label: int = -1

    bottoms: ClassVar[Arity] = exactly(4)
    tops: ClassVar[Arity] = exactly(2)
    stops_gradients: ClassVar[bool] = True

    def infer(self, *bottoms: BlobType) -> Signature:
        if self.roi_per_img <= 0:
            raise Refusal(
                "roi_per_img is missing",
                expected="roi_per_img > 0",
                got=self.roi_per_img,
                hint="128, as in R-FCN",
                setting="roi_per_img",
            )
        n, _, h, w = four_axes(bottoms[0])
        channels = (REGION, 1, 1, four_axes(bottoms[3])[1])
        for index, (blob, wanted) in enumerate(zip(bottoms, channels, strict=True)):
            if four_axes(blob) != (n, wanted, h, w):
                name = ("regions", "costs", "labels", "box weights")[index]
                raise Refusal(
                    f"bottom {index} does not hold the {name} of {n * h * w} regions",
                    expected=f"shape {BlobType((n, wanted, h, w))}, trailing 1s left aside",
                    got=f"shape {blob}",
                    setting="bottom",
                )
        return Signature((BlobType((n, 1, h, w)), BlobType((n, channels[3], h, w))))

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False,) * n_bottoms

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp = call.xp
        shapes = [four_axes(BlobType(b.shape)) for b in call.bottoms]
        regions, costs, labels, weights = (
            b.reshape(shape) for b, shape in zip(call.bottoms, shapes, strict=True)
        )
        images = regions[:, 0].reshape(-1)
        order = xp.argsort(-costs.reshape(-1), kind="stable")
        own = images[order][:, None] == xp.unique(images)
        # How many of its own image come before a region, itself included.
        rank = (xp.cumsum(own, axis=0) * own).sum(axis=1)
        chosen = xp.zeros(images.shape, bool)
        chosen[order] = rank <= self.roi_per_img
        chosen = chosen.reshape(costs.shape)
        return xp.where(chosen, labels, self.ignore_label), xp.where(chosen, weights, 0)

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        raise g.refuse("mining of examples belongs to training", hint="export the net for testing")


@layer("HardRegions", "hard_regions_param")
@dataclass(frozen=True)
class HardRegions(Layer):
    """The regions that cost most, with their labels, targets and weights: a batch to learn from.

    Shapes: probabilities (R, K), shifts (R, 4K), regions (R, 5), labels (R, ...), targets, inside
    and outside weights (R, 4K) -> the last five again, of the regions chosen, worst first. These
    are `batch_size`, or fewer where there are not so many; where the shape must stay, they fill it
    up again and again.

    A region costs -log p[label], the probability floored at 2^-52, and with a label above 0 the sum
    of w_out * f(w_in * (shift - target)), f(d) = d^2 / 2 where |d| < 1, |d| - 1/2 elsewhere. Of
    regions of one image and one label each that overlaps a worse one by more than `nms_thresh` is
    left out; 1 leaves out none. Of regions that cost the same the first is chosen. No gradient.

    ONNX: none, it chooses examples for training.

    Source: as SoftmaxWithLossOHEM; the Python layer `OHEMDataLayer` of its code for Fast R-CNN.
    """

    batch_size: int = 64
    nms_thresh: float = 0.7

    bottoms: ClassVar[Arity] = exactly(7)
    tops: ClassVar[Arity] = exactly(5)
    data_dependent: ClassVar[bool] = True
    pads: ClassVar[bool] = True
    stops_gradients: ClassVar[bool] = True

    def infer(self, *bottoms: BlobType) -> Signature:
        probabilities, _, regions, labels = bottoms[:4]
        check_positive(self, "batch_size")
        check_fraction(self, "nms_thresh")
        count = check_regions(regions, "bottom 2")
        classes = four_axes(probabilities)[1]
        rows = [(count, classes, 1, 1), *[(count, 4 * classes, 1, 1)] * 4]
        for index, wanted in zip((0, 1, 4, 5, 6), rows, strict=True):
            if four_axes(bottoms[index]) != wanted:
                raise Refusal(
                    f"bottom {index} does not fit {count} regions and {classes} classes",
                    expected=f"shape {BlobType(wanted[:2])}",
                    got=f"shape {bottoms[index]}",
                    setting="bottom",
                )
        if labels.count != count:
            raise Refusal(
                "bottom 3 has not one label for each region",
                expected=f"shape ({count})",
                got=f"shape {labels}",
                setting="bottom",
            )
        chosen = min(self.batch_size, count)
        return Signature(tuple(BlobType((chosen, *blob.shape[1:])) for blob in bottoms[2:]))

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False,) * n_bottoms

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, regions, labels = call.xp, call.bottoms[2], call.bottoms[3]
        regions, labels = regions.reshape(len(regions), 5), labels.reshape(-1)
        costs = self._costs(xp, call.bottoms)
        worst = xp.argsort(-costs, kind="stable")
        kept = xp.zeros(len(worst), bool)
        groups = xp.stack([regions[:, 0], labels], axis=1)
        for group in xp.unique(groups, axis=0):
            own = worst[(groups[worst] == group).all(axis=1)]
            kept[own[suppress(xp, regions[own, 1:], self.nms_thresh, len(own))]] = True
        chosen = worst[kept[worst]][: self.batch_size]
        count = len(call.out[0]) if call.out else len(chosen)
        rows = chosen[xp.arange(count) % max(len(chosen), 1)]
        return tuple(bottom[rows] for bottom in call.bottoms[2:])

    @staticmethod
    def _costs(xp: ArrayNamespace, bottoms: tuple[Array, ...]) -> Array:
        """Return what each region costs."""
        count = len(bottoms[0])
        probabilities, shifts, _, labels, targets, inside, outside = (
            blob.reshape(count, -1).astype("float64") for blob in bottoms
        )
        index = class_index(xp, labels, probabilities.shape[1], None).reshape(-1)
        chances = probabilities[xp.arange(count), index]
        costs = -xp.log(xp.maximum(chances, 2.0**-52))
        boxes = outside * smooth_l1(xp, inside * (shifts - targets))
        return costs + xp.where(index > 0, (boxes * (inside != 0)).sum(axis=1), 0)

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        raise g.refuse("mining of examples belongs to training", hint="export the net for testing")
