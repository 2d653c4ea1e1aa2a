"""The WindowData layer's source: windows of images, from a file as R-CNN writes it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from netc.data.images import resize
from netc.data.source import Batch, Item, Opening, arrays_for, locate_setting
from netc.data.transform import read_mean
from netc.data.window_lines import Lines, c_round, load_image
from netc.data.workers import workers
from netc.errors import Span, fail
from netc.layers.types import BlobType, Refusal
from netc.layers.windowdata import CropMode, WindowData

_VALUES = "class overlap x1 y1 x2 y2"


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows (n, 5) of one kind: the number of the image, and corners x1, y1, x2, y2."""

    boxes: NDArray[np.int64]
    classes: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.classes)


@dataclass(frozen=True, slots=True)
class WindowFile:
    """The content of a window file: the images with their lines, and the windows.

    Those of both kinds, and all of them in order. `masks` are the paths of each image's masks.
    """

    file: Path
    images: tuple[str, ...]
    lines: tuple[int, ...]
    masks: tuple[tuple[str, ...], ...]
    background: Windows
    foreground: Windows
    every: Windows


def read_windows(
    file: Path, fg_threshold: float, bg_threshold: float, *, masked: bool = False
) -> WindowFile:
    """Read a window file; each image has these lines, and then one line for each window.

        # 0
        path
        number of masks, and a path for each of them (with `masked`)
        channels
        height
        width
        number of windows
        class overlap x1 y1 x2 y2

    Raises NetcError, with the line, for a file that is something else.
    """
    try:
        with open(file, "rb") as stream:
            reader = Lines(file, stream, masked=masked)
            images, lines, masks, found = [], [], [], []
            while (header := reader.header()) is not None:
                lines.append(reader.image_line)
                images.append(header[0])
                masks.append(reader.image_masks)
                reader.check(
                    len(masks[-1]) == len(masks[0]), f"{len(masks[0])} masks", len(masks[-1])
                )
                count = reader.integer("the number of windows")
                block = reader.block(count, _VALUES)
                number = np.full((count, 1), len(images) - 1)
                found.append(np.hstack([number, block]))
    except OSError as error:
        raise fail("the file cannot be read", span=Span(str(file)), got=error.strerror) from error
    if not found:
        raise fail("the window file is empty", span=Span(str(file)), expected="# 0")
    windows = np.concatenate(found)
    overlap = windows[:, 2]
    # Both are float32 in Caffe.
    front = overlap.astype(np.float32) >= np.float32(fg_threshold)
    back = ~front & (overlap.astype(np.float32) < np.float32(bg_threshold))
    wrong = front & (windows[:, 1] <= 0)
    if wrong.any():
        image = int(windows[int(np.argmax(wrong)), 0])
        raise fail(
            "a foreground window has no class",
            span=Span(str(file), lines[image], 1),
            expected=f"a class above 0 for an overlap of {fg_threshold:g} or more",
            got=f"class {windows[int(np.argmax(wrong)), 1]:g} in a window of '{images[image]}'",
        )
    kinds = [
        Windows(
            windows[chosen][:, [0, 3, 4, 5, 6]].astype(np.int64),
            (windows[chosen, 1] * counts).astype(np.float32),
        )
        for chosen, counts in ((back, 0), (front, 1), (slice(None), ~back))
    ]
    return WindowFile(file, tuple(images), tuple(lines), tuple(masks), *kinds)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a window's pixels come from and go to: the box taken, its size in the crop, its place.

    `box` is x1, y1, x2, y2, all inside the image.
    """

    box: tuple[int, int, int, int]
    height: int
    width: int
    top: int
    left: int


def place(
    box: tuple[int, int, int, int],
    image: tuple[int, int],
    size: int,
    context: int,
    square: bool,
    mirrored: bool,
) -> Placement:
    """Return how a window of an image (height, width) becomes a crop of `size` x `size`.

    In float32 and with Caffe's rounding, for each of them decides about whole pixels.
    """
    if not context and not square:
        return Placement(box, size, size, 0, 0)
    x1, y1, x2, y2 = box
    f = np.float32
    scale = f(size) / f(size - 2 * context)
    half_h, half_w = f(y2 - y1 + 1) / f(2), f(x2 - x1 + 1) / f(2)
    center_x, center_y = f(x1) + half_w, f(y1) + half_h
    if square:
        half_h = half_w = max(half_h, half_w)
    x1, x2 = c_round(center_x - half_w * scale), c_round(center_x + half_w * scale)
    y1, y2 = c_round(center_y - half_h * scale), c_round(center_y + half_h * scale)
    scale_x, scale_y = f(size) / f(x2 - x1 + 1), f(size) / f(y2 - y1 + 1)
    pads = max(0, -x1), max(0, -y1), max(0, x2 - image[1] + 1), max(0, y2 - image[0] + 1)
    x1, y1, x2, y2 = x1 + pads[0], y1 + pads[1], x2 - pads[2], y2 - pads[3]
    width, height = c_round(f(x2 - x1 + 1) * scale_x), c_round(f(y2 - y1 + 1) * scale_y)
    top = c_round(f(pads[1]) * scale_y)
    left = c_round(f(pads[2] if mirrored else pads[0]) * scale_x)
    # Rounding may have made the parts longer than the whole.
    return Placement((x1, y1, x2, y2), min(height, size - top), min(width, size - left), top, left)


class WindowSource:
    """Windows drawn at random or in order; a pass has as many as the file has of both kinds."""

    #: Whether images have masks.
    masked: ClassVar[bool] = False

    def __init__(self, layer: WindowData, opening: Opening) -> None:
        """Find the file; DataAbsent when it is missing."""
        self._layer = layer
        self._opening = opening
        self._file = locate_setting(layer.source, opening, "source", "window file")
        param = layer.transform_param
        self._mean: NDArray[np.float32] = np.zeros((1, 1, 1), np.float32)
        if param.mean_file:
            mean = read_mean(locate_setting(param.mean_file, opening, "mean_file", "mean file"))
            self._mean = self._middle(mean)
        elif param.mean_value:
            self._mean = np.array(param.mean_value, np.float32).reshape(-1, 1, 1)

    @staticmethod
    def assume(layer: WindowData, opening: Opening) -> Item | None:
        """Return images of the size of the crop: no other size matters."""
        size = layer.transform_param.crop_size
        image = BlobType((3, size, size))
        return Item((image,), f"images of shape {image} are assumed, from crop_size")

    def _middle(self, mean: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the part of a mean image that belongs to the crop."""
        size = self._layer.transform_param.crop_size
        channels, height, width = mean.shape
        # Caffe takes the place across for the place down, too.
        start = (width - size) // 2
        if channels != 3 or start < 0 or start + size > height:
            raise Refusal(
                "the mean file does not cover the crop",
                expected=f"3 channels, and {size} rows and columns around the middle",
                got=f"{BlobType(mean.shape)} in '{self._layer.transform_param.mean_file}'",
                setting="mean_file",
            )
        return mean[:, start : start + size, start : start + size]

    @cached_property
    def _windows(self) -> WindowFile:
        layer = self._layer
        found = read_windows(self._file, layer.fg_threshold, layer.bg_threshold, masked=self.masked)
        if layer.ordered:
            if not len(found.every):
                raise fail(
                    "the window file has no windows",
                    span=Span(str(self._file)),
                    expected="class overlap x1 y1 x2 y2",
                )
            return found
        for kind, windows, wanted in (
            ("background", found.background, layer.batch_size - layer.foreground),
            ("foreground", found.foreground, layer.foreground),
        ):
            if wanted and not len(windows):
                raise fail(
                    f"the window file has no {kind} windows",
                    span=Span(str(self._file)),
                    expected=f"overlaps of {layer.fg_threshold:g} and more"
                    if kind == "foreground"
                    else f"overlaps below {layer.bg_threshold:g}",
                    got=f"{len(found.background)} background, {len(found.foreground)} foreground",
                    hint="fg_threshold, bg_threshold and fg_fraction say what is needed",
                )
        return found

    @property
    def size(self) -> int:
        """The number of windows of both kinds, or, in order, of all."""
        if self._layer.ordered:
            return len(self._windows.every)
        return len(self._windows.background) + len(self._windows.foreground)

    @property
    def start(self) -> int:
        """The position at which a fresh run begins."""
        return 0

    def item(self) -> tuple[BlobType, ...]:
        """Return the type of a crop."""
        size = self._layer.transform_param.crop_size
        return (BlobType((3, size, size)),)

    def load(self, position: int, count: int, reuse: Batch) -> Batch:
        """Return the batch that begins at a position."""
        tops = self._layer.infer(*self.item()).tops
        batch = arrays_for(tuple((count, *top.shape[1:]) for top in tops), reuse)
        items = np.arange(position, position + count)
        mirrored = np.zeros(count, bool)
        if self._layer.transform_param.mirror:
            mirrored = self._opening.draws.below(2, "mirror", items) == 1
        n_back = count - int(count * self._layer.fg_fraction)

        def place_one(i: int) -> None:
            windows, index = self._chosen(position + i, i < n_back)
            window = windows.boxes[index]
            self._crop(window, bool(mirrored[i]), batch[0][i])
            for masks in batch[1:-1]:
                self._mask(window, bool(mirrored[i]), masks[i])
            if len(batch) > 1:
                batch[-1][i] = windows.classes[index]

        workers().run(place_one, count)
        return batch

    def _chosen(self, item: int, back: bool) -> tuple[Windows, int]:
        """Return the window of an item of the data, as its place among others."""
        windows = self._windows
        if self._layer.ordered:
            return windows.every, item % len(windows.every)
        kind = windows.background if back else windows.foreground
        return kind, int(self._opening.draws.below(len(kind), "window", item)[0])

    def _mask(self, window: NDArray[np.int64], mirrored: bool, out: NDArray[np.float32]) -> None:
        """Write what a window has between its image and its class."""
        raise TypeError("these windows have no masks")

    def close(self) -> None:
        """Do nothing: files are open only while they are read."""

    def _crop(self, window: NDArray[np.int64], mirrored: bool, out: NDArray[np.float32]) -> None:
        """Write a window's pixels to its place in the batch."""
        layer, size = self._layer, out.shape[1]
        image = self._image(int(window[0]))
        height, width = image.shape[1:]
        x1, y1, x2, y2 = (int(v) for v in window[1:])
        square = layer.crop_mode == CropMode.SQUARE.value
        placed = place((x1, y1, x2, y2), (height, width), size, layer.context_pad, square, mirrored)
        x1, y1, x2, y2 = placed.box
        inside = 0 <= x1 <= x2 < width and 0 <= y1 <= y2 < height
        if not inside or min(placed.height, placed.width) < 1:
            raise fail(
                "a window lies outside its image",
                span=self._span(int(window[0])),
                expected=f"corners in 0..{width - 1} and 0..{height - 1}",
                got=f"x1 y1 x2 y2 = {' '.join(str(int(v)) for v in window[1:])}",
            )
        part = resize(image[:, y1 : y2 + 1, x1 : x2 + 1], placed.height, placed.width)
        if mirrored:
            part = part[:, :, ::-1]
        rows = slice(placed.top, placed.top + placed.height)
        columns = slice(placed.left, placed.left + placed.width)
        mean = self._mean if self._mean.shape[1:] == (1, 1) else self._mean[:, rows, columns]
        out.fill(0)
        out[:, rows, columns] = (part - mean) * np.float32(layer.factor)

    def _span(self, image: int) -> Span:
        return Span(str(self._file), self._windows.lines[image], 1)

    def _image(self, number: int) -> NDArray[np.uint8]:
        """Return an image of the file as (3, H, W)."""
        return self._decoded(self._windows.images[number], number, True)

    def _decoded(self, path: str, number: int, color: bool) -> NDArray[np.uint8]:
        """Return what is called `path` in the lines of an image."""
        root, span = self._layer.root_folder, self._span(number)
        return load_image(root, path, self._opening.span, span, color=color)


