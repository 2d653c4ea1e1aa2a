"""DenseImageData and ImageSegData: images with a label for each pixel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from netc.data import DataAbsent, probe
from netc.data.pair_list import read_pairs
from netc.errors import NetcError
from netc.layers.segdata import (
    DenseImageData,
    ImageLabelmapData,
    ImageSegData,
    LabelType,
    PairTransform,
    WindowSegData,
)
from netc.layers.transform import TransformParam
from netc.layers.types import BlobType, Phase
from tests.data.samples import OpenLayer, batches, pixels

WritePairs = Callable[..., Path]
PIXEL, IMAGE, NONE = LabelType.PIXEL, LabelType.IMAGE, LabelType.NONE


@pytest.fixture
def write_pairs(tmp_path: Path) -> WritePairs:
    """Return a function that writes pairs of images and labels, and their list."""

    def write(*pairs: tuple[np.ndarray, np.ndarray]) -> Path:
        lines = []
        for i, (image, labels) in enumerate(pairs):
            assert cv2.imwrite(str(tmp_path / f"{i}.png"), image)
            assert cv2.imwrite(str(tmp_path / f"{i}_labels.png"), labels)
            lines.append(f"{i}.png {i}_labels.png\n")
        (tmp_path / "list.txt").write_text("".join(lines))
        return tmp_path / "list.txt"

    return write


def dense(source: object, **settings: object) -> DenseImageData:
    fields: dict[str, object] = {"batch_size": 1, "top": ("data", "label")}
    return DenseImageData(source=str(source), **(fields | settings))  # type: ignore[arg-type]


def seg(source: object, transform: PairTransform | None = None, **settings: object) -> ImageSegData:
    fields: dict[str, object] = {"label_type": PIXEL, "top": ("data", "label")}
    fields["transform_param"] = transform or PairTransform()
    return ImageSegData(source=str(source), **(fields | settings))  # type: ignore[arg-type]


def pair(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return an image whose first channel is its labels."""
    image = pixels(height, width, 3, seed=seed)
    return image, image[:, :, 0].copy()


def same_places(data: np.ndarray, labels: np.ndarray) -> None:
    """Check that each pixel still has its own label."""
    np.testing.assert_array_equal(data[:, :1], labels)


# -- the list --------------------------------------------------------------------------------------


def test_words_lie_between_white_space_and_further_ones_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"a.jpg b.png more\n\n  c.jpg\td.png\r\n")
    found = read_pairs(tmp_path / "list", PIXEL)
    assert (found.paths, found.seconds) == (["a.jpg", "c.jpg"], ("b.png", "d.png"))
    assert found.span(1).line == 3
    (tmp_path / "list").write_text("a.jpg 7\nb.jpg 255\n")
    assert read_pairs(tmp_path / "list", IMAGE).seconds == ("7", "255")
    assert read_pairs(tmp_path / "list", NONE).seconds == ("", "")


@pytest.mark.parametrize(
    ("label_type", "line", "expected"),
    [
        (PIXEL, "alone.jpg", "an image and an image of labels"),
        (IMAGE, "alone.jpg", "a label from 0 to 255"),
        (IMAGE, "a.jpg b.png", "a label from 0 to 255"),
        (IMAGE, "a.jpg 256", "a label from 0 to 255"),
        (PIXEL, "", "list is empty"),
    ],
)
def test_lines_without_labels_are_refused(
    tmp_path: Path, label_type: LabelType, line: str, expected: str
) -> None:
    (tmp_path / "list").write_text(line + "\n")
    with pytest.raises(NetcError) as caught:
        read_pairs(tmp_path / "list", label_type)
    assert expected in str(caught.value)


def test_an_absent_list_is_absent_data() -> None:
    for layer in (dense("nowhere.txt"), seg("nowhere.txt")):
        with pytest.raises(DataAbsent):
            probe(layer)


# -- DenseImageData --------------------------------------------------------------------------------


