"""Elementwise activations: y = f(x), the top has the bottom's shape.

Where the gradient can be told from the top alone, `backward_reads` says so, and training may run
the layer in place; the others (Power, Clip, Log, AbsVal, Swish, PReLU) then get a top of their own,
also where the text names one blob for both.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, replace
from typing import ClassVar

from netc.layers.fillers import Filler
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
    ParamType,
    Part,
    Phase,
    Reads,
    Refusal,
    Signature,
    Value,
)


class Engine(enum.Enum):
    """Caffe's choice of implementation, read for old texts' sake: the plan chooses the kernel."""

    DEFAULT = 0
    CAFFE = 1
    CUDNN = 2
    MKL2017 = 3
    MKLDNN = 4


@dataclass(frozen=True)
class Elementwise(Layer):
    """Base of the types whose top has the bottom's shape and may lie in its place."""

    in_place: ClassVar[bool] = True

    def infer(self, *bottoms: BlobType) -> Signature:
        """Return the bottom's shape."""
        return Signature(tops=(bottoms[0],))

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        """Return one operation per element."""
        return bottoms[0].count


def check_channels(x: BlobType) -> None:
    """Refuse a bottom without an axis for channels."""
    if x.axes < 2:
        raise Refusal(
            "the bottom has no channel axis",
            expected="a bottom of 2 or more axes: (N, C, ...)",
            got=f"bottom of shape {x}",
        )


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

    def dead_at_zero(self) -> bool:
        return self.negative_slope == 0

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


@layer("PReLU", "prelu_param")
@dataclass(frozen=True)
class PReLU(Elementwise):
    """y = x where x > 0, otherwise slope * x, with a learned slope for each channel (axis 1).

    Shapes: bottom (N, C, ...) -> top (same); param slope (C,), or () with `channel_shared`. The
    slopes start at 0.25 unless `filler` says otherwise. At x = 0 the gradient is that of the
    negative side.
    Source: He et al., ICCV 2015.
    """

    filler: Filler | None = None
    channel_shared: bool = False

    def infer(self, *bottoms: BlobType) -> Signature:
        x = bottoms[0]
        check_channels(x)
        slope = ParamType(
            () if self.channel_shared else (x.shape[1],), self.filler or Filler(value=0.25)
        )
        return Signature((x,), (slope,))

    def _slope(self, slope: Array, axes: int) -> Array:
        """View the slopes so that they broadcast over a bottom of that many axes."""
        return slope if self.channel_shared else slope.reshape((-1,) + (1,) * (axes - 2))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        x = call.bottoms[0]
        return (call.xp.where(x > 0, x, self._slope(call.params[0], x.ndim) * x),)

    def backward_reads(self) -> Reads:
        # A learned slope may become negative, and then y does not tell the sign of x.
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        xp, x, dy = call.xp, call.bottoms[0], call.top_diffs[0]
        dx = dslope = None
        if call.wants_bottoms[0]:
            dx = xp.where(x > 0, dy, self._slope(call.params[0], x.ndim) * dy)
        if call.wants_params[0]:
            axes = tuple(i for i in range(x.ndim) if self.channel_shared or i != 1)
            dslope = (dy * xp.minimum(x, 0)).sum(axis=axes)
        return Gradients((dx,), (dslope,))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        shape, slope = bottoms[0].shape, params[0]
        if not self.channel_shared:
            # ONNX lines shapes up at the last axis, where these slopes belong to axis 1.
            slope = g.reshape(slope, (shape[1],) + (1,) * (len(shape) - 2))
        return (g.op("PRelu", bottoms[0], slope),)


@layer("ELU", "elu_param")
@dataclass(frozen=True)
class ELU(Elementwise):
    """y = x where x > 0, otherwise alpha * (exp(x) - 1).

    At x = 0 the gradient is alpha. Source: Clevert et al., ICLR 2016.
    """

    alpha: float = 1.0

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, x = call.xp, call.bottoms[0]
        return (xp.where(x > 0, x, self.alpha * xp.expm1(xp.minimum(x, 0))),)

    def backward_reads(self) -> Reads:
        # y has the sign of x, and y + alpha = alpha * exp(x); a negative alpha loses the sign.
        return Reads.TOP if self.alpha >= 0 else Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        xp, dy = call.xp, call.top_diffs[0]
        if self.alpha >= 0:
            y = call.tops[0]
            return Gradients((xp.where(y > 0, dy, dy * (y + self.alpha)),))
        x = call.bottoms[0]
        return Gradients((xp.where(x > 0, dy, dy * (self.alpha * xp.exp(xp.minimum(x, 0)))),))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        return (g.op("Elu", bottoms[0], alpha=self.alpha),)


