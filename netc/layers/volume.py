"""Convolution and pooling over videos, as forks of Caffe before 1.0 spell them.

Their blobs are (N, C, L, H, W), with L frames. Convolutions become Caffe's own, which take any
number of spatial axes; poolings are the maths of Pooling over more axes than its two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from netc.layers.activation import Engine
from netc.layers.convolution import Convolution, Deconvolution
from netc.layers.fillers import Filler
from netc.layers.input import BlobShape
from netc.layers.losses import FLT_MIN, SCALAR
from netc.layers.pooling import PoolMethod, WindowPooling
from netc.layers.registry import layer
from netc.layers.softmax import Softmax, softmax
from netc.layers.types import (
    Arity,
    Array,
    BackwardCall,
    BlobType,
    Coordinates,
    ForwardCall,
    Gradients,
    KeptType,
    Layer,
    OnnxBuilder,
    Part,
    Reads,
    Refusal,
    Signature,
    Value,
    at_least,
    exactly,
)
from netc.layers.window import Slide, sliding

_VIDEO_AXES = 5


def _check_video(x: BlobType) -> None:
    if x.axes != _VIDEO_AXES:
        raise Refusal(
            "the bottom is no video",
            expected="(N, C, L, H, W)",
            got=f"bottom of shape {x}",
        )


def _check_given(setting: str, value: int, message: str) -> None:
    """Refuse a size or a step of 0, which is also what an absent one is."""
    if value < 1:
        raise Refusal(
            f"{setting} is missing",
            expected=f"{setting} >= 1",
            got=f"{setting} {value}",
            hint=f"add {message} {{ {setting}: N }}",
            setting=setting,
        )


@dataclass(frozen=True)
class _Filtering3D(Layer):
    """Base of C3D's two convolutions: kernels of one size along L, and one along H and W."""

    num_output: int = 0
    bias_term: bool = True
    kernel_size: int = 0
    kernel_depth: int = 0
    stride: int = 1
    temporal_stride: int = 1
    pad: int = 0
    temporal_pad: int = 0
    filter_group: int = 1
    weight_filler: Filler = field(default_factory=Filler)
    bias_filler: Filler = field(default_factory=Filler)

    #: The top is the image under the windows.
    transposed: ClassVar[bool] = False

    def expand(self, *bottoms: BlobType) -> tuple[Part, ...]:
        """Return the same as a layer of any number of axes."""
        _check_video(bottoms[0])
        for setting in ("kernel_size", "kernel_depth", "stride", "temporal_stride"):
            _check_given(setting, getattr(self, setting), "convolution3d_param")
        if self.filter_group < 1 or self.num_output % self.filter_group:
            raise Refusal(
                "filter_group does not divide the outputs",
                expected="num_output % filter_group == 0",
                got=f"filter_group {self.filter_group}, num_output {self.num_output}",
                setting="filter_group",
            )
        general = Deconvolution if self.transposed else Convolution
        whole = general(
            num_output=self.num_output,
            bias_term=self.bias_term,
            kernel_size=(self.kernel_depth, self.kernel_size, self.kernel_size),
            stride=(self.temporal_stride, self.stride, self.stride),
            pad=(self.temporal_pad, self.pad, self.pad),
            weight_filler=self.weight_filler,
            bias_filler=self.bias_filler,
        )
        return (Part("", whole, ("$b0",), ("$t0",)),)


@layer("Convolution3D", "convolution3d_param")
@dataclass(frozen=True)
class Convolution3D(_Filtering3D):
    """The Convolution of a video: `kernel_depth` frames of `kernel_size` x `kernel_size` pixels.

    `stride` and `pad` are along height and width, `temporal_stride` and `temporal_pad` along the
    frames. With `filter_group` the fork computes the outputs in so many parts, which changes
    nothing; `group`, which it does not read, has no effect.

    Shapes: bottom (N, C, L, H, W) -> top (N, num_output, places...), as Convolution has them.
    Params W (num_output, C, kernel_depth, kernel_size, kernel_size), and b (num_output,) unless
    `bias_term` is false.
    Source: C3D, Tran et al., ICCV 2015; in its first version CONVOLUTION3D with convolution_param.
    """


