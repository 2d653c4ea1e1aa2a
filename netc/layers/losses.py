"""Losses: one number for how far the net is from what it should say.

The first top has shape () and enters the objective; `loss_weight` reaches the backward rules as the
diff of that top. Labels take no gradient. Averages are taken over what `Normalization` says.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from netc.layers.activation import Engine, Sigmoid
from netc.layers.blobfile import BlobFile
from netc.layers.labels import (
    Divisor,
    Normalization,
    ScoreShape,
    check_items,
    check_labels,
    check_one_label,
    class_axis,
    class_index,
)
from netc.layers.registry import layer
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
    Part,
    Reads,
    Refusal,
    Signature,
    Value,
    between,
    exactly,
)

SCALAR = BlobType(())

# The smallest normal float32: the floor under a probability before SoftmaxWithLoss takes its log.
FLT_MIN = 2.0**-126
# The same floor in Caffe's other losses of probabilities.
LOG_FLOOR = 1e-20
# What ContrastiveLoss adds to a distance before it divides by it.
DISTANCE_FLOOR = 1e-4


class Norm(enum.Enum):
    """How HingeLoss measures what lies within the margin."""

    L1 = 1
    L2 = 2


@dataclass(frozen=True)
class Loss(Layer):
    """Base of the losses: a prediction, what it should be, and one number."""

    bottoms: ClassVar[Arity] = exactly(2)
    loss: ClassVar[bool] = True

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (True, *(False,) * (n_bottoms - 1))

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        return bottoms[0].count


@dataclass(frozen=True)
class NormalizedLoss(Loss):
    """Base of the losses that read `loss_param`.

    `normalize` is the older way to say VALID (true) or BATCH_SIZE (false); it counts only where
    `normalization` is not set. The divisor is at least 1, so that a batch whose labels are all
    ignored has the loss 0.
    """

    ignore_label: int | None = None
    normalization: Normalization | None = None
    normalize: bool | None = None

    #: What counts where the text says nothing.
    default_normalization: ClassVar[Normalization] = Normalization.VALID

    @property
    def mode(self) -> Normalization:
        """The normalization that applies."""
        if self.normalization is not None:
            return self.normalization
        if self.normalize is not None:
            return Normalization.VALID if self.normalize else Normalization.BATCH_SIZE
        return self.default_normalization

    def divisor(self, xp: ArrayNamespace, valid: Array, outer: int, like: Array) -> Array | float:
        """Return what the loss is divided by.

        `valid` tells which labels count (an array of bools), `outer` is the batch size; the result
        has the dtype of `like`, unless it is a Python number.
        """
        match self.mode:
            case Normalization.NONE:
                return 1.0
            case Normalization.BATCH_SIZE:
                return float(max(outer, 1))
            case Normalization.FULL:
                return float(max(valid.size, 1))
            case Normalization.VALID:
                if self.ignore_label is None:
                    return float(max(valid.size, 1))
                return xp.maximum(valid.sum(), 1).astype(like.dtype)

    def lower_average(
        self, g: OnnxBuilder, costs: Value, counts: Value | None, per_item: int
    ) -> Value:
        """Return the normalised sum of the costs of the labels that count.

        `counts` tells which do (a tensor of bools), None for all; `per_item` is the number of
        labels for each item of the batch. Means, not division by a size from the text, so that the
        batch may have any size at run time.
        """
        if counts is not None:
            costs = g.op("Where", counts, costs, g.constant(0.0))
        average: Value
        if self.mode is Normalization.NONE:
            average = g.op("ReduceSum", costs, keepdims=0)
        elif self.mode is Normalization.VALID and counts is not None:
            counted = g.op("ReduceSum", g.cast(counts, "float32"), keepdims=0)
            total = g.op("ReduceSum", costs, keepdims=0)
            average = g.op("Div", total, g.op("Max", counted, g.constant(1.0)))
        else:
            average = g.op("ReduceMean", costs, keepdims=0)
            if self.mode is Normalization.BATCH_SIZE and per_item != 1:
                average = g.op("Mul", average, g.constant(float(per_item)))
        return average


def lower_labels(
    g: OnnxBuilder, labels: Value, shape: Sequence[int], ignore_label: int | None
) -> tuple[Value, Value | None]:
    """Return labels as int64 indices of `shape`, ignored ones as 0, and which of them count.

    The second value is a tensor of bools, None when no label can be ignored.
    """
    index = g.cast(g.reshape(labels, shape), "int64")  # truncates, as the forward rule does
    if ignore_label is None:
        return index, None
    ignored = g.op("Equal", index, g.constant(ignore_label, "int64"))
    return (
        g.op("Where", ignored, g.constant(0, "int64"), index),
        g.op("Not", ignored),
    )


def _at_labels(xp: ArrayNamespace, index: Array) -> tuple[Array, Array, Array]:
    """Return the subscripts of the labelled class in scores of shape (outer, classes, inner).

    `index` has shape (outer, inner); an ignored label points at class 0.
    """
    outer, inner = index.shape
    return xp.arange(outer)[:, None], xp.maximum(index, 0), xp.arange(inner)[None, :]


@dataclass(frozen=True)
class ProbabilityLoss(NormalizedLoss):
    """Base of the losses that turn scores into probabilities first; a second top shows those.

    Gradients reach the scores through both tops. Raises `Refusal` for a label outside 0..K-1 that
    is not `ignore_label`.
    """

    axis: int = 1
    top: tuple[str, ...] = ()

    tops: ClassVar[Arity] = between(1, 2)

    def infer(self, *bottoms: BlobType) -> Signature:
        x, labels = bottoms[:2]
        check_items(x, labels)
        shape = check_labels(x, labels, self.axis)
        kept = (
            KeptType("prob", x.shape),
            KeptType("index", (shape.outer, shape.inner), "int32"),
        )
        return Signature((SCALAR, x)[: self._n_tops], kept=kept)

    @property
    def _n_tops(self) -> int:
        return max(len(self.top), 1)

    def _probabilities(self, call: ForwardCall) -> tuple[Array, Array]:
        """Fill the kept blobs; return the probabilities as (outer, K, inner), and the index."""
        (prob, index), (x, labels) = call.kept, call.bottoms[:2]
        shape = ScoreShape.of(x.shape, self.axis)
        found = class_index(call.xp, labels, shape.classes, self.ignore_label)
        index[...] = found.reshape(index.shape)
        return softmax(call.xp, x, self.axis, out=prob).reshape(shape.sizes), index

    def _tops(self, call: ForwardCall, costs: Array, index: Array) -> tuple[Array, ...]:
        """Return the tops, given the costs of the labels; those of ignored ones do not matter."""
        xp, valid = call.xp, index >= 0
        if self.ignore_label is not None:
            costs = xp.where(valid, costs, 0)
        loss = costs.sum() / self.divisor(xp, valid, len(index), costs)
        return (loss, call.kept[0])[: self._n_tops]

    def _weight(self, call: BackwardCall) -> Array:
        """Return what a label's cost weighs in the objective: a number, or (outer, 1, inner)."""
        prob, index = call.kept
        valid = index >= 0
        weight = call.top_diffs[0] / self.divisor(call.xp, valid, len(index), prob)
        return weight if self.ignore_label is None else weight * valid[:, None, :]

    def _gradients(self, call: BackwardCall, dx: Array) -> Gradients:
        """Return dx, the gradient of the loss, with that of the second top added."""
        prob = call.kept[0]
        dx = dx.reshape(prob.shape)
        if len(call.top_diffs) > 1:
            dx += softmax_gradient(call.xp, prob, call.top_diffs[1], self.axis)
        return Gradients((dx, *(None,) * (len(call.bottoms) - 1)))

    def deployed(self) -> Layer | None:
        return Softmax(axis=self.axis)