@layer("Sigmoid", "sigmoid_param")
@dataclass(frozen=True)
class Sigmoid(Elementwise):
    """y = 1 / (1 + exp(-x)), computed as (tanh(x / 2) + 1) / 2, which no x overflows.

    Source: BVLC Caffe.
    """

    engine: Engine = Engine.DEFAULT

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp = call.xp
        y = xp.multiply(call.bottoms[0], 0.5, out=call.out[0])
        xp.tanh(y, out=y)
        y *= 0.5
        y += 0.5
        return (y,)

    def backward_reads(self) -> Reads:
        return Reads.TOP

    def backward(self, call: BackwardCall) -> Gradients:
        y = call.tops[0]
        return Gradients((call.top_diffs[0] * (y * (1 - y)),))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        return (g.op("Sigmoid", bottoms[0]),)


@layer("TanH", "tanh_param")
@dataclass(frozen=True)
class TanH(Elementwise):
    """y = tanh(x).

    Source: BVLC Caffe.
    """

    engine: Engine = Engine.DEFAULT

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        return (call.xp.tanh(call.bottoms[0], out=call.out[0]),)

    def backward_reads(self) -> Reads:
        return Reads.TOP

    def backward(self, call: BackwardCall) -> Gradients:
        y = call.tops[0]
        return Gradients((call.top_diffs[0] * (1 - y * y),))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        return (g.op("Tanh", bottoms[0]),)


@layer("Power", "power_param")
@dataclass(frozen=True)
class Power(Elementwise):
    """y = (shift + scale * x) ** power.

    A power or a scale of 0 gives a constant, without a gradient. A negative number to a fractional
    power is NaN. For the gradient Caffe divides y by shift + scale * x, which is 0/0 where that is
    0, and wrong in place; here it is power * scale * (shift + scale * x) ** (power - 1).

    Source: BVLC Caffe.
    """

    power: float = 1.0
    scale: float = 1.0
    shift: float = 0.0

    @property
    def _is_constant(self) -> bool:
        return self.power == 0 or self.scale == 0

    def _inner(self, x: Array) -> Array:
        """Return shift + scale * x; x itself where that changes nothing."""
        if self.scale != 1:
            x = x * self.scale
        return x + self.shift if self.shift != 0 else x

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        if self._is_constant:
            y = call.out[0]
            y[...] = self.shift
            return (call.xp.power(y, self.power, out=y),)
        inner = self._inner(call.bottoms[0])
        return (inner if self.power == 1 else inner**self.power,)

    def backward_reads(self) -> Reads:
        return Reads.NOTHING if self._is_constant or self.power == 1 else Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        dy = call.top_diffs[0]
        if self._is_constant:
            return Gradients((call.xp.zeros_like(dy),))
        slope = self.power * self.scale
        if self.power == 1:
            return Gradients((dy * slope if slope != 1 else dy,))
        inner = self._inner(call.bottoms[0])
        if self.power != 2:
            inner = inner ** (self.power - 1)
        return Gradients((dy * slope * inner,))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        y = bottoms[0]
        if self._is_constant:
            value = g.xp.asarray(self.shift, dtype="float32") ** self.power
            return (g.op("Expand", g.constant(value), g.op("Shape", y)),)
        if self.scale != 1:
            y = g.op("Mul", y, g.constant(self.scale))
        if self.shift != 0:
            y = g.op("Add", y, g.constant(self.shift))
        if self.power != 1:
            y = g.op("Pow", y, g.constant(self.power))
        return (y,)


