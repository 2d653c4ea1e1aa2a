"""The way back from a pooling: values put where its maximum came from, or spread over its windows.

A mask is the second top of a Pooling: for each value its place y * W + x in the channel it was
taken from.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from netc.layers.registry import layer
from netc.layers.types import (
    Arity,
    Array,
    ArrayNamespace,
    BackwardCall,
    BlobType,
    ForwardCall,
    Gradients,
    Layer,
    OnnxBuilder,
    Reads,
    Refusal,
    Signature,
    Value,
    between,
)
from netc.layers.window import Slide, taps


@dataclass(frozen=True)
class Enlarging(Layer):
    """Base of the types that take images and perhaps the mask of a pooling, and give larger ones.

    Where several values are put in one place the last counts; each of them gets the gradient of the
    place, as in the forks.
    """

    bottoms: ClassVar[Arity] = between(1, 2)
    # The mask says where values go; what leads to it is constant to the objective.
    stops_gradients: ClassVar[bool] = True

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (True, False)[:n_bottoms]

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def check_bottoms(self, bottoms: Sequence[BlobType]) -> None:
        """Refuse what is not images, and a mask that is not theirs."""
        if bottoms[0].axes != 4:
            raise Refusal(
                f"the bottom of an {self.type} layer must have 4 axes",
                expected="(N, C, H, W)",
                got=f"bottom of shape {bottoms[0]}",
            )
        if bottoms[1:] and bottoms[1] != bottoms[0]:
            raise Refusal(
                "the mask has another shape than the images",
                expected=f"bottom 1 of shape {bottoms[0]}",
                got=f"bottom 1 of shape {bottoms[1]}",
                hint="bottom 1 is the second top of the Pooling that these images undo",
            )


def places_of(xp: ArrayNamespace, mask: Array, height: int, width: int) -> Array:
    """Return a mask as (N * C, h * w) of int64; refuse places outside height x width."""
    n, channels, *sizes = mask.shape
    places = mask.reshape(n * channels, math.prod(sizes)).astype("int64")
    wrong = (places < 0) | (places >= height * width)
    if bool(wrong.any()):
        raise Refusal(
            "the mask names a place outside the top",
            expected=f"0..{height * width - 1}, for a top of height {height} and width {width}",
            got=f"{int(places[wrong][0])}, and {int(wrong.sum()) - 1} more such places",
            hint="the top needs the size of the images that the pooling with this mask had",
            setting="bottom",
        )
    return places


def scatter(xp: ArrayNamespace, x: Array, places: Array, out: Array) -> Array:
    """Write zeros to `out`, then each value of x to its place."""
    flat = xp.zeros((len(places), out.shape[2] * out.shape[3]), x.dtype)
    flat[xp.arange(len(places))[:, None], places] = x.reshape(places.shape)
    return flat.reshape(out.shape)


def gather(xp: ArrayNamespace, dy: Array, places: Array, shape: tuple[int, ...]) -> Array:
    """Return what lies at each place, in the shape of the mask."""
    flat = dy.reshape(len(places), math.prod(dy.shape[2:]))
    return xp.take_along_axis(flat, places, axis=1).reshape(shape)


def lower_scatter(g: OnnxBuilder, x: Value, mask: Value, height: int, width: int) -> Value:
    """Return `scatter` in ONNX."""
    n, channels, h, w = x.shape
    size = height * width
    flat, places = (g.reshape(value, (n, channels, h * w)) for value in (x, mask))
    # Zeros for as many images as there are, whatever they hold.
    zeros = g.cast(g.op("Less", flat, flat), "float32")
    if size > h * w:
        zeros = g.op("Pad", zeros, g.constant([0, 0, 0, 0, 0, size - h * w], "int64"))
    elif size < h * w:
        zeros = g.op("Slice", zeros, *(g.constant([v], "int64") for v in (0, size, 2)))
    y = g.op("ScatterElements", zeros, g.cast(places, "int64"), flat, axis=2)
    return g.reshape(y, (n, channels, height, width))


@layer("Upsample", "upsample_param")
@dataclass(frozen=True)
class Upsample(Enlarging):
    """With a mask each value goes to its place, the rest is 0; without one each pixel is repeated.

    With a mask, bottom 1 (SegNet): the size of the top is `upsample_h` x `upsample_w`; without
    these `scale`, or `scale_h` and `scale_w`, times the bottom's, less one where `pad_out_h` or
    `pad_out_w` says that the pooled size was odd. `upsample_h` and `upsample_w` win over a scale.

    With one bottom (YOLO v3): a pixel becomes scale x scale pixels.

    Shapes: bottom (N, C, H, W), mask (N, C, H, W) -> top (N, C, new, new). Raises `Refusal` for a
    mask that names a place outside the top.
    Source: Badrinarayanan, Kendall and Cipolla, "SegNet", PAMI 2017, and its fork of Caffe; without
    a mask, the fork MobileNet-YOLO.
    """

    scale: int | None = None
    scale_h: int | None = None
    scale_w: int | None = None
    pad_out_h: bool = False
    pad_out_w: bool = False
    upsample_h: int | None = None
    upsample_w: int | None = None

    def infer(self, *bottoms: BlobType) -> Signature:
        self.check_bottoms(bottoms)
        x = bottoms[0]
        height, width = self._size(x, masked=len(bottoms) == 2)
        return Signature((BlobType((*x.shape[:2], height, width)),))

    def _size(self, x: BlobType, *, masked: bool) -> tuple[int, int]:
        """Return the size of the top."""
        for one, other in (("upsample_h", "upsample_w"), ("scale_h", "scale_w")):
            if (getattr(self, one) is None) != (getattr(self, other) is None):
                given, missing = (one, other) if getattr(self, other) is None else (other, one)
                raise Refusal(
                    f"{given} is set without {missing}",
                    expected="both, or neither",
                    got=f"{given}: {getattr(self, given)}",
                    setting=given,
                )
        if self.upsample_h is not None and self.upsample_w is not None:
            self._refuse_beside_size(masked)
            for name in ("upsample_h", "upsample_w"):
                self._at_least(name, getattr(self, name), 2)
            return self.upsample_h, self.upsample_w
        return self._scaled("h", x, masked), self._scaled("w", x, masked)

    def _refuse_beside_size(self, masked: bool) -> None:
        if not masked:
            raise Refusal(
                "upsample_h and upsample_w need a mask",
                expected="two bottoms, or scale",
                got="1 bottom",
                hint="to resize images without a mask, use an Interp layer",
                setting="upsample_h",
            )
        for name in ("pad_out_h", "pad_out_w"):
            if getattr(self, name):
                raise Refusal(
                    f"{name} belongs to a scale, and upsample_h and upsample_w say the size",
                    expected="one of them",
                    got=f"{name}: true, upsample_h: {self.upsample_h}",
                    setting=name,
                )

    @staticmethod
    def _at_least(name: str, value: int, least: int) -> None:
        if value < least:
            raise Refusal(
                f"{name} is too small", expected=f"{name} >= {least}", got=value, setting=name
            )

    def _factors(self) -> tuple[int, int]:
        if self.scale_h is not None and self.scale_w is not None:
            return self.scale_h, self.scale_w
        scale = 2 if self.scale is None else self.scale
        return scale, scale

    def _scaled(self, side: str, x: BlobType, masked: bool) -> int:
        if self.scale is not None and self.scale_h is not None:
            raise Refusal(
                "scale and scale_h, scale_w exclude each other",
                expected="one of the two ways",
                got=f"scale {self.scale}, scale_h {self.scale_h}",
                setting="scale",
            )
        factor = self._factors()[side == "w"]
        name = f"scale_{side}" if self.scale_h is not None else "scale"
        self._at_least(name, factor, 2 if masked else 1)
        padded = f"pad_out_{side}"
        if not getattr(self, padded):
            return x.shape[3 if side == "w" else 2] * factor
        if not masked or factor != 2:
            raise Refusal(
                f"{padded} is for the mask of a pooling with stride 2",
                expected=f"two bottoms and {name} 2",
                got=f"{1 + masked} bottom(s), {name} {factor}",
                setting=padded,
            )
        return x.shape[3 if side == "w" else 2] * factor - 1

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, x, out = call.xp, call.bottoms[0], call.out[0]
        if len(call.bottoms) == 2:
            places = places_of(xp, call.bottoms[1], *out.shape[2:])
            return (scatter(xp, x, places, out),)
        (down, across), (n, c, h, w) = self._factors(), x.shape
        spread = xp.broadcast_to(x[:, :, :, None, :, None], (n, c, h, down, w, across))
        return (spread.reshape(out.shape),)

    def backward(self, call: BackwardCall) -> Gradients:
        xp, dy, shape = call.xp, call.top_diffs[0], call.bottoms[0].shape
        if len(call.bottoms) == 2:
            places = places_of(xp, call.bottoms[1], *dy.shape[2:])
            return Gradients((gather(xp, dy, places, shape), None))
        (down, across), (n, c, h, w) = self._factors(), shape
        return Gradients((dy.reshape(n, c, h, down, w, across).sum(axis=(3, 5)),))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        x = bottoms[0]
        if len(bottoms) == 2:
            height, width = self._size(BlobType(x.shape), masked=True)
            return (lower_scatter(g, x, bottoms[1], height, width),)
        down, across = self._factors()
        scales = g.constant([1.0, 1.0, float(down), float(across)])
        settings: dict[str, Any] = {
            "mode": "nearest",
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        }
        return (g.op("Resize", x, None, scales, **settings),)


class UnpoolMethod(enum.Enum):
    """What becomes of a value."""

    MAX = 0
    AVE = 1
    TILE = 2


@layer("Unpooling", "unpooling_param")
@dataclass(frozen=True)
class Unpooling(Enlarging):
    """Each value goes back to the window that a pooling with these settings took it from.

    MAX: to its place in the mask, bottom 1; without a mask, to the window's first pixel. AVE: to
    all pixels of the window, divided by their number. TILE: to all of them as it is. Where windows
    overlap, AVE and TILE add up.

    Shapes: bottom (N, C, H, W), mask (N, C, H, W) -> top (N, C, new, new). The new size is
    `unpool_size`, or `unpool_h` and `unpool_w`; if these are absent, the larger one of
    (H - 1) * stride + kernel and H * stride + 1. Windows are cut off at its edge. Padding is read
    and, as in the fork, has to be 0. Raises `Refusal` for a mask that names a place outside the
    top.
    Source: Noh, Hong and Han, "DeconvNet", ICCV 2015, and its fork of Caffe; the gradient of TILE,
    which the fork divides by the window's area, is that of the sum.
    """

    unpool: UnpoolMethod = UnpoolMethod.MAX
    kernel_size: int | None = None
    kernel_h: int | None = None
    kernel_w: int | None = None
    stride: int | None = None
    stride_h: int | None = None
    stride_w: int | None = None
    pad: int = 0
    pad_h: int = 0
    pad_w: int = 0
    unpool_size: int | None = None
    unpool_h: int | None = None
    unpool_w: int | None = None

    def infer(self, *bottoms: BlobType) -> Signature:
        self.check_bottoms(bottoms)
        if len(bottoms) == 2 and self.unpool is not UnpoolMethod.MAX:
            raise Refusal(
                f"unpooling by {self.unpool.name} looks at no mask",
                expected="1 bottom, or unpool: MAX",
                got=f"2 bottoms, unpool: {self.unpool.name}",
                setting="unpool",
            )
        for name in ("pad", "pad_h", "pad_w"):
            if getattr(self, name):
                raise Refusal(
                    "padding cannot be undone",
                    expected=f"{name}: 0",
                    got=getattr(self, name),
                    setting=name,
                )
        x = bottoms[0]
        return Signature((BlobType((*x.shape[:2], *(s.pixels for s in self._slides(x)))),))

    def _pair(self, both: str, stem: str) -> tuple[int, int] | None:
        """Return a setting's values for height and width, however they are given."""
        h, w = (getattr(self, f"{stem}_{side}") for side in "hw")
        value = getattr(self, both)
        if (h is None) != (w is None) or (h is not None and value is not None):
            raise Refusal(
                f"{stem} needs one value for both axes, or one for each",
                expected=f"{both}, or {stem}_h and {stem}_w",
                got=", ".join(
                    f"{name}: {getattr(self, name)}"
                    for name in (both, f"{stem}_h", f"{stem}_w")
                    if getattr(self, name) is not None
                ),
                setting=both if value is not None else f"{stem}_{'h' if w is None else 'w'}",
            )
        if value is not None:
            h = w = value
        if h is None or w is None:
            return None
        if min(h, w) < 1:
            raise Refusal(
                f"{stem} is not positive",
                expected=f"{stem} >= 1",
                got=f"{h} x {w}",
                setting=both if value is not None else f"{stem}_h",
            )
        return h, w

    def _slides(self, x: BlobType) -> tuple[Slide, Slide]:
        """Return how the windows lie on the top."""
        kernels = self._pair("kernel_size", "kernel")
        if kernels is None:
            raise Refusal(
                "the kernel is missing",
                expected="kernel_size, or kernel_h and kernel_w",
                got="neither",
                hint="give the kernel of the pooling that this layer undoes",
                setting="kernel_size",
            )
        strides = self._pair("stride", "stride") or (1, 1)
        sizes = self._pair("unpool_size", "unpool") or tuple(
            max((n - 1) * stride + kernel, n * stride + 1)
            for n, stride, kernel in zip(x.shape[2:], strides, kernels, strict=True)
        )
        h, w = (
            Slide(pixels, places, kernel, stride)
            for pixels, places, kernel, stride in zip(
                sizes, x.shape[2:], kernels, strides, strict=True
            )
        )
        return h, w

    def _corners(self, xp: ArrayNamespace, slides: tuple[Slide, Slide], rows: int) -> Array:
        """Return the places of the windows' first pixels, within the image, (rows, h * w)."""
        down, across = (xp.minimum(xp.arange(s.places) * s.stride, s.pixels - 1) for s in slides)
        places = (down[:, None] * slides[1].pixels + across).reshape(1, -1)
        return xp.broadcast_to(places, (rows, places.shape[1]))

    def _places(
        self, xp: ArrayNamespace, bottoms: Sequence[Array], slides: tuple[Slide, Slide]
    ) -> Array:
        if len(bottoms) == 2:
            return places_of(xp, bottoms[1], slides[0].pixels, slides[1].pixels)
        shape = bottoms[0].shape
        return self._corners(xp, slides, shape[0] * shape[1])

    def _areas(self, xp: ArrayNamespace, slides: tuple[Slide, Slide], dtype: object) -> Array:
        """Return the number of pixels of each window, (places, places); 1 for none."""
        if self.unpool is UnpoolMethod.TILE:
            return xp.ones([s.places for s in slides], dtype)
        h, w = (xp.clip(s.pixels - xp.arange(s.places) * s.stride, 0, s.kernel) for s in slides)
        return xp.maximum(h[:, None] * w, 1).astype(dtype)

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, x, out = call.xp, call.bottoms[0], call.out[0]
        slides = self._slides(BlobType(x.shape))
        if self.unpool is UnpoolMethod.MAX:
            return (scatter(xp, x, self._places(xp, call.bottoms, slides), out),)
        share = x / self._areas(xp, slides, x.dtype)
        out.fill(0)
        for _, places, pixels in taps(slides):
            out[(..., *pixels)] += share[(..., *places)]
        return (out,)

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM if self.unpool is UnpoolMethod.MAX else Reads.NOTHING

    def backward(self, call: BackwardCall) -> Gradients:
        xp, dy, shape = call.xp, call.top_diffs[0], call.bottoms[0].shape
        slides = self._slides(BlobType(shape))
        if self.unpool is UnpoolMethod.MAX:
            dx = gather(xp, dy, self._places(xp, call.bottoms, slides), shape)
            return Gradients((dx, None)[: len(call.bottoms)])
        dx = xp.zeros(shape, dy.dtype)
        for _, places, pixels in taps(slides):
            dx[(..., *places)] += dy[(..., *pixels)]
        dx /= self._areas(xp, slides, dy.dtype)
        return Gradients((dx,))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        x = bottoms[0]
        h, w = slides = self._slides(BlobType(x.shape))
        if len(bottoms) == 2:
            return (lower_scatter(g, x, bottoms[1], h.pixels, w.pixels),)
        if self.unpool is UnpoolMethod.MAX:
            if any((s.places - 1) * s.stride >= s.pixels for s in slides):
                raise g.refuse(
                    "several windows begin at one pixel, and ONNX does not say which counts",
                    hint="a larger unpool_size, or a mask",
                )
            places = self._corners(g.xp, slides, 1).reshape(1, 1, h.places, w.places)
            none = g.cast(g.op("Less", x, x), "float32")
            mask = g.op("Add", none, g.constant(places))
            return (lower_scatter(g, x, mask, h.pixels, w.pixels),)
        if self.unpool is UnpoolMethod.AVE:
            x = g.op("Mul", x, g.constant(1 / self._areas(g.xp, slides, "float64")))
        # A deconvolution with ones, channel by channel, cut off or filled up to the size.
        channels = x.shape[1]
        kernel = g.constant(g.xp.ones((channels, 1, h.kernel, w.kernel), "float32"))
        y = g.op(
            "ConvTranspose",
            x,
            kernel,
            strides=[h.stride, w.stride],
            group=channels,
        )
        ends = [s.end_pad for s in slides]
        if any(end > 0 for end in ends):
            stops = [min(size, s.pixels) for size, s in zip(y.shape[2:], slides, strict=True)]
            bounds = ([0, 0], stops, [2, 3])
            y = g.op("Slice", y, *(g.constant(v, "int64") for v in bounds))
        if any(end < 0 for end in ends):
            pads = [0] * 6 + [max(0, -end) for end in ends]
            y = g.op("Pad", y, g.constant(pads, "int64"))
        return (y,)

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        """Return the additions of AVE and TILE."""
        if self.unpool is UnpoolMethod.MAX:
            return 0
        h, w = self._slides(bottoms[0])
        return bottoms[0].count * h.kernel * w.kernel
