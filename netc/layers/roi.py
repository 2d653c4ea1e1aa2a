"""Pooling of regions: from feature maps and boxes upon them to maps of one size for each box.

A region is a row (image, x1, y1, x2, y2): the index of its image in the batch, and its corners in
pixels of the net's input. Times `spatial_scale` they are positions on the feature maps. Gradients
reach the maps, not the regions.

Averages and interpolations over a region are a weighted sum along the rows and then one along the
columns, so they are two matrix products here, and the same two in ONNX.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from netc.layers.registry import layer
from netc.layers.types import (
    Arity,
    Array,
    ArrayNamespace,
    BackwardCall,
    BlobType,
    CodeHost,
    ForwardCall,
    Gradients,
    Layer,
    OnnxBuilder,
    Reads,
    Refusal,
    Signature,
    Value,
    exactly,
)

#: The values of a region: its image and two corners.
REGION = 5

# Two corners may be one and the same pixel, or swapped: PSROIPooling then takes this for the size.
LEAST_SIZE = 0.1

# The opset that declared MaxRoiPool and RoiAlign anew (for another type of numbers): ONNX Runtime
# runs the earlier ones only.
NOT_RUN = 22


def round_half_away(xp: ArrayNamespace, x: Array) -> Array:
    """Return x rounded to integers, halves away from zero, as the `round` of C."""
    whole = xp.trunc(x)
    return whole + xp.sign(x) * (xp.abs(x - whole) >= 0.5)


def check_maps(maps: BlobType, what: str = "the feature maps, bottom 0,") -> None:
    """Refuse what is not images (N, C, H, W)."""
    if maps.axes != 4:
        raise Refusal(
            f"{what} have not four axes",
            expected="shape (N, C, H, W)",
            got=f"shape {maps}",
            setting="bottom",
        )


def check_regions(regions: BlobType, what: str = "bottom 1") -> int:
    """Refuse what is not rows (image, x1, y1, x2, y2); return their number.

    Trailing axes of size 1 do no harm: R-FCN has regions of shape (R, 5, 1, 1).
    """
    if regions.axes < 2 or regions.shape[1] != REGION or regions.span(2) != 1:
        raise Refusal(
            f"{what} holds no regions",
            expected="shape (R, 5): image, x1, y1, x2, y2",
            got=f"shape {regions}",
            setting="bottom",
        )
    return regions.shape[0]


@dataclass(frozen=True, slots=True)
class Bins:
    """The bins of all regions along one axis: whole positions `first` to `last` - 1, (R, bins)."""

    first: Array
    last: Array

    def weights(self, xp: ArrayNamespace, size: int, dtype: object) -> Array:
        """Return (R, bins, size): 1 inside a bin, 0 outside."""
        position = xp.arange(size)
        inside = (position >= self.first[..., None]) & (position < self.last[..., None])
        return inside.astype(dtype)


@dataclass(frozen=True)
class RegionPooling(Layer):
    """Base of the types that pool regions of feature maps."""

    spatial_scale: float = 1.0

    bottoms: ClassVar[Arity] = exactly(2)
    stops_gradients: ClassVar[bool] = True

    def pooled(self) -> tuple[int, int]:
        """Return the size of the maps that a region becomes."""
        raise NotImplementedError

    def channels(self, maps: BlobType) -> int:
        """Return the channels of the top."""
        return maps.shape[1]

    def infer(self, *bottoms: BlobType) -> Signature:
        maps, regions = bottoms
        check_maps(maps)
        count = check_regions(regions)
        if self.spatial_scale <= 0:
            raise Refusal(
                "spatial_scale is not positive",
                expected="spatial_scale > 0, as 0.0625 behind a stride of 16",
                got=f"{self.spatial_scale:g}",
                setting="spatial_scale",
            )
        return Signature((BlobType((count, self.channels(maps), *self.pooled())),))

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (True, False)

    def region_bottoms(self, bottoms: tuple[BlobType, ...]) -> dict[int, tuple[float, float]]:
        height, width = bottoms[0].shape[2:]
        return {1: (height / self.spatial_scale, width / self.spatial_scale)}

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def images(self, xp: ArrayNamespace, regions: Array, count: int) -> Array:
        """Return the image of each region, (R,) of int32; refuse one that the batch lacks."""
        images = xp.trunc(regions[:, 0])
        wrong = ~((images >= 0) & (images < count))
        if bool(wrong.any()):
            row = int(xp.argmax(wrong))
            raise Refusal(
                "a region names an image that the batch does not have",
                expected=f"an image of 0..{count - 1} as its first value",
                got=f"{float(regions[row, 0]):g} in region {row}, and {int(wrong.sum()) - 1} more",
                setting="bottom",
            )
        return images.astype("int32")

    @staticmethod
    def rows(regions: Array) -> Array:
        """Return the regions as (R, 5)."""
        return regions.reshape(regions.shape[0], REGION)


def check_size(layer: Layer, *names: str) -> None:
    """Refuse sizes that are 0."""
    for name in names:
        if getattr(layer, name) <= 0:
            raise Refusal(
                f"{name} is missing",
                expected=f"{name} > 0",
                got=getattr(layer, name),
                hint="7 for VGG16, 6 for CaffeNet" if name.startswith("pooled") else "",
                setting=name,
            )


@layer("ROIPooling", "roi_pooling_param")
@dataclass(frozen=True)
class ROIPooling(RegionPooling):
    """The maximum of each of `pooled_h` x `pooled_w` bins of a region; 0 for an empty bin.

    Shapes: maps (N, C, H, W), regions (R, 5) -> (R, C, pooled_h, pooled_w). Corners times
    `spatial_scale` are rounded (halves away from 0); the region of at least 1 x 1 positions, both
    corners included, is cut into bins that begin and end at whole positions and may overlap:
    floor(i * h / pooled_h) to ceil((i + 1) * h / pooled_h). Where several values of a bin are the
    maximum, the gradient goes to the first, row by row. `pooled_size` gives one size for both axes,
    or two. With `pad_ratio` p a region is first enlarged on each side by p times its size, x2 - x1
    + 1 and y2 - y1 + 1.

    Source: R. Girshick, "Fast R-CNN", 2015, and its fork of Caffe; `pooled_size` is IntelCaffe's,
    whose pooling of volumes is not read, `pad_ratio` MS-CNN's.
    """

    pooled_h: int = 0
    pooled_w: int = 0
    pooled_size: tuple[int, ...] = ()
    pad_ratio: float = 0.0

    def infer(self, *bottoms: BlobType) -> Signature:
        if self.pad_ratio < 0:
            raise Refusal(
                "pad_ratio is negative",
                expected="pad_ratio >= 0, the margin as a share of the region's size",
                got=f"{self.pad_ratio:g}",
                setting="pad_ratio",
            )
        return super().infer(*bottoms)

    def pooled(self) -> tuple[int, int]:
        if not self.pooled_size:
            check_size(self, "pooled_h", "pooled_w")
            return self.pooled_h, self.pooled_w
        if self.pooled_h or self.pooled_w:
            raise Refusal(
                "pooled_size and pooled_h, pooled_w exclude each other",
                expected="one of the two ways",
                got="both",
                setting="pooled_size",
            )
        if len(self.pooled_size) > 2 or min(self.pooled_size) < 1:
            raise Refusal(
                "pooled_size is not a size of images",
                expected="1 or 2 values above 0",
                got=" ".join(map(str, self.pooled_size)),
                setting="pooled_size",
            )
        return self.pooled_size[0], self.pooled_size[-1]

    def _bins(self, xp: ArrayNamespace, regions: Array, shape: tuple[int, ...]) -> list[Bins]:
        """Return the bins along height and width."""
        corners = regions[:, 1:]
        if self.pad_ratio:
            margin = (corners[:, 2:] - corners[:, :2] + 1) * self.pad_ratio
            corners = xp.concatenate((corners[:, :2] - margin, corners[:, 2:] + margin), axis=1)
        corners = round_half_away(xp, corners * self.spatial_scale)
        found = []
        for axis, (bins, limit) in enumerate(zip(self.pooled(), shape[2:], strict=True)):
            start, end = corners[:, 1 - axis, None], corners[:, 3 - axis, None]
            step = xp.maximum(end - start + 1, 1) / bins
            index = xp.arange(bins).astype(step.dtype)
            first = xp.clip(xp.floor(index * step) + start, 0, limit)
            last = xp.clip(xp.ceil((index + 1) * step) + start, 0, limit)
            found.append(Bins(first.astype("int32"), last.astype("int32")))
        return found

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, (x, regions) = call.xp, call.bottoms
        regions = self.rows(regions)
        high, wide = self._bins(xp, regions, x.shape)
        images = self.images(xp, regions, len(x)).tolist()
        # Channels last: each maximum below then runs over whole rows of memory.
        maps = xp.ascontiguousarray(x.transpose(0, 2, 3, 1))
        y = xp.zeros((len(images), *self.pooled(), x.shape[1]), x.dtype)
        edges = zip(images, _edges(high), _edges(wide), strict=True)
        for region, (image, tops, lefts) in enumerate(edges):
            left, right = min(a for a, _ in lefts), max(b for _, b in lefts)
            for i, (top, bottom) in enumerate(tops):
                if top >= bottom or left >= right:
                    continue
                strip = maps[image, top:bottom, left:right].max(axis=0)
                for j, (a, b) in enumerate(lefts):
                    if a < b:
                        y[region, i, j] = strip[a - left : b - left].max(axis=0)
        return (y.transpose(0, 3, 1, 2),)

    def backward(self, call: BackwardCall) -> Gradients:
        xp, (x, regions), dy = call.xp, call.bottoms, call.top_diffs[0]
        regions = self.rows(regions)
        high, wide = self._bins(xp, regions, x.shape)
        images = self.images(xp, regions, len(x)).tolist()
        n, channels, height, width = x.shape
        maps = xp.ascontiguousarray(x.transpose(0, 2, 3, 1))
        dx = xp.zeros((n, height * width, channels), dy.dtype)
        dy = xp.ascontiguousarray(dy.transpose(0, 2, 3, 1))
        channel = xp.arange(channels)
        edges = zip(images, _edges(high), _edges(wide), strict=True)
        for region, (image, tops, lefts) in enumerate(edges):
            for j, (a, b) in enumerate(lefts):
                if a >= b:
                    continue
                # The best of each row first, the leftmost; then the topmost of these.
                strip = maps[image, :, a:b]
                columns = strip.argmax(axis=1)
                best = strip.max(axis=1)
                for i, (top, bottom) in enumerate(tops):
                    if top < bottom:
                        row = best[top:bottom].argmax(axis=0) + top
                        at = row * width + columns[row, channel] + a
                        # Each channel occurs once, so that no two sums meet.
                        dx[image, at, channel] += dy[region, i, j]
        return Gradients((dx.reshape(n, height, width, channels).transpose(0, 3, 1, 2), None))

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        return 0

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        x, regions = bottoms
        _check_runs(g, "MaxRoiPool")
        regions = g.reshape(regions, (regions.shape[0], REGION))
        if self.pad_ratio:
            image, low, high = (
                g.op("Gather", regions, g.constant(columns, "int64"), axis=1)
                for columns in ([0], [1, 2], [3, 4])
            )
            size = g.op("Add", g.op("Sub", high, low), g.constant(1.0))
            margin = g.op("Mul", size, g.constant(self.pad_ratio))
            low, high = g.op("Sub", low, margin), g.op("Add", high, margin)
            regions = g.op("Concat", image, low, high, axis=1)
        return (
            g.op(
                "MaxRoiPool",
                x,
                regions,
                pooled_shape=list(self.pooled()),
                spatial_scale=self.spatial_scale,
            ),
        )


def _check_runs(g: OnnxBuilder, operator: str) -> None:
    """Refuse an opset whose operator ONNX Runtime does not run."""
    if g.opset >= NOT_RUN:
        raise g.refuse(
            f"ONNX Runtime has no {operator} of opset {g.opset}",
            hint=f"export with -opset {NOT_RUN - 1} or earlier",
        )


def _edges(bins: Bins) -> list[list[tuple[int, int]]]:
    """Return for each region the first and last position of its bins."""
    pairs = zip(bins.first.tolist(), bins.last.tolist(), strict=True)
    return [list(zip(first, last, strict=True)) for first, last in pairs]


@layer("PSROIPooling", "psroi_pooling_param")
@dataclass(frozen=True)
class PSROIPooling(RegionPooling):
    """The mean of each bin of a region, where each bin has channels of its own.

    Shapes: maps (N, D * k * k, H, W), regions (R, 5) -> (R, D, k, k), with D `output_dim` and k
    `group_size`; bin (i, j) of map d is the mean over channel (d * k + i) * k + j, 0 for an empty
    bin. Corners are rounded before they are scaled (halves away from 0), the second one lies a
    pixel further; a region is at least 0.1 positions wide and high. Bins begin and end at whole
    positions and may overlap.

    Source: J. Dai et al., "R-FCN: Object Detection via Region-based Fully Convolutional Networks",
    2016, and its fork of Caffe.
    """

    output_dim: int = 0
    group_size: int = 0

    def pooled(self) -> tuple[int, int]:
        return self.group_size, self.group_size

    def channels(self, maps: BlobType) -> int:
        check_size(self, "output_dim", "group_size")
        wanted = self.output_dim * self.group_size**2
        if maps.shape[1] != wanted:
            raise Refusal(
                "the feature maps have not one channel for each bin",
                expected=f"{wanted} channels: output_dim {self.output_dim} * group_size "
                f"{self.group_size} * {self.group_size}",
                got=f"{maps.shape[1]} channels, bottom 0 of shape {maps}",
                setting="output_dim",
            )
        return self.output_dim

    def _bins(self, xp: ArrayNamespace, regions: Array, shape: tuple[int, ...]) -> list[Bins]:
        """Return the bins along height and width."""
        corners = round_half_away(xp, regions[:, 1:])
        found = []
        for axis, limit in enumerate(shape[2:]):
            start = corners[:, 1 - axis, None] * self.spatial_scale
            end = (corners[:, 3 - axis, None] + 1) * self.spatial_scale
            step = xp.maximum(end - start, LEAST_SIZE) / self.group_size
            index = xp.arange(self.group_size).astype(step.dtype)
            first = xp.clip(xp.floor(index * step + start), 0, limit)
            last = xp.clip(xp.ceil((index + 1) * step + start), 0, limit)
            found.append(Bins(first.astype("int32"), last.astype("int32")))
        return found

    def _weights(
        self, xp: ArrayNamespace, regions: Array, shape: tuple[int, ...], dtype: object
    ) -> tuple[Array, Array]:
        """Return what each row and each column weighs: (k, R, N * H) and (R, k, W).

        The rows of all images lie one behind the other; those of others than the region's weigh 0.
        A bin's weights are the product of both and sum up to 1.
        """
        n, _, height, width = shape
        images = self.images(xp, regions, n)
        high, wide = self._bins(xp, regions, shape)
        rows, columns = high.weights(xp, height, dtype), wide.weights(xp, width, dtype)
        rows = rows / xp.maximum(rows.sum(axis=2, keepdims=True), 1)
        columns = columns / xp.maximum(columns.sum(axis=2, keepdims=True), 1)
        own = images[:, None] == xp.arange(n)
        rows = rows[:, :, None, :] * own[:, None, :, None]
        return rows.transpose(1, 0, 2, 3).reshape(self.group_size, len(regions), -1), columns

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, (x, regions) = call.xp, call.bottoms
        n, _, height, width = x.shape
        d, k = self.output_dim, self.group_size
        rows, columns = self._weights(xp, self.rows(regions), x.shape, x.dtype)
        maps = x.reshape(n, d, k, k, height, width).transpose(2, 0, 4, 1, 3, 5)
        strips = xp.matmul(rows, maps.reshape(k, n * height, d * k * width))
        return (xp.einsum("irdjw,rjw->rdij", strips.reshape(k, -1, d, k, width), columns),)

    def backward(self, call: BackwardCall) -> Gradients:
        xp, (x, regions), dy = call.xp, call.bottoms, call.top_diffs[0]
        n, _, height, width = x.shape
        d, k = self.output_dim, self.group_size
        rows, columns = self._weights(xp, self.rows(regions), x.shape, dy.dtype)
        strips = xp.einsum("rdij,rjw->irdjw", dy, columns).reshape(k, -1, d * k * width)
        maps = xp.matmul(rows.transpose(0, 2, 1), strips).reshape(k, n, height, d, k, width)
        return Gradients((maps.transpose(1, 3, 0, 4, 2, 5).reshape(x.shape), None))

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        """Return the sums of the definition: each region looks at each position once."""
        maps, regions = bottoms
        return regions.shape[0] * maps.span(1)

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        """Give the two matrix products of the forward rule: ONNX has no operator for it."""
        x, regions = bottoms
        n, _, height, width = x.shape
        count, d, k = regions.shape[0], self.output_dim, self.group_size
        regions = g.reshape(regions, (count, REGION))
        scale = g.constant(self.spatial_scale)

        def corner(column: int, shift: float) -> Value:
            value = lower_round(g, lower_column(g, regions, column))
            scaled: Value = g.op("Mul", g.op("Add", value, g.constant(shift)), scale)
            return scaled

        weights = []
        for first, limit in ((2, height), (1, width)):
            start, end = corner(first, 0), corner(first + 2, 1)
            size = g.op("Max", g.op("Sub", end, start), g.constant(LEAST_SIZE))
            step = g.op("Div", size, g.constant(float(k)))
            index = g.constant([list(map(float, range(k)))])
            below = g.op("Floor", g.op("Add", g.op("Mul", index, step), start))
            index = g.constant([[i + 1.0 for i in range(k)]])
            above = g.op("Ceil", g.op("Add", g.op("Mul", index, step), start))
            position = g.constant([[list(map(float, range(limit)))]])
            inside = g.op(
                "And",
                g.op("Not", g.op("Less", position, g.reshape(below, (count, k, 1)))),
                g.op("Less", position, g.reshape(above, (count, k, 1))),
            )
            ones = g.cast(inside, "float32")
            total = g.op("ReduceSum", ones, g.constant([2], "int64"), keepdims=1)
            weights.append(g.op("Div", ones, g.op("Max", total, g.constant(1.0))))
        rows, columns = weights
        images = g.op("Floor", lower_column(g, regions, 0))
        own = g.op("Equal", images, g.constant([list(map(float, range(n)))]))
        rows = g.op(
            "Mul",
            g.reshape(rows, (count, k, 1, height)),
            g.reshape(g.cast(own, "float32"), (count, 1, n, 1)),
        )
        rows = g.reshape(g.op("Transpose", rows, perm=[1, 0, 2, 3]), (k, count, n * height))
        maps = g.op("Transpose", g.reshape(x, (n, d, k, k, height, width)), perm=[2, 0, 4, 1, 3, 5])
        strips = g.op("MatMul", rows, g.reshape(maps, (k, n * height, d * k * width)))
        strips = g.op(
            "Mul",
            g.reshape(strips, (k, count, d, k, width)),
            g.reshape(columns, (1, count, 1, k, width)),
        )
        sums = g.op("ReduceSum", strips, g.constant([4], "int64"), keepdims=0)
        return (g.op("Transpose", sums, perm=[1, 2, 0, 3]),)


def lower_column(g: OnnxBuilder, regions: Value, index: int) -> Value:
    """Return column `index` of rows (R, ...) as (R, 1)."""
    column: Value = g.op("Gather", regions, g.constant([index], "int64"), axis=1)
    return column


def lower_round(g: OnnxBuilder, x: Value) -> Value:
    """Return x rounded, halves away from zero; ONNX's own Round takes them to the even one."""
    half = g.op("Add", g.op("Abs", x), g.constant(0.5))
    rounded: Value = g.op("Mul", g.op("Sign", x), g.op("Floor", half))
    return rounded


