"""Elementwise activations: y = f(x), the top has the bottom's shape."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

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


class Engine(enum.Enum):
    """Caffe's choice of implementation. Read for the sake of old texts; netc's plan chooses the kernel."""

    DEFAULT = 0
    CAFFE = 1
    CUDNN = 2


@dataclass(frozen=True)
class Elementwise(Layer):
    """Base of the types whose top has the bottom's shape and may lie in its place."""

    in_place: ClassVar[bool] = True

    def infer(self, *bottoms: BlobType) -> Signature:
        return Signature(tops=(bottoms[0],))

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        return bottoms[0].count


@layer("ReLU", "relu_param")
@dataclass(frozen=True)
class ReLU(Elementwise):
    """y = x where x > 0, otherwise negative_slope * x.

    At x = 0 the gradient is that of the negative side.
    Source: Nair and Hinton, ICML 2010; leaky form, Maas et al., ICML 2013 workshop.
    """

    negative_slope: float = 0.0
    engine: Engine = Engine.DEFAULT

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, x = call.xp, call.bottoms[0]
        if self.negative_slope == 0:
            return (xp.maximum(x, 0, out=call.out[0]),)
        return (xp.where(x > 0, x, self.negative_slope * x),)

    def backward_reads(self) -> Reads:
        # With a negative slope below zero the sign of y no longer tells the sign of x.
        return Reads.TOP if self.negative_slope >= 0 else Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        seen = (call.tops if self.negative_slope >= 0 else call.bottoms)[0]
        dy = call.top_diffs[0]
        if self.negative_slope == 0:
            return Gradients((dy * (seen > 0),))
        return Gradients((call.xp.where(seen > 0, dy, self.negative_slope * dy),))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        if self.negative_slope == 0:
            return (g.op("Relu", bottoms[0]),)
        return (g.op("LeakyRelu", bottoms[0], alpha=self.negative_slope),)
