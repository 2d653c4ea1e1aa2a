"""Masks of regions, as Multitask Network Cascades predict, resize and apply them.

A mask of a region is a map of its own, stretched over the region whatever its size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from netc.layers.proposal import check_info, check_positive, check_rows, decode, lower_info
from netc.layers.registry import layer
from netc.layers.roi import REGION, check_maps, check_regions
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


@layer("MaskPooling")
@dataclass(frozen=True)
class MaskPooling(Layer):
    """Maps times a mask: y[n, c] = x[n, c] * m[n].

    Shapes: maps (N, C, H, W), masks (N, 1, H, W) -> (N, C, H, W). Gradients reach both.

    Source: J. Dai et al., "Instance-aware Semantic Segmentation via Multi-task Network Cascades",
    2016, and its fork of Caffe.
    """

    bottoms: ClassVar[Arity] = exactly(2)

    def infer(self, *bottoms: BlobType) -> Signature:
        maps, masks = bottoms
        check_maps(maps)
        wanted = (maps.shape[0], 1, *maps.shape[2:])
        if masks.shape != wanted:
            raise Refusal(
                "the masks do not fit the maps",
                expected=f"shape {BlobType(wanted)} for bottom 1",
                got=f"shape {masks}",
                setting="bottom",
            )
        return Signature((maps,))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        x, masks = call.bottoms
        return (x * masks,)

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        (x, masks), dy = call.bottoms, call.top_diffs[0]
        return Gradients((dy * masks, (dy * x).sum(axis=1, keepdims=True)))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        return (g.op("Mul", *bottoms),)


@layer("MaskResize", "mask_resize_param")
@dataclass(frozen=True)
class MaskResize(Layer):
    """Maps of another size, interpolated bilinearly: y[i, j] = x[i H / H', j W / W'].

    Shapes: (N, C, H, W) -> (N, C, `output_height`, `output_width`), H' and W'. Beyond the last
    position x is what it is there. The gradient is exact; that of the fork leaves out parts where
    maps become larger.

    Source: as MaskPooling.
    """

    output_height: int = 0
    output_width: int = 0

    bottoms: ClassVar[Arity] = exactly(1)

    def infer(self, *bottoms: BlobType) -> Signature:
        (x,) = bottoms
        check_maps(x)
        check_positive(self, "output_height", "output_width")
        return Signature((BlobType((*x.shape[:2], self.output_height, self.output_width)),))

    def _weights(self, xp: ArrayNamespace, shape: tuple[int, ...], dtype: object) -> list[Array]:
        """Return what each row and each column of x weighs: (H', H) and (W', W)."""
        found = []
        for size, wanted in zip(shape[2:], (self.output_height, self.output_width), strict=True):
            at = xp.minimum(xp.arange(wanted) * (size / wanted), size - 1)
            hat = xp.maximum(1 - xp.abs(at[:, None] - xp.arange(size)), 0)
            found.append(hat.astype(dtype))
        return found

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, (x,) = call.xp, call.bottoms
        rows, columns = self._weights(xp, x.shape, x.dtype)
        return (xp.matmul(xp.matmul(rows, x), columns.T),)

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def backward(self, call: BackwardCall) -> Gradients:
        xp, dy, shape = call.xp, call.top_diffs[0], call.bottoms[0].shape
        rows, columns = self._weights(xp, shape, dy.dtype)
        return Gradients((xp.matmul(xp.matmul(rows.T, dy), columns),))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        (x,) = bottoms
        rows, columns = self._weights(g.xp, x.shape, "float32")
        strips = g.op("MatMul", g.constant(rows), x)
        return (g.op("MatMul", strips, g.constant(columns.T)),)


@layer("BestClassBoxes")
@dataclass(frozen=True)
class BestClassBoxes(Layer):
    """Regions moved as the class with the highest score says, for another look at them.

    Shapes: regions (R, 5), shifts (R, 4K), scores (R, K), (height, width, ...) of the image (1, 3)
    -> regions (R, 5) of image 0. The box of a class is shifted and scaled as in Proposal, and
    clipped to the image; of classes with the same score the first counts, the background's 0
    included. Rows of zeros stay. No gradient.

    Source: as MaskPooling; the Python layer `StageBridgeLayer`, for testing.
    """

    bottoms: ClassVar[Arity] = exactly(4)
    stops_gradients: ClassVar[bool] = True

    def infer(self, *bottoms: BlobType) -> Signature:
        regions, shifts, scores, info = bottoms
        count = check_regions(regions, "bottom 0")
        classes = scores.shape[1] if scores.axes > 1 else 0
        check_rows(scores, 2, classes, count)
        check_rows(shifts, 1, 4 * classes, count)
        check_info(info, 3)
        return Signature((BlobType((count, REGION)),))

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False,) * n_bottoms

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, (regions, shifts, scores, info) = call.xp, call.bottoms
        count = len(regions)
        regions = regions.reshape(count, REGION)
        best = scores.reshape(count, scores.shape[1]).argmax(axis=1)
        own = shifts.reshape(count, scores.shape[1], 4)[xp.arange(count), best]
        high, wide = info.reshape(-1)[0], info.reshape(-1)[1]
        boxes = decode(xp, regions[:, 1:], own)
        boxes = xp.maximum(xp.minimum(boxes, xp.stack([wide, high, wide, high]) - 1), 0)
        rows = xp.zeros_like(regions)
        rows[:, 1:] = boxes * (regions != 0).any(axis=1)[:, None]
        return (rows,)

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        regions, shifts, scores, info = bottoms
        count, classes = scores.shape[:2]
        regions = g.reshape(regions, (count, REGION))
        best = g.op("ArgMax", g.reshape(scores, (count, classes)), axis=1, keepdims=1)
        places = g.op(
            "Add", g.op("Mul", best, g.constant(4, "int64")), g.constant([[0, 1, 2, 3]], "int64")
        )
        own = g.op("GatherElements", g.reshape(shifts, (count, 4 * classes)), places, axis=1)
        two = g.constant([2, 2], "int64")
        shift, growth = g.op("Split", own, two, outputs=2, axis=1)
        low, high = (
            g.op("Gather", regions, g.constant(columns, "int64"), axis=1)
            for columns in ([1, 2], [3, 4])
        )
        size = g.op("Add", g.op("Sub", high, low), g.constant(1.0))
        centre = g.op("Add", low, g.op("Div", size, g.constant(2.0)))
        centre = g.op("Add", centre, g.op("Mul", shift, size))
        half = g.op("Div", g.op("Mul", g.op("Exp", growth), size), g.constant(2.0))
        limit = g.op("Gather", lower_info(g, info), g.constant([1, 0], "int64"), axis=0)
        limit = g.op("Sub", limit, g.constant(1.0))
        corners = [
            g.op("Max", g.op("Min", g.op(sign, centre, half), limit), g.constant(0.0))
            for sign in ("Sub", "Add")
        ]
        sums = g.op("ReduceSum", g.op("Abs", regions), g.constant([1], "int64"), keepdims=1)
        real = g.cast(g.op("Greater", sums, g.constant(0.0)), "float32")
        boxes = g.op("Mul", g.op("Concat", *corners, axis=1), real)
        return (g.op("Concat", g.constant([[0.0]] * count), boxes, axis=1),)
