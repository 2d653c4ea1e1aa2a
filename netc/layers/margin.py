"""Scores with a margin: the labelled class must win by more than it needs to."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from netc.layers.activation import Elementwise
from netc.layers.fillers import Filler
from netc.layers.labels import check_items, check_one_label, class_index
from netc.layers.losses import lower_labels
from netc.layers.registry import layer
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
    ParamType,
    Phase,
    Reads,
    Refusal,
    Signature,
    Value,
    between,
    exactly,
)

# The floor under a length before it divides.
LENGTH_FLOOR = 1e-9


class MarginType(enum.Enum):
    """By what the angle to the labelled class's weights is multiplied: its value plus 1."""

    SINGLE = 0
    DOUBLE = 1
    TRIPLE = 2
    QUADRUPLE = 3


@dataclass(frozen=True)
class MarginProduct(Layer):
    """Base of the inner products whose labelled score is made harder to reach.

    The pass number t, of which `passes` counts those of phase TRAIN and belongs to a snapshot,
    starts at `iteration` + 1. In phase TEST it is that number always.
    """

    num_output: int = 0
    type_: MarginType = MarginType.SINGLE
    weight_filler: Filler = field(default_factory=Filler)
    axis: int = 1
    base: float = 1.0
    gamma: float = 0.0
    power: float = 1.0
    iteration: int = 0
    lambda_min: float = 0.0
    phase: Phase = Phase.TRAIN

    bottoms: ClassVar[Arity] = exactly(2)
    tops: ClassVar[Arity] = between(1, 2)
    #: The weights of each class are scaled to length 1 first.
    unit_weights: ClassVar[bool] = False

    def infer(self, *bottoms: BlobType) -> Signature:
        x, labels = bottoms
        if self.num_output <= 0:
            raise Refusal(
                "num_output is missing",
                expected="num_output > 0: how many classes there are",
                got=f"num_output {self.num_output}",
                setting="num_output",
            )
        check_items(x, labels)
        axis = x.axis(self.axis)
        if labels.count != x.span(0, axis):
            raise Refusal(
                "there is not one label for each vector",
                expected=f"{x.span(0, axis)} labels",
                got=f"labels of shape {labels}, bottom 0 of shape {x}, axis {self.axis}",
                setting="bottom",
            )
        if not self.lambda_min >= 0 or not self.base >= 0 or not self.gamma >= 0:
            raise Refusal(
                "lambda cannot be negative",
                expected="base >= 0, gamma >= 0 and lambda_min >= 0",
                got=f"base {self.base:g}, gamma {self.gamma:g}, lambda_min {self.lambda_min:g}",
                setting="base",
            )
        return Signature(
            (BlobType((*x.shape[:axis], self.num_output)), BlobType((1,))),
            (ParamType((self.num_output, x.span(axis)), self.weight_filler),),
            (KeptType("passes", (), persistent=True),),
        )

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (True, False)

    def _lambda(self, passes: float) -> float:
        """Return how much the plain product counts besides the one with a margin."""
        pass_number = self.iteration + max(passes, 1.0)
        return max(self.base / math.pow(1 + self.gamma * pass_number, self.power), self.lambda_min)

    def _vectors(self, call: ForwardCall | BackwardCall) -> tuple[Array, Array, Array, Array]:
        """Return x (M, K), the weights that count (P, K), their lengths (P, 1), and the labels."""
        xp, weight = call.xp, call.params[0]
        x = call.bottoms[0].reshape(call.bottoms[1].size, weight.shape[1])
        length = xp.maximum(xp.sqrt((weight * weight).sum(axis=1, keepdims=True)), LENGTH_FLOOR)
        index = class_index(xp, call.bottoms[1].reshape(-1), len(weight))
        return x, weight / length if self.unit_weights else weight, length, index

    def _margin(self, xp: ArrayNamespace, cosine: Array) -> tuple[Array, Array]:
        """Return psi of the angle, (-1)^k cos(m angle) - 2 k, and its slope in the cosine.

        k is the number of times that cos(m angle) has turned on the way from angle 0.
        """
        m = self.type_.value + 1
        turns = sum((cosine < math.cos(k * math.pi / m)).astype("int32") for k in range(1, m))
        # The Chebyshev polynomials T_m and m U_{m-1}, of which the first is cos(m angle).
        before, value, slope_before, slope = 1.0, cosine, 0.0, 1.0
        for _ in range(m - 1):
            before, value, slope_before, slope = (
                value,
                2 * cosine * value - before,
                slope,
                2 * value + 2 * cosine * slope - slope_before,
            )
        sign = 1 - 2 * (xp.asarray(turns) % 2).astype(cosine.dtype)
        return sign * value - 2 * xp.asarray(turns).astype(cosine.dtype), sign * slope

    def _labelled(
        self, xp: ArrayNamespace, x: Array, weight: Array, index: Array
    ) -> tuple[Array, Array, Array, Array, Array]:
        """Return the unit vectors of x and of the labelled weights, the cosine, both lengths."""
        own = weight[index]
        sizes = [
            xp.maximum(xp.sqrt((v * v).sum(axis=1, keepdims=True)), LENGTH_FLOOR) for v in (x, own)
        ]
        ux, uw = x / sizes[0], own / sizes[1]
        cosine = xp.clip((ux * uw).sum(axis=1, keepdims=True), -1, 1)
        return ux, uw, cosine, sizes[0], sizes[1]

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, passes = call.xp, call.kept[0]
        if self.phase is Phase.TRAIN:
            passes[...] += 1
        share = self._lambda(float(passes))
        x, weight, _, index = self._vectors(call)
        y = x @ weight.T
        if self.type_ is not MarginType.SINGLE:
            _, _, cosine, nx, nw = self._labelled(xp, x, weight, index)
            at = (xp.arange(len(x)), index)
            hard = (nx * nw * self._margin(xp, cosine)[0])[:, 0]
            y[at] = (hard + share * y[at]) / (1 + share)
        tops = (y.reshape(call.out[0].shape), xp.full((1,), share, y.dtype))
        return tops[: len(call.out)]

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        xp = call.xp
        share = self._lambda(float(call.kept[0]))
        x, weight, length, index = self._vectors(call)
        dy = call.top_diffs[0].reshape(len(x), len(weight))
        extra = None
        if self.type_ is not MarginType.SINGLE:
            at = (xp.arange(len(x)), index)
            extra = (dy[at] / (1 + share))[:, None]
            dy = dy.copy()
            dy[at] *= share / (1 + share)
        dx = dy @ weight
        dw = dy.T @ x
        if extra is not None:
            ux, uw, cosine, nx, nw = self._labelled(xp, x, weight, index)
            value, slope = self._margin(xp, cosine)
            dx += extra * nw * (value * ux + slope * (uw - cosine * ux))
            xp.add.at(dw, index, extra * nx * (value * uw + slope * (ux - cosine * uw)))
        if self.unit_weights:
            dw = (dw - weight * (dw * weight).sum(axis=1, keepdims=True)) / length
        return Gradients((dx.reshape(call.bottoms[0].shape), None), (dw,))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        shape = BlobType(bottoms[0].shape)
        axis = shape.axis(self.axis)
        items, size = shape.span(0, axis), shape.span(axis)
        weight: Any = params[0]
        length = _length(g, weight)
        if self.unit_weights:
            weight = g.op("Div", weight, length)
        x = g.reshape(bottoms[0], (items, size))
        y = g.op("Gemm", x, weight, transB=1)
        share = self._lambda(0.0)
        if self.type_ is not MarginType.SINGLE:
            index, _ = lower_labels(g, bottoms[1], (items,), None)
            column = g.reshape(index, (items, 1))
            plain = g.op("GatherElements", y, column, axis=1)
            sizes = _length(g, x)
            if not self.unit_weights:
                sizes = g.op("Mul", sizes, g.op("Gather", length, index, axis=0))
            hard = g.op("Mul", sizes, self._lower_margin(g, g.op("Div", plain, sizes)))
            mixed = g.op("Add", hard, g.op("Mul", plain, g.constant(share)))
            mixed = g.op("Mul", mixed, g.constant(1 / (1 + share)))
            y = g.op("ScatterElements", y, column, mixed, axis=1)
        return (
            g.reshape(y, (*shape.shape[:axis], self.num_output)),
            g.constant([share]),
        )

    def _lower_margin(self, g: OnnxBuilder, cosine: Any) -> Any:
        """Return psi of the angle, as `_margin` does."""
        m = self.type_.value + 1
        cosine = g.op("Clip", cosine, g.constant(-1.0), g.constant(1.0))
        below = [
            g.cast(g.op("Less", cosine, g.constant(math.cos(k * math.pi / m))), "float32")
            for k in range(1, m)
        ]
        turns = below[0] if len(below) == 1 else g.op("Sum", *below)
        twice = g.op("Mul", cosine, g.constant(2.0))
        before, value = g.constant(1.0), cosine
        for _ in range(m - 1):
            before, value = value, g.op("Sub", g.op("Mul", twice, value), before)
        parity = g.op("Mod", turns, g.constant(2.0), fmod=1)
        sign = g.op("Sub", g.constant(1.0), g.op("Mul", parity, g.constant(2.0)))
        return g.op("Sub", g.op("Mul", sign, value), g.op("Mul", turns, g.constant(2.0)))

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        return bottoms[0].count * self.num_output