@layer("AbsVal")
@dataclass(frozen=True)
class AbsVal(Elementwise):
    """y = |x|. At x = 0 the gradient is 0.

    Source: BVLC Caffe.
    """

    refuses_in_place: ClassVar[bool] = True

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        return (call.xp.abs(call.bottoms[0], out=call.out[0]),)

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        return Gradients((call.top_diffs[0] * call.xp.sign(call.bottoms[0]),))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        return (g.op("Abs", bottoms[0]),)


@layer("BNLL")
@dataclass(frozen=True)
class BNLL(Elementwise):
    """y = log(1 + exp(x)), the binomial normal log likelihood (softplus), without overflow.

    Source: BVLC Caffe.
    """

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, x = call.xp, call.bottoms[0]
        return (xp.maximum(x, 0) + xp.log1p(xp.exp(-xp.abs(x))),)

    def backward_reads(self) -> Reads:
        return Reads.TOP

    def backward(self, call: BackwardCall) -> Gradients:
        # The slope exp(x) / (1 + exp(x)) is 1 - exp(-y), so that x need not be kept.
        return Gradients((call.top_diffs[0] * -call.xp.expm1(-call.tops[0]),))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        return (g.op("Softplus", bottoms[0]),)


def _log_of_base(base: float) -> float:
    """Return log(base); -1 stands for e, the schema's way of saying "not set"."""
    if base == -1:
        return 1.0
    if not 0 < base < math.inf:
        raise Refusal(
            "base must be a positive number",
            expected="base > 0, or no base for e",
            got=f"base {base:g}",
            setting="base",
        )
    return math.log(base)


@layer("Exp", "exp_param")
@dataclass(frozen=True)
class Exp(Elementwise):
    """y = base ** (shift + scale * x); without a base, e is meant.

    Source: BVLC Caffe.
    """

    base: float = -1.0
    scale: float = 1.0
    shift: float = 0.0

    def infer(self, *bottoms: BlobType) -> Signature:
        _log_of_base(self.base)
        return Signature((bottoms[0],))

    def _scales(self) -> tuple[float, float]:
        """Return a and b of y = b * exp(a * x), which is the same function."""
        log_base = _log_of_base(self.base)
        outer = log_base * self.shift
        # Beyond what a float64 holds there is infinity, as in Caffe, not an error.
        return log_base * self.scale, math.exp(outer) if outer < 709 else math.inf

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, y = call.xp, call.out[0]
        inner, outer = self._scales()
        xp.exp(xp.multiply(call.bottoms[0], inner, out=y), out=y)
        if outer != 1:
            y *= outer
        return (y,)

    def backward_reads(self) -> Reads:
        return Reads.TOP

    def backward(self, call: BackwardCall) -> Gradients:
        inner, _ = self._scales()
        return Gradients((call.top_diffs[0] * call.tops[0] * inner,))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        y = bottoms[0]
        inner, outer = self._scales()
        if inner != 1:
            y = g.op("Mul", y, g.constant(inner))
        y = g.op("Exp", y)
        if outer != 1:
            y = g.op("Mul", y, g.constant(outer))
        return (y,)


@layer("Log", "log_param")
@dataclass(frozen=True)
class Log(Elementwise):
    """y = log(shift + scale * x) to the given base; without a base, the natural one.

    Zero gives -inf and a negative number NaN, as in Caffe.

    Source: BVLC Caffe.
    """

    base: float = -1.0
    scale: float = 1.0
    shift: float = 0.0

    def infer(self, *bottoms: BlobType) -> Signature:
        if _log_of_base(self.base) == 0:
            raise Refusal(
                "there is no logarithm to base 1",
                expected="base > 0 and base != 1, or no base for e",
                got=f"base {self.base:g}",
                setting="base",
            )
        return Signature((bottoms[0],))

    def _inner(self, x: Array) -> Array:
        """Return shift + scale * x; x itself where that changes nothing."""
        if self.scale != 1:
            x = x * self.scale
        return x + self.shift if self.shift != 0 else x

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        y = call.xp.log(self._inner(call.bottoms[0]), out=call.out[0])
        if self.base != -1:
            y *= 1 / _log_of_base(self.base)
        return (y,)

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        slope = self.scale / _log_of_base(self.base)
        return Gradients((call.top_diffs[0] * slope / self._inner(call.bottoms[0]),))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        y = bottoms[0]
        if self.scale != 1:
            y = g.op("Mul", y, g.constant(self.scale))
        if self.shift != 0:
            y = g.op("Add", y, g.constant(self.shift))
        y = g.op("Log", y)
        if self.base != -1:
            y = g.op("Mul", y, g.constant(1 / _log_of_base(self.base)))
        return (y,)


