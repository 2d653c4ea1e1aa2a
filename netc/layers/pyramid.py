"""Regions from the maps of a feature pyramid: anchors on each map, and each region on one of them.

Level l of the pyramid has maps of stride 2^l. Anchors are those of Faster R-CNN, of one set of
ratios and scales times the stride of the map; large regions are pooled from high levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from netc.layers.proposal import (
    NO_SCORE,
    Anchored,
    Judgement,
    Selection,
    check_fraction,
    check_info,
    check_one_image,
    check_positive,
    check_truth,
    lower_info,
    truth_rows,
)
from netc.layers.registry import layer
from netc.layers.roi import check_maps, check_regions
from netc.layers.types import (
    Arity,
    Array,
    BlobType,
    ForwardCall,
    Layer,
    OnnxBuilder,
    Reads,
    Refusal,
    Signature,
    Value,
    at_least,
)

# How many rows of zeros stand for the regions of a level that has none.
EMPTY = 4
# The side of a region where there is none at all, in pixels.
NO_SIDE = 16


def _check_number(given: int, wanted: int, what: str) -> None:
    """Refuse another number of bottoms."""
    if given != wanted:
        raise Refusal(
            "the number of bottoms does not fit the strides",
            expected=f"{wanted} bottoms: {what}",
            got=given,
            setting="stride",
        )


def _level(kind: Selection | Judgement, stride: int) -> Anchored:
    """Return what knows the anchors of a map."""
    return Anchored(kind.ratio, kind.scale, stride, stride)


@layer("PyramidProposal", "proposal_param", "pyramid_param")
@dataclass(frozen=True)
class PyramidProposal(Selection):
    """The best regions that the anchors of several maps become, as Proposal's of one.

    Shapes: (height, width, scale) of the image (1, 3), then shifts (1, 4A, H, W) of each of the K
    maps, then their probabilities (1, 2A, H, W) -> regions (R, 5) with image 0, R being
    `post_nms_topn`, or fewer where there are not so many anchors. Map k has the `stride` k, which
    is the size of its anchors too before they are scaled. Of a map those positions count that lie
    in an image of this height and width: the first height / stride rows, rounded down, and columns.

    Boxes of all maps are ranked together. With fewer than R regions these follow again, best first,
    until there are R; with none at all there are boxes of 16 x 16 pixels at the corner. (FPN's code
    repeats some at random.) No gradient.

    Source: T.-Y. Lin et al., "Feature Pyramid Networks for Object Detection", 2017; the layer of
    unsky's FPN, whose numbers that the phase decides are settings here.
    """

    stride: tuple[int, ...] = ()

    bottoms: ClassVar[Arity] = at_least(3)

    def _map(self, index: int) -> Anchored:
        return _level(self, self.stride[index])

    def infer(self, *bottoms: BlobType) -> Signature:
        count = len(self.stride)
        _check_number(len(bottoms), 2 * count + 1, "the image's size, shifts, probabilities")
        check_positive(self, "stride", "ratio", "scale")
        check_fraction(self, "nms_thresh")
        check_info(bottoms[0], 0)
        for index in range(count):
            places = (1 + index + count, 1 + index)
            self._map(index).check_maps(bottoms[places[0]], bottoms[places[1]], places)
        return Signature((BlobType((self.most(self._found(bottoms)), 5)),))

    def _found(self, bottoms: Sequence[BlobType] | Sequence[Array] | Sequence[Value]) -> int:
        """Return how many anchors there are."""
        maps = bottoms[1 : len(self.stride) + 1]
        return sum(m.shape[2] * m.shape[3] for m in maps) * self.n_anchors

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, count = call.xp, len(self.stride)
        info = call.bottoms[0].reshape(-1)
        boxes, scores = [], []
        for index in range(count):
            level = self._map(index)
            deltas, of_map = call.bottoms[1 + index], call.bottoms[1 + index + count]
            found, best = level.candidates(xp, of_map, deltas, info)
            rows, columns = (int(side / level.feat_stride) for side in info[:2])
            keep = xp.zeros((*deltas.shape[2:], self.n_anchors), bool)
            keep[:rows, :columns] = True
            boxes.append(found[keep.reshape(-1)])
            scores.append(best[keep.reshape(-1)])
        most = self.most(self._found(call.bottoms))
        found, _ = self.best(xp, xp.concatenate(boxes), xp.concatenate(scores), info[2])
        regions = xp.zeros((most, 5), found.dtype)
        if len(found):
            regions[:, 1:] = found[xp.arange(most) % len(found)]
        else:
            regions[:, 3:] = NO_SIDE
        return (regions,)

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        count = len(self.stride)
        info = lower_info(g, bottoms[0])
        parts = []
        for index in range(count):
            level = self._map(index)
            deltas, scores = bottoms[1 + index], bottoms[1 + index + count]
            low, high, scores = level.lower_candidates(g, scores, deltas, info)
            outside = self._lower_outside(g, level.feat_stride, deltas.shape[2:], info)
            scores = g.op("Where", outside, g.constant(NO_SCORE), scores)
            parts.append((low, high, scores))
        low, high, scores = (g.op("Concat", *part, axis=0) for part in zip(*parts, strict=True))
        scale = g.op("Gather", info, g.constant([2], "int64"), axis=0)
        rows, _, kept = self.lower_best(g, low, high, scores, scale)
        pre, most = rows.shape[0], self.most(self._found(bottoms))
        # Behind the boxes comes the one for none at all: the first where nothing is chosen.
        rows = g.op("Concat", rows, g.constant([[0.0, 0.0, NO_SIDE, NO_SIDE]]), axis=0)
        one = g.constant([1], "int64")
        chosen = g.op("Max", g.op("Shape", kept), one)
        again = g.op("Mod", g.constant(list(range(most)), "int64"), chosen)
        kept = g.op("Concat", kept, g.constant([pre], "int64"), axis=0)
        kept = g.op("Gather", kept, again, axis=0)
        regions = g.op("Gather", rows, kept, axis=0)
        return (g.op("Concat", g.constant([[0.0]] * most), regions, axis=1),)

    def _lower_outside(
        self, g: OnnxBuilder, stride: int, size: Sequence[int], info: Value
    ) -> Value:
        """Return which anchors of a map lie beyond the image's rows and columns, in ONNX."""
        height, width = size
        total = (height * width * self.n_anchors,)
        beyond = []
        for axis, shape in enumerate(((height, 1, 1), (1, width, 1))):
            side = g.op("Gather", info, g.constant([axis], "int64"), axis=0)
            count = g.op("Floor", g.op("Div", side, g.constant(float(stride))))
            steps = g.xp.arange(size[axis]).reshape(shape).astype("float32")
            steps = g.xp.broadcast_to(steps, (height, width, self.n_anchors)).reshape(total)
            inside = g.op("Less", g.constant(steps), count)
            beyond.append(g.op("Not", inside))
        outside: Value = g.op("Or", *beyond)
        return outside