@layer("SoftmaxWithLoss", "loss_param", "softmax_param")
@dataclass(frozen=True)
class SoftmaxWithLoss(ProbabilityLoss):
    """The mean of -log p[label], with p the softmax of the scores over `axis`.

    Shapes: scores (N, K, ...), labels (N, ...) -> loss (), and if asked for the probabilities
    (N, K, ...). Probabilities are floored at the smallest float32 before the log; the gradient is
    that without the floor, as in Caffe. Caffe 1.0 declares the second top but cannot run with it.
    With a third top, what each label costs, the layer is SoftmaxWithLossOHEM, as in R-FCN's first
    fork.

    SegNet's `weight_by_label_freqs` multiplies the cost of each label by the one of K
    `class_weighting` that belongs to it; the divisor still counts labels.

    `label_smoothing` e puts (1 - e) [k = label] + e / K in the place of the label, in the loss and
    in the gradient: Szegedy et al., CVPR 2016, section 7. NVCaffe and IntelCaffe, which have the
    field, smooth the gradient alone, each with weights that do not sum to 1.

    Source: BVLC Caffe.
    """

    engine: Engine = Engine.DEFAULT
    label_smoothing: float = 0.0
    weight_by_label_freqs: bool | None = None
    class_weighting: tuple[float, ...] = ()

    tops: ClassVar[Arity] = between(1, 3)

    def resolve(self, host: CodeHost | None) -> Layer:
        if len(self.top) < 3:
            return self
        if self.label_smoothing or self.class_weighting:
            raise Refusal(
                "a loss that tells what each label costs has neither smoothing nor weights",
                expected="one or two tops, or no label_smoothing and no class_weighting",
                got=f"{len(self.top)} tops",
                setting="label_smoothing" if self.label_smoothing else "class_weighting",
            )
        # That module builds on this one.
        from netc.layers.ohem import SoftmaxWithLossOHEM

        mode = self.normalization
        return SoftmaxWithLossOHEM(
            normalization=None if mode is None else Divisor(mode.value),
            normalize=self.normalize,
            top=self.top,
            axis=self.axis,
            ignore_label=self.ignore_label,
        )

    def infer(self, *bottoms: BlobType) -> Signature:
        signature = super().infer(*bottoms)
        if not 0 <= self.label_smoothing < 1:
            raise Refusal(
                "label_smoothing is out of range",
                expected="0 <= label_smoothing < 1",
                got=f"label_smoothing {self.label_smoothing:g}",
                setting="label_smoothing",
            )
        classes = bottoms[0].shape[class_axis(bottoms[0], self.axis)]
        if self.weight_by_label_freqs and len(self.class_weighting) != classes:
            raise Refusal(
                "the number of class weights is not that of the classes",
                expected=f"{classes} class_weighting values, scores of shape {bottoms[0]}",
                got=len(self.class_weighting),
                setting="class_weighting",
            )
        if self.class_weighting and self.weight_by_label_freqs is None:
            raise Refusal(
                "class_weighting is set, but weight_by_label_freqs is not",
                expected="weight_by_label_freqs: true, or false to leave the weights unused",
                got=f"{len(self.class_weighting)} class_weighting values",
                setting="class_weighting",
            )
        return signature

    def _label_weights(self, xp: ArrayNamespace, index: Array, like: Array) -> Array:
        """Return the class weight of each label, in the shape of `index`."""
        return xp.asarray(self.class_weighting, like.dtype)[xp.maximum(index, 0)]

    def costs(self, xp: ArrayNamespace, prob: Array, index: Array) -> Array:
        """Return what each label costs (outer, inner), given probabilities (outer, K, inner)."""
        costs = -xp.log(xp.maximum(prob[_at_labels(xp, index)], FLT_MIN))
        if self.label_smoothing:
            of_all = -xp.log(xp.maximum(prob, FLT_MIN)).mean(axis=1)
            costs = (1 - self.label_smoothing) * costs + self.label_smoothing * of_all
        if self.weight_by_label_freqs:
            costs *= self._label_weights(xp, index, costs)
        return costs

    def gradient(
        self, xp: ArrayNamespace, prob: Array, index: Array, weight: Array, out: Array | None = None
    ) -> Array:
        """Return the gradient for the scores (outer, K, inner), in `out` if given.

        `weight` is that of each label's cost: a number, or (outer, 1, inner).
        """
        if self.weight_by_label_freqs:
            weight = weight * self._label_weights(xp, index, prob)[:, None, :]
        dx = xp.multiply(prob, weight, out=out)
        at_label = weight if weight.ndim == 0 else weight[:, 0, :]
        if self.label_smoothing:
            dx -= weight * (self.label_smoothing / prob.shape[1])
            at_label = at_label * (1 - self.label_smoothing)
        dx[_at_labels(xp, index)] -= at_label
        return dx

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        prob, index = self._probabilities(call)
        return self._tops(call, self.costs(call.xp, prob, index), index)

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def backward(self, call: BackwardCall) -> Gradients:
        prob, index = call.kept
        scores = prob.reshape(ScoreShape.of(prob.shape, self.axis).sizes)
        return self._gradients(call, self.gradient(call.xp, scores, index, self._weight(call)))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        x, labels = bottoms
        axis = self.axis % len(x.shape)
        # Not the operator SoftmaxCrossEntropyLoss: it has no floor under the probability, and
        # gives NaN where all labels are ignored.
        one_each = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
        index, counts = lower_labels(g, labels, one_each, self.ignore_label)
        prob = g.op("Softmax", x, axis=axis)
        at_label = g.op("GatherElements", prob, index, axis=axis)
        costs = g.op("Neg", g.op("Log", g.op("Max", at_label, g.constant(FLT_MIN))))
        if self.label_smoothing:
            logs = g.op("Log", g.op("Max", prob, g.constant(FLT_MIN)))
            of_all = g.op("ReduceSum", logs, g.constant([axis], "int64"), keepdims=1)
            share = self.label_smoothing / x.shape[axis]
            costs = g.op("Mul", costs, g.constant(1 - self.label_smoothing))
            costs = g.op("Sub", costs, g.op("Mul", of_all, g.constant(share)))
        if self.weight_by_label_freqs:
            costs = g.op("Mul", costs, g.op("Gather", g.constant(self.class_weighting), index))
        inner = BlobType(x.shape).span(axis + 1)
        return (self.lower_average(g, costs, counts, inner), prob)[: self._n_tops]


