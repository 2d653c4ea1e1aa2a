"""Types that move the elements of a blob to other places without computing anything."""

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


@layer("Permute", "permute_param")
@dataclass(frozen=True)
class Permute(Layer):
    """The axes in another order: axis i of the top is axis `order[i]` of the bottom.

    Axes that `order` does not name follow in their own order. Shapes: (N, C, H, W) -> (N, H, W, C)
    for the order 0, 2, 3, 1. Source: the SSD fork of Caffe.
    """

    order: tuple[int, ...] = ()

    def infer(self, *bottoms: BlobType) -> Signature:
        x = bottoms[0]
        return Signature((BlobType(tuple(x.shape[axis] for axis in self.axes_of_bottom(x.axes))),))

    def axes_of_bottom(self, n_axes: int) -> tuple[int, ...]:
        """Return all axes of a bottom in their new order; refuse an order that it cannot have."""
        for axis in self.order:
            if axis >= n_axes:
                raise Refusal(
                    f"order names axis {axis}, which the bottom does not have",
                    expected=f"axes 0 to {n_axes - 1}",
                    got=f"order {', '.join(map(str, self.order))}, a bottom with {n_axes} axes",
                    setting="order",
                )
        if len(set(self.order)) != len(self.order):
            raise Refusal(
                "order names an axis twice",
                expected="each axis once",
                got=f"order {', '.join(map(str, self.order))}",
                setting="order",
            )
        return (*self.order, *(axis for axis in range(n_axes) if axis not in self.order))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        x = call.bottoms[0]
        return (x.transpose(self.axes_of_bottom(x.ndim)),)

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def backward(self, call: BackwardCall) -> Gradients:
        dy = call.top_diffs[0]
        axes = self.axes_of_bottom(dy.ndim)
        back = sorted(range(dy.ndim), key=axes.__getitem__)
        return Gradients((dy.transpose(back),))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        axes = self.axes_of_bottom(len(bottoms[0].shape))
        if axes == tuple(range(len(axes))):
            return bottoms
        return (g.op("Transpose", bottoms[0], perm=list(axes)),)
