"""The BoxData layer: encoded images with boxes, cut at random."""

from __future__ import annotations

import numpy as np
import pytest

from netc.data.boxes import fill
from netc.errors import NetcError
from netc.layers.data import Database
from netc.layers.grid import BoxData
from netc.layers.types import Phase
from netc.schema import netc_pb2
from tests.data.samples import MakeDatabase, OpenLayer, batches, encoded, pixels

# Class, difficult, centre x and y, width and height.
Row = tuple[float, float, float, float, float, float]
ROWS: list[Row] = [(2, 0, 0.3, 0.4, 0.2, 0.3), (5, 1, 0.7, 0.5, 0.4, 0.2)]


def record(image: np.ndarray, rows: list[Row]) -> netc_pb2.Datum:
    datum = encoded(image)
    datum.float_data.extend(np.ravel(rows).tolist())
    return datum


def layer(source: str, **settings: object) -> BoxData:
    fields: dict[str, object] = {
        "batch_size": 2, "top": ("data", "label"), "side": (5,), "backend": Database.LMDB,
    }  # fmt: skip
    return BoxData(source=source, **(fields | settings))  # type: ignore[arg-type]


def painted(rows: list[Row], height: int = 80, width: int = 120) -> np.ndarray:
    """A black image with a bright spot at the centre of each object."""
    image = np.zeros((height, width, 3), np.uint8)
    for label, _, x, y, _, _ in rows:
        column, row = int(x * width), int(y * height)
        image[row - 4 : row + 5, column - 4 : column + 5] = 40 * label
    return image


def test_labels_of_a_grid() -> None:
    out = np.full(7 * 9, np.nan, np.float32)
    rows = np.array([(1, 0, 0.1, 0.5, 0.2, 0.3), (3, 1, 1.0, 1.0, 0.5, 0.5),
                     (4, 0, 0.2, 0.4, 0.1, 0.1)], np.float32)  # fmt: skip
    fill(out, rows, 3)
    difficult, there, label = out[:27].reshape(3, 3, 3)
    assert np.argwhere(there).tolist() == [[1, 0], [2, 2]]
    # The last object of a cell counts.
    assert label.tolist() == [[-1] * 3, [4, -1, -1], [-1, -1, 3]]
    assert np.argwhere(difficult).tolist() == [[2, 2]]
    boxes = out[27:].reshape(3, 3, 4)
    assert boxes[2, 2].tolist() == [1, 1, 0.5, 0.5] and boxes.astype(bool).sum() == 8
    np.testing.assert_array_equal(boxes[1, 0], rows[2, 2:])


def test_images_to_test_on_are_whole(make_database: MakeDatabase, open_layer: OpenLayer) -> None:
    images = [pixels(80, 120, 3), pixels(80, 120, 3, seed=1)]
    source = make_database([record(images[0], ROWS), record(images[1], ROWS[:1])])
    feed = open_layer(layer(source, side=(5, 3), top=("data", "a", "b")))
    data, *labels = batches(feed, 1)[0]
    for image, found in zip(images, data, strict=True):
        np.testing.assert_array_equal(found, image.transpose(2, 0, 1))
    for side, rows in zip((5, 3), labels, strict=True):
        for found, given in zip(rows, (ROWS, ROWS[:1]), strict=True):
            want = np.empty_like(found)
            fill(want, np.array(given, np.float32), side)
            np.testing.assert_array_equal(found, want)


def test_boxes_move_with_their_images(make_database: MakeDatabase, open_layer: OpenLayer) -> None:
    source = make_database([record(painted(ROWS), ROWS)])
    feed = open_layer(layer(source), phase=Phase.TRAIN)
    seen, sizes = 0, set()
    for data, labels in batches(feed, 10):
        for image, row in zip(data, labels.reshape(2, 7, 25), strict=True):
            boxes = row[3:].reshape(25, 4)
            cells = np.flatnonzero(row[1])
            assert len(cells)
            for cell in cells:
                x, y, w, h = boxes[cell]
                assert cell == min(int(y * 5), 4) * 5 + min(int(x * 5), 4)
                column, line = min(int(x * 120), 119), min(int(y * 80), 79)
                assert image[0, line, column] == pytest.approx(40 * row[2, cell], abs=2)
                (own,) = (r for r in ROWS if r[0] == row[2, cell])
                # Both sides are cut by the same part, but for a pixel.
                assert own[4] <= w <= own[4] / 0.68 and own[5] <= h + 0.02 <= own[5] / 0.68 + 0.04
                sizes.add(round(float(w / own[4]), 2))
                seen += 1
    assert seen > 20 and len(sizes) > 5


def test_feeding_goes_on_where_it_stood(make_database: MakeDatabase, open_layer: OpenLayer) -> None:
    source = make_database([record(painted(ROWS), ROWS), record(painted(ROWS[:1]), ROWS[:1])])
    one = open_layer(layer(source, shuffle=True), phase=Phase.TRAIN)
    every = batches(one, 5)
    other = open_layer(layer(source, shuffle=True), phase=Phase.TRAIN)
    batches(other, 2)
    again = open_layer(layer(source, shuffle=True), phase=Phase.TRAIN)
    again.restore(other.state())
    for a, b in zip(every[2:], batches(again, 3), strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(
    ("datum", "message"),
    [
        (encoded(pixels(8, 9, 3)), "0 numbers"),
        (record(pixels(8, 9, 3), [ROWS[0][:5]]), "5 numbers"),  # type: ignore[list-item]
        (record(pixels(8, 9, 3), [(-1, *ROWS[0][1:])]), "class -1"),
        (record(pixels(40, 50, 3), [(1, 0, 1.0, 0.5, 0.1, 0.1)]), "1 objects in 40 x 50 pixels"),
    ],
)
def test_records_that_hold_no_boxes(
    datum: netc_pb2.Datum, message: str, make_database: MakeDatabase, open_layer: OpenLayer
) -> None:
    feed = open_layer(layer(make_database([datum])), phase=Phase.TRAIN)
    with pytest.raises(NetcError, match=message):
        batches(feed, 1)


def test_images_alone_need_no_boxes(make_database: MakeDatabase, open_layer: OpenLayer) -> None:
    image = pixels(8, 9, 3)
    source = make_database([encoded(image)])
    feed = open_layer(layer(source, top=("data",)), phase=Phase.TRAIN)
    np.testing.assert_array_equal(batches(feed, 1)[0][0][0], image.transpose(2, 0, 1))