@layer("InfogainLoss", "infogain_loss_param", "loss_param")
@dataclass(frozen=True)
class InfogainLoss(ProbabilityLoss):
    """The mean of -sum(H[label] * log p), with p the softmax of the scores over `axis`.

    H tells what each answer is worth for each label; with the unit matrix this is SoftmaxWithLoss.
    Shapes: scores (N, K, ...), labels (N, ...), H with K * K values as (..., K, K) -> loss (), and
    if asked for the probabilities (N, K, ...). H is the third bottom or comes from `source`, a file
    with a BlobProto. Probabilities are floored at 1e-20 before the log; the gradient is that
    without the floor, as in Caffe.

    Source: BVLC Caffe.
    """

    source: str = ""

    bottoms: ClassVar[Arity] = between(2, 3)

    def expand(self, *bottoms: BlobType) -> tuple[Part, ...] | None:
        """Return a layer that reads H, and this one with H as its third bottom."""
        if len(bottoms) == 3:
            if self.source:
                raise Refusal(
                    "the infogain matrix is given twice",
                    expected="a third bottom or a source file",
                    got=f"3 bottoms, source '{self.source}'",
                    hint="remove the one that does not count (Caffe takes the third bottom)",
                    setting="source",
                )
            return None
        if not self.source:
            raise Refusal(
                "the infogain matrix is missing",
                expected="a third bottom, or a file with a BlobProto",
                got="2 bottoms and no source",
                hint='add infogain_loss_param { source: "PATH" } or a third bottom',
                setting="source",
            )
        matrix = ".infogain"
        tops = tuple(f"$t{i}" for i in range(self._n_tops))
        return (
            Part("infogain", BlobFile(source=self.source), (), (matrix,)),
            Part("loss", replace(self, source=""), ("$b0", "$b1", matrix), tops),
        )

    def infer(self, *bottoms: BlobType) -> Signature:
        signature = super().infer(*bottoms)
        x, matrix = bottoms[0], bottoms[2]
        k = x.shape[class_axis(x, self.axis)]
        if matrix.shape[-2:] != (k, k) or matrix.count != k * k:
            raise Refusal(
                "the infogain matrix does not have one row and one column for each class",
                expected=f"shape {BlobType((k, k))} or {BlobType((1, 1, k, k))}: {k} classes",
                got=f"a matrix of shape {matrix}, scores of shape {x}",
                setting="source",
            )
        return signature

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp = call.xp
        prob, index = self._probabilities(call)
        gains = self._gains(xp, call.bottoms[2], index)
        costs = -(gains * xp.log(xp.maximum(prob, LOG_FLOOR))).sum(axis=1)
        return self._tops(call, costs, index)

    @staticmethod
    def _gains(xp: ArrayNamespace, matrix: Array, index: Array) -> Array:
        """Return the row of H for each label, as (outer, classes, inner)."""
        rows = matrix.reshape(matrix.shape[-2:])[xp.maximum(index, 0)]
        return xp.moveaxis(rows, -1, 1)

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        prob, index = call.kept
        gains = self._gains(call.xp, call.bottoms[2], index)
        dx = prob.reshape(gains.shape) * gains.sum(axis=1, keepdims=True)
        dx -= gains
        dx *= self._weight(call)
        return self._gradients(call, dx)

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        x, labels, matrix = bottoms
        axis, axes = self.axis % len(x.shape), len(x.shape)
        one_each = (*x.shape[:axis], *x.shape[axis + 1 :])
        index, counts = lower_labels(g, labels, one_each, self.ignore_label)
        gains = g.op("Gather", g.reshape(matrix, matrix.shape[-2:]), index, axis=0)
        if axis != axes - 1:
            order = [*range(axis), axes - 1, *range(axis, axes - 1)]
            gains = g.op("Transpose", gains, perm=order)
        prob = g.op("Softmax", x, axis=axis)
        log = g.op("Log", g.op("Max", prob, g.constant(LOG_FLOOR)))
        summed = g.op("ReduceSum", g.op("Mul", gains, log), g.constant([axis], "int64"), keepdims=0)
        inner = BlobType(x.shape).span(axis + 1)
        return (self.lower_average(g, g.op("Neg", summed), counts, inner), prob)[: self._n_tops]

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        return 2 * bottoms[0].count


