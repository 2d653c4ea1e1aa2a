"""Types whose top shapes depend on the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from netc.layers.fillers import Filler
from netc.layers.registry import layer
from netc.layers.types import (
    Arity,
    Array,
    BackwardCall,
    BlobType,
    CodeHost,
    ForwardCall,
    Gradients,
    KeptType,
    Layer,
    OnnxBuilder,
    ParamType,
    Reads,
    Refusal,
    Signature,
    Value,
    at_least,
)


@layer("Filter", "filter_param")
@dataclass(frozen=True)
class Filter(Layer):
    """The items of each bottom for which the selector, the last bottom, is not 0.

    Shapes: (N, ...), (N, ...), ..., selector (N,) or (N, 1, ...) -> (M, ...), (M, ...), ... with M
    the number of selected items, which may be 0. A caller that cannot follow the data and gives
    buffers of the largest shapes, M = N, gets a `Refusal` as soon as an item is left out. The
    gradient of items left out is 0; none flows to the selector.

    With `num_output` the layer is ChannelFilter, as in the fork of channel pruning.

    Source: BVLC Caffe.
    """

    top: tuple[str, ...] = ()
    num_output: int | None = None
    axis: int | None = None

    bottoms: ClassVar[Arity] = at_least(2)
    tops: ClassVar[Arity] = at_least(1)
    data_dependent: ClassVar[bool] = True

    def resolve(self, host: CodeHost | None) -> Layer:
        if self.num_output is None:
            return self
        return ChannelFilter(self.num_output, 1 if self.axis is None else self.axis)

    def infer(self, *bottoms: BlobType) -> Signature:
        if self.axis is not None:
            raise Refusal(
                "a selector from the bottoms selects items of axis 0",
                expected="no axis, or with it num_output, the channels that are left",
                got=f"axis {self.axis}",
                setting="axis",
            )
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


@layer("ChannelFilter", "filter_param")
@dataclass(frozen=True)
class ChannelFilter(Layer):
    """The channels for which the layer's own selector is not 0: those that pruning left.

    A layer of type Filter with `num_output` becomes this one.

    Shapes: bottoms (N, C, ...), param (C), at first all 1 -> (N, `num_output`, ...) each; with
    `axis` 2 or more that axis is meant. The selector comes with the weights and does not learn;
    where it has another number of values that are not 0, the layer refuses to run. The gradient of
    channels left out is 0.

    Source: Y. He et al., "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017,
    and its fork of Caffe.
    """

    num_output: int = 0
    axis: int = 1

    bottoms: ClassVar[Arity] = at_least(1)
    tops: ClassVar[Arity] = at_least(1)
    tops_match_bottoms: ClassVar[bool] = True

    def infer(self, *bottoms: BlobType) -> Signature:
        for index, blob in enumerate(bottoms):
            if not 0 < self.axis < blob.axes:
                raise Refusal(
                    f"bottom {index} has no such axis",
                    expected=f"axis 1 to {blob.axes - 1}",
                    got=f"axis {self.axis}, bottom of shape {blob}",
                    setting="axis",
                )
            if blob.shape[self.axis] != bottoms[0].shape[self.axis]:
                raise Refusal(
                    "the bottoms differ in what is selected from",
                    expected=f"{bottoms[0].shape[self.axis]} at axis {self.axis}",
                    got=f"bottom {index} of shape {blob}",
                    setting="bottom",
                )
        count = bottoms[0].shape[self.axis]
        if not 0 < self.num_output <= count:
            raise Refusal(
                "num_output is no number of channels to leave",
                expected=f"num_output from 1 to {count}",
                got=self.num_output,
                setting="num_output",
            )
        tops = (
            BlobType((*b.shape[: self.axis], self.num_output, *b.shape[self.axis + 1 :]))
            for b in bottoms
        )
        selector = ParamType((count,), Filler(value=1.0), 0.0, 0.0, frozen=True)
        return Signature(tuple(tops), (selector,))

    def _selected(self, call: ForwardCall | BackwardCall) -> Array:
        """Return the indices of the channels that are left."""
        (selected,) = call.xp.nonzero(call.params[0])
        if len(selected) != self.num_output:
            raise Refusal(
                "the selector leaves another number of channels",
                expected=f"{self.num_output} values that are not 0, num_output",
                got=f"{len(selected)} of {len(call.params[0])}",
                hint="the selector comes with the weights that pruning gave",
                setting="num_output",
            )
        return selected

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        selected = self._selected(call)
        return tuple(call.xp.take(x, selected, axis=self.axis) for x in call.bottoms)

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def backward(self, call: BackwardCall) -> Gradients:
        xp, where = call.xp, (slice(None),) * self.axis + (self._selected(call),)
        found: list[Array | None] = []
        count = len(call.params[0])
        for dy, wanted in zip(call.top_diffs, call.wants_bottoms, strict=True):
            dx = None
            if wanted:
                shape = (*dy.shape[: self.axis], count, *dy.shape[self.axis + 1 :])
                dx = xp.zeros(shape, dy.dtype)
                dx[where] = dy
            found.append(dx)
        return Gradients(tuple(found), (None,))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        found = g.op("NonZero", params[0])
        selected = g.op("Reshape", found, g.constant([self.num_output], "int64"))
        return tuple(g.op("Gather", x, selected, axis=self.axis) for x in bottoms)