@layer("LargeMarginInnerProduct", "largemargin_inner_product_param")
@dataclass(frozen=True)
class LargeMarginInnerProduct(MarginProduct):
    """Scores x w_j; for the label |x| |w| psi(angle), with psi at most the cosine.

    psi is (-1)^k cos(m angle) - 2 k with the angle between k pi / m and (k + 1) pi / m, for an m of
    1 (SINGLE: no margin) to 4 (QUADRUPLE). To begin gently, the label's score is the mean of that
    and of lambda times x w, with lambda = max(base (1 + gamma t)^-power, lambda_min) in pass t.

    Shapes: x (N, ...) with K values from `axis` on, N labels -> scores (N, num_output), and if
    asked for lambda (1,). Param W (num_output, K), no bias.
    Source: Liu et al., "Large-margin softmax loss", ICML 2016, and the fork CaffeWindows, which
    counts passes of phase TEST too.
    """


@layer("MarginInnerProduct", "margin_inner_product_param")
@dataclass(frozen=True)
class MarginInnerProduct(MarginProduct):
    """Scores x w_j / |w_j|; for the label |x| psi(angle), with psi at most the cosine.

    As LargeMarginInnerProduct, which see, with weights of length 1.

    Shapes: x (N, ...) with K values from `axis` on, N labels -> scores (N, num_output), and if
    asked for lambda (1,). Param W (num_output, K), no bias.
    Source: Liu et al., "SphereFace", CVPR 2017. Their Caffe stores the weights scaled, and sends x
    a gradient for its label that is scaled too; here gradients are those of the formula.
    """

    unit_weights: ClassVar[bool] = True


