"""Softmax over any axis, and the loss on top of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from netc.backends.base import Binding, Job, Prepared, Terms
from netc.backends.cpu import onednn
from netc.backends.cpu.kernel import Impossible, Kernel, Mover, Scratch, fast, in_a_row, positive
from netc.backends.cpu.onednn import Desc, primitive
from netc.layers.labels import ScoreShape, class_index
from netc.layers.losses import SoftmaxWithLoss
from netc.layers.softmax import Softmax
from netc.layers.types import Array, Reads


class _Forward:
    """The softmax of scores in C order.

    The library is fast only where the scores of one place lie side by side. Elsewhere they are
    copied so, and the result is copied back.
    """

    def __init__(self, job: Job, axis: int, scratch: Scratch) -> None:
        shape = positive(job.bottoms[0])
        self.axis, self.plain = axis % len(shape), Desc.plain(shape)
        kind = onednn.FORWARD_TRAINING if job.train else onednn.FORWARD_INFERENCE
        found = {
            desc: primitive("softmax_forward", kind, onednn.SOFTMAX, desc, desc, self.axis)
            for desc in (self.plain, _side_by_side(shape, self.axis))
        }
        quick = [desc for desc, asked in found.items() if asked and not asked.is_slow]
        self.desc = quick[0] if quick else self.plain
        self.primitive = fast(found[self.desc], "softmax")
        self._move = Mover(self.plain, self.desc, scratch)

    def calls(self, binding: Binding, x: Array, y: Array) -> list[Prepared]:
        """Return the calls that write the softmax of x into y."""
        move = self._move
        run = self.primitive.bind(
            {
                onednn.SRC: (self.desc, move.array(binding, x)),
                onednn.DST: (self.desc, move.array(binding, y)),
            }
        )
        return [*move.before(binding, x), run, *move.after(binding, y)]


def _side_by_side(shape: Sequence[int], axis: int) -> Desc:
    """Return the layout in which an axis is the fastest, the others in their order."""
    strides, step = [0] * len(shape), 1
    for i in (axis, *(i for i in reversed(range(len(shape))) if i != axis)):
        strides[i], step = step, step * shape[i]
    return Desc.strided(shape, strides)


class SoftmaxKernel(Kernel):
    """Scores in C order: they come from an inner product as a rule."""

    def __init__(self, job: Job) -> None:
        layer = job.node.layer
        assert isinstance(layer, Softmax)
        scratch, backward_scratch = Scratch(), Scratch()
        self._forward = _Forward(job, layer.axis, scratch)
        if job.train:
            desc, plain = self._forward.desc, self._forward.plain
            self._backward = fast(
                primitive(
                    "softmax_backward",
                    onednn.SOFTMAX,
                    desc,
                    desc,
                    desc,
                    self._forward.axis,
                    self._forward.primitive,
                ),
                "gradient of softmax",
            )
            self._top, self._diff = (Mover(plain, desc, backward_scratch) for _ in range(2))
        self.terms = Terms(
            bottoms=(None,),
            tops=(None,),
            params=(),
            reads=Reads.TOP if job.train else Reads.NOTHING,
            in_place=True,
            forward_scratch=scratch.nbytes,
            backward_scratch=backward_scratch.nbytes,
        )

    def forward(self, binding: Binding) -> Prepared:
        return in_a_row(self._forward.calls(binding, binding.bottoms[0], binding.tops[0]))

    def backward(self, binding: Binding) -> Prepared:
        y, dy, dx = binding.tops[0], binding.top_diffs[0], binding.bottom_diffs[0]
        top, diff, desc = self._top, self._diff, self._forward.desc
        run = self._backward.bind(
            {
                onednn.DST: (desc, top.array(binding, y)),
                onednn.DIFF_DST: (desc, diff.array(binding, dy)),
                onednn.DIFF_SRC: (desc, diff.array(binding, dx)),
            }
        )
        before = [*top.before(binding, y), *diff.before(binding, dy)]
        return in_a_row([*before, run, *diff.after(binding, dx)])


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
        scratch = Scratch()
        self._forward = _Forward(job, layer.axis, scratch)
        self.terms = Terms(
            bottoms=(None, None),
            tops=(None,),
            params=(),
            kept=job.node.kept,
            forward_scratch=scratch.nbytes,
        )

    def forward(self, binding: Binding) -> Prepared:
        (x, labels), loss = binding.bottoms, binding.tops[0]
        prob, index = binding.kept
        scores = prob.reshape(self._sizes.sizes)
        layer, classes = self._layer, self._sizes.classes
        softmax = in_a_row(self._forward.calls(binding, x, prob))

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
