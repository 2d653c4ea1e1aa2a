"""Non-maximum suppression: of boxes that overlap, only the best is kept.

Detections go as rows of 7: image, class, score, xmin, ymin, xmax, ymax. There are as many as there
are objects; where the shape of a blob must stay, as in an exported net, rows whose image is -1 fill
it. With nothing found at all there is a row for each image, with -1 for all but its number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from netc.layers.boxes import lower_halves, suppress
from netc.layers.losses import FLT_MIN
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
    exactly,
)

# The values of one detection: image, class, score, xmin, ymin, xmax, ymax.
DETECTION = 7
# The largest float32. A score must be above its negative to count at all.
FLT_MAX = 3.4028235e38


@dataclass(frozen=True, slots=True)
class NmsParam:
    """An `nms_param` message: of boxes that overlap more than the threshold only the best stays.

    Only the `top_k` best boxes are looked at, all if it is not set or negative. With `eta` below 1
    the threshold, while above 0.5, is multiplied by it whenever a box stays. `soft_nms`, of a fork,
    is refused; `theta` belongs to it.
    """

    nms_threshold: float = 0.3
    top_k: int | None = None
    eta: float = 1.0
    soft_nms: bool = False
    theta: float = 0.5

    def check(self, setting: str = "nms_param") -> None:
        """Raise `Refusal` for settings that mean nothing, pointing at `setting` or their own."""
        if self.soft_nms:
            raise Refusal(
                "netc drops boxes that overlap better ones, it does not lower their scores",
                expected="soft_nms: false",
                got="soft_nms: true",
                setting=setting or "soft_nms",
            )
        if not self.nms_threshold >= 0:
            raise Refusal(
                "nms_threshold is negative",
                expected="nms_threshold >= 0",
                got=f"nms_threshold {self.nms_threshold:g}",
                setting=setting or "nms_threshold",
            )
        if not 0 < self.eta <= 1:
            raise Refusal(
                "eta is out of range",
                expected="0 < eta <= 1",
                got=f"eta {self.eta:g}",
                setting=setting or "eta",
            )
        if self.top_k == 0:
            raise Refusal(
                "top_k 0 leaves no box",
                expected="top_k > 0, or -1 for all boxes",
                got="top_k 0",
                setting=setting or "top_k",
            )

    def looked_at(self, boxes: int) -> int:
        """Return how many of the boxes are looked at."""
        return boxes if self.top_k is None or self.top_k < 0 else min(self.top_k, boxes)


def placed(call: ForwardCall, rows: Array, images: int) -> Array:
    """Return the top that holds these detections."""
    xp = call.xp
    if call.out:
        top = call.out[0]
        top[...] = -1
        top[0, 0, : len(rows)] = rows
        return top
    if not len(rows):
        rows = xp.full((images, rows.shape[1]), -1, dtype=rows.dtype)
        rows[:, 0] = xp.arange(images)
    return rows[None, None]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which boxes become detections: by score, then by overlap, then the best of each image.

    `labels` are the classes in the order of the scores' rows. A score must be above `threshold`,
    or, with `inclusive`, at least that. `keep` is the number of detections for each image, negative
    for all.
    """

    nms: NmsParam
    labels: tuple[int, ...]
    threshold: float = -FLT_MAX
    keep: int = -1
    inclusive: bool = False

    def per_image(self, n_boxes: int) -> int:
        """Return how many detections an image with boxes for each class can have at most."""
        most = len(self.labels) * self.nms.looked_at(n_boxes)
        return most if self.keep < 0 else min(self.keep, most)

    def detections(self, call: ForwardCall, boxes: Array, scores: Array) -> Array:
        """Return the top, from boxes (N, 1 or labels, R, 4) and scores (N, labels, R)."""
        return placed(call, self.chosen(call.xp, boxes, scores), len(scores))

    def chosen(self, xp: ArrayNamespace, boxes: Array, scores: Array) -> Array:
        """Return rows of image, class, score, box, from boxes and scores as for `detections`.

        What a box has behind its four numbers goes with it.

        They are in the order of image, class and falling score; of equal scores the first.
        """
        n, count, n_boxes = scores.shape
        counts = scores >= self.threshold if self.inclusive else scores > self.threshold
        scores = xp.where(counts, scores, -xp.inf)
        # Only as many of the best as have a score at all.
        counts = (scores > -xp.inf).sum(axis=2)
        k = min(self.nms.looked_at(n_boxes), int(counts.max()) if counts.size else 0)
        order = xp.argsort(-scores, axis=2, kind="stable")[:, :, :k]
        scores = xp.take_along_axis(scores, order, axis=2)
        which = xp.arange(boxes.shape[1])[None, :, None]
        boxes = boxes[xp.arange(n)[:, None, None], which, order]
        stays = suppress(
            xp,
            boxes[..., :4].reshape(n * count, k, 4),
            (scores > -xp.inf).reshape(n * count, k),
            self.nms.nms_threshold,
            self.nms.eta,
        ).reshape(scores.shape)
        if self.keep >= 0:
            stays = self._best(xp, scores, stays)
        image, label, rank = xp.nonzero(stays)
        rows = xp.empty((len(image), DETECTION - 4 + boxes.shape[-1]), dtype=boxes.dtype)
        rows[:, 0] = image
        rows[:, 1] = xp.asarray(self.labels)[label]
        rows[:, 2] = scores[image, label, rank]
        rows[:, 3:] = boxes[image, label, rank]
        return rows

    def _best(self, xp: ArrayNamespace, scores: Array, stays: Array) -> Array:
        """Return which boxes are among the `keep` best of their image."""
        flat = xp.where(stays, scores, -xp.inf).reshape(len(scores), -1 if scores.size else 0)
        best = xp.argsort(-flat, axis=1, kind="stable")[:, : self.keep]
        chosen = xp.zeros(flat.shape, bool)
        chosen[xp.arange(len(flat))[:, None], best] = True
        return stays & chosen.reshape(stays.shape)

    def lower_check(self, g: OnnxBuilder) -> None:
        """Refuse what ONNX cannot say."""
        if self.nms.eta < 1 and self.nms.nms_threshold > 0.5:
            raise g.refuse(
                "a threshold that changes with each box has no ONNX form",
                hint="nms_param { eta: 1 } keeps the threshold",
            )

    def lower_order(self, g: OnnxBuilder, scores: Value) -> tuple[Value, Value]:
        """Return the k best scores (N, labels, k), sorted, and whose they are."""
        k = self.nms.looked_at(scores.shape[2])
        best, order = g.op("TopK", scores, g.constant([k], "int64"), outputs=2, axis=2)
        return best, order

    def lower(self, g: OnnxBuilder, boxes: Value, scores: Value, *, ordered: bool) -> Value:
        """Return `detections` in ONNX, from sorted boxes (N, labels, k, 4 or more) and scores.

        `ordered` says that no box has its ends in wrong order.
        """
        n, count, k = scores.shape
        rows, width = n * count, boxes.shape[-1]
        boxes, scores = g.reshape(boxes, (rows, k, width)), g.reshape(scores, (rows, 1, k))
        corners = boxes
        if width > 4:
            ends = (g.constant([value], "int64") for value in (0, 4, 2))
            corners = g.op("Slice", boxes, *ends)
        stays = self._lower_stays(g, corners, scores, ordered)
        return self._lower_rows(g, boxes, scores, stays)

    def _exclusive(self, xp: ArrayNamespace) -> float:
        """Return the number that a score must be above, as a float32."""
        if not self.inclusive:
            return self.threshold
        # Not a number so near to 0 that a runtime may take it for 0.
        before = xp.nextafter(xp.float32(self.threshold), xp.float32(-FLT_MAX))
        return min(float(before), self.threshold - FLT_MIN)

    def _lower_stays(self, g: OnnxBuilder, boxes: Value, scores: Value, ordered: bool) -> Value:
        """Return which boxes (rows, k, 4) stay: bools (rows, k)."""
        rows, k = boxes.shape[:2]
        if not ordered:
            # The operator would put the ends of a box in order; here such a box has no area.
            low, high = lower_halves(g, boxes)
            boxes = g.op("Concat", low, g.op("Max", low, high), axis=2)
        chosen = g.op(
            "NonMaxSuppression",
            boxes,
            scores,
            g.constant([k], "int64"),
            g.constant([min(self.nms.nms_threshold, 1.0)]),
            g.constant([self._exclusive(g.xp)]),
        )
        places = g.op("Gather", chosen, g.constant([0, 2], "int64"), axis=1)
        ones = g.op("Gather", chosen, g.constant(1, "int64"), axis=1)  # zeros: the only class
        ones = g.op("Add", ones, g.constant(1, "int64"))
        none = g.op("Expand", g.constant(0, "int64"), g.constant([rows, k], "int64"))
        return g.cast(g.op("ScatterND", none, places, ones), "bool")

    def _lower_rows(self, g: OnnxBuilder, boxes: Value, scores: Value, stays: Value) -> Value:
        """Return the top, given sorted boxes, scores (rows, 1, k) and which of them stay."""
        (rows, k), width = stays.shape, boxes.shape[-1]
        n, in_image = rows // len(self.labels), len(self.labels) * k
        total = rows * k
        nothing = g.constant(total, "int64")
        places = g.constant(g.xp.arange(total).reshape(n, in_image), "int64")
        places = g.op("Where", g.reshape(stays, (n, in_image)), places, nothing)
        if 0 <= self.keep < in_image:
            kept = g.op(
                "Where",
                g.reshape(stays, (n, in_image)),
                g.reshape(scores, (n, in_image)),
                g.constant(-FLT_MAX),
            )
            most = g.constant([self.keep], "int64")
            _, best = g.op("TopK", kept, most, outputs=2, axis=1)
            places = g.op("GatherElements", places, best, axis=1)
        # Places count by image, class and rank; those without a box come last.
        count = BlobType(places.shape).count
        places, _ = g.op(
            "TopK",
            g.reshape(places, (count,)),
            g.constant([count], "int64"),
            outputs=2,
            axis=0,
            largest=0,
        )
        used = g.reshape(g.op("Less", places, nothing), (count, 1))
        places = g.op("Min", places, g.constant(total - 1, "int64"))
        image = g.op("Div", places, g.constant(in_image, "int64"))
        row = g.op("Div", places, g.constant(k, "int64"))
        label = g.op("Gather", g.constant(list(self.labels) * n, "int64"), row, axis=0)
        columns = [g.cast(g.reshape(column, (count, 1)), "float32") for column in (image, label)]
        columns.append(g.op("Gather", g.reshape(scores, (total, 1)), places, axis=0))
        columns.append(g.op("Gather", g.reshape(boxes, (total, width)), places, axis=0))
        found = g.op("Where", used, g.op("Concat", *columns, axis=1), g.constant(-1.0))
        return g.reshape(found, (1, 1, count, DETECTION - 4 + width))


