"""A whole block of a DenseNet as one layer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from netc.layers.convolution import Convolution, add_weight_gradient, gather, scatter
from netc.layers.fillers import Filler
from netc.layers.registry import layer
from netc.layers.roi import check_maps
from netc.layers.types import (
    Array,
    ArrayNamespace,
    BackwardCall,
    BlobType,
    ForwardCall,
    Gradients,
    KeptType,
    Layer,
    Neurons,
    OnnxBuilder,
    ParamType,
    Phase,
    Reads,
    Refusal,
    Signature,
    Value,
)
from netc.layers.window import Slide

_EPS = 1e-5
# Params for each transition: filter, scale, bias, mean, variance.
_KINDS = 5


@dataclass(frozen=True, slots=True)
class _Normalized:
    """The maps of one transition: normalised, scaled and shifted, and what they are divided by."""

    plain: Array
    scaled: Array
    deviation: Array


@layer("DenseBlock", "denseblock_param")
@dataclass(frozen=True)
class DenseBlock(Layer):
    """`numTransition` times: BatchNorm, ReLU and a convolution of all maps so far, put behind them.

    Each convolution is 3 x 3, padded by 1, without a bias, and adds `growthRate` maps. Statistics
    are those of the batch in phase TRAIN, where each pass moves the stored ones towards them by the
    share `moving_average_fraction`, and the stored ones in phase TEST; 1e-5 is added to variances.
    With `use_dropout` each new value is 0 by the chance `dropout_amount` in phase TRAIN, and the
    others grow to keep the mean.

    Shapes: maps (N, C, H, W) -> top (N, C + numTransition growthRate, H, W). Params, each in the
    order of the transitions: filters (growthRate, C', 3, 3), scales, biases, means and variances,
    all (1, C', 1, 1) for the C' maps so far, and (1,), which nothing reads. No solver may touch
    means, variances and the last. `use_BC` is refused: no published net sets it. What is said of
    strides, padding, the size of filters, `initChannel`, memory and devices changes nothing.

    Source: Huang et al., "Densely connected convolutional networks", CVPR 2017; the layer of
    caffe_ocr as it computes on GPUs. On a CPU that one adds statistics up instead.
    """

    numTransition: int = 40
    growthRate: int = 12
    Filter_Filler: Filler = field(default_factory=Filler)
    BN_Scaler_Filler: Filler = field(default_factory=Filler)
    BN_Bias_Filler: Filler = field(default_factory=Filler)
    use_dropout: bool = False
    dropout_amount: float = 0.0
    moving_average_fraction: float = 0.1
    use_BC: bool = False
    initChannel: int = 16
    pad_h: int = 1
    pad_w: int = 1
    conv_verticalStride: int = 1
    conv_horizentalStride: int = 1
    filter_H: int = 3
    filter_W: int = 3
    gpuIdx: int = 0
    BC_ultra_space_efficient: bool = False
    workspace_MB: int = 8
    phase: Phase = Phase.TRAIN

    refuses_in_place: ClassVar[bool] = True

    def settled(self) -> Layer:
        return replace(self, phase=Phase.TEST)

    def infer(self, *bottoms: BlobType) -> Signature:
        x = bottoms[0]
        check_maps(x, "the maps, bottom 0,")
        for setting, wrong, expected in (
            ("numTransition", self.numTransition < 1, "numTransition > 0"),
            ("growthRate", self.growthRate < 1, "growthRate > 0"),
            ("dropout_amount", not 0 <= self.dropout_amount < 1, "0 <= dropout_amount < 1"),
            ("use_BC", self.use_BC, "use_BC: false: netc has no bottlenecks in blocks"),
        ):
            if wrong:
                raise Refusal(
                    f"{setting} is out of range",
                    expected=expected,
                    got=f"{setting} {getattr(self, setting)}",
                    setting=setting,
                )
        n, c, h, w = x.shape
        grown, steps = self.growthRate, range(self.numTransition)
        widths = [c + t * grown for t in steps]
        filters = [
            ParamType(shape, self.Filter_Filler, neurons=Neurons.rows(shape))
            for shape in ((grown, width, 3, 3) for width in widths)
        ]
        each = [
            [ParamType((1, width, 1, 1), filler, lr_mult=rate, frozen=not rate) for width in widths]
            for filler, rate in (
                (self.BN_Scaler_Filler, 1.0),
                (self.BN_Bias_Filler, 1.0),
                (Filler(), 0.0),
                (Filler(type="constant", value=1.0), 0.0),
            )
        ]
        last = ParamType((1,), Filler(), lr_mult=0.0, frozen=True)
        added = grown * self.numTransition
        kept = (KeptType("mask", (n, added, h, w)),) if self._drops else ()
        params = (*filters, *(param for group in each for param in group), last)
        return Signature((BlobType((n, c + added, h, w)),), params, kept)

    @property
    def _drops(self) -> bool:
        return self.use_dropout and self.phase is Phase.TRAIN

    def _params(self, params: tuple[Array, ...], step: int) -> tuple[Array, ...]:
        """Return filter, scale, bias, mean and variance of a transition."""
        return tuple(params[kind * self.numTransition + step] for kind in range(_KINDS))

    @staticmethod
    def _slides(shape: tuple[int, ...]) -> tuple[Slide, ...]:
        return tuple(Slide(size, size, 3, 1, 1) for size in shape[2:])

    def _normalized(
        self, xp: ArrayNamespace, x: Array, params: tuple[Array, ...], *, update: bool = False
    ) -> _Normalized:
        _, scale, bias, stored_mean, stored_variance = params
        mean, variance = stored_mean, stored_variance
        if self.phase is Phase.TRAIN:
            count = max(x[:, 0].size, 1)
            mean = x.sum(axis=(0, 2, 3), keepdims=True) / count
            variance = ((x - mean) ** 2).sum(axis=(0, 2, 3), keepdims=True) / count
            if update:
                share = self.moving_average_fraction
                stored_mean += share * (mean - stored_mean)
                unbiased = variance * (count / max(count - 1, 1))
                stored_variance += share * (unbiased - stored_variance)
        deviation = xp.sqrt(variance + _EPS)
        plain = (x - mean) / deviation
        return _Normalized(plain, plain * scale + bias, deviation)

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, x, top = call.xp, call.bottoms[0], call.out[0]
        slides, first = self._slides(x.shape), x.shape[1]
        if self._drops:
            draws = call.random().random(call.kept[0].shape, dtype="float32")
            stays = 1 - self.dropout_amount
            call.kept[0][...] = xp.asarray(draws < stays) / stays
        top[:, :first] = x
        for step in range(self.numTransition):
            params = self._params(call.params, step)
            at = first + step * self.growthRate
            maps = self._normalized(xp, top[:, :at], params, update=True)
            new = xp.empty((x.shape[0], self.growthRate, *x.shape[2:]), dtype=top.dtype)
            gather(xp, xp.maximum(maps.scaled, 0), params[0], None, slides, 1, new)
            if self._drops:
                new *= call.kept[0][:, at - first :][:, : self.growthRate]
            top[:, at : at + self.growthRate] = new
        return (top,)

    def backward_reads(self) -> Reads:
        # All maps that were normalised are in the top.
        return Reads.TOP

    def backward(self, call: BackwardCall) -> Gradients:
        xp, top, first = call.xp, call.tops[0], call.bottoms[0].shape[1]
        slides, dx = self._slides(top.shape), call.top_diffs[0].copy()
        found: list[Array | None] = [None] * len(call.params)
        for step in reversed(range(self.numTransition)):
            weight, scale, *_ = params = self._params(call.params, step)
            at = first + step * self.growthRate
            maps = self._normalized(xp, top[:, :at], params)
            dy = xp.ascontiguousarray(dx[:, at : at + self.growthRate])
            if self._drops:
                dy = dy * call.kept[0][:, at - first :][:, : self.growthRate]
            seen = xp.maximum(maps.scaled, 0)
            dw = xp.zeros(weight.shape, dtype=dx.dtype)
            add_weight_gradient(xp, dy, seen, slides, 1, dw)
            slope = xp.empty(seen.shape, dtype=dx.dtype)
            scatter(xp, dy, weight, None, slides, 1, slope)
            slope *= maps.scaled > 0
            found[step] = dw
            by_scale = (slope * maps.plain).sum(axis=(0, 2, 3), keepdims=True)
            by_bias = slope.sum(axis=(0, 2, 3), keepdims=True)
            found[self.numTransition + step] = by_scale
            found[2 * self.numTransition + step] = by_bias
            if self.phase is Phase.TRAIN:
                count = max(slope[:, 0].size, 1)
                slope -= (by_bias + maps.plain * by_scale) / count
            dx[:, :at] += slope * scale / maps.deviation
        return Gradients((xp.ascontiguousarray(dx[:, :first]),), tuple(found))

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        n, _, h, w = bottoms[0].shape
        weights = sum(BlobType(p.shape).count for p in signature.params[: self.numTransition])
        return n * h * w * weights

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        x = bottoms[0]
        convolution = Convolution(
            num_output=self.growthRate, kernel_size=(3,), pad=(1,), bias_term=False
        )
        for step in range(self.numTransition):
            weight, *rest = self._params(params, step)
            plain = [g.reshape(param, (x.shape[1],)) for param in rest]
            maps = g.op("Relu", g.op("BatchNormalization", x, *plain, epsilon=_EPS))
            x = g.op("Concat", x, *convolution.lower(g, (maps,), (weight,)), axis=1)
        return (x,)
