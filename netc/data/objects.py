"""The sources of the layers that read images with the boxes of their objects, from a list."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from netc.data import augment
from netc.data.fields import Floats, Inside, Objects, judged, labels
from netc.data.images import resize
from netc.data.source import Batch, Item, Opening, arrays_for, locate_setting
from netc.data.window_lines import Lines, c_round, load_image
from netc.data.workers import workers
from netc.errors import Span, fail
from netc.layers.fielddata import (
    ASPECT_STEP,
    DetectionData,
    EvalData,
    FieldReader,
    ImageGtData,
    ObjectReader,
    Shuffling,
)
from netc.layers.mscnn import LABEL
from netc.layers.types import BlobType

Pixels = NDArray[np.uint8]

# The object drawn is up to so many pixels beside the middle of its window, to either side.
_NOISE = 10
# Enlarged by more than this, of an image only what the window may need is looked at, and a bit.
_MUCH, _MORE = np.float32(1.5), 1.2
# In MS-CNN scales are the root of 2 apart, and stretched objects may leave the range a bit.
_STEPS_OF_TWO = 2
_LEAST, _MOST = 0.8, 1.2


@dataclass(frozen=True, slots=True)
class ObjectFile:
    """The content of a list: of each image its path, line, size and objects."""

    file: Path
    paths: tuple[str, ...]
    lines: tuple[int, ...]
    sizes: NDArray[np.int64]
    objects: tuple[Objects, ...]

    def span(self, index: int) -> Span:
        """Return the place of an image's path."""
        return Span(str(self.file), self.lines[index], 1)


def read_objects(file: Path, columns: str, *, numbered: bool) -> ObjectFile:
    """Read a list as its layers describe it; `columns` are those of an object before its corners.

    With `numbered` the images are numbered from 0 on. Raises NetcError, with the line, for a file
    that is something else.
    """
    paths: list[str] = []
    lines, sizes, found = [], [], []
    try:
        with open(file, "rb") as stream:
            reader = Lines(file, stream)
            while (header := reader.header(len(paths) if numbered else None)) is not None:
                paths.append(header[0])
                lines.append(reader.image_line)
                sizes.append(header[1:])
                count = reader.integer("the number of objects")
                rows = reader.block(count, f"{columns} x1 y1 x2 y2")
                least = rows[:, 0].min(initial=1)
                reader.check(least > 0, "a class above 0", f"{least:g}")
                count = reader.integer("the number of regions of no interest")
                found.append(_objects(rows, reader.block(count, "x1 y1 x2 y2")))
    except OSError as error:
        raise fail("the file cannot be read", span=Span(str(file)), got=error.strerror) from error
    if not found:
        raise fail("the window file is empty", span=Span(str(file)), expected="# 0")
    return ObjectFile(file, tuple(paths), tuple(lines), np.array(sizes), tuple(found))


def _objects(rows: NDArray[np.float64], regions: NDArray[np.float64]) -> Objects:
    values = rows.astype(np.float32)
    difficult = values[:, 2] if values.shape[1] > 6 else np.zeros(len(values), np.float32)
    return Objects(
        values[:, -4:], values[:, 0], values[:, 1] != 0, difficult, regions.astype(np.float32)
    )


class ObjectSource:
    """Images with their objects, in the order of the list."""

    def __init__(self, layer: ObjectReader, opening: Opening) -> None:
        """Find the list; DataAbsent when it is missing."""
        self._reader = layer
        self._opening = opening
        self._path = locate_setting(layer.source, opening, "source", "window file")
        mean = layer.transform_param.mean_value
        self._mean = np.array(mean or (0.0,), np.float32).reshape(-1, 1, 1)

    @staticmethod
    def assume(layer: ObjectReader, opening: Opening) -> Item | None:
        """Return images of the size that the settings tell."""
        size = layer.assumed()
        if size is None:
            return None
        image = BlobType((3, *size))
        return Item((image,), f"images of shape {image} are assumed, from the settings")

    @cached_property
    def _file(self) -> ObjectFile:
        return read_objects(self._path, self._reader.columns, numbered=self._reader.numbered)

    @property
    def size(self) -> int:
        """The number of items in one pass."""
        return len(self._file.paths)

    @property
    def start(self) -> int:
        """The position at which a fresh run begins."""
        return 0

    def close(self) -> None:
        """Do nothing: files are open only while they are read."""

    def _index(self, position: int) -> int:
        """Return which image of the list is at a position."""
        return position % self.size

    def _image(self, position: int) -> Pixels:
        """Return the image (3, H, W) at a position."""
        index = self._index(position)
        root, span = self._reader.root_folder, self._file.span(index)
        return load_image(root, self._file.paths[index], self._opening.span, span)

    def _objects(self, position: int) -> Objects:
        return self._file.objects[self._index(position)]

    def _write(self, image: Pixels, scale: float, out: Floats) -> None:
        out[...] = (image - self._mean) * np.float32(scale)


