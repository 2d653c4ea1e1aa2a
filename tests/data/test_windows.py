"""The WindowData layer: windows of images, warped to one size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netc.data import DataAbsent, probe
from netc.data.windows import place, read_windows
from netc.errors import NetcError
from netc.layers.transform import TransformParam
from netc.layers.types import BlobType, Refusal
from netc.layers.windowdata import MCWindowData, WindowData
from netc.schema import netc_pb2
from tests.data.samples import OpenLayer, batches, pixels

Window = tuple[int, float, int, int, int, int]
WriteWindows = Callable[..., Path]

FRONT, BACK = (3, 0.9, 2, 1, 9, 6), (5, 0.1, 0, 0, 7, 3)


@pytest.fixture
def write_windows(tmp_path: Path) -> WriteWindows:
    """Return a function that writes images with their windows, and the window file."""

    def write(*images: tuple[np.ndarray, list[Window]]) -> Path:
        lines = []
        for i, (image, windows) in enumerate(images):
            assert cv2.imwrite(str(tmp_path / f"{i}.png"), image)
            lines += [f"# {i}", f"{i}.png", "3", *map(str, image.shape[:2]), str(len(windows))]
            lines += [" ".join(map(str, window)) for window in windows]
        (tmp_path / "windows.txt").write_text("\n".join(lines) + "\n")
        return tmp_path / "windows.txt"

    return write


def layer(source: object, crop: int = 8, **settings: object) -> WindowData:
    fields: dict[str, object] = {
        "batch_size": 4,
        "top": ("data", "label"),
        "transform_param": TransformParam(crop_size=crop),
    }
    return WindowData(source=str(source), **(fields | settings))  # type: ignore[arg-type]


def test_a_batch_is_background_and_then_foreground(
    write_windows: WriteWindows, open_layer: OpenLayer
) -> None:
    image = pixels(10, 12, 3)
    source = write_windows((image, [FRONT, BACK]))
    for data, labels in batches(open_layer(layer(source)), 3):
        assert labels.tolist() == [0, 0, 0, 3]
        for crop, (_, _, x1, y1, x2, y2) in zip(data, [BACK] * 3 + [FRONT], strict=True):
            want = cv2.resize(image[y1 : y2 + 1, x1 : x2 + 1], (8, 8))
            np.testing.assert_array_equal(crop, want.transpose(2, 0, 1))


def test_mean_and_scale_apply(
    write_windows: WriteWindows, open_layer: OpenLayer, tmp_path: Path
) -> None:
    image = pixels(10, 12, 3)
    source = write_windows((image, [FRONT, BACK]))
    want = cv2.resize(image[1:7, 2:10], (8, 8)).transpose(2, 0, 1).astype(np.float32)
    values = TransformParam(crop_size=8, mean_value=(1.0, 2.0, 3.0))
    settings = {"fg_fraction": 1.0, "batch_size": 1}
    [(data, _)] = batches(
        open_layer(layer(source, transform_param=values, scale=0.5, **settings)), 1
    )
    np.testing.assert_array_equal(data[0], (want - np.float32([[[1]], [[2]], [[3]]])) * 0.5)
    mean = np.random.default_rng(0).random((3, 12, 12), np.float32)
    blob = netc_pb2.BlobProto(num=1, channels=3, height=12, width=12, data=mean.ravel().tolist())
    (tmp_path / "mean.binaryproto").write_bytes(blob.SerializeToString())
    file = TransformParam(crop_size=8, mean_file=str(tmp_path / "mean.binaryproto"))
    [(data, _)] = batches(open_layer(layer(source, transform_param=file, **settings)), 1)
    np.testing.assert_array_equal(data[0], want - mean[:, 2:10, 2:10])


def test_context_surrounds_the_window_and_is_zero_outside_the_image(
    write_windows: WriteWindows, open_layer: OpenLayer
) -> None:
    # A window of 4 x 4 in the corner, context 2 of 8: twice the window, half of it outside.
    image = pixels(12, 12, 3) | 1
    source = write_windows((image, [(1, 1.0, 0, 0, 3, 3), BACK]))
    settings = {"fg_fraction": 1.0, "batch_size": 6, "context_pad": 2}
    mirror = TransformParam(crop_size=8, mirror=True)
    [(data, _)] = batches(open_layer(layer(source, transform_param=mirror, **settings)), 1)
    found = place((0, 0, 3, 3), (12, 12), 8, 2, False, False)
    # -2 .. 6 is 9 pixels long, 7 of them inside.
    assert found.box == (0, 0, 6, 6)
    assert (found.height, found.width, found.top, found.left) == (6, 6, 2, 2)
    part = cv2.resize(image[:7, :7], (6, 6)).transpose(2, 0, 1)
    plain, mirrored = np.zeros((2, 3, 8, 8), np.float32)
    plain[:, 2:, 2:] = part
    mirrored[:, 2:, :6] = part[:, :, ::-1]
    kinds = {
        "plain" if np.array_equal(crop, plain) else "mirrored"
        for crop in data
        if np.array_equal(crop, plain) or np.array_equal(crop, mirrored)
    }
    assert kinds == {"plain", "mirrored"}
    assert all(np.array_equal(c, plain) or np.array_equal(c, mirrored) for c in data)


def test_a_square_is_made_around_a_window() -> None:
    found = place((10, 10, 13, 17), (40, 40), 8, 0, True, False)
    # 4 wide and 8 high: the width grows to that of the height, plus Caffe's one pixel.
    assert found.box == (8, 10, 16, 18)
    assert (found.height, found.width, found.top, found.left) == (8, 8, 0, 0)


@given(
    st.tuples(*[st.integers(0, 39)] * 4),
    st.integers(8, 40),
    st.integers(0, 3),
    st.booleans(),
    st.booleans(),
)
def test_every_window_finds_its_place(
    corners: tuple[int, ...], size: int, context: int, square: bool, mirrored: bool
) -> None:
    x1, x2 = sorted(corners[:2])
    y1, y2 = sorted(corners[2:])
    found = place((x1, y1, x2, y2), (40, 40), size, context, square, mirrored)
    left, top, right, bottom = found.box
    assert 0 <= left <= right < 40 and 0 <= top <= bottom < 40
    assert 0 <= found.top <= size and found.top + found.height <= size
    assert 0 <= found.left <= size and found.left + found.width <= size


def test_chance_is_that_of_the_position(write_windows: WriteWindows, open_layer: OpenLayer) -> None:
    images = [
        (pixels(20, 20, 3, seed=i), [(1 + i, 0.8, i, 0, 9, 9), (0, 0.2, 0, i, 9, 9)])
        for i in range(5)
    ]
    source = write_windows(*images)
    one, two = (batches(open_layer(layer(source)), 5) for _ in range(2))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
    labels = {int(label) for _, batch in one for label in batch[3:]}
    assert len(labels) > 1 and labels <= {1, 2, 3, 4, 5}


def test_thresholds_sort_the_windows(write_windows: WriteWindows) -> None:
    windows = [(2, overlap, 0, 0, 3, 3) for overlap in (0.0, 0.3, 0.5, 0.7)]
    found = read_windows(write_windows((pixels(5, 5, 3), windows)), 0.5, 0.3)
    assert found.foreground.classes.tolist() == [2, 2]
    assert found.background.classes.tolist() == [0]


@pytest.mark.parametrize(
    ("content", "expected", "line"),
    [
        ("", "empty", None),
        ("0\n", "# and a number", 1),
        ("# 0\na.png\n1\n", "3 channels", 3),
        ("# 0\na.png\n3\n4\nx\n", "width", 5),
        ("# 0\na.png\n3\n4\n5\n2\n1 1 0 0 1 1\n1 1 0 0 1\n", "class overlap x1 y1 x2 y2", 8),
        ("# 0\na.png\n3\n4\n5\n2\n1 1 0 0 1 1\n", "2 windows", 7),
        ("# 0\na.png\n3\n4\n5\n1\n0 1 0 0 1 1\n", "no class", 2),
        ("# 0\n", "the path of an image", 1),
    ],
)
def test_a_damaged_file_is_told_with_the_line(
    tmp_path: Path, content: str, expected: str, line: int | None
) -> None:
    (tmp_path / "w.txt").write_text(content)
    with pytest.raises(NetcError) as caught:
        read_windows(tmp_path / "w.txt", 0.5, 0.5)
    assert expected in str(caught.value)
    assert line is None or f"w.txt:{line}:1" in str(caught.value)


def test_both_kinds_have_to_be_there(write_windows: WriteWindows, open_layer: OpenLayer) -> None:
    source = write_windows((pixels(10, 10, 3), [FRONT]))
    with pytest.raises(NetcError, match="no background windows"):
        open_layer(layer(source))
    batches(open_layer(layer(source, fg_fraction=1.0)), 1)


def test_a_window_outside_its_image_is_refused(
    write_windows: WriteWindows, open_layer: OpenLayer
) -> None:
    source = write_windows((pixels(4, 4, 3), [(1, 1.0, 0, 0, 4, 3)]))
    with pytest.raises(NetcError, match="outside its image"):
        batches(open_layer(layer(source, fg_fraction=1.0)), 1)


def test_absent_data_has_the_size_of_the_crop() -> None:
    with pytest.raises(DataAbsent):
        probe(layer("no.txt"))
    assert probe(layer("no.txt", crop=227), assume=True).types == (BlobType((3, 227, 227)),)


def test_a_mean_file_has_to_cover_the_crop(write_windows: WriteWindows, tmp_path: Path) -> None:
    blob = netc_pb2.BlobProto(num=1, channels=3, height=6, width=6, data=[0.0] * 108)
    (tmp_path / "mean.binaryproto").write_bytes(blob.SerializeToString())
    source = write_windows((pixels(10, 10, 3), [FRONT, BACK]))
    file = TransformParam(crop_size=8, mean_file=str(tmp_path / "mean.binaryproto"))
    with pytest.raises(Refusal, match="cover") as caught:
        probe(layer(source, transform_param=file))
    assert caught.value.setting == "mean_file"


# -- in order, and with masks


def test_windows_may_come_in_order(write_windows: WriteWindows, open_layer: OpenLayer) -> None:
    """Those between the thresholds too; what is background has class 0."""
    image, between = pixels(10, 12, 3), (7, 0.4, 1, 1, 8, 8)
    source = write_windows((image, [FRONT, BACK]), (image, [between]))
    one = layer(source, shuffle=False, bg_threshold=0.3, batch_size=2)
    feed = open_layer(one)
    found = batches(feed, 3)
    assert [labels.tolist() for _, labels in found] == [[3, 0], [7, 3], [0, 7]]
    _, _, x1, y1, x2, y2 = between
    want = image[y1 : y2 + 1, x1 : x2 + 1].transpose(2, 0, 1)
    np.testing.assert_array_equal(found[1][0][0], want)
    again = open_layer(one)
    again.restore(feed.state())
    assert batches(again, 1)[0][1].tolist() == [3, 0]
    # Said to be shuffled, or not said: a batch is background and then foreground.
    drawn = layer(source, shuffle=True, bg_threshold=0.3)
    assert batches(open_layer(drawn), 1)[0][1].tolist() == [0, 0, 0, 3]


def test_a_file_without_windows_has_no_order(
    write_windows: WriteWindows, open_layer: OpenLayer
) -> None:
    with pytest.raises(NetcError, match="no windows"):
        open_layer(layer(write_windows((pixels(4, 4, 3), [])), shuffle=False))


def masked(source: object, **settings: object) -> MCWindowData:
    fields: dict[str, object] = {
        "batch_size": 2,
        "top": ("data", "mask", "label"),
        "transform_param": TransformParam(crop_size=8, scale=0.5),
        "mask_crop_size": 5,
    }
    return MCWindowData(source=str(source), **(fields | settings))  # type: ignore[arg-type]


def write_masks(folder: Path, image: np.ndarray, masks: list[np.ndarray]) -> Path:
    """Write an image, its masks, and a file with the windows FRONT and BACK."""
    assert cv2.imwrite(str(folder / "a.png"), image)
    lines = ["# 0", "a.png", str(len(masks))]
    for i, mask in enumerate(masks):
        assert cv2.imwrite(str(folder / f"m{i}.png"), mask)
        lines.append(f"m{i}.png")
    lines += ["3", *map(str, image.shape[:2]), "2"]
    lines += [" ".join(map(str, window)) for window in (FRONT, BACK)]
    (folder / "windows.txt").write_text("\n".join(lines))
    return folder / "windows.txt"


def test_masks_are_cut_with_their_images(tmp_path: Path, open_layer: OpenLayer) -> None:
    image, masks = pixels(10, 12, 3), [pixels(10, 12, seed=i) for i in (1, 2)]
    feed = open_layer(masked(write_masks(tmp_path, image, masks)))
    [(data, cut, labels)] = batches(feed, 1)
    assert labels.tolist() == [3, 0]
    for i, (_, _, x1, y1, x2, y2) in enumerate((FRONT, BACK)):
        part = cv2.resize(image[y1 : y2 + 1, x1 : x2 + 1], (8, 8)).transpose(2, 0, 1)
        np.testing.assert_array_equal(data[i], part / np.float32(2))
        for k, mask in enumerate(masks):
            part = cv2.resize(mask[y1 : y2 + 1, x1 : x2 + 1], (5, 5))
            np.testing.assert_array_equal(cut[i, k], part / np.float32(255))


def test_masks_are_mirrored_with_their_images(tmp_path: Path, open_layer: OpenLayer) -> None:
    image = pixels(10, 12, 3)
    source = write_masks(tmp_path, image, [image[..., 0]])
    transform = TransformParam(crop_size=8, mirror=True)
    layer = masked(
        source, transform_param=transform, mask_crop_size=8, shuffle=True, fg_fraction=0.5
    )
    seen = set()
    for data, cut, _ in batches(open_layer(layer), 20):
        np.testing.assert_array_equal(data[:, 0] / np.float32(255), cut[:, 0])
        seen |= {one.tobytes() for one in cut}
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("# 0\na.png\n0\n", "1 mask or more"),
        ("# 0\na.png\nm.png\n", "the number of masks"),
        ("# 0\na.png\n1\nm\n3\n4\n4\n0\n# 1\nb\n2\nm\nm\n3\n4\n4\n0", "1 masks"),
    ],
)
def test_a_file_without_masks_is_told_with_the_line(
    tmp_path: Path, content: str, expected: str
) -> None:
    (tmp_path / "w.txt").write_text(content)
    with pytest.raises(NetcError) as caught:
        read_windows(tmp_path / "w.txt", 0.5, 0.5, masked=True)
    assert expected in str(caught.value)


def test_a_mask_covers_its_windows(tmp_path: Path, open_layer: OpenLayer) -> None:
    source = write_masks(tmp_path, pixels(10, 12, 3), [pixels(5, 12)])
    with pytest.raises(NetcError, match="outside a mask"):
        batches(open_layer(masked(source)), 1)


def test_absent_masks_are_one_for_each_image() -> None:
    item = probe(masked("no.txt"), assume=True)
    assert item.types == (BlobType((3, 8, 8)), BlobType((1, 8, 8)))
    tops = masked("no.txt").infer(*item.types).tops
    assert [top.shape for top in tops] == [(2, 3, 8, 8), (2, 1, 5, 5), (2,)]