@layer("SigmoidCrossEntropyLoss", "loss_param", "sigmoid_param")
@dataclass(frozen=True)
class SigmoidCrossEntropyLoss(NormalizedLoss):
    """The sum of -t log s - (1 - t) log(1 - s) per item, with s the sigmoid of the scores.

    Shapes: scores (N, ...), targets t of as many values, usually in 0..1 -> loss (). A target whose
    integer part is `ignore_label` does not count. The logs are taken of the scores, not of s, so
    that nothing overflows or loses its digits. With as many weights as scores, a third bottom, the
    loss is the sum of w times the cost, divided by the sum of w instead; 0 if that is not positive.

    Source: BVLC Caffe; weights are read in the fork of Multi-task Network Cascades.
    """

    engine: Engine = Engine.DEFAULT

    default_normalization: ClassVar[Normalization] = Normalization.BATCH_SIZE
    bottoms: ClassVar[Arity] = between(2, 3)

    def infer(self, *bottoms: BlobType) -> Signature:
        x, targets = bottoms[:2]
        check_items(x, targets)
        for weights in bottoms[2:]:
            self._check_weights(x, weights)
        if x.count != targets.count:
            raise Refusal(
                "scores and targets differ in size",
                expected=f"{x.count} targets, one for each score",
                got=f"scores of shape {x}, targets of shape {targets}",
                hint="for one class out of many, with its index as the label, use SoftmaxWithLoss",
                setting="bottom",
            )
        return Signature((SCALAR,))

    def _check_weights(self, x: BlobType, weights: BlobType) -> None:
        if weights.count != x.count:
            raise Refusal(
                "scores and weights differ in size",
                expected=f"{x.count} weights, one for each score",
                got=f"scores of shape {x}, weights of shape {weights}",
                setting="bottom",
            )
        for name in ("ignore_label", "normalization", "normalize"):
            if getattr(self, name) is not None:
                raise Refusal(
                    f"{name} is not read where weights are given",
                    expected=f"no {name}: a weight of 0 leaves a target out",
                    got=f"3 bottoms and {name}",
                    setting=name,
                )

    @staticmethod
    def _shares(xp: ArrayNamespace, x: Array, weights: Array) -> Array:
        """Return the weights in the shape of the scores, divided by their sum."""
        total = weights.sum()
        return weights.reshape(x.shape) * xp.where(total > 0, 1 / xp.where(total > 0, total, 1), 0)

    def _targets(self, xp: ArrayNamespace, x: Array, targets: Array) -> tuple[Array, Array]:
        """Return the targets in the shape of the scores, and which of them count."""
        targets = targets.reshape(x.shape)
        if self.ignore_label is None:
            return targets, xp.ones(x.shape, bool)
        return targets, xp.trunc(targets) != self.ignore_label

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, x = call.xp, call.bottoms[0]
        targets, valid = self._targets(xp, x, call.bottoms[1])
        costs = xp.maximum(x, 0) - x * targets + xp.log1p(xp.exp(-xp.abs(x)))
        if len(call.bottoms) > 2:
            return ((costs * self._shares(xp, x, call.bottoms[2])).sum(),)
        if self.ignore_label is not None:
            costs = xp.where(valid, costs, 0)
        return (costs.sum() / self.divisor(xp, valid, len(x), costs),)

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        xp, x = call.xp, call.bottoms[0]
        targets, valid = self._targets(xp, x, call.bottoms[1])
        dx = xp.tanh(x * 0.5) * 0.5 + 0.5 - targets
        if len(call.bottoms) > 2:
            dx *= call.top_diffs[0] * self._shares(xp, x, call.bottoms[2])
            return Gradients((dx, None, None))
        dx *= call.top_diffs[0] / self.divisor(xp, valid, len(x), x)
        return Gradients((dx if self.ignore_label is None else xp.where(valid, dx, 0), None))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        x = bottoms[0]
        targets = g.reshape(bottoms[1], x.shape)
        # softplus(x) = max(x, 0) + softplus(-|x|): the second term keeps its digits for large x.
        tail = g.op("Softplus", g.op("Neg", g.op("Abs", x)))
        costs = g.op("Add", g.op("Sub", g.op("Relu", x), g.op("Mul", x, targets)), tail)
        if len(bottoms) > 2:
            weights = g.reshape(bottoms[2], x.shape)
            loss = g.op("ReduceSum", g.op("Mul", costs, weights), keepdims=0)
            total = g.op("ReduceSum", weights, keepdims=0)
            some = g.op("Greater", total, g.constant(0.0))
            total = g.op("Where", some, total, g.constant(1.0))
            return (g.op("Where", some, g.op("Div", loss, total), g.constant(0.0)),)
        counts = None
        if self.ignore_label is not None:
            whole = g.cast(targets, "int64")
            counts = g.op("Not", g.op("Equal", whole, g.constant(self.ignore_label, "int64")))
        return (self.lower_average(g, costs, counts, BlobType(x.shape).span(1)),)

    def deployed(self) -> Layer | None:
        return Sigmoid(engine=self.engine)


