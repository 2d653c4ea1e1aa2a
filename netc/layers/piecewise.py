"""Activations made of straight pieces whose slopes are drawn or learned, one for each element."""

from __future__ import annotations

import math
from dataclasses import dataclass

from netc.layers.activation import Elementwise, check_channels
from netc.layers.fillers import Filler
from netc.layers.registry import layer
from netc.layers.types import (
    Array,
    BackwardCall,
    BlobType,
    ForwardCall,
    Gradients,
    KeptType,
    OnnxBuilder,
    ParamType,
    Phase,
    Reads,
    Refusal,
    Signature,
    Value,
)


@layer("RReLU", "rrelu_param")
@dataclass(frozen=True)
class RReLU(Elementwise):
    """y = x where x > 0, otherwise x / a, with a drawn for each element from `lb` to `ub`.

    In phase TEST a is (ub - lb) / (log |ub| - log |lb|), the divisor whose x / a is the mean of
    those in training. At x = 0 the gradient is that of the negative side.

    Shapes: bottom (N, C, ...) -> top (same).
    Source: Xu et al., "Empirical evaluation of rectified activations in convolution network", 2015;
    the bounds are those of the fork of the caffenet128 benchmark.
    """

    lb: float = 5.0
    ub: float = 10.0
    phase: Phase = Phase.TRAIN

    def infer(self, *bottoms: BlobType) -> Signature:
        x = bottoms[0]
        check_channels(x)
        if not self.lb < self.ub or 0 in (self.lb, self.ub) or self.lb == -self.ub:
            raise Refusal(
                "the bounds of a have no mean",
                expected="lb < ub, neither of them 0, and not lb = -ub",
                got=f"lb {self.lb:g}, ub {self.ub:g}",
                setting="lb",
            )
        if self.phase is Phase.TEST:
            return Signature((x,))
        return Signature((x,), kept=(KeptType("slope", x.shape),))

    @property
    def _mean_slope(self) -> float:
        return math.log(abs(self.ub / self.lb)) / (self.ub - self.lb)

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, x = call.xp, call.bottoms[0]
        if self.phase is Phase.TEST:
            return (xp.where(x > 0, x, x * self._mean_slope),)
        divisor = xp.asarray(call.random().uniform(self.lb, self.ub, x.shape))
        call.kept[0][...] = xp.where(x > 0, 1, 1 / divisor)
        return (x * call.kept[0],)

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM if self.phase is Phase.TEST else Reads.NOTHING

    def backward(self, call: BackwardCall) -> Gradients:
        dy = call.top_diffs[0]
        if self.phase is Phase.TEST:
            return Gradients((call.xp.where(call.bottoms[0] > 0, dy, dy * self._mean_slope),))
        return Gradients((dy * call.kept[0],))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        return (g.op("LeakyRelu", bottoms[0], alpha=self._mean_slope),)


@layer("APL", "apl_param")
@dataclass(frozen=True)
class APL(Elementwise):
    """y = max(0, x) + sum over s of a[k, s] * max(0, b[k, s] - x), with a and b learned.

    k is the place of an element in its item: each unit has `sums` hinges of its own.

    Shapes: bottom (N, ...) of 2 or more axes -> top (same); params slope a and offset b
    (1, 1, sums, units). As in the fork their elements lie in memory as (units, sums) would: a[k, s]
    is element k * sums + s. Slopes are uniform in +-0.5 / sums and offsets normal with deviation
    0.5, unless a filler says otherwise.
    Source: Agostinelli et al., "Learning activation functions to improve deep neural networks",
    ICLR 2015 workshop, and their Caffe.
    """

    sums: int = 2
    slope_filler: Filler | None = None
    offset_filler: Filler | None = None

    param_names = ("slope", "offset")

    def infer(self, *bottoms: BlobType) -> Signature:
        x = bottoms[0]
        check_channels(x)
        if self.sums < 1:
            raise Refusal(
                "sums is not positive",
                expected="sums >= 1: the number of hinges of each unit",
                got=f"sums {self.sums}",
                setting="sums",
            )
        width = 0.5 / self.sums
        shape = (1, 1, self.sums, x.span(1))
        slope = ParamType(shape, self.slope_filler or Filler("uniform", min=-width, max=width))
        offset = ParamType(shape, self.offset_filler or Filler("gaussian", std=0.5))
        return Signature((x,), (slope, offset))

    def _hinges(self, call: ForwardCall | BackwardCall) -> tuple[Array, Array]:
        """Return slopes and offsets, (sums, ...) in the shape of an item."""
        shape = (self.sums, *call.bottoms[0].shape[1:])
        slope, offset = (p.reshape(-1, self.sums).T.reshape(shape) for p in call.params)
        return slope, offset

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, x = call.xp, call.bottoms[0]
        y = xp.maximum(x, 0)
        for slope, offset in zip(*self._hinges(call), strict=True):
            y += slope * xp.maximum(offset - x, 0)
        return (y,)

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        xp, x, dy = call.xp, call.bottoms[0], call.top_diffs[0]
        dx = dy * (x > 0)
        dslopes, doffsets = [], []
        for slope, offset in zip(*self._hinges(call), strict=True):
            room = xp.maximum(offset - x, 0)
            through = dy * slope * (room > 0)
            dx -= through
            dslopes.append((dy * room).sum(axis=0).reshape(-1))
            doffsets.append(through.sum(axis=0).reshape(-1))
        shape = call.params[0].shape
        found = (xp.stack(diffs, axis=1).reshape(shape) for diffs in (dslopes, doffsets))
        return Gradients((dx,), tuple(found))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        x = bottoms[0]
        slope, offset = (g.reshape(p, (*x.shape[1:], self.sums)) for p in params)
        room = g.op("Relu", g.op("Sub", offset, g.reshape(x, (*x.shape, 1))))
        last = g.constant([-1], "int64")
        hinges = g.op("ReduceSum", g.op("Mul", slope, room), last, keepdims=0)
        return (g.op("Add", g.op("Relu", x), hinges),)

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        return bottoms[0].count * (1 + 2 * self.sums)
