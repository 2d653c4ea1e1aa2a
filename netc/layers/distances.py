"""Losses of CaffeWindows on distances from items to classes, as InnerDistance gives them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from netc.layers.labels import check_one_label, class_index
from netc.layers.losses import SCALAR, Loss, lower_labels
from netc.layers.registry import layer
from netc.layers.types import (
    Arity,
    Array,
    ArrayNamespace,
    BackwardCall,
    BlobType,
    ForwardCall,
    Gradients,
    KeptType,
    OnnxBuilder,
    Reads,
    Refusal,
    Signature,
    Value,
    between,
)

# The part of the old value in the running mean that `add_intra_mae` adds to a margin.
MEMORY = 0.99


@dataclass(frozen=True)
class DistanceLoss(Loss):
    """Base of the two losses: distances (N, K), and one label for each of the N items.

    Shapes: distances (N, ...), K for each item, labels (N,) -> loss (), and if asked for the means
    of the distances to the own class and to the others (2,).
    """

    top: tuple[str, ...] = ()

    bottoms: ClassVar[Arity] = between(2, 3)
    tops: ClassVar[Arity] = between(1, 2)

    def check(self, bottoms: tuple[BlobType, ...], third: str) -> tuple[int, int]:
        """Refuse bottoms that do not fit; return the number of items and of classes."""
        distances, labels = bottoms[:2]
        n, classes = check_one_label(distances, labels, what="distances"), distances.span(1)
        if classes < 2:
            raise Refusal(
                "there is no other class",
                expected="distances to 2 classes or more",
                got=f"distances of shape {distances}",
                setting="bottom",
            )
        wanted = n * classes if third == "distances" else n
        if len(bottoms) > 2 and bottoms[2].count != wanted:
            raise Refusal(
                f"bottom 2 does not hold {third}",
                expected=f"{wanted} values",
                got=f"shape {bottoms[2]}",
                setting="bottom",
            )
        return n, classes

    def whole_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False, True, False)[:n_bottoms]

    @staticmethod
    def _own(xp: ArrayNamespace, distances: Array, labels: Array) -> Array:
        """Return which distance is that to the item's own class, as bools (N, K)."""
        index = class_index(xp, labels.reshape(len(distances)), distances.shape[1])
        return xp.arange(distances.shape[1]) == index[:, None]

    def _tops(self, loss: Array, means: list[Array], xp: ArrayNamespace) -> tuple[Array, ...]:
        return (loss, xp.stack(means))[: max(len(self.top), 1)]

    @staticmethod
    def _rows(bottom: Array) -> Array:
        return bottom.reshape(len(bottom), BlobType(bottom.shape).span(1))

    def lower_own(self, g: OnnxBuilder, bottoms: tuple[Value, ...]) -> tuple[Value, Value, Value]:
        """Return the distances (N, K), those to the own class (N, 1), and which those are."""
        n, classes = bottoms[0].shape[0], BlobType(bottoms[0].shape).span(1)
        distances = g.reshape(bottoms[0], (n, classes))
        index, _ = lower_labels(g, bottoms[1], (n, 1), None)
        own = g.op("GatherElements", distances, index, axis=1)
        is_own = g.op("Equal", index, g.constant(g.xp.arange(classes)[None], "int64"))
        return distances, own, is_own

    @staticmethod
    def lower_sum(g: OnnxBuilder, costs: Value) -> Value:
        """Return the sum over classes of the mean over items of costs (N, K)."""
        mean: Value = g.op("ReduceMean", costs, keepdims=0)
        total: Value = g.op("Mul", mean, g.constant(float(costs.shape[1])))
        return total

    def lower_others(self, g: OnnxBuilder, costs: Value, is_own: Value) -> Value:
        """Return the mean over the other classes of costs (N, K)."""
        others = self.lower_sum(g, g.op("Where", is_own, g.constant(0.0), costs))
        mean: Value = g.op("Div", others, g.constant(float(costs.shape[1] - 1)))
        return mean


def _pair(g: OnnxBuilder, first: Value, second: Value) -> Value:
    """Return two numbers as one tensor (2,)."""
    axis = g.constant([0], "int64")
    both: Value = g.op(
        "Concat", g.op("Unsqueeze", first, axis), g.op("Unsqueeze", second, axis), axis=0
    )
    return both


