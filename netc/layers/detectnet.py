"""DetectNet's images, changed at random, and their ground truth: a grid made from boxes."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from netc.layers import imaging
from netc.layers.blobfile import BlobFile
from netc.layers.registry import layer
from netc.layers.transform import TransformParam
from netc.layers.types import (
    Arity,
    Array,
    ArrayNamespace,
    BlobType,
    ForwardCall,
    Layer,
    Part,
    Phase,
    Refusal,
    Signature,
    between,
    exactly,
)

#: Maps of the grid besides those of the classes: foreground, two corners, width, height, objects.
MAPS = 8

# Of the 16 values of a row that tells of an object: its box (x, y, width, height), and its class.
ROW, CLASS = 16, 5

_MOST = 255


class GridboxType(enum.Enum):
    """Which part of a box its cells cover."""

    GRIDBOX_MAX = 0
    GRIDBOX_MIN = 1


class CoverageType(enum.Enum):
    """The form of what a box covers."""

    RECTANGULAR = 0


@dataclass(frozen=True, slots=True)
class ClassMapping:
    """Class `src` of the data is map `dst` of the grid."""

    src: int = 0
    dst: int = 0


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """A `detectnet_groundtruth_param` message: the grid, and what of it a box covers.

    The image has `image_size_x` x `image_size_y` pixels, a cell `stride` x `stride` of them.
    """

    stride: int = 4
    scale_cvg: float = 0.5
    gridbox_type: GridboxType = GridboxType.GRIDBOX_MAX
    max_cvg_len: int = 50
    min_cvg_len: int = 50
    coverage_type: CoverageType = CoverageType.RECTANGULAR
    image_size_x: int = 1248
    image_size_y: int = 384
    obj_norm: bool = False
    crop_bboxes: bool = True
    object_class: tuple[ClassMapping, ...] = ()

    @property
    def maps(self) -> dict[int, int]:
        """The maps by class of the data; where the text names none, the first for class 1."""
        return {mapping.src: mapping.dst for mapping in self.object_class} or {1: 0}

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of the grid. A part of a cell at the end counts from half of it on."""
        sizes = (self.image_size_y, self.image_size_x)
        rows, columns = (round(size / self.stride) for size in sizes)
        return MAPS + max(self.maps.values()) + 1, rows, columns

    def grid(self, xp: ArrayNamespace, rows: Array) -> Array:
        """Return the grid for the objects of an image, of which a later one hides earlier ones."""
        found = xp.zeros(self.shape, dtype="float32")
        for left, top, right, bottom, place in self._objects(rows):
            width, height = right - left, bottom - top
            covered = self._covered(left, top, right, bottom)
            size = (covered[2] - covered[0]) * (covered[3] - covered[1])
            share = self.stride**2 / size if size else math.inf
            norm = max(share, 0.0 if self.obj_norm else 1.0)
            for row, column in self._cells(covered):
                x, y = column * self.stride, row * self.stride
                cell = (left - x, top - y, right - x, bottom - y)
                found[:MAPS, row, column] = (1, *cell, 1 / width, 1 / height, norm)
                found[MAPS:, row, column] = 0
                found[MAPS + place, row, column] = 1
        return found

    def _objects(self, rows: Array) -> Iterator[tuple[float, float, float, float, int]]:
        """Give the corners of the boxes that count, each with the map of its class."""
        for row in rows.tolist():
            left, top, width, height = row[:4]
            right, bottom = left + width, top + height
            if self.crop_bboxes:
                left, right = max(left, 0), min(right, self.image_size_x)
                top, bottom = max(top, 0), min(bottom, self.image_size_y)
                if left >= right or top >= bottom:
                    continue
            area = (right - left) * (bottom - top)
            if area >= imaging.EPSILON and int(row[CLASS]) in self.maps:
                yield left, top, right, bottom, self.maps[int(row[CLASS])]

    def _covered(
        self, left: float, top: float, right: float, bottom: float
    ) -> tuple[float, float, float, float]:
        """Return the part of a box about its centre that its cells cover, by its corners."""
        halves = []
        for side in (right - left, bottom - top):
            part = side * self.scale_cvg
            if self.gridbox_type is GridboxType.GRIDBOX_MIN:
                part = min(side, max(self.min_cvg_len, part))
            else:
                part = min(self.max_cvg_len, part)
            halves.append(part / 2)
        x, y = (left + right) / 2, (top + bottom) / 2
        return x - halves[0], y - halves[1], x + halves[0], y + halves[1]

    def _cells(self, covered: tuple[float, float, float, float]) -> Iterator[tuple[int, int]]:
        """Give the row and column of all cells that have some of a covered part."""
        left, top, right, bottom = covered
        _, rows, columns = self.shape
        stride = self.stride
        for row in range(max(math.floor(top / stride), 0), min(math.ceil(bottom / stride), rows)):
            y = row * stride
            tall = min(bottom, y + stride) - max(top, y)
            first, last = max(math.floor(left / stride), 0), math.ceil(right / stride)
            for column in range(first, min(last, columns)):
                x = column * stride
                if (min(right, x + stride) - max(left, x)) * tall / stride**2 > imaging.EPSILON:
                    yield row, column


