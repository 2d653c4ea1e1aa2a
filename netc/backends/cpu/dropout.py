"""Dropout: the reference's random numbers, without its copies."""

from __future__ import annotations

import numpy as np

from netc.backends.base import Binding, Job, Prepared, Terms
from netc.backends.cpu.kernel import Impossible, Kernel, Scratch, move, positive, same_layout
from netc.layers.activation import Dropout
from netc.layers.types import Array, Phase


class DropoutKernel(Kernel):
    """TRAIN in C order, the order of the random numbers; TEST in whatever layout, nothing to do."""

    def __init__(self, job: Job) -> None:
        layer = job.node.layer
        assert isinstance(layer, Dropout)
        positive(job.bottoms[0])
        if not layer.scale_train:
            raise Impossible("scale_train: false")
        self._test = layer.phase is Phase.TEST
        self._desc, layout = same_layout(job)
        self._ratio = np.float32(layer.dropout_ratio)
        self._factor = np.float32(1 / (1 - layer.dropout_ratio))
        scratch = Scratch()
        if not self._test:
            layout = None
            self._draws = scratch.reserve(4 * int(np.prod(job.bottoms[0], dtype=np.int64)))
        self.terms = Terms(
            bottoms=(layout,),
            tops=(layout,),
            params=(),
            kept=job.node.kept,
            in_place=True,
            forward_scratch=scratch.nbytes,
        )

    def forward(self, binding: Binding) -> Prepared:
        x, y = binding.bottoms[0], binding.tops[0]
        if self._test:
            return self._passed_on(x, y)
        mask, random = binding.kept[0], binding.random
        draws = self._draws(binding).view("float32").reshape(mask.shape)

        def run() -> None:
            random().random(dtype=np.float32, out=draws)
            np.greater_equal(draws, self._ratio, out=mask)
            self._masked(x, mask, y)

        return run

    def backward(self, binding: Binding) -> Prepared:
        dy, dx = binding.top_diffs[0], binding.bottom_diffs[0]
        if self._test:
            return self._passed_on(dy, dx)
        mask = binding.kept[0]
        return lambda: self._masked(dy, mask, dx)

    def _masked(self, x: Array, mask: Array, out: Array) -> None:
        np.multiply(x, mask, out=out)
        np.multiply(out, self._factor, out=out)

    def _passed_on(self, x: Array, y: Array) -> Prepared:
        if x.ctypes.data == y.ctypes.data:
            return lambda: None
        return move(self._desc, x, self._desc, y)