@layer("GeneralTripletLoss", "general_triplet_loss_param")
@dataclass(frozen=True)
class GeneralTripletLoss(DistanceLoss):
    """negative_weight / N * sum of max(d_own + margin - d_other, 0), over items and other classes.

    With `hardest_only` of each item's classes only the one with the largest term counts; with
    `positive_first` an item whose d_own is above `positive_upper_bound` has no terms.

    The slope at d_other is that of the sum. At d_own it is `positive_weight` / N where the item has
    a term or, with `add_center_loss`, in any case; an item that `positive_first` takes out has it
    too. So the own class pulls with one weight, however many classes push.

    Shapes: distances (N, ...), K for each item, labels (N,), and if given a factor for the
    gradients of each item (N,) -> loss (), and if asked for the mean of d_own and that of d_other
    (2,).

    Source: CaffeWindows.
    """

    margin: float = 0.2
    add_center_loss: bool = True
    hardest_only: bool = False
    positive_first: bool = False
    positive_upper_bound: float = 1.0
    positive_weight: float = 1.0
    negative_weight: float = 1.0

    def infer(self, *bottoms: BlobType) -> Signature:
        self.check(bottoms, "one factor for each item")
        return Signature((SCALAR, BlobType((2,)))[: max(len(self.top), 1)])

    def _terms(self, call: ForwardCall | BackwardCall) -> tuple[Array, Array, Array, Array]:
        """Return the terms (N, K), d_own (N, 1), which distances are d_own, and the items out."""
        xp, distances = call.xp, self._rows(call.bottoms[0])
        is_own = self._own(xp, distances, call.bottoms[1])
        own = xp.where(is_own, distances, 0).sum(axis=1, keepdims=True)
        terms = xp.where(is_own, 0, xp.maximum(own + self.margin - distances, 0))
        if self.hardest_only:
            first = xp.arange(terms.shape[1]) == terms.argmax(axis=1)[:, None]
            terms = xp.where(first, terms, 0)
        out = (own > self.positive_upper_bound) & self.positive_first
        return xp.where(out, 0, terms), own, is_own, out

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        terms, own, is_own, _ = self._terms(call)
        n, classes = terms.shape
        others = call.xp.where(is_own, 0, self._rows(call.bottoms[0])).sum()
        means = [own.sum() / max(n, 1), others / (max(n, 1) * (classes - 1))]
        return self._tops(terms.sum() * (abs(self.negative_weight) / max(n, 1)), means, call.xp)

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        xp = call.xp
        terms, _, is_own, out = self._terms(call)
        pulls = (terms > 0).any(axis=1, keepdims=True) | out | self.add_center_loss
        dx = xp.where(terms > 0, -self.negative_weight, 0.0)
        dx = xp.where(is_own & pulls, self.positive_weight, dx).astype(call.bottoms[0].dtype)
        if len(call.bottoms) > 2:
            dx = dx * call.bottoms[2].reshape(len(dx), 1)
        dx = dx * (call.top_diffs[0] / max(len(dx), 1))
        return Gradients((dx.reshape(call.bottoms[0].shape), None, None)[: len(call.bottoms)])

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        distances, own, is_own = self.lower_own(g, bottoms)
        over = g.op("Relu", g.op("Sub", g.op("Add", own, g.constant(self.margin)), distances))
        terms = g.op("Where", is_own, g.constant(0.0), over)
        if self.hardest_only:
            terms = g.op("TopK", terms, g.constant([1], "int64"), outputs=2, axis=1)[0]
        if self.positive_first:
            out = g.op("Greater", own, g.constant(self.positive_upper_bound))
            terms = g.op("Where", out, g.constant(0.0), terms)
        loss = g.op("Mul", self.lower_sum(g, terms), g.constant(abs(self.negative_weight)))
        if len(self.top) < 2:
            return (loss,)
        mean = g.op("ReduceMean", own, keepdims=0)
        return (loss, _pair(g, mean, self.lower_others(g, distances, is_own)))


