"""Batch normalisation with a slope and a bias of its own: forks had it before Caffe had Scale."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from netc.layers.activation import Elementwise
from netc.layers.fillers import Filler
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
    OnnxBuilder,
    ParamType,
    Phase,
    Reads,
    Refusal,
    Signature,
    Value,
    between,
)

# SegNet's, which no field of the text changes.
SEGNET_EPS = 1e-9


class Statistics(enum.Enum):
    """By which mean and variance a blob is normalised."""

    BATCH = "the batch's own"
    STORED = "those stored in params"
    NONE = "none: slope and bias only"


class BNMode(enum.Enum):
    """SegNet's choice between statistics of the batch and none at all."""

    LEARN = 0
    INFERENCE = 1


@dataclass(frozen=True)
class AffineNorm(Elementwise):
    """Base of the types with y = slope * (x - mean) / sqrt(variance + eps) + bias per channel.

    A subclass says which statistics count and which params are what. The gradient of a pass over a
    batch's own statistics goes through these; stored ones are constants.
    """

    def statistics(self) -> Statistics:
        """Say where mean and variance come from."""
        raise NotImplementedError

    def epsilon(self) -> float:
        """Return what is added to the variance."""
        raise NotImplementedError

    def affine(self) -> tuple[int, int]:
        """Return the indices of the params slope and bias."""
        raise NotImplementedError

    def stored(self, xp: ArrayNamespace, params: Sequence[Array]) -> tuple[Array, Array]:
        """Return the stored mean and variance, of C elements each."""
        raise NotImplementedError

    def store(self, params: Sequence[Array], mean: Array, variance: Array, count: int) -> None:
        """Note a batch's mean and variance (C, 1) of `count` values in the params of statistics."""

    def kept(self, x: BlobType) -> tuple[KeptType, ...]:
        """Return what a pass leaves for its gradient."""
        if self.statistics() is not Statistics.BATCH:
            return ()
        return tuple(KeptType(name, (x.shape[1], 1)) for name in ("mean", "factor"))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp = call.xp
        x, y = channelwise(call.bottoms[0]), channelwise(call.out[0])
        slope, bias = (column(call.params[i]) for i in self.affine())
        statistics = self.statistics()
        if statistics is Statistics.NONE:
            xp.multiply(x, slope, out=y)
            y += bias
            return (call.out[0],)
        if statistics is Statistics.STORED:
            mean, variance = (column(v) for v in self.stored(xp, call.params))
            # The bottom may lie where the top lies: this is the last look at it.
            xp.subtract(x, mean, out=y)
        else:
            mean = channel_mean(x)
            xp.subtract(x, mean, out=y)
            variance = channel_mean(y * y)
            self.store(call.params, mean, variance, x.shape[0] * x.shape[2])
        factor = self._factor(xp, variance)
        if statistics is Statistics.BATCH:
            call.kept[0][...], call.kept[1][...] = mean, factor
        y *= factor * slope
        y += bias
        extra = zip((mean, variance), call.out[1:], strict=False)
        return (call.out[0], *(value.reshape(out.shape) for value, out in extra))

    def _factor(self, xp: ArrayNamespace, variance: Array) -> Array:
        return 1 / xp.sqrt(variance + self.epsilon())

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        xp, dy = call.xp, channelwise(call.top_diffs[0])
        i_slope, i_bias = self.affine()
        slope = column(call.params[i_slope])
        statistics = self.statistics()
        mean, factor = call.kept if statistics is Statistics.BATCH else (0, 1)
        if statistics is Statistics.STORED:
            mean, variance = (column(v) for v in self.stored(xp, call.params))
            factor = self._factor(xp, variance)
        found: list[Array | None] = [None] * len(call.params)
        if call.wants_params[i_bias]:
            found[i_bias] = _channel_sum(dy).reshape(call.params[i_bias].shape)
        batch = statistics is Statistics.BATCH
        x_hat: Array = None
        if call.wants_params[i_slope] or (batch and call.wants_bottoms[0]):
            x_hat = (channelwise(call.bottoms[0]) - mean) * factor
        if call.wants_params[i_slope]:
            found[i_slope] = _channel_sum(dy * x_hat).reshape(call.params[i_slope].shape)
        if not call.wants_bottoms[0]:
            return Gradients((None,), tuple(found))
        if batch:
            dx = x_hat * -channel_mean(dy * x_hat)
            dx += dy
            dx -= channel_mean(dy)
            dx *= slope * factor
        else:
            dx = dy * (slope * factor)
        return Gradients((dx.reshape(call.top_diffs[0].shape),), tuple(found))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        x = bottoms[0]
        channels = x.shape[1]
        i_slope, i_bias = self.affine()
        if self.statistics() is Statistics.STORED:
            arrays = [g.array(param) for param in params]
            mean, variance = self.stored(g.xp, arrays)
            values: tuple[Array, ...] = (arrays[i_slope], arrays[i_bias], mean, variance)
            constants = [g.constant(value.reshape(channels)) for value in values]
            return (g.op("BatchNormalization", x, *constants, epsilon=self.epsilon()),)
        spread = (channels, *[1] * (len(x.shape) - 2))
        slope, bias = (g.reshape(params[i], spread) for i in (i_slope, i_bias))
        tops: list[Value] = []
        if self.statistics() is Statistics.BATCH:
            axes = [axis for axis in range(len(x.shape)) if axis != 1]
            mean = reduce_mean(g, x, axes)
            x = g.op("Sub", x, mean)
            variance = reduce_mean(g, g.op("Mul", x, x), axes)
            deviation = g.op("Sqrt", g.op("Add", variance, g.constant(self.epsilon())))
            x = g.op("Div", x, deviation)
            tops = [g.reshape(value, (1, channels, 1, 1)) for value in (mean, variance)]
        y = g.op("Add", g.op("Mul", x, slope), bias)
        return (y, *tops[: len(self.infer(BlobType(bottoms[0].shape)).tops) - 1])


