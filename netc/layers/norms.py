"""Normalisation of each item by itself: over groups of channels, or over the last axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from netc.layers.activation import Elementwise
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
    Reads,
    Refusal,
    Signature,
    Value,
)


@dataclass(frozen=True)
class RowNorm(Elementwise):
    """Base of the types that normalise rows: runs of elements that lie one behind the other."""

    eps: float = 1e-5
    affine: bool = True
    scale_filler: Filler | None = None
    bias_filler: Filler | None = None

    def rows(self, x: BlobType) -> int:
        """Return how many rows the bottom has; refuse settings that do not suit it."""
        raise TypeError(f"layer type {self.type} does not say what it normalises")

    def learnt(self, x: BlobType) -> tuple[tuple[int, ...], int]:
        """Return the shape of scale and shift, and the axis of the bottom that it starts at."""
        raise TypeError(f"layer type {self.type} does not say what it scales")

    def infer(self, *bottoms: BlobType) -> Signature:
        x = bottoms[0]
        if not self.eps >= 0:
            raise Refusal(
                "eps is negative", expected="eps >= 0", got=f"eps {self.eps:g}", setting="eps"
            )
        rows = self.rows(x)
        kept = tuple(KeptType(name, (rows, 1)) for name in ("mean", "factor"))
        if not self.affine:
            return Signature((x,), kept=kept)
        shape, _ = self.learnt(x)
        params = (
            ParamType(shape, self.scale_filler or Filler(value=1.0)),
            ParamType(shape, self.bias_filler or Filler()),
        )
        return Signature((x,), params, kept)

    def _as_rows(self, x: Array) -> Array:
        """View a blob as a matrix with a row for each run of elements."""
        shape = BlobType(x.shape)
        rows = self.rows(shape)
        return x.reshape(rows, shape.count // max(rows, 1))

    def _spread(self, param: Array, shape: tuple[int, ...]) -> Array:
        """View scale or shift so that it broadcasts over the bottom."""
        own, axis = self.learnt(BlobType(shape))
        return param.reshape(*own, *[1] * (len(shape) - axis - len(own)))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, (mean, factor), out = call.xp, call.kept, call.out[0]
        x, y = (self._as_rows(a) for a in (call.bottoms[0], out))
        # A row without elements has no mean, and needs none.
        size = max(x.shape[1], 1)
        mean[...] = x.sum(axis=1, keepdims=True) / size
        xp.subtract(x, mean, out=y)
        factor[...] = 1 / xp.sqrt((y * y).sum(axis=1, keepdims=True) / size + self.eps)
        y *= factor
        y = y.reshape(out.shape)
        if self.affine:
            scale, shift = (self._spread(param, out.shape) for param in call.params)
            y *= scale
            y += shift
        return (y,)

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        x, dy, (mean, factor) = call.bottoms[0], call.top_diffs[0], call.kept
        unit = self._as_rows(x) - mean
        unit *= factor
        params: tuple[Array | None, ...] = ()
        if self.affine:
            wants_scale, wants_shift = call.wants_params
            params = (
                self._collect(dy * unit.reshape(x.shape)) if wants_scale else None,
                self._collect(dy) if wants_shift else None,
            )
            dy = dy * self._spread(call.params[0], x.shape)
        dx = None
        if call.wants_bottoms[0]:
            rows = dy.reshape(unit.shape)
            size = max(unit.shape[1], 1)
            dx = rows - rows.sum(axis=1, keepdims=True) / size
            unit *= (rows * unit).sum(axis=1, keepdims=True) / size
            dx -= unit
            dx *= factor
            dx = dx.reshape(x.shape)
        return Gradients((dx,), params)

    def _collect(self, values: Array) -> Array:
        """Sum values shaped like the bottom to the shape of the params."""
        shape = BlobType(values.shape)
        own, axis = self.learnt(shape)
        behind = shape.span(axis + len(own))
        parts = values.reshape(shape.span(0, axis), BlobType(own).count, behind)
        return parts.sum(axis=2).sum(axis=0).reshape(own)

    def _affine(self, g: OnnxBuilder, y: Value, params: tuple[Value, ...]) -> Any:
        """Add scale and shift."""
        if not self.affine:
            return y
        own, axis = self.learnt(BlobType(y.shape))
        wide = (*own, *[1] * (len(y.shape) - axis - len(own)))
        scale, shift = (g.reshape(param, wide) for param in params)
        return g.op("Add", g.op("Mul", y, scale), shift)

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        return bottoms[0].count * (2 if self.affine else 1)


@layer("GroupNorm", "group_norm_param", aliases=("GN",))
@dataclass(frozen=True)
class GroupNorm(RowNorm):
    """y = (x - mean) / sqrt(variance + eps), over each of `group_num` groups of channels.

    Then y * scale + shift with a learned value of both for each channel, if `affine`. Mean and
    variance are those of one group of one item, so that nothing depends on the batch or the phase.
    One group makes it a norm of whole items, as many groups as channels an instance norm.

    Shapes: bottom (N, C, ...) -> top (the same); params scale (C,), filled with 1, and shift (C,).
    Source: Wu and He, "Group normalization", ECCV 2018.
    """

    group_num: int = 32

    def rows(self, x: BlobType) -> int:
        if x.axes < 2 or self.group_num < 1 or x.shape[1] % self.group_num:
            raise Refusal(
                "group_num does not divide the channels",
                expected="a bottom of shape (N, C, ...), group_num >= 1 and C % group_num == 0",
                got=f"group_num {self.group_num}, bottom of shape {x}",
                setting="group_num",
            )
        return x.shape[0] * self.group_num

    def learnt(self, x: BlobType) -> tuple[tuple[int, ...], int]:
        return x.shape[1:2], 1

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        # GroupNormalization came late and changed its meaning from opset 18 to 21; a group is an
        # instance of one channel everywhere.
        x = bottoms[0]
        shape, groups = x.shape, self.group_num
        rows = g.reshape(x, (shape[0], groups, BlobType(shape).span(1) // groups))
        ones = g.xp.ones(groups, "float32")
        unit = g.op(
            "InstanceNormalization", rows, g.constant(ones), g.constant(0 * ones), epsilon=self.eps
        )
        return (self._affine(g, g.reshape(unit, shape), params),)


@layer("LayerNorm", "layer_norm_param", aliases=("LN",))
@dataclass(frozen=True)
class LayerNorm(RowNorm):
    """y = (x - mean) / sqrt(variance + eps), over the axes from `axis` on.

    Then y * scale + shift with a learned value of both for each element of these axes, if `affine`.

    Shapes: bottom (any) -> top (the same); params scale and shift, both of the shape of the axes
    from `axis` on; scale is filled with 1.
    Source: Ba et al., "Layer normalization", arXiv 1607.06450.
    """

    axis: int = -1

    def rows(self, x: BlobType) -> int:
        if not x.axes:
            raise Refusal(
                "a single number cannot be normalised",
                expected="a bottom with at least one axis",
                got=f"bottom of shape {x}",
            )
        return x.span(0, x.axis(self.axis))

    def learnt(self, x: BlobType) -> tuple[tuple[int, ...], int]:
        axis = x.axis(self.axis)
        return x.shape[axis:], axis

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        x = bottoms[0]
        axis = BlobType(x.shape).axis(self.axis)
        if g.opset >= 17:
            if not self.affine:
                params = (g.constant(g.xp.ones(x.shape[axis:], "float32")),)
            return (g.op("LayerNormalization", x, *params, axis=axis, epsilon=self.eps),)
        axes = list(range(axis, len(x.shape)))
        centred = g.op("Sub", x, g.op("ReduceMean", x, axes=axes))
        variance = g.op("ReduceMean", g.op("Mul", centred, centred), axes=axes)
        deviation = g.op("Sqrt", g.op("Add", variance, g.constant(self.eps)))
        return (self._affine(g, g.op("Div", centred, deviation), params),)
