"""InnerProduct, with what follows it: matrices (M, K) and (num_output, K).

With AVX-512, weights lie in the blocks that the forward pass asks for, which as a rule both
gradients take too: with weights of 9216 x 4096 in C order, the forward pass alone took 62 ms
instead of 14. Without it oneDNN 3.2 has only plain loops for the gradient of weights in blocks, and
they stay in C order: the three passes took 135 ms of one thread so (batch 32), in blocks 206 and a
copy.
"""

from __future__ import annotations

from netc.backends.base import Binding, Job, Layout, Prepared, Terms
from netc.backends.cpu import onednn
from netc.backends.cpu.epilogue import Epilogue
from netc.backends.cpu.kernel import (
    Kernel,
    Mover,
    Scratch,
    in_a_row,
    move,
    positive,
    quick,
    required,
)
from netc.backends.cpu.onednn import Desc, OneDnnError, Primitive, any_layout, primitive
from netc.layers.innerproduct import InnerProduct
from netc.layers.types import Array, BlobType, Reads

#: Gradients of weights that take more come in pieces of about this size, if whole ones need not be.
PIECE_BYTES = 64 << 20


class InnerProductKernel(Kernel):
    """Bottom and top in C order, the weights in the layout of the forward pass."""

    def __init__(self, job: Job) -> None:
        layer = job.node.layer
        assert isinstance(layer, InnerProduct)
        x = BlobType(job.bottoms[0])
        axis = x.axis(layer.axis)
        m, k = x.span(0, axis), x.span(axis)
        positive((m, k))
        self._job = job
        self._x, self._y = Desc.plain((m, k)), Desc.plain((m, layer.num_output))
        forward_scratch = Scratch()
        self._epilogue = Epilogue(job, self._y.dims, forward_scratch)
        shape = (layer.num_output, k)
        self._bias = Desc.plain((layer.num_output,)) if layer.bias_term else None
        # Transposed weights are C order for Caffe, but not for the library: they stay as they are.
        fixed = Desc.strided(shape, (1, layer.num_output)) if layer.transpose else None
        layout = job.params[0]
        if isinstance(layout, Layout) and layout.dims == shape and fixed is None:
            fixed = Desc.of(layout, shape)
        free = any_layout(shape) if onednn.has_avx512() else Desc.plain(shape)
        asked = [free] if fixed is None else [fixed] if layer.transpose else [fixed, free]
        self._forward = quick(map(self._forward_with, asked), "inner product")
        self.weight = self._forward.desc(onednn.WEIGHTS_MD)
        scratch = Scratch()
        reorders = []
        self._pieces: _Pieces | None = None
        self._want_weights = job.train and any(job.wants_params)
        self._want_data = job.train and job.wants_bottoms[0]
        self._wants_bias = layer.bias_term and job.wants_params[1]
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
            if job.wants_params[0] and any(job.pieces[:1]) and wanted.same(self.weight):
                self._pieces = _Pieces.of(self._x, self._y, wanted, self._wants_bias, scratch)
            # With pieces nothing is as large as the weights.
            if self._pieces is None:
                self._to_weights = Mover(self.weight, wanted, scratch)
                if self._to_weights.differs:
                    reorders.append("gradient of the weights")
                if not job.wants_params[0]:
                    self._unused = scratch.reserve(self.weight.nbytes)
        reads = Reads.NOTHING
        if self._want_weights:
            reads |= Reads.BOTTOM
        if job.train and self._epilogue.formula is not None:
            reads |= Reads.TOP
        weight_layout = None if layer.transpose else self.weight.layout
        self.terms = Terms(
            bottoms=(None,) * len(job.bottoms),
            tops=(None,),
            params=(weight_layout, *[None] * (len(job.params) - 1)),
            reads=reads,
            forward_scratch=forward_scratch.nbytes,
            pieces=frozenset() if self._pieces is None else frozenset((0,)),
            backward_scratch=scratch.nbytes,
            reorders=tuple(reorders),
        )

    def _forward_with(self, weight: object) -> Primitive | None:
        return primitive(
            "inner_product_forward",
            onednn.FORWARD_TRAINING if self._job.train else onednn.FORWARD_INFERENCE,
            self._x,
            weight,
            None if self._epilogue.takes_bias else self._bias,
            self._y,
            post=self._epilogue.post,
        )

    def forward(self, binding: Binding) -> Prepared:
        arrays = {
            onednn.SRC: (self._x, binding.bottoms[0]),
            onednn.WEIGHTS: (self.weight, binding.params[0]),
            onednn.DST: (self._y, binding.tops[0]),
            **self._epilogue.arguments(binding, self._y),
        }
        bias = None
        if self._bias is not None:
            bias = binding.params[1]
            if not self._epilogue.takes_bias:
                arrays[onednn.BIAS] = (self._bias, bias)
        return in_a_row([*self._epilogue.before(binding, bias), self._forward.bind(arrays)])

    def backward(self, binding: Binding) -> Prepared:
        dy = binding.top_diffs[0]
        calls = self._epilogue.gradient(binding, self._y)
        if self._want_data:
            weight, there = binding.params[0], self._for_data
            calls += there.before(binding, weight)
            calls.append(
                self._data.bind(
                    {
                        onednn.DIFF_DST: (self._y, dy),
                        onednn.WEIGHTS: (there.wanted, there.array(binding, weight)),
                        onednn.DIFF_SRC: (self._x, binding.bottom_diffs[0]),
                    }
                )
            )
        # Last, as whoever takes a piece of the gradient changes the weights.
        if self._pieces is not None:
            calls += self._pieces.calls(binding, dy)
        elif self._want_weights:
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
        return in_a_row(calls)