def test_labels_are_the_stored_bytes_and_images_are_transformed(
    write_pairs: WritePairs, open_layer: OpenLayer
) -> None:
    pairs = [pair(4, 6, seed=i) for i in range(3)]
    transform = TransformParam(scale=0.5, mean_value=(10.0, 20.0, 30.0))
    layer = dense(write_pairs(*pairs), batch_size=2, transform_param=transform)
    (data, labels), (rest, _) = batches(open_layer(layer), 2)
    assert data.shape == (2, 3, 4, 6) and labels.shape == (2, 1, 4, 6)
    for i, (image, marks) in enumerate(pairs[:2]):
        want = (image.transpose(2, 0, 1) - np.array([10.0, 20, 30]).reshape(3, 1, 1)) * 0.5
        np.testing.assert_array_equal(data[i], want.astype(np.float32))
        np.testing.assert_array_equal(labels[i, 0], marks)
    # The list begins anew.
    np.testing.assert_array_equal(rest[1], data[0])


def test_labels_are_resized_without_inventing_any(
    write_pairs: WritePairs, open_layer: OpenLayer
) -> None:
    image, labels = pair(8, 8)
    source = write_pairs((image, labels))
    sizes = {"new_height": 16, "new_width": 12}
    [(data, marks)] = batches(open_layer(dense(source, **sizes)), 1)
    assert data.shape == (1, 3, 16, 12)
    want = cv2.resize(labels, (12, 16), interpolation=cv2.INTER_NEAREST)
    np.testing.assert_array_equal(marks[0, 0], want)
    np.testing.assert_array_equal(data[0].transpose(1, 2, 0), cv2.resize(image, (12, 16)))
    [(data, marks)] = batches(open_layer(dense(source, label_divide_factor=4, **sizes)), 1)
    assert data.shape == (1, 3, 16, 12) and marks.shape == (1, 1, 4, 3)
    np.testing.assert_array_equal(
        marks[0, 0], cv2.resize(labels, (3, 4), interpolation=cv2.INTER_NEAREST)
    )


def test_mirror_and_crop_move_image_and_labels_alike(
    write_pairs: WritePairs, open_layer: OpenLayer
) -> None:
    image, labels = pair(9, 7)
    layer = dense(write_pairs((image, labels)), mirror=True, crop_height=4, crop_width=3)
    seen = set()
    for data, marks in batches(open_layer(layer), 60):
        same_places(data, marks)
        part = marks[0, 0]
        found = [
            (top, left, mirrored)
            for top in range(6)
            for left in range(5)
            for mirrored in (False, True)
            if np.array_equal(
                part[:, ::-1] if mirrored else part, labels[top : top + 4, left : left + 3]
            )
        ]
        assert len(found) == 1
        seen.add(found[0])
    assert {top for top, _, _ in seen} == set(range(6))
    assert {left for _, left, _ in seen} == set(range(5))
    assert {mirrored for _, _, mirrored in seen} == {False, True}


def test_every_position_has_its_own_chance(write_pairs: WritePairs, open_layer: OpenLayer) -> None:
    source = write_pairs(*(pair(6, 6, seed=i) for i in range(4)))
    settings = {"mirror": True, "crop_height": 3, "crop_width": 3, "shuffle": True, "batch_size": 3}
    one, two = (batches(open_layer(dense(source, **settings)), 4) for _ in range(2))
    for first, second in zip(one, two, strict=True):
        np.testing.assert_array_equal(first[0], second[0])
    feed = open_layer(dense(source, **settings))
    batches(feed, 1)
    cursor = feed.state()
    again = open_layer(dense(source, **settings))
    again.restore(cursor)
    np.testing.assert_array_equal(batches(again, 1)[0][1], one[1][1])


def test_images_of_one_batch_have_one_size(write_pairs: WritePairs, open_layer: OpenLayer) -> None:
    source = write_pairs(pair(4, 4), pair(5, 4))
    with pytest.raises(NetcError, match="differ in size"):
        batches(open_layer(dense(source, batch_size=2)), 1)
    sizes = [data.shape[2] for data, _ in batches(open_layer(dense(source)), 2)]
    assert sizes == [4, 5]


def test_labels_of_another_size_are_refused(write_pairs: WritePairs, open_layer: OpenLayer) -> None:
    source = write_pairs((pixels(4, 4, 3), pixels(4, 5)))
    with pytest.raises(NetcError, match="differ in size") as caught:
        batches(open_layer(dense(source)), 1)
    assert "list.txt:1:1" in str(caught.value)


def test_a_later_image_smaller_than_the_crop_is_refused(
    write_pairs: WritePairs, open_layer: OpenLayer
) -> None:
    source = write_pairs(pair(6, 6), pair(3, 6))
    layer = dense(source, crop_height=5, crop_width=5, batch_size=2)
    with pytest.raises(NetcError, match="the crop is larger") as caught:
        batches(open_layer(layer), 1)
    assert "1.png" in str(caught.value)