@layer("GeneralContrastiveLoss", "general_contrastive_loss_param")
@dataclass(frozen=True)
class GeneralContrastiveLoss(DistanceLoss):
    """(sum of own terms + sum of other terms) / N: own classes shall be near, others far.

    The own term of an item is positive_weight * max(d_own - positive_margin, 0), no more than
    `positive_outlier_thresh` of it; each other class nearer than `negative_margin` has the term
    negative_weight * (negative_margin - d), or with `exp_negative_weight` one of exp(-d).

    `max_negative_only`: of an item's other terms only the largest counts. `max_positive_only`: of
    all own terms only the smallest counts, as in the fork in spite of the name. `positive_first`:
    an item whose d_own is above `positive_upper_bound` has no other terms, and its own pulls in any
    case. `add_intra_mae`: negative_margin grows by a running mean of the own terms' distances, at
    most `max_negative_margin`. `normalize_negative` limits the sum of the gradients of the other
    terms to this number times N times positive_weight. `square` is read and has no effect, as in
    the fork; neither has `general_triplet_loss_param`, which its nets leave standing.

    Shapes: distances (N, ...), K for each item, labels (N,), and if given other distances of that
    shape which count in their place, though the gradient is that of bottom 0 -> loss (), and if
    asked for the means of both kinds of distances beyond their margins (2,), with `add_intra_mae`
    and the running mean (3,). Where d_own is above `positive_outlier_thresh` it has no slope.

    Source: CaffeWindows.
    """

    positive_margin: float = 0.0
    negative_margin: float = 1.0
    positive_weight: float = 1.0
    negative_weight: float = 1.0
    normalize_negative: float | None = None
    positive_outlier_thresh: float = 4.0
    square: bool = False
    max_negative_only: bool = False
    max_positive_only: bool = False
    positive_first: bool = False
    positive_upper_bound: float = 1.0
    exp_negative_weight: bool = False
    add_intra_mae: bool = False
    max_negative_margin: float = 1.2

    leftovers: ClassVar[tuple[str, ...]] = ("general_triplet_loss_param",)

    def infer(self, *bottoms: BlobType) -> Signature:
        n, classes = self.check(bottoms, "distances")
        if self.normalize_negative is not None and not self.normalize_negative > 0:
            raise Refusal(
                "normalize_negative is not positive",
                expected="normalize_negative > 0",
                got=f"{self.normalize_negative:g}",
                setting="normalize_negative",
            )
        kept = [KeptType("slope", (n, classes))]
        if self.add_intra_mae:
            kept.append(KeptType("intra_mae", (), persistent=True))
        means = BlobType((3 if self.add_intra_mae else 2,))
        return Signature((SCALAR, means)[: max(len(self.top), 1)], kept=tuple(kept))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp = call.xp
        distances = self._rows(call.bottoms[2 if len(call.bottoms) > 2 else 0])
        is_own = self._own(xp, distances, call.bottoms[1])
        n, classes = distances.shape
        items = max(n, 1)
        margin = self.negative_margin + (call.kept[1] if self.add_intra_mae else 0)
        own = xp.where(is_own, distances, 0).sum(axis=1)
        over = xp.minimum(xp.maximum(own - self.positive_margin, 0), self.positive_outlier_thresh)
        pulls = (own > self.positive_margin) & (own < self.positive_outlier_thresh)
        mean_own = over.sum() / items
        near = (distances < margin) & ~is_own
        short = xp.where(near, margin - distances, 0)
        mean_others = short.sum() / (items * (classes - 1))
        size = xp.where(near, xp.exp(-distances), 0) if self.exp_negative_weight else short
        if self.max_positive_only and n:
            chosen = xp.arange(n) == (over * self.positive_weight).argmin()
            over, pulls = xp.where(chosen, over, 0), pulls & chosen
        if self.max_negative_only:
            first = xp.arange(classes) == size.argmax(axis=1)[:, None]
            near, size = near & first, xp.where(first, size, 0)
        if self.positive_first:
            out = own > self.positive_upper_bound
            near, size = near & ~out[:, None], xp.where(out[:, None], 0, size)
            pulls = pulls | out
        push = xp.where(near, size if self.exp_negative_weight else 1.0, 0) * self.negative_weight
        if self.normalize_negative is not None:
            total = abs(push.sum()) / self.normalize_negative / items
            push = xp.where(total > self.positive_weight, push / xp.maximum(total, 1e-30), push)
        call.kept[0][...] = xp.where(is_own, (pulls * self.positive_weight)[:, None], -push)
        parts = abs(self.positive_weight) * over.sum() + abs(self.negative_weight) * size.sum()
        means = [mean_own, mean_others]
        if self.add_intra_mae:
            running = MEMORY * call.kept[1] + (1 - MEMORY) * mean_own
            call.kept[1][...] = xp.minimum(running, self.max_negative_margin)
            means.append(xp.asarray(call.kept[1], dtype=distances.dtype))
        return self._tops(parts / items, means, xp)

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def backward(self, call: BackwardCall) -> Gradients:
        slope = call.kept[0]
        dx = slope * (call.top_diffs[0] / max(len(slope), 1))
        return Gradients((dx.reshape(call.bottoms[0].shape), None, None)[: len(call.bottoms)])

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        if self.add_intra_mae or self.max_positive_only:
            raise g.refuse(
                "a margin or a choice that depends on other items has no ONNX form",
                hint="without add_intra_mae and max_positive_only there is one",
            )
        distances, own, is_own = self.lower_own(g, (bottoms[2 * (len(bottoms) > 2)], bottoms[1]))
        zero = g.constant(0.0)
        over = g.op("Relu", g.op("Sub", own, g.constant(self.positive_margin)))
        over = g.op("Min", over, g.constant(self.positive_outlier_thresh))
        short = g.op("Relu", g.op("Sub", g.constant(self.negative_margin), distances))
        size = short
        if self.exp_negative_weight:
            near = g.op("Less", distances, g.constant(self.negative_margin))
            size = g.op("Where", near, g.op("Exp", g.op("Neg", distances)), zero)
        size = g.op("Where", is_own, zero, size)
        if self.max_negative_only:
            size = g.op("TopK", size, g.constant([1], "int64"), outputs=2, axis=1)[0]
        if self.positive_first:
            out = g.op("Greater", own, g.constant(self.positive_upper_bound))
            size = g.op("Where", out, zero, size)
        mean = g.op("ReduceMean", over, keepdims=0)
        loss = g.op(
            "Add",
            g.op("Mul", mean, g.constant(abs(self.positive_weight))),
            g.op("Mul", self.lower_sum(g, size), g.constant(abs(self.negative_weight))),
        )
        if len(self.top) < 2:
            return (loss,)
        return (loss, _pair(g, mean, self.lower_others(g, short, is_own)))