@dataclass(frozen=True)
class SampledPooling(RegionPooling):
    """Base of the types that interpolate between positions: weights of rows and of columns."""

    def axis(self, xp: ArrayNamespace, regions: Array, axis: int, size: int) -> Array:
        """Return what each position along an axis of the maps weighs: (R, pooled, size)."""
        raise NotImplementedError

    def _weights(
        self, xp: ArrayNamespace, regions: Array, shape: tuple[int, ...], dtype: object
    ) -> tuple[Array, Array]:
        """Return what each row and each column weighs: (R, rows, N * H) and (R, columns, W).

        The rows of all images lie one behind the other; those of others than the region's weigh 0.
        """
        n, _, height, width = shape
        images = self.images(xp, regions, n)
        rows, columns = (
            self.axis(xp, regions, axis, size).astype(dtype)
            for axis, size in enumerate((height, width))
        )
        own = images[:, None] == xp.arange(n)
        rows = rows[:, :, None, :] * own[:, None, :, None]
        return rows.reshape(len(regions), rows.shape[1], n * height), columns

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, (x, regions) = call.xp, call.bottoms
        n, channels, height, width = x.shape
        rows, columns = self._weights(xp, self.rows(regions), x.shape, x.dtype)
        maps = x.transpose(0, 2, 1, 3).reshape(n * height, channels * width)
        strips = xp.matmul(rows, maps).reshape(-1, rows.shape[1], channels, width)
        y = xp.matmul(strips, columns.transpose(0, 2, 1)[:, None])
        return (y.transpose(0, 2, 1, 3),)

    def backward(self, call: BackwardCall) -> Gradients:
        xp, (x, regions), dy = call.xp, call.bottoms, call.top_diffs[0]
        n, channels, height, width = x.shape
        rows, columns = self._weights(xp, self.rows(regions), x.shape, dy.dtype)
        strips = xp.matmul(dy.transpose(0, 2, 1, 3), columns[:, None])
        rows = rows.reshape(-1, n * height)
        maps = xp.matmul(rows.T, strips.reshape(len(rows), channels * width))
        dx = maps.reshape(n, height, channels, width).transpose(0, 2, 1, 3)
        return Gradients((dx, None))


