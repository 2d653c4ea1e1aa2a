"""Softmax over any axis."""

from __future__ import annotations

from netc.backends.base import Binding, Job, Prepared, Terms
from netc.backends.cpu import onednn
from netc.backends.cpu.kernel import Kernel, fast, positive
from netc.backends.cpu.onednn import Desc, primitive
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
