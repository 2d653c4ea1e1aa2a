"""Images with a label for each pixel: files named by a list, one `image labels` per line."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from netc.data.image_list import FileListSource, ImageList
from netc.data.images import assume_image, opencv, planes, resize
from netc.data.source import Batch, Item, Opening, arrays_for, locate_setting
from netc.data.transform import Transformer, Windows
from netc.data.workers import workers
from netc.errors import Problems, Span, fail
from netc.layers.segdata import ImageSegData, LabelType, PairReader
from netc.layers.transform import TransformParam
from netc.layers.types import BlobType, Phase, Refusal

Pixels = NDArray[np.uint8]

# x1, y1, x2, y2 in pixels; the corners belong to it.
Window = tuple[int, int, int, int]

# Far more than any image has: what is larger is a mistake, and would need all of the memory.
_MOST_PIXELS = 1 << 26

# Of a list that is something else, the first few lines tell enough.
_MOST_BAD_LINES = 10

_INTEGER = re.compile(rb"[+-]?[0-9]{1,9}")
# A label for all pixels: one byte.
_LABEL = re.compile(rb"\+?0*(?:[0-9]{1,2}|1[0-9]{2}|2[0-4][0-9]|25[0-5])")


@dataclass(frozen=True, slots=True)
class PairList(ImageList):
    """The content of a list file; `seconds` are the second words of its lines, "" for none.

    `windows` are the corners x1, y1, x2, y2 that follow, where the list has any.
    """

    seconds: tuple[str, ...] = ()
    windows: tuple[Window, ...] = ()


def read_pairs(file: Path, label_type: LabelType, *, windows: bool = False) -> PairList:
    """Read a list of words between white space, two per line (one for NONE); more are left out.

    With `windows` the four corners of a window follow. Raises one NetcError with the bad lines (the
    first few of many), or for an empty list.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise fail("the list cannot be read", span=Span(str(file)), got=error.strerror) from error
    wanted = {
        LabelType.NONE: "an image",
        LabelType.IMAGE: "an image and a label from 0 to 255",
        LabelType.PIXEL: "an image and an image of labels",
    }[label_type]
    if windows:
        wanted += f", and x1 y1 x2 y2 with x1 <= x2, y1 <= y2 and {_MOST_PIXELS} pixels at most"
    firsts, seconds, lines, boxes = [], [], [], []
    problems, n_bad = Problems(), 0
    for number, line in enumerate(content.split(b"\n"), start=1):
        words = line.split()
        if not words:
            continue
        n_words = 1 if label_type is LabelType.NONE else 2
        second = b"".join(words[1:n_words])
        window = _window(words[n_words : n_words + 4]) if windows else None
        good = (
            bool(_LABEL.fullmatch(second))
            if label_type is LabelType.IMAGE
            else bool(second) or label_type is LabelType.NONE
        )
        if good and (window or not windows):
            if window:
                boxes.append(window)
            firsts.append(os.fsdecode(words[0]))
            seconds.append(os.fsdecode(second))
            lines.append(number)
            continue
        n_bad += 1
        if n_bad <= _MOST_BAD_LINES:
            problems.add(
                fail(
                    "this line of the list names no labels"
                    if not good
                    else "this line of the list names no window",
                    span=Span(str(file), number, 1),
                    expected=wanted,
                    got=line.strip().decode("utf-8", "replace"),
                )
            )
    problems.raise_any()
    if not firsts:
        raise fail("the list is empty", span=Span(str(file)), expected=f"{wanted} per line")
    numbers = np.array(lines)
    return PairList(
        file, firsts, np.zeros(len(firsts), np.int64), numbers, tuple(seconds), tuple(boxes)
    )


def _window(words: list[bytes]) -> Window | None:
    """Return the corners that four words tell, None for words that do not."""
    if len(words) != 4 or not all(map(_INTEGER.fullmatch, words)):
        return None
    x1, y1, x2, y2 = map(int, words)
    sides = x2 - x1 + 1, y2 - y1 + 1
    return (x1, y1, x2, y2) if min(sides) > 0 and math.prod(sides) <= _MOST_PIXELS else None


@dataclass(frozen=True, slots=True)
class _Geometry:
    """What chance does to one pair: its factor, where its crop begins (0 to 1), and mirroring."""

    factor: float
    place: tuple[float, float] | None
    mirrored: bool

    def start(self, axis: int, size: int, part: int) -> int:
        """Return where the crop begins: in the middle, or at a share of the places there are."""
        room = max(size - part, 0)
        return room // 2 if self.place is None else int(self.place[axis] * (room + 1))


