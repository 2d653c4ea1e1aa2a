"""Eltwise, with an activation behind it where there is one."""

from __future__ import annotations

from ctypes import POINTER, c_float, c_int, c_void_p, cast

from netc.backends.base import Binding, Job, Prepared, Terms
from netc.backends.cpu import onednn
from netc.backends.cpu.activation import formula_behind
from netc.backends.cpu.kernel import (
    Impossible,
    Kernel,
    common_layout,
    in_a_row,
    move,
    required,
)
from netc.backends.cpu.onednn import Desc, PostOps, Primitive, primitive
from netc.layers.eltwise import Eltwise, EltwiseOp
from netc.layers.types import Array, Reads


def eltwise_kernel(job: Job) -> Kernel:
    """Return the kernel for the operation of an Eltwise layer."""
    layer = job.node.layer
    assert isinstance(layer, Eltwise)
    match layer.operation:
        case EltwiseOp.SUM:
            return SumKernel(job)
        case EltwiseOp.PROD:
            return ProductKernel(job)
        case EltwiseOp.MAX:
            return MaximumKernel(job)


class SumKernel(Kernel):
    """y = sum of coeff[i] * x[i], all in the layout of the first that has one."""

    def __init__(self, job: Job) -> None:
        layer = job.node.layer
        assert isinstance(layer, Eltwise)
        self._formula = formula_behind(job)
        n = len(job.bottoms)
        self._coeffs = layer.coeff or (1.0,) * n
        self._desc, layout = common_layout(job)
        self._pair = n == 2 and self._coeffs == (1.0, 1.0)
        if self._pair:
            post = None if self._formula is None else self._formula.after(PostOps())
            found = primitive("binary", onednn.ADD, self._desc, self._desc, self._desc, post=post)
        elif self._formula is not None:
            raise Impossible("only a plain sum of two runs with the activation behind it")
        else:
            found = sum_of(self._desc, self._coeffs)
        self._forward = required(found, "sum")
        self.terms = Terms(
            bottoms=(layout,) * n,
            tops=(layout,),
            params=(),
            reads=Reads.TOP if job.train and self._formula is not None else Reads.NOTHING,
            in_place=True,
        )

    def forward(self, binding: Binding) -> Prepared:
        numbers = (
            (onednn.SRC, onednn.SRC_1)
            if self._pair
            else tuple(onednn.MULTIPLE_SRC + i for i in range(len(binding.bottoms)))
        )
        arrays = {
            number: (self._desc, x) for number, x in zip(numbers, binding.bottoms, strict=True)
        }
        return self._forward.bind({**arrays, onednn.DST: (self._desc, binding.tops[0])})

    def backward(self, binding: Binding) -> Prepared:
        dy = binding.top_diffs[0]
        calls: list[Prepared] = []
        if self._formula is not None:
            calls.append(self._formula.backward(self._desc, binding.tops[0], dy, dy))
        # The first may lie where dy lies, so it comes last.
        for coeff, dx in reversed(list(zip(self._coeffs, binding.bottom_diffs, strict=True))):
            if dx is not None:
                calls += self._scaled(coeff, dy, dx)
        return in_a_row(calls)

    def _scaled(self, coeff: float, dy: Array, dx: Array) -> list[Prepared]:
        if coeff == 1:
            if dx.ctypes.data == dy.ctypes.data:
                return []
            return [move(self._desc, dy, self._desc, dx)]
        scaled = required(
            primitive(
                "eltwise_forward",
                onednn.FORWARD_TRAINING,
                onednn.LINEAR,
                self._desc,
                self._desc,
                float(coeff),
                0.0,
            ),
            "product with a number",
        )
        return [scaled.bind({onednn.SRC: (self._desc, dy), onednn.DST: (self._desc, dx)})]


def sum_of(desc: Desc, coeffs: tuple[float, ...]) -> Primitive | None:
    """Ask for the weighted sum of arrays that lie alike."""
    n = len(coeffs)
    factors = (c_float * n)(*coeffs)
    descs = (c_void_p * n)(*(desc.handle for _ in coeffs))
    return primitive(
        "sum",
        desc,
        c_int(n),
        cast(factors, POINTER(c_float)),
        cast(descs, POINTER(c_void_p)),
    )