@layer("EuclideanLoss")
@dataclass(frozen=True)
class EuclideanLoss(Loss):
    """sum((a - b)^2) / (2 N), for regression; gradients flow to both bottoms.

    Shapes: a (N, ...), b (N, ...) with as many values for each item -> loss ().

    Source: BVLC Caffe.
    """

    def infer(self, *bottoms: BlobType) -> Signature:
        a, b = bottoms
        check_items(a, b)
        if a.span(1) != b.span(1):
            raise Refusal(
                "the items of the two bottoms differ in size",
                expected=f"{a.span(1)} values for each item in both",
                got=f"shapes {a} and {b}: {a.span(1)} and {b.span(1)} values for each item",
                hint="set the num_output of the layer before the loss to the size of the target",
                setting="bottom",
            )
        return Signature((SCALAR,))

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (True, True)

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        a, b = call.bottoms
        difference = (a - b.reshape(a.shape)).reshape(-1)
        return (difference @ difference / (2 * max(len(a), 1)),)

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        a, b = call.bottoms
        da = (a - b.reshape(a.shape)) * (call.top_diffs[0] / max(len(a), 1))
        db = -da.reshape(b.shape) if call.wants_bottoms[1] else None
        return Gradients((da, db))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        a, b = bottoms
        difference = g.op("Sub", a, b if b.shape == a.shape else g.reshape(b, a.shape))
        # mean * size / 2 rather than sum / (2 N), so that N may be any number at run time.
        mean = g.op("ReduceMean", g.op("Mul", difference, difference), keepdims=0)
        return (g.op("Mul", mean, g.constant(BlobType(a.shape).span(1) / 2)),)


