"""Images (H, W, 3) of float32, channels blue, green, red: colour, size and angle as in OpenCV.

For layers that change images which are blobs; readers of files use OpenCV itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from netc.layers.types import Array, ArrayNamespace

#: Of float32: 1 and this are neighbours.
EPSILON = 1.1920929e-07
_CUBIC = -0.75  # the slope of OpenCV's cubic kernel at 1

# For each sixth of the circle of hues: which of what `to_bgr` mixes are blue, green and red.
_SECTORS = ((1, 3, 0), (1, 0, 2), (3, 0, 1), (0, 2, 1), (0, 1, 3), (2, 1, 0))


def to_hsv(xp: ArrayNamespace, image: Array) -> Array:
    """Return hue (0-360), saturation (0-1) and value of an image with values 0-1."""
    b, g, r = (image[..., i] for i in range(3))
    value = image.max(axis=-1)
    spread = value - image.min(axis=-1)
    step = 60 / (spread + EPSILON)
    hue = xp.where(
        value == r,
        (g - b) * step,
        xp.where(value == g, (b - r) * step + 120, (r - g) * step + 240),
    )
    hue = xp.where(hue < 0, hue + 360, hue)
    return xp.stack([hue, spread / (abs(value) + EPSILON), value], axis=-1).astype("float32")


def to_bgr(xp: ArrayNamespace, image: Array) -> Array:
    """Return the image of hues, saturations and values.

    Hues outside 0-360 go round, as in OpenCV 2 and 3; OpenCV 4 takes a negative one for red.
    """
    hue, saturation, value = (image[..., i] for i in range(3))
    turn = (hue / 60) % 6
    sector = xp.minimum(xp.floor(turn), 5)
    part = turn - sector
    mixed = xp.stack(
        [
            value,
            value * (1 - saturation),
            value * (1 - saturation * part),
            value * (1 - saturation * (1 - part)),
        ],
        axis=-1,
    )
    sources = xp.asarray(_SECTORS)[sector.astype("int64")]
    found: Array = xp.take_along_axis(mixed, sources, axis=-1).astype("float32")
    return found


def resized(xp: ArrayNamespace, image: Array, width: int, height: int) -> Array:
    """Return an image in another size, by cubic interpolation; beyond its edge the edge goes on."""
    for axis, size in ((0, height), (1, width)):
        image = _stretched(xp, image, axis, size)
    return image


def _stretched(xp: ArrayNamespace, image: Array, axis: int, size: int) -> Array:
    old = image.shape[axis]
    at = (xp.arange(size, dtype="float64") + 0.5) * (old / size) - 0.5
    first = xp.floor(at)
    shape = [1] * image.ndim
    shape[axis] = size
    found = 0
    for tap in range(-1, 3):
        weight = _cubic(xp, abs(at - first - tap)).astype("float32").reshape(shape)
        index = xp.clip(first + tap, 0, old - 1).astype("int64")
        found = found + weight * xp.take(image, index, axis=axis)
    return found


def _cubic(xp: ArrayNamespace, x: Array) -> Array:
    near = ((_CUBIC + 2) * x - (_CUBIC + 3)) * x * x + 1
    far = ((_CUBIC * x - 5 * _CUBIC) * x + 8 * _CUBIC) * x - 4 * _CUBIC
    return xp.where(x <= 1, near, far)


@dataclass(frozen=True, slots=True)
class Turn:
    """A rectangle turned about its centre by an angle (degrees, clockwise), in a frame."""

    width: int
    height: int
    angle: float

    def _reach(self, x: float, y: float) -> tuple[float, float, float, float]:
        """Return the least and the greatest coordinates of the corners, for a centre."""
        a, b = self._factors()
        xs = [
            x + i * b * self.width / 2 - j * a * self.height / 2 for i in (-1, 1) for j in (-1, 1)
        ]
        ys = [
            y + i * a * self.width / 2 + j * b * self.height / 2 for i in (-1, 1) for j in (-1, 1)
        ]
        return min(xs), min(ys), max(xs), max(ys)

    def _factors(self) -> tuple[float, float]:
        radians = math.radians(self.angle)
        return math.sin(radians), math.cos(radians)

    def frame(self) -> tuple[int, int]:
        """Return width and height of the frame, about a centre in whole pixels."""
        left, top, right, bottom = self._reach(self.width // 2, self.height // 2)
        width = math.ceil(right) - math.floor(left) + 1
        return width, math.ceil(bottom) - math.floor(top) + 1

    def _origin(self) -> tuple[float, float]:
        """Return where in the frame the centre is."""
        x, y = self.width / 2, self.height / 2
        left, top = self._reach(x, y)[:2]
        return x - math.floor(left), y - math.floor(top)

    def place(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Return where in the frame points of the rectangle are."""
        (a, b), (centre_x, centre_y) = self._factors(), self._origin()
        dx, dy = x - self.width / 2, y - self.height / 2
        return b * dx - a * dy + centre_x, a * dx + b * dy + centre_y

    def image(self, xp: ArrayNamespace, image: Array) -> Array:
        """Return an image of the rectangle's size in its frame, by linear interpolation.

        What lies before the first of its pixels or more than one behind the last is 0.
        """
        width, height = self.frame()
        (a, b), (centre_x, centre_y) = self._factors(), self._origin()
        dx = xp.arange(width, dtype="float64")[None, :] - centre_x
        dy = xp.arange(height, dtype="float64")[:, None] - centre_y
        x, y = b * dx + a * dy + self.width / 2, b * dy - a * dx + self.height / 2
        left_of, above = xp.floor(x), xp.floor(y)
        inside = (left_of >= 0) & (left_of < self.width)
        inside &= (above >= 0) & (above < self.height)
        column = xp.where(inside, left_of, 0).astype("int64")
        row = xp.where(inside, above, 0).astype("int64")
        right, below = ((x - left_of)[..., None], (y - above)[..., None])
        found = 0
        for down, across in ((0, 0), (0, 1), (1, 0), (1, 1)):
            share = (below if down else 1 - below) * (right if across else 1 - right)
            at = (
                xp.minimum(row + down, self.height - 1),
                xp.minimum(column + across, self.width - 1),
            )
            found = found + share * image[at]
        return xp.where(inside[..., None], found, 0).astype("float32")


def window(xp: ArrayNamespace, image: Array, left: int, top: int, width: int, height: int) -> Array:
    """Return a part of an image, which may reach beyond it: there it is 0."""
    found = xp.zeros((height, width, image.shape[2]), dtype=image.dtype)
    first, last = max(left, 0), min(left + width, image.shape[1])
    upper, lower = max(top, 0), min(top + height, image.shape[0])
    if first < last and upper < lower:
        part = image[upper:lower, first:last]
        found[upper - top : lower - top, first - left : last - left] = part
    return found
