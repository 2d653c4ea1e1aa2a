"""InnerProduct, with a ReLU behind it where there is one: matrices (M, K) and (num_output, K).

The weights lie in the blocks that the forward pass asks for, which as a rule both gradients take
too: with weights of 9216 x 4096 in C order, the forward pass alone took 62 ms instead of 14.
"""

from __future__ import annotations

from netc.backends.base import Binding, Job, Layout, Prepared, Terms
from netc.backends.cpu import onednn
from netc.backends.cpu.activation import relu_backward, relu_post_op
from netc.backends.cpu.convolution import quick
from netc.backends.cpu.kernel import (
    Impossible,
    Kernel,
    Mover,
    Scratch,
    in_a_row,
    positive,
    required,
)
from netc.backends.cpu.onednn import Desc, any_layout, primitive
from netc.layers.activation import ReLU
from netc.layers.innerproduct import InnerProduct
from netc.layers.types import BlobType, Reads


class InnerProductKernel(Kernel):
    """Bottom and top in C order, the weights in the layout of the forward pass."""

    def __init__(self, job: Job) -> None:
        layer = job.node.layer
        assert isinstance(layer, InnerProduct)
        x = BlobType(job.bottoms[0])
        axis = x.axis(layer.axis)
        m, k = x.span(0, axis), x.span(axis)
        positive((m, k))
        self._relu: ReLU | None = None
        for node in job.nodes[1:]:
            assert isinstance(node.layer, ReLU)
            self._relu = node.layer
        if self._relu is not None and self._relu.negative_slope < 0:
            raise Impossible("this ReLU does not run with the layer before it")
        self._job = job
        self._x, self._y = Desc.plain((m, k)), Desc.plain((m, layer.num_output))
        shape = (layer.num_output, k)
        self._bias = Desc.plain((layer.num_output,)) if layer.bias_term else None
        # Transposed weights are C order for Caffe, but not for the library: they stay as they are.
        fixed = Desc.strided(shape, (1, layer.num_output)) if layer.transpose else None
        layout = job.params[0]
        if isinstance(layout, Layout) and layout.dims == shape and fixed is None:
            fixed = Desc.of(layout, shape)
        free = any_layout(shape)
        asked = [free] if fixed is None else [fixed] if layer.transpose else [fixed, free]
        self._forward = quick(
            (
                primitive(
                    "inner_product_forward",
                    onednn.FORWARD_TRAINING if job.train else onednn.FORWARD_INFERENCE,
                    self._x,
                    weight,
                    self._bias,
                    self._y,
                    post=relu_post_op(self._relu) if self._relu is not None else None,
                )
                for weight in asked
            ),
            "inner product",
        )
        self.weight = self._forward.desc(onednn.WEIGHTS_MD)
        scratch = Scratch()
        reorders = []
        self._want_weights = job.train and any(job.wants_params)
        self._want_data = job.train and job.wants_bottoms[0]
        self._wants_bias = len(job.wants_params) > 1 and job.wants_params[1]
        hint = None
        if self._want_data or self._want_weights:
            hint = required(
                primitive(
                    "inner_product_forward",
                    onednn.FORWARD_TRAINING,
                    self._x,
                    self.weight,
                    self._bias,
                    self._y,
                ),
                "inner product",
            )
        if self._want_data:
            self._data = quick(
                (
                    primitive("inner_product_backward_data", self._x, weight, self._y, hint)
                    for weight in (self.weight, free)
                ),
                "inner product for the gradient of the bottom",
            )
            self._for_data = Mover(self.weight, self._data.desc(onednn.WEIGHTS_MD), scratch)
            if self._for_data.differs:
                reorders.append("weights for backward")
        if self._want_weights:
            self._weights = quick(
                (
                    primitive(
                        "inner_product_backward_weights",
                        self._x,
                        weight,
                        self._bias if self._wants_bias else None,
                        self._y,
                        hint,
                    )
                    for weight in (self.weight, free)
                ),
                "inner product for the gradient of the weights",
            )
            wanted = self._weights.desc(onednn.DIFF_WEIGHTS_MD)
            self._to_weights = Mover(self.weight, wanted, scratch)
            if self._to_weights.differs:
                reorders.append("gradient of the weights")
            if not job.wants_params[0]:
                self._unused = scratch.reserve(self.weight.nbytes)
        reads = Reads.NOTHING
        if self._want_weights:
            reads |= Reads.BOTTOM
        if job.train and self._relu is not None:
            reads |= Reads.TOP
        self.terms = Terms(
            bottoms=(None,),
            tops=(None,),
            params=(None if layer.transpose else self.weight.layout, None)[: len(job.params)],
            reads=reads,
            backward_scratch=scratch.nbytes,
            reorders=tuple(reorders),
        )

    def forward(self, binding: Binding) -> Prepared:
        arrays = {
            onednn.SRC: (self._x, binding.bottoms[0]),
            onednn.WEIGHTS: (self.weight, binding.params[0]),
            onednn.DST: (self._y, binding.tops[0]),
        }
        if self._bias is not None:
            arrays[onednn.BIAS] = (self._bias, binding.params[1])
        return self._forward.bind(arrays)

    def backward(self, binding: Binding) -> Prepared:
        dy = binding.top_diffs[0]
        calls: list[Prepared] = []
        if self._relu is not None:
            calls.append(relu_backward(self._relu, self._y, binding.tops[0], dy, dy))
        if self._want_weights:
            dw = binding.param_diffs[0]
            if dw is None:
                # Only the bias is trained, and the library has no primitive for that alone.
                dw = self._unused(binding)
            to = self._to_weights
            arrays = {
                onednn.SRC: (self._x, binding.bottoms[0]),
                onednn.DIFF_DST: (self._y, dy),
                onednn.DIFF_WEIGHTS: (to.wanted, to.array(binding, dw)),
            }
            if self._wants_bias:
                assert self._bias is not None
                arrays[onednn.DIFF_BIAS] = (self._bias, binding.param_diffs[1])
            calls += [self._weights.bind(arrays), *to.after(binding, dw)]
        if self._want_data:
            weight, to = binding.params[0], self._for_data
            calls += to.before(binding, weight)
            calls.append(
                self._data.bind(
                    {
                        onednn.DIFF_DST: (self._y, dy),
                        onednn.WEIGHTS: (to.wanted, to.array(binding, weight)),
                        onednn.DIFF_SRC: (self._x, binding.bottom_diffs[0]),
                    }
                )
            )
        return in_a_row(calls)