class PairSource(FileListSource):
    """The pairs that a list names, in its order or, shuffled, in another one for every pass."""

    #: Whether a window belongs to each line.
    windowed: ClassVar[bool] = False

    def __init__(self, layer: PairReader, opening: Opening) -> None:
        """Read the list; DataAbsent when it is missing."""
        file = locate_setting(layer.source, opening, "source", "list of images and labels")
        self._label_type = layer.label_type if isinstance(layer, ImageSegData) else LabelType.PIXEL
        self._ignored = min(max(getattr(layer, "ignore_label", 255), 0), 255)
        self._pairs = layer
        pairs = read_pairs(file, self._label_type, windows=self.windowed)
        self._seconds = pairs.seconds
        self._windows = pairs.windows
        super().__init__(layer, opening, pairs)
        param = layer.transform_param
        self._transformer = Transformer(
            TransformParam(
                scale=param.scale, mean_file=param.mean_file, mean_value=param.mean_value
            ),
            opening,
        )

    @staticmethod
    def assume(layer: PairReader, opening: Opening) -> Item | None:
        """Return what the settings tell about images that are absent."""
        height, width = layer.new_height, layer.new_width
        if not height:
            height, width = layer.crop()
        channels = 3 if layer.is_color else 1
        item = assume_image(layer, opening, channels, height, width)
        if item is None or layer.new_height:
            return item
        return Item(item.types, f"images of shape {item.types[0]} are assumed, from the crop")

    def item(self) -> tuple[BlobType, ...]:
        """Return the type of the first image, before the transformation."""
        image = BlobType(self._image(0).shape)
        self._transformer.infer(self._cropped(image))
        return (image,)

    def load(self, position: int, count: int, reuse: Batch) -> Batch:
        """Return the batch that begins at a position."""
        indices = [self._index(position + i) for i in range(count)]
        geometries = self._geometries(position, count)
        first = self._read(indices[0])
        tops = self._tops(BlobType(first.shape), position)
        batch = arrays_for(tuple((count, *top.shape[1:]) for top in tops), reuse)
        cropped = any(self._pairs.crop())

        def place(i: int) -> None:
            image = self._read(indices[i]) if i else first
            span = self._list.span(indices[i])
            self._tops(BlobType(image.shape), position + i)
            if image.shape[0] != first.shape[0] or not (cropped or image.shape == first.shape):
                raise fail(
                    "the images of a batch differ in size",
                    span=span,
                    expected=f"{BlobType(first.shape)}, as {self._name(position)}",
                    got=f"{BlobType(image.shape)}: {self._name(position + i)}",
                    hint="set new_height and new_width or a crop, or use batch_size: 1",
                )
            labels = self._labels(indices[i], image) if len(batch) > 1 else None
            if len(batch) > 2:
                batch[2][i, 0, 0] = np.minimum(batch[0].shape[2:], self._size_of(indices[i], image))
            self._place(image, labels, geometries[i], i, batch, span)

        workers().run(place, count)
        return batch

    def _cropped(self, image: BlobType) -> BlobType:
        """Return the type of an item of the first top; `Refusal` for an unsuitable image."""
        return BlobType(self._pairs.infer(image).tops[0].shape[1:])

    def _tops(self, image: BlobType, position: int) -> tuple[BlobType, ...]:
        """Return the types of the tops, or say which image does not suit."""
        try:
            self._transformer.infer(self._cropped(image))
            return self._pairs.infer(image).tops
        except Refusal as refusal:
            raise fail(
                refusal.what,
                span=self._span(position),
                expected=refusal.expected,
                got=f"{refusal.got}; {self._name(position)}",
                hint=refusal.hint,
            ) from refusal

    def _geometries(self, position: int, count: int) -> list[_Geometry]:
        """Return what chance does to the items from `position` on."""
        items = np.arange(position, position + count)
        draws = self._opening.draws
        layer, param = self._pairs, self._pairs.transform_param
        factors = np.array(getattr(param, "scale_factors", ()) or (1.0,), np.float32)
        chosen = factors[draws.below(len(factors), "scale", items)]
        mirrored = np.zeros(count, bool)
        if param.mirror or getattr(layer, "mirror", False):
            mirrored = draws.below(2, "mirror", items) == 1
        random = layer.always_random or self._opening.phase is Phase.TRAIN
        shares = [draws.share(f"crop {name}", items) for name in ("top", "left")]
        return [
            _Geometry(
                float(chosen[i]),
                (float(shares[0][i]), float(shares[1][i])) if random else None,
                bool(mirrored[i]),
            )
            for i in range(count)
        ]

    def _labels(self, index: int, image: Pixels) -> Pixels:
        """Return the labels (1, H, W) of an image of the list, resized."""
        size = self._pairs.label_size(image.shape[1], image.shape[2])
        labels = self._stored_labels(index, size)
        if self._pairs.new_height:
            return nearest(labels, *size)
        self._check_size(labels, size, index)
        return labels

    def _stored_labels(self, index: int, size: tuple[int, int]) -> Pixels:
        """Return the labels (1, H, W) as stored; of this size where no image holds them."""
        if self._label_type is LabelType.PIXEL:
            return self._decoded(self._seconds[index], index, False)
        second = self._seconds[index]
        value = int(second) if self._label_type is LabelType.IMAGE else self._ignored
        return np.full((1, *size), value, np.uint8)

    def _check_size(
        self,
        labels: Pixels,
        size: tuple[int, int],
        index: int,
        *,
        hint: str = "new_height and new_width bring both to one size",
    ) -> None:
        if labels.shape[1:] != size:
            raise fail(
                "image and labels differ in size",
                span=self._list.span(index),
                expected=f"labels of height {size[0]} and width {size[1]}",
                got=f"height {labels.shape[1]} and width {labels.shape[2]}",
                hint=hint,
            )

    def _size_of(self, index: int, image: Pixels) -> tuple[int, int]:
        """Return the height and width that are told of an image."""
        return image.shape[1], image.shape[2]

    def _place(
        self,
        image: Pixels,
        labels: Pixels | None,
        geometry: _Geometry,
        i: int,
        batch: Batch,
        span: Span,
    ) -> None:
        """Transform one pair into its place in a batch."""
        out = batch[0][i]
        height, width = out.shape[1:]
        if geometry.factor != 1:
            scaled = [
                int(np.float32(size) * np.float32(geometry.factor)) for size in image.shape[1:]
            ]
            if min(scaled) < 1:
                raise fail(
                    "nothing is left of an image",
                    span=span,
                    expected="at least one pixel",
                    got=f"{BlobType(image.shape)} times {geometry.factor:g}",
                )
            image = resize(image, scaled[0], scaled[1])
            labels = None if labels is None else nearest(labels, scaled[0], scaled[1])
        top = geometry.start(0, image.shape[1], height)
        left = geometry.start(1, image.shape[2], width)
        part = image[:, top : top + height, left : left + width]
        rows, columns = part.shape[1:]
        if part.shape != out.shape:
            out.fill(0)
        step = -1 if geometry.mirrored else 1
        target = out[:, :, ::step][np.newaxis, :, :rows, :columns]
        whole = Windows(rows, columns, [0], [0], [False], False)
        self._transformer.one(part, whole, 0, target)
        if labels is None:
            return
        marks = batch[1][i, :, :, ::step]
        if (rows, columns) != (height, width):
            marks.fill(self._ignored)
        if labels.shape[1:] == image.shape[1:]:
            labels = labels[:, top : top + height, left : left + width]
            marks[:, :rows, :columns] = labels
        else:
            marks[...] = labels


