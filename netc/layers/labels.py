"""Class labels: how scores and labels fit together, and labels as class indices."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from netc.layers.types import Array, ArrayNamespace, BlobType, Refusal


class Normalization(enum.Enum):
    """What a loss is divided by: all labels, those not ignored, the batch size, or nothing."""

    FULL = 0
    VALID = 1
    BATCH_SIZE = 2
    NONE = 3


class Divisor(enum.Enum):
    """What a loss is divided by: `Normalization` of the other losses, and a number of the text."""

    FULL = 0
    VALID = 1
    BATCH_SIZE = 2
    NONE = 3
    PRE_FIXED = 20001


@dataclass(frozen=True, slots=True)
class LossParam:
    """A `loss_param` message as a whole."""

    ignore_label: int | None = None
    normalization: Normalization | None = None
    normalize: bool | None = None


@dataclass(frozen=True, slots=True)
class ScoreShape:
    """Scores seen as (outer, classes, inner): the axes before the class axis, it, those after."""

    outer: int
    classes: int
    inner: int

    @classmethod
    def of(cls, shape: tuple[int, ...], axis: int) -> ScoreShape:
        """Return the three sizes for scores of `shape` with the classes on `axis`."""
        x = BlobType(shape)
        axis %= x.axes
        return cls(x.span(0, axis), shape[axis], x.span(axis + 1))

    @property
    def labels(self) -> int:
        """How many labels the scores want: one for each vector of scores."""
        return self.outer * self.inner

    @property
    def sizes(self) -> tuple[int, int, int]:
        """The shape (outer, classes, inner)."""
        return self.outer, self.classes, self.inner


def class_axis(x: BlobType, axis: int) -> int:
    """Return the axis of the classes counted from the front; refuse one that holds no classes."""
    axis = x.axis(axis)
    if not x.axes or x.shape[axis] == 0:
        raise Refusal(
            "there are no classes to choose from",
            expected=f"at least 1 value along axis {axis}",
            got=f"bottom of shape {x}",
            setting="axis",
        )
    return axis


def check_labels(scores: BlobType, labels: BlobType, axis: int) -> ScoreShape:
    """Refuse labels that are not one for each vector of scores along `axis`."""
    axis = class_axis(scores, axis)
    shape = ScoreShape.of(scores.shape, axis)
    if labels.count != shape.labels:
        fitting = BlobType((*scores.shape[:axis], *scores.shape[axis + 1 :]))
        if labels.count == scores.count:
            hint = "a label is the index of a class, not a vector with a value for each class"
        elif scores.axes > 2 and labels.count == scores.shape[0]:
            hint = "the scores still have spatial axes: is a global Pooling layer missing?"
        else:
            hint = "scores (N, C, H, W) with the classes on axis 1 want labels (N, H, W)"
        raise Refusal(
            "scores and labels do not match",
            expected=f"{shape.labels} labels, for example of shape {fitting}: "
            f"one for each {shape.classes} scores along axis {axis}",
            got=f"scores of shape {scores}, {labels.count} labels of shape {labels}",
            hint=hint,
            setting="bottom",
        )
    return shape


def check_items(first: BlobType, second: BlobType) -> int:
    """Refuse two bottoms whose first axes, the items of the batch, differ; return that size."""
    if not first.axes or not second.axes or first.shape[0] != second.shape[0]:
        raise Refusal(
            "the two bottoms hold different numbers of items",
            expected=f"the same first axis: {first.shape[0]}" if first.axes else "a first axis",
            got=f"shapes {first} and {second}",
            hint="both must come from the same batch: compare the batch sizes of their sources",
            setting="bottom",
        )
    return first.shape[0]


def check_one_label(first: BlobType, labels: BlobType, *, what: str = "scores") -> int:
    """Refuse labels that are not one for each item of the first bottom; return their number."""
    n = check_items(first, labels)
    if labels.count != n:
        raise Refusal(
            "there is not one label for each item",
            expected=f"{n} labels, of shape {BlobType((n,))}",
            got=f"labels of shape {labels}, {what} of shape {first}",
            hint="SoftmaxWithLoss can take a label for each pixel",
            setting="bottom",
        )
    return n


def class_index(
    xp: ArrayNamespace, labels: Array, classes: int, ignore_label: int | None = None
) -> Array:
    """Return labels as int32 class indices of the same shape, -1 for those that are ignored.

    Labels are floats and truncated towards 0, as in Caffe. One outside 0..classes-1 that is not
    `ignore_label` is a `Refusal` that names it; Caffe reads memory that is not its own there.
    """
    values = xp.trunc(labels)
    wrong = ~((values >= 0) & (values < classes))  # true for NaN
    if ignore_label is not None:
        ignored = values == ignore_label
        wrong &= ~ignored
        values = xp.where(ignored, -1, values)
    if bool(wrong.any()):
        raise _outside(xp, labels, wrong, classes, ignore_label)
    return values.astype("int32")


def _outside(
    xp: ArrayNamespace, labels: Array, wrong: Array, classes: int, ignore_label: int | None
) -> Refusal:
    first = rest = int(xp.argmax(wrong.reshape(-1)))
    value = float(labels.reshape(-1)[first])
    position: list[int] = []
    for size in reversed(labels.shape):
        rest, index = divmod(rest, size)
        position.insert(0, index)
    shown = int(value) if value.is_integer() else value
    others = int(wrong.sum()) - 1
    ignore = "" if ignore_label is None else f", or ignore_label {ignore_label}"
    return Refusal(
        f"label {shown} is outside 0..{classes - 1}",
        expected=f"labels of 0..{classes - 1}{ignore}: there are scores for {classes} classes",
        got=f"label {shown} at {BlobType(tuple(position))} of the labels"
        + (f", and {others} more outside" if others else ""),
        hint="check the labels of the data, and num_output of the layer that gives the scores",
        setting="bottom",
    )