@layer("Deconvolution3D", "convolution3d_param")
@dataclass(frozen=True)
class Deconvolution3D(_Filtering3D):
    """The transpose of Convolution3D, as Deconvolution is that of Convolution.

    Shapes: bottom (N, C, L, H, W) -> top (N, num_output, stride (size - 1) + kernel - 2 pad, ...).
    Params W (C, num_output, kernel_depth, kernel_size, kernel_size), and b (num_output,) unless
    `bias_term` is false.
    Source: C3D; Tran et al., "Deep End2End Voxel2Voxel Prediction", CVPR workshop 2016.
    """

    transposed: ClassVar[bool] = True


@layer("NdConvolution", "convolution_param")
@dataclass(frozen=True)
class NdConvolution(Layer):
    """Convolution whose kernel, stride and pad are shapes: `kernel_shape { dim: 3 dim: 3 dim: 3 }`.

    The shapes have a `dim` for each axis behind the channels; without `stride_shape` all strides
    are 1, without `pad_shape` nothing is padded.

    Shapes: bottom (N, C, sizes...) -> top (N, num_output, places...), as Convolution has them;
    params as well.

    Source: video-caffe, where it computes with cuDNN alone.
    """

    num_output: int = 0
    bias_term: bool = True
    group: int = 1
    kernel_shape: BlobShape | None = None
    stride_shape: BlobShape | None = None
    pad_shape: BlobShape | None = None
    weight_filler: Filler = field(default_factory=Filler)
    bias_filler: Filler = field(default_factory=Filler)
    engine: Engine = Engine.DEFAULT

    bottoms: ClassVar[Arity] = at_least(1)
    tops: ClassVar[Arity] = at_least(1)
    tops_match_bottoms: ClassVar[bool] = True

    def expand(self, *bottoms: BlobType) -> tuple[Part, ...]:
        """Return the Convolution that is meant."""
        kernel, stride, pad = _steps(
            bottoms[0], self.kernel_shape, self.stride_shape, self.pad_shape, "convolution_param"
        )
        whole = Convolution(
            num_output=self.num_output,
            bias_term=self.bias_term,
            group=self.group,
            kernel_size=kernel,
            stride=stride,
            pad=pad,
            weight_filler=self.weight_filler,
            bias_filler=self.bias_filler,
        )
        numbers = range(len(bottoms))
        parts = tuple(f"$b{i}" for i in numbers), tuple(f"$t{i}" for i in numbers)
        return (Part("", whole, *parts),)


