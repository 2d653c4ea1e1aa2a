"""InnerProduct, with a ReLU behind it where there is one: matrices (M, K) and (num_output, K)."""

from __future__ import annotations

from netc.backends.base import Binding, Job, Layout, Prepared, Terms
from netc.backends.cpu import onednn
from netc.backends.cpu.activation import relu_backward, relu_post_op
from netc.backends.cpu.convolution import quick
from netc.backends.cpu.kernel import Impossible, Kernel, Scratch, in_a_row, positive, required
from netc.backends.cpu.onednn import Desc, primitive
from netc.layers.activation import ReLU
from netc.layers.innerproduct import InnerProduct
from netc.layers.types import BlobType, Reads


class InnerProductKernel(Kernel):
    """The bottom and the weights in C order: both passes read them without a copy."""

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
        self._weight = (
            Desc.strided(shape, (1, layer.num_output)) if layer.transpose else Desc.plain(shape)
        )
        self._bias = Desc.plain((layer.num_output,)) if layer.bias_term else None
        layout = job.params[0]
        self._layout: Layout | None = None
        if isinstance(layout, Layout):
            raise Impossible("the weights lie as another layer wants them")
        self._forward = quick(
            [
                primitive(
                    "inner_product_forward",
                    onednn.FORWARD_TRAINING if job.train else onednn.FORWARD_INFERENCE,
                    self._x,
                    self._weight,
                    self._bias,
                    self._y,
                    post=relu_post_op(self._relu) if self._relu is not None else None,
                )
            ],
            "inner product",
        )
        scratch = Scratch()
        self._want_weights = job.train and any(job.wants_params)
        self._want_data = job.train and job.wants_bottoms[0]
        hint = None
        if self._want_data or self._want_weights:
            hint = required(
                primitive(
                    "inner_product_forward",
                    onednn.FORWARD_TRAINING,
                    self._x,
                    self._weight,
                    self._bias,
                    self._y,
                ),
                "inner product",
            )
        if self._want_data:
            self._data = quick(
                [primitive("inner_product_backward_data", self._x, self._weight, self._y, hint)],
                "inner product for the gradient of the bottom",
            )
        if self._want_weights:
            self._wants_bias = len(job.wants_params) > 1 and job.wants_params[1]
            self._weights = quick(
                [
                    primitive(
                        "inner_product_backward_weights",
                        self._x,
                        self._weight,
                        self._bias if self._wants_bias else None,
                        self._y,
                        hint,
                    )
                ],
                "inner product for the gradient of the weights",
            )
            if not job.wants_params[0]:
                self._unused = scratch.reserve(self._weight.nbytes)
        reads = Reads.NOTHING
        if self._want_weights:
            reads |= Reads.BOTTOM
        if job.train and self._relu is not None:
            reads |= Reads.TOP
        self.terms = Terms(
            bottoms=(None,),
            tops=(None,),
            params=(None,) * len(job.params),
            reads=reads,
            backward_scratch=scratch.nbytes,
        )

    def forward(self, binding: Binding) -> Prepared:
        arrays = {
            onednn.SRC: (self._x, binding.bottoms[0]),
            onednn.WEIGHTS: (self._weight, binding.params[0]),
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
            arrays = {
                onednn.SRC: (self._x, binding.bottoms[0]),
                onednn.DIFF_DST: (self._y, dy),
                onednn.DIFF_WEIGHTS: (
                    self._weight,
                    self._unused(binding) if dw is None else dw,
                ),
            }
            if self._wants_bias:
                assert self._bias is not None
                arrays[onednn.DIFF_BIAS] = (self._bias, binding.param_diffs[1])
            calls.append(self._weights.bind(arrays))
        if self._want_data:
            calls.append(
                self._data.bind(
                    {
                        onednn.DIFF_DST: (self._y, dy),
                        onednn.WEIGHTS: (self._weight, binding.params[0]),
                        onednn.DIFF_SRC: (self._x, binding.bottom_diffs[0]),
                    }
                )
            )
        return in_a_row(calls)
