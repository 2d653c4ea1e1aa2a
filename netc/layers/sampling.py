"""Random samples that gradients pass through."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

from netc.layers.registry import layer
from netc.layers.types import (
    Arity,
    Array,
    ArrayNamespace,
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
    exactly,
)


class Spread(enum.Enum):
    """What the second bottom says of a Gaussian: the log of its variance, that, or its root."""

    LOG_VARIANCE = 0
    VARIANCE = 1
    STD = 2


@layer("Sampling", "sampling_param")
@dataclass(frozen=True)
class Sampling(Layer):
    """y = mean + std * e, with e drawn from a standard normal distribution for each element.

    std is exp(s / 2), sqrt(s) or s, for `spread` LOG_VARIANCE, VARIANCE or STD. In phase TEST y is
    the mean, unless `sample_in_test`. Gradients reach both bottoms through the formula, e being
    constant. A negative variance gives NaN.

    Shapes: mean and s of one shape -> top of that shape.
    Source: Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014.
    """

    spread: Spread = Spread.LOG_VARIANCE
    sample_in_test: bool = False
    phase: Phase = Phase.TRAIN

    bottoms: ClassVar[Arity] = exactly(2)

    @property
    def _samples(self) -> bool:
        return self.phase is Phase.TRAIN or self.sample_in_test

    def infer(self, *bottoms: BlobType) -> Signature:
        mean, spread = bottoms
        if mean != spread:
            raise Refusal(
                "mean and spread differ in shape",
                expected=f"bottom 1 of shape {mean}, like bottom 0",
                got=f"bottom 1 of shape {spread}",
            )
        return Signature((mean,), kept=(KeptType("noise", mean.shape),) if self._samples else ())

    def _std(self, xp: ArrayNamespace, spread: Array) -> Array:
        match self.spread:
            case Spread.LOG_VARIANCE:
                return xp.exp(spread * 0.5)
            case Spread.VARIANCE:
                return xp.sqrt(spread)
            case Spread.STD:
                return spread

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        mean, spread = call.bottoms
        if not self._samples:
            return (mean,)
        noise = call.kept[0]
        noise[...] = call.xp.asarray(call.random().standard_normal(mean.shape, dtype="float32"))
        y = call.xp.multiply(self._std(call.xp, spread), noise, out=call.out[0])
        y += mean
        return (y,)

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM if self._samples else Reads.NOTHING

    def backward(self, call: BackwardCall) -> Gradients:
        xp, dy = call.xp, call.top_diffs[0]
        if not call.wants_bottoms[1]:
            return Gradients((dy, None))
        if not self._samples:
            return Gradients((dy, xp.zeros_like(dy)))
        spread, ds = call.bottoms[1], dy * call.kept[0]
        match self.spread:
            case Spread.LOG_VARIANCE:
                ds *= 0.5 * xp.exp(spread * 0.5)
            case Spread.VARIANCE:
                ds *= 0.5 / xp.sqrt(spread)
            case Spread.STD:
                pass
        return Gradients((dy, ds))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        mean, std = bottoms
        if not self.sample_in_test:
            return (mean,)
        if self.spread is Spread.LOG_VARIANCE:
            std = g.op("Exp", g.op("Mul", std, g.constant(0.5)))
        elif self.spread is Spread.VARIANCE:
            std = g.op("Sqrt", std)
        return (g.op("Add", mean, g.op("Mul", std, g.op("RandomNormalLike", mean))),)

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        return bottoms[0].count if self._samples else 0
