"""A learnable blob on its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from netc.layers.fillers import Filler
from netc.layers.input import BlobShape
from netc.layers.registry import layer
from netc.layers.types import (
    Arity,
    Array,
    BackwardCall,
    BlobType,
    ForwardCall,
    Gradients,
    Layer,
    OnnxBuilder,
    ParamType,
    Reads,
    Refusal,
    Signature,
    Value,
    exactly,
)


@layer("Parameter", "parameter_param")
@dataclass(frozen=True)
class Parameter(Layer):
    """A top that is a param itself: it is trained, shared and saved like a weight.

    It starts as `blob_filler` says, at 0 without one.

    Shapes: no bottoms; param and top have the shape given in the text.

    Source: BVLC Caffe; `blob_filler` is CaffeWindows'.
    """

    shape: BlobShape = field(default_factory=BlobShape)
    blob_filler: Filler = field(default_factory=Filler)

    bottoms: ClassVar[Arity] = exactly(0)

    def infer(self, *bottoms: BlobType) -> Signature:
        if any(dim < 0 for dim in self.shape.dim):
            raise Refusal(
                "the shape has a negative size",
                expected="every dim >= 0",
                got=BlobType(self.shape.dim),
                setting="shape",
            )
        return Signature(
            (BlobType(self.shape.dim),), (ParamType(self.shape.dim, self.blob_filler),)
        )

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        return (call.params[0],)

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def backward(self, call: BackwardCall) -> Gradients:
        return Gradients((), (call.top_diffs[0],))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        return (g.op("Identity", params[0]),)