@dataclass(frozen=True, slots=True)
class GridParam:
    """A `roi_pooling_param` message of ROIAlign: the settings of ROIGridAlign."""

    pooled_h: int = 0
    pooled_w: int = 0
    spatial_scale: float = 1.0
    pad_ratio: float = 0.0


@layer("ROIAlign", "roi_align_param")
@dataclass(frozen=True)
class ROIAlign(SampledPooling):
    """The mean of bilinear samples in each of `pooled_h` x `pooled_w` bins of a region.

    Shapes: maps (N, C, H, W), regions (R, 5) -> (R, C, pooled_h, pooled_w). Nothing is rounded: a
    bin of a region has `sampling_ratio` samples along each axis (0: its size, rounded up), evenly
    spread. A sample within one position outside the maps takes the value at their edge, one further
    out is 0. A region is at least 1 x 1 positions; with `aligned` it may be smaller, and lies half
    a position up and to the left, where the centres of pixels are.

    With `roi_pooling_param` the layer is that of MS-CNN and Cascade R-CNN, ROIGridAlign.

    Source: K. He et al., "Mask R-CNN", 2017; the numbers are those of ONNX's RoiAlign.
    """

    pooled_h: int = 0
    pooled_w: int = 0
    sampling_ratio: int = 0
    aligned: bool = False
    roi_pooling_param: GridParam | None = None

    def resolve(self, host: CodeHost | None) -> Layer:
        grid = self.roi_pooling_param
        if grid is None:
            return self
        if replace(self, roi_pooling_param=None) != ROIAlign():
            raise Refusal(
                "roi_align_param and roi_pooling_param exclude each other",
                expected="one of the two",
                got="both",
                setting="roi_pooling_param",
            )
        return ROIGridAlign(grid.spatial_scale, grid.pooled_h, grid.pooled_w, grid.pad_ratio)

    def pooled(self) -> tuple[int, int]:
        check_size(self, "pooled_h", "pooled_w")
        if self.sampling_ratio < 0:
            raise Refusal(
                "sampling_ratio is negative",
                expected="samples for a bin along each axis, or 0",
                got=self.sampling_ratio,
                setting="sampling_ratio",
            )
        return self.pooled_h, self.pooled_w

    def axis(self, xp: ArrayNamespace, regions: Array, axis: int, size: int) -> Array:
        corners = regions[:, 1:] * self.spatial_scale - (0.5 if self.aligned else 0.0)
        start, bins = corners[:, 1 - axis], self.pooled()[axis]
        length = corners[:, 3 - axis] - start
        if not self.aligned:
            length = xp.maximum(length, 1)
        step = length / bins
        if self.sampling_ratio:
            samples = xp.full(length.shape, self.sampling_ratio, length.dtype)
        else:
            samples = xp.ceil(step)
        index = xp.arange(bins).astype(step.dtype)
        position = xp.arange(size).astype(step.dtype)
        weights = xp.zeros((len(start), bins, size), step.dtype)
        begin = start[:, None] + index * step[:, None]
        apart = step / xp.maximum(samples, 1)
        for sample in range(int(samples.max()) if len(start) else 0):
            at = begin + (sample + 0.5) * apart[:, None]
            counts = (at >= -1) & (at <= size) & (sample < samples)[:, None]
            # Between two neighbours a weight falls linearly from 1 to 0.
            at = xp.clip(at, 0, size - 1)
            hat = xp.maximum(1 - xp.abs(at[..., None] - position), 0)
            weights += hat * counts[..., None]
        return weights / xp.maximum(samples, 1)[:, None, None]

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        """Return four products for each sample; without `sampling_ratio` 2 x 2 are assumed."""
        return 4 * (self.sampling_ratio or 2) ** 2 * signature.tops[0].count

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        x, regions = bottoms
        _check_runs(g, "RoiAlign")
        if g.opset < 16 and self.aligned:
            raise g.refuse(
                f"RoiAlign of opset {g.opset} knows no aligned regions",
                hint="export with -opset 16 or later",
            )
        mode = None
        if g.opset >= 16:
            mode = "half_pixel" if self.aligned else "output_half_pixel"
        regions = g.reshape(regions, (regions.shape[0], REGION))
        images = g.reshape(g.cast(lower_column(g, regions, 0), "int64"), (regions.shape[0],))
        corners = g.op("Gather", regions, g.constant([1, 2, 3, 4], "int64"), axis=1)
        return (
            g.op(
                "RoiAlign",
                x,
                corners,
                images,
                coordinate_transformation_mode=mode,
                mode="avg",
                output_height=self.pooled_h,
                output_width=self.pooled_w,
                sampling_ratio=self.sampling_ratio,
                spatial_scale=self.spatial_scale,
            ),
        )