def _length(g: OnnxBuilder, x: Any) -> Any:
    """Return the lengths of rows, (N, 1)."""
    squares = g.op("ReduceSum", g.op("Mul", x, x), g.constant([1], "int64"), keepdims=1)
    return g.op("Max", g.op("Sqrt", squares), g.constant(LENGTH_FLOOR))


@layer("LabelSpecificAdd", "label_specific_add_param")
@dataclass(frozen=True)
class LabelSpecificAdd(Elementwise):
    """Adds `bias` to the score of the label where that is above -bias; the others stay.

    With a negative bias the label must win by as much. With `bias_base` the bias is
    bias_base + (1 + bias_gamma t)^bias_power - 1, within bias_min..bias_max, in pass t of phase
    TRAIN, counted from `iteration`; the count belongs to a snapshot. In phase TEST nothing is
    added: there `transform_test` has no effect in the fork either. A second top of shape (1,) shows
    the bias.

    Shapes: scores (N, ...) with K values for each item, N labels -> top like the scores.
    Source: additive margin softmax, Wang et al., arXiv 1801.05599, and the fork CaffeWindows.
    """

    bias: float = 0.0
    transform_test: bool = False
    bias_base: float | None = None
    bias_gamma: float = 0.0
    bias_power: float = 1.0
    bias_min: float = 0.0
    bias_max: float = 0.0
    iteration: int = 0
    phase: Phase = Phase.TRAIN

    bottoms: ClassVar[Arity] = exactly(2)
    tops: ClassVar[Arity] = between(1, 2)

    def infer(self, *bottoms: BlobType) -> Signature:
        x = bottoms[0]
        check_one_label(*bottoms)
        if self.bias_base is not None and self.bias_min > self.bias_max:
            raise Refusal(
                "bias_min is above bias_max",
                expected="bias_min <= bias_max",
                got=f"{self.bias_min:g} and {self.bias_max:g}",
                setting="bias_min",
            )
        if self.bias_gamma < 0:
            raise Refusal(
                "bias_gamma is negative",
                expected="bias_gamma >= 0",
                got=f"bias_gamma {self.bias_gamma:g}",
                setting="bias_gamma",
            )
        kept = (KeptType("passes", (), persistent=True),)
        return Signature((x, BlobType((1,))), kept=kept)

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (True, False)

    def _bias(self, passes: float) -> float:
        if self.bias_base is None:
            return self.bias
        growth = math.pow(1 + self.bias_gamma * (self.iteration + passes), self.bias_power)
        return min(max(self.bias_base + growth - 1, self.bias_min), self.bias_max)

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, (x, labels), passes = call.xp, call.bottoms, call.kept[0]
        bias = 0.0
        y = x.copy()
        if self.phase is Phase.TRAIN:
            bias = self._bias(float(passes))
            passes[...] += 1
            rows = y.reshape(len(x), BlobType(x.shape).span(1))
            index = class_index(xp, labels.reshape(-1), rows.shape[1])
            at = (xp.arange(len(rows)), index)
            rows[at] += bias * (rows[at] > -bias)
        return (y, xp.full((1,), bias, y.dtype))[: len(call.out)]

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def backward(self, call: BackwardCall) -> Gradients:
        return Gradients((call.top_diffs[0], None))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        return (bottoms[0], g.constant([0.0]))

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        return 0


