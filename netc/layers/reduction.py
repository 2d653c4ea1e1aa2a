"""The trailing axes of a blob into one number."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from netc.layers.registry import layer
from netc.layers.types import (
    Array,
    BackwardCall,
    BlobType,
    ForwardCall,
    Gradients,
    Layer,
    OnnxBuilder,
    Reads,
    Signature,
    Value,
)


class ReductionOp(enum.Enum):
    """What becomes of the elements: sum, sum of absolute values, sum of squares, mean."""

    SUM = 1
    ASUM = 2
    SUMSQ = 3
    MEAN = 4


@layer("Reduction", "reduction_param")
@dataclass(frozen=True)
class Reduction(Layer):
    """y = coeff times the sum (of x, |x| or x * x) or the mean over all axes from `axis` on.

    Shapes: bottom (A..., B...) with `axis` at the first of B -> top (A...), which is () for axis 0.
    ASUM has the gradient 0 at 0.

    Source: BVLC Caffe.
    """

    operation: ReductionOp = ReductionOp.SUM
    axis: int = 0
    coeff: float = 1.0

    def infer(self, *bottoms: BlobType) -> Signature:
        x = bottoms[0]
        return Signature((BlobType(x.shape[: x.axis(self.axis)]),))

    def _factor(self, x: Array) -> float:
        """Return what the sum over the terms of x is multiplied by."""
        if self.operation is not ReductionOp.MEAN:
            return self.coeff
        # The mean of nothing is 0, as its sum is.
        return self.coeff / max(BlobType(x.shape).span(self.axis % x.ndim), 1)

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, x = call.xp, call.bottoms[0]
        match self.operation:
            case ReductionOp.ASUM:
                terms = xp.abs(x)
            case ReductionOp.SUMSQ:
                terms = x * x
            case _:
                terms = x
        axis = self.axis % x.ndim
        # One axis to sum over: NumPy then adds in pairs, which keeps the rounding error small.
        terms = terms.reshape(*x.shape[:axis], BlobType(x.shape).span(axis))
        y = xp.sum(terms, axis=-1, out=call.out[0])
        factor = self._factor(x)
        if factor != 1:
            y *= factor
        return (y,)

    def backward_reads(self) -> Reads:
        linear = self.operation in (ReductionOp.SUM, ReductionOp.MEAN)
        return Reads.NOTHING if linear else Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        xp, x, dy = call.xp, call.bottoms[0], call.top_diffs[0]
        scaled = (dy * self._factor(x)).reshape(dy.shape + (1,) * (x.ndim - dy.ndim))
        match self.operation:
            case ReductionOp.ASUM:
                return Gradients((scaled * xp.sign(x),))
            case ReductionOp.SUMSQ:
                return Gradients((2 * scaled * x,))
            case _:
                return Gradients((xp.broadcast_to(scaled, x.shape),))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        operators = {
            ReductionOp.SUM: "ReduceSum",
            ReductionOp.ASUM: "ReduceL1",
            ReductionOp.SUMSQ: "ReduceSumSquare",
            ReductionOp.MEAN: "ReduceMean",
        }
        axes_count = len(bottoms[0].shape)
        axes = list(range(self.axis % axes_count, axes_count))
        # The axes became an input with opset 13 for ReduceSum, with 18 for the others.
        if self.operation is ReductionOp.SUM or g.opset >= 18:
            y = g.op(operators[self.operation], bottoms[0], g.constant(axes, "int64"), keepdims=0)
        else:
            y = g.op(operators[self.operation], bottoms[0], axes=axes, keepdims=0)
        return (y if self.coeff == 1 else g.op("Mul", y, g.constant(self.coeff)),)

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        return bottoms[0].count
