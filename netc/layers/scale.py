"""A factor or a summand for each channel, or for whatever axes they are given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from netc.layers.activation import check_channels
from netc.layers.fillers import Filler
from netc.layers.registry import layer
from netc.layers.types import (
    Arity,
    Array,
    BackwardCall,
    BlobType,
    ForwardCall,
    Gradients,
    Layer,
    OnnxBuilder,
    ParamType,
    Part,
    Reads,
    Refusal,
    Signature,
    Value,
    between,
)


@dataclass(frozen=True)
class Broadcasting(Layer):
    """Base of Scale and Bias: bottom 0 with an operand that is repeated along the other axes.

    The operand is bottom 1, or, with one bottom, a param that covers `num_axes` axes of bottom 0
    from `axis` on: -1 all that follow, 0 none, a single number for the whole blob.
    """

    axis: int = 1
    num_axes: int = 1

    bottoms: ClassVar[Arity] = between(1, 2)
    in_place: ClassVar[bool] = True

    def operand(self, x: BlobType, other: BlobType | None = None) -> tuple[int, ...]:
        """Return the operand's shape; refuse one that does not fit bottom 0."""
        if other is None:
            if self.num_axes < -1:
                raise Refusal(
                    "num_axes is negative",
                    expected="a number of axes, or -1 for all that follow `axis`",
                    got=f"num_axes {self.num_axes}",
                    setting="num_axes",
                )
            axis = x.axis(self.axis)
            if axis + self.num_axes > x.axes:
                raise Refusal(
                    "axis and num_axes extend past the bottom's shape",
                    expected=f"axis + num_axes <= {x.axes}",
                    got=f"axis {self.axis}, num_axes {self.num_axes}, bottom of shape {x}",
                    hint="num_axes: -1 means all axes that follow",
                    setting="num_axes",
                )
            return x.shape[axis:] if self.num_axes == -1 else x.shape[axis : axis + self.num_axes]
        axis = self._first(x, other)
        if x.shape[axis : axis + other.axes] != other.shape:
            raise Refusal(
                "the shape of bottom 1 does not match bottom 0",
                expected=f"the first of the sizes {BlobType(x.shape[axis:])}, from axis {axis} on",
                got=f"bottom 1 of shape {other}, bottom 0 of shape {x}",
                setting="axis",
            )
        return other.shape

    def _first(self, x: BlobType, operand: BlobType) -> int:
        """Return the axis of x that the operand starts at."""
        return x.axis(self.axis) if operand.axes else 0

    def _spread(self, operand: Array, x: Array) -> Array:
        """View the operand with an axis of size 1 for each axis of x behind it."""
        behind = x.ndim - operand.ndim - self._first(BlobType(x.shape), BlobType(operand.shape))
        return operand.reshape((*operand.shape, *[1] * behind))

    def _collect(self, values: Array, like: Array) -> Array:
        """Sum values shaped like bottom 0 to the operand's shape: the transpose of `_spread`."""
        shape = BlobType(values.shape)
        axis = self._first(shape, BlobType(like.shape))
        parts = values.reshape(shape.span(0, axis), like.size, shape.span(axis + like.ndim))
        return parts.sum(axis=2).sum(axis=0).reshape(like.shape)

    def _onnx(self, g: OnnxBuilder, operand: Value, x: Value) -> Value:
        """Return the operand with an axis of size 1 for each axis of x behind it."""
        shape = operand.shape
        behind = len(x.shape) - len(shape) - self._first(BlobType(x.shape), BlobType(shape))
        return g.reshape(operand, (*shape, *[1] * behind))

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        return bottoms[0].count


