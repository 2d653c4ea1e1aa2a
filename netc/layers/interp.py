"""Resizing of images and of parts of them, by interpolation between neighbouring pixels."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, ClassVar

from netc.layers.registry import layer
from netc.layers.roi import REGION, RegionPooling, check_size, lower_column
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


@layer("Interp", "interp_param")
@dataclass(frozen=True)
class Interp(Layer):
    """Images resized bilinearly, the corners of the old upon the corners of the new.

    Pixel i of n new ones takes its value at position i * (m - 1) / (n - 1) of the m old ones: the
    mean of the two pixels around it, weighted by nearness. A single new pixel is the first old one.
    `pad_beg` and `pad_end`, 0 or below, first cut so many rows and columns off.

    Shapes: bottom (N, C, H, W) -> top (N, C, new, new); a bottom of fewer axes counts as one with
    axes of size 1 behind its own, as in Caffe. The new size is H' = `height` and `width`;
    or (H - 1) / `shrink_factor` + 1, rounded down; or (H - 1) * `zoom_factor` + 1; or, with both
    factors, first smaller, then larger; or, with `use_blob_size`, that of bottom 1.

    Source: DeepLab's and PSPNet's forks; `use_blob_size` is of later ones.
    """

    height: int | None = None
    width: int | None = None
    zoom_factor: int | None = None
    shrink_factor: int | None = None
    pad_beg: int = 0
    pad_end: int = 0
    use_blob_size: bool = False

    bottoms: ClassVar[Arity] = between(1, 2)
    # The second bottom is there for its size: what leads to it is constant to the objective.
    stops_gradients: ClassVar[bool] = True

    def infer(self, *bottoms: BlobType) -> Signature:
        if bottoms[0].axes > 4:
            raise Refusal(
                "the bottom of an Interp layer has more than 4 axes",
                expected="(N, C, H, W)",
                got=f"bottom of shape {bottoms[0]}",
            )
        x = BlobType(_as_images(bottoms[0].shape))
        self._check_blob_size(bottoms)
        cut = self._cut(x)
        sizes = tuple(self._size(axis, cut, bottoms) for axis in (2, 3))
        return Signature((BlobType((*x.shape[:2], *sizes)),))

    def _check_blob_size(self, bottoms: tuple[BlobType, ...]) -> None:
        if self.use_blob_size != (len(bottoms) == 2):
            raise Refusal(
                "use_blob_size and a second bottom, whose size it means, belong together",
                expected="both, or neither",
                got=f"use_blob_size: {str(self.use_blob_size).lower()}, {len(bottoms)} bottom(s)",
                setting="use_blob_size",
            )
        if self.use_blob_size and bottoms[1].axes != 4:
            raise Refusal(
                "bottom 1 of an Interp layer, which gives the size, must have 4 axes",
                expected="(N, C, H, W)",
                got=f"bottom 1 of shape {bottoms[1]}",
            )
        given = [n for n in ("height", "width", "zoom_factor", "shrink_factor") if self._has(n)]
        if self.use_blob_size and given:
            raise Refusal(
                f"use_blob_size and {given[0]} both give the size",
                expected="one of them",
                got=f"use_blob_size: true, {given[0]}: {getattr(self, given[0])}",
                setting=given[0],
            )

    def _has(self, name: str) -> bool:
        return getattr(self, name) is not None

    def _cut(self, x: BlobType) -> tuple[int, int]:
        """Return height and width of what is left of an image; refuse to add to it."""
        for name in ("pad_beg", "pad_end"):
            if getattr(self, name) > 0:
                raise Refusal(
                    f"{name} is positive, but an image can only be cut",
                    expected=f"{name} <= 0",
                    got=f"{name} {getattr(self, name)}",
                    setting=name,
                )
        height, width = (size + self.pad_beg + self.pad_end for size in x.shape[2:])
        if min(height, width) < 1:
            raise Refusal(
                "pad_beg and pad_end leave nothing of the image",
                expected=f"fewer than {min(x.shape[2:])} rows and columns to cut",
                got=f"pad_beg {self.pad_beg}, pad_end {self.pad_end}, bottom of shape {x}",
                setting="pad_beg" if self.pad_beg else "pad_end",
            )
        return height, width

    def _size(self, axis: int, cut: tuple[int, int], bottoms: tuple[BlobType, ...]) -> int:
        """Return the new size along axis 2 or 3."""
        if self.use_blob_size:
            return self._positive("bottom 1", bottoms[1].shape[axis])
        name = "height" if axis == 2 else "width"
        given = getattr(self, name)
        size = cut[axis - 2]
        by_factor = self._has("zoom_factor") or self._has("shrink_factor")
        for factor in ("shrink_factor", "zoom_factor"):
            if self._has(factor):
                value = self._positive(factor, getattr(self, factor))
                size = (size - 1) // value + 1 if factor[0] == "s" else (size - 1) * value + 1
        if not by_factor:
            if given is None:
                raise Refusal(
                    f"the new {name} is not given",
                    expected="height and width, or zoom_factor, or shrink_factor",
                    got=f"no {name}",
                    hint=f"add interp_param {{ {name}: {size * 8} }}",
                    setting=name,
                )
            return self._positive(name, given)
        if given not in (None, size):
            raise Refusal(
                f"{name} and the factors disagree",
                expected=f"{name} {size}, or only one way to say it",
                got=f"{name} {given}",
                setting=name,
            )
        return size

    @staticmethod
    def _positive(name: str, value: int) -> int:
        if value < 1:
            raise Refusal(
                f"{name} is not positive", expected=f"{name} >= 1", got=value, setting=name
            )
        return value

    def _part(self, x: Array) -> tuple[slice, slice]:
        """Return the rows and columns that are not cut off."""
        rows, columns = (slice(-self.pad_beg, n + self.pad_end) for n in x.shape[2:])
        return rows, columns

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, x, out = call.xp, call.bottoms[0], call.out[0]
        x = x.reshape(_as_images(x.shape))
        x = x[(..., *self._part(x))]
        # The axis that grows least first.
        for axis in sorted((2, 3), key=lambda a: out.shape[a] / max(x.shape[a], 1)):
            x = _resized(xp, x, axis, out.shape[axis])
        return (x,)

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (True, False)[:n_bottoms]

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def backward(self, call: BackwardCall) -> Gradients:
        xp, x, dy = call.xp, call.bottoms[0], call.top_diffs[0]
        dx = xp.zeros(_as_images(x.shape), dy.dtype)
        part = dx[(..., *self._part(dx))]
        rows, columns = (
            _weights(xp, part.shape[axis], dy.shape[axis], dy.dtype) for axis in (2, 3)
        )
        part[...] = xp.matmul(rows.T, xp.matmul(dy, columns))
        return Gradients((dx.reshape(x.shape), None)[: len(call.bottoms)])

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        x = g.reshape(bottoms[0], _as_images(bottoms[0].shape))
        [top] = self.infer(*(BlobType(b.shape) for b in bottoms)).tops
        if self.pad_beg or self.pad_end:
            starts, ends = [-self.pad_beg] * 2, [n + self.pad_end for n in x.shape[2:]]
            x = g.op("Slice", x, *(g.constant(v, "int64") for v in (starts, ends, [2, 3])))
        if x.shape[2:] == top.shape[2:]:
            return (g.op("Identity", x),)
        return (lower_resize(g, x, top.shape, "linear", "align_corners"),)

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        """Return four products for each pixel."""
        return 4 * signature.tops[0].count


def _as_images(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape of up to four axes as (N, C, H, W)."""
    return shape + (1,) * (4 - len(shape))