# -- ImageSegData ----------------------------------------------------------------------------------


def test_small_images_are_filled_up_with_the_mean_and_the_ignored_label(
    write_pairs: WritePairs, open_layer: OpenLayer
) -> None:
    image, labels = pair(3, 5)
    transform = PairTransform(crop_size=6, mean_value=(1.0, 2.0, 3.0), scale=2.0)
    layer = seg(
        write_pairs((image, labels)), transform, ignore_label=99, top=("data", "label", "dim")
    )
    [(data, marks, dims)] = batches(open_layer(layer), 1)
    assert data.shape == (1, 3, 6, 6) and marks.shape == (1, 1, 6, 6) and dims.shape == (1, 1, 1, 2)
    want = (image.transpose(2, 0, 1) - np.array([1.0, 2, 3]).reshape(3, 1, 1)) * 2
    np.testing.assert_array_equal(data[0, :, :3, :5], want.astype(np.float32))
    np.testing.assert_array_equal(marks[0, 0, :3, :5], labels)
    assert not data[0, :, 3:].any() and not data[0, :, :, 5:].any()
    assert (marks[0, 0, 3:] == 99).all() and (marks[0, 0, :, 5:] == 99).all()
    assert dims.ravel().tolist() == [3, 5]


def test_a_mirrored_image_is_filled_up_on_the_left(
    write_pairs: WritePairs, open_layer: OpenLayer
) -> None:
    image, labels = pair(4, 2)
    layer = seg(write_pairs((image, labels)), PairTransform(crop_size=4, mirror=True))
    found = {
        tuple(np.flatnonzero((marks[0, 0] == 255).all(axis=0)))
        for _, marks in batches(open_layer(layer), 30)
    }
    assert found == {(0, 1), (2, 3)}


def test_crops_are_random_in_phase_train_and_central_in_phase_test(
    write_pairs: WritePairs, open_layer: OpenLayer
) -> None:
    image, labels = pair(7, 9)
    source = write_pairs((image, labels))
    layer = seg(source, PairTransform(crop_height=4, crop_width=3))
    [(data, marks)] = batches(open_layer(layer, Phase.TEST), 1)
    np.testing.assert_array_equal(marks[0, 0], labels[1:5, 3:6])
    same_places(data, marks)
    train = batches(open_layer(layer, Phase.TRAIN), 20)
    assert len({marks.tobytes() for _, marks in train}) > 10
    for data, marks in train:
        same_places(data, marks)


def test_pairs_are_resized_by_a_random_factor(
    write_pairs: WritePairs, open_layer: OpenLayer
) -> None:
    image, labels = pair(8, 8)
    transform = PairTransform(crop_size=16, scale_factors=(0.5, 1.0, 1.75))
    labels[:] = 200
    layer = seg(write_pairs((image, labels)), transform, ignore_label=0)
    seen = {int((marks[0, 0, :, 0] == 200).sum()) for _, marks in batches(open_layer(layer), 40)}
    assert seen == {4, 8, 14}


@pytest.mark.parametrize(("label_type", "word", "value"), [(IMAGE, "17", 17), (NONE, "", 255)])
def test_labels_may_be_one_number_or_none(
    tmp_path: Path, open_layer: OpenLayer, label_type: LabelType, word: str, value: int
) -> None:
    assert cv2.imwrite(str(tmp_path / "a.png"), pixels(4, 5, 3))
    (tmp_path / "list.txt").write_text(f"a.png {word}\n")
    layer = seg(tmp_path / "list.txt", label_type=label_type)
    [(_, marks)] = batches(open_layer(layer), 1)
    assert marks.shape == (1, 1, 4, 5) and (marks == value).all()


def test_the_root_folder_is_put_before_both_paths(tmp_path: Path, open_layer: OpenLayer) -> None:
    (tmp_path / "root").mkdir()
    assert cv2.imwrite(str(tmp_path / "root" / "a.png"), pixels(4, 5, 3))
    assert cv2.imwrite(str(tmp_path / "root" / "b.png"), pixels(4, 5))
    (tmp_path / "list.txt").write_text("/a.png /b.png\n")
    layer = seg(tmp_path / "list.txt", root_folder=str(tmp_path / "root"))
    assert batches(open_layer(layer), 1)[0][0].shape == (1, 3, 4, 5)


