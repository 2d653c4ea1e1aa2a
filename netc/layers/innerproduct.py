"""Fully connected layers: InnerProduct, and Embed, whose input is an index."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from netc.layers.fillers import Filler
from netc.layers.registry import layer
from netc.layers.scale import Bias
from netc.layers.shape import Flatten
from netc.layers.types import (
    Arity,
    Array,
    BackwardCall,
    BlobType,
    ForwardCall,
    Gradients,
    Layer,
    Neurons,
    OnnxBuilder,
    ParamType,
    Part,
    Reads,
    Refusal,
    Signature,
    Value,
    between,
)


@layer("InnerProduct", "inner_product_param", aliases=("SparseInnerProduct",))
@dataclass(frozen=True)
class InnerProduct(Layer):
    """y = x W^T + b, where x is the bottom with the axes from `axis` on flattened to K values.

    A second bottom is W in place of a param, and a third is b: then `axis` is 1, and `num_output`
    the number of rows of W.

    Shapes: bottom (..., K...) -> top (..., num_output); params W (num_output, K), or (K,
    num_output) with `transpose`, and b (num_output,) unless `bias_term` is false.
    Source: BVLC Caffe 1.0; weights as bottoms are CaffeWindows'. `inner_distance_param`, which its
    nets leave standing where InnerDistance was, has no effect. SparseInnerProduct is jolibrain's
    name for it where the bottom holds few values; here they are stored like any others.
    """

    num_output: int = 0
    bias_term: bool = True
    weight_filler: Filler = field(default_factory=Filler)
    bias_filler: Filler = field(default_factory=Filler)
    axis: int = 1
    transpose: bool = False

    bottoms: ClassVar[Arity] = between(1, 3)
    leftovers: ClassVar[tuple[str, ...]] = ("inner_distance_param",)

    def expand(self, *bottoms: BlobType) -> tuple[Part, ...] | None:
        """Return a product of bottoms where the weights are one; a bias stands for the layer."""
        if len(bottoms) == 1:
            return None
        from netc.layers.products import MatMul  # where a type is derived from this one

        self._check_weights(*bottoms)
        parts, names = [], []
        for i, blob in enumerate(bottoms[:2]):
            names.append(f"$b{i}" if blob.axes == 2 else f".rows{i}")
            if blob.axes != 2:
                parts.append(Part(f".flatten{i}", Flatten(), (f"$b{i}",), (names[i],)))
        product = MatMul(transpose_b=True)
        if not self.bias_term:
            return (*parts, Part("", product, tuple(names), ("$t0",)))
        given = ("$b2",) if len(bottoms) == 3 else ()
        return (
            *parts,
            Part(".product", product, tuple(names), (".product",)),
            Part("", Bias(filler=self.bias_filler), (".product", *given), ("$t0",)),
        )

    def _check_weights(self, x: BlobType, weights: BlobType, *bias: BlobType) -> None:
        """Refuse bottoms that are no weights for the first one."""
        rows = weights.shape[0] if weights.axes else 0
        plain = self.axis == 1 and not self.transpose and self.num_output in (0, rows)
        fitting = x.axes > 1 < weights.axes and x.span(1) == weights.span(1)
        if not plain or not fitting or any(b.shape != (rows,) for b in bias):
            raise Refusal(
                "the weights do not suit bottom 0",
                expected="W (num_output, K) and b (num_output,) for (N, K), axis 1, no transpose",
                got=f"bottoms of shapes {', '.join(map(str, (x, weights, *bias)))}, num_output "
                f"{self.num_output}, axis {self.axis}, transpose {str(self.transpose).lower()}",
                setting="bottom",
            )
        if bias and not self.bias_term:
            raise Refusal(
                "a third bottom without a bias",
                expected="2 bottoms, or bias_term: true",
                got="3 bottoms, bias_term: false",
                setting="bias_term",
            )

    def infer(self, *bottoms: BlobType) -> Signature:
        _check_positive("num_output", self.num_output, "inner_product_param")
        x = bottoms[0]
        axis = x.axis(self.axis)
        k = x.span(axis)
        shape = (k, self.num_output) if self.transpose else (self.num_output, k)
        neurons = Neurons.columns(shape) if self.transpose else Neurons.rows(shape)
        params = [ParamType(shape, self.weight_filler, neurons=neurons)]
        if self.bias_term:
            params.append(ParamType((self.num_output,), self.bias_filler))
        return Signature((BlobType((*x.shape[:axis], self.num_output)),), tuple(params))

    def dense(self) -> bool:
        return not self.transpose

    def _matrix(self, x: Array) -> Array:
        """View a bottom as a matrix (M, K)."""
        shape = BlobType(x.shape)
        axis = shape.axis(self.axis)
        return x.reshape(shape.span(0, axis), shape.span(axis))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        x, weight = self._matrix(call.bottoms[0]), call.params[0]
        y = call.out[0].reshape(-1, self.num_output)
        call.xp.matmul(x, weight if self.transpose else weight.T, out=y)
        if self.bias_term:
            y += call.params[1]
        return (y.reshape(call.out[0].shape),)

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        bottom, weight = call.bottoms[0], call.params[0]
        x = self._matrix(bottom)
        dy = call.top_diffs[0].reshape(-1, self.num_output)
        dx = dw = db = None
        if call.wants_bottoms[0]:
            dx = (dy @ (weight.T if self.transpose else weight)).reshape(bottom.shape)
        if call.wants_params[0]:
            dw = x.T @ dy if self.transpose else dy.T @ x
        if self.bias_term and call.wants_params[1]:
            db = dy.sum(axis=0)
        return Gradients((dx,), (dw, db) if self.bias_term else (dw,))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        x = bottoms[0]
        shape = BlobType(x.shape)
        axis = shape.axis(self.axis)
        if axis == 1:
            x = x if shape.axes == 2 else g.op("Flatten", x, axis=1)
            return (g.op("Gemm", x, *params, transB=int(not self.transpose)),)
        x = g.reshape(x, (*shape.shape[:axis], shape.span(axis)))
        weight = params[0] if self.transpose else g.op("Transpose", params[0], perm=[1, 0])
        y = g.op("MatMul", x, weight)
        return (g.op("Add", y, params[1]) if self.bias_term else y,)

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        return bottoms[0].count * self.num_output


@layer("Embed", "embed_param")
@dataclass(frozen=True)
class Embed(Layer):
    """y = W[i] + b: a row of W for each index i, truncated to an integer.

    What InnerProduct gives for one-hot vectors. An index outside 0..input_dim-1 is refused.

    Shapes: bottom (any) -> top (the same, num_output); params W (input_dim, num_output), and b
    (num_output,) unless `bias_term` is false.
    Source: Mikolov et al., ICLR workshop 2013, where the rows stand for words.
    """

    num_output: int = 0
    input_dim: int = 0
    bias_term: bool = True
    weight_filler: Filler = field(default_factory=Filler)
    bias_filler: Filler = field(default_factory=Filler)

    def infer(self, *bottoms: BlobType) -> Signature:
        _check_positive("num_output", self.num_output, "embed_param")
        _check_positive("input_dim", self.input_dim, "embed_param")
        shape = (self.input_dim, self.num_output)
        params = [ParamType(shape, self.weight_filler, neurons=Neurons.columns(shape))]
        if self.bias_term:
            params.append(ParamType((self.num_output,), self.bias_filler))
        return Signature((BlobType((*bottoms[0].shape, self.num_output)),), tuple(params))

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False,)

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, bottom = call.xp, call.bottoms[0]
        index = xp.trunc(bottom)
        wrong = ~((index >= 0) & (index < self.input_dim))  # true for NaN
        if bool(wrong.any()):
            raise Refusal(
                "an index lies outside the rows of the weights",
                expected=f"0 to {self.input_dim - 1}",
                got=f"{float(bottom.reshape(-1)[xp.argmax(wrong.reshape(-1))]):g}",
                hint="input_dim is the number of different indices",
                setting="input_dim",
            )
        y = xp.take(call.params[0], index.astype("int64"), axis=0)
        return (xp.add(y, call.params[1], out=call.out[0]) if self.bias_term else y,)

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        xp, weight = call.xp, call.params[0]
        dy = call.top_diffs[0].reshape(-1, self.num_output)
        dw = db = None
        if call.wants_params[0]:
            dw = xp.zeros(weight.shape, dy.dtype)
            xp.add.at(dw, call.bottoms[0].astype("int64").reshape(-1), dy)
        if self.bias_term and call.wants_params[1]:
            db = dy.sum(axis=0)
        return Gradients((None,), (dw, db) if self.bias_term else (dw,))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        y = g.op("Gather", params[0], g.cast(bottoms[0], "int64"), axis=0)
        return (g.op("Add", y, params[1]) if self.bias_term else y,)


def _check_positive(setting: str, value: int, message: str) -> None:
    if value <= 0:
        raise Refusal(
            f"{setting} is missing",
            expected=f"{setting} > 0",
            got=f"{setting} {value}",
            hint=f"add {message} {{ {setting}: N }}",
            setting=setting,
        )
