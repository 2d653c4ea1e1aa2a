"""The layer type Snake for netc: an activation for what is periodic."""

from __future__ import annotations

from dataclasses import dataclass, field

from netc.layers.fillers import Filler
from netc.layers.registry import layer
from netc.layers.types import (
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
)


@layer("Snake", "custom_param")
@dataclass(frozen=True)
class Snake(Layer):
    """y = x + sin(a x)^2 / a, with a learned a for each channel (axis 1).

    Shapes: bottom (N, C, ...) -> top (the same); param a (C,), or () with `channel_shared`.
    Raises `Refusal` where a would start at 0.
    Source: Ziyin et al., "Neural networks fail to learn periodic functions and how to fix it",
    NeurIPS 2020.
    """

    filler: Filler = field(default_factory=lambda: Filler(value=1.0))
    channel_shared: bool = False

    def infer(self, *bottoms: BlobType) -> Signature:
        """Return the shape of the top, and what is learned."""
        x = bottoms[0]
        if x.axes < 2:
            raise Refusal(
                "the bottom has no channel axis",
                expected="a bottom of 2 or more axes: (N, C, ...)",
                got=f"bottom of shape {x}",
            )
        if self.filler.type == "constant" and self.filler.value == 0:
            raise Refusal(
                "a must not start at 0, by which is divided",
                expected="filler.value other than 0",
                got="filler.value 0",
                setting="custom_param",
            )
        return Signature(
            (x,), (ParamType(() if self.channel_shared else (x.shape[1],), self.filler),)
        )

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        """Return y. `xp` is NumPy or CuPy: the formula is written once."""
        x, a = call.bottoms[0], self._spread(call.params[0], call.bottoms[0].ndim)
        return (x + call.xp.sin(a * x) ** 2 / a,)

    def backward_reads(self) -> Reads:
        """Say what `backward` looks at: the plan frees the rest."""
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        """Return the gradients that are wanted, for x and for a."""
        xp, x, dy = call.xp, call.bottoms[0], call.top_diffs[0]
        a = self._spread(call.params[0], x.ndim)
        dx = da = None
        if call.wants_bottoms[0]:
            dx = dy * (1 + xp.sin(2 * a * x))
        if call.wants_params[0]:
            axes = tuple(i for i in range(x.ndim) if self.channel_shared or i != 1)
            slope = (x * xp.sin(2 * a * x) - xp.sin(a * x) ** 2 / a) / a
            da = (dy * slope).sum(axis=axes)
        return Gradients((dx,), (da,))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        """Return y in ONNX."""
        x, a = bottoms[0], params[0]
        if not self.channel_shared:
            # ONNX lines shapes up at the last axis, where these values belong to axis 1.
            a = g.reshape(a, (x.shape[1],) + (1,) * (len(x.shape) - 2))
        wave = g.op("Sin", g.op("Mul", x, a))
        return (g.op("Add", x, g.op("Div", g.op("Mul", wave, wave), a)),)

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        """Return about how many operations there are, for `netc summary`."""
        return 4 * bottoms[0].count

    def _spread(self, a: Array, axes: int) -> Array:
        return a if self.channel_shared else a.reshape((-1,) + (1,) * (axes - 2))
