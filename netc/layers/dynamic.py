"""Types whose top shapes depend on the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from netc.layers.registry import layer
from netc.layers.types import (
    Arity,
    Array,
    BackwardCall,
    BlobType,
    ForwardCall,
    Gradients,
    KeptType,
    Layer,
    OnnxBuilder,
    Reads,
    Refusal,
    Signature,
    Value,
    at_least,
)


@layer("Filter")
@dataclass(frozen=True)
class Filter(Layer):
    """The items of each bottom for which the selector, the last bottom, is not 0.

    Shapes: (N, ...), (N, ...), ..., selector (N,) or (N, 1, ...) -> (M, ...), (M, ...), ... with M
    the number of selected items, which may be 0. A caller that cannot follow the data and gives
    buffers of the largest shapes, M = N, gets a `Refusal` as soon as an item is left out. The
    gradient of items left out is 0; none flows to the selector.

    Source: BVLC Caffe.
    """

    top: tuple[str, ...] = ()

    bottoms: ClassVar[Arity] = at_least(2)
    tops: ClassVar[Arity] = at_least(1)
    data_dependent: ClassVar[bool] = True

    def infer(self, *bottoms: BlobType) -> Signature:
        *blobs, selector = bottoms
        if len(self.top) != len(blobs):
            raise Refusal(
                "the number of tops does not match the number of bottoms",
                expected=f"{len(blobs)} top, one for each bottom but the last, the selector",
                got=f"{len(self.top)} top",
                setting="top",
            )
        if selector.axes == 0 or selector.count != selector.shape[0]:
            raise Refusal(
                "the selector, the last bottom, has more than one value for an item",
                expected="shape (N,), or (N, 1, ...)",
                got=f"shape {selector}",
            )
        for index, blob in enumerate(blobs):
            if blob.shape[:1] != selector.shape[:1]:
                raise Refusal(
                    "a bottom has not as many items as the selector, the last bottom",
                    expected=f"{selector.shape[0]} items, for a selector of shape {selector}",
                    got=f"bottom {index} of shape {blob}",
                )
        return Signature(tuple(blobs), kept=(KeptType("selected", selector.shape[:1], "bool"),))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        *blobs, selector = call.bottoms
        selected = call.kept[0]
        selected[...] = selector.reshape(selected.shape) != 0
        if call.out and not selected.all():
            raise Refusal(
                "the selector leaves items out, and the shapes of this net are fixed",
                expected="a selector without zeros",
                got=f"{int(selected.sum())} of {selected.shape[0]} items selected",
                hint="weight the loss of the items instead of leaving them out",
            )
        return tuple(x[selected] for x in blobs)

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (True,) * (n_bottoms - 1) + (False,)

    def backward(self, call: BackwardCall) -> Gradients:
        return Gradients(
            (
                *(
                    self._spread(call, index) if call.wants_bottoms[index] else None
                    for index in range(len(call.top_diffs))
                ),
                None,
            )
        )

    def _spread(self, call: BackwardCall, index: int) -> Array:
        """Return the gradient of a bottom: that of the top for selected items, 0 for the rest."""
        dy = call.top_diffs[index]
        dx = call.xp.zeros(call.bottoms[index].shape, dy.dtype)
        dx[call.kept[0]] = dy
        return dx

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        *blobs, selector = bottoms
        condition = g.cast(g.reshape(selector, selector.shape[:1]), "bool")
        return tuple(g.op("Compress", x, condition, axis=0) for x in blobs)