class PairwiseKernel(Kernel):
    """Base of products and maxima: the bottoms are combined one after the other, in the top."""

    algorithm: int

    def __init__(self, job: Job) -> None:
        self._n = len(job.bottoms)
        self._formula = formula_behind(job)
        self._desc, layout = common_layout(job)
        self._first = self._pair(self.algorithm, last=self._n == 2)
        self._next = self._pair(self.algorithm) if self._n > 3 else None
        self._last = self._pair(self.algorithm, last=True) if self._n > 2 else None
        reads = Reads.NOTHING
        if job.train:
            reads = self.reads(job)
            reads |= Reads.NOTHING if self._formula is None else Reads.TOP
        self.terms = Terms(bottoms=(layout,) * self._n, tops=(layout,), params=(), reads=reads)

    def reads(self, job: Job) -> Reads:
        """Return what the gradient looks at; Impossible where there is none."""
        raise NotImplementedError

    def gradient(self, binding: Binding, i: int, dy: Array, dx: Array) -> list[Prepared]:
        """Return the calls for the gradient of bottom i."""
        raise NotImplementedError

    def _pair(self, algorithm: int, *, last: bool = False) -> Primitive:
        post = self._formula.after(PostOps()) if last and self._formula is not None else None
        found = primitive("binary", algorithm, self._desc, self._desc, self._desc, post=post)
        return required(found, "operation on two blobs")

    def _bind(self, pair: Primitive, a: Array, b: Array, out: Array) -> Prepared:
        return pair.bind(
            {
                onednn.SRC: (self._desc, a),
                onednn.SRC_1: (self._desc, b),
                onednn.DST: (self._desc, out),
            }
        )

    def forward(self, binding: Binding) -> Prepared:
        y = binding.tops[0]
        first, second, *rest = binding.bottoms
        calls = [self._bind(self._first, first, second, y)]
        for i, x in enumerate(rest, start=3):
            pair = self._last if i == self._n else self._next
            assert pair is not None
            calls.append(self._bind(pair, y, x, y))
        return in_a_row(calls)

    def backward(self, binding: Binding) -> Prepared:
        dy = binding.top_diffs[0]
        calls: list[Prepared] = []
        if self._formula is not None:
            calls.append(self._formula.backward(self._desc, binding.tops[0], dy, dy))
        for i, dx in enumerate(binding.bottom_diffs):
            if dx is not None:
                calls += self.gradient(binding, i, dy, dx)
        return in_a_row(calls)


class ProductKernel(PairwiseKernel):
    """The gradient for a bottom is the product of the others, or y / x for those who ask for it."""

    algorithm = onednn.MULTIPLY

    def reads(self, job: Job) -> Reads:
        layer = job.node.layer
        assert isinstance(layer, Eltwise)
        self._divides = not layer.stable_prod_grad
        if self._divides and self._formula is not None:
            raise Impossible("the gradient looks at the product before the activation")
        self._times = self._pair(onednn.MULTIPLY)
        self._over = self._pair(onednn.DIVIDE) if self._divides else None
        return Reads.BOTTOM | Reads.TOP if self._divides else Reads.BOTTOM

    def gradient(self, binding: Binding, i: int, dy: Array, dx: Array) -> list[Prepared]:
        xs = binding.bottoms
        if self._over is not None:
            return [
                self._bind(self._over, binding.tops[0], xs[i], dx),
                self._bind(self._times, dx, dy, dx),
            ]
        first, *rest = (*xs[:i], *xs[i + 1 :])
        calls = [self._bind(self._times, dy, first, dx)]
        return calls + [self._bind(self._times, dx, x, dx) for x in rest]


class MaximumKernel(PairwiseKernel):
    """Where the two are equal, the gradient goes to the second."""

    algorithm = onednn.MAXIMUM

    def reads(self, job: Job) -> Reads:
        if self._n > 2:
            raise Impossible("the gradient for more than two bottoms")
        self._times = self._pair(onednn.MULTIPLY)
        self._wins = self._pair(onednn.GREATER), self._pair(onednn.AT_LEAST)
        return Reads.BOTTOM

    def gradient(self, binding: Binding, i: int, dy: Array, dx: Array) -> list[Prepared]:
        xs = binding.bottoms
        return [
            self._bind(self._wins[i], xs[i], xs[1 - i], dx),
            self._bind(self._times, dx, dy, dx),
        ]
