"""Permute: one copy, from whatever layout the bottom has to the other order of axes."""

from __future__ import annotations

from netc.backends.base import Binding, Job, Prepared, Terms
from netc.backends.cpu import onednn
from netc.backends.cpu.kernel import Kernel, given_desc, move, positive
from netc.backends.cpu.onednn import Desc
from netc.layers.permute import Permute


class PermuteKernel(Kernel):
    """The top, in C order, is seen as the bottom with strides of its own."""

    def __init__(self, job: Job) -> None:
        layer = job.node.layer
        assert isinstance(layer, Permute)
        shape = positive(job.bottoms[0])
        self._x = given_desc(job, 0, shape)
        strides, step = [0] * len(shape), 1
        for axis in reversed(layer.axes_of_bottom(len(shape))):
            strides[axis], step = step, step * shape[axis]
        self._y = Desc.strided(shape, strides)
        onednn.reorder(self._x, self._y)
        self.terms = Terms(bottoms=(self._x.layout,), tops=(None,), params=())

    def forward(self, binding: Binding) -> Prepared:
        return move(self._x, binding.bottoms[0], self._y, binding.tops[0])

    def backward(self, binding: Binding) -> Prepared:
        return move(self._y, binding.top_diffs[0], self._x, binding.bottom_diffs[0])