def _between(xp: ArrayNamespace, old: int, new: int) -> tuple[Array, Array, Array]:
    """Return for each of `new` pixels the one before it, the one behind, and the latter's weight.

    In whole numbers, so that no pixel that lies upon an old one is a mixture of two.
    """
    steps = max(new - 1, 1)
    place = xp.arange(new) * (old - 1 if new > 1 else 0)
    first = place // steps
    return first, xp.minimum(first + 1, old - 1), (place % steps) / steps


def _resized(xp: ArrayNamespace, x: Array, axis: int, new: int) -> Array:
    """Return x with another size along an axis."""
    if x.shape[axis] == new:
        return x
    first, second, weight = _between(xp, x.shape[axis], new)
    weight = weight.astype(x.dtype).reshape([-1] + [1] * (x.ndim - 1 - axis))
    y = xp.take(x, second, axis=axis)
    y *= weight
    y += xp.take(x, first, axis=axis) * (1 - weight)
    return y


def _weights(xp: ArrayNamespace, old: int, new: int, dtype: object) -> Array:
    """Return what each old pixel weighs in each new one, (new, old)."""
    first, second, weight = _between(xp, old, new)
    place = xp.arange(old)
    before = (place == first[:, None]) * (1 - weight)[:, None]
    return (before + (place == second[:, None]) * weight[:, None]).astype(dtype)


