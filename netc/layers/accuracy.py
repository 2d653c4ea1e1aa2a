"""What is read off scores, not trained on: accuracy and the best classes. No gradient passes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from netc.layers.labels import ScoreShape, check_labels, class_index
from netc.layers.losses import lower_labels
from netc.layers.registry import layer
from netc.layers.types import (
    Arity,
    Array,
    ArrayNamespace,
    BlobType,
    ForwardCall,
    Layer,
    OnnxBuilder,
    Refusal,
    Signature,
    Value,
    between,
    exactly,
)


@dataclass(frozen=True)
class Measure(Layer):
    """Base of the types that measure what a net outputs: nothing learns from them.

    They are gone in a deployed net.
    """

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False,) * n_bottoms

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        raise g.refuse(
            "the comparison with the truth has no ONNX form",
            hint="export what is compared with it: the other bottoms of this layer",
        )

    def deployed(self) -> Layer | None:
        return None


@layer("Accuracy", "accuracy_param")
@dataclass(frozen=True)
class Accuracy(Measure):
    """The share of labels whose score is among the `top_k` best along `axis`: the largest ones.

    With `min_is_better` of CaffeWindows they are the smallest, for distances.

    Shapes: scores (N, K, ...), labels (N, ...) -> accuracy (), and with a second top the accuracy
    within each class (K,), 0 for a class that does not occur. Scores equal to that of the label
    count against it, and so does a NaN (in Caffe a NaN score is a hit). 0 where all labels are
    ignored. Raises `Refusal` for a label outside 0..K-1 that is not `ignore_label`.

    Source: BVLC Caffe.
    """

    top_k: int = 1
    axis: int = 1
    ignore_label: int | None = None
    top: tuple[str, ...] = ()
    min_is_better: bool = False

    bottoms: ClassVar[Arity] = exactly(2)
    tops: ClassVar[Arity] = between(1, 2)

    def infer(self, *bottoms: BlobType) -> Signature:
        x, labels = bottoms
        shape = check_labels(x, labels, self.axis)
        if self.top_k > shape.classes:
            raise Refusal(
                "top_k is larger than the number of classes",
                expected=f"top_k <= {shape.classes}",
                got=f"top_k {self.top_k}, scores of shape {x} with the classes on axis {self.axis}",
                setting="top_k",
            )
        return Signature((BlobType(()), BlobType((shape.classes,)))[: self._n_tops])

    @property
    def _n_tops(self) -> int:
        return max(len(self.top), 1)

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, (x, labels) = call.xp, call.bottoms
        shape = ScoreShape.of(x.shape, self.axis)
        index = class_index(xp, labels, shape.classes, self.ignore_label)
        index = index.reshape(shape.outer, 1, shape.inner)
        scores = x.reshape(shape.sizes)
        rivals = self._rivals(xp, scores, xp.maximum(index, 0))
        valid = index[:, 0, :] >= 0
        hits = valid & (rivals < self.top_k)
        tops = [_ratio(xp, hits.sum(), valid.sum(), x)]
        if self._n_tops == 2:
            found, occur = (
                xp.bincount(index[:, 0, :][chosen], minlength=shape.classes)
                for chosen in (hits, valid)
            )
            tops.append(_ratio(xp, found, occur, x))
        return tuple(tops)

    def _rivals(self, xp: ArrayNamespace, scores: Array, index: Array) -> Array:
        """Return how many scores along axis 1 come before that of the label."""
        own = xp.take_along_axis(scores, index, axis=1)
        # "not below" rather than ">=": a NaN counts against the label. The label itself is one.
        behind = scores > own if self.min_is_better else scores < own
        return xp.count_nonzero(~behind, axis=1) - 1

    def _lower_not_behind(self, g: OnnxBuilder, x: Value, index: Value, axis: int) -> Value:
        """Return which scores do not come behind that of the label, itself among them."""
        own = g.op("GatherElements", x, index, axis=axis)
        found: Value = g.op("Not", g.op("Greater" if self.min_is_better else "Less", x, own))
        return found

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        x, labels = bottoms
        axis = self.axis % len(x.shape)
        one_each = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
        index, counts = lower_labels(g, labels, one_each, self.ignore_label)
        not_behind = g.cast(self._lower_not_behind(g, x, index, axis), "float32")
        rivals = g.op("ReduceSum", not_behind, g.constant([axis], "int64"), keepdims=1)
        hits = g.op("Less", rivals, g.constant(self.top_k + 1.0))
        if counts is not None:
            hits = g.op("And", hits, counts)
        hits = g.cast(hits, "float32")
        if counts is None:
            tops = [g.op("ReduceMean", hits, keepdims=0)]
        else:
            weights = g.cast(counts, "float32")
            total, counted = (g.op("ReduceSum", v, keepdims=0) for v in (hits, weights))
            tops = [g.op("Div", total, g.op("Max", counted, g.constant(1.0)))]
        if self._n_tops == 2:
            tops.append(self._lower_of_class(g, index, hits, counts, x.shape[axis]))
        return tuple(tops)

    @staticmethod
    def _lower_of_class(
        g: OnnxBuilder, index: Value, hits: Value, counts: Value | None, classes: int
    ) -> Value:
        """Return the accuracy within each class, from one-hot labels."""
        on_off = g.constant([0.0, 1.0])
        belongs = g.op("OneHot", index, g.constant(classes, "int64"), on_off, axis=-1)
        column = g.constant([-1], "int64")
        if counts is not None:
            weights = g.op("Unsqueeze", g.cast(counts, "float32"), column)
            belongs = g.op("Mul", belongs, weights)
        all_but_last = g.constant(list(range(len(index.shape))), "int64")
        hit = g.op("Mul", belongs, g.op("Unsqueeze", hits, column))
        total, counted = (g.op("ReduceSum", v, all_but_last, keepdims=0) for v in (hit, belongs))
        share: Value = g.op("Div", total, g.op("Max", counted, g.constant(1.0)))
        return share


def _ratio(xp: ArrayNamespace, part: Array, whole: Array, like: Array) -> Array:
    """Return part / whole in the dtype of `like`, 0 where the whole is 0."""
    return part.astype(like.dtype) / xp.maximum(whole, 1).astype(like.dtype)


@layer("EltwiseAccuracy", "eltwise_accuracy_param")
@dataclass(frozen=True)
class EltwiseAccuracy(Accuracy):
    """The share of pixels whose label's score is among the `top_k` best of the channels.

    Shapes: scores (N, K, H, W), labels (N, 1, H, W) -> accuracy (). Among equal scores the larger
    class comes first, as in the fork; otherwise as Accuracy. 0 where all labels are ignored (in the
    fork NaN).

    Source: the fork of DeconvNet.
    """

    axis: int = field(default=1, init=False)
    min_is_better: bool = field(default=False, init=False)

    tops: ClassVar[Arity] = exactly(1)

    def infer(self, *bottoms: BlobType) -> Signature:
        x, labels = bottoms
        if x.axes != 4 or labels.shape != (x.shape[0], 1, *x.shape[2:]):
            raise Refusal(
                "there is not one label for each pixel",
                expected="scores (N, K, H, W) and labels (N, 1, H, W)",
                got=f"scores of shape {x}, labels of shape {labels}",
                setting="bottom",
            )
        return super().infer(x, labels)

    def _rivals(self, xp: ArrayNamespace, scores: Array, index: Array) -> Array:
        own = xp.take_along_axis(scores, index, axis=1)
        classes = xp.arange(scores.shape[1]).reshape(-1, 1)
        behind = (scores < own) | ((scores == own) & (classes <= index))
        return xp.count_nonzero(~behind, axis=1)

    def _lower_not_behind(self, g: OnnxBuilder, x: Value, index: Value, axis: int) -> Value:
        own = g.op("GatherElements", x, index, axis=axis)
        classes = g.constant(g.xp.arange(x.shape[1]).reshape(-1, 1, 1), "int64")
        smaller = g.op("And", g.op("Equal", x, own), g.op("Less", classes, index))
        found: Value = g.op("Not", g.op("Or", g.op("Less", x, own), smaller))
        return found


@layer("ArgMax", "argmax_param")
@dataclass(frozen=True)
class ArgMax(Layer):
    """The `top_k` largest values of each item, or along `axis`, the largest first.

    Among equal values the larger index comes first, as in Caffe. Shapes: bottom (N, ...) -> indices
    into the flattened item (N, 1, k), with 4 axes (N, 1, k, 1); `out_max_val` adds the values as
    a second channel (N, 2, k). With `axis`: the bottom's shape with k on that axis, and either
    indices or, with `out_max_val`, values.

    Source: BVLC Caffe.
    """

    out_max_val: bool = False
    top_k: int = 1
    axis: int | None = None

    def infer(self, *bottoms: BlobType) -> Signature:
        x = bottoms[0]
        if not x.axes:
            raise Refusal(
                "the bottom is a single number", expected="at least 1 axis", got=f"shape {x}"
            )
        axis = None if self.axis is None else x.axis(self.axis)
        size = x.span(1) if axis is None else x.shape[axis]
        if not 1 <= self.top_k <= size:
            raise Refusal(
                "top_k is out of range",
                expected=f"1 <= top_k <= {size}, the number of values "
                + ("of an item" if axis is None else f"along axis {axis}"),
                got=f"top_k {self.top_k}, bottom of shape {x}",
                setting="top_k",
            )
        if axis is not None:
            return Signature((BlobType((*x.shape[:axis], self.top_k, *x.shape[axis + 1 :])),))
        channels = 2 if self.out_max_val else 1
        rest = (1,) * (x.axes - 3)
        return Signature((BlobType((x.shape[0], channels, self.top_k, *rest)),))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, x = call.xp, call.bottoms[0]
        if self.axis is not None:
            index = _largest(xp, x, self.top_k, self.axis)
            if self.out_max_val:
                return (xp.take_along_axis(x, index, axis=self.axis),)
            return (index.astype(x.dtype),)
        items = x.reshape(len(x), BlobType(x.shape).span(1))
        index = _largest(xp, items, self.top_k, 1)
        parts = [index.astype(x.dtype)]
        if self.out_max_val:
            parts.append(xp.take_along_axis(items, index, axis=1))
        return (xp.stack(parts, axis=1).reshape(self.infer(BlobType(x.shape)).tops[0].shape),)

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False,)

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        x = bottoms[0]
        top = self.infer(BlobType(x.shape)).tops[0]
        if self.axis is not None:
            index, values = self._lower_largest(g, x, self.axis % len(x.shape))
            return (index if values is None else values,)
        items = g.reshape(x, (x.shape[0], BlobType(x.shape).span(1)))
        index, values = self._lower_largest(g, items, 1)
        y = index if values is None else g.op("Concat", index, values, axis=1)
        return (g.reshape(y, top.shape),)

    def _lower_largest(self, g: OnnxBuilder, x: Value, axis: int) -> tuple[Value, Value | None]:
        """Return the indices of the largest values along an axis, and the values if asked for."""
        if self.top_k == 1:
            index = g.op("ArgMax", x, axis=axis, keepdims=1, select_last_index=1)
            values = g.op("GatherElements", x, index, axis=axis) if self.out_max_val else None
        else:
            # TopK prefers the smaller index among equal values: look at the axis backwards.
            bounds = ([-1], [-x.shape[axis] - 1], [axis], [-1])
            backwards = g.op("Slice", x, *(g.constant(b, "int64") for b in bounds))
            count = g.constant([self.top_k], "int64")
            values, index = g.op("TopK", backwards, count, outputs=2, axis=axis)
            index = g.op("Sub", g.constant(x.shape[axis] - 1, "int64"), index)
        return g.cast(index, "float32"), values if self.out_max_val else None


def _largest(xp: ArrayNamespace, x: Array, k: int, axis: int) -> Array:
    """Return the indices of the k largest values along `axis`, later ones first among equals."""
    last = x.shape[axis] - 1
    backwards = xp.flip(x, axis)
    if k == 1:
        return last - xp.argmax(backwards, axis=axis, keepdims=True)
    order = xp.argsort(-backwards, axis=axis, kind="stable")
    first = [slice(None)] * x.ndim
    first[axis] = slice(k)
    return last - order[tuple(first)]
