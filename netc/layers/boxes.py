"""Arithmetic on boxes, for the types that detect objects.

A box is the last axis of an array: xmin, ymin, xmax, ymax. In fractions of the image a side is as
long as the difference of its ends; in pixels it is one more, because both ends belong to the box.
"""

from __future__ import annotations

import enum

from netc.layers.types import Array, ArrayNamespace, OnnxBuilder, Value


class CodeType(enum.Enum):
    """How four numbers tell where a box lies, seen from another one, the prior.

    CORNER: the differences of the corners. CENTER_SIZE: the difference of the centres in sizes of
    the prior, and the logarithm of the ratio of the sizes. CORNER_SIZE: the differences of the
    corners in sizes of the prior.
    """

    CORNER = 1
    CENTER_SIZE = 2
    CORNER_SIZE = 3


def area(xp: ArrayNamespace, boxes: Array, *, pixels: bool = False) -> Array:
    """Return the areas of boxes (..., 4) as (...); 0 for a box whose ends are in wrong order."""
    size = boxes[..., 2:] - boxes[..., :2]
    valid = (size >= 0).all(axis=-1)
    if pixels:
        size = size + 1
    return xp.where(valid, size[..., 0] * size[..., 1], 0)


def intersection(xp: ArrayNamespace, a: Array, b: Array, *, pixels: bool = False) -> Array:
    """Return the area that boxes (..., 4) have in common; the axes before the last broadcast."""
    low = xp.maximum(a[..., :2], b[..., :2])
    size = xp.minimum(a[..., 2:], b[..., 2:]) - low
    if pixels:
        # Boxes that do not touch have nothing in common, though one may end where the next begins.
        size = xp.where(size >= 0, size + 1, 0)
    size = xp.maximum(size, 0)
    return size[..., 0] * size[..., 1]


def overlap(xp: ArrayNamespace, a: Array, b: Array, *, pixels: bool = False) -> Array:
    """Return intersection over union, the Jaccard index, of boxes (..., 4); 0 without an area."""
    common = intersection(xp, a, b, pixels=pixels)
    union = area(xp, a, pixels=pixels) + area(xp, b, pixels=pixels) - common
    return xp.where(common > 0, common / xp.where(union > 0, union, 1), 0)


def judged(xp: ArrayNamespace, overlaps: Array, least: float, difficult: Array) -> Array:
    """Return of boxes, the best first, whether they are right and whether they are wrong, (R, 2).

    Each finds the object that it overlaps most, `overlaps` (R, G), if by `least` or more. The first
    to find it is right, the others are wrong, as are those that find none. Where an object is
    `difficult` (G,), who finds it is neither.
    """
    results = xp.zeros((len(overlaps), 2), bool)
    if not overlaps.shape[1]:
        results[:, 1] = True
        return results
    best = overlaps.argmax(axis=1).tolist()
    enough = (overlaps.max(axis=1) >= least).tolist()
    taken: set[int] = set()
    for row, (index, hit) in enumerate(zip(best, enough, strict=True)):
        if not hit:
            results[row, 1] = True
        elif not bool(difficult[index]):
            results[row, 1 if index in taken else 0] = True
            taken.add(index)
    return results


def _sizes(boxes: Array) -> Array:
    """Return the sizes (..., 2) of boxes."""
    return boxes[..., 2:] - boxes[..., :2]


def _centres(boxes: Array) -> Array:
    """Return the centres (..., 2) of boxes."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def encode(xp: ArrayNamespace, boxes: Array, priors: Array, code: CodeType) -> Array:
    """Return the numbers (..., 4) that tell where the boxes lie, seen from the priors."""
    match code:
        case CodeType.CORNER:
            return boxes - priors
        case CodeType.CORNER_SIZE:
            sizes = _sizes(priors)
            return (boxes - priors) / xp.concatenate((sizes, sizes), axis=-1)
        case CodeType.CENTER_SIZE:
            sizes = _sizes(priors)
            moved = (_centres(boxes) - _centres(priors)) / sizes
            return xp.concatenate((moved, xp.log(_sizes(boxes) / sizes)), axis=-1)


def decode(xp: ArrayNamespace, numbers: Array, priors: Array, code: CodeType) -> Array:
    """Return the boxes (..., 4) that the numbers tell, seen from the priors: undoes `encode`."""
    match code:
        case CodeType.CORNER:
            return priors + numbers
        case CodeType.CORNER_SIZE:
            sizes = _sizes(priors)
            return priors + numbers * xp.concatenate((sizes, sizes), axis=-1)
        case CodeType.CENTER_SIZE:
            sizes = _sizes(priors)
            centres = _centres(priors) + numbers[..., :2] * sizes
            half = xp.exp(numbers[..., 2:]) * sizes / 2
            return xp.concatenate((centres - half, centres + half), axis=-1)


def suppress(
    xp: ArrayNamespace, boxes: Array, candidates: Array, threshold: float, eta: float = 1.0
) -> Array:
    """Return which boxes survive non-maximum suppression.

    `boxes` (rows, k, 4) are sorted, the best first; `candidates` (rows, k) tells which take part.
    Each candidate in turn stays unless its overlap with one that stays is above the threshold.
    With `eta` below 1 the threshold, as long as it is above 0.5, is multiplied with eta whenever a
    box stays.
    """
    rows, k = candidates.shape
    stays = xp.zeros((rows, k), bool)
    limits = xp.full((rows,), threshold, dtype=boxes.dtype)
    for i in range(k):
        stay = candidates[:, i]
        if i:
            common = overlap(xp, boxes[:, i : i + 1], boxes[:, :i])
            stay = stay & (xp.where(stays[:, :i], common, 0).max(axis=1) <= limits)
        stays[:, i] = stay
        if eta < 1:
            limits = xp.where(stay & (limits > 0.5), limits * eta, limits)
    return stays


def clipped(xp: ArrayNamespace, boxes: Array) -> Array:
    """Return boxes (..., 4) cut off at the border of the image, in fractions of it."""
    return xp.minimum(xp.maximum(boxes, 0), 1)


def lower_halves(g: OnnxBuilder, x: Value) -> tuple[Value, Value]:
    """Return the two halves of the last axis in ONNX: the low and the high corners of boxes."""
    count = {"num_outputs": 2} if g.opset >= 18 else {}
    low, high = g.op("Split", x, outputs=2, axis=len(x.shape) - 1, **count)
    return low, high


def lower_decode(g: OnnxBuilder, numbers: Value, priors: Value, code: CodeType) -> Value:
    """Return `decode` in ONNX."""
    decoded: Value
    if code is CodeType.CORNER:
        decoded = g.op("Add", priors, numbers)
        return decoded
    low, high = lower_halves(g, priors)
    sizes, last = g.op("Sub", high, low), len(numbers.shape) - 1
    if code is CodeType.CORNER_SIZE:
        scale = g.op("Concat", sizes, sizes, axis=len(priors.shape) - 1)
        decoded = g.op("Add", priors, g.op("Mul", numbers, scale))
        return decoded
    two = g.constant(2.0)
    moves, ratios = lower_halves(g, numbers)
    centres = g.op("Div", g.op("Add", low, high), two)
    centres = g.op("Add", centres, g.op("Mul", moves, sizes))
    half = g.op("Div", g.op("Mul", g.op("Exp", ratios), sizes), two)
    decoded = g.op("Concat", g.op("Sub", centres, half), g.op("Add", centres, half), axis=last)
    return decoded