@dataclass(frozen=True, slots=True)
class Augmentation:
    """A `detectnet_augmentation_param` message: chances and ranges of random changes."""

    crop_prob: float = 1.0
    shift_x: int = 0
    shift_y: int = 0
    scale_prob: float = 0.33
    scale_min: float = 0.7
    scale_max: float = 1.0
    flip_prob: float = 0.33
    rotation_prob: float = 0.33
    max_rotate_degree: float = 1.0
    hue_rotation_prob: float = 0.33
    hue_rotation: float = 15.0
    desaturation_prob: float = 0.33
    desaturation_max: float = 0.5

    def draw(self, rng: Any, width: int, height: int, truth: GroundTruth) -> Change:
        """Draw what is done to an image of this size, in the fork's order."""
        change = Change((width, height))
        if rng.random() <= self.hue_rotation_prob:
            hue = (rng.random() * 2 - 1) * self.hue_rotation
            change = replace(change, hue=max(-180.0, min(180.0, hue)))
        if rng.random() <= self.desaturation_prob:
            change = replace(change, saturation=1 - rng.random() * self.desaturation_max)
        change = replace(change, flip=rng.random() <= self.flip_prob)
        if rng.random() <= self.scale_prob:
            factor = self.scale_min + (self.scale_max - self.scale_min) * rng.random()
            change = replace(change, size=(_nearest(width * factor), _nearest(height * factor)))
        if rng.random() <= self.rotation_prob:
            angle = (rng.random() * 2 - 1) * self.max_rotate_degree
            change = replace(change, angle=angle)
        shares, shifts = (0.5, 0.5), (0, 0)
        if rng.random() <= self.crop_prob:
            shares, shifts = (rng.random(), rng.random()), (self.shift_x, self.shift_y)
        offset = (
            _nearest(share * (size - wanted + shift) - shift // 2)
            for share, size, wanted, shift in zip(
                shares,
                change.frame(),
                (truth.image_size_x, truth.image_size_y),
                shifts,
                strict=True,
            )
        )
        x, y = offset
        return replace(change, offset=(x, y))


def _nearest(value: float) -> int:
    """Round as C's `round`: halves away from zero."""
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


@dataclass(frozen=True, slots=True)
class Change:
    """What is done to an image and its boxes, in this order.

    The hue turns by `hue` degrees, the saturation is multiplied, the image is flipped, resized to
    `size`, turned by `angle` degrees, and a window cut out at `offset`.
    """

    size: tuple[int, int]
    hue: float = 0.0
    saturation: float = 1.0
    flip: bool = False
    angle: float = 0.0
    offset: tuple[int, int] = (0, 0)

    @property
    def _turn(self) -> imaging.Turn | None:
        return imaging.Turn(*self.size, self.angle) if abs(self.angle) > imaging.EPSILON else None

    def frame(self) -> tuple[int, int]:
        """Return the size before the window is cut out."""
        return self.size if self._turn is None else self._turn.frame()

    def image(
        self, xp: ArrayNamespace, image: Array, mean: Array, width: int, height: int
    ) -> Array:
        """Return the changed image, less its mean, in this size; the values of all are 0-255."""
        image = image / _MOST
        if abs(self.hue) > imaging.EPSILON or self.saturation < 1 - 1 / _MOST:
            hsv = imaging.to_hsv(xp, image)
            hsv[..., 0] += self.hue
            hsv[..., 1] *= self.saturation
            image = imaging.to_bgr(xp, hsv)
        image = image - mean / _MOST
        if self.flip:
            image = image[:, ::-1]
        if image.shape[1::-1] != self.size:
            image = imaging.resized(xp, image, *self.size)
        if self._turn is not None:
            image = self._turn.image(xp, image)
        return imaging.window(xp, image, *self.offset, width, height) * _MOST

    def rows(self, rows: Array, width: int, height: int) -> Array:
        """Return the rows of an image of this size with their boxes where the objects are then."""
        rows = rows.copy()
        if self.flip:
            rows[:, 0] = width - rows[:, 0] - rows[:, 2] - 1
        if (width, height) != self.size:
            for axis, (new, old) in enumerate(zip(self.size, (width, height), strict=True)):
                rows[:, axis:4:2] *= new / old
        if self._turn is not None:
            half_x, half_y = rows[:, 2] / 2, rows[:, 3] / 2
            x, y = self._turn.place(rows[:, 0] + half_x, rows[:, 1] + half_y)
            rows[:, 0], rows[:, 1] = x - half_x, y - half_y
        rows[:, 0] -= self.offset[0]
        rows[:, 1] -= self.offset[1]
        return rows


@layer("DetectNetTransformation")
@dataclass(frozen=True)
class DetectNetTransformation(Layer):
    """DetectNet's augmentation of images, and its grid of ground truth from their boxes.

    In the TRAIN phase hue, saturation, direction, size, angle and window of each image change at
    random, in the TEST phase it is resized. A list of boxes begins with a row that says how many
    follow, and that these have 16 values: x, y, width, height, one that is not used, class, and
    others that are not used. A box covers the cells of the grid near its centre, as
    `detectnet_groundtruth_param` says.

    Shapes: images (N, 3, H, W) with values 0-255, boxes (N, ...) with 16 values in a row -> images
    (N, 3, image_size_y, image_size_x), and (N, 8 + classes, image_size_y / stride, image_size_x /
    stride): foreground, the corners of the box relative to the cell, 1 / width, 1 / height, cells
    of the image for one of the covered part, and a map of coverage for each class. A third bottom
    (1, 3, h, w) has a mean image in place of `mean_file`. Of `transform_param` only the mean has an
    effect, as in the fork.

    ONNX: none, it makes data for training.

    Source: NVCaffe's fork, for "DetectNet" (Barker, Sarathy and July, 2016).
    """

    detectnet_groundtruth_param: GroundTruth = field(default_factory=GroundTruth)
    detectnet_augmentation_param: Augmentation = field(default_factory=Augmentation)
    transform_param: TransformParam = field(default_factory=TransformParam)
    phase: Phase = Phase.TRAIN

    bottoms: ClassVar[Arity] = between(2, 3)
    tops: ClassVar[Arity] = exactly(2)

    def expand(self, *bottoms: BlobType) -> tuple[Part, ...] | None:
        """Return a layer that reads the mean image, and this one with it as a third bottom."""
        self.transform_param.check()
        if not self.transform_param.mean_file:
            return None
        mean = ".mean"
        alone = replace(self, transform_param=replace(self.transform_param, mean_file=""))
        return (
            Part("mean", BlobFile(source=self.transform_param.mean_file), (), (mean,)),
            Part("transform", alone, ("$b0", "$b1", mean), ("$t0", "$t1")),
        )

    def infer(self, *bottoms: BlobType) -> Signature:
        images, boxes = bottoms[:2]
        truth = self.detectnet_groundtruth_param
        if images.axes != 4 or images.shape[1] != 3:
            raise Refusal(
                "the images are not in colour",
                expected="shape (N, 3, H, W)",
                got=f"bottom of shape {images}",
                setting="bottom",
            )
        if boxes.shape[:1] != images.shape[:1]:
            raise Refusal(
                "the numbers of images and of lists of boxes differ",
                expected=f"{images.shape[0]} lists of boxes",
                got=f"bottom 1 of shape {boxes}",
                setting="bottom",
            )
        for mean in bottoms[2:]:
            if mean.axes < 3 or mean.count != mean.span(-3) or mean.shape[-3] != 3:
                raise Refusal(
                    "the mean is no image in colour",
                    expected="shape (1, 3, h, w)",
                    got=f"a mean of shape {mean}",
                    setting="transform_param",
                )
        for name in ("stride", "image_size_x", "image_size_y"):
            if getattr(truth, name) < 1:
                raise Refusal(
                    f"{name} is not positive",
                    expected=f"{name} > 0",
                    got=getattr(truth, name),
                    setting="detectnet_groundtruth_param",
                )
        if len(self.transform_param.mean_value) not in (0, 1, 3):
            raise Refusal(
                "the number of mean values does not match the images",
                expected="1 mean_value, or 3: one for each channel",
                got=f"{len(self.transform_param.mean_value)} mean_value",
                setting="transform_param.mean_value",
            )
        n = images.shape[0]
        size = truth.image_size_y, truth.image_size_x
        return Signature((BlobType((n, 3, *size)), BlobType((n, *truth.shape))))

    def forward(self, call: ForwardCall) -> tuple[Array, ...]:
        xp, truth = call.xp, self.detectnet_groundtruth_param
        images, boxes = call.bottoms[:2]
        height, width = images.shape[2:]
        size = truth.image_size_x, truth.image_size_y
        mean = self._mean(xp, call.bottoms[2:], width, height)
        rng = call.random()
        changed = xp.empty((len(images), 3, *size[::-1]), dtype="float32")
        grids = xp.empty((len(images), *truth.shape), dtype="float32")
        for i, (image, values) in enumerate(zip(images, boxes, strict=True)):
            change = Change(size)
            if self.phase is Phase.TRAIN:
                change = self.detectnet_augmentation_param.draw(rng, width, height, truth)
            made = change.image(xp, image.transpose(1, 2, 0), mean, *size)
            changed[i] = made.transpose(2, 0, 1)
            grids[i] = truth.grid(xp, change.rows(_rows(values), width, height))
        return changed, grids

    def _mean(self, xp: ArrayNamespace, given: Sequence[Array], width: int, height: int) -> Array:
        """Return what is subtracted from each image: an image, or values for channels."""
        if not given:
            return xp.asarray(self.transform_param.mean_value or (0.0,), dtype="float32")
        image = given[0].reshape(given[0].shape[-3:]).transpose(1, 2, 0)
        return imaging.resized(xp, image, width, height)

    def gradient_bottoms(self, n_bottoms: int) -> tuple[bool, ...]:
        return (False,) * n_bottoms


def _rows(values: Array) -> Array:
    """Return the rows of a list of boxes; refuse one that says of itself what is not so."""
    flat = values.reshape(-1)
    n, length = (int(value) for value in flat[:2]) if flat.size > 1 else (0, 0)
    if length != ROW:
        raise Refusal(
            "a list of boxes does not say that they have 16 values",
            expected=f"a first row with the number of boxes and {ROW}",
            got=f"{n} and {length}",
            hint="the label is to come from a database of DetectNet's lists of boxes",
            setting="bottom",
        )
    if not 0 <= n <= flat.size // ROW - 1:
        raise Refusal(
            "a list says that it has more boxes than there are",
            expected=f"at most {flat.size // ROW - 1} boxes",
            got=n,
            setting="bottom",
        )
    return flat[ROW : ROW * (n + 1)].reshape(n, ROW)
