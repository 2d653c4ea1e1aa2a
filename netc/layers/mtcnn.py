"""Training for several tasks at once, when an example has the label of one task only.

A batch of MTCNN holds examples of one of three tasks: is it a face, where is its box, where are its
landmarks. What is not known is -1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from netc.layers.labels import check_items
from netc.layers.losses import EuclideanLoss
from netc.layers.registry import layer
from netc.layers.types import (
    Arity,
    Array,
    BackwardCall,
    BlobType,
    ForwardCall,
    Gradients,
    KeptType,
    Layer,
    OnnxBuilder,
    Reads,
    Refusal,
    Signature,
    Value,
    exactly,
)

#: What stands for a target that is not known.
UNKNOWN = -1


@layer("KnownRows")
@dataclass(frozen=True)
class KnownRows(Layer):
    """The rows whose label is known, that is not -1, in their order; behind them rows of zeros.

    Shapes: rows (N, ...), labels (N) or (N, 1) -> both again. The labels behind the known ones are
    0. Gradients go back to the rows that they come from; unknown rows have none. (In MTCNN's code
    these keep the gradient of an earlier batch.)

    Source: the Python layers `cls_Layer` of mtcnn-caffe, after K. Zhang et al., "Joint Face
    Detection and Alignment using Multi-task Cascaded Convolutional Networks", 2016.
    """

    bottoms: ClassVar[Arity] = exactly(2)
    tops: ClassVar[Arity] = exactly(2)

    def infer(self, *bottoms: BlobType) -> Signature:
        rows, labels = bottoms
        count = check_items(rows, labels)
        if labels.count != count:
            raise Refusal(
                "there is not one label for each row",
                expected=f"shape ({count}) or ({count}, 1)",
                got=f"shape {labels}",
                setting="bottom",
            )
        return Signature((rows, labels), kept=(KeptType("from", (count,), "int32"),))

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (True, False)

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, (rows, labels), (source,) = call.xp, call.bottoms, call.kept
        (known,) = xp.nonzero(labels.reshape(-1) != UNKNOWN)
        source[...] = -1
        source[: len(known)] = known
        tops = xp.zeros_like(rows), xp.zeros_like(labels)
        for top, bottom in zip(tops, call.bottoms, strict=True):
            top[: len(known)] = bottom[known]
        return tops

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def backward(self, call: BackwardCall) -> Gradients:
        xp, diff, (source,) = call.xp, call.top_diffs[0], call.kept
        known = source[source >= 0]
        dx = xp.zeros_like(diff)
        dx[known] = diff[: len(known)]
        return Gradients((dx, None))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        rows, labels = bottoms
        count = rows.shape[0]
        places = g.constant(g.xp.arange(count).astype("float32"))
        unknown = g.op("Equal", g.reshape(labels, (count,)), g.constant(float(UNKNOWN)))
        order = g.op("Where", unknown, g.constant(float(count)), places)
        first, _ = g.op(
            "TopK", order, g.constant([count], "int64"), outputs=2, axis=0, largest=0, sorted=1
        )
        source = g.cast(first, "int64")
        tops = []
        for values in bottoms:
            zeros = g.constant(g.xp.zeros((1, *values.shape[1:]), "float32"))
            tops.append(g.op("Gather", g.op("Concat", values, zeros, axis=0), source, axis=0))
        return tuple(tops)


@layer("KnownEuclideanLoss")
@dataclass(frozen=True)
class KnownEuclideanLoss(EuclideanLoss):
    """EuclideanLoss where a target is known, 0 where none is: each then begins with -1.

    Shapes: a (N, ...), targets (N, ...) with as many values for each item -> loss (). If one target
    of a batch is known, all items count, unknown ones with the targets that stand there. Only the
    predictions have a gradient.

    Source: the Python layer `regression_Layer` of mtcnn-caffe.
    """

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (True, False)

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        (loss,) = super().forward(call)
        return (loss * self._known(call.bottoms[1]),)

    @staticmethod
    def _known(targets: Array) -> Array:
        """Return 1 where a target is known, otherwise 0, of the targets' dtype."""
        first = targets.reshape(len(targets), BlobType(targets.shape).span(1))[:, 0]
        return (first != UNKNOWN).any().astype(targets.dtype)

    def backward(self, call: BackwardCall) -> Gradients:
        dx, _ = super().backward(call).bottoms
        assert dx is not None
        return Gradients((dx * self._known(call.bottoms[1]), None))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        (loss,) = super().lower(g, bottoms, params)
        count = bottoms[1].shape[0]
        targets = g.reshape(bottoms[1], (count, BlobType(bottoms[1].shape).span(1)))
        first = g.op("Gather", targets, g.constant(0, "int64"), axis=1)
        unknown = g.cast(g.op("Equal", first, g.constant(float(UNKNOWN))), "float32")
        none = g.op("ReduceMin", unknown, keepdims=0)
        return (g.op("Mul", loss, g.op("Sub", g.constant(1.0), none)),)
