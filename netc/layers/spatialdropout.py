"""Dropout of whole feature maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from netc.layers.registry import layer
from netc.layers.types import (
    Array,
    BackwardCall,
    BlobType,
    ForwardCall,
    Gradients,
    KeptType,
    Layer,
    OnnxBuilder,
    Phase,
    Reads,
    Refusal,
    Signature,
    Value,
)


@layer("SpatialDropout", "spatial_dropout_param")
@dataclass(frozen=True)
class SpatialDropout(Layer):
    """TRAIN: a map becomes 0 with probability dropout_ratio, else x / (1 - dropout_ratio).

    TEST: y = x. Shapes: (N, C, ...) -> the same; a map is all of x[n, c].

    Source: J. Tompson et al., "Efficient Object Localization Using Convolutional Networks", 2015;
    the layer is IntelCaffe's.
    """

    dropout_ratio: float = 0.5
    phase: Phase = Phase.TRAIN

    in_place: ClassVar[bool] = True

    def infer(self, *bottoms: BlobType) -> Signature:
        x = bottoms[0]
        if not 0 <= self.dropout_ratio < 1:
            raise Refusal(
                "dropout_ratio is not a probability below 1",
                expected="0 <= dropout_ratio < 1",
                got=f"{self.dropout_ratio:g}",
                setting="dropout_ratio",
            )
        if x.axes < 2:
            raise Refusal(
                "the bottom holds no feature maps",
                expected="shape (N, C, ...)",
                got=f"shape {x}",
                setting="bottom",
            )
        if self.phase is Phase.TEST:
            return Signature((x,))
        return Signature((x,), kept=(KeptType("mask", x.shape[:2], "bool"),))

    def _masked(self, x: Array, mask: Array) -> Array:
        factor = (mask * (1 / (1 - self.dropout_ratio))).astype(x.dtype)
        return x * factor.reshape(*mask.shape, *(1,) * (x.ndim - 2))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        x = call.bottoms[0]
        if self.phase is Phase.TEST:
            return (x,)
        draws = call.random().random(x.shape[:2], dtype="float32")
        call.kept[0][...] = call.xp.asarray(draws >= self.dropout_ratio)
        return (self._masked(x, call.kept[0]),)

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def backward(self, call: BackwardCall) -> Gradients:
        dy = call.top_diffs[0]
        return Gradients((dy if self.phase is Phase.TEST else self._masked(dy, call.kept[0]),))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        return (bottoms[0],)
