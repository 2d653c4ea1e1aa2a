"""Softmax over the last axis, and the loss on top of it.

Over other axes the library has plain loops only. Copied to where the scores of one place lie side
by side, and back, (4, 21, 250, 250) took it 40 ms on one thread, NumPy 14 as they lay: the
reference runs these.
"""

from __future__ import annotations

import numpy as np

from netc.backends.base import Binding, Job, Prepared, Terms
from netc.backends.cpu import onednn
from netc.backends.cpu.kernel import Impossible, Kernel, fast, positive
from netc.backends.cpu.onednn import Desc, primitive
from netc.layers.labels import ScoreShape, class_index
from netc.layers.losses import SoftmaxWithLoss
from netc.layers.softmax import Softmax
from netc.layers.types import Reads


class SoftmaxKernel(Kernel):
    """Scores in C order: they come from an inner product as a rule."""

    def __init__(self, job: Job) -> None:
        layer = job.node.layer
        assert isinstance(layer, Softmax)
        shape = positive(job.bottoms[0])
        axis = layer.axis % len(shape)
        self._desc = Desc.plain(shape)
        self._forward = fast(
            primitive(
                "softmax_forward",
                onednn.FORWARD_TRAINING if job.train else onednn.FORWARD_INFERENCE,
                onednn.SOFTMAX,
                self._desc,
                self._desc,
                axis,
            ),
            "softmax",
        )
        if job.train:
            self._backward = fast(
                primitive(
                    "softmax_backward",
                    onednn.SOFTMAX,
                    self._desc,
                    self._desc,
                    self._desc,
                    axis,
                    self._forward,
                ),
                "gradient of softmax",
            )
        self.terms = Terms(
            bottoms=(None,),
            tops=(None,),
            params=(),
            reads=Reads.TOP if job.train else Reads.NOTHING,
            in_place=True,
        )

    def forward(self, binding: Binding) -> Prepared:
        return self._forward.bind(
            {
                onednn.SRC: (self._desc, binding.bottoms[0]),
                onednn.DST: (self._desc, binding.tops[0]),
            }
        )

    def backward(self, binding: Binding) -> Prepared:
        return self._backward.bind(
            {
                onednn.DST: (self._desc, binding.tops[0]),
                onednn.DIFF_DST: (self._desc, binding.top_diffs[0]),
                onednn.DIFF_SRC: (self._desc, binding.bottom_diffs[0]),
            }
        )


class SoftmaxLossKernel(Kernel):
    """SoftmaxWithLoss without its second top: the library's softmax, then a pass over the labels.

    The scores in C order.
    """

    def __init__(self, job: Job) -> None:
        layer = job.node.layer
        assert isinstance(layer, SoftmaxWithLoss)
        if len(job.tops) > 1:
            raise Impossible("the probabilities are wanted as a top")
        shape = positive(job.bottoms[0])
        self._layer, self._sizes = layer, ScoreShape.of(shape, layer.axis)
        self._desc = Desc.plain(shape)
        self._forward = fast(
            primitive(
                "softmax_forward",
                onednn.FORWARD_TRAINING if job.train else onednn.FORWARD_INFERENCE,
                onednn.SOFTMAX,
                self._desc,
                self._desc,
                layer.axis % len(shape),
            ),
            "softmax",
        )
        self.terms = Terms(bottoms=(None, None), tops=(None,), params=(), kept=job.node.kept)

    def forward(self, binding: Binding) -> Prepared:
        (x, labels), loss = binding.bottoms, binding.tops[0]
        prob, index = binding.kept
        scores = prob.reshape(self._sizes.sizes)
        layer, classes = self._layer, self._sizes.classes
        softmax = self._forward.bind({onednn.SRC: (self._desc, x), onednn.DST: (self._desc, prob)})

        def run() -> None:
            found = class_index(np, labels, classes, layer.ignore_label)
            index[...] = found.reshape(index.shape)
            softmax()
            costs = layer.costs(np, scores, index)
            valid = index >= 0
            if layer.ignore_label is not None:
                costs = np.where(valid, costs, 0)
            loss[...] = costs.sum() / layer.divisor(np, valid, len(index), costs)

        return run

    def backward(self, binding: Binding) -> Prepared:
        prob, index = binding.kept
        scores, layer = prob.reshape(self._sizes.sizes), self._layer
        dy = binding.top_diffs[0]
        diff = binding.bottom_diffs[0]
        assert diff is not None
        dx = diff.reshape(self._sizes.sizes)

        def run() -> None:
            valid = index >= 0
            weight = dy / layer.divisor(np, valid, len(index), prob)
            if layer.ignore_label is not None:
                weight = weight * valid[:, None, :]
            layer.gradient(np, scores, index, weight, out=dx)

        return run