@dataclass(frozen=True)
class PointPooling(SampledPooling):
    """Base of the types with one bilinear sample for each value of a top.

    A sample up to half a position outside the maps takes the value at their edge, one further out
    is 0.
    """

    def points(self, xp: ArrayNamespace, regions: Array, axis: int) -> tuple[Array, Array]:
        """Return where samples lie along an axis of the maps (R, pooled), and which count."""
        raise NotImplementedError

    def lower_points(self, g: OnnxBuilder, regions: Value, axis: int) -> tuple[Value, Value]:
        """Return `points` in ONNX."""
        raise NotImplementedError

    def axis(self, xp: ArrayNamespace, regions: Array, axis: int, size: int) -> Array:
        at, counts = self.points(xp, regions, axis)
        counts = counts & (at >= -0.5) & (at <= size - 0.5)
        at = xp.clip(at, 0, size - 1)
        hat = xp.maximum(1 - xp.abs(at[..., None] - xp.arange(size)), 0)
        return hat * counts[..., None]

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        """Return four products for each sample."""
        return 4 * signature.tops[0].count

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        """Give the two matrix products of the forward rule: RoiAlign of ONNX ends maps earlier."""
        x, regions = bottoms
        n, channels, height, width = x.shape
        count, (high, wide) = regions.shape[0], self.pooled()
        regions = g.reshape(regions, (count, REGION))
        rows, columns = (
            self._lower_axis(g, regions, axis, size) for axis, size in enumerate((height, width))
        )
        images = g.op("Floor", lower_column(g, regions, 0))
        own = g.op("Equal", images, g.constant([list(map(float, range(n)))]))
        own = g.reshape(g.cast(own, "float32"), (count, 1, n, 1))
        rows = g.op("Mul", g.reshape(rows, (count, high, 1, height)), own)
        maps = g.reshape(g.op("Transpose", x, perm=[0, 2, 1, 3]), (n * height, channels * width))
        strips = g.op("MatMul", g.reshape(rows, (count, high, n * height)), maps)
        columns = g.op("Transpose", columns, perm=[0, 2, 1])
        y = g.op(
            "MatMul",
            g.reshape(strips, (count, high, channels, width)),
            g.reshape(columns, (count, 1, width, wide)),
        )
        return (g.op("Transpose", y, perm=[0, 2, 1, 3]),)

    def _lower_axis(self, g: OnnxBuilder, regions: Value, axis: int, size: int) -> Value:
        """Return `axis` in ONNX."""
        at, counts = self.lower_points(g, regions, axis)
        outside = g.op(
            "Or",
            g.op("Less", at, g.constant(-0.5)),
            g.op("Greater", at, g.constant(size - 0.5)),
        )
        counts = g.op("And", g.op("Not", outside), counts)
        at = g.op("Max", at, g.constant(0.0))
        at = g.op("Min", at, g.constant(float(size - 1)))
        shape = (regions.shape[0], self.pooled()[axis], 1)
        apart = g.op(
            "Sub",
            g.reshape(at, shape),
            g.constant([[list(map(float, range(size)))]]),
        )
        hat = g.op("Sub", g.constant(1.0), g.op("Abs", apart))
        hat = g.op("Max", hat, g.constant(0.0))
        counts = g.reshape(g.cast(counts, "float32"), shape)
        weights: Value = g.op("Mul", hat, counts)
        return weights