@layer("Pooling3D", "pooling3d_param")
@dataclass(frozen=True)
class Pooling3D(WindowPooling):
    """The maximum or mean of windows of `kernel_depth` frames, `kernel_size` x `kernel_size` each.

    `stride` and `pad` are along height and width, `temporal_stride` along the frames; only AVE
    takes a `pad`. The number of windows is rounded up, as Pooling does it, but for one thing: a
    last window that starts behind the image is not left out (AVE refuses it).

    The gradient of a maximum goes to the first of equal pixels, as in Pooling; the fork gives it to
    each of them.

    Shapes: bottom (N, C, L, H, W) -> top (N, C, places...).
    Source: C3D, Tran et al., ICCV 2015; in its first version POOLING3D with pooling_param.
    """

    kernel_size: int = 0
    kernel_depth: int = 0
    stride: int = 1
    temporal_stride: int = 1
    pad: int = 0

    tops: ClassVar[Arity] = exactly(1)

    def slides(self, x: BlobType) -> tuple[Slide, ...]:
        _check_video(x)
        for setting in ("kernel_size", "kernel_depth", "stride", "temporal_stride"):
            _check_given(setting, getattr(self, setting), "pooling3d_param")
        if self.pool is PoolMethod.STOCHASTIC:
            raise _no_method(self.pool)
        if self.pad and self.pool is not PoolMethod.AVE:
            raise Refusal(
                "only the mean of a video is padded",
                expected="pad 0, or pool: AVE",
                got=f"pad {self.pad}",
                setting="pad",
            )
        slides = tuple(
            Slide(size, -(-(size + 2 * pad - kernel) // stride) + 1, kernel, stride, pad)
            for size, (kernel, stride, pad) in zip(x.shape[2:], self._axes, strict=True)
        )
        _check_places(x, slides, ("kernel_depth", "kernel_size", "kernel_size"))
        return slides

    @property
    def _axes(self) -> tuple[tuple[int, int, int], ...]:
        image = (self.kernel_size, self.stride, self.pad)
        return (self.kernel_depth, self.temporal_stride, 0), image, image

    def coordinates(self) -> Coordinates | None:
        return sliding(1, [(*axis, 1) for axis in self._axes])


@layer("NdPooling", "pooling_param")
@dataclass(frozen=True)
class NdPooling(WindowPooling):
    """The maximum or mean of windows over any number of axes: `kernel_shape { dim: 2 dim: 2 }`.

    The shapes have a `dim` for each axis behind the channels; without `stride_shape` all strides
    are 1, without `pad_shape` nothing is padded. `global_pooling` takes whole images; the fork
    wants a `kernel_shape` there too, and does not look at it.

    The number of windows is rounded up; along a padded axis it is one less if the last window would
    start in the padding behind the image. AVE divides by the whole window, whatever of it is there.

    Shapes: bottom (N, C, sizes...) -> top (N, C, places...).
    Source: video-caffe, where it computes with cuDNN alone.
    """

    kernel_shape: BlobShape | None = None
    stride_shape: BlobShape | None = None
    pad_shape: BlobShape | None = None
    global_pooling: bool = False
    engine: Engine = Engine.DEFAULT

    tops: ClassVar[Arity] = exactly(1)
    whole_area: ClassVar[bool] = True

    def slides(self, x: BlobType) -> tuple[Slide, ...]:
        if self.pool is PoolMethod.STOCHASTIC:
            raise _no_method(self.pool)
        kernels, strides, pads = _steps(
            x, self.kernel_shape, self.stride_shape, self.pad_shape, "pooling_param"
        )
        if self.global_pooling:
            kernels = x.shape[2:]
        slides = []
        for size, kernel, stride, pad in zip(x.shape[2:], kernels, strides, pads, strict=True):
            if pad >= kernel:
                raise Refusal(
                    "a window would see nothing but padding",
                    expected="pad < kernel",
                    got=f"pad {pad}, kernel {kernel}",
                    setting="pad_shape",
                )
            places = -(-(size + 2 * pad - kernel) // stride) + 1
            if pad and (places - 1) * stride >= size + pad:
                places -= 1
            slides.append(Slide(size, places, kernel, stride, pad))
        _check_places(x, slides, ("kernel_shape",) * len(slides))
        return tuple(slides)

    def coordinates(self) -> Coordinates | None:
        if self.global_pooling or self.kernel_shape is None:
            return None
        kernels = self.kernel_shape.dim
        strides = self.stride_shape.dim if self.stride_shape else (1,) * len(kernels)
        pads = self.pad_shape.dim if self.pad_shape else (0,) * len(kernels)
        ones = (1,) * len(kernels)
        return sliding(1, zip(kernels, strides, pads, ones, strict=True))


def _no_method(method: PoolMethod) -> Refusal:
    return Refusal(
        f"{method.name} pooling of videos is not defined",
        expected="MAX or AVE",
        got=method.name,
        setting="pool",
    )


def _check_places(x: BlobType, slides: Sequence[Slide], settings: Sequence[str]) -> None:
    for slide, setting in zip(slides, settings, strict=True):
        if slide.places < 1:
            raise Refusal(
                "the kernel is larger than the bottom",
                expected="kernel < size + 2 * pad + stride",
                got=f"kernel {slide.kernel}, stride {slide.stride}, pad {slide.pad}, bottom of "
                f"shape {x}",
                setting=setting,
            )


def _steps(
    x: BlobType,
    kernel: BlobShape | None,
    stride: BlobShape | None,
    pad: BlobShape | None,
    message: str,
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return kernel, stride and pad of each axis behind (N, C) of a bottom, or refuse them."""
    if x.axes < 3:
        raise Refusal(
            "the bottom has no spatial axis",
            expected="(N, C, sizes...)",
            got=f"bottom of shape {x}",
        )
    if kernel is None:
        raise Refusal(
            "kernel_shape is missing",
            expected="kernel_shape, with a dim for each axis behind the channels",
            got="no kernel_shape",
            hint=f"add {message} {{ kernel_shape {{ dim: 3 dim: 3 dim: 3 }} }}",
        )
    n = x.axes - 2
    found = []
    for setting, shape, least in (
        ("kernel_shape", kernel, 1),
        ("stride_shape", stride or BlobShape((1,) * n), 1),
        ("pad_shape", pad or BlobShape((0,) * n), 0),
    ):
        if len(shape.dim) != n or any(size < least for size in shape.dim):
            raise Refusal(
                f"{setting} does not suit the bottom",
                expected=f"a dim >= {least} for each of the {n} axes behind the channels",
                got=f"dim {', '.join(map(str, shape.dim)) or 'none'}; bottom of shape {x}",
                setting=setting,
            )
        found.append(tuple(shape.dim))
    kernels, strides, pads = found
    return kernels, strides, pads


@layer("VoxelSoftmaxWithLoss")
@dataclass(frozen=True)
class VoxelSoftmaxWithLoss(Layer):
    """The mean of -log p[label] over the voxels of a video, p the softmax over the channels.

    A voxel whose label is no channel costs nothing, but counts in the mean. Its gradient is p / (N
    L H W), in which the fork forgets that it costs nothing; netc computes the same.

    Shapes: scores (N, C, L, H, W), labels (N, 1, L, H, W) -> loss (). Labels are rounded towards 0
    and not negative. Probabilities are floored at the smallest float32 before the log.
    Source: C3D (VOXEL_SOFTMAX_LOSS); Tran et al., CVPR workshop 2016.
    """

    bottoms: ClassVar[Arity] = exactly(2)
    loss: ClassVar[bool] = True

    def infer(self, *bottoms: BlobType) -> Signature:
        x, labels = bottoms
        _check_video(x)
        wanted = (x.shape[0], 1, *x.shape[2:])
        if labels.shape != wanted:
            raise Refusal(
                "the labels do not suit the scores",
                expected=f"labels of shape {BlobType(wanted)}, scores of shape {x}",
                got=f"labels of shape {labels}",
            )
        return Signature((SCALAR,), kept=(KeptType("prob", x.shape),))

    def _mark(self, call: ForwardCall | BackwardCall) -> Array:
        """Return a blob like the scores: 1 at the label of each voxel, elsewhere 0."""
        xp, (x, labels) = call.xp, call.bottoms
        numbers = xp.arange(x.shape[1]).reshape(1, -1, 1, 1, 1)
        return xp.trunc(labels) == numbers

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, prob = call.xp, call.kept[0]
        softmax(xp, call.bottoms[0], 1, out=prob)
        costs = -xp.log(xp.maximum(prob, FLT_MIN)) * self._mark(call)
        return (xp.asarray(costs.sum() / self._voxels(prob.shape)),)

    @staticmethod
    def _voxels(shape: tuple[int, ...]) -> int:
        return max(1, shape[0] * math.prod(shape[2:]))

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (True, False)

    def backward(self, call: BackwardCall) -> Gradients:
        prob = call.kept[0]
        weight = call.top_diffs[0] / self._voxels(prob.shape)
        return Gradients(((prob - self._mark(call)) * weight, None))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        x, labels = bottoms
        channels = x.shape[1]
        numbers = g.constant(g.xp.arange(channels).reshape(1, -1, 1, 1, 1), "int64")
        mark = g.cast(g.op("Equal", g.cast(labels, "int64"), numbers), "float32")
        floored = g.op("Max", g.op("Softmax", x, axis=1), g.constant(FLT_MIN))
        mean = g.op("ReduceMean", g.op("Mul", g.op("Log", floored), mark), keepdims=0)
        # A voxel has one cost, in one of its channels.
        return (g.op("Mul", mean, g.constant(-channels)),)

    def deployed(self) -> Layer | None:
        return Softmax()

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        return bottoms[0].count