@layer("NonMaximumSuppression", "nms_param", aliases=("NMS",))
@dataclass(frozen=True)
class NonMaximumSuppression(Layer):
    """Detections from boxes and their scores: of boxes that overlap, only the best is kept.

    For each image and class: the boxes with a score above `score_threshold`, of these the `top_k`
    best (all if it is not set), of these in turn each whose overlap, intersection over union, with
    none of those that stay is above `nms_threshold`. With `eta` below 1 the threshold, while above
    0.5, is multiplied by it whenever a box stays.

    Shapes: boxes (N, R, 4), xmin, ymin, xmax, ymax in any unit, scores (N, K, R) -> top
    (1, 1, D, 7), D at most N K min(R, top_k): image, class from 0 on, score, and the box, in the
    order of image, class and falling score. A box whose ends are in wrong order overlaps none.

    Source: netc's own, of what DetectionOutput does with boxes that are decoded.
    """

    nms_threshold: float = 0.3
    top_k: int | None = None
    eta: float = 1.0
    score_threshold: float | None = None

    bottoms: ClassVar[Arity] = exactly(2)
    data_dependent: ClassVar[bool] = True
    pads: ClassVar[bool] = True

    def infer(self, *bottoms: BlobType) -> Signature:
        boxes, scores = bottoms
        if boxes.axes != 3 or boxes.shape[2] != 4:
            raise Refusal(
                "bottom 0 does not hold boxes",
                expected="shape (N, R, 4)",
                got=f"shape {boxes}",
                setting="bottom",
            )
        if scores.axes != 3 or (scores.shape[0], scores.shape[2]) != boxes.shape[:2]:
            n, count, _ = boxes.shape
            raise Refusal(
                "there is not one score for each box and class",
                expected=f"scores of shape ({n}, K, {count})",
                got=f"boxes of shape {boxes}, scores of shape {scores}",
                setting="bottom",
            )
        selection = self._selection(scores.shape)
        selection.nms.check("")
        rows = boxes.shape[0] * selection.per_image(boxes.shape[1])
        return Signature((BlobType((1, 1, rows, DETECTION)),))

    def _selection(self, scores: tuple[int, ...]) -> Selection:
        nms = NmsParam(self.nms_threshold, self.top_k, self.eta)
        threshold = -FLT_MAX if self.score_threshold is None else self.score_threshold
        return Selection(nms, tuple(range(scores[1])), threshold)

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        boxes, scores = call.bottoms
        return (self._selection(scores.shape).detections(call, boxes[:, None], scores),)

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False,) * n_bottoms

    def whole_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False,) * n_bottoms

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        boxes, scores = bottoms
        selection = self._selection(scores.shape)
        selection.lower_check(g)
        scores, order = selection.lower_order(g, scores)
        n, count, k = scores.shape
        places = g.reshape(order, (n, count * k, 1))
        boxes = g.reshape(g.op("GatherND", boxes, places, batch_dims=1), (n, count, k, 4))
        return (selection.lower(g, boxes, scores, ordered=False),)

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        return 2 * bottoms[1].count