@layer("ROIGridAlign", "roi_pooling_param")
@dataclass(frozen=True)
class ROIGridAlign(PointPooling):
    """Bilinear samples at the corners of `pooled_h` x `pooled_w` bins of a region.

    Shapes: maps (N, C, H, W), regions (R, 5) -> (R, C, pooled_h + 1, pooled_w + 1); the mean of 2 x
    2 neighbours, which such nets take next, is that of a bin. A region may first grow by
    `pad_ratio` times its size on each side. Positions are `spatial_scale` times pixels, less one
    half. A sample up to half a position outside the maps takes the value at their edge, one further
    out is 0, and so are all those of a region without width or height.

    A layer of type ROIAlign with `roi_pooling_param` becomes this one.

    Source: the forks of Caffe of MS-CNN and Cascade R-CNN.
    """

    pooled_h: int = 0
    pooled_w: int = 0
    pad_ratio: float = 0.0

    def pooled(self) -> tuple[int, int]:
        check_size(self, "pooled_h", "pooled_w")
        return self.pooled_h + 1, self.pooled_w + 1

    def points(self, xp: ArrayNamespace, regions: Array, axis: int) -> tuple[Array, Array]:
        low, high = regions[:, 2 - axis], regions[:, 4 - axis]
        pad = (high - low + 1) * self.pad_ratio
        start = (low - pad) * self.spatial_scale - 0.5
        length = (high + pad) * self.spatial_scale - 0.5 - start
        samples = self.pooled()[axis]
        at = start[:, None] + length[:, None] * (xp.arange(samples) / (samples - 1))
        return at, (length > 0)[:, None]

    def lower_points(self, g: OnnxBuilder, regions: Value, axis: int) -> tuple[Value, Value]:
        low, high = (lower_column(g, regions, column - axis) for column in (2, 4))
        pad = g.op("Add", g.op("Sub", high, low), g.constant(1.0))
        pad = g.op("Mul", pad, g.constant(self.pad_ratio))
        scale, half = g.constant(self.spatial_scale), g.constant(0.5)
        start = g.op("Sub", g.op("Mul", g.op("Sub", low, pad), scale), half)
        end = g.op("Sub", g.op("Mul", g.op("Add", high, pad), scale), half)
        length, samples = g.op("Sub", end, start), self.pooled()[axis]
        steps = g.constant([[i / (samples - 1) for i in range(samples)]])
        at = g.op("Add", start, g.op("Mul", length, steps))
        return at, g.op("Greater", length, g.constant(0.0))