class _Pieces:
    """The gradient of large weights, some rows at a time, so that it needs little memory.

    Each piece is handed over before the next one is computed in the same place.
    """

    def __init__(
        self,
        y: Desc,
        rows: int,
        descs: tuple[Desc, Desc, Desc, Desc | None],
        primitive: Primitive,
        scratch: Scratch,
    ) -> None:
        self._y, self._rows, self._primitive = y, rows, primitive
        self._x, self._dy, self._weight, self._bias = descs
        self._cut_weight = scratch.reserve(self._weight.nbytes)
        self._cut_dy = scratch.reserve(self._dy.nbytes)

    @classmethod
    def of(
        cls, x: Desc, y: Desc, weight: Desc, wants_bias: bool, scratch: Scratch
    ) -> _Pieces | None:
        """Return the pieces of a gradient; None where it is small or cannot be cut evenly."""
        m, n = y.dims
        for parts in (32, 16, 8, 4, 2):
            # The largest pieces of the size that is wanted, or the smallest that can be cut.
            if weight.nbytes > parts // 2 * PIECE_BYTES and (part := _rows(weight, n, parts)):
                break
        else:
            return None
        rows = part.dims[0]
        dy = Desc.plain((m, rows))
        bias = Desc.plain((rows,)) if wants_bias else None
        forward = primitive("inner_product_forward", onednn.FORWARD_TRAINING, x, part, bias, dy)
        if forward is None:
            return None
        found = primitive("inner_product_backward_weights", x, part, bias, dy, forward)
        if found is None or found.is_slow:
            return None
        return cls(y, rows, (x, dy, part, bias), found, scratch)

    def calls(self, binding: Binding, dy: Array) -> list[Prepared]:
        """Return the calls that compute the pieces and hand them over, in order."""
        piece = self._cut_weight(binding).view("float32")
        columns = self._cut_dy(binding).view("float32")
        found: list[Prepared] = []
        for start in range(0, self._y.dims[1], self._rows):
            part = self._y.part(self._dy.dims, 1, start)
            arrays = {
                onednn.SRC: (self._x, binding.bottoms[0]),
                onednn.DIFF_DST: (self._dy, columns),
                onednn.DIFF_WEIGHTS: (self._weight, piece),
            }
            if self._bias is not None:
                bias = binding.param_diffs[1]
                assert bias is not None
                arrays[onednn.DIFF_BIAS] = (self._bias, bias[start : start + self._rows])
            found += [
                move(part, dy, self._dy, columns),
                self._primitive.bind(arrays),
                self._handing_over(binding, piece, start * piece.size // self._rows),
            ]
        return found

    @staticmethod
    def _handing_over(binding: Binding, piece: Array, start: int) -> Prepared:
        return lambda: binding.hand_over(0, start, piece)


def _rows(weight: Desc, n: int, parts: int) -> Desc | None:
    """Return one of `parts` equal parts of weights with n rows, if each lies in one place."""
    if n % parts:
        return None
    try:
        part = weight.part((n // parts, weight.dims[1]), 0, 0)
    except OneDnnError:
        return None
    return part if part.nbytes * parts == weight.nbytes else None