@dataclass(frozen=True)
class LabelledLoss(Loss):
    """Base of the losses with one label for each item of the batch.

    Shapes: scores (N, ...) with K values for each item, N labels -> loss (). Raises `Refusal` for
    a label outside 0..K-1.
    """

    def infer(self, *bottoms: BlobType) -> Signature:
        x, labels = bottoms
        check_one_label(x, labels)
        if x.span(1) == 0:
            raise Refusal(
                "there are no classes to choose from",
                expected="at least 1 score for each item",
                got=f"scores of shape {x}",
                setting="bottom",
            )
        return Signature((SCALAR,))

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    @staticmethod
    def _rows(
        call: ForwardCall | BackwardCall,
    ) -> tuple[Array, tuple[Array, Array]]:
        """Return the scores as (N, K), and the subscripts of the labelled one in each row."""
        x, labels = call.bottoms
        n, k = len(x), BlobType(x.shape).span(1)
        index = class_index(call.xp, labels, k).reshape(n)
        return x.reshape(n, k), (call.xp.arange(n), index)


@layer("MultinomialLogisticLoss")
@dataclass(frozen=True)
class MultinomialLogisticLoss(LabelledLoss):
    """The mean of -log p[label], for a bottom that holds probabilities (behind a Softmax).

    Probabilities are floored at 1e-20. SoftmaxWithLoss does both steps in one, and more accurately.

    Shapes: probabilities (N, ...), K for each item, labels (N,) of 0..K-1 -> loss ().
    Source: BVLC Caffe.
    """

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        p, at = self._rows(call)
        return (-call.xp.log(call.xp.maximum(p[at], LOG_FLOOR)).sum() / max(len(p), 1),)

    def backward(self, call: BackwardCall) -> Gradients:
        xp = call.xp
        p, at = self._rows(call)
        dp = xp.zeros(p.shape, p.dtype)
        dp[at] = -(call.top_diffs[0] / max(len(p), 1)) / xp.maximum(p[at], LOG_FLOOR)
        return Gradients((dp.reshape(call.bottoms[0].shape), None))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        n, k = bottoms[0].shape[0], BlobType(bottoms[0].shape).span(1)
        index, _ = lower_labels(g, bottoms[1], (n, 1), None)
        at_label = g.op("GatherElements", g.reshape(bottoms[0], (n, k)), index, axis=1)
        log = g.op("Log", g.op("Max", at_label, g.constant(LOG_FLOOR)))
        return (g.op("Neg", g.op("ReduceMean", log, keepdims=0)),)


