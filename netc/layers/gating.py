"""Gates: a blob times what another one says of its channels or its places.

Highway gates need no type of their own: with t = Sigmoid(...), y = h t + x (1 - t) is a Power layer
(scale -1, shift 1) and three Eltwise ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from netc.layers.fillers import Filler
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
    ParamType,
    Phase,
    Reads,
    Refusal,
    Signature,
    Value,
    between,
    exactly,
)


@layer("Axpy")
@dataclass(frozen=True)
class Axpy(Layer):
    """y = a * x + r, with one a for each channel of each item: squeeze, excite and add, in one.

    Shapes: a (N, C) or (N, C, 1, ...), x (N, C, ...), r like x -> top like x.
    Source: Hu et al., "Squeeze-and-excitation networks", CVPR 2018, and their Caffe.
    """

    bottoms: ClassVar[Arity] = exactly(3)

    def infer(self, *bottoms: BlobType) -> Signature:
        scale, x, rest = bottoms
        if x.axes < 2 or scale.shape[:2] != x.shape[:2] or scale.span(2) != 1:
            raise Refusal(
                "bottom 0 has not one factor for each channel of bottom 1",
                expected=f"shape {BlobType(x.shape[:2])}, perhaps with trailing axes of size 1",
                got=f"bottom 0 of shape {scale}, bottom 1 of shape {x}",
            )
        if rest != x:
            raise Refusal(
                "the summands differ in shape",
                expected=f"bottom 2 of shape {x}, like bottom 1",
                got=f"bottom 2 of shape {rest}",
            )
        return Signature((x,))

    @staticmethod
    def _spread(scale: Array, x: Array) -> Array:
        """View the factors so that they broadcast over x."""
        return scale.reshape(*x.shape[:2], *[1] * (x.ndim - 2))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        scale, x, rest = call.bottoms
        y = call.xp.multiply(x, self._spread(scale, x), out=call.out[0])
        y += rest
        return (y,)

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        (scale, x, _), dy = call.bottoms, call.top_diffs[0]
        dscale = dx = None
        if call.wants_bottoms[0]:
            dscale = (dy * x).sum(axis=tuple(range(2, x.ndim))).reshape(scale.shape)
        if call.wants_bottoms[1]:
            dx = dy * self._spread(scale, x)
        return Gradients((dscale, dx, dy))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        scale, x, rest = bottoms
        spread = g.reshape(scale, (*x.shape[:2], *[1] * (len(x.shape) - 2)))
        return (g.op("Add", g.op("Mul", x, spread), rest),)

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        return bottoms[1].count


@layer("ChannelScale", "channel_scale_param")
@dataclass(frozen=True)
class ChannelScale(Layer):
    """y = s * x, with one s for each place of each item: all channels of a place share it.

    With `global_scale` there is a single s for the whole blob, a param that starts at
    `init_global_scale`, is kept within min_global_scale..max_global_scale, and that no solver
    changes: a second top of shape (1,) shows it. Then bottom 1 has no influence on y.
    `do_forward: false` passes x on; `do_backward_feature: false` passes the gradient on to x
    unscaled; `do_backward_scale: false` stops the gradient of s. With `global_scale` the gradient
    of x is scaled by bottom 1 all the same, and bottom 1 has the gradient that it would have
    without: so does the fork.

    Shapes: x (N, C, ...), s with N * (...) values: (N, 1, ...) for example -> top like x.
    Source: Wang et al., "NormFace", ACM MM 2017, and their Caffe.
    """

    do_forward: bool = True
    do_backward_feature: bool = True
    do_backward_scale: bool = True
    global_scale: bool = False
    max_global_scale: float = 1000.0
    min_global_scale: float = 0.0
    init_global_scale: float = 1.0

    bottoms: ClassVar[Arity] = exactly(2)
    tops: ClassVar[Arity] = between(1, 2)
    param_names: ClassVar[tuple[str, ...]] = ("scale",)

    def infer(self, *bottoms: BlobType) -> Signature:
        x, scale = bottoms
        wanted = BlobType((*x.shape[:1], 1, *x.shape[2:]))
        if x.axes < 2 or scale.shape[:1] != x.shape[:1] or scale.count != wanted.count:
            raise Refusal(
                "bottom 1 has not one factor for each place of bottom 0",
                expected=f"{wanted.count} values, for example of shape {wanted}",
                got=f"bottom 1 of shape {scale}, bottom 0 of shape {x}",
            )
        if not self.global_scale:
            return Signature((x,))
        if self.min_global_scale > self.max_global_scale:
            raise Refusal(
                "min_global_scale is above max_global_scale",
                expected="min_global_scale <= max_global_scale",
                got=f"{self.min_global_scale:g} and {self.max_global_scale:g}",
                setting="min_global_scale",
            )
        start = Filler(value=self.init_global_scale)
        param = ParamType((1,), start, lr_mult=0.0, decay_mult=0.0, frozen=True)
        return Signature((x, BlobType((1,))), (param,))

    @staticmethod
    def _spread(scale: Array, x: Array) -> Array:
        return scale.reshape(x.shape[0], 1, *x.shape[2:])

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, (x, scale) = call.xp, call.bottoms
        factor = self._spread(scale, x)
        more: tuple[Array, ...] = ()
        if self.global_scale:
            value = call.params[0]
            value[...] = xp.clip(value, self.min_global_scale, self.max_global_scale)
            factor, more = value.reshape((1,) * x.ndim), (value.copy(),)
        return (x * factor if self.do_forward else x, *more)[: len(call.out)]

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        (x, scale), dy = call.bottoms, call.top_diffs[0]
        dx = dscale = None
        if call.wants_bottoms[0]:
            dx = dy * self._spread(scale, x) if self.do_backward_feature else dy
        if call.wants_bottoms[1]:
            if self.do_backward_scale:
                dscale = (dy * x).sum(axis=1).reshape(scale.shape)
            else:
                dscale = call.xp.zeros(scale.shape, dy.dtype)
        return Gradients((dx, dscale), (None,) * len(call.params))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        x, scale = bottoms
        more: tuple[Value, ...] = ()
        if self.global_scale:
            value = g.xp.clip(g.array(params[0]), self.min_global_scale, self.max_global_scale)
            factor = g.constant(value)
            more = (factor,)
        else:
            factor = g.reshape(scale, (x.shape[0], 1, *x.shape[2:]))
        return (g.op("Mul", x, factor) if self.do_forward else x, *more)

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        return bottoms[0].count if self.do_forward else 0


@dataclass(frozen=True)
class _PassedOn(Layer):
    """Base of the types that change only the gradient.

    They are no views: top and bottom diff of a view are one array.
    """

    in_place: ClassVar[bool] = True

    def infer(self, *bottoms: BlobType) -> Signature:
        return Signature((bottoms[0],))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        return (call.bottoms[0],)

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        return (bottoms[0],)


@layer("GradientReversal", "gradient_reversal_param")
@dataclass(frozen=True)
class GradientReversal(_PassedOn):
    """y = x; the gradient is multiplied with -coeff on its way back.

    What lies below then learns to hinder what lies above: a classifier of domains, for example.
    Source: Ganin and Lempitsky, ICML 2015.
    """

    coeff: float = 1.0

    def backward(self, call: BackwardCall) -> Gradients:
        return Gradients((call.top_diffs[0] * -self.coeff,))


@layer("GradientScaler", "gradient_scaler_param")
@dataclass(frozen=True)
class GradientScaler(_PassedOn):
    """y = x; the gradient is multiplied with -c, and c rises from `lower_bound` to `upper_bound`.

    With u and l the two bounds and p = min(passes / max_iter, 1), c is
    2 (u - l) / (1 + exp(-alpha p)) - (u - l) + l. `passes` counts the forward passes of phase TRAIN
    before this one, and belongs to a snapshot.
    Source: Ganin et al., JMLR 2016, and their Caffe, which counts iterations: with an `iter_size`
    of k, max_iter must be k times as large here.
    """

    lower_bound: float = 0.0
    upper_bound: float = 1.0
    alpha: float = 10.0
    max_iter: float = 1.0
    phase: Phase = Phase.TRAIN

    def infer(self, *bottoms: BlobType) -> Signature:
        if not self.max_iter > 0:
            raise Refusal(
                "max_iter is not positive",
                expected="max_iter > 0: how many passes c takes to its upper bound",
                got=f"max_iter {self.max_iter:g}",
                setting="max_iter",
            )
        return Signature((bottoms[0],), kept=(KeptType("passes", (), persistent=True),))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        if self.phase is Phase.TRAIN:
            call.kept[0][...] += 1
        return (call.bottoms[0],)

    def backward(self, call: BackwardCall) -> Gradients:
        passes = max(float(call.kept[0]) - 1, 0.0)
        height = self.upper_bound - self.lower_bound
        rise = 2 / (1 + math.exp(-self.alpha * min(passes / self.max_iter, 1.0))) - 1
        return Gradients((call.top_diffs[0] * -(height * rise + self.lower_bound),))