@layer("NCALoss", "nca_param")
@dataclass(frozen=True)
class NCALoss(DistanceLoss):
    """(sum of d_own + sum of exp(-d_other)) / N: own classes shall be near, others far.

    With `min_negative_only` of each item's other classes only the nearest counts, of equal ones
    the first. Factors, if given, are divided by their mean, and count for the gradients alone.

    Shapes: distances (N, ...), K for each item, labels (N,), and if given a factor for the
    gradients of each item (N,) -> loss (), and if asked for the mean of d_own and that of d_other
    (2,).

    Source: CaffeWindows, where the loss that is shown adds up from pass to pass, and where the own
    class counts as the nearest other one if it is the class 0 and nearer than the others. Neither
    is so here.
    """

    min_negative_only: bool = False

    def infer(self, *bottoms: BlobType) -> Signature:
        self.check(bottoms, "one factor for each item")
        return Signature((SCALAR, BlobType((2,)))[: max(len(self.top), 1)])

    def _terms(self, call: ForwardCall | BackwardCall) -> tuple[Array, Array, Array]:
        """Return the distances (N, K), the terms exp(-d) that count, and which d are d_own."""
        xp, distances = call.xp, self._rows(call.bottoms[0])
        is_own = self._own(xp, distances, call.bottoms[1])
        counts = ~is_own
        if self.min_negative_only:
            nearest = xp.where(is_own, xp.inf, distances).argmin(axis=1)
            counts = xp.arange(distances.shape[1]) == nearest[:, None]
        return distances, xp.where(counts, xp.exp(-distances), 0), is_own

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        distances, terms, is_own = self._terms(call)
        n, classes = max(len(distances), 1), distances.shape[1]
        own = call.xp.where(is_own, distances, 0).sum()
        others = call.xp.where(is_own, 0, distances).sum()
        means = [own / n, others / (n * (classes - 1))]
        return self._tops((own + terms.sum()) / n, means, call.xp)

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        _, terms, is_own = self._terms(call)
        dx = (is_own - terms) * (call.top_diffs[0] / max(len(terms), 1))
        if len(call.bottoms) > 2:
            factors = call.bottoms[2].reshape(len(dx), 1)
            # Factors that are all 0 have no mean to be divided by.
            dx = dx * (factors * (len(dx) / (factors.sum() or 1)))
        return Gradients((dx.reshape(call.bottoms[0].shape), None, None)[: len(call.bottoms)])

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        distances, own, is_own = self.lower_own(g, bottoms)
        terms = g.op("Where", is_own, g.constant(0.0), g.op("Exp", g.op("Neg", distances)))
        if self.min_negative_only:
            terms = g.op("TopK", terms, g.constant([1], "int64"), outputs=2, axis=1)[0]
        mean = g.op("ReduceMean", own, keepdims=0)
        loss = g.op("Add", mean, self.lower_sum(g, terms))
        if len(self.top) < 2:
            return (loss,)
        return (loss, _pair(g, mean, self.lower_others(g, distances, is_own)))
