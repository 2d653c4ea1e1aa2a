"""Activations of later nets: ReLU6, h-swish, GELU, SELU and their kin."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import ClassVar

from netc.layers.activation import Dropout, Elementwise
from netc.layers.erf import erf
from netc.layers.registry import layer
from netc.layers.types import (
    Array,
    BackwardCall,
    BlobType,
    ForwardCall,
    Gradients,
    OnnxBuilder,
    Phase,
    Reads,
    Refusal,
    Signature,
    Value,
)

# The two numbers for which mean 0 and variance 1 are a fixed point of SELU.
SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946


@layer("ReLU6", "relu6_param")
@dataclass(frozen=True)
class ReLU6(Elementwise):
    """y = min(r, threshold), with r = x where x > 0, otherwise negative_slope * x.

    At x = 0 the gradient is that of the negative side, and from the threshold on it is 0.
    Source: Krizhevsky, "Convolutional deep belief networks on CIFAR-10", 2010; as in the MobileNet
    forks, which have the threshold 6 only.
    """

    threshold: float = 6.0
    negative_slope: float = 0.0

    def infer(self, *bottoms: BlobType) -> Signature:
        if not self.threshold > 0:
            raise Refusal(
                "threshold is not positive",
                expected="threshold > 0, usually 6",
                got=f"threshold {self.threshold:g}",
                setting="threshold",
            )
        return Signature((bottoms[0],))

    def _rectified(self, call: ForwardCall | BackwardCall) -> Array:
        """Return what the threshold is applied to."""
        x = call.bottoms[0]
        if self.negative_slope == 0:
            return call.xp.maximum(x, 0)
        return call.xp.where(x > 0, x, self.negative_slope * x)

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        return (call.xp.minimum(self._rectified(call), self.threshold, out=call.out[0]),)

    def backward_reads(self) -> Reads:
        # With a negative slope below zero the sign of y no longer tells the sign of x.
        return Reads.TOP if self.negative_slope >= 0 else Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        if self.negative_slope >= 0:
            y = positive = call.tops[0]
        else:
            y, positive = self._rectified(call), call.bottoms[0]
        dx = call.top_diffs[0] * (y < self.threshold)
        if self.negative_slope == 0:
            return Gradients((dx * (positive > 0),))
        return Gradients((call.xp.where(positive > 0, dx, self.negative_slope * dx),))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        most = g.constant(self.threshold)
        if self.negative_slope == 0:
            return (g.op("Clip", bottoms[0], g.constant(0.0), most),)
        return (g.op("Min", g.op("LeakyRelu", bottoms[0], alpha=self.negative_slope), most),)


@layer("HSigmoid", aliases=("HardSigmoid", "Hsigmoid", "hsigmoid"))
@dataclass(frozen=True)
class HSigmoid(Elementwise):
    """y = min(max(x + 3, 0), 6) / 6. The gradient is 0 on both bounds.

    Source: Howard et al., "Searching for MobileNetV3", ICCV 2019.
    """

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, y = call.xp, call.out[0]
        xp.multiply(call.bottoms[0], 1 / 6, out=y)
        y += 0.5
        return (xp.clip(y, 0, 1, out=y),)

    def backward_reads(self) -> Reads:
        return Reads.TOP

    def backward(self, call: BackwardCall) -> Gradients:
        y = call.tops[0]
        return Gradients((call.top_diffs[0] * ((y > 0) & (y < 1)) * (1 / 6),))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        return (g.op("HardSigmoid", bottoms[0], alpha=1 / 6, beta=0.5),)


@layer("HSwish", aliases=("HardSwish", "Hswish", "hswish"))
@dataclass(frozen=True)
class HSwish(Elementwise):
    """y = x * min(max(x + 3, 0), 6) / 6. At x = -3 the gradient is 0, at x = 3 it is 1.

    Source: Howard et al., "Searching for MobileNetV3", ICCV 2019.
    """

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        x = call.bottoms[0]
        return (x * call.xp.clip(x * (1 / 6) + 0.5, 0, 1),)

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        xp, x = call.xp, call.bottoms[0]
        slope = xp.where(x <= -3, 0, xp.where(x >= 3, 1, x * (1 / 3) + 0.5))
        return Gradients((call.top_diffs[0] * slope,))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        x = bottoms[0]
        if g.opset >= 14:
            return (g.op("HardSwish", x),)
        return (g.op("Mul", x, g.op("HardSigmoid", x, alpha=1 / 6, beta=0.5)),)


@layer("Mish")
@dataclass(frozen=True)
class Mish(Elementwise):
    """y = x * tanh(log(1 + exp(x))).

    Source: Misra, "Mish: a self regularized non-monotonic activation function", BMVC 2020.
    """

    @staticmethod
    def _parts(call: ForwardCall | BackwardCall) -> tuple[Array, Array]:
        """Return tanh(log(1 + e^x)) and e^-|x|.

        The tanh is ((1 + e^x)^2 - 1) / ((1 + e^x)^2 + 1), here with the exponentials that do not
        overflow.
        """
        xp, x = call.xp, call.bottoms[0]
        small = xp.exp(-xp.abs(x))
        above = xp.where(x > 0, 1 + 2 * small, small * (small + 2))
        below = xp.where(x > 0, 2 * small * small, 2)
        return above / (above + below), small

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        return (call.bottoms[0] * self._parts(call)[0],)

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        x = call.bottoms[0]
        tanh, small = self._parts(call)
        sigmoid = call.xp.where(x > 0, 1, small) / (1 + small)
        return Gradients((call.top_diffs[0] * (tanh + x * sigmoid * (1 - tanh * tanh)),))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        x = bottoms[0]
        if g.opset >= 18:
            return (g.op("Mish", x),)
        return (g.op("Mul", x, g.op("Tanh", g.op("Softplus", x))),)

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        return 2 * bottoms[0].count


class Approximation(enum.Enum):
    """How GELU is computed: as it is defined, or by a formula with a tanh that comes near it."""

    NONE = 0
    TANH = 1


@layer("GELU", "gelu_param", aliases=("Gelu",))
@dataclass(frozen=True)
class GELU(Elementwise):
    """y = x * P(X <= x) for a standard normal X, which is x / 2 * (1 + erf(x / sqrt(2))).

    With `approximate: TANH`, x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))).
    Source: Hendrycks and Gimpel, "Gaussian error linear units", arXiv 1606.08415.
    """

    approximate: Approximation = Approximation.NONE

    _ROOT: ClassVar[float] = math.sqrt(2 / math.pi)
    _CUBIC: ClassVar[float] = 0.044715

    def _gate(self, call: ForwardCall | BackwardCall) -> Array:
        """Return what x is multiplied with."""
        xp, x = call.xp, call.bottoms[0]
        if self.approximate is Approximation.NONE:
            return erf(xp, x * math.sqrt(0.5)) * 0.5 + 0.5
        return xp.tanh(x * (self._ROOT + (self._ROOT * self._CUBIC) * x * x)) * 0.5 + 0.5

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        return (call.bottoms[0] * self._gate(call),)

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        xp, x, gate = call.xp, call.bottoms[0], self._gate(call)
        if self.approximate is Approximation.NONE:
            slope = xp.exp(x * x * -0.5) * (0.5 * self._ROOT)
        else:
            slope = gate * (1 - gate) * (2 * self._ROOT + (6 * self._ROOT * self._CUBIC) * x * x)
        return Gradients((call.top_diffs[0] * (gate + x * slope),))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        x = bottoms[0]
        exact = self.approximate is Approximation.NONE
        if g.opset >= 20:
            return (g.op("Gelu", x, approximate="none" if exact else "tanh"),)
        if exact:
            curve = g.op("Erf", g.op("Mul", x, g.constant(math.sqrt(0.5))))
        else:
            cube = g.op("Mul", g.op("Mul", x, x), x)
            inner = g.op("Add", x, g.op("Mul", cube, g.constant(self._CUBIC)))
            curve = g.op("Tanh", g.op("Mul", inner, g.constant(self._ROOT)))
        half = g.op("Mul", x, g.constant(0.5))
        return (g.op("Mul", half, g.op("Add", curve, g.constant(1.0))),)

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        return 2 * bottoms[0].count


@layer("SeLu", aliases=("SELU", "Selu"))
@dataclass(frozen=True)
class SeLu(Elementwise):
    """y = 1.0507 x where x > 0, otherwise 1.0507 * 1.6733 (exp(x) - 1).

    The two numbers, given here with 4 digits, keep mean 0 and variance 1 from layer to layer.
    Source: Klambauer et al., "Self-normalizing neural networks", NIPS 2017.
    """

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, x = call.xp, call.bottoms[0]
        low = (SELU_SCALE * SELU_ALPHA) * xp.expm1(xp.minimum(x, 0))
        return (xp.where(x > 0, SELU_SCALE * x, low),)

    def backward_reads(self) -> Reads:
        return Reads.TOP

    def backward(self, call: BackwardCall) -> Gradients:
        y = call.tops[0]
        slope = call.xp.where(y > 0, SELU_SCALE, y + SELU_SCALE * SELU_ALPHA)
        return Gradients((call.top_diffs[0] * slope,))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        return (g.op("Selu", bottoms[0], alpha=SELU_ALPHA, gamma=SELU_SCALE),)


@layer("SeLuDropout", "selu_dropout_param", aliases=("AlphaDropout",))
@dataclass(frozen=True)
class SeLuDropout(Dropout):
    """TRAIN: an element becomes what SELU gives for -infinity with probability dropout_ratio.

    All elements are then scaled and shifted so that mean 0 and variance 1 stay: with a the value
    of SELU at -infinity, -1.7581, and q = 1 - dropout_ratio, y = s (x or a) - s (1 - q) a with
    s = 1 / sqrt(q + a^2 q (1 - q)). TEST: y = x.
    Source: alpha dropout, Klambauer et al., "Self-normalizing neural networks", NIPS 2017.
    """

    _floor: ClassVar[float] = -SELU_SCALE * SELU_ALPHA

    @property
    def _scale(self) -> float:
        kept = 1 - self.dropout_ratio
        return 1 / math.sqrt(kept + self._floor**2 * kept * (1 - kept))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        x = call.bottoms[0]
        if self.phase is Phase.TEST:
            return (x,)
        xp, mask = call.xp, call.kept[0]
        draws = call.random().random(x.shape, dtype="float32")
        mask[...] = xp.asarray(draws >= self.dropout_ratio)
        scale = self._scale
        shift = -scale * self.dropout_ratio * self._floor
        return (xp.where(mask, x * scale + shift, scale * self._floor + shift),)

    def backward(self, call: BackwardCall) -> Gradients:
        dy = call.top_diffs[0]
        if self.phase is Phase.TEST:
            return Gradients((dy,))
        return Gradients((dy * call.kept[0] * self._scale,))