@layer("Clip", "clip_param")
@dataclass(frozen=True)
class Clip(Elementwise):
    """y = x limited to min..max. The gradient passes on both bounds.

    With min above max every element becomes min, as in Caffe.

    Source: BVLC Caffe.
    """

    min: float | None = None
    max: float | None = None

    def infer(self, *bottoms: BlobType) -> Signature:
        for setting in ("min", "max"):
            if getattr(self, setting) is None:
                raise Refusal(
                    f"{setting} is missing",
                    expected="clip_param with min and max",
                    got=f"no {setting}",
                    hint="add clip_param { min: 0 max: 6 }",
                    setting=setting,
                )
        return Signature((bottoms[0],))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        # Two steps and not `clip`, which gives max where min is above max.
        xp, y = call.xp, call.out[0]
        xp.minimum(call.bottoms[0], self.max, out=y)
        return (xp.maximum(y, self.min, out=y),)

    def backward_reads(self) -> Reads:
        # A top of exactly min does not tell whether the bottom lay on the bound or below it.
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        x = call.bottoms[0]
        return Gradients((call.top_diffs[0] * ((x >= self.min) & (x <= self.max)),))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        least, most = g.constant(self.min), g.constant(self.max)
        if self.min is not None and self.max is not None and self.min > self.max:
            # ONNX's Clip gives max here.
            return (g.op("Max", g.op("Min", bottoms[0], most), least),)
        return (g.op("Clip", bottoms[0], least, most),)


@layer("Truncation", "truncation_param")
@dataclass(frozen=True)
class Truncation(Elementwise):
    """y = x limited to lower_bound..upper_bound. On the bounds and beyond, no gradient passes.

    With lower_bound above upper_bound every element becomes upper_bound.

    Source: CaffeWindows.
    """

    lower_bound: float = 0.0
    upper_bound: float = 5.0

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, y = call.xp, call.out[0]
        xp.maximum(call.bottoms[0], self.lower_bound, out=y)
        return (xp.minimum(y, self.upper_bound, out=y),)

    def backward_reads(self) -> Reads:
        return Reads.TOP

    def backward(self, call: BackwardCall) -> Gradients:
        y = call.tops[0]
        return Gradients((call.top_diffs[0] * ((y > self.lower_bound) & (y < self.upper_bound)),))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        least, most = g.constant(self.lower_bound), g.constant(self.upper_bound)
        return (g.op("Min", g.op("Max", bottoms[0], least), most),)


@layer("SoftTruncation", "soft_truncation_param")
@dataclass(frozen=True)
class SoftTruncation(Elementwise):
    """y = 1 - exp(-x / c): distances, however large, become less than 1.

    Source: CaffeWindows.
    """

    c: float = 2.0

    def infer(self, *bottoms: BlobType) -> Signature:
        if not self.c:
            raise Refusal("c is 0", expected="c other than 0", got=self.c, setting="c")
        return Signature((bottoms[0],))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp = call.xp
        return (-xp.expm1(call.bottoms[0] * (-1 / self.c)),)

    def backward_reads(self) -> Reads:
        return Reads.TOP

    def backward(self, call: BackwardCall) -> Gradients:
        return Gradients((call.top_diffs[0] * ((1 - call.tops[0]) * (1 / self.c)),))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        decay = g.op("Exp", g.op("Mul", bottoms[0], g.constant(-1 / self.c)))
        return (g.op("Sub", g.constant(1.0), decay),)


