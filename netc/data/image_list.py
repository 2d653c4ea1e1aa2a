"""Image files named by a list; as the ImageData layer's source, one `path label` per line."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from netc.data.images import ImageSource, assume_image, decode, resize
from netc.data.source import Batch, DataAbsent, Item, Opening, locate, locate_setting
from netc.errors import NetcError, Problem, Problems, Span, fail
from netc.layers.data import ImageData, ImageReader
from netc.layers.segdata import PairReader

# More digits than a label of 32 bits can have are no label.
_LINE = re.compile(rb"(.+)[ \t]([+-]?[0-9]{1,10})", re.S)

# Of a list that is something else, the first few lines tell enough.
_MOST_BAD_LINES = 10


@dataclass(frozen=True, slots=True)
class ImageList:
    """The content of a list file: for each image its path, label and line, which counts from 1."""

    file: Path
    paths: Sequence[str]
    labels: NDArray[np.int64]
    lines: NDArray[np.int64]

    def span(self, index: int) -> Span:
        """Return the place of an image's line."""
        return Span(str(self.file), int(self.lines[index]), 1)


def read_list(file: Path) -> ImageList:
    """Read a list. The label is what follows the last space or tab; empty lines are left out.

    BVLC Caffe knows the space alone, NVCaffe and others take any blank.
    Raises one NetcError with the bad lines (the first few of many), or for an empty list.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise fail("the list cannot be read", span=Span(str(file)), got=error.strerror) from error
    paths, labels, lines = [], [], []
    problems, n_bad = Problems(), 0
    for number, line in enumerate(content.split(b"\n"), start=1):
        text = line.rstrip()
        if not text:
            continue
        if parts := _LINE.fullmatch(text):
            paths.append(os.fsdecode(parts[1]))
            labels.append(int(parts[2]))
            lines.append(number)
            continue
        n_bad += 1
        if n_bad <= _MOST_BAD_LINES:
            problems.add(_bad_line(file, number, text))
    problems.raise_any()
    if not paths:
        raise fail("the list is empty", span=Span(str(file)), expected="one `path label` per line")
    return ImageList(file, paths, np.array(labels), np.array(lines))


def _bad_line(file: Path, number: int, text: bytes) -> Problem:
    hint = "HDF5Data takes labels that are not integers" if b" " in text else ""
    return Problem(
        "this line of the list names no label",
        Span(str(file), number, 1),
        expected="a path, a space and an integer",
        got=text.decode("utf-8", "replace"),
        hint=hint,
    )


class ListedSource(ImageSource):
    """Items that a list names, in its order or, shuffled, in another one for every pass."""

    def __init__(
        self,
        layer: ImageReader,
        opening: Opening,
        listed: ImageList,
        *,
        shuffle: bool,
        root: str = "",
    ) -> None:
        self._list = listed
        self._root = root
        self._shuffle = shuffle
        self._order: tuple[int, NDArray[np.int64]] | None = None
        super().__init__(layer, opening, len(listed.paths))

    def close(self) -> None:
        """Do nothing: files are open only while they are read."""

    def _check_first(self, locate_item: Callable[[int], Path]) -> None:
        """Raise DataAbsent where the first item of the list is missing.

        A list alone tells no more than the settings do.
        """
        try:
            locate_item(0)
        except NetcError as error:
            (problem,) = error.problems
            raise DataAbsent(
                problem.what,
                expected=problem.expected,
                got=f"line {self._list.lines[0]} of '{self._list.file}'",
                hint=problem.hint,
                setting="source",
            ) from error

    def _index(self, position: int) -> int:
        """Return the place in the list of the item at a position."""
        epoch, index = divmod(position, self.size)
        if not self._shuffle:
            return index
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, self._opening.draws.order(self.size, "shuffle", epoch))
        return int(self._order[1][index])

    def _decoded(self, path: str, index: int, color: bool) -> NDArray[np.uint8]:
        """Return the image (C, H, W) that is called `path` in line `index` of the list."""
        name = self._root + path
        span = self._list.span(index)
        # The net names the root folder; a path without one is named by the list.
        try:
            file = locate(name, self._opening.span if self._root else span, "image")
        except NetcError as error:
            problem = replace(error.problems[0], span=span)
            if self._root and not self._root.endswith("/"):
                hint = "root_folder is put before the path as it is: end it with a slash"
                problem = replace(problem, hint=hint)
            raise NetcError(problem) from error
        try:
            data = file.read_bytes()
        except OSError as error:
            raise fail(
                "the image cannot be read", span=span, got=f"'{file}': {error.strerror}"
            ) from error
        image = decode(data, color)
        if image is None:
            raise fail(
                "the image cannot be decoded",
                span=span,
                expected="JPEG, PNG or another format that OpenCV reads",
                got=f"'{file}', {len(data)} bytes",
            )
        return image

    def _name(self, position: int) -> str:
        return f"'{self._root + self._list.paths[self._index(position)]}'"

    def _span(self, position: int) -> Span | None:
        return self._list.span(self._index(position))


class FileListSource(ListedSource):
    """Images that a list names, a file each."""

    def __init__(self, layer: ImageData | PairReader, opening: Opening, listed: ImageList) -> None:
        self._settings = layer
        super().__init__(layer, opening, listed, shuffle=layer.shuffle, root=layer.root_folder)

    def _image(self, position: int) -> NDArray[np.uint8]:
        return self._read(self._index(position))

    def _read(self, index: int) -> NDArray[np.uint8]:
        """Return an image (C, H, W) of the list, resized."""
        image = self._cut(
            self._decoded(self._list.paths[index], index, self._settings.is_color), index
        )
        if self._settings.new_height:
            image = resize(image, self._settings.new_height, self._settings.new_width)
        return image

    def _cut(self, image: NDArray[np.uint8], index: int) -> NDArray[np.uint8]:
        """Return what is taken of an image of the list: all of it."""
        return image

    _resize_hint = "set new_height and new_width in image_data_param, or use batch_size: 1"


class ImageListSource(FileListSource):
    """The images that a list names, with a label each."""

    def __init__(self, layer: ImageData, opening: Opening) -> None:
        """Read the list; DataAbsent when it is missing."""
        file = locate_setting(layer.source, opening, "source", "image list")
        super().__init__(layer, opening, read_list(file))

        self._images = layer

    def _cut(self, image: NDArray[np.uint8], index: int) -> NDArray[np.uint8]:
        """Return an image of the list, its shorter side of the length that `new_dim` asks for."""
        side = self._images.new_dim
        if not side:
            return self._enlarged(image)
        height, width = image.shape[1:]
        scale = np.float32(side) / np.float32(min(height, width))
        # The fork computes in float32, and rounds halves up.
        height, width = (
            side if length == min(height, width) else int(scale * np.float32(length) + 0.5)
            for length in (height, width)
        )
        return resize(image, height, width, bicubic=self._images.bicubic)

    def _enlarged(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return an image with the side that `min_height` and `min_width` miss most."""
        layer = self._images
        height, width = image.shape[1:]
        more_h, more_w = layer.min_height - height, layer.min_width - width
        if layer.new_height or not layer.min_height or max(more_h, more_w) <= 0:
            return image
        # The fork computes in float32, and rounds halves up.
        rows, columns = np.float32(height), np.float32(width)
        if more_w > more_h:
            height = int(float(np.float32(layer.min_width) * (rows / columns)) + 0.5)
            return resize(image, height, layer.min_width)
        width = int(float(np.float32(layer.min_height) * (columns / rows)) + 0.5)
        return resize(image, layer.min_height, width)

    @staticmethod
    def assume(layer: ImageData, opening: Opening) -> Item | None:
        """Return what the settings tell about images that are absent."""
        channels = 3 if layer.is_color else 1
        return assume_image(layer, opening, channels, layer.new_height, layer.new_width)

    def load(self, position: int, count: int, reuse: Batch) -> Batch:
        """Return the batch that begins at a position."""
        indices = [self._index(position + i) for i in range(count)]
        batch = self._transform_each(lambda i: self._read(indices[i]), position, count, reuse)
        if len(batch) > 1:
            batch[1][:] = self._list.labels[indices]
        return batch
