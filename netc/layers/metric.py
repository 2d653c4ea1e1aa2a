"""Losses of later papers: of distances between values, to centres and within triplets."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import ClassVar

from netc.layers.activation import Engine
from netc.layers.fillers import Filler
from netc.layers.labels import ScoreShape, check_items, class_index
from netc.layers.losses import (
    FLT_MIN,
    SCALAR,
    EuclideanLoss,
    Loss,
    ProbabilityLoss,
    lower_labels,
)
from netc.layers.registry import layer
from netc.layers.types import (
    Arity,
    Array,
    ArrayNamespace,
    BackwardCall,
    BlobType,
    ForwardCall,
    Gradients,
    OnnxBuilder,
    ParamType,
    Reads,
    Refusal,
    Signature,
    Value,
    exactly,
)

# The floor under 1 - p before FocalLoss divides by it.
FOCAL_FLOOR = 1e-10


@layer("MeanSquaredError")
@dataclass(frozen=True)
class MeanSquaredError(EuclideanLoss):
    """sum((t - y)^2) / n, with n the number of items: EuclideanLoss without its half.

    Shapes: y (N, ...), t (N, ...) with as many values for each item -> loss (). Gradients flow to
    both bottoms.

    Source: netc's own.
    """

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        a, b = call.bottoms
        difference = (a - b.reshape(a.shape)).reshape(-1)
        return (difference @ difference / max(len(a), 1),)

    def backward(self, call: BackwardCall) -> Gradients:
        halves = super().backward(call).bottoms
        return Gradients(tuple(None if half is None else 2 * half for half in halves))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        a, b = bottoms
        difference = g.op("Sub", a, g.reshape(b, a.shape))
        mean = g.op("ReduceMean", g.op("Mul", difference, difference), keepdims=0)
        return (g.op("Mul", mean, g.constant(float(BlobType(a.shape).span(1)))),)


@layer("L1Loss")
@dataclass(frozen=True)
class L1Loss(EuclideanLoss):
    """sum(|a - b|) / N, for regression; where a = b the gradient is 0.

    Shapes: a (N, ...), b (N, ...) with as many values for each item -> loss (). Gradients flow to
    both bottoms. Source: NVIDIA's Caffe.
    """

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        a, b = call.bottoms
        return (call.xp.abs(a - b.reshape(a.shape)).sum() / max(len(a), 1),)

    def backward(self, call: BackwardCall) -> Gradients:
        a, b = call.bottoms
        da = call.xp.sign(a - b.reshape(a.shape)) * (call.top_diffs[0] / max(len(a), 1))
        return Gradients((da, -da.reshape(b.shape) if call.wants_bottoms[1] else None))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        a, b = bottoms
        size = g.op("Abs", g.op("Sub", a, g.reshape(b, a.shape)))
        mean = g.op("ReduceMean", size, keepdims=0)
        return (g.op("Mul", mean, g.constant(float(BlobType(a.shape).span(1)))),)


@layer("TripletLoss", "triplet_loss_param")
@dataclass(frozen=True)
class TripletLoss(Loss):
    """sum(max(|a - p|^2 - |a - n|^2 + margin, 0)) / (2 N), over anchors, positives and negatives.

    An anchor shall be nearer to its positive than to its negative, by the margin.
    Shapes: a, p and n (N, C), perhaps with trailing axes of size 1 -> loss (). Gradients flow to
    all three.
    Source: Schroff et al., "FaceNet", CVPR 2015; the divisor is the fork CaffeWindows'.
    """

    margin: float = 1.0

    bottoms: ClassVar[Arity] = exactly(3)

    def infer(self, *bottoms: BlobType) -> Signature:
        anchor = bottoms[0]
        for other in bottoms[1:]:
            check_items(anchor, other)
            if anchor.span(1) != other.span(1):
                raise Refusal(
                    "the vectors of a triplet differ in size",
                    expected="anchors, positives and negatives of one shape (N, C)",
                    got=f"shapes {', '.join(map(str, bottoms))}",
                    setting="bottom",
                )
        return Signature((SCALAR,))

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (True, True, True)

    def _differences(self, call: ForwardCall | BackwardCall) -> tuple[Array, Array, Array]:
        """Return a - p and a - n as (N, C), and by how much the margin is violated."""
        rows = [x.reshape(len(x), BlobType(x.shape).span(1)) for x in call.bottoms]
        near, far = rows[0] - rows[1], rows[0] - rows[2]
        over = (near * near).sum(axis=1) - (far * far).sum(axis=1) + self.margin
        return near, far, call.xp.maximum(over, 0)

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        _, _, over = self._differences(call)
        return (over.sum() / (2 * max(len(over), 1)),)

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        near, far, over = self._differences(call)
        weight = ((over > 0) * (call.top_diffs[0] / max(len(over), 1)))[:, None]
        diffs = ((near - far) * weight, -near * weight, far * weight)
        return Gradients(
            tuple(d.reshape(x.shape) for d, x in zip(diffs, call.bottoms, strict=True))
        )

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        n, size = bottoms[0].shape[0], BlobType(bottoms[0].shape).span(1)
        rows = [g.reshape(x, (n, size)) for x in bottoms]
        lengths = []
        for other in rows[1:]:
            difference = g.op("Sub", rows[0], other)
            square = g.op("Mul", difference, difference)
            lengths.append(g.op("ReduceSum", square, g.constant([1], "int64"), keepdims=0))
        over = g.op("Relu", g.op("Add", g.op("Sub", *lengths), g.constant(self.margin)))
        return (g.op("Mul", g.op("ReduceMean", over, keepdims=0), g.constant(0.5)),)

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        return 2 * bottoms[0].count


@layer("CenterLoss", "center_loss_param")
@dataclass(frozen=True)
class CenterLoss(Loss):
    """How far items are from the centre of their class: sum(|x - c[label]|^2) / (2 N).

    With `distance_type` L1, the sum of absolute values over N. The centres are learned, but not by
    the gradient of the loss: what a solver is given for centre j is the sum of c[j] - x over the
    items of its class (of the signs, for L1), divided by their number plus 1, whatever the loss
    weighs. So a rate of 0.5 moves a centre half the way to the mean of many items.

    Shapes: x (N, ...) with K values for each item, N labels of 0..num_output-1 -> loss (). Param
    centres (num_output, K).
    Source: Wen et al., "A discriminative feature learning approach for deep face recognition", ECCV
    2016, and their Caffe; L1 is CaffeWindows', which adds the step for a centre once per item.
    """

    num_output: int = 0
    center_filler: Filler = field(default_factory=Filler)
    axis: int = 1
    distance_type: str = "L2"

    param_names: ClassVar[tuple[str, ...]] = ("center",)

    def infer(self, *bottoms: BlobType) -> Signature:
        x, labels = bottoms
        n = check_items(x, labels)
        if self.num_output <= 0:
            raise Refusal(
                "num_output is missing",
                expected="num_output > 0: how many classes there are",
                got=f"num_output {self.num_output}",
                hint="add center_loss_param { num_output: N }",
                setting="num_output",
            )
        if self.distance_type not in ("L1", "L2"):
            raise Refusal(
                f"unknown distance_type '{self.distance_type}'",
                expected="L1 or L2",
                got=self.distance_type,
                setting="distance_type",
            )
        axis = x.axis(self.axis)
        if x.span(0, axis) != n or labels.count != n:
            raise Refusal(
                "there is not one label for each vector",
                expected=f"{x.span(0, axis)} labels, one for each item of bottom 0",
                got=f"labels of shape {labels}, bottom 0 of shape {x}, axis {self.axis}",
                setting="bottom",
            )
        return Signature(
            (SCALAR,), (ParamType((self.num_output, x.span(axis)), self.center_filler),)
        )

    def _differences(self, call: ForwardCall | BackwardCall) -> tuple[Array, Array]:
        """Return x - c[label] as (N, K), and the labels."""
        x, labels = call.bottoms
        centers = call.params[0]
        index = class_index(call.xp, labels, len(centers)).reshape(len(x))
        return x.reshape(len(x), centers.shape[1]) - centers[index], index

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        difference, _ = self._differences(call)
        n = max(len(difference), 1)
        if self.distance_type == "L1":
            return (call.xp.abs(difference).sum() / n,)
        flat = difference.reshape(-1)
        return (flat @ flat / (2 * n),)

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        xp = call.xp
        slope, index = self._differences(call)
        if self.distance_type == "L1":
            slope = xp.sign(slope)
        dc = None
        if call.wants_params[0]:
            dc = xp.zeros(call.params[0].shape, slope.dtype)
            xp.add.at(dc, index, -slope)
            counts = xp.bincount(index, minlength=len(dc)).astype(slope.dtype)
            dc /= counts[:, None] + 1
        dx = None
        if call.wants_bottoms[0]:
            dx = (slope * (call.top_diffs[0] / max(len(slope), 1))).reshape(call.bottoms[0].shape)
        return Gradients((dx, None), (dc,))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        x, labels = bottoms
        n, size = x.shape[0], params[0].shape[1]
        index, _ = lower_labels(g, labels, (n,), None)
        difference = g.op("Sub", g.reshape(x, (n, size)), g.op("Gather", params[0], index, axis=0))
        if self.distance_type == "L1":
            part, factor = g.op("Abs", difference), float(size)
        else:
            part, factor = g.op("Mul", difference, difference), size / 2
        return (g.op("Mul", g.op("ReduceMean", part, keepdims=0), g.constant(factor)),)


class FocalType(enum.Enum):
    """What FocalLoss weighs log p with. LINEAR has never been anything but ORIGIN."""

    ORIGIN = 0
    LINEAR = 1
    ONEADDP = 2


@layer("FocalLoss", "focal_loss_param", "loss_param", "softmax_param")
@dataclass(frozen=True)
class FocalLoss(ProbabilityLoss):
    """The mean of -alpha (1 - p)^gamma log p[label], with p the softmax of the scores over `axis`.

    What is classified well already counts less. With type ONEADDP, -(alpha + p)^gamma log p, which
    counts it more. `beta` is read and has no influence, as in the forks.

    Shapes: scores (N, K, ...), labels (N, ...) -> loss (), and if asked for the probabilities
    (N, K, ...). Probabilities are floored at the smallest float32 before the log.
    Source: Lin et al., "Focal loss for dense object detection", ICCV 2017; ONEADDP is the fork
    CaffeWindows'. That fork has (alpha - p)^gamma, the same for its default alpha of 1.
    """

    type_: FocalType = FocalType.ORIGIN
    gamma: float = 2.0
    alpha: float = 1.0
    beta: float = 1.0
    engine: Engine = Engine.DEFAULT

    def check(self) -> None:
        """Refuse settings that no loss can have."""
        for setting, wrong, expected in (
            ("gamma", not self.gamma >= 0, "gamma >= 0"),
            ("alpha", not self.alpha > 0, "alpha > 0"),
        ):
            if wrong:
                raise Refusal(
                    f"{setting} is out of range",
                    expected=expected,
                    got=f"{setting} {getattr(self, setting):g}",
                    setting=setting,
                )

    def infer(self, *bottoms: BlobType) -> Signature:
        self.check()
        return super().infer(*bottoms)

    def focus(self, xp: ArrayNamespace, p: Array) -> tuple[Array, Array]:
        """Return the factor of -log p, and its slope."""
        if self.type_ is FocalType.ONEADDP:
            base, factor = self.alpha + p, 1.0
        else:
            base, factor = 1 - p, self.alpha
        weight = factor * base**self.gamma
        slope = self.gamma * weight / xp.maximum(base, FOCAL_FLOOR)
        return weight, slope if self.type_ is FocalType.ONEADDP else -slope

    @staticmethod
    def _at_label(xp: ArrayNamespace, index: Array) -> tuple[Array, Array, Array]:
        """Return the subscripts of the labelled class in scores of shape (outer, K, inner)."""
        outer, inner = index.shape
        return xp.arange(outer)[:, None], xp.maximum(index, 0), xp.arange(inner)[None, :]

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp = call.xp
        prob, index = self._probabilities(call)
        p = prob[self._at_label(xp, index)]
        weight, _ = self.focus(xp, p)
        return self._tops(call, -weight * xp.log(xp.maximum(p, FLT_MIN)), index)

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def backward(self, call: BackwardCall) -> Gradients:
        xp, (kept, index) = call.xp, call.kept
        prob = kept.reshape(ScoreShape.of(kept.shape, self.axis).sizes)
        at = self._at_label(xp, index)
        p = prob[at]
        weight, slope = self.focus(xp, p)
        # -p times the slope of the cost in p; the softmax does the rest.
        pull = (weight + p * slope * xp.log(xp.maximum(p, FLT_MIN)))[:, None, :]
        pull = pull * self._weight(call)
        dx = prob * pull
        dx[at] -= pull[:, 0, :]
        return self._gradients(call, dx)

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        x, labels = bottoms
        axis = self.axis % len(x.shape)
        one_each = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
        index, counts = lower_labels(g, labels, one_each, self.ignore_label)
        prob = g.op("Softmax", x, axis=axis)
        p = g.op("GatherElements", prob, index, axis=axis)
        log = g.op("Log", g.op("Max", p, g.constant(FLT_MIN)))
        if self.type_ is FocalType.ONEADDP:
            base, factor = g.op("Add", p, g.constant(self.alpha)), -1.0
        else:
            base, factor = g.op("Sub", g.constant(1.0), p), -self.alpha
        weight = g.op("Mul", g.op("Pow", base, g.constant(self.gamma)), g.constant(factor))
        costs = g.op("Mul", weight, log)
        inner = BlobType(x.shape).span(axis + 1)
        return (self.lower_average(g, costs, counts, inner), prob)[: self._n_tops]

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        return bottoms[0].count
