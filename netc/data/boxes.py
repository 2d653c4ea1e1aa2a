"""The BoxData layer's source: encoded images with boxes in an LMDB of `Datum` messages."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from netc.data.datums import DatumSource
from netc.data.images import resize
from netc.data.source import Batch, Opening, arrays_for
from netc.data.transform import Image
from netc.errors import fail
from netc.layers.grid import LABEL, BoxData
from netc.layers.types import BlobType, Phase
from netc.schema import netc_pb2

# Parts of an image that are drawn before it is given up that one of them shows an object.
_TRIES = 1000
# A part has so many percent of a side less, at most.
_PERCENT = 30

# Rows of class, difficult, centre x and y, width and height, in fractions of the image.
Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an image, in pixels."""

    left: int
    top: int
    width: int
    height: int


class BoxSource(DatumSource):
    """The records of an LMDB in key order, each image cut at random with its boxes."""

    def __init__(self, layer: BoxData, opening: Opening) -> None:
        """Open the database; DataAbsent when it is missing or a LevelDB."""
        super().__init__(layer, opening)
        self._boxed = layer

    def load(self, position: int, count: int, reuse: Batch) -> Batch:
        """Return the batch that begins at a position."""
        datums = self._datums(position, count)
        found: list[Rows] = [np.empty((0, 6), np.float32)] * count

        def changed(i: int) -> Image:
            image = self._decoded(datums[i], position + i)
            if len(self._boxed.top) < 2:
                return image
            found[i] = self._rows(datums[i], position + i)
            if self._opening.phase is not Phase.TRAIN:
                return image
            part, found[i] = self._part(found[i], image.shape[1], image.shape[2], position + i)
            cut = image[:, part.top : part.top + part.height, part.left : part.left + part.width]
            return resize(np.ascontiguousarray(cut), image.shape[1], image.shape[2])

        batch = self._transform_each(changed, position, count, reuse)
        for top, side in zip(batch[1:], self._boxed.sides, strict=False):
            for out, rows in zip(top, found, strict=True):
                fill(out, rows, side)
        return batch

    def _batch(self, image: BlobType, position: int, count: int, reuse: Batch) -> Batch:
        shapes = [(count, *self._infer(image, position))]
        shapes += [(count, LABEL * side * side) for side in self._boxed.sides]
        return arrays_for(tuple(shapes[: len(self._boxed.top)]), reuse)

    def _rows(self, datum: netc_pb2.Datum, position: int) -> Rows:
        """Return the objects of a record."""
        values = np.array(datum.float_data, np.float32)
        if not datum.encoded or not values.size or values.size % 6:
            raise fail(
                "a record does not hold an image with boxes",
                expected="an encoded image, and six numbers of float_data for each object",
                got=f"{'an encoded image' if datum.encoded else 'raw pixels'}, {values.size} "
                f"numbers, {self._name(position)}",
            )
        rows = values.reshape(-1, 6)
        if (rows[:, 0] < 0).any():
            raise fail(
                "an object has no class",
                expected="classes from 0 on",
                got=f"class {rows[:, 0].min():g}, {self._name(position)}",
            )
        return rows

    def _part(self, rows: Rows, height: int, width: int, position: int) -> tuple[Part, Rows]:
        """Return a part of an image with an object in it, and the objects of that."""
        pixels = (rows[:, 2:] * np.array([width, height] * 2, np.float32)).astype(np.int64)
        draws = self._opening.draws
        for attempt in range(_TRIES):
            item = position * _TRIES + attempt
            percent = int(draws.below(_PERCENT, "part", item)[0])
            scale = np.float32(1 - percent / 100)
            wide, high = (int(np.float32(side) * scale) - 1 for side in (width, height))
            if min(wide, high) < 1:
                break
            left = int(draws.below(width - wide, "left", item)[0])
            top = int(draws.below(height - high, "top", item)[0])
            inside = (pixels[:, :2] >= (left, top)) & (pixels[:, :2] < (left + wide, top + high))
            kept = inside.all(axis=1)
            if kept.any():
                moved = rows[kept].copy()
                size = np.array([wide, high] * 2, np.float32)
                moved[:, 2:] = (pixels[kept] - (left, top, 0, 0)).astype(np.float32) / size
                return Part(left, top, wide, high), moved
        raise fail(
            "no part of an image shows the centre of an object",
            expected="an object whose centre is within the image",
            got=f"{len(rows)} objects in {height} x {width} pixels, {self._name(position)}",
        )


def fill(out: NDArray[np.float32], rows: Rows, side: int) -> None:
    """Write the labels of an image for a grid of side x side cells: (7 side side)."""
    cells = side * side
    out[...] = 0
    out[2 * cells : 3 * cells] = -1
    boxes = out[3 * cells :].reshape(cells, 4)
    for label, difficult, *box in rows:
        column, row = (
            min(int(np.floor(box[axis] * np.float32(side))), side - 1) for axis in (0, 1)
        )
        at = row * side + column
        out[at], out[cells + at], out[2 * cells + at] = difficult, 1, label
        boxes[at] = box