class MaskedWindowSource(WindowSource):
    """Windows of images and of their masks."""

    masked: ClassVar[bool] = True

    @staticmethod
    def assume(layer: WindowData, opening: Opening) -> Item | None:
        """Return images of the size of the crop, with one mask each."""
        item = WindowSource.assume(layer, opening)
        assert item is not None
        types = *item.types, BlobType((1, *item.types[0].shape[1:]))
        return Item(types, f"{item.assumed}, and one mask for each")

    def item(self) -> tuple[BlobType, ...]:
        """Return the types of a crop of image and masks."""
        (image,) = super().item()
        return image, BlobType((len(self._windows.masks[0]), *image.shape[1:]))

    def _mask(self, window: NDArray[np.int64], mirrored: bool, out: NDArray[np.float32]) -> None:
        number, (x1, y1, x2, y2) = int(window[0]), (int(v) for v in window[1:])
        for channel, path in zip(out, self._windows.masks[number], strict=True):
            mask = self._decoded(path, number, False)
            height, width = mask.shape[1:]
            if x2 >= width or y2 >= height:
                raise fail(
                    "a window lies outside a mask of its image",
                    span=self._span(number),
                    expected=f"corners in 0..{width - 1} and 0..{height - 1}",
                    got=f"x1 y1 x2 y2 = {x1} {y1} {x2} {y2}, in '{path}'",
                )
            part = resize(mask[:, y1 : y2 + 1, x1 : x2 + 1], *out.shape[1:])[0]
            channel[...] = (part[:, ::-1] if mirrored else part) / np.float32(255)