def _rows(found: Sequence[Objects], columns: int, none: Sequence[float]) -> Floats:
    """Return the objects of a batch, (G, columns, 1, 1); `none` stands for nothing at all."""
    rows = [
        np.column_stack((np.full(len(o.boxes), image), o.boxes, o.classes, o.ignored, o.difficult))[
            :, :columns
        ]
        for image, o in enumerate(found)
    ]
    together = np.concatenate(rows).astype(np.float32)
    if not len(together):
        together = np.array([none], np.float32)
    return together[:, :, None, None]


class EvalSource(ObjectSource):
    """Images to test on, each resized."""

    def __init__(self, layer: EvalData, opening: Opening) -> None:
        """Find the list; DataAbsent when it is missing."""
        super().__init__(layer, opening)
        self._layer = layer

    def item(self) -> tuple[BlobType, ...]:
        """Return the type of the first image, resized."""
        return (BlobType((3, *self._layer.resized(*self._image(0).shape[1:]))),)

    def load(self, position: int, count: int, reuse: Batch) -> Batch:
        """Return the batch that begins at a position."""
        layer = self._layer
        first = self._image(position)
        size = layer.resized(*first.shape[1:])
        found = [self._objects(position + i) for i in range(count)]
        (images,) = arrays_for(((count, 3, *size),), reuse[:1])

        def place(i: int) -> None:
            image = self._image(position + i) if i else first
            height, width = image.shape[1:]
            self._write(resize(image, *size), layer.transform_param.scale, images[i])
            found[i] = found[i].moved((size[1] / width, size[0] / height))

        workers().run(place, count)
        tops = images, _rows(found, 8, (-1,) * 8), np.full((count, 2, 1, 1), 0, np.float32)
        tops[2][:, :, 0, 0] = size
        return tops[: len(layer.top)]


@dataclass(frozen=True, slots=True)
class Cut:
    """How a window is cut out of an image (height, width) that has been scaled.

    `part` is what the image is cut down to before: x, y, width, height. `size` is what it is scaled
    to, `start` where the window begins in that, x and y, and `inside` what of the window it fills.
    """

    part: tuple[int, int, int, int]
    size: tuple[int, int]
    start: tuple[int, int]
    inside: Inside


def cut(
    image: tuple[int, int],
    window: tuple[int, int],
    centre: tuple[float, float],
    factors: tuple[float, float],
    noise: tuple[int, int],
) -> Cut:
    """Return how a window lies around a centre of an image that is scaled by factors.

    Sizes are (height, width), all else (x, y); the image may end up to `noise` off.
    """
    f = np.float32
    scale, sides = [f(factor) for factor in factors], image[::-1]
    part = [0, 0, *sides]
    if max(scale) > _MUCH:
        for axis in (0, 1):
            length = min(c_round(_MORE * sides[axis] / float(scale[axis])), sides[axis])
            start = max(c_round(float(f(centre[axis])) - length / 2), 0)
            part[axis] = start - max(start + length - sides[axis], 0)
            part[2 + axis] = length
    found = [
        _along(
            c_round(f(part[2 + axis]) * scale[axis]),
            window[1 - axis],
            c_round((f(centre[axis]) - f(part[axis])) * scale[axis]) + noise[axis],
            noise[axis],
        )
        for axis in (0, 1)
    ]
    (width, left, x, wide), (height, top, y, high) = found
    inside = Inside(left, top, wide, high)
    return Cut((part[0], part[1], part[2], part[3]), (height, width), (x, y), inside)