@layer("PyramidAnchorTarget", "anchor_target_param", "pyramid_param")
@dataclass(frozen=True)
class PyramidAnchorTarget(Judgement):
    """What a region proposal network should have said of the anchors of several maps.

    Shapes: K maps (1, ..., H, W), ground truth (G, 5) as (x1, y1, x2, y2, class), (height, width,
    scale) of the image (1, 3) -> labels (1, A * S), shifts, inside weights and outside weights
    (1, 4A, S), S being the number of positions of all maps, those of the first map first.

    All is as in AnchorTarget, but that anchors of all maps are labelled and chosen together, and
    that map k has the `stride` k, which is the size of its anchors too before they are scaled. No
    gradient.

    ONNX: none, it makes targets for training.

    Source: as PyramidProposal.
    """

    stride: tuple[int, ...] = ()

    bottoms: ClassVar[Arity] = at_least(3)

    def infer(self, *bottoms: BlobType) -> Signature:
        *maps, truth, info = bottoms
        count = len(self.stride)
        _check_number(len(bottoms), count + 2, "maps, the ground truth, the image's size")
        check_positive(self, "stride", "ratio", "scale")
        self.check_settings()
        for index, blob in enumerate(maps):
            check_maps(blob, f"the maps of the network, bottom {index},")
            check_one_image(blob)
        check_truth(truth, count)
        check_info(info, count + 1)
        places = sum(blob.span(2) for blob in maps)
        boxes = BlobType((1, 4 * self.n_anchors, places))
        return Signature((BlobType((1, self.n_anchors * places)), boxes, boxes, boxes))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, (*maps, truth, info) = call.xp, call.bottoms
        sizes = [blob.shape[2:] for blob in maps]
        grids = [
            _level(self, stride).grid(xp, *size)
            for stride, size in zip(self.stride, sizes, strict=True)
        ]
        ends = [sum(map(len, grids[:k])) for k in range(len(grids) + 1)]
        boxes = xp.concatenate(grids)
        places = self.inside(xp, boxes, info)
        judged = self.judge(call, boxes[places], truth_rows(truth))
        tops: list[list[Array]] = [[] for _ in judged]
        for size, start, end in zip(sizes, ends[:-1], ends[1:], strict=True):
            own = (places >= start) & (places < end)
            part = tuple(values[own] for values in judged)
            spread = self.spread(xp, part, places[own] - start, size, maps[0].dtype)
            tops[0].append(spread[0].reshape(1, -1))
            for top, values in zip(tops[1:], spread[1:], strict=True):
                top.append(values.reshape(*values.shape[:2], -1))
        return tuple(xp.concatenate(top, axis=-1) for top in tops)


