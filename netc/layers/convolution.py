"""Convolution, its transpose, and the patches that both are made of."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import ClassVar

from netc.layers.activation import Engine
from netc.layers.fillers import Filler
from netc.layers.registry import layer
from netc.layers.types import (
    Arity,
    Array,
    ArrayNamespace,
    BackwardCall,
    BlobType,
    Coordinates,
    ForwardCall,
    Gradients,
    Layer,
    Neurons,
    OnnxBuilder,
    ParamType,
    Reads,
    Refusal,
    Signature,
    Value,
    at_least,
)
from netc.layers.window import Slide, extent, fold, sliding, unfold

# Images are unfolded a few at a time, so that their patches are still in the cache when they are
# multiplied. Measured with LeNet and AlexNet on 2 cores with 1 MiB of L2 cache each.
PATCH_NUMBERS = 1 << 19


@dataclass(frozen=True)
class Windowed(Layer):
    """Base of the types that slide a kernel over the axes behind the channels.

    Each of kernel_size, stride, pad and dilation is given once for all spatial axes or once for
    each. For two spatial axes there are also kernel_h and kernel_w, stride_h and so on.
    """

    pad: tuple[int, ...] = ()
    kernel_size: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    pad_h: int | None = None
    pad_w: int | None = None
    kernel_h: int | None = None
    kernel_w: int | None = None
    stride_h: int | None = None
    stride_w: int | None = None
    axis: int = 1
    engine: Engine = Engine.DEFAULT
    force_nd_im2col: bool = False

    def slides(self, x: BlobType) -> tuple[Slide, ...]:
        """Return how the kernel slides over a bottom of this shape, or refuse the settings."""
        found = []
        for size, kernel, stride, pad, dilation in self._settings(x):
            reach = extent(kernel, dilation)
            # As in C, the division drops the fraction also below 0: there is one window where the
            # kernel is too large by less than a stride.
            places = int((size + 2 * pad - reach) / stride) + 1
            if places < 1:
                seen = "kernel" if dilation == 1 else "dilation * (kernel - 1) + 1"
                raise Refusal(
                    "the kernel is larger than the bottom",
                    expected=f"{seen} <= {size + 2 * pad}, the size with its padding",
                    got=f"kernel {kernel}, dilation {dilation}, pad {pad}, bottom of shape {x}",
                    setting=self._source_of("kernel_size"),
                )
            found.append(Slide(size, places, kernel, stride, pad, dilation))
        return tuple(found)

    def coordinates(self) -> Coordinates | None:
        return sliding(self.axis, self._steps())

    def _steps(self) -> Iterator[tuple[int, ...]]:
        """Return kernel, stride, pad and dilation: of each spatial axis, or of all at once."""
        names = {"kernel_size": None, "stride": 1, "pad": 0, "dilation": 1}
        sided = any(self._source_of(name) != name for name in names)
        n = 2 if sided else max(1, *(len(getattr(self, name)) for name in names))
        values = [
            self._per_axis(name, n, default=default, least=0 if name == "pad" else 1)
            for name, default in names.items()
        ]
        return zip(*values, strict=True)

    def _settings(self, x: BlobType) -> Iterator[tuple[int, int, int, int, int]]:
        """Yield size, kernel, stride, pad and dilation of each spatial axis of a bottom."""
        sizes = x.shape[x.axis(self.axis) + 1 :]
        return zip(
            sizes,
            self._per_axis("kernel_size", len(sizes), default=None, least=1),
            self._per_axis("stride", len(sizes), default=1, least=1),
            self._per_axis("pad", len(sizes), default=0, least=0),
            self._per_axis("dilation", len(sizes), default=1, least=1),
            strict=True,
        )

    def _per_axis(self, name: str, n: int, *, default: int | None, least: int) -> tuple[int, ...]:
        """Return the values of a setting for n spatial axes."""
        values: tuple[int, ...] = getattr(self, name)
        stem = name.removesuffix("_size")
        h, w = (getattr(self, f"{stem}_{side}", None) for side in "hw")
        if h is not None or w is not None:
            if values:
                raise Refusal(
                    f"{name} is given twice",
                    expected=f"either {name}, or {stem}_h and {stem}_w",
                    got=f"{name} and {self._source_of(name)}",
                    setting=self._source_of(name),
                )
            if n != 2:
                raise Refusal(
                    f"{stem}_h and {stem}_w are for two spatial axes",
                    expected=f"{name}, once or once for each of the {n} spatial axes",
                    got=self._source_of(name),
                    setting=self._source_of(name),
                )
            values = (h or 0, w or 0)
        elif not values and default is not None:
            values = (default,) * n
        elif len(values) == 1:
            values *= n
        elif len(values) != n:
            raise Refusal(
                f"{name} does not match the spatial axes" if values else f"{name} is missing",
                expected=f"{name} once, or once for each of the {n} spatial axes",
                got=f"{name} {len(values)} times",
                hint="" if values else f"add convolution_param {{ {name}: N }}",
                setting=name,
            )
        if any(value < least for value in values):
            raise Refusal(
                f"{name} is too small",
                expected=f"{name} >= {least} on every axis",
                got=", ".join(map(str, values)),
                hint=f"give both {stem}_h and {stem}_w" if (h is None) != (w is None) else "",
                setting=self._source_of(name),
            )
        return values

    def _source_of(self, name: str) -> str:
        """Return the name of the field that a setting was given in."""
        stem = name.removesuffix("_size")
        for sided in (f"{stem}_h", f"{stem}_w"):
            if getattr(self, sided, None) is not None:
                return sided
        return name


@dataclass(frozen=True)
class Filtering(Windowed):
    """Base of Convolution and Deconvolution: weights between windows and what they see.

    One of bottom and top is the image under the windows, the other has a value per window.
    """

    num_output: int = 0
    bias_term: bool = True
    group: int = 1
    weight_filler: Filler = field(default_factory=Filler)
    bias_filler: Filler = field(default_factory=Filler)

    bottoms: ClassVar[Arity] = at_least(1)
    tops: ClassVar[Arity] = at_least(1)
    tops_match_bottoms: ClassVar[bool] = True
    #: The top is the image.
    transposed: ClassVar[bool] = False

    def infer(self, *bottoms: BlobType) -> Signature:
        channels = self._check(*bottoms)
        x = bottoms[0]
        slides = self.slides(x)
        windows, image = self.num_output, channels
        sizes = [s.places for s in slides]
        if self.transposed:
            windows, image = image, windows
            sizes = [s.pixels for s in slides]
        top = BlobType((*x.shape[: x.axis(self.axis)], self.num_output, *sizes))
        weight = (windows, image // self.group, *(s.kernel for s in slides))
        params = [ParamType(weight, self.weight_filler, neurons=self._neurons(weight))]
        if self.bias_term:
            params.append(ParamType((self.num_output,), self.bias_filler))
        return Signature((top,) * len(bottoms), tuple(params))

    def _neurons(self, weight: tuple[int, ...]) -> Neurons:
        if not self.transposed:
            return Neurons.rows(weight)
        per_group, taps = weight[0] // self.group, math.prod(weight[2:])
        return Neurons((self.group, per_group, weight[1], taps), (1, 3))

    def _check(self, *bottoms: BlobType) -> int:
        """Return the number of channels; refuse what does not fit together."""
        if self.num_output <= 0:
            raise Refusal(
                "num_output is missing",
                expected="num_output > 0",
                got=f"num_output {self.num_output}",
                hint="add convolution_param { num_output: N }",
                setting="num_output",
            )
        x = bottoms[0]
        channels = x.shape[x.axis(self.axis)]
        for index, other in enumerate(bottoms):
            if other != x:
                raise Refusal(
                    "the bottoms differ in shape, but share their weights",
                    expected=f"bottom {index} of shape {x}, like bottom 0",
                    got=f"shape {other}",
                )
        for name, whose, count in (
            ("channels", "channels of the bottom", channels),
            ("num_output", "outputs", self.num_output),
        ):
            if self.group < 1 or count % self.group:
                divisors = [str(d) for d in range(1, count + 1) if count % d == 0]
                raise Refusal(
                    f"group does not divide the {whose}",
                    expected=f"{name} % group == 0",
                    got=f"group {self.group}, num_output {self.num_output}, bottom of shape {x}",
                    hint=f"use a divisor of {count}: {', '.join(divisors)}" if count else "",
                    setting="group",
                )
        return channels

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        compute = scatter if self.transposed else gather
        bias = call.params[1] if self.bias_term else None
        slides = self.slides(BlobType(call.bottoms[0].shape))
        tops = []
        for x, out in zip(call.bottoms, call.out, strict=True):
            y = images(out, self.axis)
            compute(call.xp, images(x, self.axis), call.params[0], bias, slides, self.group, y)
            tops.append(out if y is out else y.reshape(out.shape))
        return tuple(tops)

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        xp, weight = call.xp, call.params[0]
        compute = gather if self.transposed else scatter
        slides = self.slides(BlobType(call.bottoms[0].shape))
        dw = xp.zeros(weight.shape, weight.dtype) if call.wants_params[0] else None
        db = 0 if self.bias_term and call.wants_params[1] else None
        dxs = []
        for bottom, top_diff, wanted in zip(
            call.bottoms, call.top_diffs, call.wants_bottoms, strict=True
        ):
            x, dy = images(bottom, self.axis), images(top_diff, self.axis)
            if dw is not None:
                small, image = (x, dy) if self.transposed else (dy, x)
                add_weight_gradient(xp, small, image, slides, self.group, dw)
            if db is not None:
                db = db + sum_per_channel(dy)
            dx = xp.empty(bottom.shape, dy.dtype) if wanted else None
            if wanted:
                compute(xp, dy, weight, None, slides, self.group, images(dx, self.axis))
            dxs.append(dx)
        return Gradients(tuple(dxs), (dw, db) if self.bias_term else (dw,))

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        per_window = math.prod(signature.params[0].shape[1:])
        return per_window * sum(b.count for b in (bottoms if self.transposed else signature.tops))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        op = "ConvTranspose" if self.transposed else "Conv"
        x = BlobType(bottoms[0].shape)
        top = self.infer(x).tops[0]
        axis = x.axis(self.axis)
        slides = self.slides(x)
        weight = params[0]
        sizes = x.shape[axis + 1 :]
        if not slides:
            # ONNX wants at least one spatial axis.
            slides, sizes = (Slide(1, 1, 1),), (1,)
            weight = g.reshape(weight, (*weight.shape, 1))
        image = (x.span(0, axis), x.shape[axis], *sizes)
        # A window that is there because the division dropped a negative fraction reaches past the
        # padding.
        ends = [max(s.pad, s.end_pad) for s in slides]
        tops = []
        for bottom in bottoms:
            y = g.op(
                op,
                bottom if image == x.shape else g.reshape(bottom, image),
                weight,
                *params[1:],
                group=self.group,
                kernel_shape=[s.kernel for s in slides],
                strides=[s.stride for s in slides],
                dilations=[s.dilation for s in slides],
                pads=[s.pad for s in slides] + ends,
            )
            tops.append(y if image == x.shape else g.reshape(y, top.shape))
        return tuple(tops)


@layer("Convolution", "convolution_param")
@dataclass(frozen=True)
class Convolution(Filtering):
    """Weighted sums of what a sliding window sees: y[o, p] = b[o] + sum(W[o] * x under window p).

    Any number of spatial axes behind the channels' `axis`; the axes before it are batch. With
    `group` g, each g-th of the outputs sees its g-th of the channels. Several bottoms share the
    weights and have a top each.

    Shapes: bottom (N, C, sizes...) -> top (N, num_output, places...), where places are
    (size + 2 pad - dilation (kernel - 1) - 1) / stride + 1, divided as in C. Params W (num_output,
    C / group, kernel...), and b (num_output,) unless `bias_term` is false.
    Source: LeCun et al., Neural Computation 1(4), 1989; as a matrix product, Chellapilla et al.,
    IWFHR 2006.
    """

    def dense(self) -> bool:
        return self.group == 1


@layer("Deconvolution", "convolution_param")
@dataclass(frozen=True)
class Deconvolution(Filtering):
    """The transpose of a convolution: each bottom value adds a kernel of weights to the top.

    What Convolution says of axes, groups and several bottoms holds here too.

    Shapes: bottom (N, C, sizes...) -> top (N, num_output, stride (size - 1) + dilation (kernel - 1)
    + 1 - 2 pad, ...). Params W (C, num_output / group, kernel...), and b (num_output,) unless
    `bias_term` is false.
    Source: Zeiler et al., CVPR 2010; for up-sampling, Long et al., CVPR 2015.
    """

    transposed: ClassVar[bool] = True

    def coordinates(self) -> Coordinates | None:
        axes = [
            (float(stride), (extent(kernel, dilation) - 1) / 2 - pad)
            for kernel, stride, pad, dilation in self._steps()
        ]
        return Coordinates(self.axis, tuple(a for a, _ in axes), tuple(b for _, b in axes))

    def slides(self, x: BlobType) -> tuple[Slide, ...]:
        """Return how the kernel slides over the top, with a place for each value of the bottom."""
        found = []
        for size, kernel, stride, pad, dilation in self._settings(x):
            pixels = stride * (size - 1) + extent(kernel, dilation) - 2 * pad
            if pixels < 1:
                raise Refusal(
                    "nothing is left of the top after cutting off the padding",
                    expected="stride * (size - 1) + dilation * (kernel - 1) + 1 > 2 * pad",
                    got=f"kernel {kernel}, stride {stride}, dilation {dilation}, pad {pad}, "
                    f"bottom of shape {x}",
                    setting=self._source_of("pad"),
                )
            found.append(Slide(pixels, size, kernel, stride, pad, dilation))
        return tuple(found)


@layer("Im2col", "convolution_param")
@dataclass(frozen=True)
class Im2col(Windowed):
    """What each tap of a sliding kernel sees, 0 outside the image, as channels.

    Shapes: bottom (N, C, sizes...) -> top (N, C * taps, places...), the taps of one channel
    together, the kernel's last axis fastest. The places are those of Convolution.

    Source: BVLC Caffe.
    """

    def infer(self, *bottoms: BlobType) -> Signature:
        x = bottoms[0]
        axis = x.axis(self.axis)
        if axis == x.axes - 1:
            raise Refusal(
                "there is no axis for the windows to slide along",
                expected=f"a bottom with at least one axis behind axis {axis}",
                got=f"bottom of shape {x}",
                setting="axis",
            )
        slides = self.slides(x)
        channels = x.shape[axis] * math.prod(s.kernel for s in slides)
        return Signature((BlobType((*x.shape[:axis], channels, *(s.places for s in slides))),))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        x, out = call.bottoms[0], call.out[0]
        slides = self.slides(BlobType(x.shape))
        columns = unfold(call.xp, images(x, self.axis), slides)
        return (call.xp.moveaxis(columns, 1 + len(slides), 0).reshape(out.shape),)

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def backward(self, call: BackwardCall) -> Gradients:
        xp, dy, shape = call.xp, call.top_diffs[0], call.bottoms[0].shape
        slides = self.slides(BlobType(shape))
        dx = xp.zeros(shape, dy.dtype)
        image = images(dx, self.axis)
        kernel, places = [s.kernel for s in slides], [s.places for s in slides]
        patches = dy.reshape(*image.shape[:2], *kernel, *places)
        fold(xp.moveaxis(patches, 0, 1 + len(slides)), slides, image)
        return Gradients((dx,))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        # ONNX has no such operator; it is a convolution in which each output copies one tap.
        x = BlobType(bottoms[0].shape)
        channels = x.shape[x.axis(self.axis)]
        kernel = [s.kernel for s in self.slides(x)]
        n_taps = math.prod(kernel)
        one_tap = g.xp.eye(n_taps, dtype="float32").reshape(n_taps, 1, *kernel)
        copying = Convolution(
            num_output=channels * n_taps,
            group=channels,
            bias_term=False,
            **{f.name: getattr(self, f.name) for f in fields(Windowed)},
        )
        weight = g.constant(g.xp.concatenate([one_tap] * channels))
        return copying.lower(g, bottoms, (weight,))


# -- the three products ----------------------------------------------------------------------------
#
# `image` (N, C, pixels...) lies under the windows; `small` (N, O, places...) has one value per
# window and output; `weight` is (O, C / group, kernel...). Convolution makes `small` from `image`,
# Deconvolution `image` from `small`, and the backward pass of one is the forward pass of the other.


def images(x: Array, axis: int) -> Array:
    """View a blob as (N, C, sizes...): the axes before the channels' `axis` are all batch."""
    axis %= x.ndim
    return x if axis == 1 else x.reshape(math.prod(x.shape[:axis]), *x.shape[axis:])