def _along(length: int, window: int, centre: int, noise: int) -> tuple[int, int, int, int]:
    """Return the length of an image along one axis, where in the window it begins.

    Then where in the image the window begins, and how much both share.
    """
    if length < window:
        start = c_round((window - length) / 2) + noise
        return length, min(max(start, 0), window - length), 0, length
    start = min(max(centre - c_round(window / 2), 0), length - window)
    return length, 0, start, window


class FieldSource(ObjectSource):
    """Images with labels for maps of fields: cut around objects, at random."""

    def __init__(self, layer: FieldReader, opening: Opening) -> None:
        """Find the list; DataAbsent when it is missing."""
        super().__init__(layer, opening)
        self._fields = layer
        self._order: tuple[int, NDArray[np.int64]] | None = None

    #: What the last top shows where there are no objects.
    none: tuple[float, ...] = (-1.0,) * 8

    def _ordered(self, epoch: int) -> NDArray[np.int64]:
        """Return the images of a pass in their order."""
        raise NotImplementedError

    def _resized(self, height: int, width: int, ratio: float) -> tuple[int, int]:
        raise NotImplementedError

    def _window(self, height: int, width: int, ratio: float) -> tuple[int, int]:
        raise NotImplementedError

    def _window_of(self, image: Pixels, ratio: float) -> tuple[int, int]:
        """Return the size of the windows of a batch that begins with an image."""
        height, width = self._resized(image.shape[1], image.shape[2], ratio)
        return self._window(height, width, ratio)

    def _ratio(self, batch: int) -> float:
        """Return the template ratio of a batch."""
        return 1.0

    def _coloured(self, image: Pixels, position: int) -> Pixels:
        """Return an image in other colours."""
        return image

    def _factors(self, position: int, box: Floats | None) -> tuple[float, float]:
        """Return the factors along x and y for an image and the object drawn, if it has one."""
        raise NotImplementedError

    @property
    def _scale(self) -> float:
        return self._reader.transform_param.scale

    def _index(self, position: int) -> int:
        epoch, index = divmod(position, self.size)
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, self._ordered(epoch))
        return int(self._order[1][index])

    def item(self) -> tuple[BlobType, ...]:
        """Return the type of a window of the first image."""
        return (BlobType((3, *self._window_of(self._image(0), self._ratio(0)))),)

    def load(self, position: int, count: int, reuse: Batch) -> Batch:
        """Return the batch that begins at a position."""
        layer, ratio = self._fields, self._ratio(position // count)
        # Threads would disturb one another here: two passes may meet in a batch.
        stored = [(self._index(position + i), self._objects(position + i)) for i in range(count)]
        first = self._read(stored[0][0])
        window = self._window_of(first, ratio)
        shapes: list[tuple[int, ...]] = [(count, 3, *window)]
        for stride in layer.strides:
            rows, columns = (layer.label_size(side, stride) for side in window)
            shapes.append((count, LABEL, rows, columns))
        batch = arrays_for(tuple(shapes), reuse[: len(shapes)])
        found = [objects for _, objects in stored]

        def place(i: int) -> None:
            image = self._read(stored[i][0]) if i else first
            span = self._file.span(stored[i][0])
            found[i], inside = self._place(image, found[i], position + i, ratio, batch[0][i], span)
            maps = labels(layer, found[i], *window, inside)
            for top, one in zip(batch[1:], maps, strict=True):
                top[i] = one

        workers().run(place, count)
        if not layer.output_gt_boxes:
            return batch
        return (*batch, _rows(found, layer.values, self.none))

    def _read(self, index: int) -> Pixels:
        root, span = self._reader.root_folder, self._file.span(index)
        return load_image(root, self._file.paths[index], self._opening.span, span)

    def _place(
        self,
        image: Pixels,
        objects: Objects,
        position: int,
        ratio: float,
        out: Floats,
        span: Span,
    ) -> tuple[Objects, Inside]:
        """Write the window of an image; return its objects, and what of it shows the image."""
        draws = self._opening.draws
        image = self._coloured(image, position)
        if self._reader.transform_param.mirror and draws.below(2, "mirror", position)[0]:
            image, objects = image[:, :, ::-1], objects.mirrored(image.shape[2])
        before = image.shape[1:]
        size = self._resized(before[0], before[1], ratio)
        if size != before:
            image = resize(np.ascontiguousarray(image), *size)
            objects = objects.moved((size[1] / before[1], size[0] / before[0]))
        window = out.shape[1], out.shape[2]
        box, centre = self._centre(objects, size, window, position)
        factors = self._factors(position, box)
        noise = [int(draws.below(2 * _NOISE, f"noise {axis}", position)[0]) for axis in "xy"]
        placed = cut(size, window, centre, factors, (noise[0] - _NOISE, noise[1] - _NOISE))
        if min(placed.size) < 1:
            raise fail(
                "nothing is left of an image",
                span=span,
                expected="at least one pixel",
                got=f"{size[0]} x {size[1]} pixels, times {factors[1]:g} and {factors[0]:g}",
            )
        x, y, wide, high = placed.part
        image = image[:, y : y + high, x : x + wide]
        if placed.size != image.shape[1:]:
            image = resize(np.ascontiguousarray(image), *placed.size)
        objects = objects.moved((1, 1), (-x, -y)).moved(factors)
        inside, (x, y) = placed.inside, placed.start
        out.fill(0)
        rows = slice(inside.top, inside.top + inside.height)
        columns = slice(inside.left, inside.left + inside.width)
        self._write(
            image[:, y : y + inside.height, x : x + inside.width],
            self._scale,
            out[:, rows, columns],
        )
        objects = objects.moved((1, 1), (inside.left - x, inside.top - y))
        return judged(self._fields, objects, *window), inside

    def _centre(
        self, objects: Objects, size: tuple[int, int], window: tuple[int, int], position: int
    ) -> tuple[Floats | None, tuple[float, float]]:
        """Return the object that is drawn, and its centre; or a centre where there is none."""
        draws = self._opening.draws
        if len(objects.boxes):
            box = objects.boxes[int(draws.below(len(objects.boxes), "object", position)[0])]
            return box, (float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2)
        centre = []
        for name, side, wanted in zip("xy", size[::-1], window[::-1], strict=True):
            if wanted > side:
                centre.append(side / 2)
            else:
                drawn = draws.below(side - wanted + 1, f"centre {name}", position)[0]
                centre.append(int(drawn) + wanted / 2)
        return None, (centre[0], centre[1])


class DetectionSource(FieldSource):
    """The images of a DetectionData layer."""

    def __init__(self, layer: DetectionData, opening: Opening) -> None:
        """Find the list; DataAbsent when it is missing."""
        super().__init__(layer, opening)
        self._layer = layer

    def _ordered(self, epoch: int) -> NDArray[np.int64]:
        draws, shuffle = self._opening.draws, self._layer.shuffle
        if shuffle is None:
            return np.arange(self.size)
        kind = Shuffling(shuffle)
        if kind is Shuffling.RANDOM:
            return draws.order(self.size, "shuffle", epoch)
        sizes = self._file.sizes
        high = np.flatnonzero(sizes[:, 0] >= sizes[:, 1])
        wide = np.flatnonzero(sizes[:, 0] < sizes[:, 1])
        high = high[draws.order(len(high), "shuffle high", epoch)]
        wide = wide[draws.order(len(wide), "shuffle wide", epoch)]
        first, second = (high, wide) if draws.below(2, "first", epoch)[0] else (wide, high)
        if kind is Shuffling.RANDOM_ASPECT:
            return np.concatenate((first, second))
        return _in_turn(first, second, self._layer.mix_group_size)

    def _ratio(self, batch: int) -> float:
        ratios = self._layer.template_ratio or (1.0,)
        return ratios[int(self._opening.draws.below(len(ratios), "template_ratio", batch)[0])]

    def _resized(self, height: int, width: int, ratio: float) -> tuple[int, int]:
        return self._layer.resized(height, width, ratio)

    def _window(self, height: int, width: int, ratio: float) -> tuple[int, int]:
        return self._layer.window(height, width, ratio)

    def _coloured(self, image: Pixels, position: int) -> Pixels:
        if not self._layer.distort_param:
            return image
        items = position * augment.DISTORT_NUMBERS + np.arange(augment.DISTORT_NUMBERS)
        numbers = self._opening.draws.share("distort", items)
        pixels = np.ascontiguousarray(image.transpose(1, 2, 0))
        changed = augment.distort(pixels, self._layer.distort_param, numbers)
        return np.asarray(changed.transpose(2, 0, 1))

    def _factors(self, position: int, box: Floats | None) -> tuple[float, float]:
        layer, draws = self._layer, self._opening.draws
        scaled = bool(layer.scales or layer.factors)
        if not scaled or draws.share("scaled", position)[0] >= layer.multiscale_prob:
            return 1.0, 1.0
        if layer.factors:
            low, high = (math.log2(factor) for factor in layer.factors)
        elif layer.scales and box is not None:
            width, height = box[2:] - box[:2] + 1
            size = math.sqrt(float(width) * float(height))
            low, high = (math.log2(scale / size) for scale in layer.scales)
        else:
            low = high = 1.0
        factor = 2 ** augment.between(low, high, float(draws.share("factor", position)[0]))
        if not layer.aspects:
            return factor, factor
        low, high = (math.log2(aspect) for aspect in layer.aspects)
        root = math.sqrt(2 ** augment.between(low, high, float(draws.share("aspect", position)[0])))
        return factor * root, factor / root


def _in_turn(first: NDArray[np.int64], second: NDArray[np.int64], group: int) -> NDArray[np.int64]:
    """Return groups of both in turn; once one has come to its end, what is left of the other."""
    found: list[NDArray[np.int64]] = []
    ends = [0, 0]
    both = first, second
    turn = 0
    while ends[0] < len(first) and ends[1] < len(second):
        found.append(both[turn][ends[turn] : ends[turn] + group])
        ends[turn] += group
        turn = 1 - turn
    return np.concatenate([*found, first[ends[0] :], second[ends[1] :]])


class ImageGtSource(FieldSource):
    """The images of an ImageGtData layer."""

    none = (0.0, 1.0, 1.0, 2.0, 2.0, 1.0, 1.0)

    def __init__(self, layer: ImageGtData, opening: Opening) -> None:
        """Find the list; DataAbsent when it is missing."""
        super().__init__(layer, opening)
        self._layer = layer

    @cached_property
    def _items(self) -> NDArray[np.int64]:
        """The images of a pass in the order of the list, those with objects several times."""
        times = [
            self._layer.fg_img_multiple if (~objects.ignored).any() else 1
            for objects in self._file.objects
        ]
        return np.repeat(np.arange(len(times)), times)

    @property
    def size(self) -> int:
        """The number of items in one pass."""
        return len(self._items)

    def _ordered(self, epoch: int) -> NDArray[np.int64]:
        if not self._layer.shuffle:
            return self._items
        return self._items[self._opening.draws.order(self.size, "shuffle", epoch)]

    @property
    def _scale(self) -> float:
        return self._layer.scale

    def _resized(self, height: int, width: int, ratio: float) -> tuple[int, int]:
        return self._layer.resized(height, width)

    def _window(self, height: int, width: int, ratio: float) -> tuple[int, int]:
        return self._layer.window(height, width)

    def _factors(self, position: int, box: Floats | None) -> tuple[float, float]:
        layer, draws = self._layer, self._opening.draws
        if not layer.scales or box is None or not draws.below(2, "scaled", position)[0]:
            return 1.0, 1.0
        width, height = (float(side) for side in box[2:] - box[:2])
        least, most = layer.scales
        count = c_round(_STEPS_OF_TWO * math.log2(most / least) + 1)
        steps = [index / _STEPS_OF_TWO for index in range(count)]
        own = _nearest_step(width * height, [least * least * 4**step for step in steps])
        drawn = steps[int(draws.below(count, "scale", position)[0])]
        factor = 2 ** (drawn - steps[own])
        if not layer.aspects or not draws.below(2, "stretched", position)[0]:
            return factor, factor
        intervals = c_round((layer.aspects[1] - layer.aspects[0]) / ASPECT_STEP)
        aspect = layer.aspects[0] + ASPECT_STEP * int(draws.below(intervals, "aspect", position)[0])
        stretch = aspect / (width / height) if width and height else 1.0
        wide = bool(draws.below(2, "wide", position)[0])
        after = width * factor * stretch if wide else height * factor / stretch
        if not least * _LEAST <= after <= most * _MOST:
            return factor, factor
        return (factor * stretch, factor) if wide else (factor, factor / stretch)


def _nearest_step(area: float, areas: Sequence[float]) -> int:
    """Return the first of the areas that is nearest to another one, by their ratio; 0 for none."""
    ratios = [min(area, other) / max(area, other) for other in areas]
    return ratios.index(max(ratios))
