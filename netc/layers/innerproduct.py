"""Fully connected layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from netc.layers.fillers import Filler
from netc.layers.registry import layer
from netc.layers.types import (
    Array,
    BackwardCall,
    BlobType,
    ForwardCall,
    Gradients,
    Layer,
    OnnxBuilder,
    ParamType,
    Reads,
    Refusal,
    Signature,
    Value,
)


@layer("InnerProduct", "inner_product_param")
@dataclass(frozen=True)
class InnerProduct(Layer):
    """y = x W^T + b, where x is the bottom with the axes from `axis` on flattened to K values.

    Shapes: bottom (..., K...) -> top (..., num_output); params W (num_output, K), or (K, num_output) with
    `transpose`, and b (num_output,) unless `bias_term` is false.
    """

    num_output: int = 0
    bias_term: bool = True
    weight_filler: Filler = field(default_factory=Filler)
    bias_filler: Filler = field(default_factory=Filler)
    axis: int = 1
    transpose: bool = False

    def infer(self, *bottoms: BlobType) -> Signature:
        if self.num_output <= 0:
            raise Refusal(
                "num_output is missing",
                expected="num_output > 0",
                got=self.num_output,
                hint="add inner_product_param { num_output: N }",
                setting="num_output",
            )
        x = bottoms[0]
        axis = x.axis(self.axis)
        k = x.span(axis)
        shape = (k, self.num_output) if self.transpose else (self.num_output, k)
        params = [ParamType(shape, self.weight_filler)]
        if self.bias_term:
            params.append(ParamType((self.num_output,), self.bias_filler))
        return Signature((BlobType((*x.shape[:axis], self.num_output)),), tuple(params))

    def _rows(self, x: Array) -> Array:
        """View a bottom as a matrix (M, K)."""
        axis = self.axis % x.ndim
        rows = 1
        for n in x.shape[:axis]:
            rows *= n
        return x.reshape(rows, -1)

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        y = call.out[0].reshape(-1, self.num_output)
        weight = call.params[0]
        call.xp.matmul(
            self._rows(call.bottoms[0]), weight if self.transpose else weight.T, out=y
        )
        if self.bias_term:
            y += call.params[1]
        return (y.reshape(call.out[0].shape),)

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        bottom, weight = call.bottoms[0], call.params[0]
        x = self._rows(bottom)
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
        shape = bottoms[0].shape
        axis = self.axis % len(shape)
        k = BlobType(shape).span(axis)
        if axis == 1:
            x = bottoms[0] if len(shape) == 2 else g.op("Flatten", bottoms[0], axis=1)
            return (g.op("Gemm", x, *params, transB=0 if self.transpose else 1),)
        x = g.reshape(bottoms[0], (*shape[:axis], k))
        weight = params[0] if self.transpose else g.op("Transpose", params[0], perm=[1, 0])
        y = g.op("MatMul", x, weight)
        return (g.op("Add", y, params[1]) if self.bias_term else y,)

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        rows = signature.tops[0].count // self.num_output
        k = bottoms[0].count // rows if rows else 0
        return rows * k * self.num_output
