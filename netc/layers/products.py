"""Products and distances of vectors, and the largest of several linear pieces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from netc.layers.fillers import Filler
from netc.layers.innerproduct import InnerProduct
from netc.layers.labels import class_index
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
    ParamType,
    Phase,
    Reads,
    Refusal,
    Signature,
    Value,
    between,
    exactly,
)

# Types whose work needs a number per item, output and input go through a few items at a time, so
# that these numbers fit in the cache.
BLOCK_NUMBERS = 1 << 19


def _blocks(items: int, per_item: int) -> Iterator[slice]:
    """Yield slices of the items: as many as BLOCK_NUMBERS allows, but at least one."""
    step = max(1, BLOCK_NUMBERS // max(1, per_item))
    for start in range(0, items, step):
        yield slice(start, start + step)


@layer("MatMul", "matmul_param")
@dataclass(frozen=True)
class MatMul(Layer):
    """y = a b, the matrix product over the last two axes of the bottoms, each perhaps transposed.

    Shapes: a (..., M, K), or (..., K, M) with `transpose_a`; b (..., K, N), or (..., N, K) with
    `transpose_b`; the axes before are the same in both -> top (..., M, N).

    Source: netc's own, as the operator of ONNX.
    """

    transpose_a: bool = False
    transpose_b: bool = False

    bottoms: ClassVar[Arity] = exactly(2)

    def infer(self, *bottoms: BlobType) -> Signature:
        a, b = bottoms
        if a.axes < 2 or a.axes != b.axes or a.shape[:-2] != b.shape[:-2]:
            raise Refusal(
                "the bottoms are not two batches of matrices",
                expected="two or more axes each, the same but for the last two",
                got=f"shapes {a} and {b}",
                setting="bottom",
            )
        rows, inner = a.shape[:-3:-1] if self.transpose_a else a.shape[-2:]
        depth, columns = b.shape[:-3:-1] if self.transpose_b else b.shape[-2:]
        if inner != depth:
            raise Refusal(
                "the matrices cannot be multiplied",
                expected="as many columns in the first as rows in the second",
                got=f"{inner} columns, {depth} rows: shapes {a} and {b}",
                hint="transpose_a and transpose_b swap the last two axes",
                setting="bottom",
            )
        return Signature((BlobType((*a.shape[:-2], rows, columns)),))

    @staticmethod
    def _turned(x: Array, turn: bool) -> Array:
        return x.swapaxes(-1, -2) if turn else x

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        a, b = call.bottoms
        a, b = self._turned(a, self.transpose_a), self._turned(b, self.transpose_b)
        return (call.xp.matmul(a, b, out=call.out[0]),)

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        xp, (a, b), dy = call.xp, call.bottoms, call.top_diffs[0]
        da = db = None
        if call.wants_bottoms[0]:
            da = xp.matmul(dy, self._turned(b, not self.transpose_b))
            da = self._turned(da, self.transpose_a)
        if call.wants_bottoms[1]:
            db = xp.matmul(self._turned(a, not self.transpose_a), dy)
            db = self._turned(db, self.transpose_b)
        return Gradients((da, db))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        axes = len(bottoms[0].shape)
        order = [*range(axes - 2), axes - 1, axes - 2]
        return (
            g.op(
                "MatMul",
                *(
                    g.op("Transpose", x, perm=order) if turn else x
                    for x, turn in zip(bottoms, (self.transpose_a, self.transpose_b), strict=True)
                ),
            ),
        )

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        depth = bottoms[0].shape[-2 if self.transpose_a else -1]
        return signature.tops[0].count * depth


@layer("Maxout", "maxout_param")
@dataclass(frozen=True)
class Maxout(Layer):
    """y = the largest of each `pieces` neighbours along `axis`.

    Behind an InnerProduct or Convolution with pieces * C outputs this is a convex function of
    `pieces` linear ones for each of C units. Of equal values the first has the gradient.

    Shapes: (N, pieces * C, ...) -> (N, C, ...) for axis 1.
    Source: Goodfellow et al., "Maxout networks", ICML 2013.
    """

    pieces: int = 2
    axis: int = 1

    def infer(self, *bottoms: BlobType) -> Signature:
        x = bottoms[0]
        axis = x.axis(self.axis)
        if not x.axes or self.pieces < 1 or x.shape[axis] % self.pieces:
            raise Refusal(
                f"pieces does not divide axis {axis}",
                expected=f"pieces >= 1, a divisor of the size of axis {axis}",
                got=f"pieces {self.pieces}, bottom of shape {x}",
                setting="pieces",
            )
        top = BlobType((*x.shape[:axis], x.shape[axis] // self.pieces, *x.shape[axis + 1 :]))
        return Signature((top,), kept=(KeptType("winner", top.shape, "int32"),))

    def _split(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        """Return the shape with an axis for the pieces, and which one that is."""
        axis = BlobType(shape).axis(self.axis)
        size = shape[axis] // self.pieces
        return (*shape[:axis], size, self.pieces, *shape[axis + 1 :]), axis + 1

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, x = call.xp, call.bottoms[0]
        shape, axis = self._split(x.shape)
        pieces = x.reshape(shape)
        call.kept[0][...] = pieces.argmax(axis=axis)
        return (xp.max(pieces, axis=axis, out=call.out[0]),)

    def backward_reads(self) -> Reads:
        return Reads.NOTHING

    def backward(self, call: BackwardCall) -> Gradients:
        xp, dy, shape = call.xp, call.top_diffs[0], call.bottoms[0].shape
        wide, axis = self._split(shape)
        numbers = xp.arange(self.pieces).reshape(-1, *[1] * (len(wide) - axis - 1))
        won = xp.expand_dims(call.kept[0], axis) == numbers
        return Gradients(((xp.expand_dims(dy, axis) * won).reshape(shape),))

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        shape, axis = self._split(bottoms[0].shape)
        pieces = g.reshape(bottoms[0], shape)
        if g.opset >= 18:
            return (g.op("ReduceMax", pieces, g.constant([axis], "int64"), keepdims=0),)
        return (g.op("ReduceMax", pieces, axes=[axis], keepdims=0),)


@layer("DropConnect", "dropconnect_param")
@dataclass(frozen=True)
class DropConnect(InnerProduct):
    """An InnerProduct in which each weight is dropped by chance, for each item anew.

    TRAIN: y = x (m * W)^T / (1 - dropconnect_ratio) + b, where each element of the mask m is 0 with
    probability dropconnect_ratio and 1 otherwise. TEST: y = x W^T + b, the mean of the former. The
    bias is never dropped. The masks take as much memory as there are items times weights, a byte
    each.

    Shapes: bottom (..., K...) -> top (..., num_output); params as those of InnerProduct.
    Source: Wan et al., "Regularization of neural networks using DropConnect", ICML 2013; in the
    form that scales while training, with the mean where they sample in phase TEST.
    """

    dropconnect_ratio: float = 0.5
    phase: Phase = Phase.TRAIN

    bottoms: ClassVar[Arity] = exactly(1)
    leftovers: ClassVar[tuple[str, ...]] = ()

    def infer(self, *bottoms: BlobType) -> Signature:
        signature = super().infer(*bottoms)
        if not 0 <= self.dropconnect_ratio < 1:
            raise Refusal(
                "dropconnect_ratio is not a probability below 1",
                expected="0 <= dropconnect_ratio < 1",
                got=f"{self.dropconnect_ratio:g}",
                setting="dropconnect_ratio",
            )
        if self.phase is Phase.TEST:
            return signature
        items = bottoms[0].span(0, bottoms[0].axis(self.axis))
        mask = KeptType("mask", (items, *signature.params[0].shape), "bool")
        return Signature(signature.tops, signature.params, (mask,))

    @property
    def _factor(self) -> float:
        return 1 / (1 - self.dropconnect_ratio)

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        if self.phase is Phase.TEST:
            return super().forward(call)
        xp, weight, mask = call.xp, call.params[0], call.kept[0]
        x, rng = self._matrix(call.bottoms[0]), call.random()
        y = call.out[0].reshape(len(x), self.num_output)
        for some in _blocks(len(x), weight.size):
            draws = rng.random(mask[some].shape, dtype="float32")
            mask[some] = xp.asarray(draws >= self.dropconnect_ratio)
            masked = mask[some] * weight
            matrix = masked.swapaxes(1, 2) if self.transpose else masked
            y[some] = xp.matmul(matrix, x[some][:, :, None])[:, :, 0]
        y *= self._factor
        if self.bias_term:
            y += call.params[1]
        return (y.reshape(call.out[0].shape),)

    def backward(self, call: BackwardCall) -> Gradients:
        if self.phase is Phase.TEST:
            return super().backward(call)
        xp, weight, mask = call.xp, call.params[0], call.kept[0]
        x = self._matrix(call.bottoms[0])
        dy = call.top_diffs[0].reshape(len(x), self.num_output)
        dx = xp.empty(x.shape, dy.dtype) if call.wants_bottoms[0] else None
        dw = xp.zeros(weight.shape, dy.dtype) if call.wants_params[0] else None
        db = dy.sum(axis=0) if self.bias_term and call.wants_params[1] else None
        dy = dy * self._factor
        for some in _blocks(len(x), weight.size):
            if dx is not None:
                masked = mask[some] * weight
                matrix = masked if self.transpose else masked.swapaxes(1, 2)
                dx[some] = xp.matmul(matrix, dy[some][:, :, None])[:, :, 0]
            if dw is not None:
                rows, columns = (x, dy) if self.transpose else (dy, x)
                outer = rows[some][:, :, None] * columns[some][:, None, :]
                outer *= mask[some]
                dw += outer.sum(axis=0)
        dx = None if dx is None else dx.reshape(call.bottoms[0].shape)
        return Gradients((dx,), (dw, db) if self.bias_term else (dw,))


@layer("InnerDistance", "inner_distance_param")
@dataclass(frozen=True)
class InnerDistance(Layer):
    """The distance of each item to each of `num_output` points: InnerProduct's place, no product.

    L2 is the sum of squares, L1 the sum of absolute values of the differences. The points are
    learned, or the items of bottom 1. With `normalize`, learned points are scaled to length 1 first
    (a length of 0.001 is added in squares). With `update_center_only` the last bottom holds labels,
    and a point is moved only by the items with its label. The forks' layer reads `bias_term` and
    `bias_filler`, but has no bias.

    Shapes: bottom (..., K...) with the axes from `axis` on as K values, and perhaps points (P,
    K...) and labels -> top (..., num_output), or (..., P). Param (num_output, K), or (K,
    num_output) with `transpose`, unless bottom 1 gives the points.
    Source: the face recognition fork CaffeWindows. It stores the points normalised and takes the
    gradient of those; here the stored ones stay what they are, and the gradient is theirs.
    """

    num_output: int = 0
    bias_term: bool = True
    weight_filler: Filler = field(default_factory=Filler)
    bias_filler: Filler = field(default_factory=Filler)
    axis: int = 1
    transpose: bool = False
    distance_type: str = "L2"
    normalize: bool = False
    update_center_only: bool = False

    bottoms: ClassVar[Arity] = between(1, 3)

    #: What is added to the squared length of a point before it is divided by its root.
    _FLOOR: ClassVar[float] = 1e-6

    def infer(self, *bottoms: BlobType) -> Signature:
        x = bottoms[0]
        axis = x.axis(self.axis)
        size, points = x.span(axis), self.num_output
        if self.distance_type not in ("L1", "L2"):
            raise Refusal(
                f"unknown distance_type '{self.distance_type}'",
                expected="L1 or L2",
                got=self.distance_type,
                setting="distance_type",
            )
        if len(bottoms) == (1 if self.update_center_only else 3):
            raise Refusal(
                "the labels are missing" if self.update_center_only else "nobody reads the labels",
                expected="labels as the last bottom, with update_center_only and not without",
                got=f"{len(bottoms)} bottoms, update_center_only {self.update_center_only}",
                setting="update_center_only",
            )
        if self.update_center_only and bottoms[-1].count != x.span(0, axis):
            raise Refusal(
                "there is not one label for each item",
                expected=f"{x.span(0, axis)} labels",
                got=f"labels of shape {bottoms[-1]}, bottom of shape {x}",
                setting="bottom",
            )
        if self._given(len(bottoms)):
            other = bottoms[1]
            if not other.axes or other.span(1) != size:
                raise Refusal(
                    "the points have not as many values as the items",
                    expected=f"bottom 1 of shape (P, {size}), or any with {size} values for each",
                    got=f"bottom 1 of shape {other}, bottom 0 of shape {x}",
                    setting="bottom",
                )
            points = other.shape[0]
        elif points <= 0:
            raise Refusal(
                "num_output is missing",
                expected="num_output > 0, or the points as bottom 1",
                got=f"num_output {points}",
                hint="add inner_distance_param { num_output: N }",
                setting="num_output",
            )
        top = BlobType((*x.shape[:axis], points))
        if self._given(len(bottoms)):
            return Signature((top,))
        shape = (size, points) if self.transpose else (points, size)
        return Signature((top,), (ParamType(shape, self.weight_filler),))

    def _given(self, n_bottoms: int) -> bool:
        """Say whether bottom 1 holds the points."""
        return n_bottoms - self.update_center_only == 2

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (True,) * (n_bottoms - self.update_center_only) + (False,) * self.update_center_only

    def _operands(self, call: ForwardCall | BackwardCall) -> tuple[Array, Array, Array | None]:
        """Return items (M, K), points (P, K), and what the stored points were divided by."""
        xp, x = call.xp, BlobType(call.bottoms[0].shape)
        axis = x.axis(self.axis)
        items = call.bottoms[0].reshape(x.span(0, axis), x.span(axis))
        if self._given(len(call.bottoms)):
            points = call.bottoms[1]
            return items, points.reshape(len(points), items.shape[1]), None
        points = call.params[0].T if self.transpose else call.params[0]
        if not self.normalize:
            return items, points, None
        length = xp.sqrt((points * points).sum(axis=1, keepdims=True) + self._FLOOR)
        return items, points / length, length

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp = call.xp
        items, points, _ = self._operands(call)
        y = call.out[0].reshape(len(items), len(points))
        for some in _blocks(len(items), points.size):
            difference = items[some][:, None, :] - points
            # Not by the squares and the product, which would cancel for points that lie close.
            if self.distance_type == "L2":
                difference *= difference
            else:
                xp.abs(difference, out=difference)
            y[some] = difference.sum(axis=2)
        return (y.reshape(call.out[0].shape),)

    def backward_reads(self) -> Reads:
        return Reads.BOTTOM

    def backward(self, call: BackwardCall) -> Gradients:
        xp = call.xp
        items, points, length = self._operands(call)
        dy = call.top_diffs[0].reshape(len(items), len(points))
        own = dy
        if self.update_center_only:
            labels = class_index(xp, call.bottoms[-1].reshape(-1), len(points))
            own = dy * (labels[:, None] == xp.arange(len(points)))
        given = self._given(len(call.bottoms))
        wants_points = call.wants_bottoms[1] if given else call.wants_params[0]
        if self.distance_type == "L2":
            dx = 2 * (items * dy.sum(axis=1, keepdims=True) - dy @ points)
            dp = 2 * (points * own.sum(axis=0)[:, None] - own.T @ items)
        else:
            dx, dp = xp.empty(items.shape, dy.dtype), xp.zeros(points.shape, dy.dtype)
            for some in _blocks(len(items), points.size):
                sign = xp.sign(items[some][:, None, :] - points)
                dx[some] = (sign * dy[some][:, :, None]).sum(axis=1)
                dp -= (sign * own[some][:, :, None]).sum(axis=0)
        if length is not None:
            dp = (dp - points * (dp * points).sum(axis=1, keepdims=True)) / length
        more: tuple[Array | None, ...] = (None,) * (len(call.bottoms) - 1)
        params: tuple[Array | None, ...] = ()
        if given:
            more = (dp.reshape(call.bottoms[1].shape) if wants_points else None, *more[1:])
        else:
            params = ((dp.T if self.transpose else dp) if wants_points else None,)
        return Gradients((dx.reshape(call.bottoms[0].shape), *more), params)

    def lower(
        self, g: OnnxBuilder, bottoms: tuple[Value, ...], params: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        x = BlobType(bottoms[0].shape)
        axis = x.axis(self.axis)
        points: Any
        if self._given(len(bottoms)):
            points = g.reshape(bottoms[1], (bottoms[1].shape[0], x.span(axis)))
        else:
            points = params[0]
            if self.transpose:
                points = g.op("Transpose", points, perm=[1, 0])
            if self.normalize:
                squares = _reduce_sum(g, g.op("Mul", points, points), 1, keep=1)
                length = g.op("Sqrt", g.op("Add", squares, g.constant(self._FLOOR)))
                points = g.op("Div", points, length)
        items = g.reshape(bottoms[0], (*x.shape[:axis], 1, x.span(axis)))
        difference = g.op("Sub", items, points)
        if self.distance_type == "L2":
            part = g.op("Mul", difference, difference)
        else:
            part = g.op("Abs", difference)
        return (_reduce_sum(g, part, axis + 1),)

    def cost(self, bottoms: tuple[BlobType, ...], signature: Signature) -> int:
        return bottoms[0].count * signature.tops[0].shape[-1]


def _reduce_sum(g: OnnxBuilder, x: Value, axis: int, keep: int = 0) -> Any:
    return g.op("ReduceSum", x, g.constant([axis], "int64"), keepdims=keep)
