"""A transformer of images: where to look is computed, and learned."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
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
    exactly,
)


@layer("SpatialTransformer", "st_param")
@dataclass(frozen=True)
class SpatialTransformer(Layer):
    """The images of bottom 0 seen through an affine map, which bottom 1 gives for each of them.

    Row i and column j of the top have the coordinates (2 i / output_H - 1, 2 j / output_W - 1). The
    map theta, a 2 x 3 matrix by rows, takes (row, column, 1) to coordinates in bottom 0, where
    (r + 1) / 2 * H and (c + 1) / 2 * W are a place between pixels: the top is the bilinear mean of
    the four around it, of which those outside the image are 0. Entries that the text gives
    (`theta_1_1`, ...) are fixed, and bottom 1 lacks them. Gradients reach theta, and bottom 0
    unless `to_compute_dU` is false; at a pixel the slope is that towards the next one.

    Shapes: U (N, C, H, W), theta (N, 6) or fewer -> top (N, C, output_H, output_W).
    Source: Jaderberg et al., "Spatial transformer networks", NIPS 2015; conventions and names are
    those of the best known fork that has it.
    """

    transform_type: str = "affine"
    sampler_type: str = "bilinear"
    output_H: int | None = None
    output_W: int | None = None
    to_compute_dU: bool = True
    theta_1_1: float | None = None
    theta_1_2: float | None = None
    theta_1_3: float | None = None
    theta_2_1: float | None = None
    theta_2_2: float | None = None
    theta_2_3: float | None = None

    bottoms: ClassVar[Arity] = exactly(2)

    def infer(self, *bottoms: BlobType) -> Signature:
        x, theta = bottoms
        for setting, only in (("transform_type", "affine"), ("sampler_type", "bilinear")):
            if getattr(self, setting) != only:
                raise Refusal(
                    f"unknown {setting} '{getattr(self, setting)}'",
                    expected=only,
                    got=getattr(self, setting),
                    setting=setting,
                )
        if x.axes != 4 or 0 in x.shape[2:]:
            raise Refusal(
                "bottom 0 is not a batch of images",
                expected="a bottom of shape (N, C, H, W)",
                got=f"bottom 0 of shape {x}",
            )
        free = self._fixed.count(None)
        if theta.shape[:1] != x.shape[:1] or theta.count != x.shape[0] * free:
            raise Refusal(
                "bottom 1 does not hold the free entries of theta",
                expected=f"shape {BlobType((x.shape[0], free))}: {free} numbers for each image",
                got=f"bottom 1 of shape {theta}",
            )
        for setting in ("output_H", "output_W"):
            size = getattr(self, setting)
            if size is not None and size < 1:
                raise Refusal(
                    f"{setting} is not positive",
                    expected=f"{setting} >= 1, or none for the size of bottom 0",
                    got=f"{setting} {size}",
                    setting=setting,
                )
        return Signature((BlobType((*x.shape[:2], *self._size(x.shape))),))

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (self.to_compute_dU, True)

    @property
    def _fixed(self) -> tuple[float | None, ...]:
        """The entries of theta by rows, None where bottom 1 has them."""
        return (
            *(self.theta_1_1, self.theta_1_2, self.theta_1_3),
            *(self.theta_2_1, self.theta_2_2, self.theta_2_3),
        )

    @property
    def _free(self) -> list[int]:
        """Which entries of theta bottom 1 has."""
        return [i for i, value in enumerate(self._fixed) if value is None]

    def _size(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return the height and width of the top."""
        return (
            shape[2] if self.output_H is None else self.output_H,
            shape[3] if self.output_W is None else self.output_W,
        )

    def _grid(self, xp: ArrayNamespace, shape: tuple[int, ...]) -> Array:
        """Return (row, column, 1) for each pixel of the top: (pixels, 3) of float64."""
        height, width = self._size(shape)
        rows, columns = (xp.arange(n) / n * 2 - 1 for n in (height, width))
        grid = xp.ones((height, width, 3))
        grid[:, :, 0] = rows[:, None]
        grid[:, :, 1] = columns
        return grid.reshape(-1, 3)

    def _places(self, call: ForwardCall | BackwardCall) -> tuple[Array, Array]:
        """Return the grid, and the place in bottom 0 of each pixel of the top: (2, N, pixels)."""
        xp, (x, free) = call.xp, call.bottoms
        grid = self._grid(xp, x.shape).astype(free.dtype)
        theta = xp.empty((len(x), 6), free.dtype)
        for entry, value in enumerate(self._fixed):
            if value is not None:
                theta[:, entry] = value
        theta[:, self._free] = free.reshape(len(x), len(self._free))
        seen = theta.reshape(len(x), 2, 3) @ grid.T
        seen += 1
        sizes = xp.asarray(x.shape[2:], dtype=free.dtype).reshape(2, 1, 1)
        return grid, seen.swapaxes(0, 1) * (sizes / 2)

    @staticmethod
    def _around(
        xp: ArrayNamespace, places: Array, sizes: tuple[int, int]
    ) -> Iterator[tuple[Array, Array, Array, Array]]:
        """Yield each of the four pixels around the places.

        As the number of the pixel in its image, its weight, and the slopes of the weight down and
        across. A pixel outside the image has weight and slopes 0.
        """
        low = xp.floor(places)
        part = places - low
        for down, across in itertools.product((0, 1), repeat=2):
            row, column = low[0] + down, low[1] + across
            # NaN is nowhere.
            inside = (row >= 0) & (row < sizes[0]) & (column >= 0) & (column < sizes[1])
            number = xp.where(inside, row * sizes[1] + column, 0).astype("int64")
            weights = [p if far else 1 - p for p, far in zip(part, (down, across), strict=True)]
            yield (
                number,
                xp.where(inside, weights[0] * weights[1], 0),
                xp.where(inside, weights[1] if down else -weights[1], 0),
                xp.where(inside, weights[0] if across else -weights[0], 0),
            )

    @staticmethod
    def _pixels(x: Array) -> Array:
        """View images as (N, pixels, C)."""
        return x.reshape(*x.shape[:2], x.shape[2] * x.shape[3]).swapaxes(1, 2)

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, x = call.xp, call.bottoms[0]
        _, places = self._places(call)
        pixels, item = self._pixels(x), xp.arange(len(x))[:, None]
        y = xp.zeros((*places.shape[1:], x.shape[1]), call.out[0].dtype)
        for number, weight, _, _ in self._around(xp, places, x.shape[2:]):
            y += pixels[item, number] * weight[:, :, None]
        return (y.swapaxes(1, 2).reshape(call.out[0].shape),)

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        xp, (x, free) = call.xp, call.bottoms
        grid, places = self._places(call)
        pixels, item = self._pixels(x), xp.arange(len(x))[:, None]
        dy = self._pixels(call.top_diffs[0])
        dx = xp.zeros(pixels.shape, dy.dtype) if call.wants_bottoms[0] else None
        slopes = xp.zeros(places.shape, dy.dtype)
        for number, weight, down, across in self._around(xp, places, x.shape[2:]):
            if dx is not None:
                xp.add.at(dx, (item, number), dy * weight[:, :, None])
            if call.wants_bottoms[1]:
                value = (pixels[item, number] * dy).sum(axis=2)
                slopes[0] += value * down
                slopes[1] += value * across
        dtheta = None
        if call.wants_bottoms[1]:
            sizes = xp.asarray(x.shape[2:], dtype=dy.dtype).reshape(2, 1, 1)
            whole = ((slopes * (sizes / 2)) @ grid).swapaxes(0, 1).reshape(len(x), 6)
            dtheta = whole[:, self._free].reshape(free.shape)
        dx = None if dx is None else dx.swapaxes(1, 2).reshape(x.shape)
        return Gradients((dx, dtheta))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        if g.opset < 16:
            raise g.refuse(
                "a spatial transformer needs the operator GridSample",
                hint="export with -opset 16 or later",
            )
        x, free = bottoms
        n, _, height, width = x.shape
        theta: Any = g.reshape(free, (n, len(self._free)))
        if len(self._free) < 6:
            spread = g.xp.zeros((len(self._free), 6), "float32")
            spread[list(range(len(self._free))), self._free] = 1
            fixed = [0.0 if value is None else value for value in self._fixed]
            theta = g.op("Add", g.op("MatMul", theta, g.constant(spread)), g.constant(fixed))
        # GridSample wants (column, row), and -1 and 1 at the outer edges of the outer pixels.
        theta = g.op("Gather", g.reshape(theta, (n, 2, 3)), g.constant([1, 0], "int64"), axis=1)
        grid = self._grid(g.xp, x.shape).astype("float32")
        seen = g.op("MatMul", g.constant(grid), g.op("Transpose", theta, perm=[0, 2, 1]))
        seen = g.op("Add", seen, g.constant([1 / width, 1 / height]))
        seen = g.reshape(seen, (n, *self._size(x.shape), 2))
        mode = "linear" if g.opset >= 20 else "bilinear"
        return (g.op("GridSample", x, seen, mode=mode, padding_mode="zeros", align_corners=0),)

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        return 4 * signature.tops[0].count