@layer("HingeLoss", "hinge_loss_param")
@dataclass(frozen=True)
class HingeLoss(LabelledLoss):
    """One against all: sum of max(0, 1 - s x) (L1) or its square (L2) per item of the batch.

    s is 1 for the labelled score and -1 for the others.
    Source: Cortes and Vapnik, 1995; squared form, Tang, 2013 (arXiv 1306.0239).

    Shapes: scores (N, ...), K for each item, labels (N,) of 0..K-1 -> loss ().
    """

    norm: Norm = Norm.L1

    def _violations(self, call: ForwardCall | BackwardCall) -> tuple[Array, tuple[Array, Array]]:
        """Return max(0, 1 - s x) as (N, K), and the subscripts of the labelled scores."""
        x, at = self._rows(call)
        over = x + 1
        over[at] = 1 - x[at]
        return call.xp.maximum(over, 0, out=over), at

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        over, _ = self._violations(call)
        total = over.sum() if self.norm is Norm.L1 else (over * over).sum()
        return (total / max(len(over), 1),)

    def backward(self, call: BackwardCall) -> Gradients:
        over, at = self._violations(call)
        weight = call.top_diffs[0] / max(len(over), 1)
        dx = (over > 0) * weight if self.norm is Norm.L1 else over * (2 * weight)
        dx[at] *= -1
        return Gradients((dx.reshape(call.bottoms[0].shape), None))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        n, k = bottoms[0].shape[0], BlobType(bottoms[0].shape).span(1)
        index, _ = lower_labels(g, bottoms[1], (n,), None)
        sign = g.op("OneHot", index, g.constant(k, "int64"), g.constant([1.0, -1.0]), axis=1)
        signed = g.op("Mul", g.reshape(bottoms[0], (n, k)), sign)
        over = g.op("Relu", g.op("Add", signed, g.constant(1.0)))
        if self.norm is Norm.L2:
            over = g.op("Mul", over, over)
        return (g.op("Mul", g.op("ReduceMean", over, keepdims=0), g.constant(float(k))),)