def gather(
    xp: ArrayNamespace,
    image: Array,
    weight: Array,
    bias: Array | None,
    slides: tuple[Slide, ...],
    group: int,
    small: Array,
) -> None:
    """Write to `small` the weighted sums of what the windows see, plus the bias."""
    matrix = _grouped(weight, group)
    for some in _a_few(image, slides):
        target = small[some]
        n, outputs, *places = target.shape
        columns = unfold(xp, image[some], slides)
        columns = columns.reshape(group, matrix.shape[2], n * math.prod(places))
        sums = xp.matmul(matrix, columns).reshape(outputs, n, *places).swapaxes(0, 1)
        if bias is None:
            target[...] = sums
        else:
            xp.add(sums, bias.reshape(-1, *[1] * len(places)), out=target)


def scatter(
    xp: ArrayNamespace,
    small: Array,
    weight: Array,
    bias: Array | None,
    slides: tuple[Slide, ...],
    group: int,
    image: Array,
) -> None:
    """Write to `image` the bias plus, under each window, its weights times the window's value."""
    image[...] = 0 if bias is None else bias.reshape(-1, *[1] * len(slides))
    matrix = _grouped(weight, group).swapaxes(1, 2)
    for some in _a_few(image, slides):
        target = image[some]
        n, channels = target.shape[:2]
        values = _batch_last(xp, small[some], group)
        # With one value per group (depthwise), the product is an outer one: matmul takes 3 times
        # as long for it.
        columns = matrix * values if matrix.shape[2] == 1 else xp.matmul(matrix, values)
        shape = (channels, *(s.kernel for s in slides), n, *(s.places for s in slides))
        fold(columns.reshape(shape), slides, target)