@layer("Scale", "scale_param")
@dataclass(frozen=True)
class Scale(Broadcasting):
    """y = x * s, or x * s + b with `bias_term`; s and b repeat along the axes they lack.

    Shapes: bottom 0 (any) -> top (the same); s is bottom 1 or the first param, filled with 1 unless
    there is a filler; b is a param of the same shape.

    Source: BVLC Caffe.
    """

    filler: Filler | None = None
    bias_term: bool = False
    bias_filler: Filler | None = None

    def infer(self, *bottoms: BlobType) -> Signature:
        shape = self.operand(*bottoms)
        params = []
        if len(bottoms) == 1:
            params.append(ParamType(shape, self.filler or Filler(value=1.0)))
        if self.bias_term:
            params.append(ParamType(shape, self.bias_filler or Filler()))
        return Signature((bottoms[0],), tuple(params))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        x, scale = call.bottoms[0], (*call.bottoms, *call.params)[1]
        y = call.xp.multiply(x, self._spread(scale, x), out=call.out[0])
        if self.bias_term:
            y += self._spread(call.params[-1], x)
        return (y,)

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        x, scale = call.bottoms[0], (*call.bottoms, *call.params)[1]
        dy = call.top_diffs[0]
        wants = (*call.wants_bottoms, *call.wants_params)
        found = [dy * self._spread(scale, x) if wants[0] else None]
        found.append(self._collect(dy * x, scale) if wants[1] else None)
        if self.bias_term:
            found.append(self._collect(dy, call.params[-1]) if wants[2] else None)
        n = len(call.bottoms)
        return Gradients(tuple(found[:n]), tuple(found[n:]))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        x, scale = bottoms[0], (*bottoms, *params)[1]
        y = g.op("Mul", x, self._onnx(g, scale, x))
        return (g.op("Add", y, self._onnx(g, params[-1], x)) if self.bias_term else y,)


@layer("EltwiseAffine", "eltwise_affine_param")
@dataclass(frozen=True)
class EltwiseAffine(Layer):
    """y = slope * x + bias for each channel (axis 1): a Scale layer with a bias, by another name.

    `channel_shared` has one slope and one bias for all channels. Slopes start at 1.0001 and biases
    at 0.0001 unless their fillers say otherwise.

    Shapes: bottom (N, C, ...) -> top (same); params slope and bias (C,), or ().
    Source: the fork of the caffenet128 benchmark.
    """

    slope_filler: Filler | None = None
    bias_filler: Filler | None = None
    channel_shared: bool = False

    def expand(self, *bottoms: BlobType) -> tuple[Part, ...]:
        """Return the Scale layer."""
        check_channels(bottoms[0])
        scale = Scale(
            num_axes=0 if self.channel_shared else 1,
            filler=self.slope_filler or Filler(value=1.0001),
            bias_term=True,
            bias_filler=self.bias_filler or Filler(value=0.0001),
        )
        return (Part("", scale, ("$b0",), ("$t0",)),)


@layer("Bias", "bias_param")
@dataclass(frozen=True)
class Bias(Broadcasting):
    """y = x + b; b repeats along the axes it lacks.

    Shapes: bottom 0 (any) -> top (the same); b is bottom 1 or the only param.

    Source: BVLC Caffe.
    """

    filler: Filler | None = None

    param_names: ClassVar[tuple[str, ...]] = ("bias",)

    def infer(self, *bottoms: BlobType) -> Signature:
        shape = self.operand(*bottoms)
        params = () if len(bottoms) == 2 else (ParamType(shape, self.filler or Filler()),)
        return Signature((bottoms[0],), params)

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        x, bias = call.bottoms[0], (*call.bottoms, *call.params)[1]
        return (call.xp.add(x, self._spread(bias, x), out=call.out[0]),)

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def backward(self, call: BackwardCall) -> Gradients:
        bias, dy = (*call.bottoms, *call.params)[1], call.top_diffs[0]
        wants = (*call.wants_bottoms, *call.wants_params)
        found = (dy if wants[0] else None, self._collect(dy, bias) if wants[1] else None)
        n = len(call.bottoms)
        return Gradients(found[:n], found[n:])

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        x, bias = bottoms[0], (*bottoms, *params)[1]
        return (g.op("Add", x, self._onnx(g, bias, x)),)