# -- windows ---------------------------------------------------------------------------------------


def windowed(
    source: object, transform: PairTransform | None = None, **settings: object
) -> WindowSegData:
    fields: dict[str, object] = {"label_type": PIXEL, "top": ("data", "label", "size")}
    fields["transform_param"] = transform or PairTransform()
    return WindowSegData(source=str(source), **(fields | settings))  # type: ignore[arg-type]


def with_window(source: Path, *corners: int) -> Path:
    """Add a window to the only line of a list."""
    source.write_text(source.read_text().strip() + " " + " ".join(map(str, corners)) + "\n")
    return source


def test_a_window_is_cut_out_of_image_and_labels(
    write_pairs: WritePairs, open_layer: OpenLayer
) -> None:
    image, labels = pair(6, 8)
    source = with_window(write_pairs((image, labels)), 2, 1, 5, 3)
    [(data, marks, size)] = batches(open_layer(windowed(source)), 1)
    np.testing.assert_array_equal(data[0], image[1:4, 2:6].transpose(2, 0, 1))
    np.testing.assert_array_equal(marks[0, 0], labels[1:4, 2:6])
    # Of the whole image, but no more than the window.
    assert size.tolist() == [[[[3, 4]]]]


@pytest.mark.parametrize("label_type", [PIXEL, IMAGE])
def test_beyond_the_edge_a_window_is_black_and_ignored(
    write_pairs: WritePairs, open_layer: OpenLayer, label_type: LabelType
) -> None:
    image, labels = pair(3, 4)
    source = write_pairs((image, labels))
    if label_type is IMAGE:
        source.write_text("0.png 7")
        labels[:] = 7
    layer = windowed(with_window(source, -2, 1, 5, 4), label_type=label_type, ignore_label=200)
    [(data, marks, _)] = batches(open_layer(layer), 1)
    want = np.pad(image, ((0, 2), (2, 2), (0, 0)))[1:]
    np.testing.assert_array_equal(data[0], want.transpose(2, 0, 1))
    want = np.pad(labels, ((0, 2), (2, 2)), constant_values=200)[1:]
    np.testing.assert_array_equal(marks[0, 0], want)


def test_a_window_wholly_outside_shows_nothing(
    write_pairs: WritePairs, open_layer: OpenLayer
) -> None:
    layer = windowed(with_window(write_pairs(pair(3, 4)), 9, -4, 10, -3))
    [(data, marks, _)] = batches(open_layer(layer), 1)
    assert data.shape == (1, 3, 2, 2) and not data.any() and (marks == 255).all()


def test_a_window_is_resized_and_then_transformed(
    write_pairs: WritePairs, open_layer: OpenLayer
) -> None:
    image, labels = pair(9, 9)
    source = with_window(write_pairs((image, labels)), 1, 2, 6, 7)
    layer = windowed(source, PairTransform(crop_size=4), new_height=8, new_width=10)
    [(data, marks, size)] = batches(open_layer(layer, Phase.TEST), 1)
    part = cv2.resize(image[2:8, 1:7], (10, 8))[2:6, 3:7]
    np.testing.assert_array_equal(data[0], part.transpose(2, 0, 1))
    nearest = cv2.resize(labels[2:8, 1:7], (10, 8), interpolation=cv2.INTER_NEAREST)
    np.testing.assert_array_equal(marks[0, 0], nearest[2:6, 3:7])
    assert size.tolist() == [[[[4, 4]]]]


def test_a_resumed_run_sees_the_windows_that_an_uninterrupted_one_does(
    write_pairs: WritePairs, open_layer: OpenLayer
) -> None:
    source = write_pairs(*(pair(6, 8, seed) for seed in range(3)))
    lines = source.read_text().split("\n")
    source.write_text("\n".join(f"{line} {i} 0 6 5" for i, line in enumerate(lines) if line))
    layer = windowed(source, PairTransform(crop_size=4, mirror=True), shuffle=True, batch_size=2)
    whole = batches(open_layer(layer, Phase.TRAIN), 5)
    feed = open_layer(layer, Phase.TRAIN)
    batches(feed, 2)
    again = open_layer(layer, Phase.TRAIN)
    again.restore(feed.state())
    for ours, theirs in zip(batches(again, 3), whole[2:], strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "words", ["", "1 2 3", "1 2 x 4", "3 0 2 5", "0 5 3 4", "0 0 99999999 99999999"]
)
def test_lines_without_a_window_are_refused(tmp_path: Path, words: str) -> None:
    (tmp_path / "list").write_text(f"a.png b.png 0 0 5 5\na.png b.png {words}\n")
    with pytest.raises(NetcError, match="names no window") as caught:
        read_pairs(tmp_path / "list", PIXEL, windows=True)
    [problem] = caught.value.problems
    assert problem.span is not None and problem.span.line == 2