def add_weight_gradient(
    xp: ArrayNamespace,
    small: Array,
    image: Array,
    slides: tuple[Slide, ...],
    group: int,
    weight_diff: Array,
) -> None:
    """Add to `weight_diff` the products of `small` with what the windows see."""
    total = _grouped(weight_diff, group)
    for some in _a_few(image, slides):
        values = _batch_last(xp, small[some], group)
        columns = unfold(xp, image[some], slides)
        columns = columns.reshape(group, total.shape[2], values.shape[2])
        total += xp.matmul(values, columns.swapaxes(1, 2))


def sum_per_channel(x: Array) -> Array:
    """Return the sums (C,) of a blob (N, C, sizes...): the gradient of a bias."""
    return x.reshape(*x.shape[:2], math.prod(x.shape[2:])).sum(axis=2).sum(axis=0)


def _grouped(weight: Array, group: int) -> Array:
    """View weights (O, I / group, kernel...) as matrices (group, O / group, I / group * kernel)."""
    return weight.reshape(group, weight.shape[0] // group, math.prod(weight.shape[1:]))


def _batch_last(xp: ArrayNamespace, values: Array, group: int) -> Array:
    """Return (N, O, places...) as matrices (group, O / group, N * places)."""
    n, channels, *places = values.shape
    shape = (group, channels // group, n * math.prod(places))
    return xp.ascontiguousarray(values.swapaxes(0, 1)).reshape(shape)


def _a_few(image: Array, slides: tuple[Slide, ...]) -> Iterator[slice]:
    """Yield slices of the batch: as many images as PATCH_NUMBERS allows, but at least one."""
    per_image = image.shape[1] * math.prod(s.kernel * s.places for s in slides)
    step = max(1, PATCH_NUMBERS // max(1, per_image))
    for start in range(0, image.shape[0], step):
        yield slice(start, start + step)