@layer("ROIWarping", "roi_warping_param")
@dataclass(frozen=True)
class ROIWarping(PointPooling):
    """Bilinear samples at the upper left corners of `pooled_h` x `pooled_w` bins of a region.

    Shapes: maps (N, C, H, W), regions (R, 5) -> (R, C, pooled_h, pooled_w). Corners times
    `spatial_scale` are rounded (halves away from 0); sample i lies i / pooled of the way from the
    first to the last. A sample up to half a position outside the maps takes the value at their
    edge, one further out is 0. (The fork also gives the regions a gradient, as if nothing were
    rounded.)

    Source: J. Dai et al., "Instance-aware Semantic Segmentation via Multi-task Network Cascades",
    2016, and its fork of Caffe.
    """

    pooled_h: int = 0
    pooled_w: int = 0

    def pooled(self) -> tuple[int, int]:
        check_size(self, "pooled_h", "pooled_w")
        return self.pooled_h, self.pooled_w

    def points(self, xp: ArrayNamespace, regions: Array, axis: int) -> tuple[Array, Array]:
        corners = round_half_away(xp, regions[:, 1:] * self.spatial_scale)
        start, end = corners[:, 1 - axis, None], corners[:, 3 - axis, None]
        samples = self.pooled()[axis]
        at = start + xp.maximum(end - start, 0) * (xp.arange(samples) / samples)
        return at, xp.ones(at.shape, bool)

    def lower_points(self, g: OnnxBuilder, regions: Value, axis: int) -> tuple[Value, Value]:
        scale = g.constant(self.spatial_scale)
        start, end = (
            lower_round(g, g.op("Mul", lower_column(g, regions, column - axis), scale))
            for column in (2, 4)
        )
        samples = self.pooled()[axis]
        steps = g.constant([[i / samples for i in range(samples)]])
        length = g.op("Max", g.op("Sub", end, start), g.constant(0.0))
        at = g.op("Add", start, g.op("Mul", length, steps))
        return at, g.constant([[True] * samples], "bool")