@layer("ContrastiveLoss", "contrastive_loss_param")
@dataclass(frozen=True)
class ContrastiveLoss(Loss):
    """Pulls similar pairs together and pushes the others apart, up to `margin`.

    With d the distance of a and b, a similar pair (sim not 0) costs d^2, another one
    max(margin - d, 0)^2, or max(margin - d^2, 0) with `legacy_version`; the loss is the mean of
    that, halved.
    Shapes: a and b (N, C), perhaps with trailing axes of size 1, N values sim -> loss ().
    Gradients flow to a and b; that of the margin is divided by d + 1e-4, as in Caffe.
    Source: Hadsell et al., CVPR 2006; `legacy_version` is an early Caffe's reading of it.
    """

    margin: float = 1.0
    legacy_version: bool = False

    bottoms: ClassVar[Arity] = exactly(3)

    def infer(self, *bottoms: BlobType) -> Signature:
        a, b, sim = bottoms
        n = check_items(a, b)
        if a.span(1) != b.span(1) or a.span(2) != 1 or b.span(2) != 1:
            raise Refusal(
                "the bottoms are not two batches of vectors of the same size",
                expected="shapes (N, C) and (N, C), perhaps with trailing axes of size 1",
                got=f"shapes {a} and {b}",
                hint="a Flatten layer makes vectors of feature maps",
                setting="bottom",
            )
        if sim.count != n or sim.shape[:1] != (n,):
            raise Refusal(
                "there is not one label for each pair",
                expected=f"{n} values, 1 for a similar pair and 0 for another",
                got=f"labels of shape {sim}, vectors of shape {a}",
                setting="bottom",
            )
        return Signature((SCALAR,))

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (True, True, False)

    @staticmethod
    def _pairs(call: ForwardCall | BackwardCall) -> tuple[Array, Array, Array]:
        """Return a - b as (N, C); its squared length, and whether a pair is similar, as (N, 1)."""
        a, b, sim = call.bottoms
        difference = (a - b.reshape(a.shape)).reshape(len(a), BlobType(a.shape).span(1))
        squared = (difference * difference).sum(axis=1, keepdims=True)
        return difference, squared, call.xp.trunc(sim).reshape(len(a), 1) != 0

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp = call.xp
        _, squared, similar = self._pairs(call)
        if self.legacy_version:
            apart = xp.maximum(self.margin - squared, 0)
        else:
            apart = xp.maximum(self.margin - xp.sqrt(squared), 0) ** 2
        return (xp.where(similar, squared, apart).sum() / (2 * max(len(squared), 1)),)

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        xp = call.xp
        difference, squared, similar = self._pairs(call)
        if self.legacy_version:
            pull = -(squared < self.margin).astype(difference.dtype)
        else:
            distance = xp.sqrt(squared)
            pull = -xp.maximum(self.margin - distance, 0) / (distance + DISTANCE_FLOOR)
        factor = xp.where(similar, 1, pull) * (call.top_diffs[0] / max(len(difference), 1))
        da = (difference * factor).reshape(call.bottoms[0].shape)
        db = -da.reshape(call.bottoms[1].shape) if call.wants_bottoms[1] else None
        return Gradients((da, db, None))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        a, b, sim = bottoms
        n, channels = a.shape[0], BlobType(a.shape).span(1)
        rows = [g.reshape(x, (n, channels)) for x in (a, b)]
        difference = g.op("Sub", *rows)
        square = g.op("Mul", difference, difference)
        squared = g.op("ReduceSum", square, g.constant([1], "int64"), keepdims=0)
        margin = g.constant(self.margin)
        if self.legacy_version:
            apart = g.op("Relu", g.op("Sub", margin, squared))
        else:
            short = g.op("Relu", g.op("Sub", margin, g.op("Sqrt", squared)))
            apart = g.op("Mul", short, short)
        whole = g.cast(g.reshape(sim, (n,)), "int64")
        different = g.op("Equal", whole, g.constant(0, "int64"))
        costs = g.op("Where", different, apart, squared)
        return (g.op("Mul", g.op("ReduceMean", costs, keepdims=0), g.constant(0.5)),)
