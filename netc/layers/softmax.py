"""Softmax over any axis."""

from __future__ import annotations

from dataclasses import dataclass

from netc.layers.activation import Elementwise, Engine
from netc.layers.labels import LossParam, class_axis
from netc.layers.registry import layer
from netc.layers.types import (
    Array,
    ArrayNamespace,
    BackwardCall,
    BlobType,
    ForwardCall,
    Gradients,
    OnnxBuilder,
    Reads,
    Signature,
    Value,
)


def softmax(xp: ArrayNamespace, x: Array, axis: int, out: Array) -> Array:
    """Write exp(x) / sum(exp(x)) over `axis` into `out`, which may be `x` itself, and return it.

    The largest score is subtracted first, so that nothing overflows.
    """
    xp.subtract(x, x.max(axis=axis, keepdims=True), out=out)
    xp.exp(out, out=out)
    out /= out.sum(axis=axis, keepdims=True)
    return out


def softmax_gradient(xp: ArrayNamespace, y: Array, dy: Array, axis: int) -> Array:
    """Return y * (dy - sum(dy * y)), the gradient of the scores behind the probabilities y."""
    dx = dy * y
    dx -= y * dx.sum(axis=axis, keepdims=True)
    return dx


@layer("Softmax", "softmax_param")
@dataclass(frozen=True)
class Softmax(Elementwise):
    """y = exp(x) / sum(exp(x)), the sum taken over `axis`: scores become probabilities.

    Shapes: bottom (any) -> top (same). Source: Bridle, 1990; computed with the largest score
    subtracted, as Caffe does.

    `loss_param` has no effect: nets made from their training text by turning a SoftmaxWithLoss
    into this type have kept it.
    """

    axis: int = 1
    engine: Engine = Engine.DEFAULT
    loss_param: LossParam | None = None

    def infer(self, *bottoms: BlobType) -> Signature:
        class_axis(bottoms[0], self.axis)
        return Signature((bottoms[0],))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        return (softmax(call.xp, call.bottoms[0], self.axis, out=call.out[0]),)

    def backward_reads(self) -> Reads:
        return Reads.TOP

    def backward(self, call: BackwardCall) -> Gradients:
        return Gradients((softmax_gradient(call.xp, call.tops[0], call.top_diffs[0], self.axis),))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        return (g.op("Softmax", bottoms[0], axis=self.axis),)
