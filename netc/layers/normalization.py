"""Normalisation: by the neighbourhood (LRN), by the batch (BatchNorm), by the blob itself (MVN)."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from netc.layers.activation import Elementwise, Engine
from netc.layers.bn import AffineNorm, Statistics, channel_mean, channelwise, reduce_mean
from netc.layers.fillers import Filler
from netc.layers.registry import layer
from netc.layers.types import (
    Array,
    ArrayNamespace,
    BackwardCall,
    BlobType,
    Coordinates,
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

# The least eps of NVIDIA's BatchNorm, which is cuDNN's.
NVIDIA_EPS = 1e-5


class NormRegion(enum.Enum):
    """Which neighbours count."""

    ACROSS_CHANNELS = 0
    WITHIN_CHANNEL = 1


@layer("LRN", "lrn_param")
@dataclass(frozen=True)
class LRN(Layer):
    """y = x / scale^beta, scale = k + alpha / n * (sum of x^2 over the n neighbours).

    ACROSS_CHANNELS: the neighbours are the `local_size` channels around a channel. WITHIN_CHANNEL:
    the `local_size` squared pixels around a pixel, and k is always 1. What lies outside counts as
    0, but is counted in n.

    Shapes: bottom (N, C, H, W) -> top (the same).
    Source: Krizhevsky et al., NIPS 2012; dividing alpha by n is Caffe's way.
    """

    local_size: int = 5
    alpha: float = 1.0
    beta: float = 0.75
    norm_region: NormRegion = NormRegion.ACROSS_CHANNELS
    k: float = 1.0
    engine: Engine = Engine.DEFAULT

    def coordinates(self) -> Coordinates | None:
        return Coordinates()

    def infer(self, *bottoms: BlobType) -> Signature:
        x = bottoms[0]
        if self.local_size % 2 == 0:
            raise Refusal(
                "local_size must be odd, so that a neighbourhood has a middle",
                expected="1, 3, 5, ...",
                got=f"local_size {self.local_size}",
                setting="local_size",
            )
        if x.axes != 4:
            raise Refusal(
                "the bottom of an LRN layer must have 4 axes",
                expected="(N, C, H, W)",
                got=f"bottom of shape {x}",
            )
        return Signature((x,), kept=(KeptType("scale", x.shape),))

    @property
    def _axes(self) -> tuple[int, ...]:
        """The axes along which the neighbours lie."""
        return (1,) if self.norm_region is NormRegion.ACROSS_CHANNELS else (2, 3)

    @property
    def factor(self) -> float:
        """The factor of the sum: alpha / n."""
        return self.alpha / float(self.local_size ** len(self._axes))

    @property
    def offset(self) -> float:
        """What is added to the sum: k where it counts."""
        return self.k if self.norm_region is NormRegion.ACROSS_CHANNELS else 1.0

    def _around(self, x: Array) -> Array:
        """Return the sum over the neighbours of each element."""
        for axis in self._axes:
            x = _sum_around(x, self.local_size // 2, axis)
        return x

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, x, scale = call.xp, call.bottoms[0], call.kept[0]
        xp.multiply(self._around(x * x), self.factor, out=scale)
        scale += self.offset
        return (xp.multiply(x, scale**-self.beta, out=call.out[0]),)

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        # dy / scale^beta - 2 alpha beta / n * x * (sum over the neighbours of dy * y / scale), and
        # y is x / scale^beta.
        x, scale, dy = call.bottoms[0], call.kept[0], call.top_diffs[0]
        own = dy * scale**-self.beta
        shared = self._around(own * x / scale)
        shared *= x
        shared *= 2 * self.factor * self.beta
        return Gradients((own - shared,))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        x = bottoms[0]
        if self.norm_region is NormRegion.ACROSS_CHANNELS:
            if self.alpha <= 0 or self.beta <= 0:
                raise g.refuse(
                    f"ONNX Runtime has no LRN of alpha {self.alpha:g} and beta {self.beta:g}",
                    hint="both above 0, as in the papers",
                )
            size, k = self.local_size, self.k
            return (g.op("LRN", x, size=size, alpha=self.alpha, beta=self.beta, bias=k),)
        half = self.local_size // 2
        mean = g.op(
            "AveragePool",
            g.op("Mul", x, x),
            kernel_shape=[self.local_size] * 2,
            pads=[half] * 4,
            count_include_pad=1,
        )
        scale = g.op("Add", g.op("Mul", mean, g.constant(self.alpha)), g.constant(1.0))
        return (g.op("Mul", x, g.op("Pow", scale, g.constant(-self.beta))),)

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        return bottoms[0].count * self.local_size * len(self._axes)


@layer("BatchNorm", "batch_norm_param")
@dataclass(frozen=True)
class BatchNorm(Elementwise):
    """y = (x - mean) / sqrt(variance + eps), with mean and variance per channel (axis 1).

    In phase TRAIN they are those of the batch, and running sums of both are kept; in phase TEST
    they are these sums, divided by the third param. `use_global_stats` overrides the phase.

    Shapes: bottom (N, C, ...) -> top (the same); a bottom with one axis is one channel. Params,
    which no solver may touch: sum of means (C,), sum of variances (C,), sum of weights (1,). A pass
    over a batch multiplies each with `moving_average_fraction` and adds the batch's mean, its
    variance with Bessel's correction, and 1. A weight of 0 stands for mean 0 and variance 0.

    With NVIDIA's `scale_bias`, or with a filler, y is multiplied by a scale and added to a bias for
    each channel, two more params (C,), and eps is at least 1e-5. In the files of that fork the
    weight is 1, and so the sums are the mean and the variance themselves.

    With Intel's `stats_batch_size` n, each n items of a batch have a mean and a variance of their
    own where those of the batch count, and enter the running sums one part after the other.
    Source: Ioffe and Szegedy, ICML 2015; the sums are BVLC Caffe 1.0's, scale and bias NVCaffe's,
    the parts of a batch IntelCaffe's.
    """

    use_global_stats: bool | None = None
    moving_average_fraction: float = 0.999
    eps: float = 1e-5
    scale_bias: bool | None = None
    scale_filler: Filler | None = None
    bias_filler: Filler | None = None
    stats_batch_size: int = 0
    phase: Phase = Phase.TRAIN

    @property
    def global_stats(self) -> bool:
        """Whether stored statistics count, and not those of the batch."""
        if self.use_global_stats is None:
            return self.phase is Phase.TEST
        return self.use_global_stats

    def settled(self) -> BatchNorm:
        return replace(self, use_global_stats=True)

    def expand(self, *bottoms: BlobType) -> tuple[Part, ...] | None:
        """Return the layer with scale and bias, or of parts, where the text asks for them."""
        affine = self.scale_bias or self.scale_filler or self.bias_filler
        if affine and self.stats_batch_size:
            raise Refusal(
                "statistics of parts of a batch do not go with a scale and a bias in the layer",
                expected="stats_batch_size, or scale and bias: they are of different forks",
                got=f"stats_batch_size {self.stats_batch_size}",
                hint="put scale and bias into a Scale layer behind this one",
                setting="stats_batch_size",
            )
        if not affine:
            return self._in_parts(*bottoms)
        fused = FusedBatchNorm(
            statistic=Statistics.STORED if self.global_stats else Statistics.BATCH,
            fraction=self.moving_average_fraction,
            eps=max(self.eps, NVIDIA_EPS),
            scale_filler=self.scale_filler or Filler(value=1.0),
            bias_filler=self.bias_filler or Filler(),
        )
        return (Part("", fused, ("$b0",), ("$t0",)),)

    def _in_parts(self, *bottoms: BlobType) -> tuple[Part, ...] | None:
        if not self.stats_batch_size or self.global_stats:
            return None
        items = bottoms[0].shape[0] if bottoms[0].axes else 1
        if items in (0, self.stats_batch_size):
            return None
        if items % self.stats_batch_size:
            raise Refusal(
                "stats_batch_size does not divide the batch",
                expected="batch size % stats_batch_size == 0",
                got=f"stats_batch_size {self.stats_batch_size}, bottom of shape {bottoms[0]}",
                setting="stats_batch_size",
            )
        parted = PartedBatchNorm(replace(self, stats_batch_size=0), items // self.stats_batch_size)
        return (Part("", parted, ("$b0",), ("$t0",)),)

    def infer(self, *bottoms: BlobType) -> Signature:
        x = bottoms[0]
        if x.axes == 0:
            raise Refusal(
                "a single number cannot be normalised",
                expected="a bottom of shape (N, C, ...)",
                got=f"bottom of shape {x}",
            )
        channels = x.shape[1] if x.axes > 1 else 1
        params = (
            ParamType(shape, Filler(), lr_mult=0.0, frozen=True)
            for shape in ((channels,), (channels,), (1,))
        )
        return Signature((x,), tuple(params), (KeptType("factor", (channels, 1)),))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp = call.xp
        x, y = channelwise(call.bottoms[0]), channelwise(call.out[0])
        if self.global_stats:
            mean, variance = (v[:, None] for v in stored_statistics(xp, call.params))
            # The bottom may lie where the top lies: this is the last look at it.
            centred = xp.subtract(x, mean, out=y)
        else:
            mean = channel_mean(x)
            centred = xp.subtract(x, mean, out=y)
            variance = channel_mean(centred * centred)
            n = x.shape[0] * x.shape[2]
            _gather(call.params, mean, variance, n, self.moving_average_fraction)
        factor = call.kept[0]
        factor[...] = 1 / xp.sqrt(variance + self.eps)
        centred *= factor
        return (centred.reshape(call.out[0].shape),)

    def backward_reads(self) -> Reads:
        return Reads.NOTHING if self.global_stats else Reads.TOP

    def backward(self, call: BackwardCall) -> Gradients:
        dy, factor = channelwise(call.top_diffs[0]), call.kept[0]
        if self.global_stats:
            dx = dy * factor
        else:
            y = channelwise(call.tops[0])
            dx = y * -channel_mean(dy * y)
            dx += dy
            dx -= channel_mean(dy)
            dx *= factor
        return Gradients((dx.reshape(call.top_diffs[0].shape),), (None,) * len(call.params))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        x = bottoms[0]
        shape = x.shape
        if not self.global_stats:
            axes = [axis for axis in range(len(shape)) if axis != 1 or len(shape) == 1]
            centred = g.op("Sub", x, reduce_mean(g, x, axes))
            variance = reduce_mean(g, g.op("Mul", centred, centred), axes)
            deviation = g.op("Sqrt", g.op("Add", variance, g.constant(self.eps)))
            return (g.op("Div", centred, deviation),)
        arrays = [g.array(param) for param in params]
        mean, variance = stored_statistics(g.xp, arrays)
        ones = g.xp.ones(mean.shape, "float32")
        constants = [g.constant(value) for value in (ones, 0 * ones, mean, variance)]
        if len(shape) == 1:
            x = g.reshape(x, (shape[0], 1))
        y = g.op("BatchNormalization", x, *constants, epsilon=self.eps)
        return (g.reshape(y, shape) if len(shape) == 1 else y,)


@dataclass(frozen=True)
class PartedBatchNorm(Elementwise):
    """BatchNorm over each of `parts` equal parts of a batch, which BatchNorm expands to.

    Shapes: bottom (N, C, ...) -> top (the same). Params: BatchNorm's. Source: IntelCaffe.
    """

    norm: BatchNorm
    parts: int

    type: ClassVar[str] = "BatchNorm"

    def settled(self) -> BatchNorm:
        return self.norm.settled()

    def infer(self, *bottoms: BlobType) -> Signature:
        whole = self.norm.infer(*bottoms)
        kept = (replace(k, shape=(self.parts, *k.shape)) for k in whole.kept)
        return replace(whole, kept=tuple(kept))

    def _split(self, x: Array) -> Array:
        """Return the parts of a batch, on an axis of their own."""
        return x.reshape(self.parts, x.shape[0] // self.parts, *x.shape[1:])

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        x, top = self._split(call.bottoms[0]), call.xp.empty_like(call.bottoms[0])
        for i, out in enumerate(self._split(top)):
            kept = tuple(k[i] for k in call.kept)
            part = replace(call, bottoms=(x[i],), kept=kept, out=(out,))
            out[...] = self.norm.forward(part)[0]
        return (top,)

    def backward_reads(self) -> Reads:
        return self.norm.backward_reads()

    def backward(self, call: BackwardCall) -> Gradients:
        y, dy = self._split(call.tops[0]), self._split(call.top_diffs[0])
        dx = call.xp.empty_like(dy)
        for i, part in enumerate(dx):
            kept = tuple(k[i] for k in call.kept)
            share = replace(call, tops=(y[i],), top_diffs=(dy[i],), kept=kept)
            part[...] = self.norm.backward(share).bottoms[0]
        return Gradients((dx.reshape(call.top_diffs[0].shape),), (None,) * len(call.params))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        raise g.refuse(
            "statistics of parts of a batch are for training",
            hint="use_global_stats: true takes those that were stored",
        )


@dataclass(frozen=True)
class FusedBatchNorm(AffineNorm):
    """NVIDIA's BatchNorm with scale and bias, which BatchNorm expands to.

    Shapes: bottom (N, C, ...) -> top (the same). Params: BatchNorm's three, scale (C,), bias (C,).
    """

    statistic: Statistics = Statistics.BATCH
    fraction: float = 0.999
    eps: float = NVIDIA_EPS
    scale_filler: Filler = field(default_factory=lambda: Filler(value=1.0))
    bias_filler: Filler = field(default_factory=Filler)

    type: ClassVar[str] = "BatchNorm"
    param_names: ClassVar[tuple[str, ...]] = ("mean", "variance", "count", "weight", "bias")

    def settled(self) -> FusedBatchNorm:
        return replace(self, statistic=Statistics.STORED)

    def statistics(self) -> Statistics:
        return self.statistic

    def epsilon(self) -> float:
        return self.eps

    def affine(self) -> tuple[int, int]:
        return 3, 4

    def stored(self, xp: ArrayNamespace, params: Sequence[Array]) -> tuple[Array, Array]:
        return stored_statistics(xp, params)

    def store(self, params: Sequence[Array], mean: Array, variance: Array, count: int) -> None:
        _gather(params, mean, variance, count, self.fraction)

    def infer(self, *bottoms: BlobType) -> Signature:
        x = bottoms[0]
        if x.axes < 2:
            raise Refusal(
                "BatchNorm with scale and bias needs an axis of channels",
                expected="a bottom of shape (N, C, ...)",
                got=f"bottom of shape {x}",
                setting="scale_bias",
            )
        channels = (x.shape[1],)
        statistics = (
            ParamType(shape, Filler(), lr_mult=0.0, frozen=True)
            for shape in (channels, channels, (1,))
        )
        learnt = (ParamType(channels, filler) for filler in (self.scale_filler, self.bias_filler))
        return Signature((x,), (*statistics, *learnt), self.kept(x))


@layer("MVN", "mvn_param")
@dataclass(frozen=True)
class MVN(Elementwise):
    """y = (x - mean) / (deviation + eps), over each channel of each item, or over each whole item.

    Without `normalize_variance`, only the mean is subtracted. The gradient is Caffe's, which takes
    deviation + eps for the deviation: exact as long as eps is small against it.

    Shapes: bottom (N, C, ...) -> top (the same).
    Source: BVLC Caffe 1.0, which names no paper; the statistics are the textbook's.
    """

    normalize_variance: bool = True
    across_channels: bool = False
    eps: float = 1e-9

    def _rows(self, shape: tuple[int, ...]) -> int:
        """Return how many parts of the blob are normalised, each by itself."""
        return math.prod(shape[: 1 if self.across_channels else 2])

    def infer(self, *bottoms: BlobType) -> Signature:
        rows = self._rows(bottoms[0].shape)
        kept = (KeptType("factor", (rows, 1)),) if self.normalize_variance else ()
        return Signature((bottoms[0],), kept=kept)

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, out = call.xp, call.out[0]
        rows = self._rows(out.shape)
        if not out.size:
            return (out,)
        x = call.bottoms[0].reshape(rows, -1)
        y = xp.subtract(x, x.mean(axis=1, keepdims=True), out=out.reshape(rows, -1))
        if self.normalize_variance:
            factor = call.kept[0]
            factor[...] = 1 / (xp.sqrt((y * y).mean(axis=1, keepdims=True)) + self.eps)
            y *= factor
        return (y.reshape(out.shape),)

    def backward_reads(self) -> Reads:
        return Reads.TOP if self.normalize_variance else Reads.NOTHING

    def backward(self, call: BackwardCall) -> Gradients:
        shape = call.top_diffs[0].shape
        if not call.top_diffs[0].size:
            return Gradients((call.top_diffs[0],))
        dy = call.top_diffs[0].reshape(self._rows(shape), -1)
        dx = dy - dy.mean(axis=1, keepdims=True)
        if self.normalize_variance:
            y = call.tops[0].reshape(dy.shape)
            dx -= y * (dy * y).mean(axis=1, keepdims=True)
            dx *= call.kept[0]
        return Gradients((dx.reshape(shape),))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        # MeanVarianceNormalization has a fixed eps, and a variance that cancels digits.
        x = bottoms[0]
        axes = list(range(1 if self.across_channels else 2, len(x.shape)))
        centred = g.op("Sub", x, reduce_mean(g, x, axes))
        if not self.normalize_variance:
            return (centred,)
        deviation = g.op("Sqrt", reduce_mean(g, g.op("Mul", centred, centred), axes))
        return (g.op("Div", centred, g.op("Add", deviation, g.constant(self.eps))),)


def _sum_around(x: Array, half: int, axis: int) -> Array:
    """Return the sum over `half` elements to either side and the one between; a copy of x for 0."""
    total = x.copy()
    source, target = x.swapaxes(0, axis), total.swapaxes(0, axis)
    for distance in range(1, min(half, x.shape[axis] - 1) + 1):
        target[distance:] += source[:-distance]
        target[:-distance] += source[distance:]
    return total


def _gather(
    sums: Sequence[Array], mean: Array, variance: Array, count: int, fraction: float
) -> None:
    """Let a batch's mean and variance (C, 1) of `count` values enter the running sums."""
    bessel = count / (count - 1) if count > 1 else 1.0
    for total, new in zip(sums[:3], (mean[:, 0], variance[:, 0] * bessel, 1.0), strict=True):
        total *= fraction
        total += new


def stored_statistics(xp: ArrayNamespace, params: Sequence[Array]) -> tuple[Array, Array]:
    """Return the mean and variance that running sums stand for, 0 where nothing is in them yet."""
    weight = params[2]
    mean, variance = (
        total / xp.where(weight == 0, 1, weight) * (weight != 0) for total in params[:2]
    )
    return mean, variance
