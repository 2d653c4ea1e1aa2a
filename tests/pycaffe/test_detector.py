"""Detector: windows of images in, a prediction for each out."""

from __future__ import annotations

import csv
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import pytest

import netc.pycaffe as caffe
from netc.errors import NetcError
from tests.pycaffe.test_classifier import NET

SIZE = 8
SIDES = f"dim: {SIZE} dim: {SIZE}"


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """A net that says which of blue, green and red an image has the most of."""
    text, weights = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    text.write_text(NET.replace("dim: 4 dim: 4 }", f"{SIDES} }}"))
    net = caffe.Net(str(text), caffe.TEST)
    net.params["ip"][0].data[...] = np.eye(3)
    net.save(weights)
    return str(text), str(weights)


def ramps() -> np.ndarray:
    """Return an image whose channels are its row numbers, its column numbers, and 1."""
    rows, columns = np.indices((40, 50)).astype(np.float32)
    return np.stack([rows, columns, np.ones_like(rows)], axis=2)


def test_a_window_alone(files: tuple[str, str]) -> None:
    detector = caffe.Detector(*files)
    image = ramps()
    np.testing.assert_array_equal(detector.crop(image, [10, 20, 14, 30]), image[10:14, 20:30])
    np.testing.assert_array_equal(detector.crop(image, (35.0, 0.0, 44.0, 9.9)), image[35:, :9])
    for window in ([10, 20, 10, 30], [10, 20, 9, 30], [40, 0, 50, 9], [0, -9, 5, 0], [1, 2, 3]):
        with pytest.raises(ValueError, match=r"nothing of the image(.|\n)*40 x 50"):
            detector.crop(image, window)


def test_a_window_with_what_is_around_it(files: tuple[str, str]) -> None:
    detector = caffe.Detector(*files, context_pad=2)
    # A border of 2 on each side of 8 doubles the window. As in R-CNN, its last row and column
    # count: from 10 to 20 are 11 rows around 15.5, so it grows to 4.5 ... 26.5, rounded to even.
    seen = detector.crop(ramps(), np.array([10, 20, 20, 30]))
    assert (seen.shape, seen.dtype) == ((SIZE, SIZE, 3), np.float32)
    at = (np.arange(SIZE) + 0.5) * (26 - 4) / SIZE - 0.5
    np.testing.assert_allclose(seen[:, 4, 0], 4 + at, atol=1e-4)
    np.testing.assert_allclose(seen[4, :, 1], 14 + at, atol=1e-4)


def test_where_the_image_ends_the_mean_is_seen(files: tuple[str, str]) -> None:
    mean = np.array([51.0, 102.0, 204.0])
    detector = caffe.Detector(
        *files, mean=mean, raw_scale=255, channel_swap=(2, 1, 0), context_pad=2
    )
    image = ramps() + 5
    seen = detector.crop(image, np.array([0, 0, 7, 15]))
    # 8 rows around 4 grow to -4 ... 12, 17 with the last; 16 columns around 8 to -8 ... 24, 33.
    above, beside = round(4 * SIZE / 17), round(8 * SIZE / 33)
    colour = mean[::-1] / 255
    np.testing.assert_allclose(seen[:above], np.broadcast_to(colour, (above, SIZE, 3)), rtol=1e-6)
    np.testing.assert_allclose(seen[above:, :beside], np.broadcast_to(colour, (6, beside, 3)),
                               rtol=1e-6)  # fmt: skip
    assert (seen[above:, beside:, 2] == 6).all()
    # What the net is given there is 0.
    given = detector.transformer.preprocess("data", seen)
    np.testing.assert_allclose(given[:, :above], 0, atol=1e-4)


def test_windows_of_images_from_a_table(files: tuple[str, str], tmp_path: Path) -> None:
    images = {"a.png": np.zeros((30, 40, 3), np.uint8), "b.png": np.zeros((20, 20, 3), np.uint8)}
    images["a.png"][:15, :, 0] = 200  # blue above, red below
    images["a.png"][15:, :, 2] = 200
    images["b.png"][..., 1] = 200
    for name, pixels in images.items():
        cv2.imwrite(str(tmp_path / name), pixels)
    table = tmp_path / "windows.csv"
    table.write_text(
        "filename,ymin,xmin,ymax,xmax\na.png,0,0,10,40\na.png,16,5,30,20\nb.png,2,2,18,19\n"
    )
    with table.open() as file:
        rows = list(csv.DictReader(file))
    windows: dict[str, list[np.ndarray]] = {}
    for row in rows:
        box = np.array([float(row[key]) for key in ("ymin", "xmin", "ymax", "xmax")])
        windows.setdefault(str(tmp_path / row["filename"]), []).append(box)
    for context in (None, 1):
        detector = caffe.Detector(*files, raw_scale=10, channel_swap=(2, 1, 0), context_pad=context)
        found = detector.detect_windows(windows.items())
        assert [Path(each["filename"]).name for each in found] == ["a.png", "a.png", "b.png"]
        assert [each["prediction"].argmax() for each in found] == [0, 2, 1]
        assert [each["window"][0] for each in found] == [0, 16, 2]
    assert detector.detect_windows([]) == []
    with pytest.raises(OSError, match=r"no_such\.png"):
        detector.detect_windows([("no_such.png", [(0, 0, 1, 1)])])


def test_selective_search(
    files: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((20, 20, 3), (0, 0, 200), np.uint8))
    detector = caffe.Detector(*files, channel_swap=(2, 1, 0), context_pad=2)
    with pytest.raises(NetcError, match=r"not installed(.|\n)*detect_windows"):
        detector.detect_selective_search([str(tmp_path / "a.png")])
    search = types.ModuleType("selective_search_ijcv_with_python")

    def get_windows(paths: list[str], cmd: str) -> list[np.ndarray]:
        assert paths == [str(tmp_path / "a.png")] and cmd == "selective_search_rcnn"
        return [np.array([[1, 1, 10, 10], [5, 5, 20, 20]])]

    search.get_windows = get_windows  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, search.__name__, search)
    monkeypatch.chdir(tmp_path)
    found = detector.detect_selective_search(["a.png"])
    assert [each["prediction"].argmax() for each in found] == [2, 2]


def test_a_border_that_leaves_nothing(files: tuple[str, str], tmp_path: Path) -> None:
    for pad in (SIZE // 2, -1):
        with pytest.raises(NetcError, match=f"context_pad {pad}"):
            caffe.Detector(*files, context_pad=pad)
    text = Path(files[0]).read_text().replace(SIDES, f"dim: {SIZE} dim: 9")
    Path(files[0]).write_text(text)
    with pytest.raises(NetcError, match="a square input"):
        caffe.Detector(*files, context_pad=1)
