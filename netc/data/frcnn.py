"""The source of FrcnnRoiData: images with their objects, from a list."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from netc.data.images import opencv
from netc.data.source import Batch, Item, Opening, arrays_for, locate_setting
from netc.data.window_lines import load_image
from netc.errors import Span, fail
from netc.layers.frcnn import PIXEL_MEANS, FrcnnRoiData
from netc.layers.types import BlobType, Phase

#: The values of an object: class, corners, difficult.
_OBJECT = 6


@dataclass(frozen=True, slots=True)
class Listed:
    """An image of the list: its path, its line, and its objects (G, 6)."""

    path: str
    line: int
    objects: NDArray[np.float32]


def read_list(file: Path, n_classes: int) -> list[Listed]:
    """Read a list as FrcnnRoiData describes it. Raises NetcError, with the line, for another."""
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise fail("the list cannot be read", span=Span(str(file)), got=error.strerror) from error
    words = [(word, i) for i, line in enumerate(lines, start=1) for word in line.split()]
    found: list[Listed] = []
    at = 0

    def take(expected: str) -> bytes:
        nonlocal at
        at += 1
        if at > len(words):
            raise _damaged(file, len(lines), expected, "the end of the file")
        return words[at - 1][0]

    def integer(expected: str) -> int:
        word = take(expected)
        try:
            return int(word)
        except ValueError:
            raise _damaged(file, words[at - 1][1], expected, word) from None

    while at < len(words):
        mark = take("#")
        if mark != b"#":
            raise _damaged(file, words[at - 1][1], "#", mark)
        integer("the number of an image")
        path, line = os.fsdecode(take("the path of an image")), words[at - 1][1]
        rows = []
        for _ in range(integer("the number of objects")):
            row = [integer("class x1 y1 x2 y2 difficult") for _ in range(_OBJECT)]
            if not (0 < row[0] < n_classes and row[1] <= row[3] and row[2] <= row[4]):
                raise _damaged(
                    file,
                    words[at - 1][1],
                    f"a class of 1..{n_classes - 1}, x1 <= x2 and y1 <= y2",
                    " ".join(map(str, row)),
                )
            rows.append(row)
        if not rows:
            raise _damaged(file, line, "an image with objects", "0 objects")
        found.append(Listed(path, line, np.array(rows, np.float32)))
    if not found:
        raise fail("the list is empty", span=Span(str(file)), expected="# 0 path")
    return found


def _damaged(file: Path, line: int, expected: str, got: bytes | str) -> Exception:
    shown = got.decode("utf-8", "replace") if isinstance(got, bytes) else got
    return fail("the list is damaged", span=Span(str(file), line, 1), expected=expected, got=shown)


class FrcnnSource:
    """Images with their objects, in another order for each pass."""

    def __init__(self, layer: FrcnnRoiData, opening: Opening) -> None:
        """Find the list and its first image; DataAbsent when they are missing."""
        self._layer = layer
        self._opening = opening
        self._path = locate_setting(layer.source, opening, "source", "list")
        self._order: tuple[int, NDArray[np.int64]] | None = None
        if layer.root_folder:
            locate_setting(layer.root_folder + self._list[0].path, opening, "root_folder", "image")

    @staticmethod
    def assume(layer: FrcnnRoiData, opening: Opening) -> Item:
        """Return an image as large as the settings allow, as the fork does before it sees one."""
        align = layer.frcnn_param.im_size_align
        sides = (max(layer.scales), layer.frcnn_param.max_size)
        image = BlobType((3, *(math.ceil(side / align) * align for side in sides)))
        return Item((image,), f"images of shape {image} are assumed, from the settings")

    @cached_property
    def _list(self) -> list[Listed]:
        return read_list(self._path, self._layer.frcnn_param.n_classes)

    @property
    def size(self) -> int:
        """The number of items in one pass."""
        return len(self._list)

    @property
    def start(self) -> int:
        """The position at which a fresh run begins."""
        return 0

    def close(self) -> None:
        """Do nothing: files are open only while they are read."""

    def item(self) -> tuple[BlobType, ...]:
        """Return the type of the first image."""
        image = self._image(0)[0]
        return (BlobType(image.shape),)

    def _listed(self, position: int) -> Listed:
        epoch, index = divmod(position, self.size)
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, self._opening.draws.order(self.size, "shuffle", epoch))
        return self._list[int(self._order[1][index])]

    def _image(self, position: int) -> tuple[NDArray[np.float32], NDArray[np.float32], np.float32]:
        """Return an image (3, H, W), its objects as rows of the top, and how it was scaled."""
        cv, layer, param = opencv(), self._layer, self._layer.frcnn_param
        draws, listed = self._opening.draws, self._listed(position)
        span = Span(str(self._path), listed.line, 1)
        stored = load_image(layer.root_folder, listed.path, self._opening.span, span)
        pixels = stored.transpose(1, 2, 0).astype(np.float32)
        height, width = pixels.shape[:2]
        boxes = listed.objects[:, 1:5].copy()
        if (
            param.use_flipped
            and self._opening.phase is Phase.TRAIN
            and draws.below(2, "mirror", position)[0]
        ):
            pixels = pixels[:, ::-1]
            boxes[:, [0, 2]] = width - boxes[:, [2, 0]] - 1
        pixels = pixels - np.array(param.pixel_means or PIXEL_MEANS, np.float32)
        scales = layer.scales
        short = scales[int(draws.below(len(scales), "scale", position)[0])]
        factor = np.float32(short) / np.float32(min(height, width))
        if factor * max(height, width) > param.max_size:
            factor = np.float32(param.max_size) / np.float32(max(height, width))
        way = cv.INTER_AREA if factor < 1 else cv.INTER_LINEAR
        pixels = cv.resize(
            np.ascontiguousarray(pixels), None, fx=float(factor), fy=float(factor),
            interpolation=way,
        )  # fmt: skip
        align = param.im_size_align
        sides = [math.ceil(side / align) * align for side in pixels.shape[:2]]
        image = np.zeros((3, *sides), np.float32)
        image[:, : pixels.shape[0], : pixels.shape[1]] = pixels.transpose(2, 0, 1)
        boxes[:, :2] = np.maximum(boxes[:, :2], 0)
        boxes[:, 2:] = np.minimum(boxes[:, 2:], (width - 1, height - 1))
        boxes = np.clip(boxes * factor, 0, None)
        boxes[:, 2:] = np.minimum(boxes[:, 2:], (sides[1] - 1, sides[0] - 1))
        rows = np.column_stack((boxes, listed.objects[:, 0])).astype(np.float32)
        return image, rows, factor

    def load(self, position: int, count: int, reuse: Batch) -> Batch:
        """Return the image at a position."""
        image, rows, factor = self._image(position)
        tops = arrays_for(((1, *image.shape), (1, 3), rows.shape), reuse)
        tops[0][0], tops[2][...] = image, rows
        tops[1][0] = (*image.shape[1:], factor)
        return tops
