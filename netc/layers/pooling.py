"""Pooling: one number for what each window sees of a channel."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from netc.layers.activation import Engine
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
    KeptType,
    Layer,
    OnnxBuilder,
    Phase,
    Reads,
    Refusal,
    Signature,
    Value,
    between,
)
from netc.layers.window import Slide, sliding, taps

# What Caffe's maximum starts from, -FLT_MAX: the content of a window that sees nothing.
LOWEST = -3.4028234663852886e38


class PoolMethod(enum.Enum):
    """What becomes of the pixels in a window."""

    MAX = 0
    AVE = 1
    STOCHASTIC = 2


class RoundMode(enum.Enum):
    """How the number of windows is rounded."""

    CEIL = 0
    FLOOR = 1


@dataclass(frozen=True)
class WindowPooling(Layer):
    """Base of the types that give one number for what each window sees of a channel.

    What is common to any number of spatial axes behind (N, C); `slides` says how windows move.
    """

    pool: PoolMethod = PoolMethod.MAX
    phase: Phase = Phase.TRAIN
    top: tuple[str, ...] = ()

    #: A mean is over the whole window, even where that reaches past image and padding.
    whole_area: ClassVar[bool] = False

    # -- shapes ------------------------------------------------------------------------------------

    def infer(self, *bottoms: BlobType) -> Signature:
        x = bottoms[0]
        slides = self.slides(x)
        if self.pool is not PoolMethod.MAX:
            if len(self.top) > 1:
                raise Refusal(
                    "only MAX pooling has a second top, the mask",
                    expected="1 top, or pool: MAX",
                    got=f"{len(self.top)} tops, pool: {self.pool.name}",
                    setting="pool",
                )
            if sees_nothing(slides):
                raise Refusal(
                    f"{self.pool.name} pooling over a window that lies wholly behind the image",
                    expected="stride <= kernel, or sizes at which the last window meets the image",
                    got=f"bottom of shape {x}, {shown(slides)}",
                    hint="round_mode: FLOOR leaves that window out",
                    setting="round_mode",
                )
        top = BlobType((*x.shape[:2], *(s.places for s in slides)))
        kept: tuple[KeptType, ...] = ()
        if self._chooses:
            # 1 + the number of the tap that was chosen; 0 for none, as in a window past the image.
            dtype = "uint8" if math.prod(s.kernel for s in slides) <= 255 else "int32"
            kept = (KeptType("choice", top.shape, dtype),)
        return Signature((top,) * max(1, len(self.top)), kept=kept)

    def slides(self, x: BlobType) -> tuple[Slide, ...]:
        """Return how the window slides over a bottom of this shape, or refuse the settings."""
        raise TypeError(f"layer type {self.type} does not say how its windows slide")

    @property
    def _whole(self) -> bool:
        """Whether the window is the whole of any image."""
        return False

    @property
    def _chooses(self) -> bool:
        """Whether one pixel of each window stands for it."""
        if self.pool is PoolMethod.STOCHASTIC:
            return self.phase is Phase.TRAIN
        return self.pool is PoolMethod.MAX

    # -- forward -----------------------------------------------------------------------------------

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, x = call.xp, call.bottoms[0]
        slides = self.slides(BlobType(x.shape))
        match self.pool:
            case PoolMethod.AVE:
                total = _sum(x, slides, call.out[0])
                return (xp.divide(total, self._areas(xp, slides, x.dtype), out=call.out[0]),)
            case PoolMethod.STOCHASTIC if self.phase is Phase.TEST:
                return (_expectation(xp, x, slides)[0],)
            case PoolMethod.STOCHASTIC:
                return (_draw(xp, x, slides, call.random(), call.kept[0]),)
        top = _maximum(xp, x, slides, call.out[0], call.kept[0])
        if len(call.out) == 1:
            return (top,)
        return (top, _mask(xp, call.kept[0], slides, x.dtype))

    # -- backward ----------------------------------------------------------------------------------

    def backward_reads(self) -> Reads:
        if self.pool is PoolMethod.STOCHASTIC and self.phase is Phase.TEST:
            return Reads.BOTTOM
        return Reads.NOTHING

    def backward(self, call: BackwardCall) -> Gradients:
        xp, dy, shape = call.xp, call.top_diffs[0], call.bottoms[0].shape
        slides = self.slides(BlobType(shape))
        dx = xp.zeros(shape, dy.dtype)
        if self._chooses:
            if sees_nothing(slides):
                raise Refusal(
                    "MAX pooling over a window wholly behind the image has no gradient",
                    expected="stride <= kernel, or sizes at which the last window meets the image",
                    got=f"bottom of shape {BlobType(shape)}, {shown(slides)}",
                    hint="round_mode: FLOOR leaves that window out",
                    setting="round_mode",
                )
            choice = call.kept[0]
            for number, (_, places, pixels) in enumerate(taps(slides), start=1):
                chosen = choice[(..., *places)] == number
                dx[(..., *pixels)] += dy[(..., *places)] * chosen
            return Gradients((dx,))
        if self.pool is PoolMethod.AVE:
            share = dy / self._areas(xp, slides, dy.dtype)
            for _, places, pixels in taps(slides):
                dx[(..., *pixels)] += share[(..., *places)]
            return Gradients((dx,))
        x = call.bottoms[0]
        top, total = _expectation(xp, x, slides)
        share = dy / total
        for _, places, pixels in taps(slides):
            seen, here = x[(..., *pixels)], (..., *places)
            dx[(..., *pixels)] += share[here] * (2 * seen - top[here]) * (seen > 0)
        return Gradients((dx,))

    # -- ONNX --------------------------------------------------------------------------------------

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        # Always rounding down, with the padding that this takes: ONNX's `ceil_mode` has other sizes
        # than Caffe's rounding up (and others again since opset 22), and other divisors.
        x = bottoms[0]
        slides = self.slides(BlobType(x.shape))
        if self.pool is PoolMethod.MAX:
            return self._lower_max(g, x, slides)
        if self.pool is PoolMethod.STOCHASTIC:
            weight = g.op("Relu", x)
            squares = self._lower_mean(g, g.op("Mul", weight, weight), slides)
            mean = self._lower_mean(g, weight, slides)
            zero = g.constant(0.0)
            some = g.op("Greater", mean, zero)
            return (g.op("Where", some, g.op("Div", squares, mean), zero),)
        mean = self._lower_mean(g, x, slides)
        if not self._padded_mean_differs(slides):
            return (mean,)
        area = math.prod(s.kernel for s in slides)
        return (g.op("Mul", mean, g.constant(area / self._areas(g.xp, slides, "float64"))),)

    def _lower_max(self, g: OnnxBuilder, x: Value, slides: Sequence[Slide]) -> tuple[Value, ...]:
        masked = len(self.top) > 1
        if self._whole and not masked:
            return (g.op("GlobalMaxPool", x),)
        settings = window_attributes(slides)
        if sees_nothing(slides):
            # ONNX pads by less than a kernel; more of it has to be there beforehand.
            if masked:
                raise g.refuse("a mask over a window that lies wholly behind the image")
            ends = [max(0, s.end_pad) for s in slides]
            pads = g.constant([0] * (4 + len(slides)) + ends, "int64")
            x = g.op("Pad", x, pads, g.constant(LOWEST))
            settings["pads"] = [0] * 2 * len(slides)
        if not masked:
            return (g.op("MaxPool", x, **settings),)
        top, index = g.op("MaxPool", x, outputs=2, **settings)
        # ONNX counts through the whole blob, Caffe within a channel.
        pixels = math.prod(s.pixels for s in slides)
        in_channel = g.op("Mod", index, g.constant(pixels, "int64"))
        return top, g.cast(in_channel, "float32")

    def _padded_mean_differs(self, slides: Sequence[Slide]) -> bool:
        """Whether a window reaches over the edge of the padding, where Caffe's divisor shrinks."""
        if self.whole_area:
            return False
        return any(s.pad for s in slides) and any(s.end_pad > s.pad for s in slides)

    def _lower_mean(self, g: OnnxBuilder, x: Value, slides: Sequence[Slide]) -> Value:
        """Add an AveragePool: with padding it divides by the kernel's area, else by the pixels."""
        if self._whole:
            mean: Value = g.op("GlobalAveragePool", x)
            return mean
        padded = self.whole_area or any(s.pad for s in slides)
        mean = g.op("AveragePool", x, count_include_pad=int(padded), **window_attributes(slides))
        return mean

    def _areas(self, xp: ArrayNamespace, slides: Sequence[Slide], dtype: Any) -> Any:
        """Return what the sum of each window is divided by for its mean."""
        if self.whole_area:
            return math.prod(s.kernel for s in slides)
        return divisor(xp, slides, dtype)

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        if self.pool is PoolMethod.MAX:
            return 0
        area = math.prod(s.kernel for s in self.slides(bottoms[0]))
        return signature.tops[0].count * area