@layer("BN", "bn_param")
@dataclass(frozen=True)
class BN(AffineNorm):
    """y = slope * (x - mean) / sqrt(variance + eps) + bias, per channel: two types of one name.

    PSPNet's (also that of TSN and of CaffeWindows): in phase TRAIN the statistics are the batch's,
    and each pass moves the stored ones by the share 1 - `momentum` towards them; in phase TEST, or
    `frozen`, they are the stored ones. Params (1, C, 1, 1): slope, bias, mean, variance. No solver
    touches the last two, nor, if `frozen`, the others, whatever rates the text gives them.

    SegNet's (also ENet's): in mode LEARN the statistics are the batch's, in phase TEST too, and are
    not stored; a second and third top take them, (1, C, 1, 1), and pass no gradient back. In mode
    INFERENCE there are none: y = slope * x + bias. Its eps is 1e-9. Params (1, C, 1, 1): slope,
    bias, filled by `scale_filler` and `shift_filler`.

    The fields tell them apart, those that both have (or none at all) meaning PSPNet's: with
    SegNet's, a net for inference has to set `bn_mode`. Fillers that are not given fill with 0, as
    in both forks.

    Shapes: bottom (N, C, ...) -> top (the same).
    Source: Ioffe and Szegedy, ICML 2015; the forks of PSPNet (Zhao et al., CVPR 2017) and of SegNet
    (Badrinarayanan, Kendall and Cipolla, PAMI 2017). PSPNet's own gradient in phase TEST goes
    through the statistics of the batch all the same; here it is that of what was computed.
    """

    slope_filler: Filler | None = None
    bias_filler: Filler | None = None
    momentum: float | None = None
    frozen: bool | None = None
    eps: float | None = None
    scale_filler: Filler | None = None
    shift_filler: Filler | None = None
    bn_mode: BNMode | None = None
    phase: Phase = Phase.TRAIN
    top: tuple[str, ...] = ()

    tops: ClassVar[Arity] = between(1, 3)

    def _given(self, *names: str) -> list[str]:
        return [name for name in names if getattr(self, name) is not None]

    @property
    def _segnet(self) -> bool:
        return bool(self._given("bn_mode", "scale_filler", "shift_filler")) or len(self.top) > 1

    def statistics(self) -> Statistics:
        if self._segnet:
            inference = self.bn_mode is BNMode.INFERENCE
            return Statistics.NONE if inference else Statistics.BATCH
        return Statistics.STORED if self.frozen or self.phase is Phase.TEST else Statistics.BATCH

    def settled(self) -> BN:
        # SegNet's has nothing stored that it could use.
        return self if self._segnet else replace(self, frozen=True)

    def epsilon(self) -> float:
        if self._segnet:
            return SEGNET_EPS
        return 1e-5 if self.eps is None else self.eps

    def affine(self) -> tuple[int, int]:
        return 0, 1

    def stored(self, xp: ArrayNamespace, params: Sequence[Array]) -> tuple[Array, Array]:
        return params[2], params[3]

    def store(self, params: Sequence[Array], mean: Array, variance: Array, count: int) -> None:
        if self._segnet:
            return
        momentum = 0.9 if self.momentum is None else self.momentum
        for total, new in zip(params[2:], (mean, variance), strict=True):
            total *= momentum
            total += (1 - momentum) * new.reshape(total.shape)

    def infer(self, *bottoms: BlobType) -> Signature:
        x = bottoms[0]
        if x.axes < 2:
            raise Refusal(
                "the bottom has no axis of channels",
                expected="a bottom of shape (N, C, ...)",
                got=f"bottom of shape {x}",
            )
        pspnet = self._given("slope_filler", "bias_filler", "momentum", "frozen", "eps")
        if self._segnet and pspnet:
            segnet = self._given("bn_mode", "scale_filler", "shift_filler")
            raise Refusal(
                "the fields of two forks' BN are mixed",
                expected="SegNet's bn_mode, scale_filler and shift_filler, or PSPNet's "
                "slope_filler, bias_filler, momentum, frozen and eps",
                got=", ".join([*segnet, *pspnet]) + (f", {len(self.top)} tops" * (not segnet)),
                setting=pspnet[0],
            )
        if len(self.top) > 1 and self.bn_mode is BNMode.INFERENCE:
            raise Refusal(
                "in mode INFERENCE there are no statistics to give",
                expected="1 top",
                got=f"{len(self.top)} tops, bn_mode: INFERENCE",
                setting="bn_mode",
            )
        shape = (1, x.shape[1], 1, 1)
        statistics = tuple(BlobType(shape) for _ in self.top[1:])
        return Signature((x, *statistics), self._params(shape), self.kept(x))

    def _params(self, shape: tuple[int, ...]) -> tuple[ParamType, ...]:
        if self._segnet:
            fillers = (self.scale_filler, self.shift_filler)
            return tuple(ParamType(shape, filler or Filler()) for filler in fillers)
        fillers = (self.slope_filler, self.bias_filler)
        if self.frozen:
            learnt = tuple(_fixed(shape, filler or Filler()) for filler in fillers)
        else:
            learnt = tuple(ParamType(shape, filler or Filler()) for filler in fillers)
        return (
            *learnt,
            _fixed(shape, Filler()),
            _fixed(shape, Filler(value=float(bool(self.frozen)))),
        )

    def backward_reads(self) -> Reads:
        return Reads.NOTHING if self.frozen else Reads.BOTTOM


def _fixed(shape: tuple[int, ...], filler: Filler) -> ParamType:
    return ParamType(shape, filler, lr_mult=0.0, decay_mult=0.0, frozen=True, fixed=True)


def channelwise(x: Array) -> Array:
    """View a blob as (N, C, rest)."""
    shape = BlobType(x.shape)
    return x.reshape(shape.span(0, 1), shape.span(1, 2), shape.span(2))


def column(values: Array) -> Array:
    """View one value per channel as (C, 1)."""
    return values.reshape(-1, 1)


def _channel_sum(x: Array) -> Array:
    """Return the sums (C,) of (N, C, rest)."""
    return x.sum(axis=2).sum(axis=0)


def channel_mean(x: Array) -> Array:
    """Return the means (C, 1) of (N, C, rest)."""
    return (_channel_sum(x) / (x.shape[0] * x.shape[2]))[:, None]


def reduce_mean(g: OnnxBuilder, x: Value, axes: list[int]) -> Value:
    """Add a ReduceMean that keeps its axes; no axes, no operator."""
    if not axes:
        return x
    if g.opset >= 18:
        mean: Value = g.op("ReduceMean", x, g.constant(axes, "int64"))
    else:
        mean = g.op("ReduceMean", x, axes=axes)
    return mean
