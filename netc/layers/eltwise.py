"""Several blobs of one shape into one, element by element."""

from __future__ import annotations

import enum
import functools
import operator
from dataclasses import dataclass
from typing import ClassVar

from netc.layers.registry import layer
from netc.layers.types import (
    Arity,
    Array,
    BackwardCall,
    BlobType,
    Coordinates,
    ForwardCall,
    Gradients,
    KeptType,
    Layer,
    OnnxBuilder,
    Reads,
    Refusal,
    Signature,
    Value,
    at_least,
)


class EltwiseOp(enum.Enum):
    """How the bottoms are combined."""

    PROD = 0
    SUM = 1
    MAX = 2


@layer("Eltwise", "eltwise_param")
@dataclass(frozen=True)
class Eltwise(Layer):
    """y = the sum (of coeff[i] * x[i]), the product or the maximum of the bottoms.

    Shapes: two or more bottoms of one shape -> top of that shape. `coeff` goes with SUM; MAX takes
    no notice of it, as in Caffe. Where the largest value occurs more than once, the gradient of MAX
    goes to one bottom: of the first two to the second, and a later one must be larger to win.
    With `stable_prod_grad: false` the gradient of PROD is y / x[i]: fewer operations, and NaN or
    infinite where x[i] is 0.

    Source: BVLC Caffe.
    """

    operation: EltwiseOp = EltwiseOp.SUM
    coeff: tuple[float, ...] = ()
    stable_prod_grad: bool = True

    bottoms: ClassVar[Arity] = at_least(2)

    def coordinates(self) -> Coordinates | None:
        return Coordinates()

    def infer(self, *bottoms: BlobType) -> Signature:
        first = bottoms[0]
        for index, other in enumerate(bottoms):
            if other.shape != first.shape:
                raise Refusal(
                    "the bottoms differ in shape",
                    expected=f"every bottom of shape {first}, like the first",
                    got=f"bottom {index} of shape {other}",
                )
        if self.coeff and self.operation is EltwiseOp.PROD:
            raise Refusal(
                "coeff goes with operation SUM",
                expected="no coeff with operation PROD",
                got=f"{len(self.coeff)} coeff",
                hint="scale the product with a Power layer",
                setting="coeff",
            )
        if self.coeff and len(self.coeff) != len(bottoms):
            raise Refusal(
                "the number of coeff does not match the number of bottoms",
                expected=f"{len(bottoms)} coeff, or none",
                got=f"{len(self.coeff)} coeff",
                setting="coeff",
            )
        if self.operation is EltwiseOp.MAX:
            return Signature((first,), kept=(KeptType("winner", first.shape, "int32"),))
        return Signature((first,))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        match self.operation:
            case EltwiseOp.SUM:
                return (self._sum(call),)
            case EltwiseOp.PROD:
                return (self._product(call),)
            case EltwiseOp.MAX:
                return (self._maximum(call),)

    def _sum(self, call: ForwardCall) -> Array:
        xp, y = call.xp, call.out[0]
        first, *rest = call.bottoms
        coeff, *coeffs = self.coeff or (1.0,) * len(call.bottoms)
        if coeff == coeffs[0] == 1:
            xp.add(first, rest[0], out=y)
            rest, coeffs = rest[1:], coeffs[1:]
        else:
            xp.multiply(first, coeff, out=y)
        for x, coeff in zip(rest, coeffs, strict=True):
            y += x if coeff == 1 else coeff * x
        return y

    def _product(self, call: ForwardCall) -> Array:
        first, second, *rest = call.bottoms
        y = call.xp.multiply(first, second, out=call.out[0])
        for x in rest:
            y *= x
        return y

    def _maximum(self, call: ForwardCall) -> Array:
        xp, winner = call.xp, call.kept[0]
        first, second, *rest = call.bottoms
        ahead = first > second
        y = xp.where(ahead, first, second)
        winner[...] = ~ahead
        for index, x in enumerate(rest, start=2):
            ahead = x > y
            y = xp.where(ahead, x, y)
            winner[ahead] = index
        return y

    def backward_reads(self) -> Reads:
        if self.operation is not EltwiseOp.PROD:
            return Reads.NOTHING
        return Reads.BOTTOM if self.stable_prod_grad else Reads.BOTTOM | Reads.TOP

    def backward(self, call: BackwardCall) -> Gradients:
        return Gradients(
            tuple(
                self._gradient(call, index) if wanted else None
                for index, wanted in enumerate(call.wants_bottoms)
            )
        )

    def _gradient(self, call: BackwardCall, index: int) -> Array:
        dy = call.top_diffs[0]
        match self.operation:
            case EltwiseOp.SUM:
                return dy * self.coeff[index] if self.coeff else dy
            case EltwiseOp.MAX:
                return dy * (call.kept[0] == index)
            case EltwiseOp.PROD:
                xs = call.bottoms
                if not self.stable_prod_grad:
                    return dy * (call.tops[0] / xs[index])
                return functools.reduce(operator.mul, (*xs[:index], *xs[index + 1 :]), dy)

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        match self.operation:
            case EltwiseOp.MAX:
                return (g.op("Max", *bottoms),)
            case EltwiseOp.PROD:
                return (functools.reduce(functools.partial(g.op, "Mul"), bottoms),)
            case EltwiseOp.SUM:
                if self.coeff == (1.0, -1.0):
                    return (g.op("Sub", *bottoms),)
                terms = [
                    x if coeff == 1 else g.op("Mul", x, g.constant(coeff))
                    for x, coeff in zip(bottoms, self.coeff or (1.0,) * len(bottoms), strict=True)
                ]
                return (g.op("Add" if len(terms) == 2 else "Sum", *terms),)

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        return 0 if self.operation is EltwiseOp.MAX else (len(bottoms) - 1) * bottoms[0].count