@layer("LabelSpecificRescale", "label_specific_rescale_param")
@dataclass(frozen=True)
class LabelSpecificRescale(Elementwise):
    """Multiplies the score of the label with `positive_weight`, the others with `negative_weight`.

    `for_ip` leaves scores of labels that are not above 0 as they are. `bias_fix` adds
    1 - positive_weight, so that a score of 1 stays; with `power_on_positive` the score s becomes
    sign(s) |s|^positive_weight instead. With `positive_weight_base` that weight is
    positive_weight_base (1 + gamma t)^-power, within positive_weight_min..positive_weight_max where
    these are given, in pass t of phase TRAIN, the first being `iteration` + 1; the count belongs to
    a snapshot. In phase TEST scores stay as they are, unless `rescale_test`. A second top of shape
    (1,) shows positive_weight. `positive_lower_bound` and `negative_upper_bound` have no effect.

    Shapes: scores (N, ...) with K values for each item, N labels -> top like the scores.
    Source: the fork CaffeWindows.
    """

    positive_weight: float = 1.0
    negative_weight: float = 1.0
    rescale_test: bool = False
    for_ip: bool = False
    positive_weight_base: float | None = None
    gamma: float = 0.0
    power: float = 1.0
    positive_weight_min: float | None = None
    positive_weight_max: float | None = None
    iteration: int = 0
    bias_fix: bool = False
    power_on_positive: bool = False
    phase: Phase = Phase.TRAIN

    bottoms: ClassVar[Arity] = exactly(2)
    tops: ClassVar[Arity] = between(1, 2)

    def infer(self, *bottoms: BlobType) -> Signature:
        check_one_label(*bottoms)
        if self.gamma < 0:
            raise Refusal(
                "gamma is negative",
                expected="gamma >= 0",
                got=f"gamma {self.gamma:g}",
                setting="gamma",
            )
        kept = (KeptType("passes", (), persistent=True),)
        return Signature((bottoms[0], BlobType((1,))), kept=kept)

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (True, False)

    @property
    def _rescales(self) -> bool:
        return self.phase is Phase.TRAIN or self.rescale_test

    def _weight(self, passes: float) -> float:
        """Return the weight of labels in a pass, the first being 1."""
        if self.positive_weight_base is None or self.phase is Phase.TEST:
            return self.positive_weight
        weight = self.positive_weight_base
        weight *= math.pow(1 + self.gamma * (self.iteration + passes), -self.power)
        if self.positive_weight_min is not None:
            weight = max(weight, self.positive_weight_min)
        if self.positive_weight_max is not None:
            weight = min(weight, self.positive_weight_max)
        return weight

    def _labels(self, call: ForwardCall | BackwardCall) -> tuple[Array, Array]:
        """Return the scores of the labels that are changed, and which elements (N, K) these are."""
        xp, (x, labels) = call.xp, call.bottoms
        rows = x.reshape(len(x), BlobType(x.shape).span(1))
        index = class_index(xp, labels.reshape(-1), rows.shape[1])
        own = rows[xp.arange(len(rows)), index]
        return own, xp.arange(rows.shape[1]) == index[:, None]

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, x, passes = call.xp, call.bottoms[0], call.kept[0]
        if self.phase is Phase.TRAIN:
            passes[...] += 1
        weight = self._weight(float(passes))
        y = x
        if self._rescales:
            own, is_own = self._labels(call)
            changed = self._changed(xp, own, weight)
            rows = x.reshape(is_own.shape) * self.negative_weight
            y = xp.where(is_own, changed[:, None], rows).reshape(x.shape)
        return (y, xp.full((1,), weight, y.dtype))[: len(call.out)]

    def _changed(self, xp: ArrayNamespace, own: Array, weight: float) -> Array:
        """Return what becomes of the scores of labels."""
        if self.power_on_positive:
            changed = xp.sign(own) * xp.abs(own) ** weight
        else:
            changed = own * weight + (1 - weight if self.bias_fix else 0)
        return xp.where(own > 0, changed, own) if self.for_ip else changed

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        xp, dy = call.xp, call.top_diffs[0]
        if not self._rescales:
            return Gradients((dy, None))
        weight = self._weight(float(call.kept[0]))
        own, is_own = self._labels(call)
        slope = xp.full(own.shape, weight, dy.dtype)
        if self.power_on_positive:
            slope = weight * xp.abs(own) ** (weight - 1)
        if self.for_ip:
            slope = xp.where(own > 0, slope, 1)
        slopes = xp.where(is_own, slope[:, None], self.negative_weight).astype(dy.dtype)
        return Gradients((dy * slopes.reshape(dy.shape), None))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        if self.phase is Phase.TRAIN:
            raise g.refuse("the weight of a pass in training has no ONNX form")
        x, weight = bottoms[0], g.constant([self.positive_weight])
        if not self.rescale_test:
            return (x, weight)
        n, classes = x.shape[0], BlobType(x.shape).span(1)
        rows = g.reshape(x, (n, classes))
        index = g.cast(g.reshape(bottoms[1], (n, 1)), "int64")
        is_own = g.op("Equal", index, g.constant(g.xp.arange(classes)[None], "int64"))
        changed = self._lower_changed(g, rows)
        others = g.op("Mul", rows, g.constant(self.negative_weight))
        return (g.reshape(g.op("Where", is_own, changed, others), x.shape), weight)

    def _lower_changed(self, g: OnnxBuilder, x: Value) -> Value:
        """Return what becomes of scores, were each that of a label."""
        weight = g.constant(self.positive_weight)
        changed: Value
        if self.power_on_positive:
            changed = g.op("Mul", g.op("Sign", x), g.op("Pow", g.op("Abs", x), weight))
        else:
            changed = g.op("Mul", x, weight)
            if self.bias_fix:
                changed = g.op("Add", changed, g.constant(1 - self.positive_weight))
        if self.for_ip:
            changed = g.op("Where", g.op("Greater", x, g.constant(0.0)), changed, x)
        return changed
