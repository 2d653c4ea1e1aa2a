"""Types that give the elements of a blob another order."""

from __future__ import annotations

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
    Refusal,
    Signature,
    Value,
)


@layer("ShuffleChannel", "shuffle_channel_param")
@dataclass(frozen=True)
class ShuffleChannel(Layer):
    """The channels dealt out: the first of each of `group` groups, then the second of each, ...

    Shapes: (N, C, ...) -> the same; `group` divides C.
    Source: Zhang et al., "ShuffleNet", CVPR 2018.
    """

    group: int = 1

    def infer(self, *bottoms: BlobType) -> Signature:
        x = bottoms[0]
        if x.axes < 2 or self.group < 1 or x.shape[1] % self.group:
            raise Refusal(
                "group does not divide the channels",
                expected="a bottom of shape (N, C, ...), group >= 1 and C % group == 0",
                got=f"group {self.group}, bottom of shape {x}",
                setting="group",
            )
        return Signature((x,))

    @staticmethod
    def _dealt(x: Array, hands: int) -> Array:
        """Return the channels as `hands` rows, read by columns."""
        n, channels = x.shape[:2]
        rows = x.reshape(n, hands, channels // hands, *x.shape[2:])
        return rows.swapaxes(1, 2).reshape(x.shape)

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        return (self._dealt(call.bottoms[0], self.group),)

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def backward(self, call: BackwardCall) -> Gradients:
        dy = call.top_diffs[0]
        return Gradients((self._dealt(dy, max(dy.shape[1] // self.group, 1)),))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        x = bottoms[0]
        shape = x.shape
        rows = g.reshape(x, (shape[0], self.group, shape[1] // self.group, *shape[2:]))
        order = [0, 2, 1, *range(3, len(shape) + 1)]
        return (g.reshape(g.op("Transpose", rows, perm=order), shape),)


@layer("Flip", "flip_param")
@dataclass(frozen=True)
class Flip(Layer):
    """The images mirrored: left to right, and upside down with `flip_height`.

    Shapes: (N, C, H, W) -> the same. Source: the face recognition fork CaffeWindows.
    """

    flip_width: bool = True
    flip_height: bool = False

    def infer(self, *bottoms: BlobType) -> Signature:
        x = bottoms[0]
        if x.axes != 4:
            raise Refusal(
                "only images can be flipped",
                expected="a bottom of shape (N, C, H, W)",
                got=f"bottom of shape {x}",
            )
        return Signature((x,))

    def _flipped(self, x: Array) -> Array:
        return x[:, :, :: -1 if self.flip_height else 1, :: -1 if self.flip_width else 1]

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        return (self._flipped(call.bottoms[0]),)

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def backward(self, call: BackwardCall) -> Gradients:
        return Gradients((self._flipped(call.top_diffs[0]),))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        x = bottoms[0]
        axes = [axis for axis, on in ((2, self.flip_height), (3, self.flip_width)) if on]
        if not axes:
            return (x,)
        # From the last to before the first: -1 would be the last again.
        ends = [-(2**31)] * len(axes)
        ranges = ([-1] * len(axes), ends, axes, [-1] * len(axes))
        return (g.op("Slice", x, *(g.constant(values, "int64") for values in ranges)),)