def test_labels_that_are_no_windows_of_their_image_are_refused(
    write_pairs: WritePairs, open_layer: OpenLayer
) -> None:
    image, labels = pair(4, 5)
    layer = windowed(with_window(write_pairs((image, labels[:3])), 0, 0, 2, 2))
    with pytest.raises(NetcError, match="differ in size"):
        batches(open_layer(layer), 1)


# -- maps of edges ---------------------------------------------------------------------------------


def edges(source: object, **transform: object) -> ImageLabelmapData:
    param = TransformParam(**transform)  # type: ignore[arg-type]
    return ImageLabelmapData(source=str(source), top=("data", "label"), transform_param=param)


def test_what_is_bright_in_a_map_is_an_edge(write_pairs: WritePairs, open_layer: OpenLayer) -> None:
    image, _ = pair(2, 3)
    grey = np.array([[0, 127, 128], [255, 40, 200]], np.uint8)
    layer = edges(write_pairs((image, grey)), mean_value=(1.0, 2.0, 3.0), scale=0.5)
    [(data, marks)] = batches(open_layer(layer), 1)
    np.testing.assert_array_equal(data[0], (image.transpose(2, 0, 1) - [[[1]], [[2]], [[3]]]) / 2)
    assert marks.tolist() == [[[[0, 0, 1], [1, 0, 1]]]]


def test_maps_of_edges_are_resized_before_they_are_judged(
    write_pairs: WritePairs, open_layer: OpenLayer
) -> None:
    image, grey = pair(5, 7)
    layer = replace(edges(write_pairs((image, grey))), new_height=8, new_width=6)
    [(data, marks)] = batches(open_layer(layer), 1)
    np.testing.assert_array_equal(data[0].transpose(1, 2, 0), cv2.resize(image, (6, 8)))
    np.testing.assert_array_equal(marks[0, 0], cv2.resize(grey, (6, 8)) > 127)


@pytest.mark.parametrize("phase", list(Phase))
def test_crops_of_edges_are_random_in_every_phase(
    write_pairs: WritePairs, open_layer: OpenLayer, phase: Phase
) -> None:
    image, grey = pair(7, 9)
    found = batches(
        open_layer(edges(write_pairs((image, grey)), crop_size=4, mirror=True), phase), 30
    )
    assert len({data.tobytes() for data, _ in found}) > 15
    for data, marks in found:
        np.testing.assert_array_equal(data[:, :1] > 127, marks)


def test_images_of_edges_have_one_size_in_their_files(
    write_pairs: WritePairs, open_layer: OpenLayer
) -> None:
    image, grey = pair(5, 7)
    layer = replace(edges(write_pairs((image, grey[1:]))), new_height=8, new_width=6)
    with pytest.raises(NetcError, match="differ in size"):
        batches(open_layer(layer), 1)


def test_edges_of_images_of_many_sizes_come_one_by_one(
    write_pairs: WritePairs, open_layer: OpenLayer
) -> None:
    layer = edges(write_pairs(pair(4, 5), pair(6, 3)))
    shapes = [data.shape for data, _ in batches(open_layer(layer), 3)]
    assert shapes == [(1, 3, 4, 5), (1, 3, 6, 3), (1, 3, 4, 5)]


# -- what is assumed without data ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (dense("no.txt", new_height=5, new_width=6), (3, 5, 6)),
        (dense("no.txt", new_height=5, new_width=6, is_color=False), (1, 5, 6)),
        (dense("no.txt", crop_height=5, crop_width=6), (3, 5, 6)),
        (seg("no.txt", PairTransform(crop_size=7)), (3, 7, 7)),
        (seg("no.txt", PairTransform(crop_height=7, crop_width=8)), (3, 7, 8)),
    ],
)
def test_absent_data_has_the_size_that_the_settings_suggest(
    layer: DenseImageData | ImageSegData, shape: tuple[int, ...]
) -> None:
    item = probe(layer, assume=True)
    assert item.types == (BlobType(shape),)
    assert "assumed" in item.assumed
