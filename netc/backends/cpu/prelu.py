"""PReLU with a slope for each channel, in any layout."""

from __future__ import annotations

from netc.backends.base import Binding, Job, Prepared, Terms
from netc.backends.cpu import onednn
from netc.backends.cpu.kernel import (
    Impossible,
    Kernel,
    Mover,
    Scratch,
    fast,
    in_a_row,
    positive,
    same_layout,
)
from netc.backends.cpu.onednn import Desc, primitive
from netc.layers.activation import PReLU
from netc.layers.types import Reads


class PReluKernel(Kernel):
    """The library wants the slopes to lie as the blob does, so that they may have to be copied."""

    def __init__(self, job: Job) -> None:
        layer = job.node.layer
        assert isinstance(layer, PReLU)
        if layer.channel_shared:
            raise Impossible("one slope for all channels")
        shape = positive(job.bottoms[0])
        self._x, layout = same_layout(job)
        if self._x.dims != shape:
            raise Impossible("the blob is not seen in the shape that has the channels")
        each = (1, shape[1], *[1] * (len(shape) - 2))
        slopes = Desc.blocked(each, self._x.name)
        if slopes is None:
            raise Impossible(f"the slopes cannot lie like {layout}")
        forward_scratch, scratch = Scratch(), Scratch()
        self._slopes = Mover(Desc.plain(each), slopes, forward_scratch)
        self._slopes_again = Mover(Desc.plain(each), slopes, scratch)
        self._slopes_diff = Mover(Desc.plain(each), slopes, scratch)
        self._forward = fast(
            primitive(
                "prelu_forward",
                onednn.FORWARD_TRAINING if job.train else onednn.FORWARD_INFERENCE,
                self._x,
                slopes,
                self._x,
            ),
            "PReLU",
        )
        if job.train:
            self._backward = fast(
                primitive(
                    "prelu_backward", self._x, slopes, self._x, slopes, self._x, self._forward
                ),
                "gradient of PReLU",
            )
            self._unused_x = scratch.reserve(0 if job.wants_bottoms[0] else self._x.nbytes)
            self._unused_slopes = scratch.reserve(4 * shape[1])
        self.terms = Terms(
            bottoms=(layout,),
            tops=(layout,),
            params=(None,),
            reads=Reads.BOTTOM if job.train else Reads.NOTHING,
            in_place=True,
            forward_scratch=forward_scratch.nbytes,
            backward_scratch=scratch.nbytes,
        )

    def forward(self, binding: Binding) -> Prepared:
        slopes = binding.params[0]
        run = self._forward.bind(
            {
                onednn.SRC: (self._x, binding.bottoms[0]),
                onednn.WEIGHTS: (self._slopes.wanted, self._slopes.array(binding, slopes)),
                onednn.DST: (self._x, binding.tops[0]),
            }
        )
        return in_a_row([*self._slopes.before(binding, slopes), run])

    def backward(self, binding: Binding) -> Prepared:
        slopes, diff = binding.params[0], binding.param_diffs[0]
        dx = binding.bottom_diffs[0]
        if dx is None:
            dx = self._unused_x(binding)
        if diff is None:
            diff = self._unused_slopes(binding).view("float32")
        again, back = self._slopes_again, self._slopes_diff
        run = self._backward.bind(
            {
                onednn.SRC: (self._x, binding.bottoms[0]),
                onednn.WEIGHTS: (again.wanted, again.array(binding, slopes)),
                onednn.DIFF_DST: (self._x, binding.top_diffs[0]),
                onednn.DIFF_SRC: (self._x, dx),
                onednn.DIFF_WEIGHTS: (back.wanted, back.array(binding, diff)),
            }
        )
        return in_a_row([*again.before(binding, slopes), run, *back.after(binding, diff)])
