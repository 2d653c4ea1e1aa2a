"""What follows a convolution or an inner product and runs inside it, on each result as it is made.

In this order, each of which may be absent: layers that multiply and shift every channel (BatchNorm
with stored statistics, Scale, BN), an Eltwise SUM with one more blob (the shortcut of a residual
net), an activation. Factors and shifts are computed from the params in each pass, so that they
follow whatever changes these: a few vectors, where folded weights would be those of the whole net.

The shortcut is read where it lies. Were it added to the target, lying there, oneDNN 3.2 would take
its plain loops for blocked layouts with scaled channels.
"""

from __future__ import annotations

import numpy as np

from netc.backends.base import Binding, Job, Prepared
from netc.backends.cpu import onednn
from netc.backends.cpu.activation import Formula, formula_of
from netc.backends.cpu.kernel import Impossible, Scratch
from netc.backends.cpu.normalization import Affine, affine_of
from netc.backends.cpu.onednn import Desc, PostOps, any_layout
from netc.graph.types import Node
from netc.layers.activation import PReLU
from netc.layers.bn import AffineNorm
from netc.layers.eltwise import Eltwise, EltwiseOp
from netc.layers.normalization import BatchNorm
from netc.layers.scale import Bias, Scale
from netc.layers.types import Array


class Epilogue:
    """The layers of a chain behind its first.

    `dims` is the shape of the results as the library sees it, channels on axis 1, `dtype` its word
    for what they are. `post` is the attribute for the primitive, None where nothing follows;
    `formula` the activation.
    """

    def __init__(
        self, job: Job, dims: tuple[int, ...], scratch: Scratch, dtype: int = onednn.F32
    ) -> None:
        self.formula: Formula | None = None
        self._channels = Desc.plain((1, dims[1], *[1] * (len(dims) - 2)))
        self._affine: list[tuple[Affine, slice]] = []
        self._slopes: slice | None = None
        self._summed = False
        shared = False
        end = len(job.node.params)
        for node in job.nodes[1:]:
            start, end = end, end + len(node.params)
            match node.layer:
                case Eltwise():
                    self._check_sum(job, node)
                    self._summed = True
                case PReLU(channel_shared=shared):
                    self._check_channels(job, dims)
                    self._slopes = slice(start, end)
                case BatchNorm() | AffineNorm() | Scale() | Bias():
                    self._check_channels(job, dims)
                    self._affine.append((affine_of(node, dims), slice(start, end)))
                case _:
                    self.formula = formula_of(node.layer)
        if job.train and (self._affine or self._slopes):
            raise Impossible("what has params runs with the layer before it for inference only")
        if job.train and self.formula is not None:
            self.formula.check_gradient(by_top=True)
        self.post: PostOps | None = PostOps() if len(job.nodes) > 1 else None
        if self.post is None:
            return
        if self._affine:
            self._cuts = [scratch.reserve(4 * dims[1]) for _ in range(2)]
            self._numbers = [
                self.post.binary(kind, self._channels) for kind in (onednn.MULTIPLY, onednn.ADD)
            ]
        if self._summed:
            self._shortcut = self.post.binary(onednn.ADD, any_layout(dims, dtype))
        if self._slopes is not None:
            self._slope = Desc.plain((1 if shared else dims[1],))
            self._slope_number = self.post.prelu(per_channel=not shared)
        if self.formula is not None:
            self.formula.after(self.post)

    def _check_sum(self, job: Job, node: Node) -> None:
        assert isinstance(node.layer, Eltwise)
        if node.layer.operation is not EltwiseOp.SUM or set(node.layer.coeff) - {1.0}:
            raise Impossible("this Eltwise does not run with the layer before it")
        if len(node.bottoms) != 2 or len(job.bottoms) != len(job.node.bottoms) + 1:
            raise Impossible("only a sum with one other blob runs with the layer before it")

    def _check_channels(self, job: Job, dims: tuple[int, ...]) -> None:
        if job.tops[0] != dims:
            raise Impossible("the results are not seen in the shape that has the channels")

    @property
    def takes_bias(self) -> bool:
        """Whether the bias of the first layer is part of the shift, and not the primitive's."""
        return bool(self._affine)

    @property
    def n_bottoms(self) -> int:
        """How many blobs are read besides those of the first layer."""
        return int(self._summed)

    def arguments(self, binding: Binding, desc: Desc) -> dict[int, tuple[Desc, Array]]:
        """Return what to bind besides; `desc` is how results and shortcut lie."""
        found = {}
        if self._affine:
            for number, cut in zip(self._numbers, self._cuts, strict=True):
                found[number] = self._channels, cut(binding)
        if self._summed:
            found[self._shortcut] = desc, binding.bottoms[-1]
        if self._slopes is not None:
            found[self._slope_number] = self._slope, binding.params[self._slopes][0]
        return found

    def before(self, binding: Binding, bias: Array | None) -> list[Prepared]:
        """Return the calls to make before the primitive; `bias` is that of the first layer."""
        if not self._affine:
            return []
        factor, shift = (cut(binding).view("float32") for cut in self._cuts)
        layers = [(affine, binding.params[which]) for affine, which in self._affine]

        def combine() -> None:
            factor.fill(1)
            np.copyto(shift, 0 if bias is None else bias)
            for affine, params in layers:
                more, then = affine(params)
                np.multiply(factor, more, out=factor)
                np.multiply(shift, more, out=shift)
                np.add(shift, then, out=shift)

        return [combine]

    def gradient(self, binding: Binding, desc: Desc) -> list[Prepared]:
        """Return the calls that take the diff of the top through the activation, in place."""
        if self.formula is None:
            return []
        dy = binding.top_diffs[0]
        return [self.formula.backward(desc, binding.tops[0], dy, dy)]
