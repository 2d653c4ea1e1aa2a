"""Pooling that learns: a gate for each window mixes two ways to sum it up.

One kernel of gate weights serves all channels and places: g = sigmoid(sum of w[t] x[t]) over the
taps t of a window, and y = g * first + (1 - g) * second.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from netc.layers.fillers import Filler
from netc.layers.pooling import LOWEST, divisor, sees_nothing, shown, window_attributes
from netc.layers.registry import layer
from netc.layers.types import (
    Array,
    ArrayNamespace,
    BackwardCall,
    BlobType,
    Coordinates,
    ForwardCall,
    Gradients,
    Layer,
    OnnxBuilder,
    ParamType,
    Reads,
    Refusal,
    Signature,
    Value,
)
from netc.layers.window import Slide, sliding, taps

Slides = tuple[Slide, Slide]


@dataclass(frozen=True)
class GatedPooling(Layer):
    """Base of the types that mix two sums of a window by a gate.

    The number of windows along an axis is (size - kernel) / stride + 1, rounded up; the last one
    may reach over the edge, where it sees nothing.
    """

    kernel_size: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    weight_filler: Filler = field(default_factory=Filler)

    #: How many kernels of weights there are; that of the gate is the last.
    kernels: ClassVar[int] = 1
    #: Every window must see a pixel.
    needs_pixels: ClassVar[bool] = True
    param_names: ClassVar[tuple[str, ...]] = ("gate",)

    # -- what differs

    def sums(
        self, xp: ArrayNamespace, x: Array, params: tuple[Array, ...], slides: Slides
    ) -> tuple[Array, Array]:
        """Return what the gate chooses from, two values for each window."""
        raise TypeError(f"layer type {self.type} lacks the sums of a window")

    def sums_backward(
        self,
        call: BackwardCall,
        slides: Slides,
        sums: tuple[Array, Array],
        diffs: tuple[Array, Array],
    ) -> tuple[Array, tuple[Array, ...]]:
        """Return the gradients that reach the bottom and the other kernels through the sums."""
        raise TypeError(f"layer type {self.type} lacks a gradient")

    def lower_sums(
        self, g: OnnxBuilder, x: Value, params: tuple[Value, ...], slides: Slides
    ) -> tuple[Value, Value]:
        """Return the two sums as ONNX values."""
        raise g.refuse("this type has no ONNX form")

    def gate_taps(self, xp: ArrayNamespace, slides: Slides) -> Array:
        """Return the number of the gate's weight for each tap: (kernel, kernel, columns)."""
        h, w = slides
        number = xp.arange(h.kernel)[:, None, None] * w.kernel + xp.arange(w.kernel)[:, None]
        return xp.broadcast_to(number, (h.kernel, w.kernel, w.places))

    # -- shapes

    def infer(self, *bottoms: BlobType) -> Signature:
        x = bottoms[0]
        slides = self.slides(x)
        if self.needs_pixels and sees_nothing(slides):
            raise Refusal(
                f"{self.type} over a window that lies wholly behind the image",
                expected="stride <= kernel, or sizes at which the last window meets the image",
                got=f"bottom of shape {x}, {shown(slides)}",
                setting="stride",
            )
        kernel = ParamType((1, 1, slides[0].kernel, slides[1].kernel), self.weight_filler)
        top = BlobType((*x.shape[:2], *(s.places for s in slides)))
        return Signature((top,), (kernel,) * self.kernels)

    def slides(self, x: BlobType) -> Slides:
        """Return how the window slides over a bottom of this shape, or refuse the settings."""
        kernel = self._one("kernel_size", None)
        stride = self._one("stride", 1)
        if x.axes != 4 or min(x.shape[2:]) < kernel:
            raise Refusal(
                f"the bottom does not suit {self.type}",
                expected="(N, C, H, W), as large as the kernel or larger",
                got=f"bottom of shape {x}, kernel_size {kernel}",
                setting="kernel_size",
            )
        h, w = (Slide(n, -(-(n - kernel) // stride) + 1, kernel, stride) for n in x.shape[2:])
        return h, w

    def _one(self, name: str, default: int | None) -> int:
        """Return a setting that holds for height and width."""
        given: tuple[int, ...] = getattr(self, name) or (() if default is None else (default,))
        if len(given) != 1 or given[0] < 1:
            raise Refusal(
                f"{name} is not one positive number",
                expected=f"{name} once, at least 1: the window is a square",
                got=", ".join(map(str, given)) or f"no {name}",
                hint=f"add convolution_param {{ {name}: 3 }}" if not given else "",
                setting=name,
            )
        return given[0]

    def coordinates(self) -> Coordinates | None:
        return sliding(1, [(self._one("kernel_size", None), self._one("stride", 1), 0, 1)])

    # -- maths

    def _parts(
        self, xp: ArrayNamespace, x: Array, params: tuple[Array, ...], slides: Slides
    ) -> tuple[Array, Array, Array]:
        """Return the gate, and the two sums."""
        weights = params[-1].reshape(-1)[self.gate_taps(xp, slides)]
        response = xp.zeros((*x.shape[:2], *(s.places for s in slides)), x.dtype)
        for tap, places, pixels in taps(slides):
            response[(..., *places)] += x[(..., *pixels)] * weights[(*tap, places[1])]
        gate = 0.5 * xp.tanh(0.5 * response) + 0.5
        return gate, *self.sums(xp, x, params, slides)

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, x = call.xp, call.bottoms[0]
        gate, first, second = self._parts(xp, x, call.params, self.slides(BlobType(x.shape)))
        return (gate * first + (1 - gate) * second,)

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        xp, x, dy, params = call.xp, call.bottoms[0], call.top_diffs[0], call.params
        slides = self.slides(BlobType(x.shape))
        gate, *sums = self._parts(xp, x, params, slides)
        first, second = sums
        dx, dkernels = self.sums_backward(
            call, slides, (first, second), (dy * gate, dy * (1 - gate))
        )
        dresponse = dy * gate * (1 - gate) * (first - second)
        numbers = self.gate_taps(xp, slides)
        weights = params[-1].reshape(-1)[numbers]
        dweights = xp.zeros(numbers.shape, dy.dtype)
        for tap, places, pixels in taps(slides):
            here, at = dresponse[(..., *places)], (*tap, places[1])
            dx[(..., *pixels)] += here * weights[at]
            dweights[at] = (here * x[(..., *pixels)]).sum(axis=(0, 1, 2))
        # Where a weight stands for several taps, its gradients add up.
        size = params[-1].size
        dgate = xp.bincount(numbers.reshape(-1), dweights.reshape(-1), size).astype(dy.dtype)
        return Gradients((dx,), (*dkernels, dgate.reshape(params[-1].shape)))

    # -- ONNX

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        x = bottoms[0]
        slides = self.slides(BlobType(x.shape))
        gate = g.op("Sigmoid", self.lower_response(g, x, params[-1], slides))
        first, second = self.lower_sums(g, x, params, slides)
        rest = g.op("Mul", gate, g.op("Sub", first, second))
        return (g.op("Add", rest, second),)

    def lower_response(self, g: OnnxBuilder, x: Value, kernel: Value, slides: Slides) -> Value:
        """Return the sum of what the taps of each window see, times the kernel's weights."""
        channels = x.shape[1]
        shape = g.constant([channels, 1, *kernel.shape[2:]], "int64")
        found: Value = g.op(
            "Conv",
            x,
            g.op("Expand", kernel, shape),
            group=channels,
            kernel_shape=list(kernel.shape[2:]),
            strides=[s.stride for s in slides],
            pads=[0, 0, *(max(0, s.end_pad) for s in slides)],
        )
        return found

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        kernel = signature.params[0]
        return signature.tops[0].count * len(signature.params) * BlobType(kernel.shape).count


@layer("TreepoolKernel1L", "convolution_param")
@dataclass(frozen=True)
class TreepoolKernel1L(GatedPooling):
    """y = g * (v1 . x) + (1 - g) * (v2 . x), with g = sigmoid(w . x): a tree of two leaves.

    x are the pixels of a window, and v1, v2 and w kernels for all channels alike; pixels behind the
    edge count as 0. The window is a square of `kernel_size`.

    Shapes: bottom (N, C, H, W) -> top (N, C, places, places), rounded up; params v1, v2, w
    (1, 1, kernel, kernel).
    Source: Lee, Gallagher and Tu, "Generalizing pooling functions in CNNs", AISTATS 2016, and
    their Caffe.
    """

    kernels: ClassVar[int] = 3
    needs_pixels: ClassVar[bool] = False
    param_names: ClassVar[tuple[str, ...]] = ("first", "second", "gate")

    def sums(
        self, xp: ArrayNamespace, x: Array, params: tuple[Array, ...], slides: Slides
    ) -> tuple[Array, Array]:
        first, second = xp.zeros((2, *x.shape[:2], *(s.places for s in slides)), x.dtype)
        for tap, places, pixels in taps(slides):
            seen, here = x[(..., *pixels)], (..., *places)
            first[here] += seen * params[0][(0, 0, *tap)]
            second[here] += seen * params[1][(0, 0, *tap)]
        return first, second

    def sums_backward(
        self,
        call: BackwardCall,
        slides: Slides,
        sums: tuple[Array, Array],
        diffs: tuple[Array, Array],
    ) -> tuple[Array, tuple[Array, ...]]:
        xp, x, kernels = call.xp, call.bottoms[0], call.params[:2]
        dx, dkernels = xp.zeros(x.shape, diffs[0].dtype), [xp.zeros_like(k) for k in kernels]
        for tap, places, pixels in taps(slides):
            for kernel, dkernel, diff in zip(kernels, dkernels, diffs, strict=True):
                here, at = diff[(..., *places)], (0, 0, *tap)
                dx[(..., *pixels)] += here * kernel[at]
                dkernel[at] = (here * x[(..., *pixels)]).sum()
        return dx, tuple(dkernels)

    def lower_sums(
        self, g: OnnxBuilder, x: Value, params: tuple[Value, ...], slides: Slides
    ) -> tuple[Value, Value]:
        first, second = (self.lower_response(g, x, kernel, slides) for kernel in params[:2])
        return first, second


@layer("TreepoolMaxAve", "convolution_param")
@dataclass(frozen=True)
class TreepoolMaxAve(GatedPooling):
    """y = g * max(x) + (1 - g) * mean(x), with g = sigmoid(w . x) of the pixels x of a window.

    w is a kernel for all channels alike. Pixels behind the edge do not count. All pixels that equal
    the maximum have its gradient.

    Shapes: bottom (N, C, H, W) -> top (N, C, places, places), rounded up; param w
    (1, 1, kernel, kernel).
    Source: Lee, Gallagher and Tu, "Generalizing pooling functions in CNNs", AISTATS 2016, and
    their Caffe.
    """

    def sums(
        self, xp: ArrayNamespace, x: Array, params: tuple[Array, ...], slides: Slides
    ) -> tuple[Array, Array]:
        shape = (*x.shape[:2], *(s.places for s in slides))
        most, total = xp.full(shape, LOWEST, x.dtype), xp.zeros(shape, x.dtype)
        for _, places, pixels in taps(slides):
            seen, here = x[(..., *pixels)], (..., *places)
            most[here] = xp.maximum(most[here], seen)
            total[here] += seen
        return most, total / divisor(xp, slides, x.dtype)

    def sums_backward(
        self,
        call: BackwardCall,
        slides: Slides,
        sums: tuple[Array, Array],
        diffs: tuple[Array, Array],
    ) -> tuple[Array, tuple[Array, ...]]:
        xp, x, most = call.xp, call.bottoms[0], sums[0]
        dx = xp.zeros(x.shape, diffs[0].dtype)
        each = diffs[1] / divisor(xp, slides, diffs[1].dtype)
        for _, places, pixels in taps(slides):
            here = (..., *places)
            largest = x[(..., *pixels)] == most[here]
            dx[(..., *pixels)] += diffs[0][here] * largest + each[here]
        return dx, ()

    def lower_sums(
        self, g: OnnxBuilder, x: Value, params: tuple[Value, ...], slides: Slides
    ) -> tuple[Value, Value]:
        settings = window_attributes(slides)
        mean = g.op("AveragePool", x, count_include_pad=0, **settings)
        return g.op("MaxPool", x, **settings), mean


@layer("GatedMaxAve", "convolution_param")
@dataclass(frozen=True)
class GatedMaxAve(TreepoolMaxAve):
    """The same as TreepoolMaxAve, but for windows that reach over the edge on the right.

    The pixels that such a window has are counted row by row, and the n-th of them takes the n-th
    weight of w: so in the fork.

    Shapes: bottom (N, C, H, W) -> top (N, C, places, places), rounded up; param w
    (1, 1, kernel, kernel).
    Source: the Caffe of Lee, Gallagher and Tu, AISTATS 2016.
    """

    def gate_taps(self, xp: ArrayNamespace, slides: Slides) -> Array:
        h, w = slides
        widths = xp.minimum(w.kernel, w.pixels - xp.arange(w.places) * w.stride)
        return xp.arange(h.kernel)[:, None, None] * widths + xp.arange(w.kernel)[:, None]

    def lower_response(self, g: OnnxBuilder, x: Value, kernel: Value, slides: Slides) -> Value:
        h, w = slides
        width = w.kernel - w.end_pad
        if width >= w.kernel:
            return super().lower_response(g, x, kernel, slides)
        parts = []
        if w.places > 1:
            whole = replace(w, places=w.places - 1)
            parts.append(super().lower_response(g, x, kernel, (h, whole)))
        # The last column of windows sees the last pixels of each row through a kernel of its own.
        numbers = g.constant([w.pixels - width], "int64"), g.constant([w.pixels], "int64")
        strip = g.op("Slice", x, *numbers, g.constant([3], "int64"))
        first = [0], [h.kernel * width]
        flat = g.op(
            "Slice",
            g.reshape(kernel, (h.kernel * w.kernel,)),
            *(g.constant(n, "int64") for n in first),
        )
        narrow = g.reshape(flat, (1, 1, h.kernel, width))
        parts.append(super().lower_response(g, strip, narrow, (h, Slide(width, 1, width))))
        return parts[0] if len(parts) == 1 else g.op("Concat", *parts, axis=3)