def lower_resize(
    g: OnnxBuilder, x: Value, shape: tuple[int, ...], mode: str, placed: str, **attributes: Any
) -> Value:
    """Return x (N, C, H, W) resized to height and width of `shape` by ONNX's Resize.

    `mode` and `placed` are its interpolation and its coordinate_transformation_mode.
    """
    attributes |= {"mode": mode, "coordinate_transformation_mode": placed}
    if g.opset >= 18:
        sizes = g.constant(shape[2:], "int64")
        attributes["axes"] = [2, 3]
    else:
        # All sizes have to be given, also that of a batch that is left open.
        ends = (g.constant(value, "int64") for value in ([0], [2]))
        first = g.op("Slice", g.op("Shape", x), *ends)
        sizes = g.op("Concat", first, g.constant(shape[2:], "int64"), axis=0)
    y: Value = g.op("Resize", x, None, None, sizes, **attributes)
    return y


class Method(enum.Enum):
    """How the value between pixels is found."""

    BILINEAR = 0
    NEAREST = 1


@layer("CropAndResize", "crop_and_resize_param")
@dataclass(frozen=True)
class CropAndResize(RegionPooling):
    """Boxes of images, each resized to `crop_h` x `crop_w`.

    Shapes: images (N, C, H, W), boxes (R, 5) -> top (R, C, crop_h, crop_w). A box is a row (image,
    x1, y1, x2, y2), corners in fractions of the image: 0 is its first pixel, 1 its last. Row i of
    the crop is taken at position (y1 + i * (y2 - y1) / (crop_h - 1)) * (H - 1), between the pixels
    around it (BILINEAR) or from the nearest (NEAREST, halves upwards); a crop of one row is taken
    in the box's middle. Outside the image the value is `extrapolation_value`. A box whose corners
    are swapped gives a mirrored crop. No gradient reaches the boxes.

    Source: the operator crop_and_resize of TensorFlow 1.0.
    """

    # Boxes are in fractions already, and the text has no such setting here.
    spatial_scale: float = field(default=1.0, init=False)
    crop_h: int = 0
    crop_w: int = 0
    extrapolation_value: float = 0.0
    method: Method = Method.BILINEAR

    def pooled(self) -> tuple[int, int]:
        check_size(self, "crop_h", "crop_w")
        return self.crop_h, self.crop_w

    def _axis(
        self, xp: ArrayNamespace, start: Array, end: Array, new: int, old: int
    ) -> tuple[Array, Array]:
        """Return what each position weighs, (R, new, old), and which lie in the image, (R, new)."""
        place = xp.arange(new) / (new - 1) if new > 1 else xp.full(1, 0.5)
        at = (start[:, None] + (end - start)[:, None] * place.astype(start.dtype)) * (old - 1)
        inside = (at >= 0) & (at <= old - 1)
        pixel = xp.arange(old).astype(start.dtype)
        if self.method is Method.NEAREST:
            weights = xp.floor(at + 0.5)[..., None] == pixel
        else:
            weights = xp.maximum(1 - xp.abs(at[..., None] - pixel), 0)
        return weights * inside[..., None], inside

    def _weights(
        self, xp: ArrayNamespace, regions: Array, shape: tuple[int, ...], dtype: object
    ) -> tuple[Array, Array, Array]:
        """Return what each row and column weighs, (R, new, old), and where nothing does."""
        corners = regions[:, 1:]
        (rows, high), (columns, wide) = (
            self._axis(xp, corners[:, 1 - axis], corners[:, 3 - axis], new, shape[2 + axis])
            for axis, new in enumerate((self.crop_h, self.crop_w))
        )
        outside = ~(high[:, None, :, None] & wide[:, None, None, :])
        return rows.astype(dtype)[:, None], columns.astype(dtype)[:, None], outside

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, (x, regions) = call.xp, call.bottoms
        regions = self.rows(regions)
        rows, columns, outside = self._weights(xp, regions, x.shape, x.dtype)
        images = xp.take(x, self.images(xp, regions, len(x)), axis=0)
        y = xp.matmul(xp.matmul(rows, images), columns.swapaxes(2, 3))
        if self.extrapolation_value:
            y += outside * xp.asarray(self.extrapolation_value, x.dtype)
        return (y,)

    def backward(self, call: BackwardCall) -> Gradients:
        xp, (x, regions), dy = call.xp, call.bottoms, call.top_diffs[0]
        regions = self.rows(regions)
        rows, columns, _ = self._weights(xp, regions, x.shape, dy.dtype)
        parts = xp.matmul(rows.swapaxes(2, 3), xp.matmul(dy, columns))
        own = xp.arange(len(x))[:, None] == self.images(xp, regions, len(x))
        dx = own.astype(dy.dtype) @ parts.reshape(len(regions), x[0].size)
        return Gradients((dx.reshape(x.shape), None))

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        """Return four products for each pixel."""
        return 4 * signature.tops[0].count

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        """Give the matrix products of the forward rule: ONNX has no operator for it."""
        x, regions = bottoms
        count = regions.shape[0]
        regions = g.reshape(regions, (count, REGION))
        image = g.cast(g.reshape(lower_column(g, regions, 0), (count,)), "int64")
        y = g.op("Gather", x, image, axis=0)
        inside = []
        sizes = ((2, self.crop_h, x.shape[2]), (1, self.crop_w, x.shape[3]))
        for first, new, old in sizes:
            weights, within = self._lower_axis(g, regions, first, new, old)
            shape = (count, 1, new, old)
            weights = g.reshape(weights, shape)
            if first == 2:
                y = g.op("MatMul", weights, y)
                inside.append(g.reshape(within, (count, 1, new, 1)))
            else:
                y = g.op("MatMul", y, g.op("Transpose", weights, perm=[0, 1, 3, 2]))
                inside.append(g.reshape(within, (count, 1, 1, new)))
        if not self.extrapolation_value:
            return (y,)
        value = g.constant(self.extrapolation_value)
        return (g.op("Where", g.op("And", *inside), y, value),)

    def _lower_axis(
        self, g: OnnxBuilder, regions: Value, first: int, new: int, old: int
    ) -> tuple[Value, Value]:
        """Return weights (R, new, old) and which places lie in the image, (R, new)."""
        start, end = (lower_column(g, regions, column) for column in (first, first + 2))
        place = [i / (new - 1) for i in range(new)] if new > 1 else [0.5]
        reach = g.op("Mul", g.op("Sub", end, start), g.constant([place]))
        at = g.op("Mul", g.op("Add", start, reach), g.constant(old - 1.0))
        outside = g.op(
            "Or", g.op("Less", at, g.constant(0.0)), g.op("Greater", at, g.constant(old - 1.0))
        )
        within = g.op("Not", outside)
        pixel = g.constant([[list(map(float, range(old)))]])
        spread = (regions.shape[0], new, 1)
        if self.method is Method.NEAREST:
            nearest = g.op("Floor", g.op("Add", at, g.constant(0.5)))
            weights = g.cast(g.op("Equal", g.reshape(nearest, spread), pixel), "float32")
        else:
            apart = g.op("Abs", g.op("Sub", g.reshape(at, spread), pixel))
            weights = g.op("Relu", g.op("Sub", g.constant(1.0), apart))
        counts = g.reshape(g.cast(within, "float32"), spread)
        return g.op("Mul", weights, counts), within