@layer("Swish", "swish_param")
@dataclass(frozen=True)
class Swish(Elementwise):
    """y = x * sigmoid(beta * x).

    Source: Ramachandran et al., "Searching for activation functions", 2017.
    """

    beta: float = 1.0

    def _gate(self, call: ForwardCall | BackwardCall) -> Array:
        """Return sigmoid(beta * x), in the form that no x overflows."""
        return 0.5 * call.xp.tanh((0.5 * self.beta) * call.bottoms[0]) + 0.5

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        return (call.bottoms[0] * self._gate(call),)

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        gate = self._gate(call)
        inner = self.beta * call.bottoms[0]
        return Gradients((call.top_diffs[0] * (gate * (1 + inner * (1 - gate))),))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        x = bottoms[0]
        inner = x if self.beta == 1 else g.op("Mul", x, g.constant(self.beta))
        return (g.op("Mul", x, g.op("Sigmoid", inner)),)


@layer("Threshold", "threshold_param")
@dataclass(frozen=True)
class Threshold(Elementwise):
    """y = 1 where x > threshold, otherwise 0. No gradient passes.

    Source: BVLC Caffe.
    """

    threshold: float = 0.0

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        return (call.xp.greater(call.bottoms[0], self.threshold).astype(call.out[0].dtype),)

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False,) * n_bottoms

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        above = g.op("Greater", bottoms[0], g.constant(self.threshold))
        return (g.cast(above, "float32"),)

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        return 0


@layer("Dropout", "dropout_param")
@dataclass(frozen=True)
class Dropout(Elementwise):
    """TRAIN: an element becomes 0 with probability dropout_ratio, else x / (1 - dropout_ratio).

    TEST: y = x, or, with SegNet's `sample_weights_test`, as in TRAIN, so that several passes show
    how sure the net is. The mean over many passes is the same in both phases. With `scale_train`
    false what remains is x in TRAIN, and y = x (1 - dropout_ratio) in TEST, as in Fast R-CNN nets.
    Source: Srivastava et al., JMLR 2014, in the form that scales while training; sampling in the
    TEST phase, Kendall, Badrinarayanan and Cipolla, "Bayesian SegNet", 2015.
    """

    dropout_ratio: float = 0.5
    scale_train: bool = True
    sample_weights_test: bool = False
    phase: Phase = Phase.TRAIN

    def expand(self, *bottoms: BlobType) -> tuple[Part, ...] | None:
        """Return the layer of phase TRAIN where the text wants it in phase TEST."""
        if self.sample_weights_test and self.phase is Phase.TEST:
            return (Part("", replace(self, phase=Phase.TRAIN), ("$b0",), ("$t0",)),)
        return None

    def infer(self, *bottoms: BlobType) -> Signature:
        x = bottoms[0]
        if not 0 <= self.dropout_ratio < 1:
            raise Refusal(
                "dropout_ratio is not a probability below 1",
                expected="0 <= dropout_ratio < 1",
                got=f"{self.dropout_ratio:g}",
                setting="dropout_ratio",
            )
        if self.phase is Phase.TEST:
            return Signature((x,))
        return Signature((x,), kept=(KeptType("mask", x.shape, "bool"),))

    def _masked(self, x: Array, mask: Array) -> Array:
        return x * mask * (1 / (1 - self.dropout_ratio)) if self.scale_train else x * mask

    def _expected(self, x: Array) -> Array:
        """Return the mean of what TRAIN makes of x."""
        return x if self.scale_train else x * (1 - self.dropout_ratio)

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        x = call.bottoms[0]
        if self.phase is Phase.TEST:
            return (self._expected(x),)
        draws = call.random().random(x.shape, dtype="float32")
        call.kept[0][...] = call.xp.asarray(draws >= self.dropout_ratio)
        return (self._masked(x, call.kept[0]),)

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def backward(self, call: BackwardCall) -> Gradients:
        dy = call.top_diffs[0]
        if self.phase is Phase.TEST:
            return Gradients((self._expected(dy),))
        return Gradients((self._masked(dy, call.kept[0]),))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        if self.sample_weights_test:
            raise g.refuse(
                "dropout that is random in the TEST phase has no values to prove a model by",
                hint="without sample_weights_test the model gives the mean of the samples",
            )
        if not self.scale_train:
            return (g.op("Mul", bottoms[0], g.constant(1 - self.dropout_ratio)),)
        return (bottoms[0],)

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        return 0 if self.phase is Phase.TEST else bottoms[0].count
