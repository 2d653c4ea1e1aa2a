"""Vectors brought to length 1."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

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
    Layer,
    OnnxBuilder,
    ParamType,
    Reads,
    Refusal,
    Signature,
    Value,
    between,
)

# What is added under the root where the text has no eps: SSD's, and that of face recognition.
SSD_EPS = 1e-10
FACE_EPS = 1e-6


class Length(enum.Enum):
    """How Normalize measures a vector."""

    L1 = "L1"
    L2 = "L2"


@layer("Normalize", "norm_param", "normalize_param")
@dataclass(frozen=True)
class Normalize(Layer):
    """y = s * x / ||x||, the length taken over the channels, or `across_spatial` over an item.

    Two forks have a type of this name. SSD's has `norm_param`: ||x|| = sqrt(sum(x^2) + eps), over
    the whole item by default, and s is a learned scale, one (`channel_shared`, the default) or one
    for each channel. That of caffe-windows has `normalize_param` or nothing: the length is taken
    over the channels, as sqrt(sum(x^2) + 1e-6) or, with `normalize_type: "L1"`, sum(|x|) + 1e-6;
    there is no scale, and a second top gives the lengths. Its gradient reaches the bottom through
    the lengths too with `bp_norm`; with `fix_gradient` it is not divided by the length. A text that
    sets a field of `norm_param` means SSD's. `softmax_param`, which nets of the latter leave where
    SoftmaxWithLoss stood, has no effect.

    Shapes: bottom (N, C, ...) -> top (the same), lengths (N, 1, ...); SSD's param: () or (C,).
    Source: Liu, Rabinovich and Berg, ParseNet, 2015; Wang et al., NormFace, 2017.
    """

    across_spatial: bool | None = None
    scale_filler: Filler | None = None
    channel_shared: bool | None = None
    eps: float | None = None
    normalize_type: str = "L2"
    fix_gradient: bool = False
    bp_norm: bool = False
    top: tuple[str, ...] = ()

    tops: ClassVar[Arity] = between(1, 2)
    leftovers: ClassVar[tuple[str, ...]] = ("softmax_param",)
    param_names: ClassVar[tuple[str, ...]] = ("scale",)

    @property
    def _scaled(self) -> bool:
        """Whether this is SSD's type."""
        fields = (self.across_spatial, self.scale_filler, self.channel_shared, self.eps)
        return any(value is not None for value in fields)

    @property
    def _n_tops(self) -> int:
        return max(len(self.top), 1)

    def infer(self, *bottoms: BlobType) -> Signature:
        x = bottoms[0]
        self._check(x)
        lengths = BlobType((x.shape[0], *([1] * (x.axes - 1))))
        if not self._whole_item:
            lengths = BlobType((x.shape[0], 1, *x.shape[2:]))
        params: tuple[ParamType, ...] = ()
        if self._scaled:
            shape = () if self._one_scale else (x.shape[1],)
            params = (ParamType(shape, self.scale_filler or Filler(value=1.0)),)
        kept = (KeptType("length", lengths.shape),)
        return Signature((x, lengths)[: self._n_tops], params, kept)

    def _check(self, x: BlobType) -> None:
        if x.axes < 2:
            raise Refusal(
                "the bottom has no channels",
                expected="a bottom of shape (N, C, ...)",
                got=f"bottom of shape {x}",
            )
        if self.normalize_type not in Length.__members__:
            raise Refusal(
                "normalize_type is not known",
                expected='"L2" or "L1"',
                got=f'"{self.normalize_type}"',
                setting="normalize_type",
            )
        own = {"normalize_type": Length.L1.name, "fix_gradient": True, "bp_norm": True}
        for name, value in own.items():
            if self._scaled and getattr(self, name) == value:
                raise Refusal(
                    f"{name} and the fields of norm_param belong to two different types",
                    expected="fields of norm_param (SSD) or of normalize_param (caffe-windows)",
                    got=f"{name} among those of norm_param",
                    setting=name,
                )
        if self._scaled and self._n_tops > 1:
            raise Refusal(
                "Normalize with norm_param has no second top",
                expected="1 top",
                got=f"{self._n_tops} tops",
                hint="the lengths are given by the type of caffe-windows, which has no norm_param",
                setting="top",
            )

    @property
    def _whole_item(self) -> bool:
        return self._scaled and self.across_spatial is not False

    @property
    def _one_scale(self) -> bool:
        return self.channel_shared is not False

    @property
    def _floor(self) -> float:
        if not self._scaled:
            return FACE_EPS
        return SSD_EPS if self.eps is None else self.eps

    def _summed_axes(self, n_axes: int) -> tuple[int, ...]:
        return tuple(range(1, n_axes)) if self._whole_item else (1,)

    def _scale(self, scale: Array, n_axes: int) -> Array:
        """View the learned scale with the axes of the bottom."""
        return scale if self._one_scale else scale.reshape(-1, *[1] * (n_axes - 2))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, x, length = call.xp, call.bottoms[0], call.kept[0]
        axes = self._summed_axes(x.ndim)
        if self.normalize_type == Length.L1.name:
            length[...] = abs(x).sum(axis=axes, keepdims=True) + self._floor
        else:
            length[...] = xp.sqrt((x * x).sum(axis=axes, keepdims=True) + self._floor)
        y = xp.divide(x, length, out=call.out[0])
        if self._scaled:
            y *= self._scale(call.params[0], x.ndim)
        return (y, length)[: self._n_tops]

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        xp, x, length, dy = call.xp, call.bottoms[0], call.kept[0], call.top_diffs[0]
        unit = x / length
        dx = scale_diff = None
        if self._scaled and call.wants_params[0]:
            summed = (unit * dy).sum(axis=tuple(a for a in range(x.ndim) if a != 1))
            scale_diff = summed.sum() if self._one_scale else summed
        if call.wants_bottoms[0]:
            if self._scaled:
                dy = dy * self._scale(call.params[0], x.ndim)
            along = (unit * dy).sum(axis=self._summed_axes(x.ndim), keepdims=True)
            slope = self._slope(xp, x, unit)
            dx = dy - slope * along
            if not self.fix_gradient:
                dx /= length
            if self.bp_norm and len(call.top_diffs) > 1:
                dx += slope * call.top_diffs[1]
        return Gradients((dx,), (scale_diff,) if self._scaled else ())

    def _slope(self, xp: ArrayNamespace, x: Array, unit: Array) -> Array:
        """Return the derivative of the length by each element."""
        return xp.sign(x) if self.normalize_type == Length.L1.name else unit

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        # LpNormalization has no eps, and cannot tell the length.
        x = bottoms[0]
        axes = list(self._summed_axes(len(x.shape)))
        first = self.normalize_type == Length.L1.name
        positive = g.op("Abs", x) if first else g.op("Mul", x, x)
        summed = g.op("ReduceSum", positive, g.constant(axes, "int64"))
        length = g.op("Add", summed, g.constant(self._floor))
        if not first:
            length = g.op("Sqrt", length)
        y = g.op("Div", x, length)
        if self._scaled:
            scale = params[0]
            if not self._one_scale:
                scale = g.reshape(scale, (x.shape[1], *[1] * (len(x.shape) - 2)))
            y = g.op("Mul", y, scale)
        return (y, length)[: self._n_tops]

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        return 2 * bottoms[0].count