@layer("PyramidRegions", "pyramid_param")
@dataclass(frozen=True)
class PyramidRegions(Layer):
    """Regions sorted by the level of the pyramid that they are pooled from.

    Shapes: regions (R, 5), then if given labels (R, ...) and other rows (R, ...) -> regions (N, 5)
    of each of the L levels, then labels (L N, ...) and other rows (L N, ...), those of the lowest
    level first. One more top, the first, has the regions of all levels (L N, 5). N is `rows`;
    behind the last region of a level come rows of zeros, with label -1. Without `rows` a level has
    as many rows as it has regions, or 4 of these; where the shape must stay, R.

    A region of w x h pixels belongs to the level `size_level` + log2(sqrt(w h) / `size`), rounded
    down, w being x2 - x1; smaller ones to `lowest_level`, larger ones to the highest. Within a
    level they keep their order. No gradient.

    Source: as PyramidProposal, and its variant whose levels are merged.
    """

    rows: int = 0
    lowest_level: int = 2
    size: int = 224
    size_level: int = 4
    top: tuple[str, ...] = ()

    bottoms: ClassVar[Arity] = at_least(1)
    tops: ClassVar[Arity] = at_least(1)
    data_dependent: ClassVar[bool] = True
    pads: ClassVar[bool] = True
    stops_gradients: ClassVar[bool] = True

    #: How many levels regions are pooled from.
    n_levels: ClassVar[int] = 4

    def infer(self, *bottoms: BlobType) -> Signature:
        regions, *others = bottoms
        count = check_regions(regions, "bottom 0")
        check_positive(self, "size")
        least = self.n_levels + len(others)
        if len(self.top) not in (least, least + 1):
            raise Refusal(
                "the number of tops does not fit the bottoms",
                expected=f"{least} tops, {self.n_levels} levels and {len(others)} more, or with "
                f"the regions of all levels first, {least + 1}",
                got=len(self.top),
                setting="top",
            )
        for index, blob in enumerate(others, start=1):
            if not blob.axes or blob.shape[0] != count:
                raise Refusal(
                    f"bottom {index} has not one row for each region",
                    expected=f"shape ({count}, ...)",
                    got=f"shape {blob}",
                    setting="bottom",
                )
        if 0 < self.rows < count:
            raise Refusal(
                "there may be more regions than rows",
                expected=f"rows >= {count}, or 0",
                got=self.rows,
                setting="rows",
            )
        rows = self._rows(count)
        tops = [BlobType((rows, 5))] * self.n_levels
        if len(self.top) > least:
            tops.insert(0, BlobType((rows * self.n_levels, 5)))
        tops += [BlobType((rows * self.n_levels, *blob.shape[1:])) for blob in others]
        return Signature(tuple(tops))

    def _rows(self, count: int) -> int:
        """Return how many rows of a level there may be."""
        return self.rows or max(count, EMPTY)

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False,) * n_bottoms

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    @property
    def _areas(self) -> list[float]:
        """The areas at which the next higher level begins."""
        steps = range(1, self.n_levels)
        return [(self.size * 2.0 ** (self.lowest_level + k - self.size_level)) ** 2 for k in steps]

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, (regions, *others) = call.xp, call.bottoms
        flat = regions.reshape(len(regions), 5)
        areas = (flat[:, 3] - flat[:, 1]) * (flat[:, 4] - flat[:, 2])
        level = sum((areas >= area).astype("int64") for area in self._areas)
        real = (flat != 0).any(axis=1)
        levels = [xp.nonzero(real & (level == k))[0] for k in range(self.n_levels)]
        sizes = [self._rows(len(flat))] * self.n_levels
        if not (self.rows or call.out):
            sizes = [len(found) or EMPTY for found in levels]

        def spread(values: Array, fill: float) -> list[Array]:
            parts = []
            for found, size in zip(levels, sizes, strict=True):
                part = xp.full((size, *values.shape[1:]), fill, values.dtype)
                part[: len(found)] = values[found]
                parts.append(part)
            return parts

        tops = spread(flat, 0)
        if len(self.top) > self.n_levels + len(others):
            tops.insert(0, xp.concatenate(tops))
        for index, values in enumerate(others):
            tops.append(xp.concatenate(spread(values, 0 if index else -1)))
        return tuple(tops)

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        regions, *others = bottoms
        count = regions.shape[0]
        flat = g.reshape(regions, (count, 5))
        left, upper, right, lower = (
            g.op("Gather", flat, g.constant(k, "int64"), axis=1) for k in (1, 2, 3, 4)
        )
        areas = g.op("Mul", g.op("Sub", right, left), g.op("Sub", lower, upper))
        least = g.constant([[area] for area in self._areas])
        above = g.cast(g.op("GreaterOrEqual", g.reshape(areas, (1, count)), least), "float32")
        level = g.op("ReduceSum", above, g.constant([0], "int64"), keepdims=0)
        size = g.op("ReduceSum", g.op("Abs", flat), g.constant([1], "int64"), keepdims=0)
        real = g.op("Greater", size, g.constant(0.0))
        index = self._lower_index(g, level, real, count)

        def spread(values: Value, fill: float) -> Value:
            padding = g.constant(g.xp.full((1, *values.shape[1:]), fill, "float32"))
            rows: Value = g.op("Gather", g.op("Concat", values, padding, axis=0), index, axis=0)
            return rows

        whole = spread(flat, 0)
        share = g.constant([self._rows(count)] * self.n_levels, "int64")
        tops = [*g.op("Split", whole, share, outputs=self.n_levels, axis=0)]
        if len(self.top) > self.n_levels + len(others):
            tops.insert(0, whole)
        tops += [spread(values, 0 if k else -1) for k, values in enumerate(others)]
        return tuple(tops)

    def _lower_index(self, g: OnnxBuilder, level: Value, real: Value, count: int) -> Value:
        """Return which region each row of the levels shows, `count` for none, in ONNX."""
        rows = self._rows(count)
        places = g.constant(g.xp.arange(count).astype("float32"))
        nowhere = g.constant(float(count))
        parts = []
        for k in range(self.n_levels):
            own = g.op("And", real, g.op("Equal", level, g.constant(float(k))))
            order = g.op("Where", own, places, nowhere)
            first, _ = g.op(
                "TopK", order, g.constant([count], "int64"), outputs=2, axis=0, largest=0, sorted=1
            )
            parts += (
                [first, g.constant([float(count)] * (rows - count))] if rows > count else [first]
            )
        return g.cast(g.op("Concat", *parts, axis=0), "int64")
