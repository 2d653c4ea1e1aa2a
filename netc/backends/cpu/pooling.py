"""MAX and AVE pooling, with an activation behind it where there is one.

The library divides by the whole window, or by the pixels in it; Caffe by the part of the window
that lies in the image or its padding. These are the same where no window reaches past the padding
(or, without padding, past the image); other means are declined.
"""

from __future__ import annotations

from netc.backends.base import Binding, Job, Prepared, Terms
from netc.backends.cpu import onednn
from netc.backends.cpu.activation import formula_behind
from netc.backends.cpu.kernel import (
    Impossible,
    Kernel,
    Workspace,
    fast,
    in_a_row,
    padding_behind,
    positive,
    same_layout,
)
from netc.backends.cpu.onednn import PostOps, dims_of, primitive
from netc.layers.pooling import PoolMethod, WindowPooling
from netc.layers.types import BlobType, Reads


class PoolingKernel(Kernel):
    """One bottom, one top, and for MAX the places of the maxima."""

    def __init__(self, job: Job) -> None:
        layer = job.node.layer
        assert isinstance(layer, WindowPooling)
        if layer.pool is PoolMethod.STOCHASTIC:
            raise Impossible("STOCHASTIC pooling")
        if len(job.tops) > 1:
            raise Impossible("the mask is wanted")
        slides = layer.slides(BlobType(job.bottoms[0]))
        if len(slides) > 3:
            raise Impossible("more than three spatial axes")
        positive(job.bottoms[0])
        if any((s.places - 1) * s.stride - s.pad >= s.pixels for s in slides):
            raise Impossible("a window lies wholly behind the image")
        self._formula = formula_behind(job)
        post = None if self._formula is None else self._formula.after(PostOps())
        algorithm = onednn.POOLING_MAX
        if layer.pool is PoolMethod.AVE:
            whole = layer.whole_area
            padded = whole or any(s.pad for s in slides)
            algorithm = onednn.POOLING_WITH_PADDING if padded else onednn.POOLING_WITHOUT_PADDING
            if padded and not whole and any(s.end_pad > s.pad for s in slides):
                raise Impossible("Caffe's divisor shrinks where a window reaches past the padding")
        window = (
            dims_of([s.stride for s in slides]),
            dims_of([s.kernel for s in slides]),
            dims_of([0] * len(slides)),
            dims_of([s.pad for s in slides]),
            dims_of([padding_behind(s) for s in slides]),
        )
        self._x, layout = same_layout(job)
        self._forward = fast(
            primitive(
                "pooling_forward",
                onednn.FORWARD_TRAINING if job.train else onednn.FORWARD_INFERENCE,
                algorithm,
                self._x,
                self._x.free(job.tops[0]),
                *window,
                post=post,
            ),
            "pooling",
        )
        self._y = self._forward.desc(onednn.DST_MD)
        if job.train:
            self._backward = fast(
                primitive("pooling_backward", algorithm, self._x, self._y, *window, self._forward),
                "gradient of pooling",
            )
        self._choice = Workspace("choice", self._forward if job.train else None)
        self.terms = Terms(
            bottoms=(layout,),
            tops=(self._y.layout,),
            params=(),
            kept=self._choice.kept,
            reads=Reads.TOP if job.train and self._formula is not None else Reads.NOTHING,
        )

    def forward(self, binding: Binding) -> Prepared:
        arrays = {
            onednn.SRC: (self._x, binding.bottoms[0]),
            onednn.DST: (self._y, binding.tops[0]),
            **self._choice.argument(binding),
        }
        return self._forward.bind(arrays)

    def backward(self, binding: Binding) -> Prepared:
        dy = binding.top_diffs[0]
        calls: list[Prepared] = []
        if self._formula is not None:
            calls.append(self._formula.backward(self._y, binding.tops[0], dy, dy))
        arrays = {
            onednn.DIFF_DST: (self._y, dy),
            onednn.DIFF_SRC: (self._x, binding.bottom_diffs[0]),
            **self._choice.argument(binding),
        }
        return in_a_row([*calls, self._backward.bind(arrays)])