class _LikePairSource(PairSource):
    """Pairs whose images and labels have one size in their files, too."""

    def __init__(self, layer: PairReader, opening: Opening) -> None:
        # Height and width of each image that was read, by its place in the list.
        self._wholes: dict[int, tuple[int, int]] = {}
        super().__init__(layer, opening)

    def _cut(self, image: Pixels, index: int) -> Pixels:
        self._wholes[index] = (image.shape[1], image.shape[2])
        return image

    def _stored_labels(self, index: int, size: tuple[int, int]) -> Pixels:
        whole = self._wholes[index]
        labels = super()._stored_labels(index, whole)
        self._check_size(labels, whole, index, hint="")
        return labels


class LabelmapSource(_LikePairSource):
    """Images and maps of edges that a list names."""

    def _labels(self, index: int, image: Pixels) -> Pixels:
        labels = self._stored_labels(index, self._size_of(index, image))
        if self._pairs.new_height:
            labels = resize(labels, self._pairs.new_height, self._pairs.new_width)
        # labels / 255, rounded.
        return (labels > 127).astype(np.uint8)


class WindowPairSource(_LikePairSource):
    """Windows of the pairs that a list names."""

    windowed: ClassVar[bool] = True

    def _cut(self, image: Pixels, index: int) -> Pixels:
        return self._part(super()._cut(image, index), index, 0)

    def _stored_labels(self, index: int, size: tuple[int, int]) -> Pixels:
        return self._part(super()._stored_labels(index, size), index, self._ignored)

    def _size_of(self, index: int, image: Pixels) -> tuple[int, int]:
        return self._wholes[index]

    def _part(self, image: Pixels, index: int, outside: int) -> Pixels:
        """Return the window of an image (C, H, W) that a line tells, filled up beyond its edges."""
        x1, y1, x2, y2 = self._windows[index]
        part = np.full((len(image), y2 - y1 + 1, x2 - x1 + 1), outside, np.uint8)
        seen = image[:, max(y1, 0) : max(y2 + 1, 0), max(x1, 0) : max(x2 + 1, 0)]
        top, left = max(-y1, 0), max(-x1, 0)
        part[:, top : top + seen.shape[1], left : left + seen.shape[2]] = seen
        return part


def nearest(labels: Pixels, height: int, width: int) -> Pixels:
    """Return labels (1, H, W) in another size, each pixel with the nearest label as in OpenCV."""
    cv2 = opencv()
    resized = cv2.resize(labels[0], (width, height), interpolation=cv2.INTER_NEAREST)
    return planes(resized)
