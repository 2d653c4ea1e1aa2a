"""Images with a label for each pixel: files named by a list, one `image labels` per line."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from netc.data.image_list import FileListSource, ImageList
from netc.data.images import assume_image, opencv, planes, resize
from netc.data.source import Batch, Item, Opening, arrays_for, locate_setting
from netc.data.transform import Transformer, Windows
from netc.data.workers import workers
from netc.errors import Problems, Span, fail
from netc.layers.segdata import DenseImageData, ImageSegData, LabelType, PairReader
from netc.layers.transform import TransformParam
from netc.layers.types import BlobType, Phase, Refusal

Pixels = NDArray[np.uint8]

# Of a list that is something else, the first few lines tell enough.
_MOST_BAD_LINES = 10

# A label for all pixels: one byte.
_LABEL = re.compile(rb"\+?0*(?:[0-9]{1,2}|1[0-9]{2}|2[0-4][0-9]|25[0-5])")


@dataclass(frozen=True, slots=True)
class PairList(ImageList):
    """The content of a list file; `seconds` are the second words of its lines, "" for none."""

    seconds: tuple[str, ...] = ()


def read_pairs(file: Path, label_type: LabelType) -> PairList:
    """Read a list of words between white space, two per line (one for NONE); more are left out.

    Raises one NetcError with the bad lines (the first few of many), or for an empty list.
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
    firsts, seconds, lines = [], [], []
    problems, n_bad = Problems(), 0
    for number, line in enumerate(content.split(b"\n"), start=1):
        words = line.split()
        if not words:
            continue
        second = b"" if label_type is LabelType.NONE else b"".join(words[1:2])
        good = (
            bool(_LABEL.fullmatch(second))
            if label_type is LabelType.IMAGE
            else bool(second) or label_type is LabelType.NONE
        )
        if good:
            firsts.append(os.fsdecode(words[0]))
            seconds.append(os.fsdecode(second))
            lines.append(number)
            continue
        n_bad += 1
        if n_bad <= _MOST_BAD_LINES:
            problems.add(
                fail(
                    "this line of the list names no labels",
                    span=Span(str(file), number, 1),
                    expected=wanted,
                    got=line.strip().decode("utf-8", "replace"),
                )
            )
    problems.raise_any()
    if not firsts:
        raise fail("the list is empty", span=Span(str(file)), expected=f"{wanted} per line")
    numbers = np.array(lines)
    return PairList(file, firsts, np.zeros(len(firsts), np.int64), numbers, tuple(seconds))


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

    def __init__(self, layer: PairReader, opening: Opening) -> None:
        """Read the list; DataAbsent when it is missing."""
        file = locate_setting(layer.source, opening, "source", "list of images and labels")
        self._label_type = layer.label_type if isinstance(layer, ImageSegData) else LabelType.PIXEL
        self._ignored = min(max(getattr(layer, "ignore_label", 255), 0), 255)
        self._pairs = layer
        pairs = read_pairs(file, self._label_type)
        self._seconds = pairs.seconds
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
        random = isinstance(layer, DenseImageData) or self._opening.phase is Phase.TRAIN
        # 53 bits are a float64 below 1.
        shares = [
            draws.below(1 << 53, f"crop {name}", items) / float(1 << 53) for name in ("top", "left")
        ]
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
        if self._label_type is not LabelType.PIXEL:
            second = self._seconds[index]
            value = int(second) if self._label_type is LabelType.IMAGE else self._ignored
            return np.full((1, *size), value, np.uint8)
        labels = self._decoded(self._seconds[index], index, False)
        if self._pairs.new_height:
            return _nearest(labels, *size)
        if labels.shape[1:] != size:
            raise fail(
                "image and labels differ in size",
                span=self._list.span(index),
                expected=f"labels of height {size[0]} and width {size[1]}, for an image of shape "
                f"{BlobType(image.shape)}",
                got=f"height {labels.shape[1]} and width {labels.shape[2]}",
                hint="new_height and new_width bring both to one size",
            )
        return labels

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
        if len(batch) > 2:
            batch[2][i, 0, 0] = min(height, image.shape[1]), min(width, image.shape[2])
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
            labels = None if labels is None else _nearest(labels, scaled[0], scaled[1])
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


def _nearest(labels: Pixels, height: int, width: int) -> Pixels:
    """Return labels (1, H, W) in another size, each pixel with the nearest label as in OpenCV."""
    cv2 = opencv()
    resized = cv2.resize(labels[0], (width, height), interpolation=cv2.INTER_NEAREST)
    return planes(resized)