@layer("Pooling", "pooling_param")
@dataclass(frozen=True)
class Pooling(WindowPooling):
    """The maximum, the mean, or a random pixel of each window, channel by channel.

    The number of windows along an axis is (size + 2 pad - kernel) / stride + 1, rounded up (down
    with `round_mode` FLOOR, in other words `ceil_mode` false), less one if there is padding and the
    last window would start in the padding behind the image. The last window may reach over the
    edge. Without padding and with a stride above the kernel it may even start behind the edge: MAX
    then gives -FLT_MAX; its gradient and the other methods refuse.

    MAX: among equal pixels the first counts. A second top takes its index y * W + x in the channel.
    AVE: the divisor is the area of the window inside the image and its padding.
    STOCHASTIC: in phase TRAIN a pixel x is chosen with probability x / sum(x), in phase TEST the
    top is the expectation sum(x^2) / sum(x). Pixels below 0 count as 0.

    Shapes: bottom (N, C, H, W) -> tops (N, C, places, places).
    Source: sizes, divisors and mask are those of BVLC Caffe 1.0; STOCHASTIC is Zeiler and Fergus,
    ICLR 2013.
    """

    pad: int | None = None
    pad_h: int | None = None
    pad_w: int | None = None
    kernel_size: int | None = None
    kernel_h: int | None = None
    kernel_w: int | None = None
    stride: int | None = None
    stride_h: int | None = None
    stride_w: int | None = None
    engine: Engine = Engine.DEFAULT
    global_pooling: bool = False
    round_mode: RoundMode = RoundMode.CEIL
    ceil_mode: bool | None = None

    tops: ClassVar[Arity] = between(1, 2)

    def coordinates(self) -> Coordinates | None:
        if self.global_pooling:
            return None
        steps = zip(
            self._pair("kernel", "kernel_size", None, least=1),
            self._pair("stride", "stride", 1, least=1),
            self._pair("pad", "pad", 0, least=0),
            (1, 1),
            strict=True,
        )
        # What is the same for both axes is said once: it then goes with any number of axes.
        return sliding(1, dict.fromkeys(steps))

    def slides(self, x: BlobType) -> tuple[Slide, ...]:
        if x.axes != 4:
            raise Refusal(
                "the bottom of a Pooling layer must have 4 axes",
                expected="(N, C, H, W)",
                got=f"bottom of shape {x}",
            )
        sizes = x.shape[2:]
        if self.global_pooling:
            self._check_global()
            return Slide(sizes[0], 1, sizes[0]), Slide(sizes[1], 1, sizes[1])
        if self.ceil_mode and self.round_mode is RoundMode.FLOOR:
            raise Refusal(
                "ceil_mode and round_mode contradict each other",
                expected="one of them",
                got="ceil_mode: true, round_mode: FLOOR",
                setting="ceil_mode",
            )
        kernels = self._pair("kernel", "kernel_size", None, least=1)
        strides = self._pair("stride", "stride", 1, least=1)
        pads = self._pair("pad", "pad", 0, least=0)
        for side, kernel, pad in zip("hw", kernels, pads, strict=True):
            if pad and self.pool is PoolMethod.STOCHASTIC:
                raise Refusal(
                    "STOCHASTIC pooling knows no padding",
                    expected="pad 0, or pool: MAX or AVE",
                    got=f"pad {pad}",
                    setting=self._source_of("pad", "pad", side),
                )
            if pad >= kernel:
                raise Refusal(
                    "a window would see nothing but padding",
                    expected="pad < kernel",
                    got=f"pad {pad}, kernel {kernel}",
                    setting=self._source_of("pad", "pad", side),
                )
        h, w = (
            Slide(size, self._places(size, kernel, stride, pad, any(pads)), kernel, stride, pad)
            for size, kernel, stride, pad in zip(sizes, kernels, strides, pads, strict=True)
        )
        if min(h.places, w.places) < 1:
            raise Refusal(
                "the kernel is larger than the bottom",
                expected="kernel < size + 2 * pad + stride"
                if self._rounds_up
                else "kernel <= size + 2 * pad",
                got=f"bottom of shape {x}, {shown((h, w))}",
                setting=self._source_of("kernel", "kernel_size", "h" if h.places < 1 else "w"),
            )
        return h, w

    @property
    def _rounds_up(self) -> bool:
        # Forks had `ceil_mode` before BVLC Caffe had `round_mode`.
        return self.round_mode is RoundMode.CEIL if self.ceil_mode is None else self.ceil_mode

    def _places(self, size: int, kernel: int, stride: int, pad: int, padded: bool) -> int:
        room = size + 2 * pad - kernel
        places = (-(-room // stride) if self._rounds_up else room // stride) + 1
        # Caffe has this rule for both axes if either is padded, and for none if neither is.
        if padded and (places - 1) * stride >= size + pad:
            places -= 1
        return places

    def _pair(self, stem: str, both: str, default: int | None, *, least: int) -> tuple[int, int]:
        """Return a setting for height and width, given once or for each of them."""
        one = getattr(self, both)
        h, w = getattr(self, f"{stem}_h"), getattr(self, f"{stem}_w")
        given = [
            name for name in (both, f"{stem}_h", f"{stem}_w") if getattr(self, name) is not None
        ]
        if one is not None and len(given) == 1:
            h = w = one
        elif not given and default is not None:
            h = w = default
        elif one is not None or h is None or w is None:
            raise Refusal(
                f"{both} is missing"
                if not given
                else f"{both} is given twice"
                if one is not None
                else f"{stem}_h and {stem}_w belong together",
                expected=f"{both}, or {stem}_h and {stem}_w",
                got=" and ".join(given) or "neither",
                hint="" if given else f"add pooling_param {{ {both}: N }}, or global_pooling: true",
                setting=given[-1] if given else "",
            )
        if min(h, w) < least:
            raise Refusal(
                f"{both} is too small",
                expected=f"{both} >= {least}",
                got=f"{h}" if h == w else f"{h} and {w}",
                setting=given[0],
            )
        return h, w

    def _check_global(self) -> None:
        for stem, both, neutral in (
            ("kernel", "kernel_size", None),
            ("stride", "stride", 1),
            ("pad", "pad", 0),
        ):
            for name in (both, f"{stem}_h", f"{stem}_w"):
                value = getattr(self, name)
                if value not in (None, neutral):
                    raise Refusal(
                        f"global pooling with {name}",
                        expected="no kernel, stride or pad: the window is the whole image",
                        got=f"{name}: {value}",
                        hint=f"remove {name}, or global_pooling",
                        setting=name,
                    )

    def _source_of(self, stem: str, both: str, side: str) -> str:
        """Return the name of the field that a setting was given in."""
        return both if getattr(self, both) is not None else f"{stem}_{side}"

    @property
    def _whole(self) -> bool:
        return self.global_pooling


def shown(slides: Sequence[Slide]) -> str:
    """Return the settings of all axes, for a message."""
    names = ("length", "height", "width")[-len(slides) :]
    if len(slides) > len(names):
        names = tuple(f"axis {axis}" for axis in range(2, 2 + len(slides)))
    return "; ".join(
        f"{name}: kernel {s.kernel}, stride {s.stride}, pad {s.pad}"
        for name, s in zip(names, slides, strict=True)
    )


def sees_nothing(slides: Sequence[Slide]) -> bool:
    """Whether the last window along an axis starts behind the image."""
    return any((s.places - 1) * s.stride - s.pad >= s.pixels for s in slides)


def _is_whole(slides: Sequence[Slide]) -> bool:
    """Whether there is one window, which is the image: a loop over its pixels would be slow."""
    return all((s.places, s.kernel, s.pad) == (1, s.pixels, 0) for s in slides)


def divisor(xp: ArrayNamespace, slides: Sequence[Slide], dtype: Any) -> Array:
    """Return the area (places...) of each window, as far as the padding goes."""
    area = xp.ones((), dtype)
    for s in slides:
        ends = [s.pixels + 2 * s.pad - place * s.stride for place in range(s.places)]
        area = area[..., None] * xp.asarray([min(s.kernel, end) for end in ends], dtype)
    return area


def _sum(x: Array, slides: Sequence[Slide], out: Array) -> Array:
    """Return the sum over each window, in `out`."""
    if _is_whole(slides):
        return x.sum(axis=tuple(range(2, x.ndim)), keepdims=True)
    out.fill(0)
    for _, places, pixels in taps(slides):
        out[(..., *places)] += x[(..., *pixels)]
    return out


def _maximum(
    xp: ArrayNamespace, x: Array, slides: Sequence[Slide], out: Array, choice: Array
) -> Array:
    """Return the maximum of each window, in `out`; write to `choice` the first tap that has it."""
    if _is_whole(slides):
        pixels = x.reshape(*x.shape[:2], math.prod(x.shape[2:]))
        first = pixels.argmax(axis=2, keepdims=True)
        choice[...] = (first + 1).reshape(choice.shape)
        return xp.take_along_axis(pixels, first, axis=2).reshape(choice.shape)
    out.fill(LOWEST)
    choice.fill(0)
    for number, (_, places, pixels) in enumerate(taps(slides), start=1):
        # Read twice, so that once with a stride is enough.
        seen = xp.ascontiguousarray(x[(..., *pixels)])
        best, chosen = out[(..., *places)], choice[(..., *places)]
        # The numbers grow: the largest of those that were better is the last. Much faster than a
        # masked copy, which branches on every element.
        xp.maximum(chosen, xp.multiply(seen > best, number, dtype=choice.dtype), out=chosen)
        xp.maximum(best, seen, out=best)
    return out


def _mask(xp: ArrayNamespace, choice: Array, slides: Sequence[Slide], dtype: Any) -> Array:
    """Return the chosen pixel's index in its channel, -1 for none."""
    tap = choice.astype("int64") - 1
    index, behind = 0, math.prod(s.kernel for s in slides)
    for axis, s in enumerate(slides, start=1 - len(slides)):
        behind //= s.kernel
        corners = (xp.arange(s.places) * s.stride - s.pad).reshape(-1, *[1] * -axis)
        index = index * s.pixels + corners + tap // behind % s.kernel
    return xp.where(choice == 0, -1, index).astype(dtype)


def _expectation(xp: ArrayNamespace, x: Array, slides: Sequence[Slide]) -> tuple[Array, Array]:
    """Return sum(x^2) / sum(x) and sum(x) of each window, pixels below 0 counting as 0.

    Where all pixels count as 0, the sums are given as 0 and 1.
    """
    weight = xp.maximum(x, 0)
    shape = (*x.shape[:2], *(s.places for s in slides))
    total = _sum(weight, slides, xp.empty(shape, x.dtype))
    total += total == 0
    squares = _sum(weight * weight, slides, xp.empty(shape, x.dtype))
    return squares / total, total


def _draw(xp: ArrayNamespace, x: Array, slides: Sequence[Slide], rng: Any, choice: Array) -> Array:
    """Return a pixel of each window, x having the chance x / sum(x); write its tap to `choice`."""
    weight = xp.maximum(x, 0)
    total = xp.zeros(choice.shape, x.dtype)
    for _, places, pixels in taps(slides):
        total[(..., *places)] += weight[(..., *pixels)]
    # The first tap whose running sum reaches the threshold is taken. Summed in the same order as
    # the total, the last of the running sums is no less.
    threshold = total * xp.asarray(rng.random(choice.shape), dtype=x.dtype)
    running = xp.zeros(choice.shape, x.dtype)
    top = xp.zeros(choice.shape, x.dtype)
    choice.fill(0)
    for number, (_, places, pixels) in enumerate(taps(slides), start=1):
        here, seen = (..., *places), weight[(..., *pixels)]
        running[here] += seen
        taken = (choice[here] == 0) & (seen > 0) & (running[here] >= threshold[here])
        choice[here] += xp.multiply(taken, number, dtype=choice.dtype)
        top[here] += taken * seen
    return top


def window_attributes(slides: Sequence[Slide]) -> dict[str, Any]:
    """Return the attributes of ONNX's pooling operators for as many windows as Caffe has."""
    ends = []
    for s in slides:
        symmetric = (s.pixels + 2 * s.pad - s.kernel) // s.stride + 1 == s.places
        ends.append(s.pad if symmetric else max(0, s.end_pad))
    return {
        "kernel_shape": [s.kernel for s in slides],
        "strides": [s.stride for s in slides],
        "pads": [s.pad for s in slides] + ends,
    }
