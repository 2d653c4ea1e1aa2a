"""Eltwise SUM, with an activation behind it where there is one."""

from __future__ import annotations

from ctypes import POINTER, c_float, c_int, c_void_p, cast

from netc.backends.base import Binding, Job, Prepared, Terms
from netc.backends.cpu import onednn
from netc.backends.cpu.activation import Formula, formula_of
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


class SumKernel(Kernel):
    """y = sum of coeff[i] * x[i], all in the layout of the first that has one."""

    def __init__(self, job: Job) -> None:
        layer = job.node.layer
        assert isinstance(layer, Eltwise)
        if layer.operation is not EltwiseOp.SUM:
            raise Impossible(f"operation {layer.operation.name}")
        self._formula: Formula | None = None
        for node in job.nodes[1:]:
            self._formula = formula_of(node.layer)
        if job.train and self._formula is not None and self._formula.by_top is None:
            raise Impossible("backward has to see what the activation is applied to")
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
