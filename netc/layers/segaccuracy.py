"""How well an image is segmented."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

from netc.layers.accuracy import Measure
from netc.layers.labels import ScoreShape, check_items, check_labels, class_index
from netc.layers.registry import layer
from netc.layers.types import (
    Arity,
    Array,
    ArrayNamespace,
    BlobType,
    ForwardCall,
    KeptType,
    OnnxBuilder,
    Signature,
    Value,
    exactly,
)

# Counts are kept in two numbers of float32, which is exact up to 2^24: below and above this.
CARRY = 1 << 20


class AccuracyMetric(enum.Enum):
    """One of the three numbers. The fork has the setting, but gives all of them."""

    PixelAccuracy = 0
    ClassAccuracy = 1
    PixelIOU = 2


@layer("SegAccuracy", "seg_accuracy_param")
@dataclass(frozen=True)
class SegAccuracy(Measure):
    """Three measures of a segmentation, from counts of (label, best class) over all pixels.

    Of n[i, j] pixels with label i and best class j: the share of hits, sum(n[i, i]) / sum(n); the
    mean of n[i, i] / n[i, :] over the labels that occur; the mean over all K classes of
    n[i, i] / (n[i, :] + n[:, i] - n[i, i]), 1 for a class that is neither label nor best. Where
    nothing counts they are 0, 0 and 1. Among equal scores the larger class is best.

    Shapes: scores (N, K, ...), labels (N, 1, ...) -> top (1, 1, 1, 3). Labels among the
    `ignore_label` values do not count; any other outside 0..K-1 raises `Refusal`. With `reset`
    false the counts go on from pass to pass. `metric` is read and changes nothing.
    Source: the forks of DeepLab and PSPNet.
    """

    metric: AccuracyMetric = AccuracyMetric.PixelAccuracy
    ignore_label: tuple[int, ...] = ()
    reset: bool = True

    bottoms: ClassVar[Arity] = exactly(2)

    def infer(self, *bottoms: BlobType) -> Signature:
        scores, labels = bottoms
        check_items(scores, labels)
        classes = check_labels(scores, labels, 1).classes
        counts = KeptType("counts", (2, classes, classes), persistent=True)
        return Signature((BlobType((1, 1, 1, 3)),), kept=() if self.reset else (counts,))

    def _index(self, xp: ArrayNamespace, labels: Array, classes: int) -> Array:
        """Return the labels as class indices, -1 for those that do not count."""
        if not self.ignore_label:
            return class_index(xp, labels, classes)
        first, *others = self.ignore_label
        for other in others:
            labels = xp.where(xp.trunc(labels) == other, first, labels)
        return class_index(xp, labels, classes, first)

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, (scores, labels) = call.xp, call.bottoms
        shape = ScoreShape.of(scores.shape, 1)
        k = shape.classes
        index = self._index(xp, labels, k).reshape(shape.outer, shape.inner)
        best = k - 1 - xp.argmax(xp.flip(scores.reshape(shape.sizes), 1), axis=1)
        pairs = (index * k + best)[index >= 0]
        counts = xp.bincount(pairs.astype("int64"), minlength=k * k).reshape(k, k)
        if not self.reset:
            kept = call.kept[0]
            counts = counts + kept[0].astype("int64") + kept[1].astype("int64") * CARRY
            kept[0], kept[1] = counts % CARRY, counts // CARRY
        hits, occur, chosen = xp.diagonal(counts), counts.sum(axis=1), counts.sum(axis=0)
        union = occur + chosen - hits
        values = (
            hits.sum() / xp.maximum(counts.sum(), 1),
            (hits / xp.maximum(occur, 1)).sum() / xp.maximum((occur > 0).sum(), 1),
            xp.where(union == 0, 1, hits / xp.maximum(union, 1)).mean(),
        )
        return (xp.stack(values).astype(scores.dtype).reshape(1, 1, 1, 3),)

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        if not self.reset:
            raise g.refuse(
                "counts that go on from pass to pass: an ONNX model has no memory",
                hint="with reset: true the counts are those of one pass",
            )
        scores, labels = bottoms
        k, axes = scores.shape[1], len(scores.shape)
        best = g.op("ArgMax", scores, axis=1, keepdims=1, select_last_index=1)
        index = g.cast(g.reshape(labels, (scores.shape[0], 1, *scores.shape[2:])), "int64")
        ignored_here: Value | None = None
        for value in self.ignore_label:
            ignored = g.op("Equal", index, g.constant(value, "int64"))
            ignored_here = ignored if ignored_here is None else g.op("Or", ignored_here, ignored)
        on_off, depth = g.constant([0.0, 1.0]), g.constant(k, "int64")
        if ignored_here is not None:
            index = g.op("Where", ignored_here, g.constant(0, "int64"), index)
        label_is, best_is = (g.op("OneHot", v, depth, on_off, axis=-1) for v in (index, best))
        if ignored_here is not None:
            weight = g.cast(g.op("Not", ignored_here), "float32")
            last = g.constant([-1], "int64")
            label_is = g.op("Mul", label_is, g.op("Unsqueeze", weight, last))
            best_is = g.op("Mul", best_is, g.op("Unsqueeze", weight, last))
        pixels = g.constant(list(range(axes)), "int64")
        hits, occur, chosen = (
            g.op("ReduceSum", v, pixels, keepdims=0)
            for v in (g.op("Mul", label_is, best_is), label_is, best_is)
        )
        one = g.constant(1.0)
        union = g.op("Sub", g.op("Add", occur, chosen), hits)
        nowhere = g.op("Equal", union, g.constant(0.0))
        present = g.cast(g.op("Greater", occur, g.constant(0.0)), "float32")
        recalls = g.op("Div", hits, g.op("Max", occur, one))
        overlaps = g.op("Where", nowhere, one, g.op("Div", hits, g.op("Max", union, one)))

        def total(v: Value) -> Value:
            found: Value = g.op("ReduceSum", v, keepdims=1)
            return found

        values = (
            g.op("Div", total(hits), g.op("Max", total(occur), one)),
            g.op("Div", total(recalls), g.op("Max", total(present), one)),
            g.op("ReduceMean", overlaps, keepdims=1),
        )
        return (g.reshape(g.op("Concat", *values, axis=0), (1, 1, 1, 3)),)
