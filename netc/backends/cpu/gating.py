"""Axpy, and Scale by a blob with a factor for each channel of each item, with an activation behind.

The library multiplies fast where the factors lie as the blob does, so that they may be copied. The
gradient of a factor is a sum over the places of its channel: their mean, which pooling finds in any
layout, times their number.
"""

from __future__ import annotations

from math import prod

from netc.backends.base import Binding, Job, Prepared, Terms
from netc.backends.cpu import onednn
from netc.backends.cpu.activation import formula_behind
from netc.backends.cpu.kernel import (
    Impossible,
    Kernel,
    Mover,
    Scratch,
    fast,
    in_a_row,
    move,
    positive,
    same_layout,
)
from netc.backends.cpu.normalization import NormKernel
from netc.backends.cpu.onednn import Desc, PostOps, dims_of, primitive
from netc.layers.gating import Axpy
from netc.layers.scale import Scale
from netc.layers.types import Reads


def scale_kernel(job: Job) -> Kernel:
    """Return the kernel for a Scale layer, by where its factors come from."""
    return NormKernel(job) if len(job.node.bottoms) == 1 else GateKernel(job)


class GateKernel(Kernel):
    """y = a * x, or a * x + r for Axpy; a has one value for each channel of each item."""

    def __init__(self, job: Job) -> None:
        self._find(job)
        shape = positive(job.bottoms[self._at])
        each = (*shape[:2], *[1] * (len(shape) - 2))
        if not 3 <= len(shape) <= 5:
            raise Impossible("the blob has fewer than 3 or more than 5 axes")
        if prod(job.bottoms[self._gate]) != prod(each):
            raise Impossible("the factors are not one for each channel of each item")
        self._x, layout = same_layout(job, self._at)
        if self._x.dims != shape or self._x.dtype == "uint16":
            raise Impossible("the blob is not seen in the shape that has the channels, in float32")
        wanted = Desc.blocked(each, self._x.name)
        if wanted is None:
            raise Impossible(f"the factors cannot lie like {layout}")
        # Factors of the shape that the library sees come as it wants them.
        given = wanted if job.bottoms[self._gate] == each else Desc.plain(each)
        forward_scratch, scratch = Scratch(), Scratch()
        self._factors = Mover(given, wanted, forward_scratch)
        self._formula = formula_behind(job)
        post = PostOps() if self._rest is not None or self._formula is not None else None
        if post is not None and self._rest is not None:
            self._rest_number = post.binary(onednn.ADD, self._x)
        if post is not None and self._formula is not None:
            self._formula.after(post)
        multiply = ("binary", onednn.MULTIPLY, self._x, wanted, self._x)
        self._forward = fast(primitive(*multiply, post=post), "product with factors")
        reads = Reads.NOTHING
        if job.train:
            self._prepare_backward(job, given, wanted, scratch)
            reads = Reads.BOTTOM if self._formula is None else Reads.BOTTOM | Reads.TOP
        layouts = [layout] * len(job.bottoms)
        layouts[self._gate] = given.layout
        self.terms = Terms(
            bottoms=tuple(layouts),
            tops=(layout,),
            params=(),
            reads=reads,
            forward_scratch=forward_scratch.nbytes,
            backward_scratch=scratch.nbytes,
        )

    def _find(self, job: Job) -> None:
        """Find out which bottom is what."""
        self._rest: int | None = None
        match job.node.layer:
            case Axpy():
                self._gate, self._at, self._rest = 0, 1, 2
            case Scale(bias_term=False, axis=axis) if axis % len(job.bottoms[0]) == 0:
                self._at, self._gate = 0, 1
            case _:
                raise Impossible("the factors are not one for each channel of each item")

    def _prepare_backward(self, job: Job, given: Desc, wanted: Desc, scratch: Scratch) -> None:
        self._multiply = fast(
            primitive("binary", onednn.MULTIPLY, self._x, wanted, self._x), "product with factors"
        )
        self._factors_again = Mover(given, wanted, scratch)
        self._wants = job.wants_bottoms
        if not self._wants[self._gate]:
            return
        self._product = fast(
            primitive("binary", onednn.MULTIPLY, self._x, self._x, self._x), "product"
        )
        places = self._x.dims[2:]
        ones, zeros = dims_of([1] * len(places)), dims_of([0] * len(places))
        self._sum = fast(
            primitive(
                "pooling_forward",
                onednn.FORWARD_INFERENCE,
                onednn.POOLING_WITHOUT_PADDING,
                self._x,
                wanted,
                *(ones, dims_of(places), zeros, zeros, zeros),
                post=PostOps().eltwise(onednn.LINEAR, float(prod(places))),
            ),
            "sum over places",
        )
        self._products = scratch.reserve(self._x.nbytes)
        self._sums = Mover(given, wanted, scratch)

    def forward(self, binding: Binding) -> Prepared:
        factors = binding.bottoms[self._gate]
        arrays = {
            onednn.SRC: (self._x, binding.bottoms[self._at]),
            onednn.SRC_1: (self._factors.wanted, self._factors.array(binding, factors)),
            onednn.DST: (self._x, binding.tops[0]),
        }
        if self._rest is not None:
            arrays[self._rest_number] = (self._x, binding.bottoms[self._rest])
        return in_a_row([*self._factors.before(binding, factors), self._forward.bind(arrays)])

    def backward(self, binding: Binding) -> Prepared:
        dy, x = binding.top_diffs[0], binding.bottoms[self._at]
        calls: list[Prepared] = []
        if self._formula is not None:
            calls.append(self._formula.backward(self._x, binding.tops[0], dy, dy))
        dfactors = binding.bottom_diffs[self._gate]
        if dfactors is not None:
            products = self._products(binding)
            sums = self._sums.array(binding, dfactors)
            calls += [
                self._product.bind(
                    {
                        onednn.SRC: (self._x, dy),
                        onednn.SRC_1: (self._x, x),
                        onednn.DST: (self._x, products),
                    }
                ),
                self._sum.bind(
                    {onednn.SRC: (self._x, products), onednn.DST: (self._sums.wanted, sums)}
                ),
                *self._sums.after(binding, dfactors),
            ]
        dx = binding.bottom_diffs[self._at]
        if dx is not None:
            factors, again = binding.bottoms[self._gate], self._factors_again
            arrays = {
                onednn.SRC: (self._x, dy),
                onednn.SRC_1: (again.wanted, again.array(binding, factors)),
                onednn.DST: (self._x, dx),
            }
            calls += [*again.before(binding, factors), self._multiply.bind(arrays)]
        if self._rest is not None:
            drest = binding.bottom_diffs[self._rest]
            if drest is not None:
                calls.append(move(self._x, dy, self._x, drest))
        return in_a_row(calls)
